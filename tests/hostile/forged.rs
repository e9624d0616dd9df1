//! Packets and certificates of somebody who is not the server.

use std::time::Duration;

use nix::sys::signal::Signal;
use ovpn_client::control::packet::{Body, Header, Opcode, SessionId};
use ovpn_dco::KeyId;

use crate::client::FAILED;
use crate::host::{Host, SERVER};
use crate::server::{Peer, Scenario};

/// A second server on the same machine.
const OTHER: &str = "198.51.100.1:1195";
const OTHER_REMOTE: &str = "remote 198.51.100.1 1195\n";

fn opcode(packet: &[u8]) -> Option<Opcode> {
    Header::parse(packet).ok().map(|header| header.opcode)
}

/// A packet that acknowledges nothing.
fn forge(opcode: Opcode, session: [u8; 8], message_id: u32, payload: &[u8]) -> Vec<u8> {
    let session_id = SessionId::new(session).unwrap();
    let mut packet = Header { opcode, key_id: KeyId::FIRST, session_id }.encode().to_vec();
    let message_id = Some(message_id);
    let body = Body { acks: Default::default(), acked_session: None, message_id, payload };
    body.encode(&mut packet);
    packet
}

/// From somebody who sees nothing and guesses address and port: it cannot acknowledge our reset.
#[test]
fn a_reset_that_acknowledges_nothing_is_ignored() {
    let host = Host::new();
    let forged = |peer: &mut Peer, packet: &[u8]| {
        if opcode(packet) == Some(Opcode::HardResetClientV2) {
            peer.raw.push(forge(Opcode::HardResetServerV2, rand::random(), 0, &[]));
        }
    };
    let (_server, run) = host.connected(Scenario::new("").received(forged), "");
    run.end(Signal::SIGTERM);
}

/// From somebody who sees the packets and is faster than the server: in the place of its first TLS
/// message comes a fatal alert in clear text, in each attempt.
fn alerting() -> Scenario {
    let mut last = None;
    Scenario::new("").received(move |peer, packet| {
        let session = *peer.server.session_id().bytes();
        if opcode(packet) == Some(Opcode::ControlV1) && last.replace(session) != Some(session) {
            const BAD_CERTIFICATE: &[u8] = &[21, 3, 3, 0, 2, 2, 42];
            peer.raw.push(forge(Opcode::ControlV1, session, 1, BAD_CERTIFICATE));
        }
    })
}

#[test]
fn an_alert_in_clear_text_waits_for_the_servers_own_answer() {
    let host = Host::new();
    let (_server, run) = host.connected(alerting(), "");
    run.end(Signal::SIGTERM);
}

#[test]
fn a_foreign_certificate_costs_one_attempt() {
    let host = Host::new();
    let (_server, run) = host.connected(Scenario::new("").impostors(1), "");
    run.end(Signal::SIGTERM);
}

#[test]
fn a_foreign_certificate_leaves_the_other_servers() {
    let host = Host::new();
    let _impostor = host.serve(SERVER, Scenario::new("").impostors(usize::MAX));
    let _server = host.serve(OTHER, Scenario::new(""));
    let mut run = host.start(OTHER_REMOTE);
    run.connected();
    run.end(Signal::SIGTERM);
}

/// Whoever is told to trust the wrong authority must hear of it.
#[test]
fn a_foreign_certificate_everywhere_ends_with_the_reason() {
    let host = Host::new();
    let _impostors =
        [SERVER, OTHER].map(|address| host.serve(address, Scenario::new("").impostors(usize::MAX)));
    let ending = host.start(OTHER_REMOTE).ends(Duration::from_secs(30));
    ending.assert_failure(1, FAILED, &["certificate"]);
}
