//! A session on top of the recording fake in the kernel's place: what becomes of it when the kernel
//! refuses, forgets or goes. In a network namespace, because the way out is a device in userspace.

mod ends;
mod keys;
mod sequences;
mod take_over;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ovpn_dco::kernel::{Api, ApiReport, Features, Report, Status};
use ovpn_dco::recording::{Recorder, RecordingDataChannel};
use ovpn_dco::{
    Cipher, DirectionKey, Error, Keepalive, KeyConfig, KeyId, PeerConfig, PeerId, TransportSocket,
    is_data_packet,
};
use ovpn_test_support::netns::NetNs;
use ovpn_test_support::sim;
use ovpn_test_support::sim::server::ServerConfig;
use tokio::sync::mpsc;

use super::commands::Command;
use super::connected::{Connected, Stage, Stop};
use super::ending::DataPathError;
use super::ending::Ending;
use super::fall_back::Broken;
use super::link::Link;
use super::offload::Offload;
use super::over::{End, Over};
use super::plane::DataPlane;
use super::roaming::Change;
use super::shared::Shared;
use super::tunnel::Tunnel;
use super::{ConnectionInfo, Events, SessionConfig, events};
use crate::control::{Event, NegotiatedParameters, Output};
use crate::counters::Counters;
use crate::data_path::DataPath;
use crate::network::News;
use crate::profile::{NoFiles, Profile, Protocol, PushedState, SessionOptions};
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
    }
}

pub(super) fn key(id: u8) -> KeyConfig {
    let cipher = Cipher::Aes256Gcm;
    let direction = || DirectionKey::new(cipher, &[id; 32], [0; 8]).unwrap();
    let key_id = KeyId::new(id).unwrap();
    KeyConfig { key_id, cipher, encrypt: direction(), decrypt: direction() }
}

/// A working connection.
pub(super) fn info(mtu: u16) -> ConnectionInfo {
    ConnectionInfo {
        protocol: Protocol::Udp,
        host: "vpn.example".to_owned(),
        address: "192.0.2.1:1194".parse().unwrap(),
        username: "joe".to_owned(),
        device: "tun0".to_owned(),
        data_path: DataPath::Userspace,
        data_path_reasons: Vec::new(),
        tunnel: vec!["10.8.0.2/24".to_owned()],
        gateways: Vec::new(),
        mtu,
        cipher: Cipher::Aes256Gcm,
        device_path: None,
        tls: None,
        network: Box::default(),
    }
}

/// A session, and what the tests see of it.
struct Bench {
    shared: Shared,
    options: SessionOptions,
    recorder: Recorder,
    events: Events,
    /// The far end of the transport.
    far: Far,
    /// Without it a session would want to disconnect.
    commands: mpsc::Sender<Command>,
    _runtime_dir: tempfile::TempDir,
}

/// A connection whose control channel is up, and a tunnel (the fake's) kept from one before.
struct Start {
    link: Link,
    kept: Tunnel,
}

enum Far {
    Udp(UdpSocket),
    Tcp(std::net::TcpListener),
}

impl Far {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr().unwrap(),
            Self::Tcp(listener) => listener.local_addr().unwrap(),
        }
    }
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

async fn bench(protocol: Protocol, push: &[&str]) -> (Bench, Start) {
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
    let (teller, events) = events();
    let mut shared = Shared::new(config, receiver, teller).await.unwrap();
    shared.offload = Offload::new(report(), Instant::now());
    // The fake has no interface of its own; the loopback is one.
    let (channel, recorder) = RecordingDataChannel::new("lo", true);
    let kept = Tunnel::new(DataPlane::recording(channel));

    let (link, _) = connection(&shared, protocol, remote).await;
    let mut pushed: Vec<String> =
        ["ifconfig 10.8.0.6 255.255.255.0", "topology subnet", "peer-id 3", "cipher AES-256-GCM"]
            .map(str::to_owned)
            .into();
    pushed.extend(push.iter().map(|option| (*option).to_owned()));
    let options = SessionOptions::from_push(&shared.config.options, &pushed, "").unwrap();
    let bench =
        Bench { shared, options, recorder, events, far, commands, _runtime_dir: runtime_dir };
    (bench, Start { link, kept })
}

/// A connection whose control channel is up, and the server's end of that.
async fn connection(
    shared: &Shared,
    protocol: Protocol,
    remote: SocketAddr,
) -> (Link, sim::server::Server) {
    let mut link = link(shared, protocol, remote).await;
    let server = negotiate(&mut link, protocol, true);
    (link, server)
}

/// A connection on which nothing has been said yet.
async fn link(shared: &Shared, protocol: Protocol, remote: SocketAddr) -> Link {
    let options = SocketOptions::default();
    let protector = shared.network.protector();
    let transport = match protocol {
        Protocol::Udp => Transport::udp(remote, &options, &protector).await,
        Protocol::Tcp => Transport::tcp(remote, &options, &protector).await,
    };
    let server = shared.config.options.remotes[0].clone();
    shared.link(server, transport.unwrap()).unwrap()
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
    /// What a push reply does.
    async fn bring_up(&mut self, mut link: Link, kept: Option<Tunnel>) -> Connected {
        let tunnel = self.shared.bring_up(&mut link, &self.options, kept).await.unwrap();
        Connected::new(link, tunnel, self.options.clone(), PushedState::new(&[], ""))
    }

    /// Brings the tunnel up with a first key.
    async fn connect(&mut self, start: Start) -> Connected {
        let mut connected = self.bring_up(start.link, Some(start.kept)).await;
        connected.install_key(&mut self.shared, key(0)).await.unwrap();
        connected.stage = Stage::Working;
        self.recorder.take_calls();
        // What the handshake left to say.
        soft_reset(&mut connected.link);
        connected
    }

    /// What the state's loop does with what one of its parts says.
    async fn go_on(
        &mut self,
        connected: Connected,
        result: Result<(), Stop>,
    ) -> Result<Connected, Over> {
        match result {
            Ok(()) => Ok(connected),
            Err(Stop::DataPath(broken)) => connected.fall_back(&mut self.shared, broken).await,
            Err(Stop::End(end)) => Err(connected.over(&mut self.shared, end).await),
        }
    }

    async fn hear(&mut self, mut connected: Connected, event: Event) -> Result<Connected, Over> {
        let heard = connected.hear(&mut self.shared, event).await;
        self.go_on(connected, heard).await
    }

    /// Asks for the counters while the host is looked at, until that is when it is answered.
    async fn counters_while_busy(&mut self, connected: &mut Connected) -> Counters {
        for _ in 0..1000 {
            let (reply, mut answer) = tokio::sync::oneshot::channel();
            self.commands.try_send(Command::Statistics(reply)).unwrap();
            let change = Change::Network(News::default());
            connected.changed(&mut self.shared, change).await.unwrap();
            match answer.try_recv() {
                Ok(counters) => return counters,
                Err(_) => {
                    let command = self.shared.commands.next().await;
                    assert!(matches!(command, Command::Statistics(_)));
                }
            }
        }
        panic!("nobody was ever asked while busy");
    }

    async fn fall_back(&mut self, connected: Connected, key: Option<KeyConfig>) -> Connected {
        let (why, key) = (DataPathError::Failed("test".to_owned()), key.map(Box::new));
        let broken = Broken { why, key };
        connected.fall_back(&mut self.shared, broken).await.unwrap()
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
    fn assert_fallen_back(&self, tunnel: &Tunnel) {
        assert_eq!(tunnel.plane().path().name(), "userspace");
        assert!(self.recorder.is_closed());
        assert!(self.shared.offload.failure().is_some(), "the kernel would be asked at once");
        assert!(tunnel.has_peer());
    }
}

/// Whether the control channel begins a new key.
fn soft_reset(link: &mut Link) -> bool {
    const SOFT_RESET: u8 = 3;
    let mut packet = Vec::new();
    let mut begins = false;
    loop {
        match link.control.poll_output(Instant::now(), Some(&mut packet)) {
            Output::Transmit => {
                begins |= packet.first().is_some_and(|byte| byte >> 3 == SOFT_RESET);
            }
            Output::Event(event) => panic!("{event:?}"),
            Output::Wait(_) => return begins,
        }
    }
}

/// The end of a connection that the server or the data path ended.
fn ending(result: Result<Connected, Over>) -> (Ending, Option<Tunnel>) {
    match result {
        Err(Over { end: End::Ending(ending), kept, .. }) => (ending, kept),
        Err(over) => panic!("{over:?}"),
        Ok(_) => panic!("goes on"),
    }
}

fn refused(operation: &'static str) -> Error {
    Error::Kernel { operation, errno: libc::EINVAL, message: None }
}
