//! The life of a session: one state machine that decides every reply, every status and every
//! command to the connection.
//!
//! | State | `Connect` | `Pause` | `Resume` | `Restart` | `Disconnect` |
//! |---|---|---|---|---|---|
//! | `Unregistered` | not initialized | not initialized | not initialized | not initialized | 2,16; done |
//! | `Idle` | starts¹ | not initialized | not initialized | not initialized | 2,8 2,16; done² |
//! | `Running`, connecting | – | 2,13 | not paused | 2,12 | 2,8; ending |
//! | `Running`, connected | – | 2,13 | not paused | 2,12 | 2,8; ending |
//! | `Running`, reconnecting | – | 2,13 | not paused | 2,12 | 2,8; ending |
//! | `Running`, paused | – | already paused | 2,15 | 2,12 | 2,8; ending |
//! | `AuthFailed` | starts³ | not initialized | not initialized | not initialized | 2,8 2,16; done² |
//! | `NeedsInput` | starts¹ | not initialized | not initialized | not initialized | 2,16; done² |
//! | `Failed` | starts¹ | not initialized | not initialized | not initialized | 2,16; done² |
//! | `Ending`, `Done` | changing state | not initialized | not initialized | not initialized | – |
//!
//! A dash is success without effect. ¹ After 2,2, refused with "Required user input not provided"
//! while the queue has open questions. ² In the documented dialect an error without effect.
//! ³ Without effect while the queue has open questions: the command line client calls `Connect` once
//! more before it has noticed the failure, and takes an error for the end of the story.
//!
//! `ForceShutdown` is 2,16 and the end in every state. `Ready` fails while the queue has open
//! questions, or web authentication is pending, and succeeds otherwise.
//!
//! The session's own events move the machine on: see [`Machine::event`]. The sequences of
//! `StatusChange` and `AttentionRequired` are those of `dbus-contract` 3.3 with the improvements
//! of 11.2.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, trace};

use super::attention::{AttentionGroup, Dialect};
use super::credentials::{self, DynamicChallenge};
use super::error::Error;
use super::outcome::{Verdict, verdict};
use super::queue::{Question, Queue, Slot};
use super::signing;
use super::status::{Status, StatusMajor, StatusMinor};
use super::text::printable;
use crate::control::PendingAuth;
use crate::profile::{DnsScope, Options};
use crate::secret::{Credentials, Secret};
use crate::session::{ConnectionInfo, Outcome, SessionEvent, SessionState, SignatureRequest};

/// A session manager of OpenVPN 3 Linux 25 and later closes the session as soon as it sees (2,10),
/// before its command line client has read the reason. So the reason goes out with (2,9) first,
/// which that client does show, and (2,10) follows when it has had the time to read it.
const LAST_WORD_DELAY: Duration = Duration::from_secs(3);

/// How long `Disconnect` waits for the connection to wind up. Session managers wait 5 s.
const WIND_UP_LIMIT: Duration = Duration::from_secs(4);

/// A method that acts on the session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `Ready`
    Ready,
    /// `Connect`
    Connect,
    /// `Pause`
    Pause {
        /// Why, for the log.
        reason: String,
    },
    /// `Resume`
    Resume,
    /// `Restart`
    Restart,
    /// `Disconnect`
    Disconnect,
    /// `ForceShutdown`
    ForceShutdown,
    /// SIGTERM or SIGINT, or the session manager is gone.
    Terminate,
}

/// What everybody who listens is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Signal {
    /// `StatusChange`
    Status(Status),
    /// `AttentionRequired`
    Attention {
        /// Attention type and group in the dialect in use.
        numbers: (u32, u32),
        /// For people.
        message: String,
    },
}

/// What `RegistrationConfirmation` brought.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Which form of the method was called.
    pub dialect: Dialect,
    /// Path of the session object at the session manager, where it was told.
    pub session_path: Option<String>,
    /// Path of the profile at the configuration manager.
    pub config_path: String,
    /// The profile, or why it cannot be used. Registration succeeds all the same: only a failed
    /// connection can tell the user the reason.
    pub profile: Result<Arc<Options>, String>,
    /// The private key is encrypted, and the profile has no passphrase for it.
    pub passphrase_needed: bool,
    /// The profile's `dco` wish.
    pub dco: bool,
    /// Override `auth-fail-retry`: keep trying after the server refused the credentials.
    pub auth_fail_retry: bool,
    /// Override `dns-scope`.
    pub dns_scope: DnsScope,
}

/// What one connection attempt starts with.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) options: Arc<Options>,
    pub(super) credentials: Credentials,
    pub(super) one_time_password: bool,
    pub(super) key_passphrase: Option<Secret<String>>,
    pub(super) proxy_credentials: Option<Credentials>,
    pub(super) dco: bool,
    pub(super) auth_fail_retry: bool,
    pub(super) dns_scope: DnsScope,
}

/// What the driver has to do, in order.
#[derive(Debug)]
pub(super) enum Effect {
    Signal(Signal),
    Start(Box<Attempt>),
    Pause,
    Resume,
    Restart,
    Disconnect,
    Respond(Secret<String>),
    Sign(u32, Result<Vec<u8>, String>),
    /// Call [`Machine::timeout`] after this time; replaces a timer set before.
    Timer(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting { contacted: bool },
    Connected,
    Reconnecting,
    Paused,
    Resuming,
}

#[derive(Debug)]
struct Run {
    phase: Phase,
    /// (2,7) has been sent in this run.
    established: bool,
    web_auth: bool,
    /// The server's authentication request could not be understood; the run is being closed.
    malformed_auth: bool,
    /// The signature that is being waited for.
    signing: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Farewell {
    /// (2,9), (2,16)
    Disconnect,
    /// (2,9)
    Terminate,
    /// All has been said.
    Silent,
}

#[derive(Debug)]
enum State {
    Unregistered,
    Idle,
    Running(Run),
    AuthFailed,
    NeedsInput,
    /// The reason of a failure whose (2,10) is still due.
    Failed {
        last_word: Option<String>,
    },
    Ending(Farewell),
    Done,
}

/// The state machine. Requests and events in; replies at once, effects in a list.
#[derive(Debug)]
pub struct Machine {
    state: State,
    registration: Option<Registration>,
    queue: Queue,
    status: Status,
    challenge: Option<DynamicChallenge>,
    /// A challenge within the connection has been answered, and the front end has not yet asked
    /// `Ready` whether that was all. If the server refuses the answer before it does, the questions
    /// that open up then are not what it asks about.
    answer_outstanding: bool,
    dco_wish: bool,
    /// Say (2,9) first and (2,10) later, see [`LAST_WORD_DELAY`].
    delayed_failure: bool,
    connection: Option<ConnectionInfo>,
    /// Host of the remote in use, and whether options were pushed by it.
    session_name: Option<(String, bool)>,
    effects: Vec<Effect>,
}

impl Machine {
    /// An unregistered backend. `delayed_failure`: the session manager closes sessions by itself
    /// on (2,10).
    pub fn new(delayed_failure: bool) -> Self {
        Self {
            state: State::Unregistered,
            registration: None,
            queue: Queue::default(),
            status: Status::UNSET,
            challenge: None,
            answer_outstanding: false,
            dco_wish: true,
            delayed_failure,
            connection: None,
            session_name: None,
            effects: Vec::new(),
        }
    }

    /// Set once the session manager's version is known.
    pub fn set_delayed_failure(&mut self, delayed: bool) {
        self.delayed_failure = delayed;
    }

    /// True after a successful [`Self::register`].
    pub fn is_registered(&self) -> bool {
        self.registration.is_some()
    }

    /// The process may end: everything has been said.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The last `StatusChange` sent.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Session object at the session manager.
    pub fn session_path(&self) -> Option<&str> {
        self.registration.as_ref()?.session_path.as_deref()
    }

    /// The working connection; kept while paused.
    pub fn connection(&self) -> Option<&ConnectionInfo> {
        match &self.state {
            State::Running(Run { phase: Phase::Connected | Phase::Paused, .. }) => {
                self.connection.as_ref()
            }
            _ => None,
        }
    }

    /// The network interface and, where netcfg made it, its object.
    pub fn device(&self) -> Option<(&str, Option<&str>)> {
        let info = self.connection.as_ref()?;
        Some((&info.device, info.device_path.as_deref()))
    }

    /// Host part of the remote in use, once it has pushed options.
    pub fn session_name(&self) -> &str {
        match &self.session_name {
            Some((host, true)) => host,
            _ => "",
        }
    }

    /// Kernel offload: the wish before a connection, the truth after it.
    pub fn dco(&self) -> bool {
        match (&self.state, &self.connection) {
            (State::Running(_), Some(info)) => info.data_path != "userspace",
            _ => self.dco_wish,
        }
    }

    /// Sets the wish. False if a connection is active: then it cannot be changed.
    pub fn set_dco(&mut self, wish: bool) -> bool {
        if matches!(self.state, State::Running(_) | State::Ending(_)) {
            return false;
        }
        debug!("Session Manager change: DCO {}", if wish { "enabled" } else { "disabled" });
        self.dco_wish = wish;
        true
    }

    /// `UserInputQueueGetTypeGroup`
    pub fn type_groups(&self) -> Vec<(u32, u32)> {
        self.queue.type_groups()
    }

    /// `UserInputQueueCheck`
    pub fn check_input(&self, numbers: (u32, u32)) -> Vec<u32> {
        self.queue.check(numbers)
    }

    /// `UserInputQueueFetch`
    pub fn fetch_input(&self, numbers: (u32, u32), id: u32) -> Result<&Slot, Error> {
        self.queue.fetch(numbers, id)
    }

    /// `UserInputProvide`
    pub fn provide_input(
        &mut self,
        numbers: (u32, u32),
        id: u32,
        value: &str,
    ) -> Result<(), Error> {
        match self.queue.provide(numbers, id, value)? {
            Some(AttentionGroup::ChallengeAuthPending) => {
                let answer = self.queue.value(AttentionGroup::ChallengeAuthPending, "auth_pending");
                if let (State::Running(_), Some(answer)) = (&self.state, answer) {
                    self.effects.push(Effect::Respond(answer.clone()));
                    self.answer_outstanding = true;
                }
            }
            Some(AttentionGroup::Pkcs11Sign) => {
                let answer = self.queue.value(AttentionGroup::Pkcs11Sign, signing::SLOT);
                if let (State::Running(run), Some(answer)) = (&mut self.state, answer)
                    && let Some(id) = run.signing.take()
                {
                    self.effects.push(Effect::Sign(id, signing::decode(answer.expose())));
                }
                self.queue.remove(AttentionGroup::Pkcs11Sign);
            }
            Some(AttentionGroup::UserPassword) => {
                let user = self.queue.value(AttentionGroup::UserPassword, "username");
                let user = user.map_or("", |name| name.expose());
                debug!("Username/password provided successfully for '{user}'");
            }
            _ => {}
        }
        Ok(())
    }

    /// `RegistrationConfirmation`, once the profile has been read and the token checked.
    pub fn register(&mut self, registration: Registration) -> Result<(), Error> {
        if self.is_registered() {
            return Err(Error::already_registered());
        }
        self.dco_wish = registration.dco;
        let dialect = registration.dialect;
        let profile = registration.profile.clone();
        let passphrase_needed = registration.passphrase_needed;
        self.registration = Some(registration);
        self.state = State::Idle;
        match profile {
            Ok(options) => {
                credentials::ask_login(&mut self.queue, &options.auth, dialect);
                if passphrase_needed {
                    credentials::ask_passphrase(&mut self.queue, dialect);
                }
            }
            Err(reason) => error!(fatal = true, "Configuration parsing failed: {reason}"),
        }
        self.say_config_ok();
        if self.queue.contains(AttentionGroup::UserPassword)
            || self.queue.contains(AttentionGroup::ChallengeStatic)
        {
            self.ask_for_login();
        }
        if self.queue.contains(AttentionGroup::PkPassphrase) {
            self.ask_for_passphrase();
        }
        Ok(())
    }

    /// A method call. What follows from it is in `take_effects`.
    pub fn request(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Ready => self.ready(),
            Request::Connect => self.connect(),
            Request::Pause { reason } => self.pause(&reason),
            Request::Resume => self.resume(),
            Request::Restart => self.restart(),
            Request::Disconnect => self.disconnect(),
            Request::ForceShutdown => {
                self.force_shutdown();
                Ok(())
            }
            Request::Terminate => {
                self.terminate();
                Ok(())
            }
        }
    }

    fn ready(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.answer_outstanding) && matches!(self.state, State::AuthFailed) {
            return Ok(());
        }
        if self.queue.has_gaps() {
            return Err(Error::missing_credentials());
        }
        match &self.state {
            State::Running(Run { web_auth: true, .. }) => Err(Error::pending_web_auth()),
            _ => Ok(()),
        }
    }

    fn connect(&mut self) -> Result<(), Error> {
        match self.state {
            State::Unregistered => return Err(Error::not_initialized()),
            State::Running(_) => return Ok(()),
            State::AuthFailed if self.queue.has_gaps() => return Ok(()),
            State::Ending(_) | State::Done => return Err(Error::state_changing()),
            State::Idle | State::AuthFailed | State::NeedsInput | State::Failed { .. } => {}
        }
        self.say_config_ok();
        if self.queue.has_gaps() {
            return Err(Error::input_not_provided());
        }
        let Some(registration) = &self.registration else {
            return Err(Error::not_initialized());
        };
        info!("Starting connection");
        self.connection = None;
        self.session_name = None;
        match registration.profile.clone() {
            Ok(options) => {
                let login = credentials::login(&mut self.queue, &options, self.challenge.take());
                let passphrase =
                    self.queue.value(AttentionGroup::PkPassphrase, "pk_passphrase").cloned();
                let attempt = Attempt {
                    credentials: login.credentials,
                    one_time_password: login.one_time,
                    key_passphrase: passphrase.or_else(|| options.tls.key_passphrase.clone()),
                    proxy_credentials: credentials::proxy(&self.queue),
                    dco: self.dco_wish,
                    auth_fail_retry: registration.auth_fail_retry,
                    dns_scope: registration.dns_scope,
                    options,
                };
                self.state = State::Running(Run {
                    phase: Phase::Connecting { contacted: false },
                    established: false,
                    web_auth: false,
                    malformed_auth: false,
                    signing: None,
                });
                self.say(StatusMinor::ConnConnecting, "");
                self.effects.push(Effect::Start(Box::new(attempt)));
            }
            Err(reason) => {
                self.say(StatusMinor::ConnConnecting, "");
                self.fail_before_connected(format!("Configuration parsing failed: {reason}"));
            }
        }
        Ok(())
    }

    fn pause(&mut self, reason: &str) -> Result<(), Error> {
        let State::Running(run) = &mut self.state else {
            return Err(Error::not_initialized());
        };
        if run.phase == Phase::Paused {
            return Err(Error::already_paused());
        }
        run.phase = Phase::Paused;
        let reason = format!("Reason: {}", printable(reason));
        info!("Pausing connection");
        self.say(StatusMinor::ConnPausing, reason);
        self.effects.push(Effect::Pause);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Error> {
        let State::Running(run) = &mut self.state else {
            return Err(Error::not_initialized());
        };
        if run.phase != Phase::Paused {
            return Err(Error::not_paused());
        }
        run.phase = Phase::Resuming;
        info!("Resuming connection");
        self.say(StatusMinor::ConnResuming, "");
        self.effects.push(Effect::Resume);
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Error> {
        let State::Running(run) = &mut self.state else {
            return Err(Error::not_initialized());
        };
        // From a pause, the first step of the connection is the news that it reconnects.
        run.phase = if run.phase == Phase::Paused { Phase::Resuming } else { Phase::Reconnecting };
        info!("Restarting connection");
        self.say(StatusMinor::ConnReconnecting, "");
        self.effects.push(Effect::Restart);
        Ok(())
    }

    fn disconnect(&mut self) -> Result<(), Error> {
        let documented =
            self.registration.as_ref().is_some_and(|r| r.dialect == Dialect::Documented);
        match &self.state {
            State::Running(_) => {
                info!("Stopping VPN client");
                self.say(StatusMinor::ConnDisconnecting, "");
                self.wind_up(Farewell::Disconnect);
            }
            State::Ending(_) | State::Done => {}
            _ if documented => return Err(Error::not_connected()),
            State::Idle | State::AuthFailed => {
                info!("Stopping VPN client");
                self.say(StatusMinor::ConnDisconnecting, "");
                self.done();
            }
            State::Unregistered | State::NeedsInput | State::Failed { .. } => self.done(),
        }
        Ok(())
    }

    fn force_shutdown(&mut self) {
        info!("Forcing shutdown of the backend process");
        match self.state {
            State::Done => {}
            State::Ending(Farewell::Silent) => {}
            State::Running(_) | State::Ending(_) => {
                self.say(StatusMinor::ConnDone, "");
                self.wind_up(Farewell::Silent);
            }
            _ => self.done(),
        }
    }

    fn terminate(&mut self) {
        match self.state {
            State::Running(_) => self.wind_up(Farewell::Terminate),
            State::Ending(_) | State::Done => {}
            _ => {
                self.say(StatusMinor::ConnDisconnected, "");
                self.state = State::Done;
            }
        }
    }

    /// The session's news.
    pub fn event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::State(state) => self.progress(state),
            SessionEvent::PendingAuth(pending) => self.pending_auth(pending),
            SessionEvent::Info(text) => info!("Message from the server: {}", printable(&text)),
            SessionEvent::Sign(request) => self.sign(&request),
            SessionEvent::Ended(outcome) => self.ended(outcome),
        }
    }

    /// The private key is outside (a token, say): whoever has it signs. See [`super::signing`] for
    /// the encoding.
    fn sign(&mut self, request: &SignatureRequest) {
        let dialect = self.dialect();
        let State::Running(run) = &mut self.state else { return };
        run.signing = Some(request.id);
        let connecting = run.phase != Phase::Connected;
        let group = AttentionGroup::Pkcs11Sign;
        let question = Question::new(signing::SLOT, signing::encode(request), true);
        self.queue.renew(group, dialect, [question]);
        let text = "Signature by the external private key needed";
        self.ask(group, text);
        // A renegotiation asks, too: the tunnel goes on working meanwhile.
        if connecting {
            self.say(StatusMinor::CfgRequireUser, text);
        }
    }

    fn progress(&mut self, state: SessionState) {
        let State::Running(run) = &mut self.state else { return };
        if run.phase == Phase::Resuming && state != SessionState::Paused {
            run.phase = Phase::Reconnecting;
            self.say(StatusMinor::ConnReconnecting, "");
            // The session may call its first step after a pause a reconnection, too.
            if matches!(state, SessionState::Reconnecting { .. }) {
                return;
            }
        }
        let State::Running(run) = &mut self.state else { return };
        match state {
            SessionState::Resolving { host } => trace!("Resolving {}", printable(&host)),
            SessionState::Waiting { host, .. } => {
                debug!("Waiting for server response");
                self.session_name = Some((host, false));
            }
            SessionState::Authenticating => {
                if run.phase == (Phase::Connecting { contacted: false }) {
                    run.phase = Phase::Connecting { contacted: true };
                    self.say(StatusMinor::ConnConnecting, "");
                }
            }
            SessionState::GetConfig => trace!("Retrieving configuration from server"),
            SessionState::Configuring => {
                if let Some((host, pushed)) = &mut self.session_name {
                    trace!("Session name: '{host}'");
                    *pushed = true;
                }
            }
            SessionState::Connected(info) => {
                run.phase = Phase::Connected;
                run.established = true;
                run.web_auth = false;
                self.queue.remove(AttentionGroup::ChallengeAuthPending);
                info!("{}", connected_line(&info));
                self.session_name = Some((info.host.clone(), true));
                self.connection = Some(info);
                self.say(StatusMinor::ConnConnected, "");
            }
            SessionState::Reconnecting { reason } => {
                run.web_auth = false;
                let established = run.established;
                if established && run.phase != Phase::Paused {
                    run.phase = Phase::Reconnecting;
                }
                self.queue.remove(AttentionGroup::ChallengeAuthPending);
                self.queue.remove(AttentionGroup::Pkcs11Sign);
                let reason = printable(&reason);
                if established {
                    info!("Reconnecting: {reason}");
                    self.say(StatusMinor::ConnReconnecting, "");
                } else {
                    info!("Connection attempt failed: {reason}; trying again");
                }
            }
            SessionState::Paused => {
                run.web_auth = false;
                self.queue.remove(AttentionGroup::ChallengeAuthPending);
                self.queue.remove(AttentionGroup::Pkcs11Sign);
                self.say(StatusMinor::ConnPaused, "");
            }
        }
    }

    fn pending_auth(&mut self, pending: PendingAuth) {
        let dialect = self.dialect();
        let State::Running(run) = &mut self.state else { return };
        match pending {
            PendingAuth::OpenUrl { url, flags } => {
                run.web_auth = true;
                let url = printable(&url);
                debug!("Web authentication, flags: {}", printable(&flags.join(",")));
                self.ask(AttentionGroup::OpenUrl, &url);
                self.say_status(Status {
                    major: StatusMajor::Session,
                    minor: StatusMinor::SessAuthUrl,
                    message: url,
                });
            }
            PendingAuth::Challenge { echo, response_required: true, text } => {
                let text = printable(&text);
                let group = AttentionGroup::ChallengeAuthPending;
                let question = Question::new("auth_pending", &*text, !echo);
                self.queue.renew(group, dialect, [question]);
                self.ask(group, &text);
                self.say(StatusMinor::CfgRequireUser, text);
            }
            PendingAuth::Challenge { response_required: false, text, .. } => {
                info!("Message from the server: {}", printable(&text));
            }
            PendingAuth::Malformed(text) => {
                error!("Authentication request that cannot be decoded: {}", printable(&text));
                run.malformed_auth = true;
                self.effects.push(Effect::Disconnect);
            }
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        let run = match std::mem::replace(&mut self.state, State::NeedsInput) {
            State::Running(run) => run,
            State::Ending(farewell) => {
                self.state = State::Ending(farewell);
                self.say_farewell();
                return;
            }
            other => {
                self.state = other;
                return;
            }
        };
        self.queue.remove(AttentionGroup::ChallengeAuthPending);
        self.queue.remove(AttentionGroup::Pkcs11Sign);
        self.connection = None;
        let dialect = self.dialect();
        let verdict = if run.malformed_auth {
            Verdict::AuthFailed("Failed to decode authentication request from server".to_owned())
        } else {
            verdict(outcome)
        };
        match verdict {
            Verdict::AuthFailed(message) => {
                debug!("{message}");
                self.state = State::AuthFailed;
                self.ask_login_again();
                self.say(StatusMinor::ConnAuthFailed, message);
            }
            Verdict::Challenge { echo, response_required, state_id, username, text } => {
                let text = printable(&text);
                let mut question = Question::new("dynamic_challenge", &*text, !echo);
                if !response_required {
                    question = question.answered(Secret::default());
                }
                let cookie = Question::new("dynamic_challenge_cookie", "", true)
                    .answered(Secret::new(state_id.clone()));
                let group = AttentionGroup::ChallengeDynamic;
                self.queue.renew(group, dialect, [question, cookie]);
                self.challenge = Some(DynamicChallenge { state_id, username });
                self.ask(group, &text);
                self.say(StatusMinor::CfgRequireUser, "Dynamic Challenge");
            }
            Verdict::NeedCredentials => {
                if self.ask_login_again() {
                    self.ask_for_login();
                } else {
                    self.fail(
                        &run,
                        "The server wants credentials, the profile has no \
                                     auth-user-pass"
                            .to_owned(),
                    );
                }
            }
            Verdict::NeedProxyCredentials => {
                credentials::ask_proxy(&mut self.queue, dialect);
                self.ask(AttentionGroup::HttpProxyCreds, "");
                self.say(StatusMinor::CfgRequireUser, "HTTP proxy credentials");
            }
            Verdict::NeedPassphrase => {
                credentials::ask_passphrase(&mut self.queue, dialect);
                self.ask_for_passphrase();
            }
            Verdict::WrongPassphrase(message) => {
                credentials::ask_passphrase(&mut self.queue, dialect);
                self.fail(&run, message);
            }
            Verdict::Inactive => {
                self.say(StatusMinor::ConnDone, "Inactive tunnel, disconnected");
                self.state = State::Done;
            }
            Verdict::Halted(message) if run.established => {
                error!("{message}");
                self.state = State::Failed { last_word: None };
                self.say(StatusMinor::ConnFailed, message);
                self.say(StatusMinor::ConnDisconnected, "");
            }
            Verdict::Halted(message) | Verdict::Failed(message) => self.fail(&run, message),
        }
    }

    fn fail(&mut self, run: &Run, message: String) {
        if run.established {
            error!("Connection failed: {message}");
            self.state = State::Failed { last_word: None };
            self.say(StatusMinor::ConnFailed, message);
        } else {
            self.fail_before_connected(message);
        }
    }

    fn fail_before_connected(&mut self, message: String) {
        let message = printable(&message);
        error!("Connection failed: {message}");
        if self.delayed_failure {
            self.say(StatusMinor::ConnDisconnected, &*message);
            self.state = State::Failed { last_word: Some(message) };
            self.effects.push(Effect::Timer(LAST_WORD_DELAY));
        } else {
            self.state = State::Failed { last_word: None };
            self.say(StatusMinor::ConnFailed, message);
        }
    }

    /// The time asked for by [`Effect::Timer`] has passed.
    pub(super) fn timeout(&mut self) {
        match &mut self.state {
            State::Failed { last_word } => {
                if let Some(message) = last_word.take() {
                    self.say(StatusMinor::ConnFailed, message);
                }
            }
            State::Ending(_) => {
                error!("The connection did not wind up in time");
                self.say_farewell();
            }
            _ => {}
        }
    }

    /// What has to be done since the last call, in order.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn wind_up(&mut self, farewell: Farewell) {
        self.state = State::Ending(farewell);
        self.effects.push(Effect::Disconnect);
        self.effects.push(Effect::Timer(WIND_UP_LIMIT));
    }

    fn say_farewell(&mut self) {
        if let State::Ending(farewell) = self.state {
            if farewell != Farewell::Silent {
                self.say(StatusMinor::ConnDisconnected, "");
                info!("Disconnected");
            }
            if farewell == Farewell::Disconnect {
                self.say(StatusMinor::ConnDone, "");
            }
            self.state = State::Done;
        }
    }

    fn done(&mut self) {
        self.say(StatusMinor::ConnDone, "");
        self.state = State::Done;
    }

    fn dialect(&self) -> Dialect {
        self.registration.as_ref().map(|r| r.dialect).unwrap_or_default()
    }

    fn ask_login_again(&mut self) -> bool {
        self.challenge = None;
        match &self.registration {
            Some(Registration { profile: Ok(options), dialect, .. }) => {
                credentials::ask_login_again(&mut self.queue, &options.auth, *dialect)
            }
            _ => false,
        }
    }

    fn ask_for_login(&mut self) {
        let text = "Username/password credentials needed";
        self.ask(AttentionGroup::UserPassword, text);
        self.say(StatusMinor::CfgRequireUser, text);
    }

    fn ask_for_passphrase(&mut self) {
        self.ask(AttentionGroup::PkPassphrase, "Private key passphrase needed");
        self.say(StatusMinor::CfgRequireUser, "Private key passphrase needed to connect");
    }

    fn say_config_ok(&mut self) {
        let path = self.registration.as_ref().map_or("", |r| &r.config_path);
        let message = format!("config_path={path}");
        self.say(StatusMinor::CfgOk, message);
    }

    fn say(&mut self, minor: StatusMinor, message: impl Into<String>) {
        self.say_status(Status::connection(minor, message));
    }

    fn say_status(&mut self, mut status: Status) {
        status.message = printable(&status.message);
        self.status = status.clone();
        self.effects.push(Effect::Signal(Signal::Status(status)));
    }

    fn ask(&mut self, group: AttentionGroup, message: &str) {
        let numbers = group.numbers(self.dialect());
        let message = printable(message);
        self.effects.push(Effect::Signal(Signal::Attention { numbers, message }));
    }
}

/// `Connected: [user@]host:port (ip) via /UDP on tun/<v4>/<v6> gw=[<gw4>/<gw6>] mtu=N`
fn connected_line(info: &ConnectionInfo) -> String {
    let user = match info.username.as_str() {
        "" => String::new(),
        name => format!("{}@", printable(name)),
    };
    format!(
        "Connected: {user}{}:{} ({}) via /{} on {}/{} gw=[{}] mtu={} cipher={}",
        info.host,
        info.address.port(),
        info.address.ip(),
        format!("{:?}", info.protocol).to_uppercase(),
        info.device,
        info.tunnel.join("/"),
        info.gateways.join("/"),
        info.mtu,
        info.cipher,
    )
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
