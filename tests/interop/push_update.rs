//! A server changes what it has pushed while traffic goes on: OpenVPN 2.7's management commands.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, Client, RECONNECTING};
use crate::lab::{Lab, plain};
use crate::probe::Probe;
use crate::server::{Server, ServerConfig, Transport, Version};

const SOON: Duration = Duration::from_secs(20);

/// The server's management interface.
struct Management(BufReader<UnixStream>);

impl Management {
    fn open(path: &str) -> Self {
        let stream = UnixStream::connect(path).expect("the management interface");
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(BufReader::new(stream))
    }

    /// What it answers.
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.0.get_mut(), "{command}").expect("a command");
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("an answer");
            if !line.starts_with('>') {
                return line;
            }
        }
    }

    fn update(&mut self, items: &str) {
        let answer = self.ask(&format!("push-update-broad \"{items}\""));
        assert!(answer.starts_with("SUCCESS"), "{items}: {answer}");
    }
}

/// What a client has configured.
fn configured(lab: &Lab) -> String {
    lab.client_ns.sh("ip address show dev tun0; ip route; ip -6 route show dev tun0")
}

/// Updates, and has the client say that it is connected as the server wants it now.
fn follow(server: &Server, client: &mut Client, management: &mut Management, items: &str) {
    let known = client.statuses.len();
    management.update(items);
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{items}: {e}\n{}", server.log()));
    assert!(client.statuses[known..].iter().all(|(code, _)| *code != RECONNECTING), "{items}");
}

fn updated(transport: Transport) {
    let lab = Lab::new();
    let socket = lab.directory().join("management").to_str().unwrap().to_owned();
    let extra = format!(
        "management {socket} unix\nmssfix 0\nkeepalive 10 60\npush \"route 192.0.2.0 255.255.255.0\"\n\
         push \"route 198.18.9.0 255.255.255.0\"\npush \"dhcp-option DNS 10.8.0.1\"\n"
    );
    let config = ServerConfig { extra, ..plain(Version::V27, transport) };
    let server = lab.start_server(&config);
    let resolv_conf = lab.file("resolv.conf", "nameserver 203.0.113.53\n");
    let names = || std::fs::read_to_string(&resolv_conf).unwrap();
    let profile = lab.profile(&config, "");
    let before = lab.client_ns.snapshot();
    let mut client = Client::start_with_resolv_conf(
        &lab.client_ns,
        lab.directory(),
        &profile,
        &resolv_conf,
        &[],
    );
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    let mut management = Management::open(&socket);
    assert!(configured(&lab).contains("198.18.9.0/24"));
    assert!(names().contains("nameserver 10.8.0.1\n"), "{}", names());

    let probe = Probe::new(&lab, &["eth0"]);
    probe.run(|| {
        probe.recovers(Instant::now(), SOON).unwrap();
        let update = "route 192.0.2.0 255.255.255.0, route 198.18.1.0 255.255.255.0, \
                      dhcp-option DNS 10.8.0.53, tun-mtu 1450";
        follow(&server, &mut client, &mut management, update);
        let now = configured(&lab);
        assert!(now.contains("198.18.1.0/24") && !now.contains("198.18.9.0/24"), "{now}");
        assert!(now.contains("mtu 1450"), "{now}");
        // IP and TCP with time stamps: segments follow the MTU, both ways.
        let listener = lab.server_ns.run(|| TcpListener::bind("10.8.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let near = lab.client_ns.run(|| TcpStream::connect(address).unwrap());
        let (far, _) = listener.accept().unwrap();
        for stream in [near, far] {
            assert_eq!(socket2::SockRef::from(&stream).tcp_mss().unwrap(), 1450 - 20 - 32);
        }
        assert!(names().contains("nameserver 10.8.0.53\n"), "{}", names());
        assert!(!names().contains("nameserver 10.8.0.1\n"), "{}", names());

        follow(&server, &mut client, &mut management, "redirect-gateway def1, ?unheard-of 1");
        let now = configured(&lab);
        assert!(now.contains("0.0.0.0/1 ") && now.contains("198.51.100.1 "), "{now}");

        let cid = client_id(&mut management);
        let known = client.statuses.len();
        let answer =
            management.ask(&format!("push-update-cid {cid} \"-redirect-gateway, -dhcp-option\""));
        assert!(answer.starts_with("SUCCESS"), "{answer}");
        client.wait(CONNECTED, SOON).unwrap();
        assert!(client.statuses[known..].iter().all(|(code, _)| *code != RECONNECTING));
        let now = configured(&lab);
        assert!(now.contains("198.18.1.0/24") && !now.contains("0.0.0.0/1 "), "{now}");
        assert!(!names().contains("10.8.0.53"), "{}", names());

        // As much as the management interface takes for one word.
        let routes: Vec<_> = (0..6).map(|n| format!("route 198.19.{n}.0 255.255.255.0")).collect();
        follow(
            &server,
            &mut client,
            &mut management,
            &format!("route 192.0.2.0 255.255.255.0, {}", routes.join(", ")),
        );
        let now = configured(&lab);
        assert_eq!(now.matches("198.19.").count(), 6, "{now}");
        probe.recovers(Instant::now(), SOON).unwrap();
    });
    assert_eq!((probe.missing(), probe.outside()), (0, 0), "lost, and outside");
    assert_eq!(server.log_count("Peer Connection Initiated"), 1, "{}", server.log());

    // An address goes with its routes, and another comes.
    let update = "ifconfig 10.8.0.77 255.255.255.0";
    follow(&server, &mut client, &mut management, update);
    let now = configured(&lab);
    assert!(now.contains("10.8.0.77/24") && !now.contains("10.8.0.2/24"), "{now}");
    assert_eq!(now.matches("198.19.").count(), 6, "{now}");
    lab.ping("10.8.0.1").unwrap_or_else(|e| panic!("{e}\n{}", server.log()));

    // What only a new connection can change.
    management.ask("push-update-broad \"cipher AES-128-GCM\"");
    // The server sends it with whatever wakes it next.
    let _ = lab.ping_with("-n -c 1 -W 1 10.8.0.1");
    client.wait(RECONNECTING, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    client.wait(CONNECTED, SOON).unwrap();
    assert!(configured(&lab).contains("198.18.9.0/24"), "as the server pushes it to everybody");
    let ending = client.stop(Signal::SIGTERM);
    assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    before.assert_same(&lab.client_ns.snapshot());
    assert_eq!(names(), "nameserver 203.0.113.53\n");
}

/// `CLIENT_LIST,...,Client ID,Peer ID,...` of `status 2`.
fn client_id(management: &mut Management) -> String {
    let (mut column, mut line) = (None, management.ask("status 2"));
    loop {
        let fields: Vec<&str> = line.trim_end().split(',').collect();
        if fields.starts_with(&["HEADER", "CLIENT_LIST"]) {
            column = fields.iter().position(|field| *field == "Client ID").map(|at| at - 1);
        }
        if let (Some(column), Some(&"CLIENT_LIST")) = (column, fields.first()) {
            let id = fields[column].to_owned();
            while line.trim_end() != "END" {
                line.clear();
                management.0.read_line(&mut line).unwrap();
            }
            return id;
        }
        line.clear();
        management.0.read_line(&mut line).unwrap();
    }
}

#[test]
fn over_udp() {
    updated(Transport::Udp4);
}

#[test]
fn over_tcp() {
    updated(Transport::Tcp6);
}
