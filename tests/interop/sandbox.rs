//! The client under its system call filter, as it is shipped: nothing that it does is refused, on any
//! data path and in either sandbox. In guests only (`ci/vm/run`): the log that tells is the whole
//! machine's.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use caps::Capability::{CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW};
use nix::sys::signal::Signal;
use ovpn_client::privileges::{Calls, restrict};
use ovpn_test_support::confined;

use crate::client::{CONNECTED, Client, program};
use crate::lab::{Lab, plain};
use crate::server::{ServerConfig, Transport, Version};

const SOON: Duration = Duration::from_secs(30);

#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn offloaded_and_nobody() {
    nothing_is_refused(Transport::Udp4, "on", "on");
}

#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn offloaded_and_root() {
    nothing_is_refused(Transport::Tcp6, "on", "off");
}

#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn in_user_space_and_nobody() {
    nothing_is_refused(Transport::Udp6, "off", "on");
}

#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn in_user_space_and_root() {
    nothing_is_refused(Transport::Tcp4, "off", "off");
}

/// A connection with routes, DNS, data, new keys, statistics, and an end.
fn nothing_is_refused(transport: Transport, dco: &str, sandbox: &str) {
    let lab = Lab::new();
    // Without the flag an answer may come after ping has gone (Nagle's algorithm).
    let extra = "reneg-sec 3\nsocket-flags TCP_NODELAY\npush \"route 192.0.2.0 255.255.255.0\"\n\
                 push \"dhcp-option DNS 10.8.0.1\"\n";
    let config = ServerConfig { extra: extra.to_owned(), ..plain(Version::V27, transport) };
    let server = lab.start_server(&config);
    let resolv_conf = lab.file("resolv.conf", "nameserver 198.51.100.1\n");
    let mut client = Client::start_with_resolv_conf(
        &lab.client_ns,
        lab.directory(),
        &lab.profile(&config, ""),
        &resolv_conf,
        &["--dco", dco, "--sandbox", sandbox],
    );
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    let pid = client.id().cast_signed();
    let helpers = children(pid);
    if sandbox == "on" {
        confined::assert_confined(pid, &[CAP_NET_ADMIN]);
        confined::assert_without_files(pid);
        assert_eq!(helpers.len(), 1, "{helpers:?}");
    } else {
        confined::assert_confined(pid, &[CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE]);
        assert_eq!(confined::users(pid), "0 0 0 0");
        assert_eq!(helpers, [0; 0]);
    }
    for helper in helpers {
        confined::assert_confined(helper, &[CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE]);
    }
    let configured = std::fs::read_to_string(&resolv_conf).unwrap();
    assert!(configured.contains("nameserver 10.8.0.1"), "{configured}");

    lab.transfer("192.0.2.1", 300_000).unwrap();
    let deadline = Instant::now() + SOON;
    while server.log_count("Control Channel: TLS") < 3 {
        assert!(Instant::now() < deadline, "no new keys:\n{}", server.log());
        lab.ping_with("-n -q -i 0.05 -c 20 -W 3 10.8.0.1").unwrap();
    }
    client.statistics();
    let ending = client.stop(Signal::SIGTERM);
    assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    let after = std::fs::read_to_string(&resolv_conf).unwrap();
    assert_eq!(after, "nameserver 198.51.100.1\n");

    // The log is written later, and in order.
    provoke();
    assert_eq!(refused(&program()), [""; 0], "{}", ending.transcript);
}

/// Those who were started by a process of one thread.
fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Has this program make a call that is in no list, until the kernel's log says so.
fn provoke() {
    let own = std::env::current_exe().unwrap();
    assert_eq!(refused(&own), [""; 0]);
    let deadline = Instant::now() + SOON;
    while refused(&own).is_empty() {
        assert!(Instant::now() < deadline, "this kernel's log does not tell what was refused");
        // Filters are per thread.
        let call = || {
            restrict(Calls::Programs).unwrap();
            let refused = nix::unistd::chroot("/");
            assert_eq!(refused, Err(nix::Error::ENOSYS));
        };
        std::thread::spawn(call).join().unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What the kernel's log has of calls of this program that were refused.
fn refused(program: &Path) -> Vec<String> {
    let output = Command::new("dmesg").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let program = format!("exe=\"{}\"", program.display());
    let log = String::from_utf8_lossy(&output.stdout);
    let lines = log.lines().filter(|line| line.contains("type=1326 ") && line.contains(&program));
    lines.map(str::to_owned).collect()
}
