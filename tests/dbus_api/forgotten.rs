//! What a backend still has in its memory after the messages that brought it. In a network namespace,
//! because it makes a tunnel there; the server is the simulated one behind a real socket.

use std::time::Duration;

use ovpn_test_support::memory::{Secret, expect_none, key_pieces, text};
use ovpn_test_support::netns::NetNs;
use ovpn_test_support::sim::real_tls;
use ovpn_test_support::sim::running::RunningServer;

use crate::bus::*;

const USER: &str = "joe-the-user";
const CONNECTED: &str = "S 2,7";

/// A backend in a namespace, registered with a profile for this server.
struct Tunnel {
    manager: StandIn,
    backend: Backend,
    _configuration: StandIn,
    _bus: Bus,
}

impl Tunnel {
    async fn new(namespace: &NetNs, server: &RunningServer, profile: &str) -> Self {
        let bus = Bus::start();
        let mut manager = StandIn::session_manager(&bus).await;
        let (host, port) = (server.address.ip(), server.address.port());
        let profile =
            format!("client\ndev tun\nremote {host} {port} udp\nauth-user-pass\n{profile}\n");
        let configuration = StandIn::configuration(&bus, profile).await;
        let program = bus.on_this_bus(namespace.command(PROGRAM));
        let backend = Backend::run(program, &mut manager).await;
        backend.register(&manager).await.unwrap();
        Self { manager, backend, _configuration: configuration, _bus: bus }
    }

    /// Answers a question.
    async fn provide(&self, numbers: (u32, u32), id: u32, value: &str) {
        let answer = (numbers.0, numbers.1, id, value);
        self.backend.call(&self.manager, "UserInputProvide", &answer).await.unwrap();
    }

    async fn log_in(&self, password: &str) {
        self.provide((1, 1), 0, USER).await;
        self.provide((1, 1), 1, password).await;
    }

    async fn connect(&mut self) {
        self.backend.call(&self.manager, "Connect", &()).await.unwrap();
        self.said(CONNECTED).await;
    }

    /// Waits until this is said; what comes before is not looked at.
    async fn said(&mut self, wanted: &str) {
        while self.manager.said().await != wanted {}
    }

    fn expect_none(&self, secrets: &[Secret]) {
        expect_none(self.backend.pid.cast_unsigned(), USER, secrets);
    }
}

/// Waits until there have been so many key exchanges.
async fn exchanged(server: &RunningServer, number: usize) {
    let wait = async {
        while server.keys().len() < number {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("a key exchange");
}

/// Profile, password and passphrase come in messages; none of them stays.
#[tokio::test(flavor = "multi_thread")]
async fn with_auth_nocache_no_secret_of_a_message_stays_in_memory() {
    let (key, encrypted) = real_tls::encrypted_identity("Sesame-Open-77");
    let plain = (real_tls::identity(), None);
    for (identity, passphrase) in [plain, (encrypted, Some("Sesame-Open-77"))] {
        let namespace = NetNs::new("bus");
        let server = RunningServer::start(&namespace);
        let profile = format!("auth-nocache\ntran-window 2\n{identity}");
        let mut tunnel = Tunnel::new(&namespace, &server, &profile).await;
        let mut secrets = key_pieces(&key);
        tunnel.log_in("First-Secret-31").await;
        secrets.push(text("first password", "First-Secret-31"));
        if let Some(passphrase) = passphrase {
            tunnel.provide((1, 3), 0, passphrase).await;
            secrets.push(text("passphrase", passphrase));
        }
        tunnel.connect().await;
        tunnel.expect_none(&secrets);

        server.renegotiate();
        tunnel.said("A 1,1 Username/password credentials needed").await;
        tunnel.log_in("Second-Secret-59").await;
        secrets.push(text("second password", "Second-Secret-59"));
        exchanged(&server, 2).await;
        tunnel.expect_none(&secrets);
        tunnel.backend.call(&tunnel.manager, "Disconnect", &()).await.unwrap();
        tunnel.backend.gone(LIMIT).await;
    }
}

/// Only the newest token is kept. What the one before came in, the TLS library keeps as long as the
/// TLS session.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_replaced_does_not_stay_in_memory() {
    let namespace = NetNs::new("bus");
    let server = RunningServer::pushing(&namespace, ",auth-token SESS_ID_first_token_41");
    let identity = real_tls::identity();
    let profile = format!("auth-nocache\ntran-window 1\n{identity}");
    let mut tunnel = Tunnel::new(&namespace, &server, &profile).await;
    tunnel.log_in("First-Secret-31").await;
    tunnel.connect().await;
    tunnel.expect_none(&[text("password", "First-Secret-31")]);
    server.say("PUSH_REPLY,auth-token SESS_ID_second_token_42");
    for exchanges in [2, 3] {
        server.renegotiate();
        exchanged(&server, exchanges).await;
    }
    tunnel.expect_none(&[text("first token", "SESS_ID_first_token_41")]);
    tunnel.backend.call(&tunnel.manager, "Disconnect", &()).await.unwrap();
    tunnel.backend.gone(LIMIT).await;
    let passwords: Vec<_> = server.end().into_iter().map(|(_, password)| password).collect();
    let second = "SESS_ID_second_token_42";
    assert_eq!((passwords[0].as_str(), passwords[2].as_str()), ("First-Secret-31", second));
}
