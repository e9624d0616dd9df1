//! What every data channel does, whoever implements it.
//!
//! The far end is a plain socket in another network namespace with a software peer behind it, so
//! that the same functions judge the software channel and the kernel's. To judge another
//! implementation, implement [`Plane`] and add a line to the `contract!` list at the end.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ovpn_dco::kernel::{Api, KernelDataChannel, LinkName};
use ovpn_dco::recording::RecordingDataChannel;
use ovpn_dco::{
    Cipher, ControlPort, DataChannel, DataEvent, DirectionKey, Error, Framing, Keepalive,
    KeyConfig, KeyId, PeerConfig, PeerDeletedReason, PeerId, TransportSocket,
};
use ovpn_test_support::netns::{NetNs, connect};
use ovpn_userspace::message;
use ovpn_userspace::peer::{Opened, Peer};
use ovpn_userspace::{Options, TunDevice, TunOptions, UserspaceDataChannel};
use tokio::time::timeout;

/// A way to make data channels.
trait Plane {
    type Channel: DataChannel;

    /// How coarse its keepalive timers are.
    const GRANULARITY: Duration;

    /// Makes a channel in the calling thread's network namespace.
    fn create() -> impl Future<Output = Self::Channel>;
}

/// A link with carrier would look for IPv6 routers at times of its own choice.
fn keep_quiet() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
}

struct Userspace;

impl Plane for Userspace {
    type Channel = UserspaceDataChannel;

    const GRANULARITY: Duration = Duration::ZERO;

    async fn create() -> Self::Channel {
        keep_quiet();
        let device = TunDevice::create("tun", TunOptions::default()).unwrap();
        UserspaceDataChannel::new(device, Options::default()).unwrap()
    }
}

/// The module that the guest's environment names (`ci/vm/run`).
struct Kernel;

impl Plane for Kernel {
    type Channel = KernelDataChannel;

    // The modules count in whole seconds.
    const GRANULARITY: Duration = Duration::from_secs(1);

    async fn create() -> Self::Channel {
        // Set by `ci/vm/run`.
        let name = std::env::var("DCO_API").unwrap();
        let api = Api::ALL.into_iter().find(|api| api.name() == name).unwrap();
        keep_quiet();
        KernelDataChannel::create(api, LinkName::from_dev("tun")).await.unwrap()
    }
}

/// The recording fake: keeps the contract's state, moves no packets.
struct Recording;

impl Plane for Recording {
    type Channel = RecordingDataChannel;

    const GRANULARITY: Duration = Duration::ZERO;

    async fn create() -> Self::Channel {
        // It makes no interface; the loopback is one, with the index that the fake tells.
        RecordingDataChannel::new("lo", true).0
    }
}

const CLIENT: &str = "192.0.2.1:1194";
const SERVER: &str = "192.0.2.2:1194";
/// Long enough for anything that is to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// Long enough to believe that nothing happens.
const A_WHILE: Duration = Duration::from_millis(200);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A key; `mirrored` for the far end. `variant` makes different keys with one id.
fn key(id: u8, variant: u8, mirrored: bool) -> KeyConfig {
    let cipher = Cipher::Aes256Gcm;
    let direction =
        |n: u8| DirectionKey::new(cipher, &[n ^ id ^ (variant << 4); 32], [n; 8]).unwrap();
    let (encrypt, decrypt) = if mirrored { (8, 0) } else { (0, 8) };
    KeyConfig {
        key_id: KeyId::new(id).unwrap(),
        cipher,
        encrypt: direction(encrypt),
        decrypt: direction(decrypt),
    }
}

fn id(id: u8) -> KeyId {
    KeyId::new(id).unwrap()
}

/// The far end's socket. Both kinds carry whole packets.
enum FarSocket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// The far end.
struct Far {
    socket: FarSocket,
    peer: Peer,
}

impl Far {
    fn new(socket: FarSocket) -> Self {
        let peer = Peer::new(PeerId::new(7), Framing::None, None);
        Self { socket, peer }
    }

    fn send_raw(&mut self, packet: &[u8]) {
        match &mut self.socket {
            FarSocket::Udp(socket) => assert_eq!(socket.send(packet).unwrap(), packet.len()),
            FarSocket::Tcp(stream) => {
                let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
                framed.extend_from_slice(packet);
                stream.write_all(&framed).unwrap();
            }
        }
    }

    fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let envelope = self.peer.envelope(inner[0]);
        let mut packet = vec![0; envelope.sealed_len(inner.len())];
        let range = envelope.inner(inner.len());
        packet[range].copy_from_slice(inner);
        self.peer.seal(envelope, &mut packet, inner.len()).unwrap();
        packet
    }

    fn send(&mut self, inner: &[u8]) {
        let packet = self.seal(inner);
        self.send_raw(&packet);
    }

    /// The next packet as it is on the wire; `None` when none comes.
    fn receive_raw(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        match &mut self.socket {
            FarSocket::Udp(socket) => {
                socket.set_read_timeout(Some(wait)).unwrap();
                let len = socket.recv(&mut buffer).ok()?;
                buffer.truncate(len);
            }
            FarSocket::Tcp(stream) => {
                stream.set_read_timeout(Some(wait)).unwrap();
                let mut len = [0; 2];
                stream.read_exact(&mut len).ok()?;
                buffer.truncate(u16::from_be_bytes(len).into());
                stream.read_exact(&mut buffer).unwrap();
            }
        }
        Some(buffer)
    }

    /// The next inner packet that is not the kernel's own chatter (neighbour discovery and such).
    fn receive(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + wait;
        loop {
            let mut packet = self.receive_raw(end.checked_duration_since(Instant::now())?)?;
            match self.peer.open(&mut packet, Instant::now()) {
                Opened::Packet(range) if packet[range.start] >> 4 == 4 => {
                    return Some(packet[range].to_vec());
                }
                Opened::Packet(_) | Opened::Consumed => {}
                other => panic!("the far end got {other:?}"),
            }
        }
    }
}

/// A channel under test with its surroundings.
struct Bench<C> {
    channel: C,
    far: Far,
    control: Control,
    /// The application's socket: its packets go through the tunnel.
    inside: UdpSocket,
    client: NetNs,
    _server: NetNs,
}

/// The caller's side of the control port.
struct Control {
    port: ControlPort,
    /// The caller's own descriptor of the transport socket.
    own: OwnedSocket,
}

enum OwnedSocket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl OwnedSocket {
    fn duplicate(&self) -> TransportSocket {
        let duplicate = |fd: &dyn AsFd| -> OwnedFd { fd.as_fd().try_clone_to_owned().unwrap() };
        match self {
            Self::Udp(socket) => TransportSocket::Udp(duplicate(socket)),
            Self::Tcp(stream) => TransportSocket::Tcp(duplicate(stream)),
        }
    }
}

impl Control {
    async fn send(&mut self, packet: &[u8]) {
        match (&mut self.port, &mut self.own) {
            (ControlPort::Channel { outgoing, .. }, _) => {
                outgoing.send(packet.to_vec()).await.unwrap();
            }
            (ControlPort::Socket { .. }, OwnedSocket::Udp(socket)) => {
                socket.send(packet).unwrap();
            }
            (ControlPort::Socket { .. }, OwnedSocket::Tcp(stream)) => {
                let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
                framed.extend_from_slice(packet);
                stream.write_all(&framed).unwrap();
            }
        }
    }

    async fn receive(&mut self) -> Option<Vec<u8>> {
        match (&mut self.port, &mut self.own) {
            (ControlPort::Channel { incoming, .. }, _) => {
                timeout(SOON, incoming.recv()).await.ok().flatten()
            }
            (ControlPort::Socket { .. }, OwnedSocket::Udp(socket)) => {
                let mut buffer = vec![0; 65_536];
                socket.set_read_timeout(Some(SOON)).unwrap();
                let len = socket.recv(&mut buffer).ok()?;
                buffer.truncate(len);
                Some(buffer)
            }
            (ControlPort::Socket { .. }, OwnedSocket::Tcp(stream)) => {
                // Does not wait in the kernel: see `TransportSocket::Tcp`.
                let mut buffer = vec![0; 65_536];
                stream.set_nonblocking(true).unwrap();
                let received = async {
                    loop {
                        match stream.read(&mut buffer) {
                            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                            len => return len.ok(),
                        }
                    }
                };
                let len = timeout(SOON, received).await.ok()??;
                Some(buffer.get(2..len)?.to_vec())
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

fn sockets(client: &NetNs, server: &NetNs, transport: Transport) -> (OwnedSocket, FarSocket) {
    match transport {
        Transport::Udp => {
            let open = |ns: &NetNs, own: &str, other: &str| {
                ns.run(|| {
                    let socket = UdpSocket::bind(address(own)).unwrap();
                    socket.connect(address(other)).unwrap();
                    socket
                })
            };
            let own = open(client, CLIENT, SERVER);
            (OwnedSocket::Udp(own), FarSocket::Udp(open(server, SERVER, CLIENT)))
        }
        Transport::Tcp => {
            let listener = server.run(|| TcpListener::bind(address(SERVER)).unwrap());
            let own = client.run(|| TcpStream::connect(address(SERVER)).unwrap());
            (OwnedSocket::Tcp(own), FarSocket::Tcp(listener.accept().unwrap().0))
        }
    }
}

fn peer(socket: TransportSocket, keepalive: Keepalive) -> PeerConfig {
    PeerConfig { id: PeerId::new(7), socket, remote: address(SERVER), local: None, keepalive }
}

async fn bench<P: Plane>(
    client: NetNs,
    transport: Transport,
    keepalive: Keepalive,
) -> Bench<P::Channel> {
    let server = NetNs::new("datac");
    connect(&client, "eth0", &server, "eth0");
    client.add_address("eth0", "192.0.2.1/24");
    server.add_address("eth0", "192.0.2.2/24");
    let mut channel = P::create().await;
    let name = channel.interface().name.clone();
    assert_eq!(client.link_index(&name), Some(channel.interface().index));
    client.add_address(&name, "10.77.0.1/24");
    client.link_up(&name);
    let (own, far) = sockets(&client, &server, transport);
    let port = channel.new_peer(peer(own.duplicate(), keepalive)).await.unwrap();
    let inside = client.run(|| {
        let socket = UdpSocket::bind("10.77.0.1:5000").unwrap();
        socket.connect("10.77.0.2:6000").unwrap();
        socket
    });
    let control = Control { port, own };
    Bench { channel, far: Far::new(far), control, inside, client, _server: server }
}

/// Runs a test in a namespace of its own.
fn within<F: Future<Output = ()>>(test: impl FnOnce(NetNs) -> F + Send) {
    let client = NetNs::new("datac");
    let file = std::fs::File::open(client.path()).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(client));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl<C: DataChannel> Bench<C> {
    /// Installs a key at both ends.
    async fn both_keys(&mut self, id: u8) {
        self.channel.install(key(id, 0, false)).await.unwrap();
        self.far.peer.install(key(id, 0, true)).unwrap();
    }

    /// The key that sends and the one that only opens.
    async fn keys(&mut self) -> [Option<u8>; 2] {
        let keys = self.channel.keys().await.unwrap();
        [keys.sending(), keys.opening()].map(|key| key.map(KeyId::get))
    }

    /// Sends through the tunnel; what arrives at the far end, with the wire's first byte.
    fn upwards(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        self.inside.send(payload).unwrap();
        let inner = self.far.receive(SOON)?;
        Some(inner[28..].to_vec())
    }

    /// Sends from the far end; what arrives at the application.
    fn downwards(&mut self, payload: &[u8], wait: Duration) -> Option<Vec<u8>> {
        self.far.send(&inner_packet(payload));
        self.received(wait)
    }

    fn received(&mut self, wait: Duration) -> Option<Vec<u8>> {
        self.inside.set_read_timeout(Some(wait)).unwrap();
        let mut buffer = vec![0; 65_536];
        let len = self.inside.recv(&mut buffer).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }

    async fn no_event(&mut self) {
        if let Ok(event) = timeout(A_WHILE, self.channel.next_event()).await {
            panic!("unexpected {event:?}");
        }
    }

    /// Waits until the peer is gone by itself, and listens to no event.
    async fn expired(&mut self) {
        let gone = async {
            while self.channel.stats().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, gone).await.unwrap();
    }

    async fn event(&mut self) -> DataEvent {
        timeout(SOON, self.channel.next_event()).await.unwrap()
    }

    /// The wire form of the next packet that goes up.
    fn wire(&mut self, payload: &[u8]) -> Vec<u8> {
        self.inside.send(payload).unwrap();
        self.far.receive_raw(SOON).unwrap()
    }
}

/// UDP from 10.77.0.2:6000 to 10.77.0.1:5000, without a UDP checksum.
fn inner_packet(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&((28 + payload.len()) as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    let sum: u32 =
        packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(&6000u16.to_be_bytes());
    packet.extend_from_slice(&5000u16.to_be_bytes());
    packet.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

async fn carries_packets_both_ways<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(0).await;
    assert_eq!(bench.upwards(b"up").unwrap(), b"up");
    assert_eq!(bench.downwards(b"down", SOON).unwrap(), b"down");
}

async fn carries_packets_over_tcp<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Tcp, Keepalive::default()).await;
    bench.both_keys(0).await;
    for n in 0..100u32 {
        let payload = vec![n as u8; 1 + 13 * n as usize];
        assert_eq!(bench.upwards(&payload).unwrap(), payload);
        assert_eq!(bench.downwards(&payload, SOON).unwrap(), payload);
    }
}

async fn sends_nothing_without_a_key_to_send_with<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive { interval: 1, timeout: 0 }).await;
    bench.both_keys(0).await;
    bench.both_keys(1).await;
    bench.channel.retire(id(0)).await.unwrap();
    // What was pinged before.
    while bench.far.receive_raw(A_WHILE).is_some() {}
    bench.inside.send(b"lost").unwrap();
    assert_eq!(bench.far.receive_raw(Duration::from_millis(1500)), None);
    // But it opens what comes with the other key.
    bench.far.peer.promote(id(1)).unwrap();
    assert_eq!(bench.downwards(b"down", SOON).unwrap(), b"down");
}

async fn opens_with_both_keys_and_seals_with_one<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(1).await;
    bench.both_keys(2).await;
    assert_eq!(bench.wire(b"one")[0], 0x49);
    assert_eq!(bench.downwards(b"one", SOON).unwrap(), b"one");
    bench.far.peer.promote(id(2)).unwrap();
    assert_eq!(bench.downwards(b"two", SOON).unwrap(), b"two");
    assert_eq!(bench.wire(b"one")[0], 0x49);
    bench.channel.promote(id(2)).await.unwrap();
    assert_eq!(bench.wire(b"two")[0], 0x4a);
    bench.far.peer.promote(id(1)).unwrap();
    assert_eq!(bench.downwards(b"one", SOON).unwrap(), b"one");
}

async fn a_new_key_replaces_the_old_and_counts_from_one<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(0).await;
    assert_eq!(bench.wire(b"x")[4..8], [0, 0, 0, 1]);
    assert_eq!(bench.wire(b"x")[4..8], [0, 0, 0, 2]);
    let old = bench.far.seal(&inner_packet(b"old"));
    bench.channel.install(key(0, 1, false)).await.unwrap();
    bench.far.peer.install(key(0, 1, true)).unwrap();
    assert_eq!(bench.wire(b"x")[4..8], [0, 0, 0, 1]);
    bench.far.send_raw(&old);
    assert_eq!(bench.downwards(b"new", SOON).unwrap(), b"new");
}

async fn a_retired_key_is_gone<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(1).await;
    bench.both_keys(2).await;
    bench.channel.retire(id(2)).await.unwrap();
    bench.channel.retire(id(2)).await.unwrap();
    assert_eq!(bench.downwards(b"one", SOON).unwrap(), b"one");
    bench.far.peer.promote(id(2)).unwrap();
    assert_eq!(bench.downwards(b"two", A_WHILE), None);
    bench.no_event().await;
}

async fn refuses_forgeries_and_replays<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(0).await;
    let packet = bench.far.seal(&inner_packet(b"once"));
    let mut forged = packet.clone();
    *forged.last_mut().unwrap() ^= 1;
    bench.far.send_raw(&forged);
    bench.far.send_raw(&packet);
    bench.far.send_raw(&packet);
    bench.far.send_raw(&[0x48, 0, 0, 7]);
    assert_eq!(bench.received(SOON).unwrap(), b"once");
    assert_eq!(bench.received(A_WHILE), None);
    // A packet of a key that was never installed.
    bench.far.peer.install(key(5, 0, true)).unwrap();
    bench.far.peer.promote(id(5)).unwrap();
    assert_eq!(bench.downwards(b"unknown", A_WHILE), None);
    bench.no_event().await;
}

async fn consumes_pings_and_sends_its_own<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive { interval: 1, timeout: 30 }).await;
    bench.both_keys(0).await;
    bench.far.send(&message::PING);
    let mut packet = bench.far.receive_raw(SOON).unwrap();
    assert_eq!(bench.far.peer.open(&mut packet, Instant::now()), Opened::Consumed);
    assert_eq!(packet.len(), 40);
    assert_eq!(bench.received(A_WHILE), None);
    bench.no_event().await;
}

async fn expires_once<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive { interval: 0, timeout: 2 }).await;
    bench.both_keys(0).await;
    // What is authentic counts, what is not does not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.far.send(&message::PING);
    let last = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    bench.far.send_raw(&[0x48; 60]);
    assert_eq!(bench.event().await, DataEvent::PeerDeleted(PeerDeletedReason::Expired));
    let least = Duration::from_millis(1900) - P::GRANULARITY;
    assert!(last.elapsed() >= least, "{:?}", last.elapsed());
    bench.no_event().await;
    assert!(matches!(bench.channel.stats().await, Err(Error::NoSuchPeer)));

    // Another peer on the same interface, with another keepalive.
    let socket = bench.control.own.duplicate();
    let keepalive = Keepalive { interval: 0, timeout: 1 };
    let start = Instant::now();
    bench.channel.new_peer(peer(socket, keepalive)).await.unwrap();
    assert_eq!(bench.event().await, DataEvent::PeerDeleted(PeerDeletedReason::Expired));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

async fn commands_need_a_peer<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive { interval: 0, timeout: 1 }).await;
    bench.channel.del_peer().await.unwrap();
    let channel = &mut bench.channel;
    let results = [
        channel.install(key(0, 0, false)).await.map_err(Error::from),
        channel.promote(id(0)).await,
        channel.retire(id(0)).await,
        channel.keys().await.map(drop),
        channel.stats().await.map(drop),
        channel.del_peer().await.map(drop),
    ];
    for (n, result) in results.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::NoSuchPeer)), "command {n}: {result:?}");
    }
    // Deleting it oneself tells nothing, and neither do its timers afterwards.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    bench.no_event().await;
}

/// What can be seen of peers and keys without a packet.
async fn keeps_account_of_peers_and_keys<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    assert_eq!(bench.keys().await, [None, None]);
    bench.channel.retire(id(1)).await.unwrap();
    for n in [0, 1] {
        bench.channel.install(key(n, 0, false)).await.unwrap();
    }
    assert_eq!(bench.keys().await, [Some(0), Some(1)]);
    bench.channel.promote(id(1)).await.unwrap();
    bench.channel.promote(id(1)).await.unwrap();
    assert_eq!(bench.keys().await, [Some(1), Some(0)]);
    bench.channel.install(key(2, 0, false)).await.unwrap();
    assert_eq!(bench.keys().await, [Some(1), Some(2)], "in place of the one that goes");
    let gone = bench.channel.promote(id(0)).await;
    assert!(matches!(gone, Err(Error::NoSuchKey(key)) if key == id(0)), "{gone:?}");
    assert_eq!(bench.keys().await, [Some(1), Some(2)]);
    bench.channel.retire(id(1)).await.unwrap();
    assert_eq!(bench.keys().await, [None, Some(2)]);
    bench.channel.install(key(3, 0, false)).await.unwrap();
    assert_eq!(bench.keys().await, [Some(3), Some(2)], "something has to send");
    bench.channel.retire(id(3)).await.unwrap();
    bench.channel.install(key(2, 0, false)).await.unwrap();
    assert_eq!(bench.keys().await, [Some(2), None], "in place of its namesake");
    let channel = &mut bench.channel;
    assert_eq!(channel.stats().await.unwrap().link_rx_packets, 0);
    let socket = bench.control.own.duplicate();
    channel.new_peer(peer(socket, Keepalive::default())).await.unwrap();
    channel.del_peer().await.unwrap();
    assert!(matches!(channel.del_peer().await, Err(Error::NoSuchPeer)));
    bench.no_event().await;
}

async fn another_peer_replaces_the_first<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(0).await;
    assert_eq!(bench.upwards(b"one").unwrap(), b"one");
    let socket = bench.control.own.duplicate();
    let config = peer(socket, Keepalive::default());
    bench.control.port = bench.channel.new_peer(config).await.unwrap();
    assert_eq!(bench.channel.stats().await.unwrap().vpn_tx_packets, 0);
    // The old key went with the old peer; the new one has another.
    assert_eq!(bench.keys().await, [None, None]);
    assert_eq!(bench.downwards(b"old", A_WHILE), None);
    bench.both_keys(1).await;
    bench.far.peer.promote(id(1)).unwrap();
    assert_eq!(bench.upwards(b"two").unwrap(), b"two");
    assert_eq!(bench.downwards(b"two", SOON).unwrap(), b"two");
    bench.no_event().await;
}

async fn counts<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(0).await;
    // Whatever the kernel says by itself on a new interface is counted too.
    tokio::time::sleep(A_WHILE).await;
    let before = bench.channel.stats().await.unwrap();
    for _ in 0..10 {
        bench.upwards(&[1; 100]).unwrap();
        bench.downwards(&[2; 50], SOON).unwrap();
    }
    tokio::time::sleep(A_WHILE).await;
    let after = bench.channel.stats().await.unwrap();
    assert_eq!(after.vpn_rx_packets - before.vpn_rx_packets, 10);
    assert_eq!(after.vpn_rx_bytes - before.vpn_rx_bytes, 10 * 78);
    assert_eq!(after.link_rx_packets - before.link_rx_packets, 10);
    assert_eq!(after.link_rx_bytes - before.link_rx_bytes, 10 * 102);
    assert!(after.vpn_tx_packets - before.vpn_tx_packets >= 10);
    assert!(after.vpn_tx_bytes - before.vpn_tx_bytes >= 10 * 128);
    assert!(after.link_tx_packets - before.link_tx_packets >= 10);
    assert!(after.link_tx_bytes - before.link_tx_bytes >= 10 * 152);
    assert!(bench.channel.del_peer().await.unwrap().link_tx_bytes >= after.link_tx_bytes);
}

/// What became of one peer is no news of the next, even if nobody had listened yet.
async fn nothing_is_told_of_an_earlier_peer<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive { interval: 0, timeout: 1 }).await;
    for delete in [false, true] {
        bench.expired().await;
        if delete {
            let _ = bench.channel.del_peer().await;
            bench.no_event().await;
        }
        let config = peer(bench.control.own.duplicate(), Keepalive::default());
        bench.control.port = bench.channel.new_peer(config).await.unwrap();
        bench.no_event().await;
        bench.both_keys(1).await;
        assert_eq!(bench.upwards(b"up").unwrap(), b"up");
        let config = peer(bench.control.own.duplicate(), Keepalive { interval: 0, timeout: 1 });
        bench.control.port = bench.channel.new_peer(config).await.unwrap();
    }
    // What is asked meanwhile takes no event away, and the third peer's are told like the first's.
    bench.expired().await;
    assert_eq!(bench.event().await, DataEvent::PeerDeleted(PeerDeletedReason::Expired));
}

/// Why a server goes is told before that it does.
async fn control_packets_come_before_the_end<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Tcp, Keepalive::default()).await;
    bench.both_keys(0).await;
    bench.far.send_raw(&[0x20; 40]);
    let FarSocket::Tcp(stream) = &bench.far.socket else { unreachable!() };
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(bench.event().await, DataEvent::PeerDeleted(_)));
    assert_eq!(bench.control.receive().await.unwrap(), [0x20; 40]);
}

async fn passes_control_packets<P: Plane>(ns: NetNs, transport: Transport) {
    let mut bench = bench::<P>(ns, transport, Keepalive::default()).await;
    for n in 1..20u8 {
        let packet = vec![0x20; 30 * usize::from(n)];
        bench.control.send(&packet).await;
        assert_eq!(bench.far.receive_raw(SOON).unwrap(), packet);
        bench.far.send_raw(&packet);
        assert_eq!(bench.control.receive().await.unwrap(), packet);
    }
    // Also with keys, next to data.
    bench.both_keys(0).await;
    bench.far.send_raw(&[0x28; 40]);
    assert_eq!(bench.downwards(b"down", SOON).unwrap(), b"down");
    assert_eq!(bench.control.receive().await.unwrap(), [0x28; 40]);
}

async fn passes_control_packets_over_udp<P: Plane>(ns: NetNs) {
    passes_control_packets::<P>(ns, Transport::Udp).await;
}

async fn passes_control_packets_over_tcp<P: Plane>(ns: NetNs) {
    passes_control_packets::<P>(ns, Transport::Tcp).await;
}

async fn a_closed_stream_ends_the_peer<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Tcp, Keepalive::default()).await;
    bench.both_keys(0).await;
    let FarSocket::Tcp(stream) = &bench.far.socket else { unreachable!() };
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    let event = bench.event().await;
    let expected = [PeerDeletedReason::TransportDisconnect, PeerDeletedReason::TransportError];
    assert!(matches!(event, DataEvent::PeerDeleted(r) if expected.contains(&r)), "{event:?}");
    bench.no_event().await;
}

async fn a_deleted_peer_leaves_the_socket_alone<P: Plane>(ns: NetNs) {
    let mut bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    bench.both_keys(0).await;
    assert_eq!(bench.upwards(b"one").unwrap(), b"one");
    bench.channel.del_peer().await.unwrap();
    let OwnedSocket::Udp(socket) = &bench.control.own else { unreachable!() };
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 2000];
    for n in 1..=3u8 {
        bench.far.send_raw(&[0x48 + n; 500]);
        bench.far.send_raw(&[0x20 + n; 500]);
    }
    for first in [0x49, 0x21, 0x4a, 0x22, 0x4b, 0x23] {
        assert_eq!(socket.recv(&mut buffer).unwrap(), 500);
        assert_eq!(buffer[0], first);
    }
    // And nothing is sent any more.
    bench.inside.send(b"lost").unwrap();
    assert_eq!(bench.far.receive_raw(A_WHILE), None);
}

async fn closing_removes_the_interface<P: Plane>(ns: NetNs) {
    let bench = bench::<P>(ns, Transport::Udp, Keepalive::default()).await;
    let name = bench.channel.interface().name.clone();
    bench.channel.close().await.unwrap();
    assert_eq!(bench.client.link_index(&name), None);
}

/// One test for every function, for one implementation.
macro_rules! contract {
    ($module:ident, $plane:ty: $($test:ident),* $(,)?) => {
        mod $module {
            $(#[test] fn $test() { super::within(super::$test::<$plane>); })*
        }
    };
    (in guests: $module:ident, $plane:ty: $($test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                #[ignore = "runs in a guest: ci/vm/run"]
                fn $test() {
                    super::within(super::$test::<$plane>);
                }
            )*
        }
    };
}

contract!(userspace, super::Userspace:
    carries_packets_both_ways,
    carries_packets_over_tcp,
    sends_nothing_without_a_key_to_send_with,
    opens_with_both_keys_and_seals_with_one,
    a_new_key_replaces_the_old_and_counts_from_one,
    a_retired_key_is_gone,
    refuses_forgeries_and_replays,
    consumes_pings_and_sends_its_own,
    expires_once,
    commands_need_a_peer,
    keeps_account_of_peers_and_keys,
    another_peer_replaces_the_first,
    nothing_is_told_of_an_earlier_peer,
    counts,
    passes_control_packets_over_udp,
    passes_control_packets_over_tcp,
    a_closed_stream_ends_the_peer,
    control_packets_come_before_the_end,
    a_deleted_peer_leaves_the_socket_alone,
    closing_removes_the_interface,
);

// A closed stream is not in the list: the kernel leaves it to the socket's owner to notice.
contract!(in guests: kernel, super::Kernel:
    carries_packets_both_ways,
    carries_packets_over_tcp,
    sends_nothing_without_a_key_to_send_with,
    opens_with_both_keys_and_seals_with_one,
    a_new_key_replaces_the_old_and_counts_from_one,
    a_retired_key_is_gone,
    refuses_forgeries_and_replays,
    consumes_pings_and_sends_its_own,
    expires_once,
    commands_need_a_peer,
    keeps_account_of_peers_and_keys,
    another_peer_replaces_the_first,
    nothing_is_told_of_an_earlier_peer,
    counts,
    passes_control_packets_over_udp,
    passes_control_packets_over_tcp,
    a_deleted_peer_leaves_the_socket_alone,
    closing_removes_the_interface,
);

// The rest of the list is about packets.
contract!(recording, super::Recording:
    commands_need_a_peer,
    keeps_account_of_peers_and_keys,
);
