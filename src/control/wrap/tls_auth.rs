//! tls-auth: an HMAC over every control packet, nothing encrypted.
//!
//! Wire: `header | HMAC | replay id | body`; signed as `replay id | header | body`
//! (OpenVPN 2 `ssl_pkt.c`, `swap_hmac`).

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

use super::key::KeySlices;
use super::replay::{REPLAY_ID_LEN, ReplayId};
use super::{UnwrapError, WrapKeyError};
use crate::control::packet::HEADER_LEN;
use crate::profile::{Digest, KeyDirection};

pub(super) struct TlsAuth {
    send: hmac::Key,
    receive: hmac::Key,
    tag_len: usize,
}

impl TlsAuth {
    pub(super) fn new(
        key: &[u8],
        direction: Option<KeyDirection>,
        digest: Digest,
    ) -> Result<Self, WrapKeyError> {
        let algorithm = match digest {
            Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Digest::Sha224 => hmac::HMAC_SHA224,
            Digest::Sha256 => hmac::HMAC_SHA256,
            Digest::Sha384 => hmac::HMAC_SHA384,
            Digest::Sha512 => hmac::HMAC_SHA512,
        };
        let slices = KeySlices::new(key);
        let load = |number| {
            let slice = slices.hmac(number)?;
            slice.get(..digest.len()).map(|k| hmac::Key::new(algorithm, k)).ok_or(WrapKeyError)
        };
        let (send, receive) = match direction {
            None => (0, 0),
            Some(KeyDirection::Normal) => (0, 1),
            Some(KeyDirection::Inverse) => (1, 0),
        };
        Ok(Self { send: load(send)?, receive: load(receive)?, tag_len: digest.len() })
    }

    pub(super) fn overhead(&self) -> usize {
        self.tag_len + REPLAY_ID_LEN
    }

    pub(super) fn wrap(
        &self,
        header: &[u8; HEADER_LEN],
        id: ReplayId,
        out: &mut Vec<u8>,
        body: &[u8],
    ) {
        let tag = sign(&self.send, &id.encode(), header, body);
        out.extend_from_slice(header);
        out.extend_from_slice(tag.as_ref());
        out.extend_from_slice(&id.encode());
        out.extend_from_slice(body);
    }

    pub(super) fn unwrap<'a>(&self, packet: &'a [u8]) -> Result<(ReplayId, &'a [u8]), UnwrapError> {
        let (header, rest) = packet.split_first_chunk().ok_or(UnwrapError::Truncated)?;
        let (tag, rest) = rest.split_at_checked(self.tag_len).ok_or(UnwrapError::Truncated)?;
        let (id, body) = rest.split_first_chunk().ok_or(UnwrapError::Truncated)?;
        let expected = sign(&self.receive, id, header, body);
        if !bool::from(expected.as_ref().ct_eq(tag)) {
            return Err(UnwrapError::Authentication);
        }
        Ok((ReplayId::decode(*id), body))
    }
}

fn sign(
    key: &hmac::Key,
    id: &[u8; REPLAY_ID_LEN],
    header: &[u8; HEADER_LEN],
    body: &[u8],
) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(id);
    context.update(header);
    context.update(body);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenVPN 2 `test_crypto.c`. The vector's text stands in for the parts of a packet, in the
    /// order in which they are signed.
    #[test]
    fn hmac_vector() {
        const LOREM: &[u8] =
            b"Lorem ipsum dolor sit amet, consectetur adipisici elit, sed eiusmod \
            tempor incidunt ut labore et dolore magna aliqua.";
        let text = LOREM.repeat(2);
        let (id, rest) = text.split_first_chunk().unwrap();
        let (header, body) = rest.split_first_chunk().unwrap();
        let mut key = [0; 20];
        key[0] = 0x0b;
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
        let tag = sign(&key, id, header, body);
        assert_eq!(hex::encode(tag), "58ea5af04294e917ed84b9f0833023ae8ba77eb8");
    }
}
