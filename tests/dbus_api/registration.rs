//! From exec to a registered backend.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use zbus::{OwnedVariant, Variant};

use crate::bus::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_process_introduces_itself_in_the_order_the_services_need() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let mut log = StandIn::log(&bus).await;
    let (_server, profile) = silent_server("");
    let configuration = StandIn::configuration(&bus, profile).await;

    let started = Instant::now();
    // A file: a pipe would stay open as long as the second process lives.
    let output = std::fs::File::create(bus.file("stdout")).unwrap();
    let mut parent = bus.program().arg(TOKEN).stdout(output).spawn().unwrap();
    let parent_pid = parent.id().cast_signed();
    let request = manager.signal_named("RegistrationRequest").await;
    let took = started.elapsed();
    println!("exec to RegistrationRequest: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(parent.wait().unwrap().success());

    let header = request.header();
    let body = request.body();
    assert_eq!(body.signature().to_string_no_parens(), "ssi");
    let (name, token, pid): (&str, &str, i32) = body.deserialize().unwrap();
    let backend = Backend { name: name.to_owned(), pid };
    assert_eq!(name, format!("net.openvpn.v3.backends.be{pid}"));
    assert_eq!(token, TOKEN);
    assert_eq!(header.path().unwrap(), OBJECT);
    assert_eq!(
        header.destination().unwrap().as_str(),
        manager.connection.unique_name().unwrap().as_str(),
        "to nobody but the session manager"
    );
    assert_eq!(
        std::fs::read_to_string(bus.file("stdout")).unwrap(),
        format!("Re-initiated process from pid {parent_pid} to backend process pid {pid}\n")
    );
    // In a process session that the first process started and has left.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(fields[2..4], [parent_pid.to_string(), parent_pid.to_string()], "pgrp and session");

    assert_eq!(backend.register(&manager).await.unwrap(), "my profile");
    assert_eq!(
        configuration.calls(),
        ["Get name", "Get dco", "Get overrides", "Fetch"],
        "Fetch last: it removes a single-use profile"
    );
    log.called(&format!("AssignSession {SESSION_PATH} {INTERFACE}")).await;
    assert_eq!(
        log.calls(),
        [
            format!("Attach {INTERFACE}"),
            format!("Attach {SESSIONS}"),
            format!("AssignSession {SESSION_PATH} {INTERFACE}"),
        ],
        "the log service crashes on another order"
    );

    // Both hear the status, each in a message of its own.
    let ok = format!("S 2,2 config_path={CONFIG_PATH}");
    manager.expect(&[&ok]).await;
    log.expect(&[&ok]).await;
    let status = backend.get(&manager, "status").await.unwrap();
    let status: (u32, u32, String) = status.try_into().unwrap();
    assert_eq!(status, (2, 2, format!("config_path={CONFIG_PATH}")));
}

/// The shortest of some runs: the others had to wait for something else on this machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_asks_for_its_registration_at_once() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let _log = StandIn::log(&bus).await;
    let mut times = Vec::new();
    for _ in 0..8 {
        let started = Instant::now();
        let _backend = Backend::start(&bus, &mut manager).await;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!("exec to RegistrationRequest, shortest first: {times:?}");
    assert!(times[0] < Duration::from_millis(250), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_never_answer_delay_nothing() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (server, profile) = silent_server("push-peer-info");
    let overrides = vec![("enterprise-profile", "example1")];
    let _configuration = StandIn::configuration_with(&bus, profile, overrides).await;
    let mut mute = Vec::new();
    for name in [LOG, NETCFG, "org.freedesktop.hostname1", "net.openvpn.v3.devposture"] {
        mute.push(StandIn::start(&bus, name, Box::new(|_| None)).await);
    }
    let started = Instant::now();
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    backend.call(&manager, "Connect", &()).await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The connection waits for the posture service, but not for long.
    server.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(server.recv(&mut [0; 2048]).unwrap() > 0, "the first packet to the server");
    mute[3].called("ProtocolLookup example1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_posture_service_that_is_not_installed_is_told_and_done_without() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (server, profile) = silent_server("");
    let overrides = vec![("enterprise-profile", "example1")];
    let _configuration = StandIn::configuration_with(&bus, profile, overrides).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    backend.call(&manager, "Connect", &()).await.unwrap();
    loop {
        let line = manager.signal_named("Log").await;
        let body = line.body();
        let (_, category, _, text): (u32, u32, &str, &str) = body.deserialize().unwrap();
        if text.contains("enterprise profile example1") {
            assert!(text.contains("ProtocolLookup: not available"), "{text}");
            assert_eq!(category, 6, "an error");
            break;
        }
    }
    server.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(server.recv(&mut [0; 2048]).unwrap() > 0, "the first packet to the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_nobody_confirms_ends() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let log = StandIn::log(&bus).await;
    let backend = Backend::start(&bus, &mut manager).await;
    let started = Instant::now();
    backend.gone(Duration::from_secs(40)).await;
    assert!(started.elapsed() > Duration::from_secs(25), "{:?}", started.elapsed());
    manager.expect(&["S 2,9"]).await;
    log.called(&format!("Detach {INTERFACE}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked_and_registration_happens_once() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;

    let wrong = ("x", path(SESSION_PATH), path(CONFIG_PATH));
    let domain = "net.openvpn.v3.error.be-registration";
    assert_eq!(
        error(backend.call(&manager, "RegistrationConfirmation", &wrong).await),
        glib(domain, "Invalid registration token")
    );
    assert_eq!(backend.register(&manager).await.unwrap(), "my profile");
    assert_eq!(
        error(backend.register(&manager).await),
        glib(domain, "Backend service is already registered")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialects_register_and_the_arguments_choose() {
    for documented in [false, true] {
        let bus = Bus::start();
        let mut manager = StandIn::session_manager(&bus).await;
        let (_server, profile) = silent_server("");
        let _configuration = StandIn::configuration(&bus, profile).await;
        let backend = Backend::start(&bus, &mut manager).await;
        let no_path = "/__unknown";
        let session_path = async || -> String {
            let value = backend.get(&manager, "session_path").await.unwrap();
            zbus::ObjectPath::try_from(Variant::from(value)).unwrap().to_string()
        };
        assert_eq!(session_path().await, no_path);
        if documented {
            let arguments = (TOKEN, path(CONFIG_PATH));
            let reply = backend.call(&manager, "RegistrationConfirmation", &arguments).await;
            assert_eq!(reply.unwrap().body().deserialize::<String>().unwrap(), "my profile");
            assert_eq!(session_path().await, no_path);
            assert_eq!(
                error(backend.call(&manager, "Disconnect", &()).await),
                glib("net.openvpn.v3.error.client", "Connection is not active")
            );
            assert!(backend.is_running());
        } else {
            backend.register(&manager).await.unwrap();
            assert_eq!(session_path().await, SESSION_PATH);
            backend.call(&manager, "Disconnect", &()).await.unwrap();
            backend.gone(LIMIT).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_service_that_is_absent_or_hangs_or_comes_late_does_no_harm() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;

    let absent = Backend::start(&bus, &mut manager).await;
    absent.register(&manager).await.unwrap();
    // It comes: attached, then assigned.
    let log = StandIn::log(&bus).await;
    log.called(&format!("AssignSession {SESSION_PATH} {INTERFACE}")).await;
    assert_eq!(log.calls()[0], format!("Attach {INTERFACE}"));
    drop(absent);
    log.connection.release_name(LOG).await.unwrap();

    let mute = StandIn::start(&bus, LOG, Box::new(|_| None)).await;
    let started = Instant::now();
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
    mute.called(&format!("Attach {INTERFACE}")).await;
    assert!(!mute.calls().iter().any(|call| call.starts_with("AssignSession")));
}

/// A user may ask for the log as soon as the session manager has the answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_service_knows_the_session_before_the_session_manager_does() {
    const PAUSE: Duration = Duration::from_millis(200);
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let thoughtful = |call: &zbus::Message| {
        if call.header().member().unwrap() == "AssignSession" {
            std::thread::sleep(PAUSE);
        }
        Some(0_u32.into())
    };
    let mut log = StandIn::start(&bus, LOG, Box::new(thoughtful)).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    // Once it is attached.
    log.signal_named("Log").await;
    let started = Instant::now();
    backend.register(&manager).await.unwrap();
    let took = started.elapsed();
    assert!(took >= PAUSE && took < PAUSE + Duration::from_secs(1), "{took:?}");
    assert_eq!(log.calls().last(), Some(&format!("AssignSession {SESSION_PATH} {INTERFACE}")));
}

/// Slower than the time limit of a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_service_that_is_slow_is_waited_for() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let calls = AtomicUsize::new(0);
    let slow =
        move |_: &zbus::Message| (calls.fetch_add(1, Ordering::Relaxed) > 0).then(|| 0_u32.into());
    let mut log = StandIn::start(&bus, LOG, Box::new(slow)).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    log.called(&format!("AssignSession {SESSION_PATH} {INTERFACE}")).await;
    log.expect(&[&format!("S 2,2 config_path={CONFIG_PATH}")]).await;
}

/// The one that `Attach` was called for is gone before it has answered, and another one is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_service_that_changes_while_it_is_being_attached_is_attached_again() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let mute = StandIn::start(&bus, LOG, Box::new(|_| None)).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    mute.called(&format!("Attach {INTERFACE}")).await;
    backend.register(&manager).await.unwrap();
    mute.connection.release_name(LOG).await.unwrap();
    let mut log = StandIn::log(&bus).await;
    log.called(&format!("AssignSession {SESSION_PATH} {INTERFACE}")).await;
    // It gets what it has missed.
    log.expect(&[&format!("S 2,2 config_path={CONFIG_PATH}")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_had_is_an_error() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let backend = Backend::start(&bus, &mut manager).await;
    assert_eq!(
        error(backend.register(&manager).await),
        glib("net.openvpn.v3.error.client", "No configuration profile has been parsed")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_used_fails_when_connecting() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("dev-type tap");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    backend.call(&manager, "Ready", &()).await.unwrap();
    backend.call(&manager, "Connect", &()).await.unwrap();
    let ok = format!("S 2,2 config_path={CONFIG_PATH}");
    manager.expect(&[&ok, &ok, "S 2,6"]).await;
    let failure = manager.said().await;
    assert!(failure.starts_with("S 2,9 Configuration parsing failed: "), "{failure}");
    assert!(failure.contains("dev-type"), "{failure}");
    // Time enough for the command line client to read the reason.
    let told = Instant::now();
    assert_eq!(manager.said().await, failure.replace("S 2,9", "S 2,10"));
    assert!(told.elapsed() > Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_reach_the_profile_and_the_log_level() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("verb 9");
    let overrides = vec![("log-level", "5"), ("no-such-override", "x"), ("proxy-password", "hush")];
    let _configuration = StandIn::configuration_with(&bus, profile, overrides).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    assert_eq!(u32::try_from(backend.get(&manager, "log_level").await.unwrap()).unwrap(), 5);
    loop {
        let line = manager.signal_named("Log").await;
        let body = line.body();
        let (_, category, token, text): (u32, u32, &str, &str) = body.deserialize().unwrap();
        assert_eq!(token, TOKEN);
        assert!(!text.contains("hush"), "{text}");
        if text.starts_with("Unsupported override: no-such-override") {
            assert_eq!(category, 6);
            break;
        }
    }
}

/// A proxy that cannot be used must not be gone round.
#[tokio::test(flavor = "multi_thread")]
async fn overrides_that_cannot_be_followed_keep_the_connection_from_being_made() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (server, profile) = silent_server("");
    let overrides = vec![("proxy-host", "127.0.0.1"), ("proxy-port", "9"), ("log-level", "5")];
    let _configuration = StandIn::configuration_with(&bus, profile, overrides).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    assert_eq!(u32::try_from(backend.get(&manager, "log_level").await.unwrap()).unwrap(), 5);
    backend.call(&manager, "Connect", &()).await.unwrap();
    let ok = format!("S 2,2 config_path={CONFIG_PATH}");
    manager.expect(&[&ok, &ok, "S 2,6"]).await;
    let failure = manager.said().await;
    assert!(failure.starts_with("S 2,9 ") && failure.contains("proxy-host"), "{failure}");
    server.set_nonblocking(true).unwrap();
    assert!(server.recv(&mut [0; 16]).is_err(), "nothing goes to the server");
}

/// The text of the next error in the log.
async fn logged_error(manager: &mut StandIn) -> String {
    loop {
        let line = manager.signal_named("Log").await;
        let body = line.body();
        let (_, category, _, text): (u32, u32, &str, &str) = body.deserialize().unwrap();
        if category == 6 {
            return text.to_owned();
        }
    }
}

/// One that would lead elsewhere keeps the connection from being made; the others are told.
#[tokio::test(flavor = "multi_thread")]
async fn overrides_of_another_type_are_named() {
    for (name, value, signature) in [
        ("server-override", OwnedVariant::from(7_i32), "i"),
        ("port-override", OwnedVariant::from(443_u32), "u"),
        ("proxy-password", Variant::from(vec!["hush"]).try_to_owned().unwrap(), "as"),
    ] {
        let bus = Bus::start();
        let mut manager = StandIn::session_manager(&bus).await;
        let (server, profile) = silent_server("");
        let overrides = HashMap::from([(name.to_owned(), value)]);
        let answer = StandIn::profile_named("x".to_owned(), profile, overrides);
        let _configuration = StandIn::start(&bus, CONFIGURATION, answer).await;
        let backend = Backend::start(&bus, &mut manager).await;
        backend.register(&manager).await.unwrap();
        let complaint = format!(
            "Unsupported override: {name} (its D-Bus type is {signature}, overrides are texts (s) \
             or yes/no (b))"
        );
        assert_eq!(logged_error(&mut manager).await, complaint);
        backend.call(&manager, "Connect", &()).await.unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        if name == "proxy-password" {
            assert!(server.recv(&mut [0; 2048]).unwrap() > 0, "the first packet to the server");
            continue;
        }
        let ok = format!("S 2,2 config_path={CONFIG_PATH}");
        manager.expect(&[&ok, &ok, "S 2,6"]).await;
        let failure = manager.said().await;
        assert!(failure.starts_with("S 2,9 ") && failure.contains(&complaint), "{failure}");
        server.set_nonblocking(true).unwrap();
        assert!(server.recv(&mut [0; 16]).is_err(), "nothing goes to the server");
    }
}

/// Whatever a service or a caller sends: what is told of it is short, and says how long it was.
#[tokio::test(flavor = "multi_thread")]
async fn texts_of_any_length_are_told_in_short() {
    const LENGTH: usize = 8 << 20;
    let long = "x".repeat(LENGTH);
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("");
    let value = || Variant::from(long.as_str()).try_to_owned().unwrap();
    let overrides =
        HashMap::from([("proxy-username".to_owned(), value()), (long.clone(), value())]);
    let answer = StandIn::profile_named(long.clone(), profile, overrides);
    let _configuration = StandIn::start(&bus, CONFIGURATION, answer).await;
    let backend = Backend::start(&bus, &mut manager).await;

    let short = |(_, text): (String, String), what: &str| {
        assert!(text.len() < 1000 && text.contains(what), "{}", &text[..text.len().min(2000)]);
    };
    let far = format!("/{long}");
    let paths = [(far.as_str(), CONFIG_PATH, "session path"), (SESSION_PATH, &far, "profile path")];
    for (session, config, what) in paths {
        let body = (TOKEN, path(session), path(config));
        let refused = backend.call(&manager, "RegistrationConfirmation", &body).await;
        short(
            error(refused),
            &format!("The {what} has {} bytes, at most 512 are taken", LENGTH + 1),
        );
    }
    let name = backend.register(&manager).await.unwrap();
    assert!(name.starts_with("xxx") && name.len() < 300, "{} bytes", name.len());
    for _ in 0..2 {
        let text = logged_error(&mut manager).await;
        assert!(text.starts_with("Unsupported override: ") && text.len() < 300, "{text}");
        assert!(text.contains(&format!("{LENGTH} bytes")), "{text}");
    }
    short(error(backend.get(&manager, &long).await), &format!("({LENGTH} bytes)"));
    let elsewhere = (long.as_str(), "dco");
    let get = backend.call_on(&manager, PROPERTIES, "Get", &elsewhere).await;
    short(error(get), &format!("({LENGTH} bytes)"));
}
