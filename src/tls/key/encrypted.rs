//! Encrypted PKCS#8: PBES2 (RFC 8018) and the older schemes that `openssl pkcs8 -v1` and old
//! versions of EasyRSA wrote.

use cbc::Decryptor;
use des::{Des, TdesEde3};
use md5::{Digest, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode, Reader, SliceReader};
use pkcs8::spki::AlgorithmIdentifierRef;
use pkcs12::kdf::{Pkcs12KeyType, derive_key_utf8};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::error::KeyError;
use super::traditional::cbc;
use super::{cost, looks_like_der};

const WRONG_PASSPHRASE: KeyError = KeyError::WrongPassphrase { option: "key" };

const PBES2: &str = "1.2.840.113549.1.5.13";
const PBE_MD5_DES: &str = "1.2.840.113549.1.5.3";
const PBE_SHA1_DES: &str = "1.2.840.113549.1.5.10";
const PBE_SHA1_3DES: &str = "1.2.840.113549.1.12.1.3";

/// Decrypts `EncryptedPrivateKeyInfo` to `PrivateKeyInfo`.
pub(super) fn decrypt(der: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let (algorithm, data) = SliceReader::new(der).and_then(|mut reader| {
        reader.sequence(|reader| {
            Ok((AlgorithmIdentifierRef::decode(reader)?, <&OctetStringRef>::decode(reader)?))
        })
    })?;
    let scheme = algorithm.oid.to_string();
    let plain = match scheme.as_str() {
        PBES2 => {
            let info = EncryptedPrivateKeyInfoRef::from_der(der)?;
            if let Some(parameters) = info.encryption_algorithm.pbes2() {
                cost::check(&parameters.kdf)?;
            }
            match info.encryption_algorithm.decrypt(passphrase.as_bytes(), data.as_bytes()) {
                Ok(plain) => Some(Zeroizing::new(plain)),
                Err(pkcs8::pkcs5::Error::DecryptFailed) => None,
                Err(error) => {
                    return Err(KeyError::Scheme {
                        scheme: error.to_string(),
                        source: Some(error),
                    });
                }
            }
        }
        PBE_MD5_DES | PBE_SHA1_DES | PBE_SHA1_3DES => {
            let (salt, rounds) = parameters(&algorithm)?;
            cost::check_rounds(i64::from(rounds))?;
            match scheme.as_str() {
                PBE_MD5_DES => {
                    let key = pbkdf1::<Md5>(passphrase.as_bytes(), salt, rounds);
                    cbc::<Decryptor<Des>>(&key[..8], &key[8..16], data.as_bytes())
                }
                PBE_SHA1_DES => {
                    let key = pbkdf1::<Sha1>(passphrase.as_bytes(), salt, rounds);
                    cbc::<Decryptor<Des>>(&key[..8], &key[8..16], data.as_bytes())
                }
                _ => {
                    let derive = |kind, length| {
                        derive_key_utf8::<Sha1>(passphrase, salt, kind, rounds, length)
                            .map(Zeroizing::new)
                            .map_err(|_| WRONG_PASSPHRASE)
                    };
                    let key = derive(Pkcs12KeyType::EncryptionKey, 24)?;
                    let iv = derive(Pkcs12KeyType::Iv, 8)?;
                    cbc::<Decryptor<TdesEde3>>(&key, &iv, data.as_bytes())
                }
            }
        }
        other => return Err(KeyError::Scheme { scheme: other.to_owned(), source: None }),
    };
    plain.filter(|plain| looks_like_der(plain)).ok_or(WRONG_PASSPHRASE)
}

/// `PBEParameter ::= SEQUENCE { salt OCTET STRING, iterationCount INTEGER }`
fn parameters<'a>(
    algorithm: &AlgorithmIdentifierRef<'a>,
) -> Result<(&'a [u8], i32), pkcs8::der::Error> {
    let parameters = algorithm.parameters.ok_or(pkcs8::der::ErrorKind::Failed)?;
    parameters.sequence(|reader| {
        let salt = <&OctetStringRef>::decode(reader)?;
        Ok::<_, pkcs8::der::Error>((salt.as_bytes(), i32::decode(reader)?))
    })
}

/// PBKDF1 (RFC 8018, 5.1); its result holds DES key and IV.
fn pbkdf1<D: Digest>(passphrase: &[u8], salt: &[u8], rounds: i32) -> Zeroizing<Vec<u8>> {
    let mut block =
        Zeroizing::new(D::new().chain_update(passphrase).chain_update(salt).finalize().to_vec());
    for _ in 1..rounds {
        block = Zeroizing::new(D::digest(&*block).to_vec());
    }
    block
}
