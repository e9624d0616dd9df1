//! Wrapping: what stands between a control packet and the wire. Nothing, tls-auth, tls-crypt or
//! tls-crypt-v2; and the tls-crypt of renegotiations under a key from the TLS exporter.
//!
//! Decides whether a packet is authentic and new; never looks into its body. Role-neutral.

mod key;
mod replay;
mod tls_auth;
mod tls_crypt;
mod tls_crypt_v2;

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

pub(super) use key::KeySlices;
pub use replay::{ReplayError, ReplayId, ReplaySender, ReplayWindow};
pub use tls_crypt_v2::wants_wrapped_key;

use super::packet::{HEADER_LEN, Opcode};
use crate::profile::WrapOptions;
use tls_auth::TlsAuth;
use tls_crypt::TlsCrypt;

/// Bytes of a complete static key.
const STATIC_KEY_LEN: usize = 256;

/// Who we are in tls-crypt, where the direction is fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Side {
    Client,
    #[cfg_attr(not(feature = "internals"), expect(dead_code, reason = "what tests play"))]
    Server,
}

/// A static key is too short for what it is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the static key is too short: it must have 256 bytes (2048 bit)")]
pub struct WrapKeyError;

/// Why a packet was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnwrapError {
    /// Shorter than its own header.
    #[error("packet is too short for its wrapping")]
    Truncated,
    /// Made with another key, or changed on the way.
    #[error("packet authentication failed")]
    Authentication,
    /// Authentic but not new.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// Why a packet was not wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WrapError {
    /// The replay counter is used up.
    #[error("no replay id is left")]
    Exhausted,
    /// The cipher failed.
    #[error("the cipher failed")]
    Cipher,
}

/// Wraps and unwraps the packets of one peer.
pub struct Wrapper {
    kind: Kind,
    sender: ReplaySender,
    window: ReplayWindow,
    /// tls-crypt-v2: follows hard resets and CONTROL_WKC_V1 in clear.
    wrapped_key: Vec<u8>,
    /// The key as configured: part of the key of dynamic tls-crypt.
    base_key: Zeroizing<Vec<u8>>,
    replay_window: (usize, Duration),
}

enum Kind {
    None,
    TlsAuth(Box<TlsAuth>),
    TlsCrypt(Box<TlsCrypt>),
}

impl Wrapper {
    /// `replay_window`: how many ids are remembered, and for how long a late one is let in.
    pub fn new(
        options: &WrapOptions,
        side: Side,
        replay_window: (usize, Duration),
    ) -> Result<Self, WrapKeyError> {
        let (kind, counter, wrapped_key, base_key) = match options {
            WrapOptions::None => (Kind::None, 0, &[][..], &[][..]),
            WrapOptions::TlsAuth { key, direction, digest } => {
                let kind = TlsAuth::new(key.expose(), *direction, *digest)?;
                (Kind::TlsAuth(Box::new(kind)), 0, &[][..], &key.expose()[..])
            }
            WrapOptions::TlsCrypt { key } => {
                let kind = TlsCrypt::new(key.expose(), side)?;
                (Kind::TlsCrypt(Box::new(kind)), 0, &[][..], &key.expose()[..])
            }
            WrapOptions::TlsCryptV2 { key, wrapped } => {
                let kind = TlsCrypt::new(key.expose(), side)?;
                let counter = match side {
                    Side::Client => tls_crypt_v2::EARLY_NEGOTIATION_COUNTER,
                    Side::Server => 0,
                };
                (Kind::TlsCrypt(Box::new(kind)), counter, &wrapped[..], &key.expose()[..])
            }
        };
        Ok(Self {
            kind,
            sender: ReplaySender::new(counter),
            window: ReplayWindow::new(replay_window.0, replay_window.1),
            wrapped_key: wrapped_key.to_vec(),
            base_key: Zeroizing::new(base_key.to_vec()),
            replay_window,
        })
    }

    /// The wrapper of renegotiations: `exported` (256 bytes of the first session's TLS exporter)
    /// combined with this wrapper's own key.
    pub fn dynamic(&self, exported: &[u8], side: Side) -> Result<Self, WrapKeyError> {
        let mut key = Zeroizing::new([0; STATIC_KEY_LEN]);
        key.copy_from_slice(exported.get(..STATIC_KEY_LEN).ok_or(WrapKeyError)?);
        for (byte, base) in key.iter_mut().zip(self.base_key.iter()) {
            *byte ^= base;
        }
        Ok(Self {
            kind: Kind::TlsCrypt(Box::new(TlsCrypt::new(&key[..], side)?)),
            sender: ReplaySender::new(0),
            window: ReplayWindow::new(self.replay_window.0, self.replay_window.1),
            wrapped_key: Vec::new(),
            base_key: Zeroizing::new(Vec::new()),
            replay_window: self.replay_window,
        })
    }

    /// Bytes that wrapping adds to a packet with this opcode.
    pub fn overhead(&self, opcode: Opcode) -> usize {
        let fixed = match &self.kind {
            Kind::None => 0,
            Kind::TlsAuth(auth) => auth.overhead(),
            Kind::TlsCrypt(_) => TlsCrypt::OVERHEAD,
        };
        fixed + if opcode.carries_wrapped_key() { self.wrapped_key.len() } else { 0 }
    }

    /// True if nothing protects the packets.
    pub const fn is_none(&self) -> bool {
        matches!(self.kind, Kind::None)
    }

    /// Appends the complete packet.
    pub fn wrap(
        &mut self,
        opcode: Opcode,
        header: &[u8; HEADER_LEN],
        body: &[u8],
        unix_time: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), WrapError> {
        match &self.kind {
            Kind::None => {
                out.extend_from_slice(header);
                out.extend_from_slice(body);
            }
            Kind::TlsAuth(auth) => {
                let id = self.sender.next(unix_time).ok_or(WrapError::Exhausted)?;
                auth.wrap(header, id, out, body);
            }
            Kind::TlsCrypt(crypt) => {
                let id = self.sender.next(unix_time).ok_or(WrapError::Exhausted)?;
                crypt.wrap(header, id, out, body)?;
            }
        }
        if opcode.carries_wrapped_key() {
            out.extend_from_slice(&self.wrapped_key);
        }
        Ok(())
    }

    /// The body of an authentic, new packet; decrypts in place. For the server of tests.
    #[cfg(feature = "internals")]
    pub fn unwrap<'a>(
        &mut self,
        packet: &'a mut [u8],
        now: Instant,
    ) -> Result<&'a [u8], UnwrapError> {
        let (id, body) = self.open(packet)?;
        self.accept(id, now)?;
        Ok(body)
    }

    /// The body of an authentic packet, and the id to [`Self::accept`]; decrypts in place.
    pub fn open<'a>(
        &self,
        packet: &'a mut [u8],
    ) -> Result<(Option<ReplayId>, &'a [u8]), UnwrapError> {
        let (id, body) = match &self.kind {
            Kind::None => {
                let body = packet.get(HEADER_LEN..).ok_or(UnwrapError::Truncated)?;
                return Ok((None, body));
            }
            Kind::TlsAuth(auth) => auth.unwrap(packet)?,
            Kind::TlsCrypt(crypt) => crypt.unwrap(packet)?,
        };
        Ok((Some(id), body))
    }

    /// Whether a packet is new. It counts as seen from now on.
    pub fn accept(&mut self, id: Option<ReplayId>, now: Instant) -> Result<(), UnwrapError> {
        id.map_or(Ok(()), |id| Ok(self.window.accept(id, now)?))
    }
}

#[cfg(test)]
mod tests {
    use ovpn_dco::replay::Refused;

    use super::*;
    use crate::profile::{Digest, KeyDirection};
    use crate::secret::Secret;

    const K1: &str = "37268ea8f95d7f71f9fb8fc03770c460daf714a483d815c013ce0a537efc18f2\
        8f4f172669d9e6a413bac6741d8ea05400f49b7fd6326470f23798c606bf53d4\
        de63ebc64ec59d57ce5d04d5b62e68b53ca6e5354351097fa370446c4d269f18\
        7bb6ae54af2dc70ff7317fe2f8754b8282aad4202f9fa42c8640245d883e2c54\
        a0c1c489a036cf3a8964d8d289c1583b9447c262b1da5fd167a5d27bd5ac5143\
        17bc2343a31a2efc38dd920d910375f51c2e27f3afd36c49269da079f7ce466e\
        bb0f9ad13e9bbb4665974e6bc24b513c5700393bf4a3e7f967e2f384069ac8a8\
        e78b18b15604993fd16515cce9c0f3e42b4126b999005ade802797b0eeb8b9e6";

    const WINDOW: (usize, Duration) = (64, Duration::from_secs(15));

    fn key() -> Secret<Vec<u8>> {
        Secret::new(hex::decode(K1.replace(' ', "")).unwrap())
    }

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text.replace([' ', '\n'], "")).unwrap()
    }

    fn client(options: &WrapOptions) -> Wrapper {
        Wrapper::new(options, Side::Client, WINDOW).unwrap()
    }

    /// What `options` makes of the first client packet must be `expected`, and a peer with
    /// `peer` must let it in.
    fn check(options: &WrapOptions, peer: &WrapOptions, time: u32, expected: &[u8]) {
        let header: [u8; HEADER_LEN] = expected[..HEADER_LEN].try_into().unwrap();
        let mut out = Vec::new();
        let mut sender = client(options);
        sender.wrap(Opcode::HardResetClientV2, &header, &[0; 5], time, &mut out).unwrap();
        assert_eq!(hex::encode(&out), hex::encode(expected));
        assert_eq!(out.len(), HEADER_LEN + 5 + sender.overhead(Opcode::HardResetClientV2));
        let mut receiver = Wrapper::new(peer, Side::Server, WINDOW).unwrap();
        let now = Instant::now();
        assert_eq!(receiver.unwrap(&mut out.clone(), now), Ok(&[0; 5][..]));
        assert_eq!(receiver.unwrap(&mut out, now), Err(ReplayError::from(Refused::Replay).into()));
        for index in 0..expected.len() {
            let mut bad = expected.to_vec();
            if bad[index] == 0x23 {
                continue;
            }
            bad[index] = 0x23;
            let result =
                Wrapper::new(peer, Side::Server, WINDOW).unwrap().unwrap(&mut bad, now).map(|_| ());
            assert_eq!(result, Err(UnwrapError::Authentication), "byte {index}");
        }
        for len in 0..expected.len() {
            let mut bad = expected[..len].to_vec();
            let result =
                Wrapper::new(peer, Side::Server, WINDOW).unwrap().unwrap(&mut bad, now).map(|_| ());
            assert!(result.is_err(), "length {len}");
        }
    }

    fn tls_auth(direction: Option<KeyDirection>, digest: Digest) -> WrapOptions {
        WrapOptions::TlsAuth { key: key(), direction, digest }
    }

    /// OpenVPN 2 `test_pkt.c`.
    #[test]
    fn tls_auth_vector() {
        let inverse = tls_auth(Some(KeyDirection::Inverse), Digest::Sha1);
        let normal = tls_auth(Some(KeyDirection::Normal), Digest::Sha1);
        let packet = bytes(
            "38 de694c5c7bfba274 93537c1ded4e781529ae7cfe4b8c6d6b2b51f05a 00000001 61d3bf6c 00 00000000",
        );
        check(&inverse, &normal, 0x61d3_bf6c, &packet);
        let wrong = Wrapper::new(&inverse, Side::Server, WINDOW)
            .unwrap()
            .unwrap(&mut packet.clone(), Instant::now())
            .map(|_| ());
        assert_eq!(wrong, Err(UnwrapError::Authentication));
    }

    /// OpenVPN 2 `test_pkt.c`: a whole ClientHello. Message 1, nothing acknowledged.
    #[test]
    fn tls_auth_control_vector() {
        let packet = bytes(
            "20 14014ebc80c6142b 7bc876fbc52e27b1c507355bb6006bae71ba4e38 00000003 61d3ff53 00 00000001
             160301010c0100010803038caaac3a1a07bde7b750069b940c344b5a35cac479bdc909b07bd9eebb
             7de725203938e2183336149f34f04459968d0ed24776648859e9380397969845fbf5ff2300321302
             13031301c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039
             c009c013003300ff0100008d000b000403000102000a000c000a001d0017001e0019001800160000
             00170000000d0030002e040305030603080708080809080a080b0804080508060401050106010303
             02030301020103020202040205020602002b00050403040303002d00020101003300260024001d00
             200ec97aff58db56f640d1eddb9181d6ef83868ab23d88923fd8519cd62656336b",
        );
        let receive = |direction, mut packet: Vec<u8>| {
            let options = tls_auth(Some(direction), Digest::Sha1);
            let mut receiver = Wrapper::new(&options, Side::Server, WINDOW).unwrap();
            receiver.unwrap(&mut packet, Instant::now()).map(<[u8]>::to_vec)
        };
        let body = receive(KeyDirection::Normal, packet.clone()).unwrap();
        assert_eq!(body, packet[37..]);
        assert_eq!(hex::encode(&body[..10]), "0000000001160301010c");
        let refused = Err(UnwrapError::Authentication);
        assert_eq!(receive(KeyDirection::Inverse, packet.clone()), refused);
        let mut bad = packet;
        bad[20] = 0x23;
        assert_eq!(receive(KeyDirection::Normal, bad), refused);
    }

    #[test]
    fn tls_auth_digests_and_directions() {
        for digest in [Digest::Sha1, Digest::Sha224, Digest::Sha256, Digest::Sha384, Digest::Sha512]
        {
            for (ours, theirs) in [
                (None, None),
                (Some(KeyDirection::Inverse), Some(KeyDirection::Normal)),
                (Some(KeyDirection::Normal), Some(KeyDirection::Inverse)),
            ] {
                let mut sender = client(&tls_auth(ours, digest));
                let mut out = Vec::new();
                sender.wrap(Opcode::AckV1, &[0x28; 9], b"body", 1, &mut out).unwrap();
                assert_eq!(out.len(), 9 + digest.len() + 8 + 4);
                let mut receiver =
                    Wrapper::new(&tls_auth(theirs, digest), Side::Server, WINDOW).unwrap();
                assert_eq!(receiver.unwrap(&mut out, Instant::now()), Ok(&b"body"[..]));
            }
        }
    }

    #[test]
    fn one_key_files() {
        let half = || Secret::new(key().expose()[..128].to_vec());
        let options =
            |direction| WrapOptions::TlsAuth { key: half(), direction, digest: Digest::Sha1 };
        assert!(Wrapper::new(&options(None), Side::Client, WINDOW).is_ok());
        let two = Wrapper::new(&options(Some(KeyDirection::Inverse)), Side::Client, WINDOW);
        assert_eq!(two.err(), Some(WrapKeyError));
        let crypt = Wrapper::new(&WrapOptions::TlsCrypt { key: half() }, Side::Client, WINDOW);
        assert_eq!(crypt.err(), Some(WrapKeyError));
    }

    /// OpenVPN 2 `test_pkt.c`.
    #[test]
    fn tls_crypt_vector() {
        let options = WrapOptions::TlsCrypt { key: key() };
        check(
            &options,
            &options,
            0x61d3_f8e1,
            &bytes(
                "38 f419cb12d1f9e48f 00000001 61d3f8e1
                 330206f56802be44fbed905064e3db43416bec5e526719462b7eb90c96defc9b 05c44879f7",
            ),
        );
    }

    #[test]
    fn dynamic_key_is_exported_xor_base() {
        let exported = [0xba; 256];
        let sealed = |base: Option<u8>| {
            let options = base.map_or(WrapOptions::None, |b| WrapOptions::TlsCrypt {
                key: Secret::new(vec![b; 256]),
            });
            let mut wrapper = client(&options).dynamic(&exported, Side::Client).unwrap();
            let mut out = Vec::new();
            wrapper.wrap(Opcode::SoftResetV1, &[0x19; 9], b"1234567890", 0, &mut out).unwrap();
            out
        };
        assert_eq!(sealed(None), sealed(Some(0)));
        assert_eq!(sealed(None)[..17], sealed(Some(0x42))[..17]);
        assert_ne!(sealed(None)[17..], sealed(Some(0x42))[17..]);
        let mut packet = sealed(Some(0x42));
        let combined = WrapOptions::TlsCrypt { key: Secret::new(vec![0xba ^ 0x42; 256]) };
        let mut peer = Wrapper::new(&combined, Side::Server, WINDOW).unwrap();
        assert_eq!(peer.unwrap(&mut packet, Instant::now()), Ok(&b"1234567890"[..]));
    }

    #[test]
    fn tls_crypt_v2_appends_the_wrapped_key_and_announces_early_negotiation() {
        let options = WrapOptions::TlsCryptV2 { key: key(), wrapped: vec![0xaa; 299] };
        let mut wrapper = client(&options);
        let mut out = Vec::new();
        wrapper.wrap(Opcode::HardResetClientV3, &[0x50; 9], &[0; 5], 1, &mut out).unwrap();
        assert_eq!(out.len(), 9 + wrapper.overhead(Opcode::HardResetClientV3) + 5);
        assert_eq!(out[9..13], 0x0f00_0001_u32.to_be_bytes());
        assert!(out.ends_with(&[0xaa; 299]));
        out.clear();
        wrapper.wrap(Opcode::ControlV1, &[0x20; 9], &[0; 5], 1, &mut out).unwrap();
        assert_eq!(out[9..13], 0x0f00_0002_u32.to_be_bytes());
        assert_eq!(out.len(), 9 + 40 + 5);
    }
}
