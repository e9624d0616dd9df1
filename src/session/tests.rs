//! A session on top of the recording fake in the kernel's place: what becomes of it when the kernel
//! refuses, forgets or goes. In a network namespace, because the way out is a device in userspace.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use ovpn_dco::kernel::{Api, ApiReport, Features, Report, Status};
use ovpn_dco::recording::{Call, Recorder, RecordingDataChannel};
use ovpn_dco::{
    Cipher, DataChannel, DataEvent, DirectionKey, Error, Framing, Keepalive, KeyConfig, KeyId,
    PeerConfig, PeerDeletedReason, PeerId, PeerStats, TransportSocket, is_data_packet,
};
use ovpn_test_support::netns::NetNs;
use ovpn_test_support::sim;
use ovpn_test_support::sim::server::ServerConfig;
use tokio::sync::mpsc;

use super::commands::{Command, Wish};
use super::life::End;
use super::link::Link;
use super::plane::DataPlane;
use super::reconnect::Ending;
use super::shared::Session;
use super::tunnel::Tunnel;
use super::{SessionConfig, SessionEvent, SessionState};
use crate::control::{Event, NegotiatedParameters, Output};
use crate::counters::Counter;
use crate::profile::{NoFiles, Profile, Protocol, SessionOptions};
use crate::secret::{Credentials, Secret};
use crate::transport::{SocketOptions, Transport};

/// Long enough for anything that is to happen, on a busy machine.
const LONG: Duration = Duration::from_secs(10);
/// Long enough to believe that nothing happens.
const A_WHILE: Duration = Duration::from_millis(300);

/// A peer for a fake, which looks at none of it.
pub(super) fn peer() -> PeerConfig {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    PeerConfig {
        id: PeerId::new(1),
        socket: TransportSocket::Udp(socket.into()),
        remote: "127.0.0.1:1".parse().unwrap(),
        local: None,
        keepalive: Keepalive::default(),
        framing: Framing::None,
        mss: None,
        allow_recursive_routing: false,
    }
}

pub(super) fn key(id: u8) -> KeyConfig {
    let cipher = Cipher::Aes256Gcm;
    let direction = || DirectionKey::new(cipher, &[id; 32], [0; 8]).unwrap();
    let key_id = KeyId::new(id).unwrap();
    KeyConfig { key_id, cipher, encrypt: direction(), decrypt: direction() }
}

/// A session with a kept tunnel (the fake's) and a connection whose control channel is up.
struct Bench {
    session: Session,
    link: Link,
    options: SessionOptions,
    recorder: Recorder,
    events: mpsc::UnboundedReceiver<SessionEvent>,
    /// The far end of the transport.
    far: Far,
    /// Without it a session would want to disconnect.
    commands: mpsc::Sender<Command>,
    _runtime_dir: tempfile::TempDir,
}

enum Far {
    Udp(UdpSocket),
    Tcp(std::net::TcpListener),
}

/// Runs a test in a namespace of its own.
fn within<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    NetNs::new("sess").block_on(test);
}

fn report() -> Report {
    let ready = ApiReport {
        api: Api::Ovpn,
        status: Status::Ready(Features { tx_id_and_float: true }),
        loaded: true,
        family_version: None,
        version: None,
    };
    Report { kernel: "7.0".to_owned(), apis: vec![ready] }
}

async fn bench(protocol: Protocol, push: &[&str]) -> Bench {
    let (far, remote) = match protocol {
        Protocol::Udp => {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            (Far::Udp(socket), address)
        }
        Protocol::Tcp => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            (Far::Tcp(listener), address)
        }
    };
    let word = if protocol == Protocol::Udp { "udp" } else { "tcp" };
    let profile = format!(
        "client\ndev tun\nauth-user-pass\nlocal 127.0.0.1\nremote 127.0.0.1 {} {word}\n{}",
        remote.port(),
        sim::real_tls::identity(),
    );
    let profile = Profile::parse(&profile, "test.ovpn", &NoFiles).unwrap();
    let runtime_dir = tempfile::tempdir().unwrap();
    let credentials = Credentials { username: "joe".to_owned(), password: Secret::from("secret") };
    let config = SessionConfig {
        credentials,
        ..SessionConfig::new(Arc::new(profile.options), runtime_dir.path().to_owned())
    };
    let (commands, receiver) = mpsc::channel(1);
    let (sender, events) = mpsc::unbounded_channel();
    let mut session = Session::new(config, receiver, sender).await.unwrap();
    session.kernel = report();
    // The fake has no interface of its own; the loopback is one.
    let (channel, recorder) = RecordingDataChannel::new("lo", true);
    session.tunnel = Some(Tunnel::new(DataPlane::Recording(channel)));

    let (mut link, _) = connection(&session, protocol, remote).await;
    let mut pushed: Vec<String> =
        ["ifconfig 10.8.0.6 255.255.255.0", "topology subnet", "peer-id 3", "cipher AES-256-GCM"]
            .map(str::to_owned)
            .into();
    pushed.extend(push.iter().map(|option| (*option).to_owned()));
    let options = SessionOptions::from_push(&session.config.options, &pushed, "").unwrap();
    link.options = Some(options.clone());
    Bench { session, link, options, recorder, events, far, commands, _runtime_dir: runtime_dir }
}

/// A connection whose control channel is up, and the server's end of that.
async fn connection(
    session: &Session,
    protocol: Protocol,
    remote: SocketAddr,
) -> (Link, sim::server::Server) {
    let mut link = link(session, protocol, remote).await;
    let server = negotiate(&mut link, protocol, true);
    (link, server)
}

/// A connection on which nothing has been said yet.
async fn link(session: &Session, protocol: Protocol, remote: SocketAddr) -> Link {
    let options = SocketOptions::default();
    let protector = session.network.protector();
    let transport = match protocol {
        Protocol::Udp => Transport::udp(remote, &options, &protector).await,
        Protocol::Tcp => Transport::tcp(remote, &options, &protector).await,
    };
    let server = session.config.options.remotes[0].clone();
    session.link(server, transport.unwrap()).unwrap()
}

/// Brings the control channel of a connection up against a server that is not behind its transport,
/// until neither has anything to say.
fn negotiate(link: &mut Link, protocol: Protocol, cc_exit: bool) -> sim::server::Server {
    let mut config = ServerConfig::new(sim::Mode::None);
    if protocol == Protocol::Tcp {
        config.retransmit = None;
    }
    let parameters = NegotiatedParameters {
        cipher: Cipher::Aes256Gcm,
        tls_ekm: config.tls_ekm,
        dynamic_tls_crypt: config.dynamic_tls_crypt,
        cc_exit,
        app_control: None,
        reneg: None,
    };
    let login = Credentials { username: "joe".to_owned(), password: Secret::from("secret") };
    let (_, tls) = sim::real_tls::pair(&rustls::version::TLS13);
    let mut server = sim::server::Server::new(config, 1, tls);
    let mut keys = 0;
    loop {
        let now = Instant::now();
        let mut packet = Vec::new();
        match link.control.poll_output(now, Some(&mut packet)) {
            Output::Transmit => server.handle_packet(packet, now),
            Output::Event(Event::LoginNeeded) => assert!(link.control.log_in(&login, now)),
            Output::Event(Event::Pushed { .. }) => {
                link.control.accept_push(parameters.clone(), now).unwrap();
            }
            Output::Event(Event::Keys(_)) => keys += 1,
            Output::Event(Event::Closed(error)) => panic!("{error}"),
            Output::Event(_) => {}
            Output::Wait(_) => match server.poll_transmit(now) {
                Some(mut packet) => assert!(link.control.handle_packet(&mut packet, now)),
                None => break,
            },
        }
    }
    assert_eq!(keys, 1, "the key exchange stopped half-way");
    server
}

impl Bench {
    /// Brings the tunnel up with a first key.
    async fn connect(&mut self) {
        self.session.bring_up(&mut self.link, &self.options.clone()).await.unwrap();
        self.session.install_key(&mut self.link, key(0)).await.unwrap();
        self.session.connected = true;
        self.recorder.take_calls();
        // What the handshake left to say.
        self.soft_reset();
    }

    fn data_path(&self) -> Option<&'static str> {
        self.session.tunnel.as_ref().map(|tunnel| tunnel.plane().name())
    }

    /// Whether the control channel begins a new key.
    fn soft_reset(&mut self) -> bool {
        const SOFT_RESET: u8 = 3;
        let mut packet = Vec::new();
        let mut begins = false;
        loop {
            match self.link.control.poll_output(Instant::now(), Some(&mut packet)) {
                Output::Transmit => {
                    begins |= packet.first().is_some_and(|byte| byte >> 3 == SOFT_RESET);
                }
                Output::Event(event) => panic!("{event:?}"),
                Output::Wait(_) => return begins,
            }
        }
    }

    /// Sends something into the tunnel; the key id of what comes out at the far end, if anything
    /// does within `wait`.
    async fn sealed_with(&self, wait: Duration) -> Option<KeyId> {
        let Far::Udp(far) = &self.far else { panic!("over UDP only") };
        let inside = UdpSocket::bind("0.0.0.0:0").unwrap();
        inside.send_to(b"through the tunnel", "10.8.0.77:9").unwrap();
        far.set_nonblocking(true).unwrap();
        let until = Instant::now() + wait;
        let mut packet = [0; 2000];
        while Instant::now() < until {
            match far.recv(&mut packet) {
                Ok(_) if is_data_packet(packet[0]) => {
                    return Some(KeyId::from_first_byte(packet[0]));
                }
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        None
    }

    /// Userspace has taken over for good, and the fake is gone.
    fn assert_fallen_back(&self) {
        assert_eq!(self.data_path(), Some("userspace"));
        assert!(self.recorder.is_closed());
        assert!(self.session.kernel_failure.is_some(), "the kernel would be asked again");
        assert!(self.session.tunnel.as_ref().is_some_and(Tunnel::has_peer));
    }

    /// What a reconnect would do with the tunnel.
    async fn bring_up_again(&mut self) {
        self.session.bring_up(&mut self.link, &self.options.clone()).await.unwrap();
    }
}

fn refused(operation: &'static str) -> Error {
    Error::Kernel { operation, errno: libc::EINVAL, message: None }
}

#[test]
fn the_kernel_gets_what_was_pushed() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &["ping 10", "ping-restart 60"]).await;
        bench.bring_up_again().await;
        let calls = bench.recorder.take_calls();
        let [Call::NewPeer { id, tcp: false, keepalive, .. }] = calls[..] else {
            panic!("{calls:?}");
        };
        assert_eq!(id, PeerId::new(3));
        assert_eq!(keepalive, Keepalive { interval: 10, timeout: 60 });
        assert_eq!(bench.data_path(), Some("ovpn"));
    });
}

#[test]
fn a_refused_peer_makes_userspace_take_over() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        within(|| async {
            let mut bench = bench(protocol, &[]).await;
            bench.recorder.fail_next(refused("PEER_NEW"));
            bench.bring_up_again().await;
            bench.assert_fallen_back();
        });
    }
}

/// The interface cannot be configured, although no command of the data channel failed.
#[test]
fn a_refused_address_makes_userspace_take_over() {
    within(|| async {
        std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap();
        let mut bench = bench(Protocol::Udp, &["ifconfig-ipv6 fd00::6/64 fd00::1"]).await;
        bench.bring_up_again().await;
        bench.assert_fallen_back();
    });
}

#[test]
fn a_refused_first_key_makes_userspace_take_over() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.bring_up_again().await;
        bench.recorder.fail_next(refused("KEY_NEW"));
        bench.session.install_key(&mut bench.link, key(0)).await.unwrap();
        bench.assert_fallen_back();
        assert!(!bench.soft_reset(), "nobody had that key yet");
        assert_eq!(bench.sealed_with(LONG).await, Some(KeyId::FIRST));
    });
}

/// The routes of one tunnel go before those of the next are there.
#[test]
fn nothing_leaves_outside_while_userspace_takes_over() {
    let namespace = NetNs::new("sess");
    let uplink = namespace.add_tun("up0");
    fcntl(uplink.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    namespace.add_address("up0", "192.0.2.10/24");
    namespace.add_route("default", Some("192.0.2.1"), None);
    namespace.block_on(|| async {
        let mut bench = bench(Protocol::Udp, &["redirect-gateway def1"]).await;
        bench.connect().await;
        // What has left so far.
        let mut packet = [0; 2000];
        while uplink.recv(&mut packet).is_ok() {}
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = std::thread::spawn(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            while !stopped.load(Ordering::Relaxed) {
                // Unreachable is a good answer.
                let _ = socket.send_to(b"?", "8.8.8.8:9");
            }
        });
        bench.session.fall_back(&mut bench.link, "test", None).await.unwrap();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        bench.assert_fallen_back();
        let mut left = 0;
        while let Ok(length) = uplink.recv(&mut packet) {
            left += usize::from(length >= 20 && packet[16..20] == [8; 4]);
        }
        assert_eq!(left, 0, "packets outside");
    });
}

/// The data path that takes over knows what must not go into the tunnel: packets to the server.
#[test]
fn userspace_that_takes_over_lets_no_packet_to_the_server_in() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        bench.session.fall_back(&mut bench.link, "test", Some(key(1))).await.unwrap();
        bench.assert_fallen_back();
        let tunnel = bench.session.tunnel.as_mut().unwrap();
        let inside = UdpSocket::bind("0.0.0.0:0").unwrap();
        let device = tunnel.plane().interface().name.clone();
        socket2::SockRef::from(&inside).bind_device(Some(device.as_bytes())).unwrap();
        inside.send_to(b"round and round", bench.link.transport.remote()).unwrap();
        let caught = async {
            while tunnel.counters().await.get(Counter::RecursiveRouting) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, caught).await.unwrap();
        assert_eq!(tunnel.counters().await.get(Counter::TunPacketsIn), 0);
        assert_eq!(bench.sealed_with(LONG).await, Some(key(1).key_id));
    });
}

/// The kernel has the key, and perhaps seals with it: no packet id of it may come again.
#[test]
fn a_key_that_the_kernel_may_have_is_never_used_again() {
    for lost in [
        Error::io("KEY_NEW", ErrorKind::TimedOut.into()),
        Error::Malformed { what: "PEER_GET reply".to_owned() },
        Error::Closed,
    ] {
        within(|| async {
            let mut bench = bench(Protocol::Udp, &[]).await;
            bench.bring_up_again().await;
            bench.recorder.fail_after_next(lost);
            let keys = Event::Keys(key(0));
            bench.session.control_event(&mut bench.link, keys).await.unwrap();
            bench.assert_fallen_back();
            assert!(!bench.session.connected, "nothing can be sent");
            assert!(bench.soft_reset(), "another key is wanted");
            assert_eq!(bench.sealed_with(A_WHILE).await, None);
            let keys = Event::Keys(key(1));
            bench.session.control_event(&mut bench.link, keys).await.unwrap();
            assert!(bench.session.connected);
            assert_eq!(bench.sealed_with(LONG).await, Some(key(1).key_id));
        });
    }
}

/// Without any key left the connection is no connection, whatever the control channel hopes for.
#[test]
fn a_renegotiation_that_fails_with_no_key_left_ends_the_connection() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        let failed = || Event::RenegotiationFailed { reason: "no answer".to_owned() };
        bench.session.control_event(&mut bench.link, failed()).await.unwrap();
        bench.session.fall_back(&mut bench.link, "test", None).await.unwrap();
        let ending = bench.session.control_event(&mut bench.link, failed()).await.unwrap_err();
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
    });
}

/// Over TCP the kernel may have left the stream in the middle of a packet, with the first key too.
#[test]
fn over_tcp_a_refused_first_key_costs_the_connection() {
    within(|| async {
        let mut bench = bench(Protocol::Tcp, &[]).await;
        bench.bring_up_again().await;
        bench.recorder.fail_next(refused("KEY_NEW"));
        let ending = bench.session.install_key(&mut bench.link, key(0)).await.unwrap_err();
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
        bench.bring_up_again().await;
        bench.assert_fallen_back();
    });
}

/// Every key operation of a renegotiation, refused on a working connection: userspace goes on with
/// a key that nobody had, and nobody logs in again.
#[test]
fn a_refused_key_operation_makes_userspace_take_over() {
    for step in ["KEY_NEW", "KEY_SWAP", "KEY_DEL"] {
        within(|| async {
            let mut bench = bench(Protocol::Udp, &[]).await;
            bench.connect().await;
            while let Ok(event) = bench.events.try_recv() {
                assert!(!matches!(event, SessionEvent::Ended(_)));
            }
            let (session, link) = (&mut bench.session, &mut bench.link);
            for operation in ["KEY_NEW", "KEY_SWAP", "KEY_DEL"] {
                if operation == step {
                    bench.recorder.fail_next(refused(operation));
                }
                match operation {
                    "KEY_NEW" => session.install_key(link, key(1)).await.unwrap(),
                    "KEY_SWAP" => session.promote_key(link, key(1).key_id).await.unwrap(),
                    _ => session.retire_key(link, key(0).key_id).await.unwrap(),
                }
                if operation == step {
                    break;
                }
            }
            bench.assert_fallen_back();
            // A key that nobody had is used.
            assert_eq!(bench.soft_reset(), step != "KEY_NEW", "{step}");
            let told = bench.events.try_recv().unwrap();
            assert!(
                matches!(&told, SessionEvent::State(SessionState::Connected(info))
                    if info.data_path == "userspace"),
                "{told:?}"
            );
        });
    }
}

/// Over TCP only a new connection is in step for certain; it does not go into the kernel again.
#[test]
fn over_tcp_a_failure_costs_the_connection_once() {
    within(|| async {
        let mut bench = bench(Protocol::Tcp, &[]).await;
        bench.connect().await;
        bench.recorder.fail_next(refused("KEY_NEW"));
        let ending = bench.session.install_key(&mut bench.link, key(1)).await.unwrap_err();
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
        assert_eq!(bench.data_path(), None);
        bench.bring_up_again().await;
        bench.assert_fallen_back();
    });
}

#[test]
fn a_vanished_data_path_is_replaced() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        bench.recorder.set_stats(PeerStats { vpn_rx_bytes: 700, ..PeerStats::default() });
        let gone = DataEvent::Failed("the link was deleted".to_owned());
        bench.session.data_event(&mut bench.link, gone).await.unwrap();
        bench.assert_fallen_back();
        assert!(bench.soft_reset());
        assert_eq!(
            bench.session.statistics.get(Counter::TunBytesOut),
            700,
            "counted before it went"
        );
    });
}

/// A tunnel kept between connections, whose data path failed or whose interface was deleted
/// meanwhile.
#[test]
fn a_dead_tunnel_is_not_used_again() {
    within(|| async {
        let mut bench = bench(Protocol::Tcp, &[]).await;
        bench.connect().await;
        // Nobody but the session's own loop takes the event.
        let tunnel = bench.session.tunnel.as_mut().unwrap();
        bench.recorder.tell(DataEvent::Failed("the module was removed".to_owned()));
        tunnel.next_event().await;
        bench.session.kernel = Report { kernel: String::new(), apis: Vec::new() };
        bench.bring_up_again().await;
        assert!(bench.recorder.is_closed());
        assert_eq!(bench.data_path(), Some("userspace"));
    });
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        let (channel, recorder) = RecordingDataChannel::new("gone0", true);
        bench.session.tunnel = Some(Tunnel::new(DataPlane::Recording(channel)));
        bench.session.kernel = Report { kernel: String::new(), apis: Vec::new() };
        bench.bring_up_again().await;
        assert!(recorder.is_closed());
        assert_eq!(recorder.calls(), [Call::Close], "nothing was asked of it");
        assert_eq!(bench.data_path(), Some("userspace"));
    });
}

/// A device in userspace can be deleted during a pause, too.
#[test]
fn a_deleted_device_is_made_anew() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.session.kernel_failure = Some("test".to_owned());
        bench.bring_up_again().await;
        let tunnel = bench.session.tunnel.as_mut().unwrap();
        tunnel.del_peer().await;
        let interface = tunnel.plane().interface().clone();
        let deleted = std::process::Command::new("ip")
            .args(["link", "del", &interface.name])
            .status()
            .unwrap();
        assert!(deleted.success());
        bench.bring_up_again().await;
        let made = bench.session.tunnel.as_ref().unwrap().plane().interface();
        assert_ne!(made.index, interface.index);
    });
}

#[test]
fn a_key_that_is_nowhere_is_replaced_by_a_soft_reset() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        let (session, link) = (&mut bench.session, &mut bench.link);
        session.promote_key(link, key(1).key_id).await.unwrap();
        assert_eq!(bench.recorder.take_calls(), [Call::Promote(key(1).key_id)]);
        assert!(bench.soft_reset());
        assert_eq!(bench.session.statistics.get(Counter::KeyStateError), 1);
        assert_eq!(bench.data_path(), Some("ovpn"), "the peer lives");
        // The key that sent goes on sending until the one of the soft reset takes over.
        let (session, link) = (&mut bench.session, &mut bench.link);
        session.install_key(link, key(2)).await.unwrap();
        assert_eq!(bench.recorder.keys(), [0, 2].map(|n| Some(key(n).key_id)));
        session.promote_key(link, key(2).key_id).await.unwrap();
        assert_eq!(bench.recorder.keys(), [2, 0].map(|n| Some(key(n).key_id)));
    });
}

#[test]
fn a_key_that_the_kernel_lost_is_replaced_too() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        bench.session.install_key(&mut bench.link, key(1)).await.unwrap();
        bench.recorder.fail_next(Error::NoSuchKey(key(1).key_id));
        bench.session.promote_key(&mut bench.link, key(1).key_id).await.unwrap();
        assert!(bench.soft_reset());
        assert_eq!(bench.data_path(), Some("ovpn"));
    });
}

/// RESTART, and the end of the stream right behind it: why the server goes is told, whichever of
/// the two is noticed first, and nothing of it reaches the next connection on the same device.
#[test]
fn a_server_that_restarts_and_closes() {
    within(|| async {
        let mut bench = bench(Protocol::Tcp, &[]).await;
        bench.session.kernel_failure = Some("test".to_owned());
        let Far::Tcp(listener) = &bench.far else { panic!("not TCP") };
        let remote = listener.local_addr().unwrap();
        let (mut old, _) = listener.accept().unwrap();
        for round in 0..30 {
            let (link, mut server) = connection(&bench.session, Protocol::Tcp, remote).await;
            bench.link = link;
            bench.link.options = Some(bench.options.clone());
            let (mut far, _) = listener.accept().unwrap();
            bench.session.bring_up(&mut bench.link, &bench.options).await.unwrap();
            bench.session.install_key(&mut bench.link, key(0)).await.unwrap();
            bench.session.connected = round % 2 == 0;

            // It lives, although the one before has just died.
            let lives = bench.session.drive(&mut bench.link);
            let end = tokio::time::timeout(Duration::from_millis(20), lives).await;
            assert!(end.is_err(), "round {round}: {end:?}");
            old.set_read_timeout(Some(LONG)).unwrap();
            let closed = old.read_to_end(&mut Vec::new());
            assert!(!matches!(closed, Err(e) if e.kind() == ErrorKind::WouldBlock), "still open");

            server.send_text("RESTART,[P]enough");
            while let Some(packet) = server.poll_transmit(Instant::now()) {
                let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
                far.write_all(&[&length[..], &packet].concat()).unwrap();
            }
            // With something unread, or to come, the end is a reset.
            far.shutdown(if round % 3 == 0 { Shutdown::Write } else { Shutdown::Both }).unwrap();
            let inside = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..round % 5 {
                inside.send_to(b"through the tunnel", "10.8.0.77:9").unwrap();
            }
            let end = tokio::time::timeout(LONG, bench.session.drive(&mut bench.link)).await;
            let Ok(End::Ending(Ending::ServerRestart(reason, _))) = &end else {
                panic!("round {round}: {end:?}");
            };
            assert_eq!(reason, "enough");
            bench.session.tunnel.as_mut().unwrap().del_peer().await;
            old = far;
        }
    });
}

/// The stream and every queue on the way are full; commands are answered, timers run.
#[test]
fn a_server_that_does_not_read() {
    within(|| async {
        for attached in [true, false] {
            let mut bench = bench(Protocol::Tcp, &["ping 1", "ping-restart 5"]).await;
            bench.session.kernel_failure = Some("test".to_owned());
            let Far::Tcp(listener) = &bench.far else { panic!("not TCP") };
            let remote = listener.local_addr().unwrap();
            drop(listener.accept().unwrap());
            socket2::SockRef::from(listener).set_recv_buffer_size(2048).unwrap();
            let (link, mut server) = connection(&bench.session, Protocol::Tcp, remote).await;
            bench.link = link;
            let (mut far, _) = listener.accept().unwrap();
            let socket = bench.link.transport.share().unwrap();
            let TransportSocket::Tcp(socket) = socket else { panic!("not TCP") };
            socket2::SockRef::from(&socket).set_send_buffer_size(2048).unwrap();
            bench.link.options = Some(bench.options.clone());
            if attached {
                bench.session.bring_up(&mut bench.link, &bench.options).await.unwrap();
                bench.session.install_key(&mut bench.link, key(0)).await.unwrap();
            }
            // One message again and again, each to be acknowledged.
            server.send_text("INFO,again");
            let packet = server.poll_transmit(Instant::now()).unwrap();
            let framed =
                [&u16::try_from(packet.len()).unwrap().to_be_bytes(), &packet[..]].concat();
            let flood = std::thread::spawn(move || {
                let burst = framed.repeat(100);
                (0..200).all(|_| far.write_all(&burst).is_ok()).then_some(far)
            });
            let commands = bench.commands.clone();
            let user = async {
                while !flood.is_finished() {
                    let (reply, answer) = tokio::sync::oneshot::channel();
                    assert!(commands.send(Command::Statistics(reply)).await.is_ok());
                    answer.await.unwrap();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                assert!(commands.send(Wish::Disconnect.into()).await.is_ok());
                std::future::pending::<()>().await;
            };
            let end = tokio::time::timeout(3 * LONG, async {
                tokio::select! {
                    end = bench.session.drive(&mut bench.link) => end,
                    () = user => unreachable!(),
                }
            });
            let end = end.await;
            assert!(matches!(end, Ok(End::Wish(Wish::Disconnect))), "{attached}: {end:?}");
            drop(flood);
        }
    });
}

/// In the other direction the far end sees the end at once, whatever became of the peer.
#[test]
fn a_peer_is_deleted_whatever_was_told_of_it() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        let tunnel = bench.session.tunnel.as_mut().unwrap();
        bench.recorder.tell(DataEvent::PeerDeleted(PeerDeletedReason::TransportError));
        tunnel.next_event().await;
        tunnel.del_peer().await;
        assert_eq!(bench.recorder.take_calls(), [Call::DelPeer]);
    });
}

#[test]
fn an_exhausted_key_is_renegotiated() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        let event = DataEvent::KeyExhausted(KeyId::FIRST);
        bench.session.data_event(&mut bench.link, event).await.unwrap();
        assert!(bench.soft_reset());
        assert_eq!(bench.recorder.take_calls(), []);
    });
}

/// The command says so before the event does.
#[test]
fn a_peer_that_is_gone_is_connected_anew() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        bench.recorder.tell(DataEvent::PeerDeleted(PeerDeletedReason::Expired));
        let ending = bench.session.install_key(&mut bench.link, key(1)).await.unwrap_err();
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
        assert_eq!(bench.session.kernel_failure, None, "no fault of the kernel's");
    });
}

/// Counters of a new peer start at zero; what the session counts does not.
#[test]
fn traffic_only_grows() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        bench.connect().await;
        bench.recorder.set_stats(PeerStats { vpn_tx_bytes: 5000, ..PeerStats::default() });
        assert_eq!(bench.session.traffic().await, 5000);
        bench.session.fall_back(&mut bench.link, "test", None).await.unwrap();
        assert!(bench.session.traffic().await >= 5000);
    });
}

#[test]
fn a_packet_that_cannot_be_sent_is_in_the_statistics() {
    within(|| async {
        let mut bench = bench(Protocol::Udp, &[]).await;
        assert_eq!(bench.link.statistics().get(Counter::NetworkSendError), 0);
        bench.link.transport.send(&[0; 65_535]).unwrap();
        assert_eq!(bench.link.statistics().get(Counter::NetworkSendError), 1);
    });
}

#[test]
fn a_server_without_exit_messages_is_told_as_often_as_wanted() {
    within(|| async {
        for (option, times) in [("ping 10", 1), ("explicit-exit-notify 3", 3)] {
            let mut bench = bench(Protocol::Udp, &[option]).await;
            bench.connect().await;
            // What it acknowledges is a message, and goes out once.
            bench.session.say_goodbye(&mut bench.link).await;
            assert_eq!(bench.recorder.take_calls(), []);

            let remote = bench.link.transport.remote();
            bench.link = link(&bench.session, Protocol::Udp, remote).await;
            bench.link.options = Some(bench.options.clone());
            negotiate(&mut bench.link, Protocol::Udp, false);
            bench.session.say_goodbye(&mut bench.link).await;
            assert_eq!(bench.recorder.take_calls(), vec![Call::NotifyExit; times]);
        }
    });
}
