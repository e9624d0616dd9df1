use std::time::Instant;

use super::*;

const HEADER: DataHeader = DataHeader::V2([7, 0, 0, 0x17]);
const TEXT: &[u8] = b"The quick little fox jumps over the bureaucratic hurdles";
const BOTH: [Cipher; 2] = [Cipher::Aes256GcmEpoch, Cipher::ChaCha20Poly1305Epoch];

/// The key bytes of OpenVPN's own data channel test: `k[i] = key32[i mod 32] XOR i`.
fn key(cipher: Cipher) -> DirectionKey {
    let text = b"abcdefgh01234567ABCDEFGHjkuchenl";
    let bytes: Vec<u8> = (0..32u8).map(|i| text[usize::from(i)] ^ i).collect();
    DirectionKey::new(cipher, &bytes, [0; 0]).unwrap()
}

fn pair(cipher: Cipher) -> (Sealing, Opening) {
    (Sealing::new(cipher, &key(cipher)).unwrap(), Opening::new(cipher, &key(cipher)).unwrap())
}

fn sealed(sealing: &mut Sealing, body: &[u8]) -> Vec<u8> {
    let mut packet = [&[0; PACKET_ID], body, &[0; TAG]].concat();
    sealing.seal(HEADER, &mut packet, body.len()).unwrap();
    packet
}

fn opened(opening: &mut Opening, packet: &[u8]) -> Result<Vec<u8>, OpenError> {
    opening.open(HEADER, &mut packet.to_vec(), Instant::now()).map(|body| body.to_vec())
}

/// OpenVPN's `test_crypto.c`.
#[test]
fn known_labels() {
    let prk = "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5";
    let prk: [u8; SECRET] = hex::decode(prk).unwrap().try_into().unwrap();
    for expected in [
        "185eaa1c7f228ab8eb29773214d92046",
        "875a8eec18556380b8d933ed323c2df8e8eccf4972e683f06a83ac",
    ] {
        let mut out = vec![0; expected.len() / 2];
        expand(&prk, b"unit test", &mut out).unwrap();
        assert_eq!(hex::encode(out), expected);
    }
    let mut secret = Secret::default();
    secret[..2].copy_from_slice(&[0x13, 0x0c]);
    let cipher = Cipher::Aes192GcmEpoch;
    let algorithm = algorithm(cipher).unwrap();
    let schedule = Schedule { cipher, algorithm, epoch: 1, secret };
    assert_eq!(hex::encode(schedule.key().unwrap().iv), "86890aabf032cb59f4cfa34e");
}

/// OpenVPN's `test_ssl.c`: the first packets of the first epoch and of the fourth.
#[test]
fn known_packets() {
    let (mut sealing, _) = pair(Cipher::Aes256GcmEpoch);
    for (epoch, text, tag) in [
        (
            1,
            "3d98ba5b55f68e455addd90eb573e51852f4b555cdefaa5aa3fa246166df411deba23d2bebe44484376cfb5a61417c9ff450169758a93820",
            "a0b54cdd93ff0b01a3265ecf19d56a06",
        ),
        (
            4,
            "6eacea349ca836aab4d49ce685399a9bab964526e9cd11ece8cb7d77bdbc5c6ac4f49f36ea02e9c1f5d97644afa9118ba9f9a892623f1a13",
            "0ffff5913d39d75b18573b5748589a7d",
        ),
    ] {
        while sealing.key.epoch < epoch {
            sealing.advance().unwrap();
        }
        let packet = hex::encode(sealed(&mut sealing, TEXT));
        assert_eq!(packet, format!("{epoch:04x}000000000001{text}{tag}"));
    }
}

#[test]
fn round_trips_and_what_is_refused() {
    for cipher in Cipher::AEAD.map(|cipher| cipher.with_epochs().unwrap()) {
        let (mut sealing, mut opening) = pair(cipher);
        for len in [0, 1, 15, 16, 17, 1400] {
            let packet = sealed(&mut sealing, &TEXT.repeat(25)[..len]);
            for bit in (0..packet.len() * 8).step_by(7) {
                let mut forged = packet.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert!(opened(&mut opening, &forged).is_err(), "{cipher} {bit}");
            }
            for short in 0..PACKET_ID + TAG {
                assert_eq!(opened(&mut opening, &packet[..short]), Err(OpenError::Forged));
            }
            let other = DataHeader::V2([7, 0, 0, 0x18]);
            for header in [other, DataHeader::V1([0x30])] {
                let mut packet = packet.clone();
                let refused = opening.open(header, &mut packet, Instant::now());
                assert_eq!(refused, Err(OpenError::Forged));
            }
            // No forgery has marked an id as seen, or begun an epoch.
            assert_eq!(opened(&mut opening, &packet).unwrap(), TEXT.repeat(25)[..len]);
            assert_eq!(opened(&mut opening, &packet), Err(OpenError::Replay(Refused::Replay)));
        }
        let mut room = [0; PACKET_ID + TAG];
        assert_eq!(sealing.seal(DataHeader::V1([0x30]), &mut room, 0), Err(NotSealed::NoRoom));
    }
}

/// The epochs that are taken: the current one, the one before, and those ahead.
#[test]
fn the_peer_goes_on() {
    let (mut sealing, mut opening) = pair(Cipher::Aes128GcmEpoch);
    let mut packets = Vec::new();
    for _ in 0..12 {
        packets.push([sealed(&mut sealing, b"first"), sealed(&mut sealing, b"second")]);
        sealing.advance().unwrap();
    }
    let of = |epoch: usize| &packets[epoch - 1];
    let (gone, too_far) = (Err(OpenError::Replay(Refused::Backtrack)), Err(OpenError::Forged));
    assert_eq!(opened(&mut opening, &of(6)[0]), too_far);
    assert_eq!(opened(&mut opening, &of(1)[0]).unwrap(), b"first");
    assert_eq!(opened(&mut opening, &of(5)[0]).unwrap(), b"first");
    for epoch in 2..5 {
        assert_eq!(opened(&mut opening, &of(epoch)[0]), gone, "{epoch}");
    }
    // What was overtaken, once.
    assert_eq!(opened(&mut opening, &of(1)[1]).unwrap(), b"second");
    assert_eq!(opened(&mut opening, &of(1)[1]), Err(OpenError::Replay(Refused::Replay)));
    assert_eq!(opened(&mut opening, &of(5)[0]), Err(OpenError::Replay(Refused::Replay)));
    assert_eq!(opened(&mut opening, &of(6)[1]).unwrap(), b"second");
    assert_eq!(opened(&mut opening, &of(6)[0]).unwrap(), b"first");
    assert_eq!(opened(&mut opening, &of(1)[0]), gone);
    assert_eq!(opened(&mut opening, &of(5)[1]).unwrap(), b"second");
    assert_eq!(opened(&mut opening, &of(11)[0]), too_far);
    assert_eq!(opened(&mut opening, &of(10)[0]).unwrap(), b"first");
    let mut none = of(1)[0].clone();
    none[..EPOCH].fill(0);
    assert_eq!(opened(&mut opening, &none), gone);
    let mut uncounted = of(10)[1].clone();
    uncounted[EPOCH..PACKET_ID].fill(0);
    assert_eq!(opened(&mut opening, &uncounted), Err(OpenError::Replay(Refused::Invalid)));
}

/// An epoch ends with its cipher's limit, if that has one, or its counter; the negotiated key much later.
#[test]
fn an_epoch_ends() {
    for cipher in BOTH {
        let (mut sealing, mut opening) = pair(cipher);
        sealing.set_used(GCM_LIMIT - 1, 7);
        let packet = sealed(&mut sealing, TEXT);
        assert_eq!(packet[..PACKET_ID], [0, 1, 0, 0, 0, 0, 0, 8]);
        opened(&mut opening, &packet).unwrap();
        let next = sealed(&mut sealing, TEXT);
        let expected = if cipher.has_usage_limit() {
            [0, 2, 0, 0, 0, 0, 0, 1]
        } else {
            [0, 1, 0, 0, 0, 0, 0, 9]
        };
        assert_eq!(next[..PACKET_ID], expected);
        assert_eq!(opened(&mut opening, &next).unwrap(), TEXT);
        sealing.set_used(0, LAST_COUNTER - 1);
        let last = sealed(&mut sealing, TEXT);
        assert_eq!(last[EPOCH..PACKET_ID], [0xff; 6]);
        assert_eq!(opened(&mut opening, &last).unwrap(), TEXT);
        let next = sealed(&mut sealing, TEXT);
        assert_eq!(next[EPOCH..PACKET_ID], [0, 0, 0, 0, 0, 1]);
        assert_eq!(opened(&mut opening, &next).unwrap(), TEXT);
        assert!(!sealing.wears_out());
    }
}

#[test]
fn the_last_epoch_is_the_last() {
    let (mut sealing, _) = pair(Cipher::ChaCha20Poly1305Epoch);
    (sealing.schedule.epoch, sealing.key.epoch) = (RENEGOTIATE_AT - 1, RENEGOTIATE_AT - 1);
    assert!(!sealing.wears_out());
    sealing.advance().unwrap();
    assert!(sealing.wears_out());
    (sealing.schedule.epoch, sealing.key.epoch) = (LAST, LAST);
    sealing.set_used(0, LAST_COUNTER);
    let mut room = [0; PACKET_ID + TAG + 1];
    assert_eq!(sealing.seal(HEADER, &mut room, 1), Err(NotSealed::Exhausted));
    assert_eq!(sealing.seal(HEADER, &mut room, 1), Err(NotSealed::Exhausted));
    // At the end of the numbers there are no keys ahead.
    let (_, mut opening) = pair(Cipher::ChaCha20Poly1305Epoch);
    opening.schedule.epoch = u16::MAX - 1;
    opening.ahead.clear();
    opening.prepare();
    assert_eq!(opening.ahead.len(), 1);
}

/// Our epoch is no lower than the peer's, and goes on where the peer should begin another one.
#[test]
fn sealing_follows_opening() {
    for cipher in BOTH {
        let (mut theirs, mut opening) = pair(cipher);
        let (mut sealing, _) = pair(cipher);
        let epoch_after = |sealing: &mut Sealing, opening: &Opening| {
            sealing.follow(opening);
            sealing.follow(opening);
            sealing.key.epoch
        };
        assert_eq!(epoch_after(&mut sealing, &opening), 1);
        for _ in 0..3 {
            theirs.advance().unwrap();
        }
        opened(&mut opening, &sealed(&mut theirs, TEXT)).unwrap();
        assert_eq!(epoch_after(&mut sealing, &opening), 4);
        sealing.advance().unwrap();
        assert_eq!(epoch_after(&mut sealing, &opening), 5, "the peer has not followed yet");
        theirs.advance().unwrap();
        opened(&mut opening, &sealed(&mut theirs, TEXT)).unwrap();
        assert_eq!(epoch_after(&mut sealing, &opening), 5);
        opening.set_used(GCM_LIMIT, 0);
        let next = if cipher.has_usage_limit() { 6 } else { 5 };
        assert_eq!(epoch_after(&mut sealing, &opening), next);
        opening.set_used(0, FORGERIES_RENEGOTIATE_AT);
        assert_eq!(epoch_after(&mut sealing, &opening), 6, "once, until the peer follows");
    }
}
