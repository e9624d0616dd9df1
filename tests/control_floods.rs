//! The control channel among data packets, copies and forged packets: connections and renegotiations
//! go on as without them, and whoever has not shown that it receives what we send makes us send
//! nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use ovpn_client::control::packet::{AckList, Body, Header, Opcode, SessionId};
use ovpn_client::control::wrap::{Side, Wrapper};
use ovpn_client::control::{ControlChannel, Event, Output};
use ovpn_dco::KeyId;
use ovpn_test_support::sim::{Mode, REPLAY_WINDOW, Setup, Sim, for_each_seed};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const SEEDS: u64 = 60;

const OPCODES: [Opcode; 8] = [
    Opcode::HardResetClientV2,
    Opcode::HardResetClientV3,
    Opcode::HardResetServerV2,
    Opcode::HardResetServerV2,
    Opcode::SoftResetV1,
    Opcode::ControlV1,
    Opcode::AckV1,
    Opcode::ControlWkcV1,
];

/// A packet of somebody who knows neither session id: well-formed, by one who has the wrapping key
/// (as everybody who uses the same server has), or nonsense.
fn forged(mode: Mode, rng: &mut StdRng) -> Vec<u8> {
    let mut noise = vec![0; rng.random_range(1..120)];
    rng.fill_bytes(&mut noise);
    if rng.random_range(0..4) == 0 {
        return noise;
    }
    let session =
        |rng: &mut StdRng| SessionId::new(rng.random::<[u8; 8]>().map(|b| b | 1)).unwrap();
    let opcode = OPCODES[rng.random_range(0..OPCODES.len())];
    let key_id = KeyId::new(if rng.random() { 0 } else { rng.random_range(0..8) }).unwrap();
    let header = Header { opcode, key_id, session_id: session(rng) };
    let ids: Vec<u32> = (0..rng.random_range(0..4)).collect();
    let body = Body {
        acks: AckList::from_slice(&ids),
        acked_session: (!ids.is_empty()).then(|| session(rng)),
        message_id: (opcode != Opcode::AckV1).then(|| rng.random_range(0..3)),
        payload: &noise,
    };
    let mut bytes = Vec::new();
    body.encode(&mut bytes);
    let mut wrapper = Wrapper::new(&mode.server(), Side::Server, REPLAY_WINDOW).unwrap();
    let mut packet = Vec::new();
    wrapper.wrap(opcode, &header.encode(), &bytes, rng.random(), &mut packet).unwrap();
    packet
}

/// A packet that belongs to the data channel.
fn data(rng: &mut StdRng) -> Vec<u8> {
    let mut packet = vec![0; rng.random_range(1..1400)];
    rng.fill_bytes(&mut packet);
    packet[0] = (if rng.random() { 6 } else { 9 }) << 3 | rng.random_range(0..8);
    packet
}

/// What the client sends by `end`, with `packets` coming in every 10 ms.
fn sent(
    client: &mut ControlChannel,
    start: Instant,
    mut packets: impl FnMut() -> Vec<Vec<u8>>,
) -> (u64, u64) {
    let mut out = Vec::new();
    for step in 0..4500 {
        let now = start + Duration::from_millis(10) * step;
        for mut packet in packets() {
            assert!(!client.handle_packet(&mut packet, now), "{packet:?}");
        }
        client.handle_timeout(now);
        loop {
            match client.poll_output(now, Some(&mut out)) {
                Output::Transmit => {}
                Output::Event(event) => panic!("{event:?}"),
                Output::Wait(_) => break,
            }
        }
    }
    (client.stats().packets_out, client.stats().bytes_out)
}

/// To a victim whose address somebody forges, the client sends its own packets and no more.
#[test]
fn strangers_make_the_client_send_nothing() {
    for mode in Mode::ALL {
        let new = || Setup::new(mode, 1).start();
        let quiet = {
            let mut sim = new();
            sent(&mut sim.client, sim.start, Vec::new)
        };
        let mut sim = new();
        let mut rng = StdRng::seed_from_u64(2);
        let flood = || (0..8).map(|_| forged(mode, &mut rng)).collect();
        let flooded = sent(&mut sim.client, sim.start, flood);
        assert_eq!(flooded, quiet, "{mode:?}");
    }
}

/// Takes the client from `from` on through everything up to its fourth key, with a flood beside it.
fn connect_and_renegotiate(mode: Mode, seed: u64) {
    let mut setup = Setup::new(mode, seed).stressed();
    setup.server.tls_ekm = seed.is_multiple_of(2);
    setup.server.dynamic_tls_crypt = seed.is_multiple_of(3);
    let mut sim = setup.start();
    let mut rng = StdRng::seed_from_u64(seed);
    let flood = move |sim: &mut Sim| {
        for _ in 0..rng.random_range(0..6) {
            let mut packet = if rng.random() { data(&mut rng) } else { forged(mode, &mut rng) };
            assert!(!sim.client.handle_packet(&mut packet, sim.now));
        }
    };
    sim.beside = Some(Box::new(flood));
    sim.connect();
    for key in 1..4 {
        if key % 2 == 0 {
            sim.client.renegotiate(sim.now)
        } else {
            sim.server.renegotiate(sim.now)
        }
        sim.wait_for_key(key);
        sim.assert_equal_keys();
    }
    let stats = sim.client.stats();
    let bad = sim.has(|e| matches!(e, Event::RenegotiationFailed { .. } | Event::Closed(_)));
    if bad || sim.server.transmissions > 10 || stats.retransmissions > 100 {
        sim.fail("too much trouble");
    }
}

#[test]
fn floods_and_data_change_nothing() {
    for mode in Mode::ALL {
        for_each_seed(SEEDS, |seed| connect_and_renegotiate(mode, seed));
    }
}

/// What a session tells waits in a queue without an end: the server fills it slowly.
#[test]
fn a_server_that_talks_without_end_is_seldom_told_of() {
    const AT_ONCE: usize = 32;
    const SECONDS: usize = 30;
    for text in [
        "INFO,x",
        "INFO_PRE,CR_TEXT:E:x",
        "INFO_PRE,OPEN_URL:https://x.example/",
        "INFO_PRE,WEB_AUTH::https://x.example/",
        "AUTH_PENDING,timeout 60",
        "PUSH_REPLY,route 10.0.0.0 255.0.0.0",
    ] {
        let mut sim = Setup::new(Mode::TlsCrypt, 1).start();
        sim.connect();
        let before = sim.events.len();
        for _ in 0..10 * SECONDS {
            for _ in 0..20 {
                sim.server.send_text(text);
            }
            sim.run_for(Duration::from_millis(100));
        }
        let told = sim.events.len() - before;
        assert!(told <= AT_ONCE + SECONDS + 1, "{text}: {told} events");
    }
}
