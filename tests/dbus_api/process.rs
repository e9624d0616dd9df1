//! Command line and exit codes, as the deployed program has them.

use std::process::Output;

use crate::bus::*;

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
    // The threads of sessions inherit from the first.
    for task in std::fs::read_dir(format!("/proc/{}/task", backend.pid)).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        for set in ["CapEff", "CapPrm"] {
            // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW
            let allowed = 1 << 10 | 1 << 12 | 1 << 13;
            let held = u64::from_str_radix(&field(set), 16).unwrap();
            assert_eq!(held & !allowed, 0, "{set} {held:#x}");
            assert_ne!(held & 1 << 12, 0, "{set} {held:#x}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set}");
        }
    }
}
