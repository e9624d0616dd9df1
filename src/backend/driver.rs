//! Carries out what the machine decides: starts sessions, passes commands on, keeps the timer.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::machine::{Attempt, Effect, Machine, Registration, Request, Signal};
use super::{Error, printable};
use crate::posture::DevicePosture;
use crate::secret::{Credentials, Secret};
use crate::session::{
    NetworkMode, Outcome, SessionConfig, SessionEvent, SessionHandle, Statistics,
};

/// What a running session is told.
#[derive(Debug)]
#[expect(missing_docs, reason = "the methods of SessionHandle, by name")]
pub enum Command {
    Pause,
    Resume,
    Restart,
    Disconnect,
    Respond(Secret<String>),
    LogIn(Credentials, bool),
    Sign(u32, Result<Vec<u8>, String>),
    Ping(oneshot::Sender<()>),
    Statistics(oneshot::Sender<Statistics>),
}

/// A running session, as two channels. Dropping `commands` disconnects.
#[derive(Debug)]
pub struct Running {
    /// To the session.
    pub commands: mpsc::UnboundedSender<Command>,
    /// From the session.
    pub events: mpsc::UnboundedReceiver<SessionEvent>,
}

/// Starts a session; [`Threads::starter`] outside of tests.
pub type StartSession = Box<dyn Fn(SessionConfig) -> Running + Send + Sync>;

/// How long sessions have to end when the process does.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// The threads of a backend process: the calling one for D-Bus, another for the session, so that
/// nothing a session does can keep a method call from being answered.
#[derive(Debug)]
pub struct Threads {
    calls: Runtime,
    sessions: runtime::Handle,
    /// Closing it ends the sessions' thread.
    stop: oneshot::Sender<()>,
    /// Closed by the sessions' thread when all is dropped.
    ended: std::sync::mpsc::Receiver<()>,
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// As creating a thread or an event queue.
    pub fn new() -> io::Result<Self> {
        let calls = runtime::Builder::new_current_thread().enable_all().build()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let sessions = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel();
        thread::Builder::new().name("session".to_owned()).spawn(move || {
            // Nothing is ever sent.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(LAST_MOMENT);
            drop(end);
        })?;
        Ok(Self { calls, sessions, stop, ended })
    }

    /// Runs what answers calls to its end, on the calling thread.
    pub fn run<T>(&self, calls: impl Future<Output = T>) -> T {
        self.calls.block_on(calls)
    }

    /// Starts real sessions on the threads for them.
    pub fn starter(&self) -> StartSession {
        let sessions = self.sessions.clone();
        Box::new(move |config| {
            let _guard = sessions.enter();
            start_session(config)
        })
    }

    /// Gives sessions a moment to end; what hangs is left behind, the process ends anyway.
    pub fn end(self) {
        drop(self.stop);
        // Closed or late: either way it is over.
        let _ = self.ended.recv_timeout(LAST_MOMENT);
        self.calls.shutdown_background();
    }
}

/// Starts a session, once it is known that somebody can configure the network for it: a session
/// takes a service that cannot be started now for one that can be later, and tries again.
fn start_session(config: SessionConfig) -> Running {
    let (commands, receiver) = mpsc::unbounded_channel();
    let (news, events) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let NetworkMode::Netcfg(netcfg) = &config.network
            && let Err(error) = netcfg.start_service().await
        {
            // Whoever does not listen any more does not need the reason.
            let _ =
                news.send(SessionEvent::Ended(Outcome::Privilege { message: error.to_string() }));
            return;
        }
        let (handle, mut events) = SessionHandle::start(config);
        tokio::spawn(pass_on(receiver, handle));
        while let Some(event) = events.recv().await {
            // Nobody listens: the session ends with its commands.
            let _ = news.send(event);
        }
    });
    Running { commands, events }
}

/// A session that hangs stops reading its commands. Waiting for it happens here, in order, so that
/// whoever gives the commands never waits.
async fn pass_on(mut receiver: mpsc::UnboundedReceiver<Command>, handle: SessionHandle) {
    while let Some(command) = receiver.recv().await {
        match command {
            Command::Pause => handle.pause().await,
            Command::Resume => handle.resume().await,
            Command::Restart => handle.restart().await,
            Command::Disconnect => handle.disconnect().await,
            Command::Respond(answer) => handle.respond(answer).await,
            Command::LogIn(credentials, one_time) => handle.log_in(credentials, one_time).await,
            Command::Sign(id, signature) => handle.sign(id, signature).await,
            // A session that ends meanwhile says so by its last event; only one that hangs is
            // not alive, and that one does not get here.
            Command::Ping(reply) => {
                if handle.ping().await {
                    let _ = reply.send(());
                }
            }
            Command::Statistics(reply) => {
                if let Some(statistics) = handle.statistics().await {
                    let _ = reply.send(statistics);
                }
            }
        }
    }
}

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

    /// A method that acts on the session.
    pub fn request(&mut self, request: Request) -> Result<(), Error> {
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
        let result = self.machine.provide_input(numbers, id, value);
        self.carry_out();
        result
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
        let answer = self.ask(Command::Ping);
        async move {
            if let Some(answer) = answer {
                // A session that ended while it was asked is no fault.
                let _ = answer.await;
            }
        }
    }

    /// Counters of the session; empty without one.
    pub fn statistics(&self) -> impl Future<Output = BTreeMap<&'static str, u64>> + Send + use<> {
        let answer = self.ask(Command::Statistics);
        async move {
            match answer {
                Some(answer) => answer.await.unwrap_or_default().0,
                None => BTreeMap::new(),
            }
        }
    }

    fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Option<oneshot::Receiver<T>> {
        let running = self.running.as_ref()?;
        let (reply, answer) = oneshot::channel();
        running.commands.send(command(reply)).ok()?;
        Some(answer)
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
                self.machine.event(event);
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
                    self.running = Some((self.start)(self.session_config(*attempt)));
                }
                Effect::Pause => self.command(Command::Pause),
                Effect::Resume => self.command(Command::Resume),
                Effect::Restart => self.command(Command::Restart),
                Effect::Disconnect => self.command(Command::Disconnect),
                Effect::Respond(answer) => self.command(Command::Respond(answer)),
                Effect::LogIn(login) => {
                    self.command(Command::LogIn(login.credentials, login.one_time));
                }
                Effect::Sign(id, signature) => self.command(Command::Sign(id, signature)),
                Effect::Timer(after) => self.timer = Some(Instant::now() + after),
            }
        }
    }

    fn command(&self, command: Command) {
        if let Some(running) = &self.running {
            // A session that is over has said so by its last event.
            let _ = running.commands.send(command);
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

async fn next_event(running: &mut Option<Running>) -> SessionEvent {
    match running {
        Some(running) => running.events.recv().await.unwrap_or_else(|| {
            let message = "the session ended without a word (internal error)".to_owned();
            SessionEvent::Ended(Outcome::Failed { message })
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

    use tokio::time::timeout;

    use super::*;
    use crate::backend::{Dialect, StatusMinor};
    use crate::profile::{DnsScope, NoFiles, Profile};
    use crate::session::SessionState;

    type Scripts = Arc<Mutex<Vec<Script>>>;

    /// The other end of a session that the test plays.
    struct Script {
        config: SessionConfig,
        commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::UnboundedSender<SessionEvent>,
    }

    fn connecting() -> (Backend, Script) {
        let scripts = Scripts::default();
        let started = scripts.clone();
        let start = Box::new(move |config| {
            let (commands, command_receiver) = mpsc::unbounded_channel();
            let (event_sender, events) = mpsc::unbounded_channel();
            started.lock().unwrap().push(Script {
                config,
                commands: command_receiver,
                events: event_sender,
            });
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
        assert_eq!(heard, ["Pause", "Resume", "Restart", "Disconnect"]);
        script.events.send(SessionEvent::Ended(Outcome::Disconnected)).unwrap();
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
            script.events.send(SessionEvent::State(state)).unwrap();
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
