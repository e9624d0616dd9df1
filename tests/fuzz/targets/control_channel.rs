//! The whole control channel, every way of wrapping, over a network and with a server that do as the
//! input says: losses, changes, forgeries with and without the keys, texts, renegotiations of both
//! sides. Afterwards the connection is over and says why, or it works as if nothing had happened.

use std::time::Duration;

use ovpn_client::control::packet::{Header, Opcode};
use ovpn_client::control::{AppMessage, ControlError, Event};
use ovpn_client::profile::Digest;
use ovpn_client::secret::{Credentials, Secret};
use ovpn_dco::KeyId;
use ovpn_test_support::sim::net::Conditions;
use ovpn_test_support::sim::{Mode, Setup, Sim};

/// Longer inputs say nothing new.
const MAX_STEPS: usize = 48;
/// Largest packet: an Ethernet frame's, which the first packets of tls-crypt-v2 may fill.
const MAX_PACKET: usize = 1472;
/// Everything that a run can tell.
const MAX_EVENTS: usize = 4000;

/// Input: the way of wrapping and what the server can do (one byte each), then steps: what (one
/// byte), how much (one byte), and as many bytes as a text or packet needs behind their number.
pub fn run(data: &[u8]) {
    let Some((&[mode, features], mut input)) = data.split_first_chunk() else { return };
    let mut sim = start(mode, features);
    // Nobody with the keys has lied.
    let mut honest = true;
    for _ in 0..MAX_STEPS {
        let Some((&[what, amount], rest)) = input.split_first_chunk() else { break };
        input = rest;
        match what % 12 {
            0 => sim.run_for(Duration::from_millis(u64::from(amount) * 50)),
            1 => sim.up.conditions = conditions(amount, &sim),
            2 => sim.down.conditions = conditions(amount, &sim),
            3 => sim.client.renegotiate(sim.now),
            4 => sim.server.renegotiate(sim.now),
            5 => {
                honest = false;
                let text = take(&mut input, amount).to_vec();
                if sim.server.active_key().is_some() {
                    sim.server.send_plaintext(&text);
                }
            }
            6 => {
                honest = false;
                forge(&mut sim, amount, take(&mut input, amount));
            }
            7 => {
                let mut packet = take(&mut input, amount).to_vec();
                // Only what wraps tells a stranger's packets from the server's.
                honest &= sim.server.config.mode != Mode::None;
                if !packet.is_empty() && !matches!(packet[0] >> 3, 6 | 9) {
                    sim.client.handle_packet(&mut packet, sim.now);
                }
            }
            8 => {
                honest = false;
                let bytes = take(&mut input, amount).to_vec();
                if sim.server.active_key().is_some() {
                    sim.server.send_garbage(&bytes);
                }
            }
            9 => {
                let protocol = "fuzz".to_owned();
                let payload = take(&mut input, amount).to_vec();
                // A server that has agreed to none gets none.
                let _ = sim.client.send_app_message(&AppMessage { protocol, payload }, sim.now);
            }
            10 => sim.client.respond(&"x".repeat(usize::from(amount)), sim.now),
            _ => give(&mut sim, credentials(amount)),
        }
        sim.drain();
        if sim.events.len() > MAX_EVENTS {
            sim.fail("endless events");
        }
    }
    verdict(&mut sim, honest);
}

fn verdict(sim: &mut Sim, honest: bool) {
    sim.up.conditions = conditions(0, sim);
    sim.down.conditions = conditions(0, sim);
    // Longer than any exchange may take, so that one that is stuck has been given up.
    sim.run_for(Duration::from_secs(150));
    if sim.largest > MAX_PACKET {
        sim.fail("a packet that does not fit");
    }
    let closed = sim.events.iter().find_map(|(_, event)| match event {
        Event::Closed(error) => Some(error.clone()),
        _ => None,
    });
    if let Some(error) = closed {
        if sim.client_deadline.is_some() || error.to_string().contains(char::is_control) {
            sim.fail("over, but not at rest");
        }
        // Losses and strangers cost time, and nothing else.
        use ControlError as E;
        let late = matches!(
            error,
            E::HandshakeTimeout(_)
                | E::HelloUnanswered(_)
                | E::NoPushReply(_)
                | E::NoLogin(_)
                | E::KeyExpired(_)
        );
        if honest && !late {
            sim.fail(&format!("ended by {error}"));
        }
        return;
    }
    if !honest {
        return;
    }
    if sim.client_key().is_none() {
        sim.fail("neither connected nor over");
    }
    sim.client.renegotiate(sim.now);
    // Which it may have forgotten.
    give(sim, credentials(0));
    sim.run_for(Duration::from_secs(150));
    if sim.client_key() != sim.server.active_key() {
        sim.fail("different keys");
    }
}

fn start(mode: u8, features: u8) -> Sim {
    let modes = Mode::ALL.len() + 1;
    let mode =
        Mode::ALL.get(usize::from(mode) % modes).copied().unwrap_or(Mode::TlsAuth(Digest::Sha224));
    let mut setup = Setup::new(mode, u64::from(features));
    let config = &mut setup.server;
    config.tls_ekm = features & 1 != 0;
    config.dynamic_tls_crypt = features & 2 != 0;
    config.unsolicited_push = features & 4 != 0;
    config.short_key_message = features & 8 != 0;
    if mode == Mode::None || mode == Mode::TlsCrypt {
        config.stateless = features & 16 != 0;
    }
    setup.forget_login = features & 32 != 0;
    if features & 64 != 0 {
        setup = setup.tcp();
    }
    setup.start()
}

/// To the key exchange that waits, or else the next one.
fn give(sim: &mut Sim, login: Credentials) {
    sim.client.log_in(&login, sim.now);
    sim.login = Some(login);
}

fn credentials(len: u8) -> Credentials {
    let password = Secret::new("y".repeat(usize::from(len)));
    Credentials { username: "jane".to_owned(), password }
}

/// What a link does to packets from now on. Over TCP it is only slow.
fn conditions(bits: u8, sim: &Sim) -> Conditions {
    let tcp = sim.server.config.retransmit.is_none();
    let rate = |bit: u8, one_in| if !tcp && bits & bit != 0 { one_in } else { 0 };
    Conditions {
        drop: rate(1, 3),
        corrupt: rate(2, 5),
        duplicate: rate(4, 2),
        reorder: rate(8, 3),
        latency: Duration::from_millis(if bits & 16 != 0 { 900 } else { 20 }),
        // The only protection of packets that nothing wraps.
        checksum: sim.server.config.mode == Mode::None,
        ..Conditions::perfect()
    }
}

/// A packet of any content with the server's own wrapping.
fn forge(sim: &mut Sim, kind: u8, body: &[u8]) {
    if !sim.has(|event| matches!(event, Event::ServerContacted)) {
        return;
    }
    let opcodes =
        [Opcode::ControlV1, Opcode::AckV1, Opcode::SoftResetV1, Opcode::HardResetServerV2];
    let header = Header {
        opcode: opcodes[usize::from(kind & 3)],
        key_id: KeyId::new(kind >> 2 & 7).expect("three bits"),
        session_id: sim.server.session_id(),
    };
    sim.server.forge(header, body, sim.now);
}

/// As many bytes as the amount says, or what is left.
fn take<'a>(input: &mut &'a [u8], amount: u8) -> &'a [u8] {
    let (bytes, rest) = input.split_at(usize::from(amount).min(input.len()));
    *input = rest;
    bytes
}
