//! Data keys that somebody has lost, or used up.

use std::io::ErrorKind;
use std::time::Duration;

use ovpn_dco::recording::Call;
use ovpn_dco::{DataEvent, Error, KeyId, PeerDeletedReason};

use super::super::connected::Stage;
use super::super::ending::Ending;
use super::{A_WHILE, Far, LONG, Start, bench, ending, key, soft_reset, within};
use crate::control::{ControlError, Event};
use crate::counters::Counter;
use crate::profile::Protocol;

/// The kernel has the key, and perhaps seals with it: no packet id of it may come again.
#[test]
fn a_key_that_the_kernel_may_have_is_never_used_again() {
    for lost in [
        Error::io("KEY_NEW", ErrorKind::TimedOut.into()),
        Error::Malformed { what: "PEER_GET reply".to_owned() },
        Error::Closed,
    ] {
        within(|| async {
            let (mut bench, Start { link, kept }) = bench(Protocol::Udp, &[]).await;
            let connected = bench.bring_up(link, Some(kept)).await;
            bench.recorder.fail_after_next(lost);
            let mut connected = bench.hear(connected, Event::Keys(key(0))).await.unwrap();
            bench.assert_fallen_back(&connected.tunnel);
            assert_eq!(connected.stage, Stage::Configured, "nothing can be sent");
            assert!(soft_reset(&mut connected.link), "another key is wanted");
            assert_eq!(bench.sealed_with(A_WHILE).await, None);
            let connected = bench.hear(connected, Event::Keys(key(1))).await.unwrap();
            assert_eq!(connected.stage, Stage::Working);
            assert_eq!(bench.sealed_with(LONG).await, Some(key(1).key_id));
        });
    }
}

/// Without any key left the connection is no connection, whatever the control channel hopes for.
#[test]
fn a_renegotiation_that_fails_with_no_key_left_ends_the_connection() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let connected = bench.connect(start).await;
        let failed = || Event::RenegotiationFailed(ControlError::HandshakeTimeout(LONG));
        let connected = bench.hear(connected, failed()).await.unwrap();
        let connected = bench.fall_back(connected, None).await;
        let (ending, _) = ending(bench.hear(connected, failed()).await);
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
    });
}

/// The kernel's packets would pass what waits here for room in the stream.
#[test]
fn over_tcp_a_key_sends_behind_what_has_the_server_take_it() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Tcp, &[]).await;
        let mut connected = bench.connect(start).await;
        let Far::Tcp(listener) = &bench.far else { panic!("not TCP") };
        let mut far = listener.accept().unwrap().0;
        let closing = far.try_clone().unwrap();
        connected.install_key(&mut bench.shared, key(1)).await.unwrap();
        let transport = &mut connected.link.transport;
        while transport.has_room() {
            transport.send(&[0x28; 1000]).unwrap();
        }
        let reading = std::thread::spawn(move || {
            std::thread::sleep(A_WHILE);
            std::io::copy(&mut far, &mut std::io::sink())
        });
        connected.promote_key(&mut bench.shared, key(1).key_id).await.unwrap();
        let now = tokio::time::timeout(Duration::ZERO, connected.link.flush()).await;
        assert!(now.is_ok(), "something waits still");
        closing.shutdown(std::net::Shutdown::Both).unwrap();
        // What the transport still had to send meets a closed socket.
        let _ = reading.join().unwrap();
    });
}

#[test]
fn a_key_that_is_nowhere_is_replaced_by_a_soft_reset() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.connect(start).await;
        let shared = &mut bench.shared;
        connected.promote_key(shared, key(1).key_id).await.unwrap();
        assert_eq!(bench.recorder.take_calls(), [Call::Promote(key(1).key_id)]);
        assert!(soft_reset(&mut connected.link));
        assert_eq!(shared.statistics.get(Counter::KeyStateError), 1);
        assert_eq!(connected.tunnel.plane().path().name(), "ovpn", "the peer lives");
        // The key that sent goes on sending until the one of the soft reset takes over.
        connected.install_key(shared, key(2)).await.unwrap();
        assert_eq!(bench.recorder.keys(), [0, 2].map(|n| Some(key(n).key_id)));
        connected.promote_key(shared, key(2).key_id).await.unwrap();
        assert_eq!(bench.recorder.keys(), [2, 0].map(|n| Some(key(n).key_id)));
    });
}

#[test]
fn a_key_that_the_kernel_lost_is_replaced_too() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.connect(start).await;
        connected.install_key(&mut bench.shared, key(1)).await.unwrap();
        bench.recorder.fail_next(Error::NoSuchKey(key(1).key_id));
        connected.promote_key(&mut bench.shared, key(1).key_id).await.unwrap();
        assert!(soft_reset(&mut connected.link));
        assert_eq!(connected.tunnel.plane().path().name(), "ovpn");
    });
}

#[test]
fn an_exhausted_key_is_renegotiated() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.connect(start).await;
        let event = DataEvent::KeyExhausted(KeyId::FIRST);
        connected.data_event(&mut bench.shared, event).unwrap();
        assert!(soft_reset(&mut connected.link));
        assert_eq!(bench.recorder.take_calls(), []);
    });
}

/// The command says so before the event does.
#[test]
fn a_peer_that_is_gone_is_connected_anew() {
    within(|| async {
        let (mut bench, start) = bench(Protocol::Udp, &[]).await;
        let mut connected = bench.connect(start).await;
        bench.recorder.tell(DataEvent::PeerDeleted(PeerDeletedReason::Expired));
        let installed = connected.install_key(&mut bench.shared, key(1)).await;
        let (ending, _) = ending(bench.go_on(connected, installed).await);
        assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
        assert_eq!(bench.shared.offload.failure(), None, "no fault of the kernel's");
    });
}
