//! What a session has changed on a host is undone however the session or the process ends: with the
//! real kernel, and sessions that panic, hang or are slow on purpose.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ovpn_dco::Interface;
use ovpn_test_support::netns::NetNs;
use tokio::sync::mpsc;

use super::{Body, Threads};
use crate::network::{DirectNetwork, NetworkPlan, PlanInput, RouteQuery};
use crate::profile::{DnsScope, NetworkOptions, NoFiles, Profile, Protocol, Topology};
use crate::secret::{Credentials, Secret};
use crate::session::{
    Command, NetworkMode, Outcome, SessionConfig, SessionEvent, SessionState, Teller,
};

const TUNNEL: &str = "tun7";

fn config(runtime_dir: &Path) -> SessionConfig {
    let profile = format!(
        "client\ndev tun\nauth-user-pass\npeer-fingerprint {}\nremote 192.0.2.1\n",
        ["00"; 32].join(":"),
    );
    SessionConfig {
        options: Arc::new(Profile::parse(&profile, "test.ovpn", &NoFiles).unwrap().options),
        credentials: Credentials { username: "joe".to_owned(), password: Secret::from("secret") },
        one_time_password: false,
        key_passphrase: None,
        proxy_credentials: None,
        dco: false,
        network: NetworkMode::Direct,
        runtime_dir: runtime_dir.to_owned(),
        auth_fail_retry: false,
        dns_scope: DnsScope::Global,
        gui_version: String::new(),
        sso: String::new(),
        posture: None,
    }
}

/// What a session does when it connects, on a device that is there already.
async fn configure(config: &SessionConfig) -> DirectNetwork {
    let mut network = DirectNetwork::open(&config.runtime_dir).await.unwrap();
    let remote = "192.0.2.1".parse().unwrap();
    let query = RouteQuery { remote, mark: None, bind_dev: None };
    let gateways = network.lookup(&query).await.unwrap();
    let options = NetworkOptions {
        topology: Some(Topology::Subnet),
        ifconfig: Some(("10.8.0.2".parse().unwrap(), "255.255.255.0".parse().unwrap())),
        ..NetworkOptions::default()
    };
    let plan = NetworkPlan::build(&PlanInput {
        options: &options,
        tun_mtu: 1420,
        tx_queue_len: None,
        remote,
        protocol: Protocol::Udp,
        gateways: &gateways,
        dns_scope: config.dns_scope,
    })
    .unwrap();
    let index = nix::net::if_::if_nametoindex(TUNNEL).unwrap();
    network.apply(&Interface { name: TUNNEL.to_owned(), index }, &plan).await.unwrap();
    network
}

/// Once it is configured a session tells so, and waits until nobody is left to command it.
fn session<F>(
    config: SessionConfig,
    mut commands: mpsc::Receiver<Command>,
    teller: Teller,
    end: impl FnOnce(DirectNetwork, Teller) -> F + Send + 'static,
) -> BoxFuture<'static, ()>
where
    F: Future<Output = ()> + Send,
{
    Box::pin(async move {
        let network = configure(&config).await;
        teller.tell(SessionEvent::State(SessionState::Paused));
        while commands.recv().await.is_some() {}
        end(network, teller).await;
    })
}

fn orderly(
    config: SessionConfig,
    commands: mpsc::Receiver<Command>,
    teller: Teller,
) -> BoxFuture<'static, ()> {
    session(config, commands, teller, |mut network, teller| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        network.undo().await.unwrap();
        teller.tell(SessionEvent::Ended(Outcome::Disconnected));
    })
}

fn hanging(
    config: SessionConfig,
    commands: mpsc::Receiver<Command>,
    teller: Teller,
) -> BoxFuture<'static, ()> {
    session(config, commands, teller, |_network, _teller| std::future::pending())
}

fn panicking(
    config: SessionConfig,
    commands: mpsc::Receiver<Command>,
    teller: Teller,
) -> BoxFuture<'static, ()> {
    session(config, commands, teller, |_network, _teller| async { panic!("deliberate") })
}

/// Has a session configure a device, runs `calls` with its events, and looks what is left when the
/// threads have ended.
fn leaves_nothing<F>(body: Body, calls: impl FnOnce(super::Running) -> F + Send)
where
    F: Future<Output = ()>,
{
    let ns = NetNs::new("thr");
    let _tun = ns.add_tun(TUNNEL);
    ns.sh(&format!("ip link set {TUNNEL} down"));
    let directory = tempfile::tempdir().unwrap();
    let before = ns.settled_snapshot();
    ns.run(|| {
        let mut threads = Threads::new().unwrap();
        threads.session_limit = Duration::from_secs(1);
        let start = threads.starter_of(body);
        let config = config(directory.path());
        // A panic of the main thread comes out again, as it has to.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            threads.run(async {
                let mut running = start(config);
                let connected = running.events.recv().await;
                let paused = matches!(connected, Some(SessionEvent::State(SessionState::Paused)));
                assert!(paused, "{connected:?}");
                calls(running).await;
            });
        }));
    });
    before.assert_same(&ns.snapshot());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no journal");
}

#[test]
fn a_session_ends_in_order_when_nobody_is_left_to_command_it() {
    leaves_nothing(orderly, |running| async { drop(running) });
}

#[test]
fn a_panic_of_whoever_answers_calls() {
    leaves_nothing(orderly, |_running| async { panic!("deliberate") });
}

#[test]
fn a_panic_of_the_session_is_undone_before_it_is_told() {
    leaves_nothing(panicking, |running| async {
        let super::Running { commands, mut events } = running;
        drop(commands);
        assert!(events.recv().await.is_none(), "not even a last word");
    });
}

#[test]
fn a_session_that_hangs() {
    leaves_nothing(hanging, |running| async { drop(running) });
}

#[test]
fn a_panic_while_the_session_hangs() {
    leaves_nothing(hanging, |_running| async { panic!("deliberate") });
}
