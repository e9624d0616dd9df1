//! How a request for a signature and its answer pass through the user-input queue.
//!
//! The request is the description of the slot `pkcs11_sign`:
//!
//! ```text
//! ALGORITHM:BASE64(message)[:BASE64(digest)]
//! ```
//!
//! `ALGORITHM` is one of [`crate::tls::SignAlgorithm::name`] (`RSA-PSS-SHA256`,
//! `ECDSA-P256-SHA256`, ...). The signature is over the message, hashing included; the digest is
//! there for PKCS#11 mechanisms that take one (`CKM_ECDSA`, `CKM_RSA_PKCS_PSS`) and missing with
//! Ed25519. The answer is `BASE64(signature)`, ECDSA as DER or as `r || s`; or `refuse:REASON`.
//! Base64 is RFC 4648 section 4, with padding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::session::{NoSignature, SignatureRequest};

/// Name of the slot.
pub(super) const SLOT: &str = "pkcs11_sign";

const REFUSE: &str = "refuse:";

pub(super) fn encode(request: &SignatureRequest) -> String {
    let mut text = format!("{}:{}", request.algorithm, STANDARD.encode(&request.message));
    if let Some(digest) = &request.digest {
        text.push(':');
        text.push_str(&STANDARD.encode(digest));
    }
    text
}

pub(super) fn decode(answer: &str) -> Result<Vec<u8>, NoSignature> {
    if let Some(reason) = answer.strip_prefix(REFUSE) {
        return Err(NoSignature::Refused(reason.to_owned()));
    }
    Ok(STANDARD.decode(answer.trim())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::SignAlgorithm;

    #[test]
    fn both_ways() {
        let request = SignatureRequest {
            id: 3,
            algorithm: SignAlgorithm::EcdsaP256Sha256,
            message: b"abc".to_vec(),
            digest: Some(vec![1, 2, 3]),
        };
        assert_eq!(encode(&request), "ECDSA-P256-SHA256:YWJj:AQID");
        let pure = SignatureRequest { digest: None, ..request };
        assert_eq!(encode(&pure), "ECDSA-P256-SHA256:YWJj");
        assert_eq!(decode("AQID"), Ok(vec![1, 2, 3]));
        assert_eq!(decode("refuse:no card").unwrap_err().to_string(), "no card");
        assert!(decode("???").unwrap_err().to_string().contains("base64"));
    }
}
