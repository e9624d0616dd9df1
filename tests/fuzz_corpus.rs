//! Replays the committed fuzz inputs: each was interesting or wrong once.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]
#![allow(unreachable_pub, reason = "the targets are roots of crates of their own, too")]

use std::path::Path;

#[path = "fuzz/targets/control_packet.rs"]
mod control_packet;
#[path = "fuzz/targets/data_packet.rs"]
mod data_packet;
#[path = "fuzz/targets/key_method.rs"]
mod key_method;
#[path = "fuzz/targets/netlink.rs"]
mod netlink;
#[path = "fuzz/targets/offload_coalesce.rs"]
mod offload_coalesce;
#[path = "fuzz/targets/offload_split.rs"]
mod offload_split;
#[path = "fuzz/targets/profile.rs"]
mod profile;
#[path = "fuzz/targets/push.rs"]
mod push;
#[path = "fuzz/targets/replay_window.rs"]
mod replay_window;
#[path = "fuzz/targets/wrapping.rs"]
mod wrapping;

fn replay(name: &str, run: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no inputs in {}", dir.display());
}

#[test]
fn control_packet() {
    replay("control_packet", control_packet::run);
}

#[test]
fn data_packet() {
    replay("data_packet", data_packet::run);
}

#[test]
fn key_method() {
    replay("key_method", key_method::run);
}

#[test]
fn netlink() {
    replay("netlink", netlink::run);
}

#[test]
fn offload_coalesce() {
    replay("offload_coalesce", offload_coalesce::run);
}

#[test]
fn offload_split() {
    replay("offload_split", offload_split::run);
}

#[test]
fn profile() {
    replay("profile", profile::run);
}

#[test]
fn push() {
    replay("push", push::run);
}

#[test]
fn replay_window() {
    replay("replay_window", replay_window::run);
}

#[test]
fn wrapping() {
    replay("wrapping", wrapping::run);
}
