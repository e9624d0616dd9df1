//! Servers that misbehave, and strangers who send packets. Whatever they do, the client neither
//! panics nor grows, and a sound connection next to it goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::time::Duration;

use ovpn_client::control::packet::{AckList, Body, Header, Opcode, SessionId};
use ovpn_client::control::{
    ControlError, ErrorCounter, Event, LimitReached, Output, PeerMisbehaved,
};
use ovpn_client::profile::Digest;
use ovpn_client::tls::TlsErrorKind;
use ovpn_dco::KeyId;
use ovpn_test_support::sim;
use ovpn_test_support::sim::{Mode, Setup, Sim};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn key(id: u8) -> KeyId {
    KeyId::new(id).unwrap()
}

fn stranger() -> SessionId {
    SessionId::new([0xee; 8]).unwrap()
}

fn closed(sim: &Sim) -> Option<ControlError> {
    sim.events.iter().find_map(|(_, event)| match event {
        Event::Closed(error) => Some(error.clone()),
        _ => None,
    })
}

/// A packet body.
fn body(acks: &[u32], of: SessionId, message_id: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let acks = AckList::from_slice(acks);
    Body { acks, acked_session: Some(of), message_id, payload }.encode(&mut out);
    out
}

/// The client's session id, from its first packet.
fn client_id(sim: &mut Sim) -> SessionId {
    let mut packet = Vec::new();
    let first = sim.client.poll_output(sim.now, Some(&mut packet));
    assert!(matches!(first, Output::Transmit), "{first:?}");
    sim.up.send(packet.clone(), sim.now);
    Header::parse(&packet).unwrap().session_id
}

/// Connected, and the client's session id.
fn connected(mode: Mode, seed: u64) -> (Sim, SessionId) {
    let mut sim = Setup::new(mode, seed).start();
    let id = client_id(&mut sim);
    sim.connect();
    sim.run_for(secs(1));
    (sim, id)
}

/// The connection still works.
fn assert_alive(sim: &mut Sim) {
    assert_eq!(closed(sim), None);
    let keys = sim.client_keys().len();
    sim.client.renegotiate(sim.now);
    sim.run_until(secs(60), "another key", |sim| {
        sim.client_keys().len() == keys + 1 && sim.server.active_key() == sim.client_key()
    });
    sim.assert_equal_keys();
}

#[test]
fn wrong_session_ids_are_ignored() {
    let (mut sim, client) = connected(Mode::TlsCrypt, 1);
    let server = sim.server.session_id();
    let before = sim.client.stats();
    for (from, to) in [(stranger(), client), (server, stranger()), (stranger(), stranger())] {
        for opcode in [Opcode::ControlV1, Opcode::AckV1] {
            let header = Header { opcode, key_id: KeyId::FIRST, session_id: from };
            let id = (opcode == Opcode::ControlV1).then_some(7);
            sim.server.forge(header, &body(&[0, 1], to, id, b"x"), sim.now);
        }
    }
    sim.run_for(secs(1));
    let errors = sim.client.stats().error(ErrorCounter::ControlChannel);
    assert_eq!(errors - before.error(ErrorCounter::ControlChannel), 6);
    assert_eq!(sim.client.stats().packets_out, before.packets_out, "not even acknowledged");
    assert_alive(&mut sim);
}

#[test]
fn another_server_cannot_take_over() {
    for mode in [Mode::None, Mode::TlsCrypt] {
        let (mut sim, client) = connected(mode, 2);
        let header = Header {
            opcode: Opcode::HardResetServerV2,
            key_id: KeyId::FIRST,
            session_id: stranger(),
        };
        sim.server.forge(header, &body(&[0], client, Some(0), &[]), sim.now);
        sim.run_for(secs(1));
        assert_alive(&mut sim);
    }
}

/// A server may acknowledge our reset in a packet of its own, before or behind its reset.
#[test]
fn an_acknowledgement_of_its_own_opens_a_connection() {
    for mode in [Mode::None, Mode::TlsCrypt] {
        for ack_first in [false, true] {
            let mut sim = Setup::new(mode, 23).start();
            let client = client_id(&mut sim);
            let header = |opcode| Header { opcode, key_id: KeyId::FIRST, session_id: stranger() };
            let mut reset = Vec::new();
            let nothing = AckList::default();
            Body { acks: nothing, acked_session: None, message_id: Some(0), payload: &[] }
                .encode(&mut reset);
            let mut packets = [
                (header(Opcode::HardResetServerV2), reset),
                (header(Opcode::AckV1), body(&[0], client, None, &[])),
            ];
            if ack_first {
                packets.reverse();
            }
            for (header, body) in packets {
                sim.server.forge(header, &body, sim.now);
            }
            sim.server.config.stateless = true;
            sim.run_until(secs(1), "TLS", |sim| sim.client.stats().packets_out >= 3);
            assert!(sim.has(|e| matches!(e, Event::ServerContacted)), "{mode:?} {ack_first}");
        }
    }
}

/// Only a hard reset, or its acknowledgement, opens a connection.
#[test]
fn nothing_else_comes_first() {
    let mut sim = Setup::new(Mode::TlsCrypt, 3).start();
    let client = client_id(&mut sim);
    for (opcode, key_id, id) in [
        (Opcode::ControlV1, 0, Some(1)),
        (Opcode::ControlV1, 0, Some(0)),
        (Opcode::SoftResetV1, 1, Some(0)),
        (Opcode::SoftResetV1, 0, Some(0)),
        (Opcode::HardResetServerV2, 1, Some(0)),
        (Opcode::HardResetServerV2, 0, Some(1)),
        (Opcode::HardResetClientV2, 0, Some(0)),
        (Opcode::HardResetClientV3, 0, Some(0)),
        (Opcode::ControlWkcV1, 0, Some(1)),
    ] {
        let header = Header { opcode, key_id: key(key_id), session_id: stranger() };
        let mode = sim.server.config.mode;
        let mut wrapper = ovpn_client::control::wrap::Wrapper::new(
            &mode.server(),
            ovpn_client::control::wrap::Side::Server,
            sim::REPLAY_WINDOW,
        )
        .unwrap();
        let mut packet = Vec::new();
        let body = body(&[0], client, id, &[]);
        wrapper.wrap(opcode, &header.encode(), &body, 1, &mut packet).unwrap();
        assert!(!sim.client.handle_packet(&mut packet, sim.now), "{opcode:?}");
    }
    sim.connect();
    assert_alive(&mut sim);
}

#[test]
fn replayed_packets_are_counted_and_dropped() {
    for mode in [Mode::TlsAuth(Digest::Sha256), Mode::TlsCrypt] {
        let mut setup = Setup::new(mode, 4);
        setup.down.duplicate = 1;
        setup.up.duplicate = 1;
        let mut sim = setup.start();
        sim.connect();
        assert!(sim.client.stats().error(ErrorCounter::Replay) > 5);
        assert!(sim.server.refused > 5);
        assert_eq!(sim.client.stats().retransmissions, 0);
        assert_alive(&mut sim);
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent_do_nothing() {
    let mut setup = Setup::new(Mode::TlsCrypt, 5).stressed();
    setup.server.false_acks = vec![100, 1_000_000, u32::MAX];
    let mut sim = setup.start();
    sim.connect();
    assert_alive(&mut sim);
}

/// The next messages acknowledged before they are sent: they must still arrive.
#[test]
fn early_acknowledgements_lose_nothing() {
    let mut setup = Setup::new(Mode::TlsCrypt, 6);
    setup.server.false_acks = (2..6).collect();
    let mut sim = setup.start();
    sim.run_for(secs(70));
    // Messages that are acknowledged falsely in flight may be lost; ours go out at least once.
    assert_eq!(closed(&sim), None);
    assert!(sim.client_key().is_some());
}

#[test]
fn strangers_without_the_key_are_refused() {
    for mode in [Mode::TlsAuth(Digest::Sha1), Mode::TlsCrypt, Mode::TlsCryptV2 { cookie: true }] {
        let (mut sim, client) = connected(mode, 7);
        let before = sim.client.stats();
        let mut rng = StdRng::seed_from_u64(7);
        for opcode in [Opcode::ControlV1, Opcode::AckV1, Opcode::SoftResetV1] {
            let key_id = if opcode == Opcode::SoftResetV1 { key(1) } else { KeyId::FIRST };
            let header = Header { opcode, key_id, session_id: sim.server.session_id() };
            let mut packet = header.encode().to_vec();
            let mut tag = [0; 72];
            rng.fill_bytes(&mut tag);
            packet.extend_from_slice(&tag);
            packet.extend_from_slice(&body(&[0], client, Some(0), &[]));
            assert!(!sim.client.handle_packet(&mut packet, sim.now));
        }
        let refused = sim.client.stats().error(ErrorCounter::Hmac);
        assert_eq!(refused - before.error(ErrorCounter::Hmac), 3);
        assert_alive(&mut sim);
    }
}

/// Every packet of a handshake arrives cut at every place, and with noise behind the cut, before
/// it arrives whole.
#[test]
fn truncated_packets_do_no_harm() {
    for mode in Mode::ALL {
        let mut sim = Setup::new(mode, 8).start();
        let mut rng = StdRng::seed_from_u64(8);
        // Without wrapping nothing tells a cut message from a whole one, but headers do.
        let limit = if mode == Mode::None { 9 } else { usize::MAX };
        let end = sim.now + secs(1);
        while sim.now < end {
            sim.drain();
            let arrivals = [sim.up.next_arrival(), sim.down.next_arrival()];
            sim.now = arrivals.into_iter().flatten().min().unwrap_or(end);
            while let Some(packet) = sim.up.receive(sim.now) {
                sim.server.handle_packet(packet, sim.now);
            }
            while let Some(mut packet) = sim.down.receive(sim.now) {
                for len in 0..packet.len().min(limit) {
                    let mut cut = packet[..len].to_vec();
                    assert!(!sim.client.handle_packet(&mut cut, sim.now), "{mode:?} {len}");
                    cut = packet[..len].to_vec();
                    cut.resize(packet.len(), 0);
                    rng.fill_bytes(&mut cut[len..]);
                    if mode != Mode::None && cut != packet {
                        assert!(!sim.client.handle_packet(&mut cut, sim.now), "{mode:?} {len}");
                    }
                }
                assert!(sim.client.handle_packet(&mut packet, sim.now), "{mode:?}");
            }
        }
        assert!(sim.client_key().is_some(), "{mode:?}");
        assert_alive(&mut sim);
    }
}

#[test]
fn noise_does_no_harm() {
    for mode in Mode::ALL {
        let (mut sim, _) = connected(mode, 9);
        let mut rng = StdRng::seed_from_u64(9);
        let server = sim.server.session_id();
        for _ in 0..2000 {
            let mut packet = vec![0; rng.random_range(0..200)];
            rng.fill_bytes(&mut packet);
            if packet.len() > 9 && mode != Mode::None {
                let opcode = if rng.random() { Opcode::ControlV1 } else { Opcode::AckV1 };
                let header = Header { opcode, key_id: KeyId::FIRST, session_id: server };
                packet[..9].copy_from_slice(&header.encode());
            }
            assert!(!sim.client.handle_packet(&mut packet, sim.now));
        }
        assert_alive(&mut sim);
    }
}

#[test]
fn truncated_key_message_ends_with_the_hand_window() {
    let mut setup = Setup::new(Mode::TlsCrypt, 10);
    setup.server.bad_key_message = Some(vec![0, 0, 0, 0, 2, 9, 9, 9]);
    let mut sim = setup.start();
    sim.run_for(secs(100));
    assert_eq!(closed(&sim), Some(ControlError::HandshakeTimeout(secs(60))));
}

#[test]
fn other_key_methods_are_refused() {
    let mut setup = Setup::new(Mode::TlsCrypt, 11);
    setup.server.bad_key_message = Some(vec![0, 0, 0, 0, 1, 9, 9, 9]);
    let mut sim = setup.start();
    sim.run_for(secs(10));
    assert_eq!(closed(&sim), Some(PeerMisbehaved::KeyMethod.into()));
}

#[test]
fn garbage_in_tls_ends_with_an_alert() {
    let mut sim = Setup::new(Mode::None, 12).start();
    sim.run_until(secs(1), "contact", |sim| sim.has(|e| matches!(e, Event::ServerContacted)));
    sim.run_until(secs(1), "hello", |sim| sim.server.active_key().is_none());
    sim.server.send_garbage(&[2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
    sim.run_for(secs(10));
    match closed(&sim) {
        Some(ControlError::Tls(error)) => assert_eq!(error.kind, TlsErrorKind::Protocol),
        other => sim.fail(&format!("{other:?}")),
    }
    assert_eq!(sim.server.errors, ["bad record mac"], "the alert arrived");
    assert_eq!(sim.client_deadline, None);
    assert_eq!(sim.client.stats().error(ErrorCounter::Ssl), 1);
}

#[test]
fn garbage_after_the_first_key_ends_the_connection_too() {
    let (mut sim, _) = connected(Mode::TlsCrypt, 13);
    sim.server.send_garbage(&[4, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
    sim.run_for(secs(1));
    assert!(matches!(closed(&sim), Some(ControlError::Tls(_))));
}

#[test]
fn garbage_in_a_renegotiation_keeps_the_old_key() {
    let (mut sim, _) = connected(Mode::TlsCrypt, 14);
    sim.server.renegotiate(sim.now);
    sim.server.send_garbage(&[2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
    sim.run_for(secs(10));
    assert!(sim.has(|e| matches!(e, Event::RenegotiationFailed { .. })));
    sim.run_until(secs(200), "a later try", |sim| sim.client_keys().len() == 2);
    assert_eq!(closed(&sim), None);
}

#[test]
fn endless_text_is_cut_off() {
    let (mut sim, _) = connected(Mode::TlsCrypt, 15);
    for _ in 0..40 {
        sim.server.send_plaintext(&[b'x'; 2000]);
    }
    sim.run_for(secs(60));
    assert_eq!(closed(&sim), Some(PeerMisbehaved::EndlessText(65_536).into()));
}

#[test]
fn endless_push_is_cut_off() {
    let mut setup = Setup::new(Mode::None, 16);
    setup.server.push.clear();
    let mut sim = setup.start();
    sim.run_until(secs(5), "request", |sim| !sim.server.texts.is_empty());
    let part = format!("PUSH_REPLY,{},push-continuation 2", "x".repeat(15_000));
    for _ in 0..60 {
        sim.server.send_text(&part);
    }
    sim.run_for(secs(59));
    assert_eq!(closed(&sim), Some(LimitReached::PushedBytes(786_432).into()));
}

#[test]
fn malformed_early_negotiation_is_refused() {
    for payload in [&[0][..], &[0, 1, 0, 9, 0], &[0, 1, 0, 1, 1]] {
        let mut setup = Setup::new(Mode::TlsCryptV2 { cookie: false }, 17);
        setup.server.reset_payload = Some(payload.to_vec());
        let mut sim = setup.start();
        sim.run_for(secs(10));
        let expected = Some(PeerMisbehaved::EarlyNegotiation.into());
        assert_eq!(closed(&sim), expected, "{payload:?}");
        assert_eq!(sim.client.stats().error(ErrorCounter::EarlyNegotiation), 1);
    }
}

#[test]
fn soft_resets_out_of_turn_are_ignored() {
    let (mut sim, client) = connected(Mode::TlsCrypt, 18);
    let server = sim.server.session_id();
    let before = sim.client.stats();
    for round in 0..50 {
        for id in 2..8 {
            let header =
                Header { opcode: Opcode::SoftResetV1, key_id: key(id), session_id: server };
            sim.server.forge(header, &body(&[0], client, Some(0), &[]), sim.now);
        }
        sim.run_for(Duration::from_millis(round));
    }
    let errors = sim.client.stats().error(ErrorCounter::KeyState);
    assert_eq!(errors - before.error(ErrorCounter::KeyState), 300);
    assert_alive(&mut sim);
}

/// A server starts renegotiations and never goes on with them.
#[test]
fn abandoned_soft_resets_cost_little() {
    let (mut sim, client) = connected(Mode::TlsCrypt, 19);
    let server = sim.server.session_id();
    for id in (1..8).cycle().take(50) {
        let header = Header { opcode: Opcode::SoftResetV1, key_id: key(id), session_id: server };
        sim.server.forge(header, &body(&[], client, Some(0), &[]), sim.now);
        sim.run_for(secs(20));
    }
    assert!(sim.client.stats().packets_out < 1000, "{:?}", sim.client.stats());
    assert_eq!(closed(&sim), None);
}

#[test]
fn messages_far_ahead_are_not_stored() {
    let (mut sim, client) = connected(Mode::TlsCrypt, 20);
    let server = sim.server.session_id();
    let before = sim.client.stats().packets_out;
    for id in 1000..3000 {
        let header = Header { opcode: Opcode::ControlV1, key_id: KeyId::FIRST, session_id: server };
        sim.server.forge(header, &body(&[0], client, Some(id), &[0; 1000]), sim.now);
    }
    sim.run_for(secs(1));
    assert_eq!(sim.client.stats().packets_out, before, "neither stored nor acknowledged");
    assert_alive(&mut sim);
}

#[test]
fn an_alert_of_the_server_names_itself() {
    let mut sim = Setup::new(Mode::TlsCrypt, 21).start();
    sim.run_until(secs(1), "contact", |sim| sim.has(|e| matches!(e, Event::ServerContacted)));
    // A fake TLS alert record: kind 5, length, checksum, text.
    let text = b"unknown ca";
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text);
    let record = [&[5, 0, text.len() as u8][..], &digest.as_ref()[..8], text].concat();
    sim.server.send_garbage(&record);
    sim.run_for(secs(1));
    match closed(&sim) {
        Some(ControlError::Tls(error)) => {
            assert_eq!((error.kind, &*error.to_string()), (TlsErrorKind::Alert, "unknown ca"));
        }
        other => sim.fail(&format!("{other:?}")),
    }
}

#[test]
fn nothing_follows_the_end() {
    let mut setup = Setup::new(Mode::TlsCrypt, 22);
    setup.server.bad_key_message = Some(b"nonsense".to_vec());
    let mut sim = setup.start();
    sim.run_for(secs(10));
    assert!(closed(&sim).is_some());
    let events = sim.events.len();
    let sent = sim.client.stats().packets_out;
    sim.client.renegotiate(sim.now);
    assert!(!sim.client.send_exit(sim.now));
    sim.client.respond("x", sim.now);
    sim.run_for(secs(1000));
    assert_eq!((sim.events.len(), sim.client.stats().packets_out), (events, sent));
}
