//! Command line and exit codes, as the deployed program has them.

use std::process::Output;

use caps::CapSet;
use caps::Capability::{CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW};

use crate::bus::*;
use crate::confined::assert_confined;

fn run(bus: &Bus, arguments: &[&str]) -> Output {
    bus.program().args(arguments).output().unwrap()
}

#[test]
fn exit_codes() {
    let bus = Bus::start();
    assert_eq!(run(&bus, &["--version"]).status.code(), Some(0));
    assert_eq!(run(&bus, &["--help"]).status.code(), Some(0));
    let none = run(&bus, &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8(none.stdout).unwrap().contains("token"));
    assert_eq!(run(&bus, &["one", "two"]).status.code(), Some(1));
    assert_eq!(run(&bus, &["--no-such-option", "x"]).status.code(), Some(2));
    assert_eq!(run(&bus, &["--no-fork", "x"]).status.code(), Some(2));
    assert_eq!(run(&bus, &["--log-level", "7", "x"]).status.code(), Some(2));
    let missing = bus.file("no/such/dir/log");
    assert_ne!(run(&bus, &["--log-file", missing.to_str().unwrap(), "x"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_level_and_log_file() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let file = bus.file("log");
    let arguments =
        ["--log-level", "6", "--log-file", file.to_str().unwrap(), "--disable-protect-socket"];
    let status = bus.program().args(arguments).arg(TOKEN).status().unwrap();
    assert!(status.success());
    let backend = Backend::registering(&mut manager).await;
    let level = backend.get(&manager, "log_level").await.unwrap();
    assert_eq!(u32::try_from(level).unwrap(), 6);
    backend.call(&manager, "Disconnect", &()).await.unwrap();
    backend.gone(LIMIT).await;
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(log.contains(&backend.name), "{log}");
    assert!(!log.contains('\x1b'), "no colours unless asked for");
}

/// The deployed program exits with 0 when there is nobody to talk to; so does its first process
/// here, and no process stays.
#[test]
fn without_a_session_manager_the_process_ends() {
    let bus = Bus::start();
    let output = bus.program().arg(TOKEN).output().unwrap();
    // `output` waits for the pipes, so the second process has ended as well.
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("net.openvpn.v3.sessions"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_configures_the_network_itself_can_do_little_else() {
    if !ovpn_client::privileges::can_configure_network() {
        println!("skipped: needs CAP_NET_ADMIN");
        return;
    }
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let backend = Backend::start(&bus, &mut manager).await;
    assert_confined(backend.pid, &[CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE]);
    assert!(caps::has_cap(Some(backend.pid), CapSet::Effective, CAP_NET_ADMIN).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_the_network_configured_for_it_can_do_as_little() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let backend = Backend::run(bus.unprivileged(), &mut manager).await;
    assert_confined(backend.pid, &[CAP_NET_RAW, CAP_NET_BIND_SERVICE]);
}
