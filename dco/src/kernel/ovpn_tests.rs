//! Exact bytes, little-endian host, after the netlink header.

use std::os::fd::{AsFd, AsRawFd};

use proptest::prelude::*;

use super::*;
use crate::data_channel::PeerDeletedReason;
use crate::kernel::test_data::*;

fn check(command: &Command<'_>, expected: &str) {
    let request = encode(command, 3).unwrap();
    assert_eq!(hex::encode(request.payload()), unspaced(expected), "{}", request.operation());
}

const KEY_DIRECTIONS: &str = "
    34000580 24000100 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
    0c000200 a0a1a2a3 a4a5a6a7
    34000680 24000100 404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f
    0c000200 b0b1b2b3 b4b5b6b7";

#[test]
fn peer_commands() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = hex::encode((file.as_raw_fd() as u32).to_le_bytes());
    let new = new_peer_5(file.as_fd());
    check(
        &Command::NewPeer(&new),
        &format!(
            "01010000 08000100 03000000 24000280 08000100 05000000 08000600 {fd}
             08000200 c0000201 06000500 04aa0000"
        ),
    );
    let v6 = NewPeer { remote: Some("[2001:db8::1]:1194".parse().unwrap()), ..new };
    check(
        &Command::NewPeer(&v6),
        &format!(
            "01010000 08000100 03000000 30000280 08000100 05000000 08000600 {fd}
             14000300 20010db8 00000000 00000000 00000001 06000500 04aa0000"
        ),
    );
    let tcp = NewPeer { remote: None, ..new };
    check(
        &Command::NewPeer(&tcp),
        &format!("01010000 08000100 03000000 14000280 08000100 05000000 08000600 {fd}"),
    );
    check(
        &Command::SetPeer(&SetPeer {
            id: peer_5(),
            remote: None,
            keepalive: Some(Keepalive { interval: 10, timeout: 60 }),
        }),
        "02010000 08000100 03000000 1c000280 08000100 05000000 08000d00 0a000000 08000e00 3c000000",
    );
    check(&Command::GetPeer(peer_5()), "03010000 08000100 03000000 0c000280 08000100 05000000");
    check(&Command::DumpPeers, "03010000 08000100 03000000");
    check(&Command::DelPeer(peer_5()), "04010000 08000100 03000000 0c000280 08000100 05000000");
}

#[test]
fn addresses() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = hex::encode((file.as_raw_fd() as u32).to_le_bytes());
    let new = new_peer_5(file.as_fd());
    // A mapped address is IPv4; the local address and another id to send follow the remote.
    let mapped = NewPeer {
        remote: Some("[::ffff:192.0.2.1]:1194".parse().unwrap()),
        local: Some("::ffff:192.0.2.9".parse().unwrap()),
        tx_id: PeerId::new(7),
        ..new
    };
    check(
        &Command::NewPeer(&mapped),
        &format!(
            "01010000 08000100 03000000 34000280 08000100 05000000 08000600 {fd}
             08000200 c0000201 06000500 04aa0000 08000a00 c0000209 08001800 07000000"
        ),
    );
    let scoped = NewPeer { remote: Some("[fe80::1%2]:1194".parse().unwrap()), ..new };
    check(
        &Command::NewPeer(&scoped),
        &format!(
            "01010000 08000100 03000000 38000280 08000100 05000000 08000600 {fd}
             14000300 fe800000 00000000 00000000 00000001 08000400 02000000 06000500 04aa0000"
        ),
    );
    for local in ["2001:db8::9", "192.0.2.9"] {
        let remote = new.remote.filter(|_| local.contains(':'));
        let wrong = NewPeer { remote, local: Some(local.parse().unwrap()), ..new };
        assert!(matches!(encode(&Command::NewPeer(&wrong), 3), Err(Error::Malformed { .. })));
    }
}

#[test]
fn keepalive_halves() {
    // (interval, timeout) wished for and sent
    for (wish, sent) in [
        ((0, 0), (0, 0)),
        ((10, 60), (10, 60)),
        ((10, 0), (10, 86_400)),
        ((0, 60), (86_400, 60)),
        ((100_000, 200_000), (86_400, 86_400)),
    ] {
        let keepalive = Keepalive { interval: wish.0, timeout: wish.1 };
        let expected = Keepalive { interval: sent.0, timeout: sent.1 };
        assert_eq!(kernel_keepalive(keepalive), expected);
    }
}

#[test]
fn key_commands() {
    check(
        &Command::NewKey { peer: peer_5(), slot: KeySlot::Primary, key: &key() },
        &format!(
            "06010000 08000100 03000000 8c000380 08000100 05000000 08000200 00000000
             08000300 00000000 08000400 01000000 {KEY_DIRECTIONS}"
        ),
    );
    check(
        &Command::GetKey { peer: peer_5(), slot: KeySlot::Secondary },
        "07010000 08000100 03000000 14000380 08000100 05000000 08000200 01000000",
    );
    check(&Command::SwapKeys(peer_5()), "08010000 08000100 03000000 0c000380 08000100 05000000");
    check(
        &Command::DelKey { peer: peer_5(), slot: KeySlot::Secondary },
        "0a010000 08000100 03000000 14000380 08000100 05000000 08000200 01000000",
    );
}

#[test]
fn notifications() {
    let table = [
        (
            "05010000 08000100 03000000 14000280 08000f00 02000000 08000100 05000000",
            PeerEvent::Deleted(PeerDeletedReason::Expired),
        ),
        (
            "0b010000 08000100 03000000 1c000280 08000100 05000000 08000200 c6336407
             06000500 10920000",
            PeerEvent::Floated("198.51.100.7:4242".parse().unwrap()),
        ),
        (
            "0b010000 08000100 03000000 30000280 08000100 05000000
             14000300 fe800000 00000000 00000000 00000007 08000400 02000000 06000500 10920000",
            PeerEvent::Floated("[fe80::7%2]:4242".parse().unwrap()),
        ),
        (
            "09010000 08000100 03000000 14000380 08000100 05000000 06000300 01000000",
            PeerEvent::KeyExhausted(KeyId::new(1).unwrap()),
        ),
    ];
    for (bytes, event) in table {
        let got = decode_notification(&unhex(bytes)).unwrap().unwrap();
        assert_eq!(got, Notification { ifindex: 3, peer: peer_5(), event });
    }
    assert_eq!(decode_notification(&unhex("63010000")).unwrap(), None);
    for (bytes, names) in [
        ("05010000 08000100 03000000", "PEER"),
        ("05010000 08000100 03000000 0c000280 08000100 05000000", "DEL_REASON"),
        ("05010000 08000100 03000000 14000280 08000f00 09000000 08000100 05000000", "reason 9"),
        ("05010000 08000100 03000000 14000280 08000f00 02000000 06000100 05000000", "ID"),
        ("05010000 06000100 03000000 14000280 08000f00 02000000 08000100 05000000", "IFINDEX"),
        ("09010000 08000100 03000000 14000380 08000100 05000000 06000300 09000000", "KEY_ID"),
    ] {
        let error = decode_notification(&unhex(bytes)).unwrap_err().to_string();
        assert!(error.contains(names), "{bytes}: {error}");
    }
}

#[test]
fn answers() {
    // Counters: four bytes where they fit, eight otherwise.
    let info = decode_peer(&nested(
        3,
        2,
        "08000100 05000000 08001800 06000000 08000d00 0a000000 08000e00 3c000000
         08000200 c0000201 06000500 04aa0000 08000a00 c0000209 06000c00 d8920000
         08001000 01000000 0c001100 00000000 01000000 08001200 03000000 08001300 04000000
         08001400 05000000 08001500 06000000 08001600 07000000 08001700 08000000",
    ))
    .unwrap();
    let stats = PeerStats {
        vpn_rx_bytes: 1,
        vpn_tx_bytes: 1 << 32,
        vpn_rx_packets: 3,
        vpn_tx_packets: 4,
        link_rx_bytes: 5,
        link_tx_bytes: 6,
        link_rx_packets: 7,
        link_tx_packets: 8,
    };
    assert_eq!(
        info,
        PeerInfo {
            id: peer_5(),
            tx_id: PeerId::new(6),
            remote: Some("192.0.2.1:1194".parse().unwrap()),
            local: Some("192.0.2.9".parse().unwrap()),
            local_port: Some(55442),
            vpn_ipv4: None,
            vpn_ipv6: None,
            keepalive: Keepalive { interval: 10, timeout: 60 },
            socket_netnsid: None,
            stats,
        }
    );
    let key = decode_key(&nested(
        7,
        3,
        "08000100 05000000 08000200 01000000 08000300 07000000 08000400 02000000",
    ))
    .unwrap();
    assert_eq!(
        key,
        KeyInfo {
            peer: peer_5(),
            slot: KeySlot::Secondary,
            key_id: KeyId::new(7).unwrap(),
            algorithm: Algorithm::ChaCha20Poly1305,
        }
    );
}

#[test]
fn a_key_request_shows_no_key() {
    let key = key();
    let command = Command::NewKey { peer: peer_5(), slot: KeySlot::Primary, key: &key };
    let request = encode(&command, 3).unwrap();
    assert_eq!(format!("{request:?} {command:?}").matches("..").count(), 2);
    assert!(!format!("{request:?} {command:?}").contains("1f"));
}

proptest! {
    /// Anything can come in; nothing may panic, and what decodes once decodes the same again.
    #[test]
    fn decoding_never_panics(bytes in messages()) {
        let _ = decode_peer(&bytes);
        let _ = decode_key(&bytes);
        let _ = decode_notification(&bytes);
    }
}
