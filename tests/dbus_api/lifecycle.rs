//! The life of a session towards a server that never answers.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zbus::Variant;

use crate::bus::*;

const CLIENT: &str = "net.openvpn.v3.error.client";

struct Set {
    manager: StandIn,
    log: StandIn,
    backend: Backend,
    _configuration: StandIn,
    _server: std::net::UdpSocket,
    _bus: Bus,
}

async fn registered() -> Set {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let log = StandIn::log(&bus).await;
    let (server, profile) = silent_server("");
    let configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    manager.expect(&[&format!("S 2,2 config_path={CONFIG_PATH}")]).await;
    Set { manager, log, backend, _configuration: configuration, _server: server, _bus: bus }
}

async fn connecting() -> Set {
    let mut set = registered().await;
    set.backend.call(&set.manager, "Connect", &()).await.unwrap();
    set.manager.expect(&[&format!("S 2,2 config_path={CONFIG_PATH}"), "S 2,6"]).await;
    set
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_pause_resume_restart_disconnect() {
    let mut set = connecting().await;
    let (backend, manager) = (&set.backend, &mut set.manager);
    // A second Connect changes nothing, and everything stays alive.
    backend.call(manager, "Connect", &()).await.unwrap();
    backend.call(manager, "Ready", &()).await.unwrap();
    let alive = backend.call(manager, "Ping", &()).await.unwrap();
    assert!(alive.body().deserialize::<bool>().unwrap());
    assert_eq!(
        error(backend.set(manager, "dco", Variant::from(true)).await).0,
        "org.freedesktop.DBus.Error.Failed"
    );
    assert_eq!(
        error(backend.call(manager, "Resume", &()).await),
        glib(CLIENT, "Connection is not paused")
    );

    backend.call(manager, "Pause", &("over\x1b[1m\nlunch",)).await.unwrap();
    manager.expect(&["S 2,13 Reason: over[1mlunch", "S 2,14"]).await;
    assert_eq!(
        error(backend.call(manager, "Pause", &("again",)).await),
        glib(CLIENT, "Connection is already paused")
    );
    backend.call(manager, "Resume", &()).await.unwrap();
    manager.expect(&["S 2,15", "S 2,12"]).await;
    backend.call(manager, "Restart", &()).await.unwrap();
    manager.expect(&["S 2,12"]).await;

    let started = Instant::now();
    backend.call(manager, "Disconnect", &()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    manager.expect(&["S 2,8", "S 2,9", "S 2,16"]).await;
    // The session manager reacts to (2,16) with another call.
    backend.call(manager, "Disconnect", &()).await.unwrap();
    backend.gone(Duration::from_secs(2)).await;
    set.log.called(&format!("Detach {INTERFACE}")).await;
    set.log.called(&format!("Detach {SESSIONS}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnect_before_connect() {
    let mut set = registered().await;
    set.backend.call(&set.manager, "Disconnect", &()).await.unwrap();
    set.manager.expect(&["S 2,8", "S 2,16"]).await;
    set.backend.gone(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn force_shutdown_always_ends_the_process() {
    let mut set = connecting().await;
    set.backend.call(&set.manager, "ForceShutdown", &()).await.unwrap();
    set.manager.expect(&["S 2,16"]).await;
    set.backend.gone(Duration::from_secs(2)).await;

    // Before registration too.
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.call(&manager, "ForceShutdown", &()).await.unwrap();
    manager.expect(&["S 2,16"]).await;
    backend.gone(Duration::from_secs(2)).await;
}

/// A session that hangs in netcfg's `Cleanup`: the service is asked once more without it.
#[tokio::test(flavor = "multi_thread")]
async fn force_shutdown_cleans_up_after_a_session_that_hangs_in_netcfg() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let calls = AtomicUsize::new(0);
    let mute_at_first = move |call: &zbus::Message| {
        let cleanup = call.header().member().unwrap() == "Cleanup";
        (!cleanup || calls.fetch_add(1, Ordering::Relaxed) > 0).then(|| 0_u32.into())
    };
    let netcfg = StandIn::start(&bus, NETCFG, Box::new(mute_at_first)).await;
    let backend = Backend::run(bus.unprivileged(), &mut manager).await;
    backend.register(&manager).await.unwrap();
    backend.call(&manager, "Connect", &()).await.unwrap();
    netcfg.called("ProtectSocket").await;
    backend.call(&manager, "ForceShutdown", &()).await.unwrap();
    backend.gone(Duration::from_secs(3)).await;
    let cleanups = netcfg.calls().iter().filter(|call| *call == "Cleanup").count();
    assert_eq!(cleanups, 2, "the session's, and the one of last resort");
}

/// A session that hangs before it has its journal: it waits for a lock.
#[tokio::test(flavor = "multi_thread")]
async fn force_shutdown_undoes_what_a_session_that_hangs_has_noted() {
    if !ovpn_client::privileges::can_configure_network() {
        println!("skipped: needs CAP_NET_ADMIN");
        return;
    }
    let bus = Bus::start();
    let directory = bus.file("run");
    std::fs::create_dir(&directory).unwrap();
    let lock = std::fs::File::open(&directory).unwrap();
    lock.lock().unwrap();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    let pid = backend.pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start_time = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap();
    let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net")).unwrap();
    let journal = directory.join(format!("{pid}-9-0.journal"));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot = boot.trim();
    let text = format!(
        "{{\"process\":{{\"version\":2,\"pid\":{pid},\"start_time\":{start_time},\
         \"boot\":\"{boot}\",\"namespace\":{{\"device\":{},\"inode\":{}}}}}}}\n\
         {{\"undo\":{{\"id\":0,\"what\":{{\"delete_link\":{{\"name\":\"nosuch9\",\
         \"kind\":\"ovpn\",\"index\":2000000000}}}}}}}}\n",
        namespace.dev(),
        namespace.ino(),
    );
    std::fs::write(&journal, text).unwrap();
    backend.register(&manager).await.unwrap();
    backend.call(&manager, "Connect", &()).await.unwrap();
    backend.call(&manager, "ForceShutdown", &()).await.unwrap();
    backend.gone(Duration::from_secs(3)).await;
    assert!(!journal.exists(), "everything in it is undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_configure_the_network_is_a_clear_failure() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::run(bus.unprivileged(), &mut manager).await;
    backend.register(&manager).await.unwrap();
    backend.call(&manager, "Connect", &()).await.unwrap();
    let ok = format!("S 2,2 config_path={CONFIG_PATH}");
    manager.expect(&[&ok, &ok, "S 2,6"]).await;
    let failure = manager.said().await;
    assert!(failure.starts_with("S 2,9 ") && failure.contains(NETCFG), "{failure}");
    assert!(failure.contains("CAP_NET_ADMIN"), "{failure}");
    // It can come later.
    let netcfg = StandIn::start(&bus, NETCFG, Box::new(|_| Some(0_u32.into()))).await;
    backend.call(&manager, "Connect", &()).await.unwrap();
    netcfg.called("ProtectSocket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_the_session_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut set = connecting().await;
        kill(Pid::from_raw(set.backend.pid), signal).unwrap();
        set.manager.expect(&["S 2,9"]).await;
        set.backend.gone(Duration::from_secs(3)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_manager_that_vanishes_takes_the_process_with_it() {
    let set = connecting().await;
    set.manager.connection.release_name(SESSIONS).await.unwrap();
    set.backend.gone(Duration::from_secs(3)).await;
    set.log.called(&format!("Detach {INTERFACE}")).await;

    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let unregistered = Backend::start(&bus, &mut manager).await;
    manager.connection.release_name(SESSIONS).await.unwrap();
    unregistered.gone(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_vanishes_takes_the_process_with_it() {
    let Set { backend, _bus: bus, .. } = connecting().await;
    drop(bus);
    backend.gone(Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_signalled_with_the_token_and_kept_as_the_last_one() {
    let mut set = connecting().await;
    let line = set.log.signal_named("Log").await;
    let body = line.body();
    let (group, category, token, text): (u32, u32, &str, &str) = body.deserialize().unwrap();
    assert!([6, 7].contains(&group), "{group}");
    assert!((1..=8).contains(&category));
    assert_eq!(token, TOKEN);
    assert!(!text.is_empty());
    let last = set.backend.get(&set.manager, "last_log_line").await.unwrap();
    let last: std::collections::HashMap<String, zbus::OwnedVariant> = last.try_into().unwrap();
    let mut keys: Vec<_> = last.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["log_category", "log_group", "log_message"]);
}
