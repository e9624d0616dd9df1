//! The one task that owns the backend and its connection: messages in, replies and signals out, in
//! order.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info};
use zbus::message::Type;
use zbus::names::{BusName, OwnedUniqueName};
use zbus::{Connection, Guid, Message, MessageStream};

use super::error::Failure;
use super::peers::{Change, LogPeer, Outgoing, Peers};
use super::profile::{Fetched, OwnProfile, fetch};
use super::report::Record;
use super::{INTERFACE, OBJECT, SESSIONS, SESSIONS_OBJECT, in_time, log_service};
use crate::backend::last_resort::{self, Traces};
use crate::backend::{
    Backend, Dialect, Error, Registration, Request, Settings, Signal, StartSession,
};
use crate::bus_call::CallFailure;
use crate::logging::{LogLevel, LogLine};
use crate::secret::Secret;
use crate::stop::Stop;

/// How long a session manager may take to confirm the registration.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(30);
/// The session manager calls `Disconnect` once more when it sees (2,16). It gets an answer.
const LINGER: Duration = Duration::from_millis(200);
/// Of questions to other services.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// The registration waits this long for the log service to know the session: a user may ask for
/// the log as soon as the session is there.
const ASSIGN_LIMIT: Duration = Duration::from_millis(500);
/// Calls that wait for the session at a time. A session manager has one, or a few.
const PENDING: usize = 64;
/// The last version of the session manager that leaves sessions open after (2,10).
const LAST_PATIENT_MANAGER: u32 = 24;

/// A `RegistrationConfirmation` whose profile is being fetched.
pub(super) struct Registering {
    pub(super) call: Message,
    pub(super) dialect: Dialect,
    pub(super) session_path: Option<String>,
    pub(super) config_path: String,
}

enum Internal {
    Fetched(Registering, Result<Box<Fetched>, zbus::Error>),
    LogAttached(Option<OwnedUniqueName>),
    ManagerIsPatient,
}

/// What a service needs besides its connection.
pub(super) struct ServiceConfig {
    pub(super) settings: Settings,
    pub(super) start: StartSession,
    /// Of a front end in this process; a bus has a configuration manager.
    pub(super) own: Option<Own>,
    pub(super) token: String,
    pub(super) log_level: LogLevel,
    pub(super) lines: mpsc::Receiver<LogLine>,
    /// A message here, or its closing, ends the session and the service.
    pub(super) stop: mpsc::Receiver<Stop>,
}

/// An answer of a front end in this process to a question of the user-input queue, as
/// `UserInputProvide` brings those of others: a secret that is in no message.
#[derive(Debug)]
pub struct Answer {
    /// Type and group of the question.
    pub numbers: (u32, u32),
    /// Its id within them.
    pub id: u32,
    /// The answer.
    pub value: Secret<String>,
    /// Gets the reason if it is not taken.
    pub reply: oneshot::Sender<Result<(), Error>>,
}

/// What a front end in this process hands over.
pub(super) struct Own {
    pub(super) name: String,
    pub(super) profile: OwnProfile,
    pub(super) answers: mpsc::Receiver<Answer>,
}

/// The backend on a connection.
pub(super) struct Service {
    pub(super) connection: Connection,
    pub(super) backend: Backend,
    pub(super) peers: Peers,
    pub(super) token: String,
    pub(super) log_level: LogLevel,
    pub(super) last_line: Option<LogLine>,
    pub(super) registering: bool,
    /// The log service that is attached has been told of the session.
    assigned: bool,
    profile: Option<OwnProfile>,
    /// What is told of a tunnel of this process's own.
    pub(super) record: Option<Record>,
    answers: Option<mpsc::Receiver<Answer>>,
    lines: mpsc::Receiver<LogLine>,
    stop: mpsc::Receiver<Stop>,
    /// From tasks of this service, each of which sends once; so many of them are started as the
    /// session manager registers and a new log service appears on the bus.
    internal: mpsc::UnboundedSender<Internal>,
    internal_receiver: mpsc::UnboundedReceiver<Internal>,
    disconnects: Vec<Message>,
    exit_at: Option<Instant>,
    /// `ForceShutdown` was called.
    forced: bool,
    /// For calls that are answered later.
    pub(super) pending: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(connection: Connection, peers: Peers, config: ServiceConfig) -> Self {
        // Only a session manager on a bus closes sessions behind the user's back.
        let delayed_failure = matches!(peers, Peers::Bus { .. });
        let (internal, internal_receiver) = mpsc::unbounded_channel();
        let mut record = None;
        let (profile, answers) = config
            .own
            .map(|own| {
                record = Some(Record::new(own.name, own.profile.name.clone()));
                (own.profile, own.answers)
            })
            .unzip();
        Self {
            connection,
            backend: Backend::new(config.settings, config.start, delayed_failure),
            peers,
            token: config.token,
            log_level: config.log_level,
            last_line: None,
            registering: false,
            assigned: false,
            profile,
            record,
            answers,
            lines: config.lines,
            stop: config.stop,
            internal,
            internal_receiver,
            disconnects: Vec::new(),
            exit_at: None,
            forced: false,
            pending: Arc::new(Semaphore::new(PENDING)),
        }
    }

    /// Asks the session manager to confirm this process as the one it has started.
    pub(super) async fn request_registration(&self, name: &str) -> zbus::Result<()> {
        let manager = match &self.peers {
            Peers::Private => None,
            Peers::Bus { manager, .. } => manager.clone().map(BusName::from),
        };
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let body = (name, self.token.as_str(), pid);
        self.connection.emit_signal(manager, OBJECT, INTERFACE, "RegistrationRequest", &body).await
    }

    /// Serves until the session is over and everybody has been told. Without a connection, or
    /// whatever else ends it, the session is wound up all the same.
    pub(super) async fn run(mut self, messages: MessageStream) -> zbus::Result<()> {
        let served = self.serve(messages).await;
        if let Err(error) = &served {
            error!("The D-Bus connection broke: {error}");
        }
        self.terminate();
        while !self.backend.machine().is_done() {
            self.backend.next().await;
        }
        served
    }

    async fn serve(&mut self, mut messages: MessageStream) -> zbus::Result<()> {
        if matches!(self.peers, Peers::Bus { .. }) {
            self.attach_log();
        }
        let registration_limit = Instant::now() + REGISTRATION_LIMIT;
        loop {
            self.flush().await?;
            if self.backend.machine().is_done() && self.exit_at.is_none() {
                self.exit_at = Some(Instant::now() + LINGER);
                for call in std::mem::take(&mut self.disconnects) {
                    self.answer(&call).await?;
                }
            }
            let unregistered = !self.backend.machine().is_registered();
            let exit_at = self.exit_at;
            tokio::select! {
                message = messages.next() => match message {
                    Some(Ok(message)) => self.message(&message).await?,
                    // Of the connection as a whole: a stream has no other errors.
                    Some(Err(error)) => return Err(error),
                    None => {
                        info!("The D-Bus connection was closed");
                        return Ok(());
                    }
                },
                () = self.backend.next() => {}
                Some(line) = self.lines.recv() => self.send_line(line).await?,
                Some(answer) = next_answer(&mut self.answers) => self.answer_question(answer).await?,
                Some(internal) = self.internal_receiver.recv() => self.internal(internal).await?,
                _ = self.stop.recv(), if exit_at.is_none() => self.terminate(),
                () = tokio::time::sleep_until(registration_limit),
                    if unregistered && exit_at.is_none() =>
                {
                    error!(
                        "Registration was not confirmed within {} s; giving up",
                        REGISTRATION_LIMIT.as_secs()
                    );
                    self.terminate();
                }
                () = tokio::time::sleep_until(exit_at.unwrap_or(registration_limit)),
                    if exit_at.is_some() => break,
            }
        }
        self.flush().await?;
        if self.peers.has_log() {
            log_service::detach(&self.connection).await;
        }
        Ok(())
    }

    /// Sends what waits: log lines first, since they tell what led to a status.
    pub(super) async fn flush(&mut self) -> zbus::Result<()> {
        while let Ok(line) = self.lines.try_recv() {
            self.send_line(line).await?;
        }
        let signals: Vec<_> = self.backend.take_signals().collect();
        for signal in signals {
            if let (Some(record), Signal::Status(status)) = (&mut self.record, &signal) {
                record.status(status.minor);
            }
            let signal = Outgoing::Backend(signal);
            self.peers.send(&self.connection, &self.token, signal).await?;
        }
        Ok(())
    }

    async fn send_line(&mut self, line: LogLine) -> zbus::Result<()> {
        if let Some(record) = &mut self.record {
            record.line(&line);
        }
        self.last_line = Some(line.clone());
        self.peers.send(&self.connection, &self.token, Outgoing::Log(line)).await
    }

    async fn answer_question(&mut self, answer: Answer) -> zbus::Result<()> {
        let Answer { numbers, id, value, reply } = answer;
        let taken = self.backend.provide_input(numbers, id, value.expose());
        self.flush().await?;
        // Whoever does not wait for the reply does not need it.
        let _ = reply.send(taken);
        Ok(())
    }

    async fn message(&mut self, message: &Message) -> zbus::Result<()> {
        match message.message_type() {
            Type::MethodCall => self.method_call(message).await,
            Type::Signal => {
                self.bus_signal(message);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn bus_signal(&mut self, message: &Message) {
        let header = message.header();
        let from_bus = header.sender().is_some_and(|name| name == "org.freedesktop.DBus");
        if !from_bus || header.member().is_none_or(|member| member != "NameOwnerChanged") {
            return;
        }
        let body = message.body();
        let Ok((name, _, owner)) = body.deserialize::<(&str, &str, &str)>() else { return };
        match self.peers.owner_changed(name, OwnedUniqueName::try_from(owner).ok()) {
            Change::None => {}
            Change::ManagerGone => {
                error!("The session manager is gone; nobody can control this session any more");
                self.terminate();
            }
            Change::AttachLog => self.attach_log(),
        }
    }

    async fn internal(&mut self, internal: Internal) -> zbus::Result<()> {
        match internal {
            Internal::Fetched(registering, result) => self.fetched(registering, result).await,
            Internal::LogAttached(name) => {
                match self.peers.log_attached(&self.connection, &self.token, name).await? {
                    Change::AttachLog => self.attach_log(),
                    _ => self.assign_session(),
                }
                Ok(())
            }
            Internal::ManagerIsPatient => {
                self.backend.set_delayed_failure(false);
                Ok(())
            }
        }
    }

    pub(super) fn register(&mut self, registering: Registering) {
        self.registering = true;
        let assign = registering.session_path.clone().filter(|_| self.peers.has_log());
        self.assigned = assign.is_some();
        let internal = self.internal.clone();
        if let Some(own) = self.profile.take() {
            let _ = internal.send(Internal::Fetched(registering, Ok(Box::new(own.into()))));
            return;
        }
        let connection = self.connection.clone();
        tokio::spawn(async move {
            let assigned = async {
                if let Some(path) = assign {
                    log_service::assign_session(&connection, &path).await;
                }
            };
            let fetched = fetch(&connection, &registering.config_path);
            let (_, fetched) = tokio::join!(
                tokio::time::timeout(ASSIGN_LIMIT, assigned),
                tokio::time::timeout(ANSWER_LIMIT, fetched),
            );
            let result = match fetched {
                Ok(result) => result.map(Box::new),
                Err(_) => Err(zbus::Error::Failure("no answer".to_owned())),
            };
            let _ = internal.send(Internal::Fetched(registering, result));
        });
    }

    async fn fetched(
        &mut self,
        registering: Registering,
        result: Result<Box<Fetched>, zbus::Error>,
    ) -> zbus::Result<()> {
        self.registering = false;
        let fetched = match result {
            Ok(fetched) => *fetched,
            Err(error) => {
                let reason = CallFailure::from(error);
                error!("Profile {} cannot be had: {reason}", registering.config_path);
                return self.refuse(&registering.call, &Failure::from(Error::no_profile())).await;
            }
        };
        if let Some(level) = fetched.log_level {
            self.log_level.set(level);
        }
        let registered = self.backend.register(Registration {
            dialect: registering.dialect,
            session_path: registering.session_path,
            config_path: registering.config_path,
            profile: fetched.profile,
            passphrase_needed: fetched.passphrase_needed,
            dco: fetched.dco,
            auth_fail_retry: fetched.auth_fail_retry,
            dns_scope: fetched.dns_scope,
        });
        self.flush().await?;
        match registered {
            Ok(()) => {
                self.reply_connection(&registering.call, &fetched.name).await?;
                self.assign_session();
                self.ask_version();
                Ok(())
            }
            Err(error) => self.refuse(&registering.call, &Failure::from(error)).await,
        }
    }

    async fn reply_connection(&self, call: &Message, name: &str) -> zbus::Result<()> {
        in_time(self.connection.reply(&call.header(), &name)).await
    }

    fn attach_log(&mut self) {
        self.assigned = false;
        let connection = self.connection.clone();
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let _ = internal.send(Internal::LogAttached(log_service::attach(&connection).await));
        });
    }

    /// Once both the log service and the session path are known.
    fn assign_session(&mut self) {
        let Some(path) = self.backend.machine().session_path() else { return };
        if self.peers.has_log() && !self.assigned {
            self.assigned = true;
            let (connection, path) = (self.connection.clone(), path.to_owned());
            tokio::spawn(async move { log_service::assign_session(&connection, &path).await });
        }
    }

    /// Old session managers do not close a session by themselves, so that a failure need not be
    /// told twice.
    fn ask_version(&self) {
        if matches!(self.peers, Peers::Private) {
            return;
        }
        let connection = self.connection.clone();
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let version = zbus_get(&connection, SESSIONS, SESSIONS_OBJECT, "version");
            let Ok(Ok(version)) = tokio::time::timeout(ANSWER_LIMIT, version).await else { return };
            if major_version(&version).is_some_and(|major| major <= LAST_PATIENT_MANAGER) {
                let _ = internal.send(Internal::ManagerIsPatient);
            }
        });
    }

    pub(super) fn answer_when_done(&mut self, call: &Message) {
        // Nobody waits for more of them than that.
        if self.disconnects.len() < PENDING {
            self.disconnects.push(call.clone());
        }
        if self.exit_at.is_some() {
            // Too late for the list; the loop answers it at once.
            self.exit_at = None;
        }
    }

    async fn answer(&self, call: &Message) -> zbus::Result<()> {
        match self.reply(call, &()).await {
            Err(super::object::CallError::Connection(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn terminate(&mut self) {
        // Cannot be refused.
        let _ = self.backend.request(Request::Terminate);
    }

    /// `ForceShutdown` ends the process even if something in it hangs.
    pub(super) fn exit_by_force(&mut self) {
        if !std::mem::replace(&mut self.forced, true) {
            let Settings { network, runtime_dir, .. } = self.backend.settings().clone();
            last_resort::end_process(Traces { network, runtime_dir });
        }
    }
}

async fn next_answer(answers: &mut Option<mpsc::Receiver<Answer>>) -> Option<Answer> {
    match answers {
        Some(answers) => answers.recv().await,
        None => std::future::pending().await,
    }
}

async fn zbus_get(
    connection: &Connection,
    service: &str,
    path: &str,
    property: &str,
) -> zbus::Result<String> {
    let reply = connection
        .call_method(Some(service), path, Some(super::PROPERTIES), "Get", &(service, property))
        .await?;
    let body = reply.body();
    body.deserialize::<zbus::Variant<'_>>()?.downcast::<String>()
}

/// 24 of `v24.1`. Development builds have names without a number: `None`.
fn major_version(version: &str) -> Option<u32> {
    let digits = version.strip_prefix('v')?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A backend for a front end in the same process.
pub struct PrivateService {
    /// What every session has in common.
    pub settings: Settings,
    /// How sessions are started.
    pub start: StartSession,
    /// What the tunnel is called on this host.
    pub name: String,
    /// The profile to connect with.
    pub profile: OwnProfile,
    /// Answers to questions of the user-input queue.
    pub answers: mpsc::Receiver<Answer>,
    /// Verbosity, shared with the logging set-up.
    pub log_level: LogLevel,
    /// Log lines to be sent as signals.
    pub lines: mpsc::Receiver<LogLine>,
}

impl std::fmt::Debug for PrivateService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateService").finish_non_exhaustive()
    }
}

/// Serves a backend to the one peer at the other end of a socket pair, until the session is over.
///
/// # Errors
///
/// If the connection breaks.
pub async fn serve_private(
    socket: UnixStream,
    guid: &Guid<'static>,
    token: String,
    service: PrivateService,
) -> zbus::Result<()> {
    let messages = zbus::connection::Builder::unix_stream(socket)
        .server(guid.clone())
        .p2p()
        .build_message_stream()
        .await?;
    let connection = Connection::from(&messages);
    // The peer itself is what ends this service: by Disconnect, or by closing the connection.
    let (_keep, stop) = mpsc::channel(1);
    let config = ServiceConfig {
        settings: service.settings,
        start: service.start,
        own: Some(Own { name: service.name, profile: service.profile, answers: service.answers }),
        token,
        log_level: service.log_level,
        lines: service.lines,
        stop,
    };
    let service = Service::new(connection, Peers::Private, config);
    service.request_registration(&format!("{INTERFACE}.be{}", std::process::id())).await?;
    service.run(messages).await
}

/// Peers of a bus connection whose log service is about to be attached.
pub(super) fn bus_peers(manager: OwnedUniqueName) -> Peers {
    Peers::Bus { manager: Some(manager), log: LogPeer::attaching() }
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn versions_of_the_session_manager() {
        assert_eq!(major_version("v24.1"), Some(24));
        assert_eq!(major_version("v27"), Some(27));
        assert_eq!(major_version("git:master:0123"), None);
    }
}
