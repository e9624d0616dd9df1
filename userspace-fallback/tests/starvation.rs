//! Data in both directions never keeps control packets from their side.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

mod common;
mod packets;

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{CIPHER, config, far_peer, key, sealed, udp};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBufForce;
use ovpn_dco::{ControlPort, DataChannel, TransportSocket, is_data_packet};
use ovpn_test_support::netns::NetNs;
use ovpn_userspace::{Counters, Options, TunDevice, TunOptions, UserspaceDataChannel};
use packets::Flow;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
/// Packets that one receive takes, and reads from the TUN device before the next receive.
const BATCH: u64 = 64;
/// Packets in each direction: many batches.
const FLOOD: u64 = 10 * BATCH;
/// One in so many of the server's packets is a control packet.
const CONTROL_EVERY: u64 = 8;

/// A channel under a socket that loses and reorders nothing, the application behind its TUN device,
/// and the server.
struct Bench {
    channel: UserspaceDataChannel,
    incoming: Receiver<Vec<u8>>,
    outgoing: Sender<Vec<u8>>,
    application: UdpSocket,
    server: UnixDatagram,
    flow: Flow,
    _namespace: NetNs,
}

impl Bench {
    async fn new() -> Self {
        let namespace = NetNs::new("datas");
        // The kernel has nothing to say of its own on the device.
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        let device = namespace.run(|| TunDevice::create("tun0", TunOptions::default()).unwrap());
        namespace.sh("ip link set tun0 txqueuelen 2000");
        namespace.link_up("tun0");
        namespace.add_address("tun0", "10.0.0.2/24");
        let flow = Flow { tcp: false, ..Flow::default() };
        let (from, to) = flow.ports;
        let application = udp(&namespace, ([10, 0, 0, 2], to).into(), ([10, 0, 0, 1], from).into());
        let (own, server) = namespace.run(|| UnixDatagram::pair().unwrap());
        server.set_read_timeout(Some(SOON)).unwrap();
        server.set_write_timeout(Some(SOON)).unwrap();
        setsockopt(&server, SndBufForce, &(16 << 20)).unwrap();
        let mut channel = UserspaceDataChannel::new(device, Options::default()).unwrap();
        let socket = TransportSocket::Udp(own.into());
        let port = channel.new_peer(config(socket)).await.unwrap();
        let ControlPort::Channel { incoming, outgoing } = port else { panic!("no channel") };
        channel.install(key(CIPHER, 0, false)).await.unwrap();
        Self { channel, incoming, outgoing, application, server, flow, _namespace: namespace }
    }
}

fn flood(application: &UdpSocket, count: u64) {
    for _ in 0..count {
        application.send(&[7; 100]).unwrap();
    }
}

fn control_packet(number: u64) -> Vec<u8> {
    [&[0x20; 20][..], &number.to_be_bytes()].concat()
}

/// The control side: woken by the data path's own thread, it looks at the counters at the very
/// moment of each hand-over, and answers at once.
struct ControlSide {
    channel: Weak<UserspaceDataChannel>,
    incoming: Mutex<Receiver<Vec<u8>>>,
    outgoing: Sender<Vec<u8>>,
    /// Each packet, and what the data path had told when it was handed over.
    handed_over: Mutex<Vec<(Vec<u8>, Counters)>>,
    /// Tells of the first packet, and then holds the data path until it is told to go on.
    first: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Wake for ControlSide {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut context = Context::from_waker(&waker);
        let mut incoming = self.incoming.lock().unwrap();
        while let Poll::Ready(Some(packet)) = incoming.poll_recv(&mut context) {
            let counters = self.channel.upgrade().unwrap().counters();
            self.outgoing.try_send(packet.clone()).unwrap();
            let mut handed_over = self.handed_over.lock().unwrap();
            handed_over.push((packet, counters));
            if handed_over.len() == 1 {
                drop(handed_over);
                self.first.send(()).unwrap();
                // Whoever gives up does not answer.
                let _ = self.go_on.lock().unwrap().recv();
            }
        }
    }
}

/// Both queues are full before the data path looks. Each control packet is handed over with the
/// batch that it arrives in, between two batches there are only so many packets of the other
/// direction, and the answer goes out before more of them.
#[tokio::test]
async fn control_packets_pass_a_flood() {
    let bench = Bench::new().await;
    let channel = Arc::new(bench.channel);
    let (first, held) = mpsc::channel();
    let (go_on, wait) = mpsc::channel();
    let control = Arc::new(ControlSide {
        channel: Arc::downgrade(&channel),
        incoming: Mutex::new(bench.incoming),
        outgoing: bench.outgoing,
        handed_over: Mutex::default(),
        first,
        go_on: Mutex::new(wait),
    });
    Arc::clone(&control).wake();
    bench.server.send(&control_packet(0)).unwrap();
    held.recv_timeout(SOON).unwrap();
    flood(&bench.application, FLOOD);
    let mut peer = far_peer();
    for n in 1..=FLOOD {
        let packet = if n % CONTROL_EVERY == 0 {
            control_packet(n)
        } else {
            sealed(&mut peer, &bench.flow.packet(0, n as u16, 0, &[9; 100]))
        };
        bench.server.send(&packet).unwrap();
    }
    go_on.send(()).unwrap();

    // How much data was in front of each answer.
    let mut answers = Vec::new();
    let mut data = 0;
    let mut buffer = [0; 2000];
    while data < FLOOD || answers.len() as u64 <= FLOOD / CONTROL_EVERY {
        let len = bench.server.recv(&mut buffer).unwrap();
        if is_data_packet(buffer[0]) {
            data += 1;
        } else {
            answers.push((buffer[..len].to_vec(), data));
        }
    }
    let handed_over = std::mem::take(&mut *control.handed_over.lock().unwrap());
    let before = handed_over[0].1;
    for (at, (packet, counters)) in handed_over.iter().enumerate() {
        let number = at as u64 * CONTROL_EVERY;
        assert!(*packet == control_packet(number), "in the place of {number}: {packet:?}");
        // What was told is about the batches before.
        let received = counters.received_packets - before.received_packets;
        let receives = counters.receives - before.receives;
        let reads = counters.tun_reads - before.tun_reads;
        assert!(received <= number, "{number} only after {received} packets");
        assert!(receives <= 1 + number / BATCH, "{number} only after {receives} batches");
        assert!(reads <= receives * BATCH, "{number} after {receives} batches, {reads} reads");
        let (answer, data) = &answers[at];
        assert!(answer == packet, "in the place of the answer to {number}: {answer:?}");
        assert!(*data <= reads + BATCH, "{data} packets before the answer to {number}");
    }
    assert_eq!(handed_over.len(), answers.len());
    // The other direction had its turns.
    let last = handed_over[handed_over.len() - 1].1;
    assert!(last.tun_reads - before.tun_reads >= FLOOD / 2, "{last:?}");
    assert_eq!(channel.counters().control_dropped, 0);
}

/// While the socket takes nothing, control packets are still received; answers are sent as soon as
/// it takes something, and the TUN device waits longer.
#[tokio::test]
async fn control_packets_pass_a_blocked_socket() {
    let mut bench = Bench::new().await;
    let mut sent = 0;
    while bench.channel.counters().send_blocked == 0 {
        assert!(sent < 100 * FLOOD, "not blocked");
        flood(&bench.application, BATCH);
        sent += BATCH;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    flood(&bench.application, FLOOD);
    sent += FLOOD;
    let in_line = bench.channel.counters().sent_packets + BATCH;
    for n in 0..20 {
        bench.server.send(&control_packet(n)).unwrap();
        let packet = timeout(SOON, bench.incoming.recv()).await.unwrap().unwrap();
        assert!(packet == control_packet(n));
        bench.outgoing.send(packet).await.unwrap();
    }
    let mut buffer = [0; 2000];
    let (mut data, mut answers) = (0, 0);
    while data < sent || answers < 20 {
        let len = bench.server.recv(&mut buffer).unwrap();
        if is_data_packet(buffer[0]) {
            data += 1;
        } else {
            assert!(buffer[..len] == control_packet(answers));
            assert!(data <= in_line, "{data} packets before answer {answers}");
            answers += 1;
        }
    }
}
