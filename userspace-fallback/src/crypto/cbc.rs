//! AES-CBC with an HMAC: encrypt, then authenticate. Layout: [`ovpn_dco::format::cbc`].

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, EncryptionContext,
    PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand;
use ovpn_dco::format::cbc::{BLOCK, IV, PACKET_ID};
use ovpn_dco::{Digest, DirectionKey};

/// IVs that are made at a time: the generator costs about as much for one as for all of them.
const IVS: usize = 32;

fn unbound(key: &DirectionKey) -> Result<UnboundCipherKey, Unspecified> {
    let algorithm: &'static Algorithm = match key.cipher_key().len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    UnboundCipherKey::new(algorithm, key.cipher_key())
}

fn mac(digest: Digest, key: &DirectionKey) -> hmac::Key {
    let algorithm = match digest {
        Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Digest::Sha224 => hmac::HMAC_SHA224,
        Digest::Sha256 => hmac::HMAC_SHA256,
        Digest::Sha384 => hmac::HMAC_SHA384,
        Digest::Sha512 => hmac::HMAC_SHA512,
    };
    hmac::Key::new(algorithm, key.second_key())
}

/// IVs nobody can foresee (NIST SP 800-38A, appendix C).
struct Ivs {
    made: [[u8; IV]; IVS],
    used: usize,
}

impl Ivs {
    #[inline]
    fn next(&mut self) -> Result<[u8; IV], Unspecified> {
        if self.used == IVS {
            rand::fill(self.made.as_flattened_mut())?;
            self.used = 0;
        }
        let iv = self.made[self.used];
        self.used += 1;
        Ok(iv)
    }
}

/// What is to be padded in its place, with the room for that behind it.
struct Padded<'a> {
    room: &'a mut [u8],
    len: usize,
}

impl AsMut<[u8]> for Padded<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.room[..self.len]
    }
}

impl<'b> Extend<&'b u8> for Padded<'_> {
    fn extend<I: IntoIterator<Item = &'b u8>>(&mut self, padding: I) {
        for (place, byte) in std::iter::zip(&mut self.room[self.len..], padding) {
            *place = *byte;
            self.len += 1;
        }
    }
}

/// Encrypts and authenticates.
pub(super) struct Sealing {
    key: PaddedBlockEncryptingKey,
    mac: hmac::Key,
    digest: Digest,
    ivs: Ivs,
}

impl Sealing {
    pub(super) fn new(digest: Digest, key: &DirectionKey) -> Result<Self, Unspecified> {
        let ivs = Ivs { made: [[0; IV]; IVS], used: IVS };
        let mac = mac(digest, key);
        Ok(Self { key: PaddedBlockEncryptingKey::cbc_pkcs7(unbound(key)?)?, mac, digest, ivs })
    }

    /// `packet` is what is behind the header, and as long as the format says of this body.
    #[inline]
    pub(super) fn seal(
        &mut self,
        id: [u8; PACKET_ID],
        packet: &mut [u8],
        body: usize,
    ) -> Result<(), Unspecified> {
        let iv = self.ivs.next()?;
        self.seal_with(iv, id, packet, body)
    }

    fn seal_with(
        &self,
        iv: [u8; IV],
        id: [u8; PACKET_ID],
        packet: &mut [u8],
        body: usize,
    ) -> Result<(), Unspecified> {
        let (tag, sealed) = packet.split_at_mut_checked(self.digest.len()).ok_or(Unspecified)?;
        let (place, text) = sealed.split_first_chunk_mut().ok_or(Unspecified)?;
        *place = iv;
        *text.first_chunk_mut().ok_or(Unspecified)? = id;
        let mut text = Padded { room: text, len: PACKET_ID + body };
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        let _: DecryptionContext = self.key.less_safe_encrypt(&mut text, context)?;
        hmac::sign_to_buffer(&self.mac, sealed, tag)?;
        Ok(())
    }

    /// The same with a chosen IV, for known packets.
    #[cfg(test)]
    pub(super) fn set_next_iv(&mut self, iv: [u8; IV]) {
        self.ivs.made[IVS - 1] = iv;
        self.ivs.used = IVS - 1;
    }
}

/// Authenticates and decrypts.
pub(super) struct Opening {
    key: PaddedBlockDecryptingKey,
    mac: hmac::Key,
    digest: Digest,
}

impl Opening {
    pub(super) fn new(digest: Digest, key: &DirectionKey) -> Result<Self, Unspecified> {
        let mac = mac(digest, key);
        Ok(Self { key: PaddedBlockDecryptingKey::cbc_pkcs7(unbound(key)?)?, mac, digest })
    }

    /// Packet id and body, of what is behind the header. Nothing is decrypted that is not authentic
    /// (which is found out in constant time), so that how the padding is wrong tells nobody anything.
    #[inline]
    pub(super) fn open<'a>(
        &self,
        packet: &'a mut [u8],
    ) -> Result<([u8; PACKET_ID], &'a mut [u8]), Unspecified> {
        let (tag, sealed) = packet.split_at_mut_checked(self.digest.len()).ok_or(Unspecified)?;
        if sealed.len() < IV + BLOCK || !sealed.len().is_multiple_of(BLOCK) {
            return Err(Unspecified);
        }
        hmac::verify(&self.mac, sealed, tag)?;
        let (iv, text) = sealed.split_first_chunk_mut().ok_or(Unspecified)?;
        let context = DecryptionContext::Iv128(FixedLength::<IV>::from(*iv));
        let plain = self.key.decrypt(text, context)?;
        let (id, body) = plain.split_first_chunk_mut().ok_or(Unspecified)?;
        Ok((*id, body))
    }
}
