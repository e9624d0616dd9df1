//! The control channel.

use std::time::Duration;

use ovpn_client::control::ErrorCounter;
use ovpn_client::control::packet::{AckList, Body, Header, Opcode, SessionId};
use ovpn_dco::KeyId;

use crate::PUSH;
use crate::sim::{Mode, Setup};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Packets out of memory that a replaced key exchange had left: CVE-2023-46850, CVE-2026-40215,
/// CVE-2026-12996 and, with dynamic tls-crypt, CVE-2026-13117. Whatever happens to key exchanges at
/// the same time, the server takes every packet for one of its client's.
#[test]
fn cve_2023_46850_packets_of_a_replaced_key() {
    for mode in Mode::ALL {
        for pause in [0, 1, 20, 21, 40, 60, 80] {
            let mut setup = Setup::new(mode, pause);
            setup.server.dynamic_tls_crypt = true;
            let mut sim = setup.start();
            sim.connect();
            sim.run_for(secs(1));
            let before = sim.server.refused;
            for _ in 0..3 {
                sim.server.renegotiate(sim.now);
                sim.run_for(Duration::from_millis(pause));
                sim.client.renegotiate(sim.now);
                sim.run_for(secs(10));
            }
            assert_eq!(sim.server.refused, before, "{mode:?}, {pause} ms");
            sim.assert_equal_keys();
        }
    }
}

/// Control characters in messages of the server reached the log, terminals and plug-ins.
#[test]
fn cve_2024_5594_junk_in_messages() {
    for junk in ["\x1b[2J", "\x07", "\n", "\r", "\u{85}", "\x7f"] {
        let mut setup = Setup::new(Mode::TlsCrypt, 1);
        setup.server.push = vec![format!("PUSH_REPLY,echo {junk}x,{PUSH}")];
        let mut sim = setup.start();
        sim.run_for(secs(5));
        assert!(sim.client_key().is_none(), "{junk:?} was taken for configuration");
        sim.server.send_text(&format!("INFO,{junk}x"));
        sim.server.send_text(&format!("AUTH_FAILED,{junk}x"));
        sim.run_for(secs(5));
        let shown = format!("{:?}", sim.events);
        assert!(!shown.contains(junk) && !shown.contains("AuthFailed"), "{shown}");
        // It is passed over, and what is sound is heard.
        sim.server.send_text(&format!("PUSH_REPLY,{PUSH}"));
        sim.run_for(secs(5));
        assert!(sim.client_key().is_some(), "{junk:?}");
    }
}

/// Early packets of a tls-crypt-v2 handshake, changed and repeated, ended the server; a client must
/// stand them as well.
#[test]
fn cve_2025_2704_tls_crypt_v2_replays() {
    for seed in 0..100 {
        let mut setup = Setup::new(Mode::TlsCryptV2 { cookie: seed % 2 == 0 }, seed);
        setup.down.duplicate = 1;
        setup.down.corrupt = 3;
        setup.down.reorder = 2;
        setup.up = setup.down.clone();
        let mut sim = setup.start();
        sim.connect();
        sim.assert_equal_keys();
    }
}

/// The check of a session id said "yes" where it was to say "no".
#[test]
fn cve_2025_13086_session_ids() {
    for mode in [Mode::None, Mode::TlsCrypt, Mode::TlsAuthBidirectional] {
        let mut sim = Setup::new(mode, 1).start();
        sim.connect();
        sim.run_for(secs(1));
        let before = sim.client.stats();
        let stranger = SessionId::new([0xee; 8]).unwrap();
        let own = sim.server.session_id();
        for (from, to) in [(stranger, own), (own, stranger), (stranger, stranger)] {
            let mut body = Vec::new();
            let acks = AckList::from_slice(&[0]);
            Body { acks, acked_session: Some(to), message_id: Some(9), payload: b"x" }
                .encode(&mut body);
            let header =
                Header { opcode: Opcode::ControlV1, key_id: KeyId::FIRST, session_id: from };
            sim.server.forge(header, &body, sim.now);
        }
        sim.run_for(secs(1));
        let refused = sim.client.stats().error(ErrorCounter::ControlChannel);
        assert_eq!(refused - before.error(ErrorCounter::ControlChannel), 3, "{mode:?}");
        assert_eq!(sim.client.stats().packets_out, before.packets_out, "{mode:?}");
    }
}

/// Acknowledgements of what was never sent, and of what was acknowledged before, stretched the time
/// to the next try without limit.
#[test]
fn cve_2026_84732_acknowledgements_out_of_nothing() {
    let mut setup = Setup::new(Mode::TlsCrypt, 1);
    setup.server.false_acks = vec![0, 0x7fff_ffff, u32::MAX];
    // A minute in which nothing of the client's comes through.
    setup.up.blackouts = vec![(Duration::from_millis(30), secs(50))];
    let mut sim = setup.start();
    for second in 1..50 {
        sim.run_for(secs(1));
        let next = sim.client_deadline.expect("something left to do");
        assert!(next <= sim.now + secs(10), "after {second} s nothing for {:?}", next - sim.now);
    }
    sim.connect();
    sim.assert_equal_keys();
}
