//! The control channel over a bad network, at least as bad as OpenVPN 3 Core's own stress test:
//! each direction reorders 1/8, drops 1/16, corrupts 1/32 (and duplicates 1/32). No connection and
//! no renegotiation may need a second try.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use ovpn_client::control::Event;
use ovpn_client::profile::Digest;
use ovpn_test_support::sim;
use ovpn_test_support::sim::{Mode, Setup, Sim, for_each_seed};

/// Of each test. With real TLS, too, what happens to the n-th packet follows from the seed, but
/// sizes of signatures, and with them the number of packets, vary a little.
const SEEDS: u64 = 1000;

/// Connect, then renegotiate from the client, from the server, and from both at once.
fn run(mode: Mode, seed: u64) {
    run_setup(Setup::new(mode, seed), seed);
}

fn run_setup(setup: Setup, seed: u64) {
    let mode = setup.server.mode;
    let mut setup = setup.stressed();
    let config = &mut setup.server;
    config.tls_ekm = seed.is_multiple_of(2);
    config.dynamic_tls_crypt = seed.is_multiple_of(3);
    config.unsolicited_push = seed.is_multiple_of(5);
    config.short_key_message = seed.is_multiple_of(7);
    if mode == Mode::None || mode == Mode::TlsCrypt {
        config.stateless = seed.is_multiple_of(4);
    }
    let mut sim = setup.start();
    sim.connect();
    settle(&mut sim, 0);
    sim.client.renegotiate(sim.now);
    settle(&mut sim, 1);
    sim.server.renegotiate(sim.now);
    settle(&mut sim, 2);
    sim.client.renegotiate(sim.now);
    sim.server.renegotiate(sim.now);
    settle(&mut sim, 3);
    check(&mut sim);
}

fn settle(sim: &mut Sim, key: u8) {
    sim.wait_for_key(key);
    sim.assert_equal_keys();
}

fn check(sim: &mut Sim) {
    // Nothing goes on without cause: the last acknowledgements, then silence.
    sim.run_for(Duration::from_secs(100));
    let quiet = sim.client.stats();
    sim.run_for(Duration::from_secs(1000));
    if sim.client.stats() != quiet {
        sim.fail("packets without cause");
    }
    let stats = sim.client.stats();
    let bad = sim.has(|e| matches!(e, Event::RenegotiationFailed { .. } | Event::Closed(_)));
    if bad || sim.server.transmissions > 10 || stats.retransmissions > 100 {
        sim.fail("too much trouble");
    }
    let order: Vec<String> = sim
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Keys(keys) => Some(format!("keys {}", keys.key_id)),
            Event::PromoteKey(id) => Some(format!("promote {id}")),
            Event::RetireKey(id) => Some(format!("retire {id}")),
            _ => None,
        })
        .collect();
    assert_two_slots(sim, &order);
    if order.last().map(String::as_str) != Some("promote 3") {
        sim.fail(&format!("the last key was not promoted: {order:?}"));
    }
}

/// Follows the events as the data plane does: never more than two keys, no unknown key promoted,
/// the sending key never deleted.
fn assert_two_slots(sim: &Sim, order: &[String]) {
    let (mut primary, mut secondary) = (None, None);
    for change in order {
        let (what, id) = change.split_once(' ').unwrap();
        match what {
            "keys" if primary.is_none() => primary = Some(id),
            "keys" if secondary.is_none() => secondary = Some(id),
            "promote" if secondary == Some(id) => std::mem::swap(&mut primary, &mut secondary),
            "retire" if secondary == Some(id) => secondary = None,
            _ => sim.fail(&format!("impossible slot change {change} in {order:?}")),
        }
    }
}

macro_rules! stress {
    ($($name:ident: $mode:expr),* $(,)?) => {
        $(#[test]
        fn $name() {
            for_each_seed(SEEDS, |seed| run($mode, seed));
        })*
    };
}

stress! {
    no_wrapping: Mode::None,
    tls_auth_sha1: Mode::TlsAuth(Digest::Sha1),
    tls_auth_sha224: Mode::TlsAuth(Digest::Sha224),
    tls_auth_sha256: Mode::TlsAuth(Digest::Sha256),
    tls_auth_sha384: Mode::TlsAuth(Digest::Sha384),
    tls_auth_sha512: Mode::TlsAuth(Digest::Sha512),
    tls_auth_bidirectional: Mode::TlsAuthBidirectional,
    tls_crypt: Mode::TlsCrypt,
    tls_crypt_v2: Mode::TlsCryptV2 { cookie: false },
    tls_crypt_v2_cookie: Mode::TlsCryptV2 { cookie: true },
}

fn run_real(mode: Mode, seed: u64) {
    let version =
        if seed.is_multiple_of(2) { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
    let mut setup = Setup::new(mode, seed);
    setup.tls = Some(sim::real_tls::pair(version));
    run_setup(setup, seed);
}

#[test]
fn real_tls_without_wrapping() {
    for_each_seed(SEEDS, |seed| run_real(Mode::None, seed));
}

#[test]
fn real_tls_in_tls_auth() {
    use Digest::{Sha1, Sha224, Sha256, Sha384, Sha512};
    let [sha1, sha224, sha256, sha384, sha512] =
        [Sha1, Sha224, Sha256, Sha384, Sha512].map(Mode::TlsAuth);
    let modes = [Mode::TlsAuthBidirectional, sha1, sha224, sha256, sha384, sha512];
    // The seed's last bits choose other things.
    for_each_seed(SEEDS, |seed| run_real(modes[(seed / 4 % 6) as usize], seed));
}

#[test]
fn real_tls_in_tls_crypt() {
    for_each_seed(SEEDS, |seed| run_real(Mode::TlsCrypt, seed));
}

#[test]
fn real_tls_in_tls_crypt_v2() {
    let mode = Mode::TlsCryptV2 { cookie: false };
    for_each_seed(SEEDS, |seed| run_real(mode, seed));
}

#[test]
fn real_tls_in_tls_crypt_v2_with_cookie() {
    let mode = Mode::TlsCryptV2 { cookie: true };
    for_each_seed(SEEDS, |seed| run_real(mode, seed));
}
