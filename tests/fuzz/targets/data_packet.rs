//! Data packets: what a stranger sends is refused, whatever an authentic peer seals comes out as it
//! is or not at all, and only once; our own come through unchanged.

use std::time::Instant;

use ovpn_dco::{
    Cipher, DataFormat, DataHeader, Digest, DirectionKey, Framing, KeyConfig, KeyId, PeerId,
    is_data_packet,
};
use ovpn_userspace::crypto::Sealer;
use ovpn_userspace::inflate::{Inflated, NotInflated};
use ovpn_userspace::message::Payload;
use ovpn_userspace::mss::{self, MssClamp};
use ovpn_userspace::peer::{Opened, Peer};

const LIMITS: MssClamp = MssClamp { ipv4: 1300, ipv6: 1280 };

/// Input: the peer's setup (one byte), position of a flipped bit (two bytes), then what comes from
/// the stranger, what the authentic peer seals, and the packet that we send.
pub fn run(data: &[u8]) {
    let Some((&[kind, high, low], bytes)) = data.split_first_chunk() else {
        return;
    };
    let setup = Setup::new(kind);
    let bit = usize::from(u16::from_be_bytes([high, low]));
    foreign(&setup, bytes);
    authentic(&setup, bytes, bit);
    if !bytes.is_empty() {
        own(&setup, bytes);
    }
}

const FRAMINGS: [Framing; 8] = [
    Framing::None,
    Framing::LzoStub,
    Framing::Swap,
    Framing::StubV2,
    Framing::Lzo,
    Framing::Lz4,
    Framing::Lz4V2,
    Framing::None,
];

const CIPHERS: [Cipher; 8] = [
    Cipher::Aes128Gcm,
    Cipher::Aes192GcmEpoch,
    Cipher::Aes256Gcm,
    Cipher::ChaCha20Poly1305,
    Cipher::Aes128Cbc(Digest::Sha1),
    Cipher::Aes192Cbc(Digest::Sha224),
    Cipher::Aes256Cbc(Digest::Sha256),
    Cipher::Aes256Cbc(Digest::Sha512),
];

struct Setup {
    cipher: Cipher,
    framing: Framing,
    /// With DATA_V2.
    id: Option<PeerId>,
    mss: Option<MssClamp>,
}

impl Setup {
    fn new(kind: u8) -> Self {
        let cipher = CIPHERS[usize::from(kind & 3 | kind >> 5 & 4)];
        // Epoch keys come with DATA_V2 only.
        let v2 = kind & 0x10 == 0 || cipher.format() == DataFormat::Epoch;
        Self {
            cipher,
            framing: FRAMINGS[usize::from(kind >> 2 & 3 | kind >> 4 & 4)],
            id: PeerId::new(0x01_0203).filter(|_| v2),
            mss: Some(LIMITS).filter(|_| kind & 0x20 != 0),
        }
    }

    fn direction(&self, id: u8) -> DirectionKey {
        DirectionKey::new(self.cipher, &[id + 1; 32], [id + 2; 64]).expect("long enough")
    }

    /// A peer with keys 0 and 1.
    fn peer(&self) -> Peer {
        let mut peer = Peer::new(self.id, self.framing, self.mss);
        for id in [0, 1] {
            let (encrypt, decrypt) = (self.direction(id), self.direction(id));
            let key_id = KeyId::new(id).expect("small enough");
            let key = KeyConfig { key_id, cipher: self.cipher, encrypt, decrypt };
            peer.install(key).expect("a key of its cipher");
        }
        peer
    }

    /// An inner packet as it comes out.
    fn clamped(&self, inner: &[u8]) -> Vec<u8> {
        let mut inner = inner.to_vec();
        if let Some(limits) = self.mss {
            mss::clamp(limits, &mut inner);
        }
        inner
    }
}

fn foreign(setup: &Setup, datagram: &[u8]) {
    let mut peer = setup.peer();
    let opened = peer.open(&mut datagram.to_vec(), Instant::now());
    match opened {
        Opened::Control => assert!(!is_data_packet(datagram[0])),
        Opened::UnknownKey => assert!(datagram[0] & 7 > 1),
        // Id 0.
        Opened::Ignored => assert_eq!(peer.faults().replay_errors, 1),
        Opened::Forged => {}
        Opened::Packet(_) | Opened::Compressed(..) | Opened::Consumed | Opened::Exit => {
            panic!("forged: {opened:?}")
        }
    }
}

/// `body` is anything at all, maybe framed, sealed with the right key.
fn authentic(setup: &Setup, body: &[u8], bit: usize) {
    let header = match setup.id {
        None => DataHeader::V1([6 << 3 | 1]),
        Some(_) => DataHeader::V2([9 << 3 | 1, 1, 2, 3]),
    };
    let format = setup.cipher.format();
    let back = vec![0; format.back(body.len())];
    let mut packet = [&vec![0; format.front()], body, &back].concat();
    let mut sealer = Sealer::new(setup.cipher, &setup.direction(1)).expect("a key of its cipher");
    sealer.seal(header, &mut packet, body.len()).expect("a fresh key");
    let mut packet = [&vec![0; header.size()], &packet[..]].concat();
    header.write(&mut packet[..header.size()]);

    let now = Instant::now();
    let mut peer = setup.peer();
    let mut flipped = packet.clone();
    // With CBC the peer-id is not authenticated.
    let open = match (format, header) {
        (DataFormat::Cbc(_), DataHeader::V2(_)) => 8..32,
        _ => 0..0,
    };
    let bit = Some(bit % (8 * packet.len())).filter(|bit| !open.contains(bit)).unwrap_or(32);
    flipped[bit / 8] ^= 1 << (bit % 8);
    let refused = peer.open(&mut flipped, now);
    assert!(
        matches!(refused, Opened::Forged | Opened::UnknownKey | Opened::Control | Opened::Ignored),
        "bit {bit}: {refused:?}"
    );
    let mut opened = packet.clone();
    match peer.open(&mut opened, now) {
        Opened::Packet(inner) => {
            assert!(header.size() + format.front() <= inner.start && !inner.is_empty());
            assert_eq!(Payload::of(&opened[inner.clone()]), Payload::Packet);
            if setup.framing == Framing::None {
                assert!(opened[inner] == setup.clamped(body));
            }
        }
        Opened::Compressed(algorithm, inner) => {
            let mut inflated = Inflated::default();
            match inflated.inflate(algorithm, &opened[inner]) {
                Ok(place) => {
                    let packet = &mut inflated.bytes()[place];
                    let instead = peer.admit(packet);
                    assert_eq!(
                        instead.is_none(),
                        Payload::of(packet) == Payload::Packet && !packet.is_empty()
                    );
                }
                Err(NotInflated) => peer.refuse(),
            }
        }
        Opened::Consumed | Opened::Exit => {}
        // There is nothing in it.
        Opened::Forged => {
            assert!(body.is_empty() && format == DataFormat::Aead);
            return;
        }
        other => panic!("authentic, but {other:?}"),
    }
    assert_eq!(peer.open(&mut packet, now), Opened::Ignored);
}

fn own(setup: &Setup, inner: &[u8]) {
    let (mut sender, mut receiver) = (setup.peer(), setup.peer());
    let envelope = sender.envelope(inner[0]);
    let mut packet = vec![0; envelope.sealed_len(inner.len())];
    let place = envelope.inner(inner.len());
    packet[place].copy_from_slice(inner);
    sender.seal(envelope, &mut packet, inner.len()).expect("a fresh key");
    match (receiver.open(&mut packet, Instant::now()), Payload::of(inner)) {
        (Opened::Packet(place), Payload::Packet) => {
            assert!(packet[place] == setup.clamped(inner));
        }
        (Opened::Exit, Payload::Exit) | (Opened::Consumed, Payload::Ping | Payload::OtherOcc) => {}
        (opened, payload) => panic!("{payload:?} came out as {opened:?}"),
    }
}
