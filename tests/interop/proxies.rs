//! Real proxies on the way to a real server.

use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::CONNECTED;
use crate::lab::{Lab, plain};
use crate::server::{ServerConfig, Transport, Version};

const PROXY: &str = "198.51.100.1";

/// A proxy on the server's machine; it ends with this value.
struct Running(Child);

impl Running {
    fn start(lab: &Lab, program: &str, arguments: &[&str]) -> Self {
        let mut command = lab.server_ns.command(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let proxy = Self(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")));
        for _ in 0..100 {
            if lab.server_ns.sh("ss -Hltn 'sport = :1080'").contains(":1080") {
                return proxy;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{program} does not listen");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server sees the proxy's address, and what it pushes leads everything through the tunnel but the
/// way to the proxy.
fn connects(lab: &Lab, config: &ServerConfig, extra: &str) {
    let server = lab.start_server(config);
    let before = lab.client_ns.snapshot();
    let mut client = lab.start_client(&lab.profile(config, extra), &[]);
    client
        .wait(CONNECTED, Duration::from_secs(15))
        .unwrap_or_else(|error| panic!("{extra}: {error}\n{}", server.log()));
    lab.ping("192.0.2.1").unwrap();
    // The next connection goes the same way.
    client.signal(Signal::SIGUSR1);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    lab.ping("192.0.2.1").unwrap();
    let established = "TCP connection established with [AF_INET]";
    let seen = (server.log().matches(established).count(), {
        server.log().matches(&format!("{established}{PROXY}:")).count()
    });
    assert_eq!(seen, (2, 2), "{}", server.log());
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
    before.assert_same(&lab.client_ns.snapshot());
}

fn behind_tcp() -> ServerConfig {
    let extra = "push \"redirect-gateway def1\"\n".to_owned();
    ServerConfig { extra, ..plain(Version::V27, Transport::Tcp4) }
}

#[test]
fn socks() {
    let lab = Lab::new();
    let open = Running::start(&lab, "microsocks", &["-i", PROXY, "-p", "1080"]);
    connects(&lab, &behind_tcp(), "socks-proxy 198.51.100.1\n");
    // A login that nobody wants does no harm.
    let login = lab.file("login.txt", "joe\nsecret\n");
    connects(&lab, &behind_tcp(), &format!("socks-proxy 198.51.100.1 1080 {login}\n"));
    drop(open);

    let arguments = ["-i", PROXY, "-p", "1080", "-u", "joe", "-P", "secret"];
    let _locked = Running::start(&lab, "microsocks", &arguments);
    connects(&lab, &behind_tcp(), &format!("socks-proxy 198.51.100.1 1080 {login}\n"));
    let wrong = lab.file("wrong.txt", "joe\nwrong\n");
    for (extra, told) in [
        (format!("socks-proxy 198.51.100.1 1080 {wrong}\n"), "did not accept the user name"),
        ("socks-proxy 198.51.100.1\n".to_owned(), "a file that http-proxy or socks-proxy names"),
    ] {
        let _server = lab.start_server(&behind_tcp());
        let mut client = lab.start_client(&lab.profile(&behind_tcp(), &extra), &[]);
        let end = client.finish(Duration::from_secs(20));
        assert!(end.code.is_some_and(|code| code != 0), "{extra}: {}", end.transcript);
        assert!(end.transcript.contains(told), "{extra}: {}", end.transcript);
    }
}

/// Another implementation, and one that asks the kind of authentication by rules.
#[test]
fn socks_of_another_kind() {
    let lab = Lab::new();
    let config = lab.file(
        "danted.conf",
        "logoutput: stderr\ninternal: 198.51.100.1 port = 1080\nexternal: eth0\n\
         clientmethod: none\nsocksmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n\
         client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n\
         socks pass { from: 0.0.0.0/0 to: 198.51.100.1/32 port = 1194 }\n\
         socks block { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n",
    );
    let _proxy = Running::start(&lab, "danted", &["-f", &config]);
    connects(&lab, &behind_tcp(), "socks-proxy 198.51.100.1\n");
    let profile = lab.profile(&behind_tcp(), "socks-proxy 198.51.100.1\nconnect-retry-max 1\n");
    let profile = profile.replace(" 1194 tcp4", " 1195 tcp4");
    let mut client = lab.start_client(&profile, &[]);
    let end = client.finish(Duration::from_secs(20));
    assert!(end.transcript.contains("its rules do not allow it (2)"), "{}", end.transcript);
}
