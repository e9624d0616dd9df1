//! A pair of namespaces with a data channel in each, and checks around every test.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use ovpn_dco::kernel::{Api, KernelDataChannel, LinkName};
use ovpn_dco::{
    Cipher, ControlPort, DataChannel, DataEvent, DirectionKey, Keepalive, KeyConfig, KeyId,
    PeerConfig, PeerId, TransportSocket,
};
use tokio::time::timeout;

use crate::netns::{NetNs, connect};

/// Which module this guest is for.
pub(crate) fn api() -> Api {
    match std::env::var("DCO_API").as_deref() {
        Ok("ovpn") => Api::Ovpn,
        Ok("ovpn-dco-v2") => Api::OvpnDcoV2,
        other => panic!("DCO_API must be ovpn or ovpn-dco-v2, not {other:?}: run ci/vm/run"),
    }
}

/// Runs a test on a thread of its own (namespaces belong to threads), and then looks for what it
/// left behind. `ci/vm/job` looks at the kernel log.
pub(crate) fn guest<F: Future<Output = ()>>(test: impl FnOnce(Api) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { timeout(Duration::from_secs(300), test(api())).await })
        });
        match thread.join() {
            Ok(finished) => finished.expect("the test takes longer than five minutes"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let links = sh("ip -o -d link show | grep -E 'ovpn' || true");
    assert_eq!(links, "", "links were left behind");
}

/// Runs a shell command in the guest's first namespace.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Does something on this thread inside a namespace, including what a future does on this thread
/// while it runs: sockets belong to the namespace they were opened in.
pub(crate) async fn inside<T>(ns: &NetNs, future: impl Future<Output = T>) -> T {
    let home = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    setns(ns.fd(), CloneFlags::CLONE_NEWNET).unwrap();
    let result = future.await;
    setns(home.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
    result
}

/// One end.
pub(crate) struct Side {
    pub(crate) ns: NetNs,
    pub(crate) channel: KernelDataChannel,
    /// Outer addresses, 4 and 6.
    pub(crate) outer: [IpAddr; 2],
    /// Tunnel addresses, 4 and 6.
    pub(crate) inner: [IpAddr; 2],
}

/// Two namespaces joined by a veth pair, each with a data channel.
pub(crate) struct Pair {
    pub(crate) client: Side,
    pub(crate) server: Side,
}

/// The transport of a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The two ends of a transport connection; the test plays the control channel.
pub(crate) struct Sockets {
    pub(crate) client: OwnedFd,
    pub(crate) server: OwnedFd,
    pub(crate) client_addr: SocketAddr,
    pub(crate) server_addr: SocketAddr,
    pub(crate) transport: Transport,
}

pub(crate) const PEER: PeerId = match PeerId::new(5) {
    Some(id) => id,
    None => PeerId::UNDEFINED,
};

/// The namespaces without channels.
pub(crate) fn namespaces() -> (NetNs, NetNs) {
    let client = NetNs::new("dcoc");
    let server = NetNs::new("dcos");
    connect(&client, "eth0", &server, "eth0");
    client.sysctl("net/ipv6/conf/eth0/accept_dad", "0");
    server.sysctl("net/ipv6/conf/eth0/accept_dad", "0");
    for (ns, number) in [(&client, 2), (&server, 1)] {
        ns.sh(&format!(
            "ip address add 10.99.0.{number}/24 dev eth0;
             ip address add fd99::{number}/64 dev eth0 nodad"
        ));
    }
    (client, server)
}

pub(crate) async fn create(ns: &NetNs, api: Api, name: LinkName) -> KernelDataChannel {
    inside(ns, KernelDataChannel::create(api, name)).await.unwrap()
}

impl Pair {
    pub(crate) async fn new(api: Api) -> Self {
        let (client, server) = namespaces();
        Self { client: Side::new(client, api, 2).await, server: Side::new(server, api, 1).await }
    }

    /// Transport sockets between the two; `v6` outside.
    pub(crate) fn sockets(&self, transport: Transport, v6: bool) -> Sockets {
        let address = |side: &Side, port| SocketAddr::from((side.outer[usize::from(v6)], port));
        let server_addr = address(&self.server, 1194);
        match transport {
            Transport::Udp => {
                let client_addr = address(&self.client, 40_000);
                let socket = |ns: &NetNs, own, other| {
                    ns.run(|| {
                        let socket = bind(own);
                        socket.connect(other).unwrap();
                        socket.set_nonblocking(true).unwrap();
                        OwnedFd::from(socket)
                    })
                };
                Sockets {
                    client: socket(&self.client.ns, client_addr, server_addr),
                    server: socket(&self.server.ns, server_addr, client_addr),
                    client_addr,
                    server_addr,
                    transport,
                }
            }
            Transport::Tcp => {
                let listener = self.server.ns.run(|| {
                    let socket = socket2::Socket::new(
                        socket2::Domain::for_address(server_addr),
                        socket2::Type::STREAM,
                        None,
                    )
                    .unwrap();
                    socket.set_reuse_address(true).unwrap();
                    socket.bind(&server_addr.into()).unwrap();
                    socket.listen(1).unwrap();
                    TcpListener::from(socket)
                });
                let client = self.client.ns.run(|| TcpStream::connect(server_addr).unwrap());
                let (server, client_addr) = listener.accept().unwrap();
                for socket in [&client, &server] {
                    socket.set_nonblocking(true).unwrap();
                }
                Sockets {
                    client: client.into(),
                    server: server.into(),
                    client_addr,
                    server_addr,
                    transport,
                }
            }
        }
    }

    /// Peers on both sides, without keys.
    pub(crate) async fn peers(&mut self, sockets: &Sockets, keepalive: Keepalive) {
        self.client.new_peer(sockets, keepalive).await;
        self.server.new_peer(sockets, keepalive).await;
    }

    /// The same key on both sides, mirrored.
    pub(crate) async fn key(&mut self, cipher: Cipher, id: u8) {
        let (client, server) = keys(cipher, id);
        self.client.channel.install(client).await.unwrap();
        self.server.channel.install(server).await.unwrap();
    }

    /// Peers and a key: a working tunnel.
    pub(crate) async fn up(&mut self, sockets: &Sockets, cipher: Cipher) {
        self.peers(sockets, Keepalive { interval: 10, timeout: 60 }).await;
        self.key(cipher, 0).await;
    }

    pub(crate) async fn close(self) {
        self.client.channel.close().await.unwrap();
        self.server.channel.close().await.unwrap();
    }

    /// Pings through the tunnel, both inner families, and wants every answer.
    pub(crate) fn ping(&self) {
        for address in self.server.inner {
            self.client.ns.sh(&format!("ping -q -c 3 -i 0.2 -W 2 {address}"));
        }
    }
}

impl Side {
    pub(crate) async fn new(ns: NetNs, api: Api, number: u8) -> Self {
        let channel = create(&ns, api, LinkName::from_dev("tun")).await;
        let side = Self {
            channel,
            outer: [[10, 99, 0, number].into(), format!("fd99::{number}").parse().unwrap()],
            inner: [[10, 8, 0, number].into(), format!("fd08::{number}").parse().unwrap()],
            ns,
        };
        side.configure();
        side
    }

    /// Addresses on the link.
    pub(crate) fn configure(&self) {
        let name = &self.channel.interface().name;
        let [v4, v6] = self.inner;
        self.ns.sh(&format!(
            "ip link set {name} up mtu 1400;
             ip address add {v4}/24 dev {name};
             ip address add {v6}/64 dev {name} nodad"
        ));
    }

    pub(crate) async fn new_peer(
        &mut self,
        sockets: &Sockets,
        keepalive: Keepalive,
    ) -> ControlPort {
        let is_server = self.outer.contains(&sockets.server_addr.ip());
        let config = sockets.config(is_server, keepalive);
        self.channel.new_peer(config).await.unwrap()
    }
}

impl Sockets {
    /// What one side hands to its channel.
    pub(crate) fn config(&self, is_server: bool, keepalive: Keepalive) -> PeerConfig {
        let (socket, remote) = if is_server {
            (&self.server, self.client_addr)
        } else {
            (&self.client, self.server_addr)
        };
        let socket = socket.try_clone().unwrap();
        PeerConfig {
            id: Some(PEER),
            socket: match self.transport {
                Transport::Udp => TransportSocket::Udp(socket),
                Transport::Tcp => TransportSocket::Tcp(socket),
            },
            remote,
            local: None,
            keepalive,
        }
    }
}

/// ovpn-dco-v2 takes its time to give up a socket: on a slow machine longer than the channel
/// waits.
pub(crate) fn bind(address: SocketAddr) -> UdpSocket {
    for _ in 0..50 {
        match UdpSocket::bind(address) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result.unwrap(),
        }
    }
    panic!("{address} stays in use")
}

/// Key number `id`, for the client and for the server.
pub(crate) fn keys(cipher: Cipher, id: u8) -> (KeyConfig, KeyConfig) {
    let direction = |seed: u8| {
        let key: Vec<u8> = (0..32).map(|i| i ^ seed).collect();
        DirectionKey::new(cipher, &key, [seed; 8]).unwrap()
    };
    let (up, down) = (|| direction(id * 2 + 1), || direction(id * 2 + 2));
    let key_id = KeyId::new(id % 8).unwrap();
    (
        KeyConfig { key_id, cipher, encrypt: up(), decrypt: down() },
        KeyConfig { key_id, cipher, encrypt: down(), decrypt: up() },
    )
}

/// The next event, or a failed test.
pub(crate) async fn event(channel: &mut KernelDataChannel, within: Duration) -> DataEvent {
    timeout(within, channel.next_event()).await.expect("no event came")
}

/// That nothing is told.
pub(crate) async fn silence(channel: &mut KernelDataChannel, for_: Duration) {
    if let Ok(event) = timeout(for_, channel.next_event()).await {
        panic!("unexpected event {event:?}");
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
