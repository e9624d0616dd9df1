//! Whatever happens in whatever state, in any order: the session ends in order, and nothing is left.

use std::time::{Duration, Instant};

use ovpn_dco::{DataEvent, PeerDeletedReason};
use ovpn_test_support::netns::NetNs;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::super::commands::{Command, Wish};
use super::super::connected::{Connected, Stop};
use super::super::life::{Opening, Paused, State, Waiting};
use super::super::negotiating::Negotiating;
use super::super::over::{End, follow};
use super::{Bench, LONG, Start, bench, connection, key, refused};
use crate::control::{
    AppMessage, AuthFailed, ControlError, Event, PendingAuth, PushedOptions, RestartFlags,
};
use crate::profile::Protocol;
use crate::secret::{Credentials, Secret};

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Told(Told),
    Keys(u8),
    Promote(u8),
    Retire(u8),
    Data(Data),
    Command(Asked),
    /// The kernel refuses what it is asked next.
    Refusal,
    /// It does it all the same.
    FalseRefusal,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Contacted,
    Tls,
    ConfigRequested,
    Pushed,
    Login,
    PushedLater,
    Updated,
    UpdatedWrongly,
    Info,
    PendingAuth,
    AuthPending,
    App,
    Restart,
    Halt,
    AuthFailed,
    TemporaryFailure,
    ServerExit,
    RenegotiationFailed,
    Closed,
}

#[derive(Clone, Copy, Debug)]
enum Data {
    Expired,
    Broken,
    Teardown,
    Exhausted,
    Exit,
    Failed,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Wish(Wish),
    Respond,
    LogIn,
    Sign,
    Statistics,
    Ping,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let told = prop::sample::select(vec![
        Told::Contacted,
        Told::Tls,
        Told::ConfigRequested,
        Told::Pushed,
        Told::Login,
        Told::PushedLater,
        Told::Updated,
        Told::UpdatedWrongly,
        Told::Info,
        Told::PendingAuth,
        Told::AuthPending,
        Told::App,
        Told::Restart,
        Told::Halt,
        Told::AuthFailed,
        Told::TemporaryFailure,
        Told::ServerExit,
        Told::RenegotiationFailed,
        Told::Closed,
    ]);
    let data = prop::sample::select(vec![
        Data::Expired,
        Data::Broken,
        Data::Teardown,
        Data::Exhausted,
        Data::Exit,
        Data::Failed,
    ]);
    let asked = prop::sample::select(vec![
        Asked::Wish(Wish::Pause),
        Asked::Wish(Wish::Resume),
        Asked::Wish(Wish::Restart),
        Asked::Wish(Wish::Disconnect),
        Asked::Respond,
        Asked::LogIn,
        Asked::Sign,
        Asked::Statistics,
        Asked::Ping,
    ]);
    prop_oneof![
        3 => told.prop_map(Happening::Told),
        4 => (0..3_u8).prop_map(Happening::Keys),
        3 => (0..3_u8).prop_map(Happening::Promote),
        2 => (0..3_u8).prop_map(Happening::Retire),
        2 => data.prop_map(Happening::Data),
        2 => asked.prop_map(Happening::Command),
        2 => Just(Happening::Refusal),
        1 => Just(Happening::FalseRefusal),
    ]
}

fn items(item: &str) -> PushedOptions {
    PushedOptions::new(Zeroizing::new(vec![item.to_owned()]))
}

fn pushed() -> PushedOptions {
    let options = ["ifconfig 10.8.0.7 255.255.255.0", "topology subnet", "peer-id 4"];
    PushedOptions::new(Zeroizing::new(options.map(str::to_owned).to_vec()))
}

impl Told {
    fn event(self) -> Event {
        let reason = String::new;
        match self {
            Self::Contacted => Event::ServerContacted,
            Self::Tls => Event::TlsEstablished {
                key_id: key(0).key_id,
                description: String::new(),
                parameters: None,
            },
            Self::ConfigRequested => Event::ConfigRequested,
            Self::Pushed => Event::Pushed { options: pushed(), server_occ: String::new() },
            Self::Login => Event::LoginNeeded,
            Self::PushedLater => Event::PushedLater { options: pushed() },
            Self::Updated => Event::PushUpdated { update: items("?unheard-of") },
            Self::UpdatedWrongly => Event::PushUpdated { update: items("cipher AES-128-GCM") },
            Self::Info => Event::Info("hello".to_owned()),
            Self::PendingAuth => Event::PendingAuth(PendingAuth::Malformed("?".to_owned())),
            Self::AuthPending => Event::AuthPending { timeout: None },
            Self::App => {
                Event::AppControl(AppMessage { protocol: "x".to_owned(), payload: Vec::new() })
            }
            Self::Restart => Event::Restart { reason: reason(), flags: RestartFlags::default() },
            Self::Halt => Event::Halt { reason: reason() },
            Self::AuthFailed => Event::AuthFailed(AuthFailed::Permanent { reason: reason() }),
            Self::TemporaryFailure => Event::AuthFailed(AuthFailed::Temporary {
                backoff: None,
                advance: None,
                message: reason(),
            }),
            Self::ServerExit => Event::ServerExit,
            Self::RenegotiationFailed => {
                Event::RenegotiationFailed(ControlError::HandshakeTimeout(LONG))
            }
            Self::Closed => Event::Closed(ControlError::HandshakeTimeout(LONG)),
        }
    }
}

impl Data {
    fn event(self) -> DataEvent {
        match self {
            Self::Expired => DataEvent::PeerDeleted(PeerDeletedReason::Expired),
            Self::Broken => DataEvent::PeerDeleted(PeerDeletedReason::TransportError),
            Self::Teardown => DataEvent::PeerDeleted(PeerDeletedReason::Teardown),
            Self::Exhausted => DataEvent::KeyExhausted(key(0).key_id),
            Self::Exit => DataEvent::PeerExit,
            Self::Failed => DataEvent::Failed("it went".to_owned()),
        }
    }
}

impl Asked {
    fn command(self) -> Command {
        match self {
            Self::Wish(wish) => wish.into(),
            Self::Respond => Command::Respond(Secret::from("yes")),
            Self::LogIn => Command::LogIn {
                credentials: Credentials {
                    username: "joe".to_owned(),
                    password: Secret::from("again"),
                },
                one_time: false,
            },
            Self::Sign => Command::Sign { id: 7, signature: Ok(vec![1]) },
            Self::Statistics => Command::Statistics(tokio::sync::oneshot::channel().0),
            Self::Ping => Command::Ping(tokio::sync::oneshot::channel().0),
        }
    }
}

/// The state after something has happened.
async fn after(bench: &mut Bench, state: State, happening: Happening) -> State {
    match happening {
        Happening::Refusal => bench.recorder.fail_next(refused("any")),
        Happening::FalseRefusal => bench.recorder.fail_after_next(refused("any")),
        _ => {}
    }
    match state {
        State::Opening(Opening { kept }) => {
            let remote = bench.far.address();
            let (link, _) = connection(&bench.shared, Protocol::Udp, remote).await;
            State::Negotiating(Box::new(Negotiating::new(link, kept, Instant::now() + LONG)))
        }
        State::Negotiating(negotiating) => in_negotiation(bench, *negotiating, happening).await,
        State::Connected(connected) => in_connection(bench, *connected, happening).await,
        State::Waiting(Waiting { kept, .. }) => match happening {
            Happening::Command(Asked::Wish(wish)) => follow(&mut bench.shared, wish, kept).await,
            _ => Waiting { delay: Duration::ZERO, kept }.run(&mut bench.shared).await,
        },
        State::Paused(paused) => match happening {
            Happening::Command(asked @ Asked::Wish(_)) => {
                bench.commands.try_send(asked.command()).unwrap();
                paused.run(&mut bench.shared).await
            }
            _ => State::Paused(paused),
        },
        ended @ State::Ended(_) => ended,
    }
}

async fn in_negotiation(
    bench: &mut Bench,
    mut negotiating: Negotiating,
    happening: Happening,
) -> State {
    let shared = &mut bench.shared;
    let event = match happening {
        Happening::Told(told) => told.event(),
        Happening::Keys(n) => Event::Keys(key(n)),
        Happening::Promote(n) => Event::PromoteKey(key(n).key_id),
        Happening::Retire(n) => Event::RetireKey(key(n).key_id),
        Happening::Command(asked) => {
            return match shared.obey(&mut negotiating.link, asked.command()) {
                Ok(_) => State::Negotiating(Box::new(negotiating)),
                Err(wish) => negotiating.over(shared, wish.into()).await.next(shared).await,
            };
        }
        // There is no data path that could tell anything.
        Happening::Data(_) | Happening::Refusal | Happening::FalseRefusal => {
            return State::Negotiating(Box::new(negotiating));
        }
    };
    match negotiating.hear(shared, event) {
        Ok(None) => State::Negotiating(Box::new(negotiating)),
        // The simulated control channel has had its push reply, which ends the connection: of
        // establishing one there are tests enough.
        Ok(Some(pushed)) => match Connected::establish(negotiating, pushed, shared).await {
            Ok(connected) => State::Connected(Box::new(connected)),
            Err(over) => over.next(shared).await,
        },
        Err(ending) => negotiating.over(shared, ending.into()).await.next(shared).await,
    }
}

async fn in_connection(bench: &mut Bench, mut connected: Connected, happening: Happening) -> State {
    let shared = &mut bench.shared;
    let result = match happening {
        Happening::Told(told) => connected.hear(shared, told.event()).await,
        Happening::Keys(n) => connected.hear(shared, Event::Keys(key(n))).await,
        Happening::Promote(n) => connected.hear(shared, Event::PromoteKey(key(n).key_id)).await,
        Happening::Retire(n) => connected.hear(shared, Event::RetireKey(key(n).key_id)).await,
        Happening::Data(data) => connected.data_event(shared, data.event()),
        Happening::Command(asked) => {
            let obeyed = shared.obey(&mut connected.link, asked.command());
            obeyed.map(drop).map_err(Stop::from)
        }
        Happening::Refusal | Happening::FalseRefusal => Ok(()),
    };
    match bench.go_on(connected, result).await {
        Ok(connected) => {
            assert!(connected.tunnel.has_peer(), "connected without a peer");
            State::Connected(Box::new(connected))
        }
        Err(over) => {
            let kept = over.kept.as_ref();
            assert!(kept.is_none_or(|kept| !kept.has_peer()), "a peer outlives its connection");
            over.next(&mut bench.shared).await
        }
    }
}

/// Somebody wants to disconnect, wherever it stands. How it has ended.
async fn disconnect(bench: &mut Bench, state: State) {
    let shared = &mut bench.shared;
    let end = || End::Wish(Wish::Disconnect);
    let state = match state {
        State::Opening(Opening { kept })
        | State::Waiting(Waiting { kept, .. })
        | State::Paused(Paused { kept }) => follow(shared, Wish::Disconnect, kept).await,
        State::Negotiating(negotiating) => negotiating.over(shared, end()).await.next(shared).await,
        State::Connected(connected) => connected.over(shared, end()).await.next(shared).await,
        ended @ State::Ended(_) => ended,
    };
    let State::Ended(ended) = state else { panic!("does not end") };
    ended.clean_up(shared).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 64, ..Default::default() })]

    #[test]
    fn anything_in_any_state(happenings in prop::collection::vec(any_happening(), 1..16)) {
        let namespace = NetNs::new("sess");
        let before = namespace.settled_snapshot();
        namespace.block_on(|| async {
            let (mut bench, start) = bench(Protocol::Udp, &["ping 10", "ping-restart 60"]).await;
            let mut state = if happenings.len() % 2 == 0 {
                State::Connected(Box::new(bench.connect(start).await))
            } else {
                let Start { link, kept } = start;
                let negotiating = Negotiating::new(link, Some(kept), Instant::now() + LONG);
                State::Negotiating(Box::new(negotiating))
            };
            for happening in &happenings {
                state = after(&mut bench, state, *happening).await;
            }
            disconnect(&mut bench, state).await;
            assert!(bench.recorder.is_closed(), "the first tunnel is still there");
        });
        before.assert_same(&namespace.snapshot());
    }
}
