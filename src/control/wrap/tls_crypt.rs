//! tls-crypt: every control packet encrypted with AES-256-CTR under a synthetic IV
//! (OpenVPN 2 `tls_crypt.c`).
//!
//! Wire: `header | replay id | tag | ciphertext`; the tag covers header, replay id and plaintext,
//! and its first half is the IV.

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use subtle::ConstantTimeEq;

use super::key::KeySlices;
use super::replay::{REPLAY_ID_LEN, ReplayId};
use super::{Side, UnwrapError, WrapError, WrapKeyError};
use crate::control::packet::HEADER_LEN;

/// Length of the authentication tag.
const TAG_LEN: usize = 32;
const IV_LEN: usize = 16;
const KEY_LEN: usize = 32;
/// What is authenticated but not encrypted.
const CLEAR_LEN: usize = HEADER_LEN + REPLAY_ID_LEN;

/// Both directions' keys.
pub(super) struct TlsCrypt {
    send: SyntheticIv,
    receive: SyntheticIv,
}

impl TlsCrypt {
    /// The client sends with key 1 and receives with key 0; the server the other way round.
    pub(super) fn new(key: &[u8], side: Side) -> Result<Self, WrapKeyError> {
        let slices = KeySlices::new(key);
        let load = |number| SyntheticIv::new(slices.cipher(number)?, slices.hmac(number)?);
        let (zero, one) = (load(0)?, load(1)?);
        Ok(match side {
            Side::Client => Self { send: one, receive: zero },
            Side::Server => Self { send: zero, receive: one },
        })
    }

    pub(super) const OVERHEAD: usize = REPLAY_ID_LEN + TAG_LEN;

    pub(super) fn wrap(
        &self,
        header: &[u8],
        id: ReplayId,
        out: &mut Vec<u8>,
        body: &[u8],
    ) -> Result<(), WrapError> {
        let start = out.len();
        out.extend_from_slice(header);
        out.extend_from_slice(&id.encode());
        let tag = self.send.tag(&out[start..], body);
        out.extend_from_slice(&tag);
        let text = out.len();
        out.extend_from_slice(body);
        self.send.apply(&tag, &mut out[text..]).map_err(|_| WrapError::Cipher)
    }

    /// Decrypts in place.
    pub(super) fn unwrap<'a>(
        &self,
        packet: &'a mut [u8],
    ) -> Result<(ReplayId, &'a [u8]), UnwrapError> {
        let (clear, rest) = packet.split_at_mut_checked(CLEAR_LEN).ok_or(UnwrapError::Truncated)?;
        let (tag, text) = rest.split_first_chunk_mut::<TAG_LEN>().ok_or(UnwrapError::Truncated)?;
        let id = clear.last_chunk().ok_or(UnwrapError::Truncated)?;
        let id = ReplayId::decode(*id);
        self.receive.apply(tag, text).map_err(|_| UnwrapError::Authentication)?;
        if !bool::from(self.receive.tag(clear, text).ct_eq(&tag[..])) {
            return Err(UnwrapError::Authentication);
        }
        Ok((id, text))
    }
}

/// One direction: HMAC-SHA256 as IV and tag, AES-256-CTR as cipher.
struct SyntheticIv {
    cipher: EncryptingKey,
    hmac: hmac::Key,
}

impl SyntheticIv {
    fn new(cipher: &[u8], mac: &[u8]) -> Result<Self, WrapKeyError> {
        let cipher = cipher.get(..KEY_LEN).ok_or(WrapKeyError)?;
        let mac = mac.get(..KEY_LEN).ok_or(WrapKeyError)?;
        let cipher = UnboundCipherKey::new(&AES_256, cipher).map_err(|_| WrapKeyError)?;
        Ok(Self {
            cipher: EncryptingKey::ctr(cipher).map_err(|_| WrapKeyError)?,
            hmac: hmac::Key::new(hmac::HMAC_SHA256, mac),
        })
    }

    fn tag(&self, clear: &[u8], plaintext: &[u8]) -> [u8; TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(clear);
        context.update(plaintext);
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// Counter mode: encrypting and decrypting are the same.
    fn apply(&self, tag: &[u8; TAG_LEN], text: &mut [u8]) -> Result<(), Unspecified> {
        let mut iv = [0; IV_LEN];
        iv.copy_from_slice(&tag[..IV_LEN]);
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.cipher.less_safe_encrypt(text, context).map(|_: DecryptionContext| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenVPN 2 `test_tls_crypt.c`: the key of dynamic tls-crypt, a packet without header.
    #[test]
    fn packet_without_header() {
        let sealed = |byte| {
            let crypt = TlsCrypt::new(&[byte; 256], Side::Client).unwrap();
            let mut out = Vec::new();
            crypt.wrap(&[], ReplayId { counter: 1, time: 0 }, &mut out, b"1234567890").unwrap();
            hex::encode(out)
        };
        assert_eq!(
            sealed(0xba),
            "0000000100000000\
             e319277f1c8d6e6a7796a855337b9cfb56e1f13a870e6647dfa195c92c17a015\
             ba4967a11d55ea1a06a7"
        );
        assert_eq!(sealed(0xba ^ 0x42)[..16], sealed(0xba)[..16]);
        assert_ne!(sealed(0xba ^ 0x42)[16..], sealed(0xba)[16..]);
    }
}
