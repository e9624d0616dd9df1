//! A panic anywhere in the process ends it, with everything put back: in the thread that moves
//! packets, in a task, in a thread that does something else.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::CONNECTED;
use crate::host::{Host, Run, SERVER};
use crate::server::Scenario;

const LIMIT: Duration = Duration::from_secs(60);
/// All that a connection changes: addresses, the default route, one around the tunnel, DNS.
const PUSH: &str = "redirect-gateway def1,dhcp-option DNS 10.66.0.1,\
                    route 203.0.113.0 255.255.255.0 net_gateway,";

/// Has `fault` happen once `occasion` has given it the opportunity.
fn ends_in_order(fault: &str, occasion: impl FnOnce(&Host, &Run<'_>)) {
    // Whoever runs this test alone has not built it.
    let cargo =
        Command::new(env!("CARGO")).args(["build", "--quiet", "--example", "faulty"]).status();
    assert!(cargo.unwrap().success());
    let test_program = std::env::current_exe().unwrap();
    let built = test_program.parent().unwrap().parent().unwrap();
    let host = Host::new();
    let _server = host.serve(SERVER, Scenario::new(PUSH).over_tcp());
    let when = host.directory().join("now");
    let mut command = host.client_ns.command(built.join("examples/faulty"));
    command.env("FAULT", fault).env("FAULT_WHEN", &when);
    let mut run = host.spawn(command, Stdio::null(), &host.profile("proto tcp\npersist-tun\n"));
    run.client.wait(CONNECTED, LIMIT).unwrap_or_else(|e| panic!("{e}"));
    fs::write(&when, "").unwrap();
    occasion(&host, &run);
    let ending = run.ends(LIMIT);
    assert_eq!(ending.code, Some(1), "{}", ending.transcript);
    assert!(ending.transcript.contains("internal error"), "{}", ending.transcript);
}

#[test]
fn a_panic_in_the_data_path() {
    ends_in_order("read data ", |host, _| {
        // It need not come back.
        let mut ping = host.client_ns.command("ping");
        ping.args(["-c", "1", "-W", "1", "10.66.0.1"]).stdout(Stdio::null()).status().unwrap();
    });
}

#[test]
fn a_panic_in_a_task() {
    ends_in_order("send session", |_, run| run.client.signal(Signal::SIGUSR1));
}

#[test]
fn a_panic_in_a_thread() {
    ends_in_order("write output", |_, run| run.client.signal(Signal::SIGUSR2));
}
