//! Keys change while packets are on their way in both directions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

mod common;
mod packets;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{CIPHER, config, far_peer, key, namespaces, sealed, udp, udp_pair};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use ovpn_dco::{DataChannel, KeyId, PeerStats, TransportSocket};
use ovpn_test_support::netns::NetNs;
use ovpn_userspace::peer::{Opened, Peer};
use ovpn_userspace::{Options, TunDevice, TunOptions, UserspaceDataChannel};
use packets::Flow;

const SOON: Duration = Duration::from_secs(5);
/// Packets in a burst, each way.
const BURST: u32 = 60;
/// IPv4 and UDP.
const HEADERS: usize = 28;

/// A channel, the application behind its TUN device, and a server played by hand.
struct Bench {
    channel: UserspaceDataChannel,
    application: UdpSocket,
    flow: Flow,
    server: UdpSocket,
    peer: Peer,
    /// Packets are numbered in each direction.
    up: u32,
    down: u32,
    arrived_up: Vec<Arrived>,
    arrived_down: Vec<u32>,
    /// Datagrams that the server sent.
    datagrams: u64,
    _namespaces: [NetNs; 2],
}

/// A packet that the server got: its number, and with which key it was sealed.
struct Arrived {
    number: u32,
    key_id: u8,
}

/// A packet's payload: its number, and something that makes lengths differ.
fn payload(number: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(4 + (number as usize * 37) % 1200, number as u8);
    payload
}

fn number(payload: &[u8]) -> u32 {
    let number = u32::from_be_bytes(*payload.first_chunk().unwrap());
    assert!(payload == self::payload(number), "wrong bytes in packet {number}");
    number
}

impl Bench {
    async fn new() -> Self {
        let namespaces = namespaces(1500);
        let device =
            namespaces[0].run(|| TunDevice::create("tun0", TunOptions::default()).unwrap());
        namespaces[0].link_up("tun0");
        namespaces[0].add_address("tun0", "10.0.0.2/24");
        let flow = Flow { tcp: false, ..Flow::default() };
        let (from, to) = flow.ports;
        let application =
            udp(&namespaces[0], ([10, 0, 0, 2], to).into(), ([10, 0, 0, 1], from).into());
        let [(socket, _), (server, _)] = udp_pair(&namespaces);
        let TransportSocket::Udp(server) = server else { panic!("not UDP") };
        let server = UdpSocket::from(server);
        for socket in [&application, &server] {
            socket.set_read_timeout(Some(SOON)).unwrap();
            setsockopt(socket, RcvBufForce, &(16 << 20)).unwrap();
        }
        let mut channel = UserspaceDataChannel::new(device, Options::default()).unwrap();
        let _ = channel.new_peer(config(socket)).await.unwrap();
        channel.install(key(CIPHER, 0, false)).await.unwrap();
        Self {
            channel,
            application,
            flow,
            server,
            peer: far_peer(),
            up: 0,
            down: 0,
            arrived_up: Vec::new(),
            arrived_down: Vec::new(),
            datagrams: 0,
            _namespaces: namespaces,
        }
    }

    /// The next packet for the application.
    fn seal(&mut self) -> Vec<u8> {
        let inner = self.flow.packet(0, self.down as u16, 0, &payload(self.down));
        self.down += 1;
        sealed(&mut self.peer, &inner)
    }

    /// Packets in both directions, each datagram of the server's twice. Nobody waits for them.
    fn burst(&mut self) {
        for _ in 0..BURST {
            self.application.send(&payload(self.up)).unwrap();
            self.up += 1;
            let packet = self.seal();
            self.send_twice(&packet);
        }
    }

    fn send(&mut self, packet: &[u8]) {
        self.server.send(packet).unwrap();
        self.datagrams += 1;
    }

    fn send_twice(&mut self, packet: &[u8]) {
        self.send(packet);
        self.send(packet);
    }

    /// The counters once every datagram of the server's is in them.
    async fn stats(&mut self) -> PeerStats {
        let end = Instant::now() + SOON;
        loop {
            let stats = self.channel.stats().await.unwrap();
            if stats.link_rx_packets == self.datagrams {
                return stats;
            }
            assert!(Instant::now() < end, "{} sent, {stats:?}", self.datagrams);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Receives until everything up to now has arrived, apart from as many packets as are missing
    /// on purpose.
    fn receive(&mut self, missing: usize) {
        let mut buffer = [0; 2000];
        while self.arrived_down.len() + missing < self.down as usize {
            let len = self.application.recv(&mut buffer).unwrap();
            self.arrived_down.push(number(&buffer[..len]));
        }
        while self.arrived_up.len() < self.up as usize {
            let len = self.server.recv(&mut buffer).unwrap();
            let key_id = buffer[0] & 7;
            match self.peer.open(&mut buffer[..len], Instant::now()) {
                // The kernel says things of its own on a new interface, with IPv6.
                Opened::Packet(inner) if buffer[inner.start] == 0x45 => {
                    let number = number(&buffer[inner][HEADERS..]);
                    self.arrived_up.push(Arrived { number, key_id });
                }
                Opened::Packet(_) => {}
                other => panic!("the server got {other:?}"),
            }
        }
    }
}

/// Every packet arrives once, whichever end uses the new key first, and however late: until the old
/// key is deleted.
#[tokio::test]
async fn keys_change_without_a_gap() {
    let mut bench = Bench::new().await;
    let mut lost = Vec::new();
    let mut doubled = 0;
    let mut old = 0;
    // After the last key-id comes 1 again; 0 is for the first key of a connection.
    for (generation, id) in (1..=7).chain([1, 2]).enumerate() {
        let new = KeyId::new(id).unwrap();
        bench.burst();
        bench.channel.install(key(CIPHER, id, false)).await.unwrap();
        bench.peer.install(key(CIPHER, id, true)).unwrap();
        bench.burst();
        let late: Vec<_> = (0..10).map(|_| bench.seal()).collect();
        let too_late = bench.seal();
        lost.push(bench.down - 1);

        let ours_from = if generation % 2 == 0 {
            bench.channel.promote(new).await.unwrap();
            let ours_from = bench.up;
            bench.burst();
            bench.peer.promote(new).unwrap();
            ours_from
        } else {
            bench.peer.promote(new).unwrap();
            bench.burst();
            bench.channel.promote(new).await.unwrap();
            bench.up
        };
        bench.burst();
        late.iter().for_each(|packet| bench.send_twice(packet));
        bench.receive(lost.len());

        let sealed_from = |from: u32, to: u32| {
            bench.arrived_up.iter().filter(move |packet| (from..to).contains(&packet.number))
        };
        let start = bench.up - 4 * BURST;
        assert!(sealed_from(start, ours_from).all(|packet| [old, id].contains(&packet.key_id)));
        assert!(sealed_from(ours_from, bench.up).all(|packet| packet.key_id == id));
        doubled += 4 * u64::from(BURST) + late.len() as u64;
        bench.stats().await;
        let faults = bench.channel.counters().faults;
        assert_eq!((faults.replay_errors, faults.decrypt_errors), (doubled, 0));

        let retired = KeyId::new(old).unwrap();
        bench.channel.retire(retired).await.unwrap();
        bench.peer.retire(retired);
        bench.send_twice(&too_late);
        let next = bench.seal();
        bench.send(&next);
        bench.receive(lost.len());
        old = id;
    }
    bench.arrived_down.sort_unstable();
    let expected: Vec<_> = (0..bench.down).filter(|number| !lost.contains(number)).collect();
    assert_eq!(bench.arrived_down, expected);
    let mut arrived: Vec<_> = bench.arrived_up.iter().map(|packet| packet.number).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..bench.up).collect::<Vec<_>>());
}

/// A server may use a key before the client has made it. What came too early waits, and counts once.
#[tokio::test]
async fn packets_before_their_key_wait_for_it() {
    let mut bench = Bench::new().await;
    bench.peer.install(key(CIPHER, 1, true)).unwrap();
    bench.peer.promote(KeyId::FIRST.next()).unwrap();
    bench.burst();
    assert_eq!(bench.stats().await.vpn_rx_packets, 0);
    bench.channel.install(key(CIPHER, 1, false)).await.unwrap();
    bench.burst();
    bench.receive(0);
    let stats = bench.stats().await;
    assert_eq!(stats.vpn_rx_packets, u64::from(bench.down));
    let faults = bench.channel.counters().faults;
    assert_eq!((faults.replay_errors, faults.decrypt_errors), (u64::from(bench.down), 0));
    assert_eq!(bench.arrived_down, (0..bench.down).collect::<Vec<_>>());
}
