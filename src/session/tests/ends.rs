//! How connections end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::time::{Duration, Instant};

use ovpn_dco::recording::Call;
use ovpn_dco::{DataEvent, PeerDeletedReason, TransportSocket};

use super::super::commands::{Command, Wish};
use super::super::connected::Stage;
use super::super::ending::Ending;
use super::super::negotiating::Negotiating;
use super::super::over::{End, Over};
use super::{Far, LONG, Start, bench, connection, key, link, negotiate, within};
use crate::counters::Counter;
use crate::profile::Protocol;

/// RESTART, and the end of the stream right behind it: why the server goes is told, whichever of
/// the two is noticed first, and nothing of it reaches the next connection on the same device.
#[test]
fn a_server_that_restarts_and_closes() {
    within(|| async {
        let (mut bench, Start { kept, .. }) = bench(Protocol::Tcp, &[]).await;
        bench.shared.offload.failed("test".to_owned(), Instant::now());
        let Far::Tcp(listener) = &bench.far else { panic!("not TCP") };
        let listener = listener.try_clone().unwrap();
        let remote = listener.local_addr().unwrap();
        let (mut old, _) = listener.accept().unwrap();
        let mut kept = Some(kept);
        for round in 0..30 {
            let (link, mut server) = connection(&bench.shared, Protocol::Tcp, remote).await;
            let (mut far, _) = listener.accept().unwrap();
            let mut connected = bench.bring_up(link, kept).await;
            connected.install_key(&mut bench.shared, key(0)).await.unwrap();
            if round % 2 == 0 {
                connected.stage = Stage::Working;
            }

            // It lives, although the one before has just died.
            let lives = async {
                loop {
                    connected.step(&mut bench.shared).await.unwrap();
                }
            };
            let end = tokio::time::timeout(Duration::from_millis(20), lives).await;
            assert!(end.is_err(), "round {round}: {end:?}");
            old.set_read_timeout(Some(LONG)).unwrap();
            let closed = old.read_to_end(&mut Vec::new());
            assert!(!matches!(closed, Err(e) if e.kind() == ErrorKind::WouldBlock), "still open");

            server.send_text("RESTART,[P]enough");
            while let Some(packet) = server.poll_transmit(Instant::now()) {
                let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
                far.write_all(&[&length[..], &packet].concat()).unwrap();
            }
            // With something unread, or to come, the end is a reset.
            far.shutdown(if round % 3 == 0 { Shutdown::Write } else { Shutdown::Both }).unwrap();
            let inside = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..round % 5 {
                inside.send_to(b"through the tunnel", "10.8.0.77:9").unwrap();
            }
            let end = tokio::time::timeout(LONG, connected.run(&mut bench.shared)).await;
            let Ok(Over { end: End::Ending(Ending::ServerRestart(reason, _)), .. }) = &end else {
                panic!("round {round}: {end:?}");
            };
            assert_eq!(reason, "enough");
            kept = end.unwrap().kept;
            old = far;
        }
    });
}

/// The stream and every queue on the way are full; commands are answered, timers run.
#[test]
fn a_server_that_does_not_read() {
    within(|| async {
        for attached in [true, false] {
            let (mut bench, Start { kept, .. }) =
                bench(Protocol::Tcp, &["ping 1", "ping-restart 5"]).await;
            bench.shared.offload.failed("test".to_owned(), Instant::now());
            let Far::Tcp(listener) = &bench.far else { panic!("not TCP") };
            let listener = listener.try_clone().unwrap();
            let remote = listener.local_addr().unwrap();
            drop(listener.accept().unwrap());
            socket2::SockRef::from(&listener).set_recv_buffer_size(2048).unwrap();
            let (link, mut server) = connection(&bench.shared, Protocol::Tcp, remote).await;
            let (mut far, _) = listener.accept().unwrap();
            let TransportSocket::Tcp(socket) = link.transport.share().unwrap() else {
                panic!("not TCP")
            };
            socket2::SockRef::from(&socket).set_send_buffer_size(2048).unwrap();
            // One message again and again, each to be acknowledged.
            server.send_text("INFO,again");
            let packet = server.poll_transmit(Instant::now()).unwrap();
            let framed =
                [&u16::try_from(packet.len()).unwrap().to_be_bytes(), &packet[..]].concat();
            let flood = std::thread::spawn(move || {
                let burst = framed.repeat(100);
                (0..200).all(|_| far.write_all(&burst).is_ok()).then_some(far)
            });
            let commands = bench.commands.clone();
            let user = async {
                while !flood.is_finished() {
                    let (reply, answer) = tokio::sync::oneshot::channel();
                    assert!(commands.send(Command::Statistics(reply)).await.is_ok());
                    answer.await.unwrap();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                assert!(commands.send(Wish::Disconnect.into()).await.is_ok());
                std::future::pending::<()>().await;
            };
            let state = async {
                if attached {
                    let mut connected = bench.bring_up(link, Some(kept)).await;
                    connected.install_key(&mut bench.shared, key(0)).await.unwrap();
                    return connected.run(&mut bench.shared).await;
                }
                let negotiating = Negotiating::new(link, Some(kept), Instant::now() + 3 * LONG);
                negotiating.run(&mut bench.shared).await.err().unwrap()
            };
            let end = tokio::time::timeout(3 * LONG, async {
                tokio::select! {
                    over = state => over.end,
                    () = user => unreachable!(),
                }
            });
            let end = end.await;
            assert!(matches!(end, Ok(End::Wish(Wish::Disconnect))), "{attached}: {end:?}");
            drop(flood);
        }
    });
}

/// In the other direction the far end sees the end at once, whatever became of the peer.
#[test]
fn a_peer_is_deleted_whatever_was_told_of_it() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut tunnel = bench.connect(start).await.tunnel;
        bench.recorder.tell(DataEvent::PeerDeleted(PeerDeletedReason::TransportError));
        tunnel.next_event().await;
        tunnel.del_peer().await;
        assert_eq!(bench.recorder.take_calls(), [Call::DelPeer]);
    });
}

#[test]
fn a_packet_that_cannot_be_sent_is_in_the_statistics() {
    within(|| async {
        let (_bench, Start { mut link, .. }) = bench(Protocol::Udp, &[]).await;
        assert_eq!(link.counters().get(Counter::NetworkSendError), 0);
        link.transport.send(&[0; 65_535]).unwrap();
        assert_eq!(link.counters().get(Counter::NetworkSendError), 1);
    });
}

#[test]
fn a_server_without_exit_messages_is_told_as_often_as_wanted() {
    within(|| async {
        for (option, times) in [("ping 10", 1), ("explicit-exit-notify 3", 3)] {
            let (mut bench, start) = bench(Protocol::Udp, &[option]).await;
            let mut connected = bench.connect(start).await;
            // What it acknowledges is a message, and goes out once.
            connected.say_goodbye(&mut bench.shared).await;
            assert_eq!(bench.recorder.take_calls(), []);

            let remote = connected.link.transport.remote();
            connected.link = link(&bench.shared, Protocol::Udp, remote).await;
            negotiate(&mut connected.link, Protocol::Udp, false);
            connected.say_goodbye(&mut bench.shared).await;
            assert_eq!(bench.recorder.take_calls(), vec![Call::NotifyExit; times]);
        }
    });
}
