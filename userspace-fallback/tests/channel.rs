//! What only the software channel does, or does in its own way. What every data channel does is in
//! the contract tests of the workspace.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::{CIPHER, Setup, Tunnel, config, far_peer, key, namespaces, sealed, udp};
use ovpn_dco::{
    ControlPort, DataChannel, DataEvent, Error, Keepalive, KeyId, PeerConfig, PeerDeletedReason,
    TransportSocket,
};
use ovpn_test_support::netns::NetNs;
use ovpn_userspace::peer::Opened;
use ovpn_userspace::{Extras, Options, TunDevice, TunOptions, UserspaceDataChannel, message};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(200);

fn channel(namespace: &NetNs) -> UserspaceDataChannel {
    let device = namespace.run(|| TunDevice::create("tun", TunOptions::default()).unwrap());
    namespace.link_up("tun0");
    UserspaceDataChannel::new(device, Options::default()).unwrap()
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes()[..], packet].concat()
}

/// A channel whose far end is a plain TCP stream.
async fn over_tcp(read_ahead: Vec<u8>) -> (NetNs, UserspaceDataChannel, ControlPort, TcpStream) {
    let namespace = NetNs::new("datac");
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let own = namespace.run(|| TcpStream::connect(address).unwrap());
    let far = listener.accept().unwrap().0;
    let mut channel = channel(&namespace);
    let extras = Extras { read_ahead, ..Extras::default() };
    let config = config(TransportSocket::Tcp(own.into()));
    let port = channel.new_peer_with(config, extras).await.unwrap();
    channel.install(key(CIPHER, 0, false)).await.unwrap();
    (namespace, channel, port, far)
}

async fn event(channel: &mut UserspaceDataChannel) -> Option<DataEvent> {
    timeout(SOON, channel.next_event()).await.ok()
}

async fn no_event(channel: &mut UserspaceDataChannel) {
    if let Ok(event) = timeout(A_WHILE, channel.next_event()).await {
        panic!("unexpected {event:?}");
    }
}

#[tokio::test]
async fn what_was_read_ahead_comes_first() {
    // One whole control packet and the beginning of another.
    let mut read_ahead = framed(&[0x20; 50]);
    read_ahead.extend_from_slice(&framed(&[0x28; 60])[..30]);
    let (_namespace, mut channel, port, mut far) = over_tcp(read_ahead).await;
    let ControlPort::Channel { mut incoming, .. } = port else { panic!("no channel") };
    assert_eq!(timeout(SOON, incoming.recv()).await.unwrap().unwrap(), [0x20; 50]);
    far.write_all(&framed(&[0x28; 60])[30..]).unwrap();
    assert_eq!(timeout(SOON, incoming.recv()).await.unwrap().unwrap(), [0x28; 60]);
    // The port closes with the peer.
    channel.del_peer().await.unwrap();
    assert_eq!(timeout(SOON, incoming.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_in_single_bytes() {
    let (_namespace, mut channel, port, mut far) = over_tcp(Vec::new()).await;
    let ControlPort::Channel { mut incoming, .. } = port else { panic!("no channel") };
    far.set_nodelay(true).unwrap();
    let mut peer = far_peer();
    let stream = [framed(&sealed(&mut peer, &message::PING)), framed(&[0x20; 20])].concat();
    for byte in stream {
        far.write_all(&[byte]).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(timeout(SOON, incoming.recv()).await.unwrap().unwrap(), [0x20; 20]);
    let stats = channel.stats().await.unwrap();
    assert_eq!((stats.link_rx_packets, channel.counters().faults.decrypt_errors), (1, 0));
}

#[tokio::test]
async fn nonsense_on_tcp_ends_the_peer() {
    let mut forged = sealed(&mut far_peer(), &message::PING);
    forged[30] ^= 1;
    for nonsense in [vec![0, 0], framed(&forged), framed(&[0x48; 10])] {
        let (_namespace, mut channel, _port, mut far) = over_tcp(Vec::new()).await;
        far.write_all(&nonsense).unwrap();
        let expected = DataEvent::PeerDeleted(PeerDeletedReason::TransportError);
        assert_eq!(event(&mut channel).await.unwrap(), expected);
        no_event(&mut channel).await;
        assert!(matches!(channel.promote(KeyId::FIRST).await, Err(Error::NoSuchPeer)));
    }
}

#[tokio::test]
async fn a_closed_stream_is_a_disconnect() {
    let (_namespace, mut channel, _port, mut far) = over_tcp(Vec::new()).await;
    far.write_all(&framed(&sealed(&mut far_peer(), &message::PING))).unwrap();
    drop(far);
    let expected = DataEvent::PeerDeleted(PeerDeletedReason::TransportDisconnect);
    assert_eq!(event(&mut channel).await.unwrap(), expected);
    // What it had counted is not lost with it.
    assert!(matches!(channel.stats().await, Err(Error::NoSuchPeer)));
    assert_eq!(channel.del_peer().await.unwrap().link_rx_packets, 1);
    assert!(matches!(channel.del_peer().await, Err(Error::NoSuchPeer)));
}

/// A send finds out first that the connection is over, and the server had said why.
#[tokio::test]
async fn what_had_arrived_before_a_send_failed_is_handed_over() {
    for round in 0..40 {
        let (namespace, mut channel, port, mut far) = over_tcp(Vec::new()).await;
        namespace.add_address("tun0", "10.77.0.1/24");
        let ControlPort::Channel { mut incoming, outgoing } = port else { panic!("no channel") };
        let inside = namespace.run(|| UdpSocket::bind("10.77.0.1:0").unwrap());
        // Unread data makes the end a reset, which a send reports before a read does.
        for n in 0..5 {
            inside.send_to(&[n; 1000], "10.77.0.2:9").unwrap();
        }
        far.write_all(&framed(&[0x20; 40])).unwrap();
        drop(far);
        for _ in 0..round {
            let _ = inside.send_to(&[1; 100], "10.77.0.2:9");
            let _ = outgoing.try_send(vec![0x20; 40]);
        }
        assert!(matches!(event(&mut channel).await.unwrap(), DataEvent::PeerDeleted(_)));
        assert_eq!(incoming.try_recv().unwrap(), [0x20; 40], "round {round}");
    }
}

#[tokio::test]
async fn exit_is_told_both_ways_once() {
    let mut tunnel = Tunnel::new(Setup::default()).await;
    for _ in 0..20 {
        tunnel.a.notify_exit().await.unwrap();
    }
    assert_eq!(event(&mut tunnel.b).await.unwrap(), DataEvent::PeerExit);
    no_event(&mut tunnel.b).await;
    tunnel.b.notify_exit().await.unwrap();
    assert_eq!(event(&mut tunnel.a).await.unwrap(), DataEvent::PeerExit);
    tunnel.a.del_peer().await.unwrap();
    assert!(matches!(tunnel.a.notify_exit().await, Err(Error::NoSuchPeer)));
}

/// The last control packets are sent before the peer goes.
#[tokio::test]
async fn last_words() {
    let namespaces = namespaces(1500);
    let [(socket, _), (far, _)] = common::udp_pair(&namespaces);
    let TransportSocket::Udp(far) = far else { panic!("not UDP") };
    let far = UdpSocket::from(far);
    far.set_read_timeout(Some(SOON)).unwrap();
    let mut channel = channel(&namespaces[0]);
    let port = channel.new_peer(config(socket)).await.unwrap();
    let ControlPort::Channel { outgoing, .. } = port else { panic!("no channel") };
    for n in 0..10 {
        outgoing.send(vec![0x20; 100 + n]).await.unwrap();
    }
    channel.del_peer().await.unwrap();
    let mut buffer = [0; 2000];
    for n in 0..10 {
        assert_eq!(far.recv(&mut buffer).unwrap(), 100 + n);
    }
}

/// A server that is not there yet answers with ICMP "port unreachable".
#[tokio::test]
async fn a_refused_connection_is_ignored() {
    let namespaces = namespaces(1500);
    let [(socket, far_address), (far, own_address)] = common::udp_pair(&namespaces);
    drop(far);
    let mut channel = channel(&namespaces[0]);
    let port = channel.new_peer(config(socket)).await.unwrap();
    let ControlPort::Channel { mut incoming, outgoing } = port else { panic!("no channel") };
    for _ in 0..20 {
        outgoing.send(vec![0x38; 14]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    no_event(&mut channel).await;
    let far = udp(&namespaces[1], far_address, own_address);
    far.set_read_timeout(Some(SOON)).unwrap();
    outgoing.send(vec![0x38; 14]).await.unwrap();
    assert_eq!(far.recv(&mut [0; 100]).unwrap(), 14);
    far.send(&[0x40; 26]).unwrap();
    assert_eq!(timeout(SOON, incoming.recv()).await.unwrap().unwrap(), [0x40; 26]);
}

#[tokio::test]
async fn a_deleted_interface_is_a_failure() {
    let namespace = NetNs::new("datac");
    let mut channel = channel(&namespace);
    namespace.delete_link("tun0");
    let Some(DataEvent::Failed(what)) = event(&mut channel).await else { panic!("no failure") };
    assert!(what.contains("tun0"), "{what}");
    no_event(&mut channel).await;
    assert!(matches!(channel.del_peer().await, Err(Error::Closed)));
    assert!(matches!(channel.stats().await, Err(Error::Closed)));
    channel.close().await.unwrap();
}

/// A device that is down is no failure: someone may be about to change it.
/// The route to the server leads into the tunnel itself: what the data path sends comes back to it,
/// and must not go in again.
#[tokio::test]
async fn recursive_routing_is_no_loop() {
    for (server, allowed) in
        [("203.0.113.1:1194", false), ("[2001:db8:1::1]:1194", false), ("203.0.113.1:1194", true)]
    {
        let server: SocketAddr = server.parse().unwrap();
        let namespace = NetNs::new("datac");
        let mut channel = channel(&namespace);
        namespace.add_address("tun0", "10.77.0.1/24");
        namespace.add_address("tun0", "fd77::1/64");
        let bits = if server.is_ipv4() { 32 } else { 128 };
        namespace.add_route(&format!("{}/{bits}", server.ip()), None, Some("tun0"));
        let [own, inside] = [server, "10.77.0.2:9".parse().unwrap()].map(|to| {
            namespace.run(|| {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect(to).unwrap();
                socket
            })
        });
        let peer = PeerConfig { remote: server, ..config(TransportSocket::Udp(own.into())) };
        let extras = Extras { allow_recursive_routing: allowed, ..Extras::default() };
        channel.new_peer_with(peer, extras).await.unwrap();
        channel.install(key(CIPHER, 0, false)).await.unwrap();
        for _ in 0..10 {
            inside.send(b"round and round").unwrap();
        }
        let mut stats = channel.stats().await.unwrap();
        let end = async {
            loop {
                tokio::time::sleep(A_WHILE).await;
                let before = std::mem::replace(&mut stats, channel.stats().await.unwrap());
                let loops = stats.link_tx_packets > 1000;
                if loops || (stats == before && stats.link_tx_packets >= 10) {
                    return loops;
                }
            }
        };
        assert_eq!(timeout(SOON, end).await.unwrap(), allowed, "{stats:?}");
        if allowed {
            continue;
        }
        // Every packet that goes in comes back once.
        let recursive = channel.counters().faults.recursive_packets;
        assert_eq!(recursive, stats.link_tx_packets, "{stats:?}");
        assert!(stats.vpn_tx_packets < 100, "{stats:?}");
    }
}

#[tokio::test]
async fn a_device_goes_down_and_up() {
    let mut tunnel = Tunnel::new(Setup::default()).await;
    tunnel.stream(true, false, 100_000);
    tunnel.namespaces[1].link_down("tun0");
    tunnel.namespaces[0].command("ping").args(["-c1", "-W1", "10.77.0.2"]).output().unwrap();
    no_event(&mut tunnel.b).await;
    assert!(tunnel.b.counters().tun_refused > 0);
    tunnel.namespaces[1].link_up("tun0");
    tunnel.stream(true, false, 100_000);
    tunnel.stream(false, false, 100_000);
}

#[tokio::test]
async fn dropping_removes_the_interface() {
    let namespace = NetNs::new("datac");
    let channel = channel(&namespace);
    let start = Instant::now();
    drop(channel);
    assert!(start.elapsed() < A_WHILE);
    assert_eq!(namespace.link_index("tun0"), None);
}

#[tokio::test]
async fn names() {
    let namespace = NetNs::new("datac");
    let create = |name: &str| namespace.run(|| TunDevice::create(name, TunOptions::default()));
    let first = create("tun").unwrap();
    let second = create("tun").unwrap();
    let exact = create("corporate").unwrap();
    let names = [&first, &second, &exact].map(|device| device.interface().name.clone());
    assert_eq!(names, ["tun0", "tun1", "corporate"]);
    assert_eq!(namespace.link_index("corporate"), Some(exact.interface().index));
    // Taken, too long, impossible.
    for name in ["tun0", "sixteen-bytes-xx", "", "a/b", "tun%d"] {
        let error = create(name).unwrap_err();
        assert!(!error.to_string().is_empty(), "{error}");
    }
}

/// Without traffic the worker sleeps.
#[tokio::test]
async fn idle_costs_nothing() {
    let namespaces = namespaces(1500);
    // A name of its own tells the worker's thread from those of other tests. The device stays
    // down, so that the kernel says nothing on it by itself.
    let device = namespaces[0].run(|| TunDevice::create("idle0", TunOptions::default()).unwrap());
    let mut channel = UserspaceDataChannel::new(device, Options::default()).unwrap();
    let [(socket, _), _far] = common::udp_pair(&namespaces);
    let keepalive = Keepalive { interval: 60, timeout: 120 };
    let config = PeerConfig { keepalive, ..config(socket) };
    let _port = channel.new_peer(config).await.unwrap();
    channel.install(key(CIPHER, 0, false)).await.unwrap();
    let switches = || -> u64 {
        let task = std::fs::read_dir("/proc/self/task").unwrap().find_map(|task| {
            let task = task.unwrap().path();
            let name = std::fs::read_to_string(task.join("comm")).ok()?;
            (name.trim() == "data idle0").then_some(task)
        });
        let status = std::fs::read_to_string(task.unwrap().join("status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    tokio::time::sleep(A_WHILE).await;
    let before = switches();
    assert!(before > 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(switches(), before);
}

/// A server that only sends still hears from us, or its ping-restart would end the connection.
#[tokio::test]
async fn pings_go_out_under_a_one_way_download() {
    let namespaces = namespaces(1500);
    let mut channel = channel(&namespaces[0]);
    let [(socket, remote), (far, _)] = common::udp_pair(&namespaces);
    let TransportSocket::Udp(far) = far else { panic!("not UDP") };
    let far = UdpSocket::from(far);
    far.set_nonblocking(true).unwrap();
    let keepalive = Keepalive { interval: 1, timeout: 60 };
    let config = PeerConfig { keepalive, remote, ..config(socket) };
    let _port = channel.new_peer(config).await.unwrap();
    channel.install(key(CIPHER, 0, false)).await.unwrap();
    let mut peer = far_peer();
    let (mut pings, mut buffer) = (0, [0; 2048]);
    let end = Instant::now() + Duration::from_millis(3500);
    while Instant::now() < end {
        // A UDP packet that nobody answers: the checksum of its IPv4 header is wrong.
        far.send(&sealed(&mut peer, &[0x45; 100])).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        while let Ok(len) = far.recv(&mut buffer) {
            if peer.open(&mut buffer[..len], Instant::now()) == Opened::Consumed {
                pings += 1;
            }
        }
    }
    assert!((2..=4).contains(&pings), "{pings} pings in 3.5 s, one is due every second");
}

/// A path that loses, doubles and reorders datagrams: TCP inside still gets every byte, and what
/// is delivered twice outside is delivered once inside.
#[tokio::test]
async fn a_bad_path() {
    let namespaces = namespaces(1500);
    let address =
        |n: u8, port: u16| -> SocketAddr { format!("192.0.2.{n}:{port}").parse().unwrap() };
    // A talks to a relay in B's namespace, which talks to B.
    let a = udp(&namespaces[0], address(1, 1194), address(2, 2000));
    let relay_a = udp(&namespaces[1], address(2, 2000), address(1, 1194));
    let relay_b = udp(&namespaces[1], address(2, 2001), address(2, 1194));
    let b = udp(&namespaces[1], address(2, 1194), address(2, 2001));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let relays = [
        relay(relay_a.try_clone().unwrap(), relay_b.try_clone().unwrap(), stop.clone(), 1),
        relay(relay_b, relay_a, stop.clone(), 2),
    ];
    let sockets = [
        (TransportSocket::Udp(a.into()), address(2, 2000)),
        (TransportSocket::Udp(b.into()), address(2, 2001)),
    ];
    let tunnel = Tunnel::over(namespaces, sockets, Setup::default()).await;
    for from_a in [true, false] {
        tunnel.stream(from_a, from_a, 3_000_000);
    }
    let faults = tunnel.a.counters().faults;
    assert!(faults.replay_errors > 0 && faults.decrypt_errors == 0, "{faults:?}");
    let replies =
        tunnel.namespaces[0].command("ping").args("-c 50 -i 0.01 10.77.0.2".split(' ')).output();
    let replies = String::from_utf8(replies.unwrap().stdout).unwrap();
    assert!(!replies.contains("DUP"), "{replies}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    relays.into_iter().for_each(|relay| relay.join().unwrap());
}

fn relay(
    from: UdpSocket,
    to: UdpSocket,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    seed: u64,
) -> std::thread::JoinHandle<()> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let mut held: Option<Vec<u8>> = None;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let Ok(len) = from.recv(&mut buffer) else {
                if let Some(packet) = held.take() {
                    let _ = to.send(&packet);
                }
                continue;
            };
            let packet = &buffer[..len];
            match random.random_range(0..100) {
                0 => continue,
                1..=2 => {
                    let _ = to.send(packet);
                }
                3..=4 if held.is_none() => {
                    held = Some(packet.to_vec());
                    continue;
                }
                _ => {}
            }
            let _ = to.send(packet);
            if let Some(packet) = held.take() {
                let _ = to.send(&packet);
            }
        }
    })
}
