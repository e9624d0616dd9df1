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

#[path = "fuzz/targets/certificate.rs"]
mod certificate;
#[path = "fuzz/targets/control_channel.rs"]
mod control_channel;
#[path = "fuzz/targets/control_packet.rs"]
mod control_packet;
#[path = "fuzz/targets/data_packet.rs"]
mod data_packet;
#[path = "fuzz/targets/dbus.rs"]
mod dbus;
#[path = "fuzz/targets/http_proxy.rs"]
mod http_proxy;
#[path = "fuzz/targets/journal.rs"]
mod journal;
#[path = "fuzz/targets/key_method.rs"]
mod key_method;
#[path = "fuzz/targets/netlink.rs"]
mod netlink;
#[path = "fuzz/targets/offload_coalesce.rs"]
mod offload_coalesce;
#[path = "fuzz/targets/offload_split.rs"]
mod offload_split;
#[path = "fuzz/targets/overrides.rs"]
mod overrides;
#[path = "fuzz/targets/plan.rs"]
mod plan;
#[path = "fuzz/targets/posture.rs"]
mod posture;
#[path = "fuzz/targets/private_key.rs"]
mod private_key;
#[path = "fuzz/targets/profile.rs"]
mod profile;
#[path = "fuzz/targets/push.rs"]
mod push;
#[path = "fuzz/targets/replay_window.rs"]
mod replay_window;
#[path = "fuzz/targets/resolv_conf.rs"]
mod resolv_conf;
#[path = "fuzz/targets/rtnetlink.rs"]
mod rtnetlink;
#[path = "fuzz/targets/tcp_framing.rs"]
mod tcp_framing;
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

macro_rules! replayed {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name), $name::run);
            }
        )*
    };
}

replayed! {
    certificate,
    control_channel,
    control_packet,
    data_packet,
    dbus,
    http_proxy,
    journal,
    key_method,
    netlink,
    offload_coalesce,
    offload_split,
    overrides,
    plan,
    posture,
    private_key,
    profile,
    push,
    replay_window,
    resolv_conf,
    rtnetlink,
    tcp_framing,
    wrapping,
}
