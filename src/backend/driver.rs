//! Carries out what the machine decides: starts sessions, passes commands on, keeps the timer.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::PathBuf;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;

use super::Error;
use super::allowance::Allowances;
use super::machine::{Attempt, Effect, Machine, Registration, Request, Signal};
use crate::posture::DevicePosture;
use crate::session::{
    Command, Ending, NetworkMode, Outcome, Running, SessionConfig, SessionEvent, Wish,
};
use crate::text::printable;

/// Starts a session; [`super::Threads::starter`] outside of tests.
pub type StartSession = Box<dyn Fn(SessionConfig) -> Running + Send + Sync>;

/// What every session of this process has in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who configures the network.
    pub network: NetworkMode,
    /// Directory of the undo journal.
    pub runtime_dir: PathBuf,
    /// `IV_GUI_VER`
    pub gui_version: String,
    /// `IV_SSO`
    pub sso: String,
    /// The device posture service, where there is a bus for it.
    pub posture: Option<DevicePosture>,
}

/// The backend: the state machine and the session it drives.
///
/// Not a task of its own: whoever owns it calls [`Self::next`] in its loop and passes on what
/// [`Self::take_signals`] returns, so that signals and replies keep their order.
pub struct Backend {
    machine: Machine,
    settings: Settings,
    start: StartSession,
    running: Option<Running>,
    /// Of the running session.
    allowances: Allowances,
    timer: Option<Instant>,
    signals: VecDeque<Signal>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Backend {
    /// A backend that is not registered yet. See [`Machine::new`] for `delayed_failure`.
    pub fn new(settings: Settings, start: StartSession, delayed_failure: bool) -> Self {
        Self {
            machine: Machine::new(delayed_failure),
            settings,
            start,
            running: None,
            allowances: Allowances::new(Instant::now()),
            timer: None,
            signals: VecDeque::new(),
        }
    }

    /// What every session has in common.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state machine, to read from.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// `RegistrationConfirmation`
    pub fn register(&mut self, registration: Registration) -> Result<(), Error> {
        let result = self.machine.register(registration);
        self.carry_out();
        result
    }

    /// A method that acts on the session. One that does not act any more is only told to end.
    pub fn request(&mut self, request: Request) -> Result<(), Error> {
        if matches!(request, Request::Pause { .. } | Request::Resume | Request::Restart) {
            self.refuse_if_stuck()?;
        }
        let result = self.machine.request(request);
        self.carry_out();
        result
    }

    /// `UserInputProvide`
    pub fn provide_input(
        &mut self,
        numbers: (u32, u32),
        id: u32,
        value: &str,
    ) -> Result<(), Error> {
        self.refuse_if_stuck()?;
        let result = self.machine.provide_input(numbers, id, value);
        self.carry_out();
        result
    }

    fn refuse_if_stuck(&self) -> Result<(), Error> {
        match &self.running {
            Some(running) if running.commands.capacity() == 0 => Err(Error::state_changing()),
            _ => Ok(()),
        }
    }

    /// Property `dco`, see [`Machine::set_dco`].
    pub fn set_dco(&mut self, wish: bool) -> bool {
        self.machine.set_dco(wish)
    }

    /// See [`Machine::new`].
    pub fn set_delayed_failure(&mut self, delayed: bool) {
        self.machine.set_delayed_failure(delayed);
    }

    /// Ready once the session's own event loop has answered, at once without a session. Give it a
    /// time limit.
    pub fn ping(&self) -> impl Future<Output = ()> + Send + use<> {
        let question = self.ask(Command::Ping);
        async move {
            match question {
                // A session that ended while it was asked is no fault.
                Question::Asked(answer) => drop(answer.await),
                Question::NoSession => {}
                Question::Stuck => std::future::pending().await,
            }
        }
    }

    /// Counters of the session; empty without one.
    pub fn statistics(&self) -> impl Future<Output = BTreeMap<&'static str, u64>> + Send + use<> {
        let question = self.ask(Command::Statistics);
        async move {
            match question {
                Question::Asked(answer) => {
                    let counters = answer.await.unwrap_or_default();
                    counters.iter().map(|(counter, value)| (counter.name(), value)).collect()
                }
                Question::NoSession | Question::Stuck => BTreeMap::new(),
            }
        }
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Question<T> {
        let Some(running) = &self.running else { return Question::NoSession };
        let (reply, answer) = oneshot::channel();
        match running.commands.try_send(command(reply)) {
            Ok(()) => Question::Asked(answer),
            Err(TrySendError::Closed(_)) => Question::NoSession,
            Err(TrySendError::Full(_)) => Question::Stuck,
        }
    }

    /// What is to be told, in order.
    pub fn take_signals(&mut self) -> impl Iterator<Item = Signal> + '_ {
        self.signals.drain(..)
    }

    /// Waits for the session or the timer and lets the machine act on it. Cancel safe.
    pub async fn next(&mut self) {
        let timer = self.timer;
        let event = tokio::select! {
            event = next_event(&mut self.running) => Some(event),
            () = sleep_until(timer) => None,
        };
        match event {
            Some(event) => {
                if matches!(event, SessionEvent::Ended(_)) {
                    self.running = None;
                }
                if self.allowances.admit(&event, Instant::now()) {
                    self.machine.event(event);
                }
            }
            None => {
                self.timer = None;
                self.machine.timeout();
            }
        }
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.machine.take_effects() {
            match effect {
                Effect::Signal(signal) => self.signals.push_back(signal),
                Effect::Start(attempt) => {
                    self.timer = None;
                    self.allowances = Allowances::new(Instant::now());
                    self.running = Some((self.start)(self.session_config(*attempt)));
                }
                Effect::Session(command) => self.command(command),
                Effect::Timer(after) => self.timer = Some(Instant::now() + after),
            }
        }
    }

    fn command(&mut self, command: Command) {
        let Some(running) = &mut self.running else { return };
        match running.commands.try_send(command) {
            // A session that is over has said so by its last event.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            // Once it reads its commands again, it finds that there is nobody to give them.
            Err(TrySendError::Full(Command::Wish(Wish::Disconnect))) => {
                running.commands = mpsc::channel(1).0
            }
            Err(TrySendError::Full(_)) => warn!("The session does not take commands"),
        }
    }

    fn session_config(&self, attempt: Attempt) -> SessionConfig {
        SessionConfig {
            options: attempt.options,
            credentials: attempt.credentials,
            one_time_password: attempt.one_time_password,
            key_passphrase: attempt.key_passphrase,
            proxy_credentials: attempt.proxy_credentials,
            dco: attempt.dco,
            network: self.settings.network.clone(),
            runtime_dir: self.settings.runtime_dir.clone(),
            auth_fail_retry: attempt.auth_fail_retry,
            dns_scope: attempt.dns_scope,
            gui_version: printable(&self.settings.gui_version),
            sso: self.settings.sso.clone(),
            posture: self.settings.posture.clone(),
        }
    }
}

/// A question to a session.
enum Question<T> {
    Asked(oneshot::Receiver<T>),
    NoSession,
    /// It does not read them.
    Stuck,
}

async fn next_event(running: &mut Option<Running>) -> SessionEvent {
    match running {
        Some(running) => running.events.recv().await.unwrap_or_else(|| {
            let ending = Ending::Disorder("the session ended without a word");
            SessionEvent::Ended(Outcome::Failed(ending))
        }),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::backend::{Dialect, StatusMinor};
    use crate::profile::{DnsScope, NoFiles, Profile};
    use crate::session::{SessionState, Teller, events};

    const QUEUE: usize = 8;

    type Scripts = Arc<Mutex<Vec<Script>>>;

    /// The other end of a session that the test plays.
    struct Script {
        config: SessionConfig,
        commands: mpsc::Receiver<Command>,
        teller: Teller,
    }

    fn connecting() -> (Backend, Script) {
        let scripts = Scripts::default();
        let started = scripts.clone();
        let start = Box::new(move |config| {
            let (commands, command_receiver) = mpsc::channel(QUEUE);
            let (teller, events) = events();
            started.lock().unwrap().push(Script { config, commands: command_receiver, teller });
            Running { commands, events }
        });
        let settings = Settings {
            network: NetworkMode::Direct,
            runtime_dir: "/nowhere".into(),
            gui_version: "test\n/1".to_owned(),
            sso: "crtext".to_owned(),
            posture: None,
        };
        let mut backend = Backend::new(settings, start, false);
        let text = format!(
            "client\ndev tun\nremote x 1\nsetenv CLIENT_CERT 0\npeer-fingerprint {}\n",
            ["00"; 32].join(":")
        );
        let options = Profile::parse(&text, "test", &NoFiles).unwrap().options;
        let registration = Registration {
            dialect: Dialect::Deployed,
            session_path: None,
            config_path: "/c".to_owned(),
            profile: Ok(Arc::new(options)),
            passphrase_needed: false,
            dco: true,
            auth_fail_retry: true,
            dns_scope: DnsScope::Tunnel,
        };
        backend.register(registration).unwrap();
        backend.request(Request::Connect).unwrap();
        let script = scripts.lock().unwrap().remove(0);
        (backend, script)
    }

    fn minors(backend: &mut Backend) -> Vec<StatusMinor> {
        backend
            .take_signals()
            .filter_map(|signal| match signal {
                Signal::Status(status) => Some(status.minor),
                Signal::Attention { .. } => None,
            })
            .collect()
    }

    #[tokio::test]
    async fn a_session_starts_with_everything_it_needs_and_hears_every_command() {
        let (mut backend, mut script) = connecting();
        assert!(script.config.dco && script.config.auth_fail_retry);
        assert_eq!(script.config.dns_scope, DnsScope::Tunnel);
        assert_eq!(script.config.gui_version, "test/1");
        backend.request(Request::Pause { reason: String::new() }).unwrap();
        backend.request(Request::Resume).unwrap();
        backend.request(Request::Restart).unwrap();
        backend.request(Request::Disconnect).unwrap();
        let heard: Vec<_> = std::iter::from_fn(|| script.commands.try_recv().ok())
            .map(|command| format!("{command:?}"))
            .collect();
        assert_eq!(heard, ["Wish(Pause)", "Wish(Resume)", "Wish(Restart)", "Wish(Disconnect)"]);
        script.teller.tell(SessionEvent::Ended(Outcome::Disconnected));
        backend.next().await;
        assert!(backend.machine().is_done());
    }

    #[tokio::test]
    async fn events_become_signals_in_order() {
        let (mut backend, script) = connecting();
        minors(&mut backend);
        backend.request(Request::Pause { reason: String::new() }).unwrap();
        for state in [
            SessionState::Authenticating,
            SessionState::GetConfig,
            SessionState::Reconnecting { reason: "x".to_owned() },
            SessionState::Paused,
        ] {
            script.teller.tell(SessionEvent::State(state));
            backend.next().await;
        }
        assert_eq!(minors(&mut backend), [StatusMinor::ConnPausing, StatusMinor::ConnPaused]);
    }

    #[tokio::test]
    async fn questions_wait_for_a_hanging_session_and_nothing_else_does() {
        let (mut backend, script) = connecting();
        let limit = Duration::from_millis(50);
        // The commands stay where they are.
        assert!(timeout(limit, backend.ping()).await.is_err());
        assert!(timeout(limit, backend.statistics()).await.is_err());
        backend.request(Request::Ready).unwrap();
        // A session that is gone has nothing to hang.
        drop(script);
        timeout(limit, backend.ping()).await.unwrap();
        assert!(timeout(limit, backend.statistics()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_flood_of_calls_to_a_session_that_hangs_is_refused_and_its_end_is_not() {
        let (mut backend, mut script) = connecting();
        let pause = |backend: &mut Backend| {
            backend.request(Request::Pause { reason: String::new() }).map(|()| "paused")
        };
        for _ in 0..QUEUE / 2 {
            pause(&mut backend).unwrap();
            backend.request(Request::Resume).unwrap();
        }
        assert_eq!(pause(&mut backend), Err(Error::state_changing()));
        for _ in 0..1000 {
            assert!(backend.request(Request::Restart).is_err());
            drop(backend.statistics());
        }
        // It is as little alive as it was before the flood.
        assert!(timeout(Duration::from_millis(50), backend.ping()).await.is_err());
        backend.request(Request::Disconnect).unwrap();
        for _ in 0..QUEUE {
            script.commands.recv().await.unwrap();
        }
        assert!(script.commands.recv().await.is_none(), "which means to disconnect");
        script.teller.tell(SessionEvent::Ended(Outcome::Disconnected));
        backend.next().await;
        assert!(backend.machine().is_done());
    }

    #[tokio::test]
    async fn a_session_that_ends_without_a_word_is_a_failed_connection() {
        let (mut backend, script) = connecting();
        drop(script);
        backend.next().await;
        assert_eq!(minors(&mut backend).last(), Some(&StatusMinor::ConnFailed));
        // And the next one can start.
        backend.request(Request::Connect).unwrap();
        assert_eq!(minors(&mut backend).last(), Some(&StatusMinor::ConnConnecting));
    }
}
