//! Somebody on this host who removes what the tunnel needs as often as it is made: an error that says
//! so, and no "Connected".

use std::future::poll_fn;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use ovpn_client::profile::{Profile, ProfileFile};
use ovpn_client::session::{
    Events, Outcome, Running, SessionConfig, SessionEvent, SessionState, Wish,
};

use crate::lab::{Lab, plain};
use crate::server::{ServerConfig, Transport, Version};

/// A route of the server, as `ip` wants it and as `/proc/net/route` shows it.
const ROUTE: (&str, &str) = ("192.0.2.0/24", "000200C0");

/// Takes the route away whenever it is there: between any two steps of everything else that this
/// thread's runtime does, so that no step can be quicker.
async fn remove_always(removing: &AtomicBool) {
    loop {
        let mut given_way = false;
        poll_fn(|context| {
            if given_way {
                return Poll::Ready(());
            }
            given_way = true;
            // To the end of the queue. tokio's own yield waits until the queue is empty.
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").expect("routes");
        if removing.load(Ordering::Relaxed) && routes.contains(ROUTE.1) {
            let removed = Command::new("ip").args(["route", "delete", ROUTE.0]).status();
            assert!(removed.expect("ip").success());
        }
    }
}

/// The next time that it is connected or ends.
async fn result(events: &mut Events) -> Result<(), Outcome> {
    loop {
        match events.recv().await.expect("an end") {
            SessionEvent::State(SessionState::Connected(_)) => return Ok(()),
            SessionEvent::Ended(outcome) => return Err(outcome),
            _ => {}
        }
    }
}

#[test]
fn what_does_not_stay_ends_the_connection() {
    for reconnect in [false, true] {
        let lab = Lab::new();
        let push = format!("push \"route {} 255.255.255.0\"\n", ROUTE.0.trim_end_matches("/24"));
        let config = ServerConfig { extra: push, ..plain(Version::V27, Transport::Udp4) };
        let _server = lab.start_server(&config);
        let before = lab.client_ns.settled_snapshot();
        let path = lab.file("embedded.ovpn", &lab.profile(&config, ""));
        let outcome = lab.client_ns.block_on(|| async {
            let removing = Arc::new(AtomicBool::new(!reconnect));
            let remover = Arc::clone(&removing);
            let remover = tokio::spawn(async move { remove_always(&remover).await });
            let file = ProfileFile::read(path.as_ref()).expect("profile");
            let profile = Profile::parse(file.text.expose(), &file.name, &file.files);
            let options = Arc::new(profile.expect("profile").options);
            let runtime_dir = lab.directory().join("run");
            let config = SessionConfig { dco: false, ..SessionConfig::new(options, runtime_dir) };
            let Running { commands, mut events } = Running::start(config);
            let ended = async {
                if reconnect {
                    result(&mut events).await.expect("nobody removes anything");
                    removing.store(true, Ordering::Relaxed);
                    commands.send(Wish::Restart.into()).await.expect("it runs");
                }
                result(&mut events).await.expect_err("connected without a route")
            };
            let outcome = tokio::time::timeout(Duration::from_secs(60), ended).await;
            remover.abort();
            outcome.expect("an end")
        });
        let Outcome::Failed(ending) = &outcome else { panic!("{outcome:?}") };
        let text = ending.to_string();
        assert!(text.contains("route 192.0.2.0/24 tunnel does not stay"), "{text}");
        before.assert_same(&lab.client_ns.settled_snapshot());
    }
}
