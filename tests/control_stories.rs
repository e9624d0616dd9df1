//! Stories of one connection each: what happens, in which order, and when.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::time::Duration;

use ovpn_client::control::{
    ApiMisuse, AuthFailed, ControlError, ErrorCounter, Event, LimitReached, NegotiatedParameters,
    PendingAuth, RestartFlags,
};
use ovpn_client::secret::{Credentials, Secret};
use ovpn_dco::KeyId;
use ovpn_test_support::sim;
use ovpn_test_support::sim::{Mode, Setup, Sim};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The kinds of the events so far, in order.
fn kinds(sim: &Sim) -> Vec<String> {
    sim.events.iter().map(|(_, event)| kind(event)).collect()
}

fn kind(event: &Event) -> String {
    match event {
        Event::Keys(keys) => format!("keys {}", keys.key_id),
        Event::PromoteKey(id) => format!("promote {id}"),
        Event::RetireKey(id) => format!("retire {id}"),
        Event::TlsEstablished { key_id, .. } => format!("tls {key_id}"),
        other => {
            let text = format!("{other:?}");
            text.split(['(', ' ', '{']).next().unwrap().to_owned()
        }
    }
}

/// Seconds since the start at which the first event of this kind came.
fn time_of(sim: &Sim, what: &str) -> f64 {
    let found = sim.events.iter().find(|(_, event)| kind(event) == what);
    let Some((at, _)) = found else {
        sim.fail(&format!("no event {what}"));
    };
    at.as_secs_f64()
}

fn closed(sim: &Sim) -> Option<&ControlError> {
    sim.events.iter().find_map(|(_, event)| match event {
        Event::Closed(error) => Some(error),
        _ => None,
    })
}

#[test]
fn a_connection_takes_no_needless_time() {
    for mode in Mode::ALL {
        let mut sim = Setup::new(mode, 1).start();
        sim.connect();
        sim.assert_equal_keys();
        assert_eq!(
            kinds(&sim),
            ["ServerContacted", "LoginNeeded", "tls 0", "ConfigRequested", "Pushed", "keys 0"],
            "{mode:?}"
        );
        // 40 ms there and back: reset, two flights of TLS, key method, push.
        assert!(sim.elapsed() <= Duration::from_millis(240), "{mode:?} {:?}", sim.elapsed());
        assert_eq!(sim.client.stats().retransmissions, 0);
        assert_eq!(sim.client.stats().errors().count(), 0);
        // A stateless server forgets the first packet.
        let forgotten = u64::from(sim.server.config.stateless);
        assert_eq!(sim.server.refused, forgotten);
        assert!(sim.client.is_active());
        let message = &sim.server.key_messages[0];
        assert_eq!((&*message.username, &*message.password), ("joe", "secret"));
        assert_eq!(message.peer_info, "IV_VER=1\nIV_PROTO=990\n");
    }
}

/// Renegotiates on a network without delay; the keys under which data came too early.
fn too_early(mode: Mode, seed: u64, careless: bool) -> Vec<KeyId> {
    let mut setup = Setup::new(mode, seed).at_once();
    if seed.is_multiple_of(2) {
        setup = setup.tcp();
    }
    setup.server.dynamic_tls_crypt = seed.is_multiple_of(3);
    setup.careless = careless;
    let mut sim = setup.start();
    sim.connect();
    for key in 1..=4 {
        if key % 2 == 0 {
            sim.client.renegotiate(sim.now)
        } else {
            sim.server.renegotiate(sim.now)
        }
        sim.wait_for_key(key);
        sim.run_for(secs(100));
    }
    sim.assert_equal_keys();
    sim.too_early
}

/// A server sends with a new key once its last message is acknowledged: the key comes first.
#[test]
fn a_key_is_there_before_its_data() {
    for mode in Mode::ALL {
        for seed in 0..6 {
            assert_eq!(too_early(mode, seed, false), [], "{mode:?} {seed}");
            let lost = too_early(mode, seed, true);
            assert_eq!(lost.len(), 4, "{mode:?} {seed}: the wrong order was not noticed: {lost:?}");
        }
    }
}

#[test]
fn an_unsolicited_push_needs_no_request() {
    let mut setup = Setup::new(Mode::TlsCrypt, 2);
    setup.server.unsolicited_push = true;
    let mut sim = setup.start();
    sim.connect();
    assert_eq!(kinds(&sim), ["ServerContacted", "LoginNeeded", "tls 0", "Pushed", "keys 0"]);
    assert_eq!(sim.server.texts, [] as [&str; 0]);
}

#[test]
fn a_push_reply_comes_in_parts() {
    let mut setup = Setup::new(Mode::None, 3);
    setup.server.push = vec![
        "PUSH_REPLY,route 10.1.0.0 255.255.0.0,echo \"a,b\",push-continuation 2".to_owned(),
        "PUSH_REPLY,route 10.2.0.0 255.255.0.0,push-continuation 2".to_owned(),
        "PUSH_REPLY,peer-id 5,push-continuation 1".to_owned(),
    ];
    let mut sim = setup.start();
    sim.connect();
    let pushed = sim.events.iter().find_map(|(_, event)| match event {
        Event::Pushed { options, server_occ } => Some((options.clone(), server_occ.clone())),
        _ => None,
    });
    let (options, occ) = pushed.unwrap();
    assert_eq!(
        options[..],
        ["route 10.1.0.0 255.255.0.0", "echo \"a,b\"", "route 10.2.0.0 255.255.0.0", "peer-id 5"]
    );
    assert_eq!(occ, "V4,dev-type tun,cipher AES-256-GCM,tls-server");
}

#[test]
fn a_silent_server_is_asked_with_backoff_for_one_hand_window() {
    let mut setup = Setup::new(Mode::TlsCrypt, 4);
    setup.up.drop = 1;
    let mut sim = setup.start();
    sim.run_for(secs(300));
    assert_eq!(kinds(&sim), ["Closed"]);
    assert_eq!(closed(&sim), Some(&ControlError::HandshakeTimeout(secs(60))));
    assert_eq!(time_of(&sim, "Closed"), 60.0);
    // 0, 2, 6, 14, then every 8 s.
    assert_eq!(sim.client.stats().packets_out, 9);
    assert_eq!(sim.client.stats().error(ErrorCounter::HandshakeTimeout), 1);
    let survived: Vec<_> = sim.client.stats().errors().collect();
    assert_eq!(survived, [], "what closed the channel is counted by whoever hears of it");
    assert!(!sim.client.is_active());
}

#[test]
fn a_blackout_in_the_handshake_is_survived() {
    for start in [0, 20, 60, 100, 140, 180] {
        let mut setup = Setup::new(Mode::TlsAuthBidirectional, start);
        let from = Duration::from_millis(start);
        setup.up.blackouts = vec![(from, from + secs(25))];
        setup.down.blackouts = setup.up.blackouts.clone();
        let mut sim = setup.start();
        sim.connect();
        sim.assert_equal_keys();
        assert!(sim.elapsed() < secs(40), "{start}: {:?}", sim.elapsed());
    }
}

#[test]
fn requests_go_on_until_the_hand_window_ends() {
    let mut setup = Setup::new(Mode::None, 5);
    setup.server.push.clear();
    let mut sim = setup.start();
    sim.run_for(secs(100));
    assert_eq!(closed(&sim), Some(&ControlError::NoPushReply(secs(60))));
    let asked = time_of(&sim, "ConfigRequested");
    assert_eq!(time_of(&sim, "Closed"), asked + 60.0);
    // 0, 1, 3, 6, 9, ..., 57, and one at the end of the window.
    assert!((21..=22).contains(&sim.server.texts.len()), "{}", sim.server.texts.len());
    assert!(sim.server.texts.iter().all(|t| t == "PUSH_REQUEST"));
}

#[test]
fn pending_authentication_extends_the_wait() {
    let mut setup = Setup::new(Mode::TlsCrypt, 6);
    setup.server.push.clear();
    let mut sim = setup.start();
    sim.run_until(secs(5), "request", |sim| !sim.server.texts.is_empty());
    sim.server.send_text("AUTH_PENDING,timeout 200");
    sim.server.send_text("INFO_PRE,CR_TEXT:R,E:Enter PIN");
    sim.run_for(secs(30));
    assert!(
        sim.has(|e| matches!(e, Event::AuthPending { timeout } if *timeout == Some(secs(200))))
    );
    let challenge = PendingAuth::Challenge {
        echo: true,
        response_required: true,
        text: "Enter PIN".to_owned(),
    };
    assert!(sim.has(|e| matches!(e, Event::PendingAuth(c) if *c == challenge)));
    let before = sim.server.texts.len();
    sim.run_for(secs(80));
    assert_eq!(sim.server.texts.len() - before, 20, "every 4 s");
    sim.client.respond("8675309", sim.now);
    sim.run_for(secs(1));
    assert_eq!(sim.server.texts.last().unwrap(), "CR_RESPONSE,ODY3NTMwOQ==");
    sim.server.send_text("PUSH_REPLY,peer-id 1");
    sim.connect();
    sim.assert_equal_keys();
}

#[test]
fn pending_authentication_ends_too() {
    let mut setup = Setup::new(Mode::TlsCrypt, 7);
    setup.server.push.clear();
    let mut sim = setup.start();
    sim.run_until(secs(5), "request", |sim| !sim.server.texts.is_empty());
    sim.server.send_text("AUTH_PENDING,timeout 18446744073709551615");
    sim.server.send_text("AUTH_PENDING,timeout 200");
    sim.run_for(secs(500));
    assert_eq!(closed(&sim), Some(&ControlError::NoPushReply(secs(200))));
    assert_eq!(time_of(&sim, "Closed"), time_of(&sim, "ConfigRequested") + 200.0);
}

fn parameters(sim: &Sim, reneg: u64) -> NegotiatedParameters {
    NegotiatedParameters { reneg: Some(secs(reneg)), ..sim.parameters() }
}

/// Connected, with `reneg-sec`.
fn connected(mut setup: Setup, reneg: u64) -> Sim {
    setup.accept = false;
    let mut sim = setup.start();
    sim.run_until(secs(60), "push", |sim| sim.has(|e| matches!(e, Event::Pushed { .. })));
    sim.client.accept_push(parameters(&sim, reneg), sim.now).unwrap();
    sim.drain();
    sim
}

#[test]
fn keys_live_as_long_as_they_should() {
    let mut sim = connected(Setup::new(Mode::TlsCrypt, 8), 1000);
    sim.run_for(secs(6000));
    sim.assert_equal_keys();
    let keys = time_of(&sim, "keys 0");
    let times = |what: &str| (time_of(&sim, what) - keys) as u64;
    assert_eq!(times("keys 1"), 1000);
    assert_eq!(times("promote 1"), 1060);
    assert_eq!(times("keys 2"), 2000);
    assert_eq!(times("retire 0"), 2000, "only two slots");
    assert_eq!(times("promote 2"), 2060);
    let first = kinds(&sim).iter().position(|k| k == "keys 2").unwrap();
    assert_eq!(kinds(&sim)[first - 1], "retire 0", "the slot is free before it is filled");
}

#[test]
fn an_old_key_is_retired_when_its_transition_ends() {
    let mut setup = Setup::new(Mode::None, 9);
    setup.options.tran_window = secs(600);
    let mut sim = connected(setup, 1000);
    sim.run_for(secs(1900));
    let started = time_of(&sim, "keys 1");
    let retired = time_of(&sim, "retire 0");
    assert!((started + 599.0..=started + 600.0).contains(&retired), "{started} {retired}");
}

#[test]
fn short_lives_mean_early_promotion() {
    let mut sim = connected(Setup::new(Mode::TlsCrypt, 10), 5);
    sim.run_for(secs(60));
    sim.assert_equal_keys();
    assert!(sim.client_keys().len() >= 11);
    for key in 1..10 {
        let life = time_of(&sim, &format!("promote {}", key_id(key)))
            - time_of(&sim, &format!("keys {}", key_id(key)));
        if key < 7 {
            assert!((2.0..2.6).contains(&life), "{key}: {life}");
        }
    }
    let ids: Vec<u8> = sim.client_keys().iter().map(|k| k.key_id.get()).collect();
    assert_eq!(ids[..11], [0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3]);
}

/// A key exchange that lasts longer than its key should wait for its turn: the server still hears first
/// that it may use it.
#[test]
fn data_under_a_new_key_goes_behind_what_makes_the_server_take_it() {
    let mut setup = Setup::new(Mode::TlsCrypt, 12);
    setup.up.latency = secs(1);
    setup.down.latency = secs(1);
    let mut sim = connected(setup, 5);
    sim.run_for(secs(100));
    let at_once = time_of(&sim, "promote 2") - time_of(&sim, "keys 2");
    assert!(at_once.abs() < 0.001, "{at_once}");
    assert_eq!(sim.not_taken, []);
}

fn key_id(n: u64) -> u64 {
    if n < 8 { n } else { (n - 1) % 7 + 1 }
}

/// The peer has forgotten the key before the current one once a new negotiation starts.
#[test]
fn the_next_key_takes_over_when_another_negotiation_starts() {
    let mut sim = Setup::new(Mode::TlsCrypt, 11).start();
    sim.connect();
    sim.run_for(secs(1000));
    sim.client.renegotiate(sim.now);
    sim.wait_for_key(1);
    assert!(!sim.has(|e| matches!(e, Event::PromoteKey(_))));
    sim.run_for(secs(1));
    sim.server.renegotiate(sim.now);
    sim.run_until(secs(1), "promotion", |sim| sim.has(|e| matches!(e, Event::PromoteKey(_))));
    assert_eq!(kinds(&sim).last().unwrap(), "promote 1");
    sim.wait_for_key(2);
    sim.assert_equal_keys();
}

/// Both soft resets are under way at the same time, and name the same key: one exchange comes of them.
#[test]
fn both_sides_renegotiate_at_once() {
    for apart in [0, 1, 20, 99, 100, 101, 199, 250] {
        for server_first in [false, true] {
            let mut setup = Setup::new(Mode::TlsCrypt, apart);
            setup.up.latency = Duration::from_millis(100);
            setup.down.latency = Duration::from_millis(100);
            let mut sim = setup.start();
            sim.connect();
            for number in 1..9 {
                sim.run_for(secs(100));
                for turn in [server_first, !server_first] {
                    if turn {
                        sim.server.renegotiate(sim.now);
                    } else {
                        sim.client.renegotiate(sim.now);
                    }
                    sim.drain();
                    sim.run_for(Duration::from_millis(apart));
                }
                sim.run_for(secs(5));
                assert_eq!(sim.client_keys().len(), number + 1, "{apart} {server_first}");
                sim.assert_equal_keys();
            }
            assert_eq!((&sim.too_early, &sim.not_taken), (&vec![], &vec![]));
        }
    }
}

#[test]
fn a_failed_renegotiation_keeps_the_old_key_and_is_repeated() {
    for (from, to) in [(0, 62), (0, 130), (0, 200)] {
        for offset in [0, 30, 50, 90] {
            let mut setup = Setup::new(Mode::TlsCrypt, from + offset);
            setup.server.dynamic_tls_crypt = true;
            let mut sim = setup.start();
            sim.connect();
            sim.run_for(secs(10));
            let elapsed = sim.elapsed() + Duration::from_millis(offset);
            let dark = vec![(elapsed + secs(from), elapsed + secs(to))];
            sim.up.conditions.blackouts = dark.clone();
            sim.down.conditions.blackouts = dark;
            sim.client.renegotiate(sim.now);
            sim.run_until(secs(400), "new key", |sim| {
                sim.client_keys().len() == 2 && sim.server.active_key() == sim.client_key()
            });
            assert!(sim.has(|e| matches!(e, Event::RenegotiationFailed { .. })));
            assert!(closed(&sim).is_none());
            assert!(sim.client.stats().error(ErrorCounter::HandshakeTimeout) > 0);
            // The server may have finished an attempt that the client gave up.
            let (ours, theirs) = (sim.client_keys()[1], sim.server.keys.last().unwrap());
            assert_eq!(ours.encrypt.cipher_key(), theirs.decrypt.cipher_key());
        }
    }
}

#[test]
fn without_a_new_key_the_connection_ends() {
    let mut setup = Setup::new(Mode::TlsCrypt, 12);
    setup.options.tran_window = secs(600);
    let mut sim = connected(setup, 1000);
    sim.run_for(secs(990));
    sim.up.conditions.drop = 1;
    sim.run_for(secs(1000));
    assert!(matches!(closed(&sim), Some(ControlError::KeyExpired(_))));
    let life = time_of(&sim, "Closed") - time_of(&sim, "keys 0");
    assert!((1599.0..1601.0).contains(&life), "{life}");
    let failures = kinds(&sim).iter().filter(|k| *k == "RenegotiationFailed").count();
    assert!((9..=10).contains(&failures), "{failures}");
}

#[test]
fn an_update_comes_whole() {
    let mut setup = Setup::new(Mode::TlsCrypt, 14);
    setup.server.push = vec!["PUSH_REPLY,peer-id 1".to_owned()];
    let mut sim = setup.start();
    sim.connect();
    sim.server.send_text("PUSH_UPDATE,route 192.0.2.1, route 192.0.2.2,push-continuation 2");
    sim.run_for(secs(1));
    let is_update = |event: &Event| matches!(event, Event::PushUpdated { .. });
    let updates = |sim: &Sim| sim.events.iter().filter(|(_, event)| is_update(event)).count();
    assert_eq!(updates(&sim), 0, "half of it");
    sim.server.send_text("PUSH_UPDATE,-?dns,push-continuation 1");
    sim.run_for(secs(1));
    let whole = |e: &Event| matches!(e, Event::PushUpdated { update } if update.len() == 3);
    assert!(sim.has(whole));
    // Nobody changes routes as often.
    for _ in 0..200 {
        sim.server.send_text("PUSH_UPDATE,route 192.0.2.1");
        sim.run_for(Duration::from_millis(10));
    }
    assert!(updates(&sim) < 100);
    assert!(matches!(closed(&sim), Some(ControlError::LimitReached(LimitReached::PushUpdates))));
}

#[test]
fn a_refreshed_token_is_used_for_the_next_key() {
    let mut setup = Setup::new(Mode::TlsCrypt, 13);
    setup.server.push = vec!["PUSH_REPLY,peer-id 1,auth-token SESS_ID_1".to_owned()];
    let mut sim = setup.start();
    sim.connect();
    sim.login = Some(login("joe", "SESS_ID_1"));
    sim.client.renegotiate(sim.now);
    sim.wait_for_key(1);
    sim.server.send_text("PUSH_REPLY,auth-token SESS_ID_2,auth-token-user Y3Ix");
    sim.run_for(secs(1));
    let later = |e: &Event| matches!(e, Event::PushedLater { options } if options.len() == 2);
    assert!(sim.has(later));
    sim.login = Some(login("cr1", "SESS_ID_2"));
    sim.client.renegotiate(sim.now);
    sim.wait_for_key(2);
    let sent: Vec<_> = sim
        .server
        .key_messages
        .iter()
        .map(|m| (m.username.as_str(), m.password.as_str()))
        .collect();
    assert_eq!(sent, [("joe", "secret"), ("joe", "SESS_ID_1"), ("cr1", "SESS_ID_2")]);
    let pushes = kinds(&sim).iter().filter(|k| *k == "Pushed").count();
    assert_eq!(pushes, 1, "later replies bring tokens only");
}

fn times_asked(sim: &Sim) -> usize {
    kinds(sim).iter().filter(|kind| *kind == "LoginNeeded").count()
}

fn login(username: &str, password: &str) -> Credentials {
    Credentials { username: username.to_owned(), password: Secret::from(password) }
}

#[test]
fn a_renegotiation_asks_for_credentials_and_waits() {
    let mut setup = Setup::new(Mode::TlsCrypt, 15);
    setup.forget_login = true;
    let mut sim = setup.start();
    sim.connect();
    for key in [1, 2] {
        sim.server.renegotiate(sim.now);
        sim.run_for(secs(20));
        assert_eq!(times_asked(&sim), usize::from(key) + 1);
        assert_eq!(sim.client_key(), KeyId::new(key - 1), "the old key works on");
        assert!(sim.client.log_in(&login("joe", "again"), sim.now));
        assert!(!sim.client.log_in(&login("joe", "once more"), sim.now), "nothing waits");
        sim.wait_for_key(key);
        assert_eq!(sim.server.key_messages[usize::from(key)].password, "again");
    }
    assert_eq!(closed(&sim), None);
}

#[test]
fn credentials_that_nobody_gives_end_the_connection_with_its_key() {
    let mut setup = Setup::new(Mode::TlsCrypt, 15);
    setup.forget_login = true;
    setup.options.tran_window = secs(300);
    let mut sim = setup.start();
    sim.connect();
    sim.client.renegotiate(sim.now);
    sim.run_for(secs(290));
    assert!(times_asked(&sim) >= 5, "each attempt asks");
    assert_eq!(closed(&sim), None);
    sim.run_for(secs(20));
    let why = ControlError::KeyExpired(Box::new(ControlError::NoLogin(secs(60))));
    assert_eq!(closed(&sim), Some(&why));
    assert_eq!(sim.server.key_messages.len(), 1);
}

#[test]
fn certificates_alone_need_no_credentials() {
    let mut setup = Setup::new(Mode::TlsCrypt, 17);
    setup.login = Credentials::default();
    let mut sim = setup.start();
    sim.connect();
    sim.client.renegotiate(sim.now);
    sim.wait_for_key(1);
    assert_eq!(sim.server.key_messages[1].username, "");
}

#[test]
fn exit_is_a_message_if_the_server_takes_it() {
    let mut setup = Setup::new(Mode::TlsCrypt, 18);
    setup.accept = false;
    let mut sim = setup.start();
    assert!(!sim.client.send_exit(sim.now));
    sim.run_until(secs(60), "push", |sim| sim.has(|e| matches!(e, Event::Pushed { .. })));
    let parameters = NegotiatedParameters { cc_exit: false, ..sim.parameters() };
    sim.client.accept_push(parameters, sim.now).unwrap();
    assert!(!sim.client.send_exit(sim.now));

    let mut sim = Setup::new(Mode::TlsCrypt, 18).start();
    sim.connect();
    assert!(sim.client.send_exit(sim.now));
    sim.run_for(secs(1));
    assert_eq!(sim.server.texts.last().unwrap(), "EXIT");
}

#[test]
fn server_messages_become_events() {
    let mut sim = Setup::new(Mode::TlsCrypt, 19).start();
    sim.connect();
    let before = sim.events.len();
    // All in one TLS record, and one message in pieces.
    sim.server
        .send_plaintext(b"INFO,hello\0\0RESTART,[P]bye\r\n\0HALT,stop\0UNKNOWN,x\0bad\ttab\0");
    sim.server.send_plaintext(b"AUTH_FAI");
    sim.server.send_plaintext(b"LED,no\0EXIT\0");
    sim.run_for(secs(1));
    let events: Vec<String> =
        sim.events[before..].iter().map(|(_, event)| format!("{event:?}")).collect();
    let flags = RestartFlags { preserve: true, next_remote: false };
    let failed = AuthFailed::Permanent { reason: "no".to_owned() };
    let expected = [
        Event::Info("hello".to_owned()),
        Event::Restart { reason: "bye".to_owned(), flags },
        Event::Halt { reason: "stop".to_owned() },
        Event::AuthFailed(failed),
        Event::ServerExit,
    ];
    assert_eq!(events, expected.map(|event| format!("{event:?}")));
}

#[test]
fn tcp_never_repeats_itself() {
    let mut setup = Setup::new(Mode::TlsCrypt, 20).tcp();
    setup.server.push = vec!["PUSH_REPLY,peer-id 1".to_owned()];
    let mut sim = setup.start();
    sim.connect();
    for key in 1..5 {
        sim.server.renegotiate(sim.now);
        sim.wait_for_key(key);
    }
    sim.assert_equal_keys();
    sim.run_for(secs(100));
    assert_eq!(sim.client.stats().retransmissions, 0);
    assert_eq!(sim.server.transmissions, 1);
}

#[test]
fn packets_stay_within_the_limit() {
    for size in [154, 300, 576, 1250, 2048] {
        for mode in Mode::ALL {
            let mut setup = Setup::new(mode, 21);
            setup.options.max_packet_size = size;
            setup.server.payload = size / 4;
            let mut sim = setup.start();
            sim.connect();
            sim.client.renegotiate(sim.now);
            sim.wait_for_key(1);
            let wrapped = if matches!(mode, Mode::TlsCryptV2 { .. }) {
                sim::server::wrapped_key().len()
            } else {
                0
            };
            // A hash of 64 bytes leaves less than the 16 bytes a packet carries at least; the
            // packet with the wrapped key can be no shorter than what it must hold.
            let least = 9 + 40 + 25 + 4 + 16 + wrapped;
            let fits = sim.largest <= (size - 28).max(least).max(9 + 72 + 25 + 4 + 16);
            assert!(fits, "{mode:?} {size}: {}", sim.largest);
            assert!(sim.largest > size / 2, "{mode:?} {size}: {}", sim.largest);
        }
    }
}

#[test]
fn a_path_with_a_small_mtu_needs_only_the_limit() {
    let mut setup = Setup::new(Mode::TlsCryptV2 { cookie: true }, 22).stressed();
    setup.up.mtu = 572;
    setup.down.mtu = 572;
    setup.options.max_packet_size = 600;
    setup.server.payload = 400;
    let mut sim = setup.start();
    sim.connect();
    sim.assert_equal_keys();
}

#[test]
fn accept_push_only_answers_a_push() {
    let mut sim = Setup::new(Mode::None, 23).start();
    let parameters = sim.parameters();
    let refused = Err(ApiMisuse::NoPushReply.into());
    assert_eq!(sim.client.accept_push(parameters.clone(), sim.now), refused);
    sim.connect();
    assert_eq!(sim.client.accept_push(parameters, sim.now), refused);
    assert_eq!(sim.client_keys().len(), 1);
}

#[test]
fn no_renegotiation_before_the_first_key() {
    let mut setup = Setup::new(Mode::None, 24);
    setup.accept = false;
    let mut sim = setup.start();
    sim.client.renegotiate(sim.now);
    sim.run_until(secs(60), "push", |sim| sim.has(|e| matches!(e, Event::Pushed { .. })));
    sim.client.renegotiate(sim.now);
    sim.server.renegotiate(sim.now);
    sim.run_for(secs(1));
    assert!(sim.client.stats().error(ErrorCounter::KeyState) > 0);
    sim.client.accept_push(sim.parameters(), sim.now).unwrap();
    sim.wait_for_key(1);
    sim.assert_equal_keys();
}
