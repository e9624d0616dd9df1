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
//! ³ Without effect while the queue has open questions, or is about to have them: the command line
//! client calls `Connect` once more before it has noticed the failure, and takes an error for the end
//! of the story.
//!
//! `ForceShutdown` is 2,16 and the end in every state. `Ready` fails while the queue has open
//! questions, or web authentication is pending, and succeeds otherwise.
//!
//! The session's own events move the machine on: see [`Machine::event`]. The sequences of
//! `StatusChange` and `AttentionRequired` are those of `dbus-contract` 3.3 with the improvements
//! of 11.2.

mod events;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info};

use super::attention::{AttentionGroup, Dialect};
use super::credentials::{self, DynamicChallenge};
use super::queue::Queue;
use super::status::{Status, StatusMinor};
use crate::ending;
use crate::profile::{DnsScope, Options, OverrideError, ProfileErrors};
use crate::secret::{Credentials, Secret};
use crate::session::{Command, ConnectionInfo, Wish};
use crate::text::{excerpt, printable};

/// A session manager of OpenVPN 3 Linux 25 and later closes the session as soon as it sees (2,10),
/// before its command line client has read the reason. So the reason goes out with (2,9) first,
/// which that client does show, and (2,10) follows when it has had the time to read it.
const LAST_WORD_DELAY: Duration = Duration::from_secs(3);

/// The command line client that has read (2,4) asks for whatever the queue has open, a moment after
/// the answer which the server then refused: it has not seen the (2,11). So the questions for another
/// try open only when it has had the time to.
const QUESTIONS_DELAY: Duration = Duration::from_secs(3);

/// Longest text of a signal, in bytes: more than the longest web address has.
const MAX_MESSAGE: usize = 16 * 1024;

const LOGIN_NEEDED: &str = "Username/password credentials needed";

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

/// Why a profile makes no connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnusableProfile {
    /// Its own lines.
    #[error("{}", .0.to_string().replace('\n', "; "))]
    Profile(ProfileErrors),
    /// Overrides without which the connection would be another one.
    #[error("{}", in_one_line(.0))]
    Overrides(Vec<OverrideError>),
}

fn in_one_line(errors: &[OverrideError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
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
    pub profile: Result<Arc<Options>, UnusableProfile>,
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
    /// To the session that runs.
    Session(Command),
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
    /// How many pauses the session has been told of and has not come to yet.
    pauses_due: u32,
    /// There has been a working connection in this run.
    established: bool,
    web_auth: bool,
    /// The server's authentication request could not be understood; the run is being closed.
    malformed_auth: bool,
    /// A renegotiation waits for user name and password.
    login_wanted: bool,
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
    /// The questions for another try are open, or will be after [`QUESTIONS_DELAY`].
    AuthFailed {
        questions_due: bool,
    },
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
            (State::Running(_), Some(info)) => info.data_path.is_kernel(),
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

    /// What has to be done since the last call, in order.
    pub(in crate::backend) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn wind_up(&mut self, farewell: Farewell) {
        self.state = State::Ending(farewell);
        self.tell_session(Wish::Disconnect);
        self.effects.push(Effect::Timer(ending::ANSWER));
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
        self.ask(AttentionGroup::UserPassword, LOGIN_NEEDED);
        self.say(StatusMinor::CfgRequireUser, LOGIN_NEEDED);
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

    fn tell_session(&mut self, command: impl Into<Command>) {
        self.effects.push(Effect::Session(command.into()));
    }

    fn say(&mut self, minor: StatusMinor, message: impl Into<String>) {
        self.say_status(Status::connection(minor, message));
    }

    fn say_status(&mut self, mut status: Status) {
        status.message = printable(&excerpt(&status.message, MAX_MESSAGE));
        self.status = status.clone();
        self.effects.push(Effect::Signal(Signal::Status(status)));
    }

    fn ask(&mut self, group: AttentionGroup, message: &str) {
        let numbers = group.numbers(self.dialect());
        let message = printable(&excerpt(message, MAX_MESSAGE));
        self.effects.push(Effect::Signal(Signal::Attention { numbers, message }));
    }
}

#[cfg(test)]
mod tests;
