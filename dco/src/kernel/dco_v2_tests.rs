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

#[test]
fn peer_commands() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = hex::encode((file.as_raw_fd() as u32).to_le_bytes());
    let new = new_peer_5(file.as_fd());
    check(
        &Command::NewPeer(&new),
        &format!(
            "01010000 08000100 03000000 28000280 08000100 05000000 08000300 {fd}
             14000200 020004aa c0000201 00000000 00000000"
        ),
    );
    let v6 = NewPeer {
        remote: Some("[fe80::1%2]:1194".parse().unwrap()),
        local: Some("fe80::2".parse().unwrap()),
        ..new
    };
    check(
        &Command::NewPeer(&v6),
        &format!(
            "01010000 08000100 03000000 48000280 08000100 05000000 08000300 {fd}
             20000200 0a0004aa 00000000 fe800000 00000000 00000000 00000001 02000000
             14000600 fe800000 00000000 00000000 00000002"
        ),
    );
    let keepalive = Keepalive { interval: 10, timeout: 60 };
    let set = SetPeer { id: peer_5(), remote: None, keepalive: Some(keepalive) };
    check(
        &Command::SetPeer(&set),
        "02010000 08000100 03000000 1c000380 08000100 05000000 08000200 0a000000 08000300 3c000000",
    );
    check(&Command::DelPeer(peer_5()), "03010000 08000100 03000000 0c000480 08000200 05000000");
    check(&Command::GetPeer(peer_5()), "07010000 08000100 03000000 0c000880 08000100 05000000");
    check(&Command::DumpPeers, "07010000 08000100 03000000");
}

#[test]
fn key_commands() {
    check(
        &Command::NewKey { peer: peer_5(), slot: KeySlot::Primary, key: &key() },
        "04010000 08000100 03000000 8c000580 08000100 05000000 05000200 00000000
         05000300 00000000 06000400 01000000
         34000580 24000100 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
         0c000200 a0a1a2a3 a4a5a6a7
         34000680 24000100 404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f
         0c000200 b0b1b2b3 b4b5b6b7",
    );
    check(&Command::SwapKeys(peer_5()), "05010000 08000100 03000000 0c000680 08000100 05000000");
    check(
        &Command::DelKey { peer: peer_5(), slot: KeySlot::Secondary },
        "06010000 08000100 03000000 14000780 08000100 05000000 05000200 01000000",
    );
}

#[test]
fn what_this_module_lacks() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let new = NewPeer { tx_id: PeerId::new(6), ..new_peer_5(file.as_fd()) };
    let set = SetPeer { id: peer_5(), remote: new.remote, keepalive: None };
    for command in [
        Command::NewPeer(&new),
        Command::SetPeer(&set),
        Command::GetKey { peer: peer_5(), slot: KeySlot::Primary },
    ] {
        let error = encode(&command, 3).unwrap_err();
        assert!(matches!(error, Error::Unsupported { by: "ovpn-dco-v2", .. }), "{error}");
    }
}

#[test]
fn notifications() {
    let got = decode_notification(&unhex(
        "03010000 08000100 03000000 14000480 05000100 02000000 08000200 05000000",
    ));
    assert_eq!(
        got.unwrap().unwrap(),
        Notification {
            ifindex: 3,
            peer: peer_5(),
            event: PeerEvent::Deleted(PeerDeletedReason::Expired),
        }
    );
    assert_eq!(decode_notification(&unhex("01010000")).unwrap(), None);
}

#[test]
fn answers() {
    // With a padding attribute (type 0) in front of the first 64-bit counter.
    let info = decode_peer(&nested(
        7,
        8,
        "08000100 05000000 14000200 020004aa c0000201 00000000 00000000
         08000500 c0000209 06000600 d8920000 08000700 0a000000 08000800 3c000000 04000000
         0c000900 01000000 00000000 0c000a00 02000000 01000000 08000b00 03000000 08000c00 04000000
         0c000d00 05000000 00000000 0c000e00 06000000 00000000 08000f00 07000000 08001000 08000000",
    ))
    .unwrap();
    let stats = PeerStats {
        vpn_rx_bytes: 1,
        vpn_tx_bytes: 2 | 1 << 32,
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
            tx_id: None,
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
}

#[test]
fn socket_addresses_come_back() {
    for address in ["192.0.2.1:1", "[2001:db8::1]:65535", "[fe80::1%9]:1194"] {
        let address: SocketAddr = address.parse().unwrap();
        assert_eq!(decode_sockaddr(&sockaddr(address)), Some(address));
    }
    assert_eq!(decode_sockaddr(&[2, 0, 4, 0xaa, 1, 2, 3, 4]), None);
    assert_eq!(decode_sockaddr(&[]), None);
}

proptest! {
    /// Anything can come in; nothing may panic.
    #[test]
    fn decoding_never_panics(bytes in messages()) {
        let _ = decode_peer(&bytes);
        let _ = decode_notification(&bytes);
    }
}
