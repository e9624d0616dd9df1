//! Encrypted keys in OpenSSL's old PEM form: `Proc-Type: 4,ENCRYPTED` and `DEK-Info`
//! (RFC 1421 headers, key derivation by one round of MD5, see EVP_BytesToKey(3)).

use aes::{Aes128, Aes192, Aes256};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use des::{Des, TdesEde3};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::error::KeyError;
use super::{looks_like_der, name};
use crate::tls::pem::Section;

/// Decrypts a block.
pub(super) fn decrypt(section: &Section, passphrase: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let info = section.dek_info.as_deref().ok_or(KeyError::DekInfo)?;
    let (cipher, iv) = info.split_once(',').ok_or(KeyError::DekInfo)?;
    let iv = from_hex(iv.trim()).ok_or(KeyError::DekInfo)?;
    let salt = iv.get(..8).ok_or(KeyError::DekInfo)?;
    let cipher = cipher.trim().to_ascii_uppercase();
    let length = match cipher.as_str() {
        "DES-CBC" => 8,
        "AES-128-CBC" => 16,
        "DES-EDE3-CBC" | "AES-192-CBC" => 24,
        "AES-256-CBC" => 32,
        other => {
            let other = name(other).unwrap_or("an unknown cipher");
            return Err(KeyError::Cipher(other.to_owned()));
        }
    };
    let key = bytes_to_key(passphrase.as_bytes(), salt, length);
    let decrypted = match cipher.as_str() {
        "DES-CBC" => cbc::<Decryptor<Des>>(&key, &iv, &section.der),
        "AES-128-CBC" => cbc::<Decryptor<Aes128>>(&key, &iv, &section.der),
        "DES-EDE3-CBC" => cbc::<Decryptor<TdesEde3>>(&key, &iv, &section.der),
        "AES-192-CBC" => cbc::<Decryptor<Aes192>>(&key, &iv, &section.der),
        _ => cbc::<Decryptor<Aes256>>(&key, &iv, &section.der),
    };
    decrypted
        .filter(|plain| looks_like_der(plain))
        .ok_or(KeyError::WrongPassphrase { option: "key" })
}

/// CBC with PKCS#7 padding. `None`: wrong key, IV of the wrong length, or damaged data.
pub(super) fn cbc<C: KeyIvInit + BlockModeDecrypt>(
    key: &[u8],
    iv: &[u8],
    data: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(data.to_vec());
    let cipher = C::new_from_slices(key, iv).ok()?;
    let length = cipher.decrypt_padded::<Pkcs7>(&mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(buffer)
}

/// `EVP_BytesToKey` with MD5 and one round: D_i = MD5(D_(i-1) || passphrase || salt).
fn bytes_to_key(passphrase: &[u8], salt: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length + 16));
    while key.len() < length {
        let mut md5 = Md5::new();
        md5.update(&key[key.len().saturating_sub(16)..]);
        md5.update(passphrase);
        md5.update(salt);
        key.extend_from_slice(&Zeroizing::new(<[u8; 16]>::from(md5.finalize()))[..]);
    }
    key.truncate(length);
    key
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes()
        .chunks(2)
        .map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?))
        .collect()
}
