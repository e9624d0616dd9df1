//! Network namespaces for tests: made over netlink, removed on drop (also when a test panics).
//!
//! Needs root, and for TUN devices `/dev/net/tun`; without them the functions panic and name what is
//! missing.
//!
//! ```no_run
//! use ovpn_test_support::netns::{NetNs, connect};
//!
//! let client = NetNs::new("demo");              // /run/netns/demo-<pid>-0, loopback up
//! let server = NetNs::new("demo");
//! connect(&client, "eth0", &server, "eth0");    // veth pair, both ends up
//! client.add_address("eth0", "192.0.2.1/24");
//! server.add_address("eth0", "192.0.2.2/24");
//! client.add_route("default", Some("192.0.2.2"), Some("eth0"));
//! server.sysctl("net/ipv4/ip_forward", "1");
//! client.sh("ping -c1 -W1 192.0.2.2");          // panics with the output if it fails
//! let child = server.command("iperf3").arg("-s").spawn();
//! let n = client.run(|| 6 * 7);                 // a closure on a thread inside the namespace
//! client.block_on(|| async { /* tokio inside the namespace */ });
//! ```
//!
//! Names are `<prefix>-<pid>-<n>`, so `ip netns exec` and `--netns` work on them. Namespaces whose
//! process was killed are removed when the next test with the same prefix starts.
//!
//! [`connect_impaired`] makes a link that loses and delays packets: `netem` on a veth pair where
//! the kernel has it, a pair of TAP devices with a thread between them where it has not.

mod impair;
mod namespace;
mod netlink;
mod snapshot;

pub use self::{
    impair::{ImpairedLink, Impairment, connect_impaired},
    namespace::{NetNs, remove},
    netlink::{Tun, connect},
    snapshot::Snapshot,
};
