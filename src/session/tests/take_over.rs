//! The kernel refuses or loses a tunnel.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use ovpn_dco::kernel::Report;
use ovpn_dco::recording::{Call, RecordingDataChannel};
use ovpn_dco::{DataEvent, Keepalive, KeyId, PeerId, PeerStats};
use ovpn_test_support::netns::NetNs;

use super::super::connected::Connected;
use super::super::ending::Ending;
use super::super::offload::Offload;
use super::super::plane::DataPlane;
use super::super::tunnel::Tunnel;
use super::super::{SessionEvent, SessionState};
use super::{LONG, Start, bench, connection, ending, key, refused, soft_reset, within};
use crate::counters::Counter;
use crate::data_path::DataPath;
use crate::profile::Protocol;

#[test]
fn the_kernel_gets_what_was_pushed() {
    within(|| async {
        let (mut bench, Start { link, kept }) =
            bench(Protocol::Udp, &["ping 10", "ping-restart 60"]).await;
        let connected = bench.bring_up(link, Some(kept)).await;
        let calls = bench.recorder.take_calls();
        let [Call::NewPeer { id, tcp: false, keepalive, .. }] = calls[..] else {
            panic!("{calls:?}");
        };
        assert_eq!(id, PeerId::new(3));
        assert_eq!(keepalive, Keepalive { interval: 10, timeout: 60 });
        assert_eq!(connected.tunnel.plane().path().name(), "ovpn");
    });
}

#[test]
fn a_refused_peer_makes_userspace_take_over() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        within(|| async {
            let (mut bench, Start { link, kept }) = bench(protocol, &[]).await;
            bench.recorder.fail_next(refused("PEER_NEW"));
            let connected = bench.bring_up(link, Some(kept)).await;
            bench.assert_fallen_back(&connected.tunnel);
        });
    }
}

/// The interface cannot be configured, although no command of the data channel failed.
#[test]
fn a_refused_address_makes_userspace_take_over() {
    within(|| async {
        std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap();
        let (mut bench, Start { link, kept }) =
            bench(Protocol::Udp, &["ifconfig-ipv6 fd00::6/64 fd00::1"]).await;
        let connected = bench.bring_up(link, Some(kept)).await;
        bench.assert_fallen_back(&connected.tunnel);
    });
}

#[test]
fn a_refused_first_key_makes_userspace_take_over() {
    within(|| async {
        let (mut bench, Start { link, kept }) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.bring_up(link, Some(kept)).await;
        bench.recorder.fail_next(refused("KEY_NEW"));
        let installed = connected.install_key(&mut bench.shared, key(0)).await;
        let mut connected = bench.go_on(connected, installed).await.unwrap();
        bench.assert_fallen_back(&connected.tunnel);
        assert!(!soft_reset(&mut connected.link), "nobody had that key yet");
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
        let (mut bench, start) = bench(Protocol::Udp, &["redirect-gateway def1"]).await;
        let connected = bench.connect(start).await;
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
        let connected = bench.fall_back(connected, None).await;
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        bench.assert_fallen_back(&connected.tunnel);
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
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let connected = bench.connect(start).await;
        let Connected { mut tunnel, link, .. } = bench.fall_back(connected, Some(key(1))).await;
        bench.assert_fallen_back(&tunnel);
        let inside = UdpSocket::bind("0.0.0.0:0").unwrap();
        let device = tunnel.interface().name.clone();
        socket2::SockRef::from(&inside).bind_device(Some(device.as_bytes())).unwrap();
        inside.send_to(b"round and round", link.transport.remote()).unwrap();
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

/// Over TCP the kernel may have left the stream in the middle of a packet, with the first key too.
#[test]
fn over_tcp_a_refused_first_key_costs_the_connection() {
    within(|| async {
        let (mut bench, Start { link, kept }) = bench(Protocol::Tcp, &[]).await;
        let remote = link.transport.remote();
        let mut connected = bench.bring_up(link, Some(kept)).await;
        bench.recorder.fail_next(refused("KEY_NEW"));
        let installed = connected.install_key(&mut bench.shared, key(0)).await;
        let (ending, kept) = ending(bench.go_on(connected, installed).await);
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
        let (link, _) = connection(&bench.shared, Protocol::Tcp, remote).await;
        let connected = bench.bring_up(link, kept).await;
        bench.assert_fallen_back(&connected.tunnel);
    });
}

/// Every key operation of a renegotiation, refused on a working connection: userspace goes on with
/// a key that nobody had, and nobody logs in again.
#[test]
fn a_refused_key_operation_makes_userspace_take_over() {
    for step in ["KEY_NEW", "KEY_SWAP", "KEY_DEL"] {
        within(|| async {
            let (mut bench, start) = bench(Protocol::Udp, &[]).await;
            let mut connected = bench.connect(start).await;
            while let Some(event) = bench.events.try_recv() {
                assert!(!matches!(event, SessionEvent::Ended(_)));
            }
            let shared = &mut bench.shared;
            let mut result = Ok(());
            for operation in ["KEY_NEW", "KEY_SWAP", "KEY_DEL"] {
                result.unwrap();
                if operation == step {
                    bench.recorder.fail_next(refused(operation));
                }
                result = match operation {
                    "KEY_NEW" => connected.install_key(shared, key(1)).await,
                    "KEY_SWAP" => connected.promote_key(shared, key(1).key_id).await,
                    _ => connected.retire_key(shared, key(0).key_id).await,
                };
                if operation == step {
                    break;
                }
            }
            let mut connected = bench.go_on(connected, result).await.unwrap();
            bench.assert_fallen_back(&connected.tunnel);
            // A key that nobody had is used.
            assert_eq!(soft_reset(&mut connected.link), step != "KEY_NEW", "{step}");
            let told = bench.events.try_recv().unwrap();
            assert!(
                matches!(&told, SessionEvent::State(SessionState::Connected(info))
                    if info.data_path == DataPath::Userspace),
                "{told:?}"
            );
        });
    }
}

/// Over TCP only a new connection is in step for certain; it does not go into the kernel again.
#[test]
fn over_tcp_a_failure_costs_the_connection_once() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Tcp, &[]).await;
        let remote = start.link.transport.remote();
        let mut connected = bench.connect(start).await;
        bench.recorder.fail_next(refused("KEY_NEW"));
        let installed = connected.install_key(&mut bench.shared, key(1)).await;
        let (ending, kept) = ending(bench.go_on(connected, installed).await);
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
        assert!(kept.is_none());
        let (link, _) = connection(&bench.shared, Protocol::Tcp, remote).await;
        let connected = bench.bring_up(link, kept).await;
        bench.assert_fallen_back(&connected.tunnel);
    });
}

#[test]
fn a_vanished_data_path_is_replaced() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.connect(start).await;
        bench.recorder.set_stats(PeerStats { vpn_rx_bytes: 700, ..PeerStats::default() });
        let gone = DataEvent::Failed("the link was deleted".to_owned());
        let stopped = connected.data_event(&mut bench.shared, gone);
        let mut connected = bench.go_on(connected, stopped).await.unwrap();
        bench.assert_fallen_back(&connected.tunnel);
        assert!(soft_reset(&mut connected.link));
        assert_eq!(
            bench.shared.statistics.get(Counter::TunBytesOut),
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
        let (mut bench, start) = bench(Protocol::Tcp, &[]).await;
        // Nobody but the session's own loop takes the event.
        let Connected { link, mut tunnel, .. } = bench.connect(start).await;
        bench.recorder.tell(DataEvent::Failed("the module was removed".to_owned()));
        tunnel.next_event().await;
        let none = Report { kernel: String::new(), apis: Vec::new() };
        bench.shared.offload = Offload::new(none, Instant::now());
        let connected = bench.bring_up(link, Some(tunnel)).await;
        assert!(bench.recorder.is_closed());
        assert_eq!(connected.tunnel.plane().path().name(), "userspace");
    });
    within(|| async {
        let (mut bench, Start { link, .. }) = bench(Protocol::Udp, &[]).await;
        let (channel, recorder) = RecordingDataChannel::new("gone0", true);
        let kept = Tunnel::new(DataPlane::recording(channel));
        let none = Report { kernel: String::new(), apis: Vec::new() };
        bench.shared.offload = Offload::new(none, Instant::now());
        let connected = bench.bring_up(link, Some(kept)).await;
        assert!(recorder.is_closed());
        assert_eq!(recorder.calls(), [Call::Close], "nothing was asked of it");
        assert_eq!(connected.tunnel.plane().path().name(), "userspace");
    });
}

/// A device in userspace can be deleted during a pause, too.
#[test]
fn a_deleted_device_is_made_anew() {
    within(|| async {
        let (mut bench, Start { link, kept }) = bench(Protocol::Udp, &[]).await;
        bench.shared.offload.failed("test".to_owned(), Instant::now());
        let Connected { link, mut tunnel, .. } = bench.bring_up(link, Some(kept)).await;
        tunnel.del_peer().await;
        let interface = tunnel.interface().clone();
        let deleted = std::process::Command::new("ip")
            .args(["link", "del", &interface.name])
            .status()
            .unwrap();
        assert!(deleted.success());
        let connected = bench.bring_up(link, Some(tunnel)).await;
        assert_ne!(connected.tunnel.interface().index, interface.index);
    });
}

/// Counters of a new peer start at zero; what the session counts does not.
#[test]
fn traffic_only_grows() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.connect(start).await;
        bench.recorder.set_stats(PeerStats { vpn_tx_bytes: 5000, ..PeerStats::default() });
        assert_eq!(connected.traffic(&mut bench.shared).await, 5000);
        let mut connected = bench.fall_back(connected, None).await;
        assert!(connected.traffic(&mut bench.shared).await >= 5000);
    });
}

#[test]
fn who_asks_while_the_host_is_looked_at_hears_of_this_connection() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.connect(start).await;
        bench.recorder.set_stats(PeerStats { vpn_tx_bytes: 5000, ..PeerStats::default() });
        let counters = bench.counters_while_busy(&mut connected).await;
        assert!(counters.get(Counter::TunBytesIn) >= 5000, "{counters:?}");
    });
}
