//! Two kernel data channels in two network namespaces, joined by a virtual cable, with keys that
//! both know beforehand: `ping` through the tunnel.
//!
//! Needs root and a kernel with the module `ovpn` or `ovpn-dco-v2`:
//!
//! ```text
//! cargo run -p ovpn-dco --example two_peers
//! ```

use std::error::Error;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use ovpn_dco::kernel::{KernelDataChannel, LinkName, probe};
use ovpn_dco::{
    Cipher, DataChannel, DirectionKey, Keepalive, KeyConfig, KeyId, PeerConfig, PeerId,
    TransportSocket,
};
use tokio::sync::oneshot;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CIPHER: Cipher = Cipher::Aes256Gcm;

fn main() -> Result<()> {
    sh(
        "ip netns add two-peers-a && ip netns add two-peers-b &&
        ip -n two-peers-a link add eth0 type veth peer name eth0 netns two-peers-b &&
        ip -n two-peers-a address add 192.0.2.1/24 dev eth0 && ip -n two-peers-a link set eth0 up &&
        ip -n two-peers-b address add 192.0.2.2/24 dev eth0 && ip -n two-peers-b link set eth0 up",
    )?;
    let result = run();
    sh("ip netns del two-peers-a; ip netns del two-peers-b")?;
    result
}

fn run() -> Result<()> {
    // A namespace belongs to a thread, and the sockets and the link to the namespace.
    let (ready_a, wait_a) = oneshot::channel();
    let (ready_b, wait_b) = oneshot::channel();
    let (stop_a, stopped_a) = oneshot::channel();
    let (stop_b, stopped_b) = oneshot::channel();
    let a = std::thread::spawn(|| peer("two-peers-a", 1, 2, ready_a, stopped_a));
    let b = std::thread::spawn(|| peer("two-peers-b", 2, 1, ready_b, stopped_b));
    let both = wait_a.blocking_recv().and_then(|()| wait_b.blocking_recv());
    let ping = both.map(|()| sh("ip netns exec two-peers-a ping -c 3 -i 0.2 10.8.0.2"));
    drop((stop_a, stop_b));
    for thread in [a, b] {
        thread.join().map_err(|_| "a peer's thread panicked")??;
    }
    ping?
}

/// One end of the tunnel, until `stop` is dropped.
fn peer(
    namespace: &str,
    own: u8,
    other: u8,
    ready: oneshot::Sender<()>,
    stop: oneshot::Receiver<()>,
) -> Result<()> {
    setns(File::open(format!("/run/netns/{namespace}"))?, CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let api = probe().ready().ok_or("this kernel offers no data channel to this process")?;
        let mut channel = KernelDataChannel::create(api, LinkName::from_dev("tun")).await?;
        let name = &channel.interface().name;
        sh(&format!(
            "ip -n {namespace} link set {name} up mtu 1400 &&
             ip -n {namespace} address add 10.8.0.{own}/24 dev {name}"
        ))?;

        let remote = SocketAddr::from(([192, 0, 2, other], 1194));
        let socket = UdpSocket::bind(SocketAddr::from(([192, 0, 2, own], 1194)))?;
        socket.connect(remote)?;
        let peer = PeerConfig {
            id: PeerId::new(7),
            socket: TransportSocket::Udp(socket.into()),
            remote,
            local: None,
            keepalive: Keepalive { interval: 10, timeout: 60 },
        };
        channel.new_peer(peer).await?;

        // What one encrypts with the other decrypts with. A real peer gets its keys from a TLS
        // handshake.
        let key = KeyConfig {
            key_id: KeyId::FIRST,
            cipher: CIPHER,
            encrypt: direction(own)?,
            decrypt: direction(other)?,
        };
        channel.install(key).await?;

        // Nobody may be waiting any more if the other end failed.
        let _ = ready.send(());
        tokio::select! {
            event = channel.next_event() => eprintln!("{namespace}: {event:?}"),
            _ = stop => {}
        }
        eprintln!("{namespace}: {:?}", channel.stats().await?);
        channel.close().await?;
        Ok(())
    })
}

fn direction(number: u8) -> Result<DirectionKey> {
    DirectionKey::new(CIPHER, &[number; 32], [number; 8]).ok_or_else(|| "short key".into())
}

fn sh(commands: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", commands]).status()?;
    if status.success() { Ok(()) } else { Err(format!("{commands}: {status}").into()) }
}
