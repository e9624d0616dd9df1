//! The server's side of tls-crypt-v2: wrapping and unwrapping client keys.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

const TAG: usize = 32;
const CLIENT_KEY: usize = 256;
/// Of the whole wrapped key.
const MAX: usize = 1024;

/// A 128-byte server key.
pub struct ServerKey {
    cipher: [u8; 32],
    hmac: hmac::Key,
}

impl ServerKey {
    /// Of the key file's bytes.
    pub fn new(key: &[u8; 128]) -> Self {
        Self {
            cipher: key[..32].try_into().unwrap(),
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &key[64..96]),
        }
    }

    /// `None` if the metadata (with its type byte) is too long.
    pub fn wrap(&self, client_key: &[u8; CLIENT_KEY], metadata: &[u8]) -> Option<Vec<u8>> {
        let len = TAG + CLIENT_KEY + metadata.len() + 2;
        if len > MAX {
            return None;
        }
        let len = (len as u16).to_be_bytes();
        let mut text = [&client_key[..], metadata].concat();
        let tag = hmac::sign(&self.hmac, &[&len[..], &text].concat());
        self.apply(tag.as_ref(), &mut text);
        Some([tag.as_ref(), &text, &len].concat())
    }

    /// The client key in the wrapped key at the end of a packet, and the packet's own length.
    pub fn unwrap_from(&self, packet: &[u8]) -> Option<([u8; CLIENT_KEY], usize)> {
        let len = *packet.last_chunk()?;
        let start = packet.len().checked_sub(usize::from(u16::from_be_bytes(len)))?;
        let wrapped = &packet[start..packet.len() - 2];
        let (tag, text) = wrapped.split_at_checked(TAG)?;
        let mut text = text.to_vec();
        self.apply(tag, &mut text);
        hmac::verify(&self.hmac, &[&len[..], &text].concat(), tag).ok()?;
        Some((*text.first_chunk()?, start))
    }

    fn apply(&self, tag: &[u8], text: &mut [u8]) {
        let key = UnboundCipherKey::new(&AES_256, &self.cipher).unwrap();
        let iv: [u8; 16] = tag[..16].try_into().unwrap();
        EncryptingKey::ctr(key)
            .unwrap()
            .less_safe_encrypt(text, EncryptionContext::Iv128(FixedLength::from(iv)))
            .unwrap();
    }
}
