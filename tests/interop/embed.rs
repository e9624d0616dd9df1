//! The library inside another program: `tests/examples/embed.rs`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, plain};
use crate::server::{Transport, Version};

#[test]
fn a_program_of_its_own_connects_and_leaves_nothing() {
    // Whoever runs this test alone has not built it. With everybody's features, as the whole suite is
    // built: there is nothing left to compile then.
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--example", "embed"])
        .status();
    assert!(cargo.unwrap().success());
    let test_program = std::env::current_exe().unwrap();
    let built = test_program.parent().unwrap().parent().unwrap();
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let before = lab.client_ns.snapshot();
    let profile = lab.file("embed.ovpn", &lab.profile(&config, ""));
    let mut program = lab
        .client_ns
        .command(built.join("examples/embed"))
        .arg(profile)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
    let connected = lines.by_ref().find(|line| line.contains(": data path ")).unwrap();
    assert!(connected.starts_with("[\"10.8.0."), "{connected}");
    lab.ping("10.8.0.1").unwrap();
    kill(Pid::from_raw(program.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(lines.last().as_deref(), Some("disconnected, as asked"));
    assert!(program.wait().unwrap().success());
    before.assert_same(&lab.client_ns.snapshot());
}
