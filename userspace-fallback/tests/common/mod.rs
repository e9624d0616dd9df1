//! Two network namespaces joined by a veth pair, and a data channel in each.
//!
//! Needs root: without the privilege every test here fails and says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use ovpn_dco::{
    Cipher, ControlPort, DataChannel, DirectionKey, Framing, Keepalive, KeyConfig, KeyId, KeySlot,
    MssClamp, PeerConfig, PeerId, TransportSocket,
};
use ovpn_userspace::{Options, TunDevice, TunOptions, UserspaceDataChannel};

/// Runs a command and insists on its success.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(
        output.status.success(),
        "{command}: {} (these tests need root and iproute2)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace that goes with its value.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    fn new(name: String) -> Self {
        // One that a killed test left behind.
        let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self { name }
    }

    /// `ip` inside.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.name))
    }

    /// A command inside.
    pub(crate) fn exec(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Runs `action` on a thread inside. Sockets and devices it makes stay inside.
    pub(crate) fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/var/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Two namespaces joined by a veth pair with both address families.
pub(crate) struct Pair {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
}

impl Pair {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pair = Self {
            a: Namespace::new(format!("data_a{id}")),
            b: Namespace::new(format!("data_b{id}")),
        };
        run(&format!(
            "ip link add veth0 netns {} type veth peer name veth0 netns {}",
            pair.a.name, pair.b.name
        ));
        for (namespace, n) in [(&pair.a, 1), (&pair.b, 2)] {
            namespace.ip(&format!("addr add 192.0.2.{n}/24 dev veth0"));
            namespace.ip(&format!("addr add 2001:db8::{n}/64 dev veth0 nodad"));
            namespace.ip("link set veth0 up");
        }
        pair
    }
}

/// How a test's tunnel is made. Both ends the same, except for options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) tcp: bool,
    pub(crate) outer_v6: bool,
    pub(crate) mtu: u32,
    pub(crate) cipher: Cipher,
    pub(crate) framing: Framing,
    pub(crate) id: Option<u32>,
    pub(crate) mss: Option<MssClamp>,
    pub(crate) keepalive: Keepalive,
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
            mtu: 1400,
            cipher: Cipher::Aes256Gcm,
            framing: Framing::None,
            id: Some(7),
            mss: None,
            keepalive: Keepalive::default(),
            tun: TunOptions::default(),
            options: Options::default(),
            peer_tun: TunOptions::default(),
            peer_options: Options::default(),
        }
    }
}

/// Inside the tunnel, end A is .1 and end B is .2.
pub(crate) const A4: &str = "10.77.0.1";
pub(crate) const B4: &str = "10.77.0.2";
pub(crate) const A6: &str = "fd77::1";
pub(crate) const B6: &str = "fd77::2";

/// A key of the setup's cipher; `mirrored` for the other end.
pub(crate) fn key(cipher: Cipher, id: u8, mirrored: bool) -> KeyConfig {
    let direction =
        |n: u8| DirectionKey::new(cipher, &[n ^ id; 32], [n.wrapping_mul(3) ^ id; 8]).unwrap();
    let (encrypt, decrypt) = if mirrored { (0x5b, 0xa4) } else { (0xa4, 0x5b) };
    KeyConfig {
        key_id: KeyId::new(id).unwrap(),
        cipher,
        encrypt: direction(encrypt),
        decrypt: direction(decrypt),
    }
}

/// A tunnel that is up.
pub(crate) struct Tunnel {
    pub(crate) a: UserspaceDataChannel,
    pub(crate) b: UserspaceDataChannel,
    pub(crate) a_control: ControlPort,
    pub(crate) b_control: ControlPort,
    pub(crate) setup: Setup,
    pub(crate) pair: Pair,
}

fn sockets(pair: &Pair, setup: &Setup) -> (TransportSocket, TransportSocket, [SocketAddr; 2]) {
    let (a, b): (IpAddr, IpAddr) = if setup.outer_v6 {
        ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
    } else {
        ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())
    };
    let (a, b) = (SocketAddr::new(a, 1194), SocketAddr::new(b, 1194));
    if setup.tcp {
        let listener = pair.b.within(|| TcpListener::bind(b).unwrap());
        let client = pair.a.within(|| TcpStream::connect(b).unwrap());
        let (server, _) = listener.accept().unwrap();
        (TransportSocket::Tcp(client.into()), TransportSocket::Tcp(server.into()), [a, b])
    } else {
        let open = |namespace: &Namespace, own: SocketAddr, other: SocketAddr| -> OwnedFd {
            namespace.within(|| {
                let socket = UdpSocket::bind(own).unwrap();
                socket.connect(other).unwrap();
                socket.into()
            })
        };
        (
            TransportSocket::Udp(open(&pair.a, a, b)),
            TransportSocket::Udp(open(&pair.b, b, a)),
            [a, b],
        )
    }
}

pub(crate) fn peer_config(
    setup: &Setup,
    socket: TransportSocket,
    remote: SocketAddr,
) -> PeerConfig {
    PeerConfig {
        id: setup.id.map(|id| PeerId::new(id).unwrap()),
        socket,
        remote,
        local: None,
        keepalive: setup.keepalive,
        framing: setup.framing,
        mss: setup.mss,
    }
}

impl Tunnel {
    /// Makes namespaces, sockets, devices and peers, and installs the first key.
    pub(crate) async fn new(setup: Setup) -> Self {
        Self::over(Pair::new(), setup).await
    }

    pub(crate) async fn over(pair: Pair, setup: Setup) -> Self {
        let (a_socket, b_socket, [a_address, b_address]) = sockets(&pair, &setup);
        let a_tun = pair.a.within(|| TunDevice::create("tun", setup.tun).unwrap());
        let b_tun = pair.b.within(|| TunDevice::create("tun", setup.peer_tun).unwrap());
        for (namespace, n) in [(&pair.a, 1), (&pair.b, 2)] {
            namespace.ip(&format!("addr add 10.77.0.{n}/24 dev tun0"));
            namespace.ip(&format!("link set tun0 mtu {} up", setup.mtu));
            if setup.mtu >= 1280 {
                namespace.ip(&format!("addr add fd77::{n}/64 dev tun0 nodad"));
            }
        }
        let mut a = UserspaceDataChannel::new(a_tun, setup.options).unwrap();
        let mut b = UserspaceDataChannel::new(b_tun, setup.peer_options).unwrap();
        let a_control =
            a.new_peer(peer_config(&setup, a_socket, b_address), Vec::new()).await.unwrap();
        let b_control =
            b.new_peer(peer_config(&setup, b_socket, a_address), Vec::new()).await.unwrap();
        a.new_key(KeySlot::Primary, key(setup.cipher, 0, false)).await.unwrap();
        b.new_key(KeySlot::Primary, key(setup.cipher, 0, true)).await.unwrap();
        Self { a, b, a_control, b_control, setup, pair }
    }

    /// Sends a numbered byte stream from one end to the other over TCP and compares every byte.
    pub(crate) fn stream(&self, from_a: bool, v6: bool, len: usize) {
        let (sender, receiver) =
            if from_a { (&self.pair.a, &self.pair.b) } else { (&self.pair.b, &self.pair.a) };
        let address: IpAddr = match (from_a, v6) {
            (true, false) => B4,
            (true, true) => B6,
            (false, false) => A4,
            (false, true) => A6,
        }
        .parse()
        .unwrap();
        let listener = receiver.within(|| TcpListener::bind((address, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = sender.within(|| TcpStream::connect(target).unwrap());
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
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            let mut pattern = Pattern::default();
            let mut got = vec![0; 65_536];
            let mut expected = vec![0; 65_536];
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

    /// Pings B from A `count` times, waiting `interval` seconds in between, and insists that no
    /// answer is missing.
    pub(crate) fn ping(&self, v6: bool, count: u32, size: u32) {
        let target = if v6 { B6 } else { B4 };
        let output = self.pair.a.exec(&format!("ping -n -q -c {count} -i 0.01 -s {size} {target}"));
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
