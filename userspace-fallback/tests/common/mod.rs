//! Two network namespaces joined by a veth pair, and a data channel in each.
//!
//! Needs root: without the privilege every test here fails and says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use ovpn_dco::{
    Cipher, ControlPort, DataChannel, DirectionKey, Framing, Keepalive, KeyConfig, KeyId,
    PeerConfig, PeerId, TransportSocket,
};
use ovpn_test_support::netns::{NetNs, connect};
use ovpn_userspace::peer::Peer;
use ovpn_userspace::{Extras, MssClamp, Options, TunDevice, TunOptions, UserspaceDataChannel};

/// How a test's tunnel is made. Both ends are the same, except for options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) tcp: bool,
    pub(crate) outer_v6: bool,
    pub(crate) outer_mtu: u32,
    pub(crate) mtu: u32,
    pub(crate) cipher: Cipher,
    pub(crate) framing: Framing,
    pub(crate) id: Option<u32>,
    pub(crate) mss: Option<MssClamp>,
    pub(crate) tun: TunOptions,
    pub(crate) options: Options,
    pub(crate) peer_tun: TunOptions,
    pub(crate) peer_options: Options,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tcp: false,
            outer_v6: false,
            outer_mtu: 1500,
            mtu: 1400,
            cipher: Cipher::Aes256Gcm,
            framing: Framing::None,
            id: Some(7),
            mss: None,
            tun: TunOptions::default(),
            options: Options::default(),
            peer_tun: TunOptions::default(),
            peer_options: Options::default(),
        }
    }
}

/// Inside the tunnel, end A is .1 and end B is .2.
const INNER_V4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const INNER_V6: [&str; 2] = ["fd77::1", "fd77::2"];
const OUTER_V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const OUTER_V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

/// A key of the setup's cipher; `mirrored` for the other end.
pub(crate) fn key(cipher: Cipher, id: u8, mirrored: bool) -> KeyConfig {
    let direction =
        |n: u8| DirectionKey::new(cipher, &[n ^ id; 32], [n.wrapping_mul(3) ^ id; 64]).unwrap();
    let (encrypt, decrypt) = if mirrored { (0x5b, 0xa4) } else { (0xa4, 0x5b) };
    KeyConfig {
        key_id: KeyId::new(id).unwrap(),
        cipher,
        encrypt: direction(encrypt),
        decrypt: direction(decrypt),
    }
}

/// The cipher of what is no [`Tunnel`].
pub(crate) const CIPHER: Cipher = Cipher::Aes256Gcm;

/// A peer at the other end of a socket, for a channel alone.
pub(crate) fn config(socket: TransportSocket) -> PeerConfig {
    PeerConfig {
        id: PeerId::new(7),
        socket,
        remote: "127.0.0.1:1".parse().unwrap(),
        local: None,
        keepalive: Keepalive::default(),
    }
}

/// The other end of [`config`], to be played by hand.
pub(crate) fn far_peer() -> Peer {
    let mut peer = Peer::new(PeerId::new(7), Framing::None, None);
    peer.install(key(CIPHER, 0, true)).unwrap();
    peer
}

/// A packet as [`far_peer`] sends it.
pub(crate) fn sealed(peer: &mut Peer, inner: &[u8]) -> Vec<u8> {
    let envelope = peer.envelope(inner[0]);
    let mut packet = vec![0; envelope.sealed_len(inner.len())];
    let range = envelope.inner(inner.len());
    packet[range].copy_from_slice(inner);
    peer.seal(envelope, &mut packet, inner.len()).unwrap();
    packet
}

/// A tunnel that is up. End A is in the first namespace.
pub(crate) struct Tunnel {
    pub(crate) a: UserspaceDataChannel,
    pub(crate) b: UserspaceDataChannel,
    ports: [ControlPort; 2],
    pub(crate) namespaces: [NetNs; 2],
}

/// Two namespaces joined by a veth pair with both address families.
pub(crate) fn namespaces(mtu: u32) -> [NetNs; 2] {
    let namespaces = [NetNs::new("datat"), NetNs::new("datat")];
    connect(&namespaces[0], "eth0", &namespaces[1], "eth0");
    for (n, namespace) in namespaces.iter().enumerate() {
        // Duplicate address detection would make the address wait.
        namespace.sysctl("net/ipv6/conf/all/accept_dad", "0");
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        namespace.sysctl("net/ipv6/conf/eth0/accept_dad", "0");
        namespace.set_mtu("eth0", mtu);
        namespace.add_address("eth0", &format!("{}/24", OUTER_V4[n]));
        namespace.add_address("eth0", &format!("{}/64", OUTER_V6[n]));
    }
    namespaces
}

/// A connected UDP socket in a namespace.
pub(crate) fn udp(namespace: &NetNs, own: SocketAddr, other: SocketAddr) -> UdpSocket {
    namespace.run(|| {
        let socket = UdpSocket::bind(own).unwrap();
        socket.connect(other).unwrap();
        socket
    })
}

fn sockets(namespaces: &[NetNs; 2], setup: &Setup) -> [(TransportSocket, SocketAddr); 2] {
    let addresses = if setup.outer_v6 { OUTER_V6 } else { OUTER_V4 };
    let [a, b] = addresses.map(|address| SocketAddr::new(address.parse().unwrap(), 1194));
    let sockets: [OwnedFd; 2] = if setup.tcp {
        let listener = namespaces[1].run(|| TcpListener::bind(b).unwrap());
        let client = namespaces[0].run(|| TcpStream::connect(b).unwrap());
        [client.into(), listener.accept().unwrap().0.into()]
    } else {
        [udp(&namespaces[0], a, b).into(), udp(&namespaces[1], b, a).into()]
    };
    let wrap = if setup.tcp { TransportSocket::Tcp } else { TransportSocket::Udp };
    let [own, other] = sockets.map(wrap);
    [(own, b), (other, a)]
}

/// The ends of a UDP transport over IPv4.
pub(crate) fn udp_pair(namespaces: &[NetNs; 2]) -> [(TransportSocket, SocketAddr); 2] {
    sockets(namespaces, &Setup::default())
}

impl Tunnel {
    /// Makes namespaces, sockets, devices and peers, and installs the first key.
    pub(crate) async fn new(setup: Setup) -> Self {
        let namespaces = namespaces(setup.outer_mtu);
        let sockets = sockets(&namespaces, &setup);
        Self::over(namespaces, sockets, setup).await
    }

    /// The same over sockets made otherwise.
    pub(crate) async fn over(
        namespaces: [NetNs; 2],
        sockets: [(TransportSocket, SocketAddr); 2],
        setup: Setup,
    ) -> Self {
        let devices = [(0, setup.tun), (1, setup.peer_tun)]
            .map(|(n, options)| namespaces[n].run(|| TunDevice::create("tun", options).unwrap()));
        Self::with_devices(namespaces, sockets, devices, setup).await
    }

    /// The same with devices made otherwise.
    pub(crate) async fn with_devices(
        namespaces: [NetNs; 2],
        sockets: [(TransportSocket, SocketAddr); 2],
        [a, b]: [TunDevice; 2],
        setup: Setup,
    ) -> Self {
        for (n, namespace) in namespaces.iter().enumerate() {
            namespace.set_mtu("tun0", setup.mtu);
            namespace.link_up("tun0");
            namespace.add_address("tun0", &format!("{}/24", INNER_V4[n]));
            if setup.mtu >= 1280 {
                namespace.add_address("tun0", &format!("{}/64", INNER_V6[n]));
            }
        }
        let mut a = UserspaceDataChannel::new(a, setup.options).unwrap();
        let mut b = UserspaceDataChannel::new(b, setup.peer_options).unwrap();
        let mut ports = Vec::new();
        for (n, (channel, (socket, remote))) in
            [&mut a, &mut b].into_iter().zip(sockets).enumerate()
        {
            let config = PeerConfig {
                id: setup.id.and_then(PeerId::new),
                socket,
                remote,
                local: None,
                keepalive: Keepalive::default(),
            };
            let extras = Extras { framing: setup.framing, mss: setup.mss, ..Extras::default() };
            ports.push(channel.new_peer_with(config, extras).await.unwrap());
            channel.install(key(setup.cipher, 0, n == 1)).await.unwrap();
        }
        let ports = ports.try_into().unwrap_or_else(|_| panic!("two ports"));
        Self { a, b, ports, namespaces }
    }

    fn ends(&self, from_a: bool, v6: bool) -> (&NetNs, &NetNs, [IpAddr; 2]) {
        let [a, b] = if v6 { INNER_V6 } else { INNER_V4 }.map(|address| address.parse().unwrap());
        let [ns_a, ns_b] = &self.namespaces;
        if from_a { (ns_a, ns_b, [a, b]) } else { (ns_b, ns_a, [b, a]) }
    }

    /// Sends bytes from one end to the other over TCP and compares every one.
    pub(crate) fn stream(&self, from_a: bool, v6: bool, len: usize) {
        let (sender, receiver, [_, to]) = self.ends(from_a, v6);
        let listener = receiver.run(|| TcpListener::bind((to, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = sender.run(|| TcpStream::connect(target).unwrap());
                let mut pattern = Pattern::default();
                let mut left = len;
                let mut chunk = vec![0; 100_000];
                while left > 0 {
                    let n = left.min(chunk.len());
                    pattern.fill(&mut chunk[..n]);
                    stream.write_all(&chunk[..n]).unwrap();
                    left -= n;
                }
            });
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut pattern = Pattern::default();
            let (mut got, mut expected) = (vec![0; 65_536], vec![0; 65_536]);
            let mut total = 0;
            loop {
                let n = stream.read(&mut got).unwrap();
                if n == 0 {
                    break;
                }
                pattern.fill(&mut expected[..n]);
                assert!(got[..n] == expected[..n], "wrong bytes after {total}");
                total += n;
            }
            assert_eq!(total, len);
        });
    }

    /// Sends datagrams of these lengths, a few at a time, and insists that each arrives whole and
    /// in order.
    pub(crate) fn datagrams(&self, from_a: bool, v6: bool, lengths: &[usize]) {
        const WINDOW: usize = 64;
        let (sender, receiver, [from, to]) = self.ends(from_a, v6);
        let (from, to) = (SocketAddr::new(from, 7001), SocketAddr::new(to, 7002));
        let (sender, receiver) = (udp(sender, from, to), udp(receiver, to, from));
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Room for a whole window of the largest.
        setsockopt(&receiver, RcvBufForce, &(16 << 20)).unwrap();
        let (mut sent, mut received) = (Pattern::default(), Pattern::default());
        let (mut buffer, mut expected) = (vec![0; 65_536], vec![0; 65_536]);
        for window in lengths.chunks(WINDOW) {
            for len in window {
                sent.fill(&mut buffer[..*len]);
                sender.send(&buffer[..*len]).unwrap();
            }
            for len in window {
                received.fill(&mut expected[..*len]);
                let got = receiver.recv(&mut buffer).unwrap();
                assert_eq!(got, *len);
                assert!(buffer[..got] == expected[..got]);
            }
        }
    }

    /// Pings B from A and insists on every answer.
    pub(crate) fn ping(&self, v6: bool, count: u32, size: u32) {
        let target = if v6 { INNER_V6[1] } else { INNER_V4[1] };
        // ping gives the last answers twice the longest round trip, but at least one interval: on a
        // busy machine a short one calls late answers lost.
        let output =
            self.namespaces[0].sh(&format!("ping -n -q -c {count} -i 0.2 -s {size} {target}"));
        assert!(output.contains(" 0% packet loss"), "{output}");
    }
}

/// A byte sequence without short periods.
#[derive(Default)]
pub(crate) struct Pattern(u64);

impl Pattern {
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 += 1;
            *byte = (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
    }
}
