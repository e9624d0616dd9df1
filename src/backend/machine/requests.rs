//! What a method call does: one row of the table in [`super`] after the other.

use tracing::{debug, error, info};

use super::super::attention::{AttentionGroup, Dialect};
use super::super::credentials::{self, Login};
use super::super::error::Error;
use super::super::queue::Slot;
use super::super::signing;
use super::super::status::StatusMinor;
use super::{Attempt, Effect, Farewell, Machine, Phase, Registration, Request, Run, State};
use crate::session::{Command, Wish};
use crate::text::printable;

impl Machine {
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
                    let answer = Command::Respond(answer.clone());
                    self.tell_session(answer);
                }
            }
            Some(AttentionGroup::Pkcs11Sign) => {
                let answer = self.queue.value(AttentionGroup::Pkcs11Sign, signing::SLOT);
                if let (State::Running(run), Some(answer)) = (&mut self.state, answer)
                    && let Some(id) = run.signing.take()
                {
                    let signature = signing::decode(answer.expose());
                    self.tell_session(Command::Sign { id, signature });
                }
                self.queue.remove(AttentionGroup::Pkcs11Sign);
            }
            Some(AttentionGroup::UserPassword) => {
                let user = self.queue.value(AttentionGroup::UserPassword, "username");
                let user = user.map_or("", |name| name.expose());
                debug!("Username/password provided successfully for '{user}'");
                self.log_in();
            }
            Some(AttentionGroup::ChallengeStatic) => self.log_in(),
            _ => {}
        }
        Ok(())
    }

    /// Gives a renegotiation what it waits for, once that is complete.
    fn log_in(&mut self) {
        let State::Running(run) = &mut self.state else { return };
        let groups = [AttentionGroup::UserPassword, AttentionGroup::ChallengeStatic];
        if !run.login_wanted || groups.into_iter().any(|group| self.queue.is_open(group)) {
            return;
        }
        run.login_wanted = false;
        if let Some(Registration { profile: Ok(options), .. }) = &self.registration {
            let login = credentials::login(&mut self.queue, options, None);
            let Login { credentials, one_time } = login;
            self.tell_session(Command::LogIn { credentials, one_time });
        }
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
            State::AuthFailed { questions_due } if questions_due || self.queue.has_gaps() => {
                return Ok(());
            }
            State::Ending(_) | State::Done => return Err(Error::state_changing()),
            State::Idle | State::AuthFailed { .. } | State::NeedsInput | State::Failed { .. } => {}
        }
        self.say_config_ok();
        if self.challenge.is_none() {
            self.ask_for_what_was_used_up();
        }
        if self.queue.is_spent(AttentionGroup::PkPassphrase) {
            let dialect = self.dialect();
            credentials::ask_passphrase(&mut self.queue, dialect);
            self.ask_for_passphrase();
        }
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
                let attempt = Attempt {
                    credentials: login.credentials,
                    one_time_password: login.one_time,
                    key_passphrase: credentials::passphrase(&self.queue, &options),
                    proxy_credentials: credentials::proxy(&self.queue),
                    dco: self.dco_wish,
                    auth_fail_retry: registration.auth_fail_retry,
                    dns_scope: registration.dns_scope,
                    options,
                };
                self.state = State::Running(Run {
                    phase: Phase::Connecting { contacted: false },
                    pauses_due: 0,
                    established: false,
                    web_auth: false,
                    malformed_auth: false,
                    login_wanted: false,
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

    /// Before another attempt: what `auth-nocache` has had forgotten, and the answer to a challenge,
    /// which is good for one login.
    fn ask_for_what_was_used_up(&mut self) {
        if self.queue.is_spent(AttentionGroup::UserPassword) {
            self.ask_login_again();
        } else if self.queue.is_spent(AttentionGroup::ChallengeStatic) {
            let dialect = self.dialect();
            if let Some(Registration { profile: Ok(options), .. }) = &self.registration {
                credentials::ask_static_challenge(&mut self.queue, &options.auth, dialect);
            }
        } else {
            return;
        }
        self.ask_for_login();
    }

    fn pause(&mut self, reason: &str) -> Result<(), Error> {
        let State::Running(run) = &mut self.state else {
            return Err(Error::not_initialized());
        };
        if run.phase == Phase::Paused {
            return Err(Error::already_paused());
        }
        run.phase = Phase::Paused;
        run.pauses_due = run.pauses_due.saturating_add(1);
        let reason = format!("Reason: {}", printable(reason));
        info!("Pausing connection");
        self.say(StatusMinor::ConnPausing, reason);
        self.tell_session(Wish::Pause);
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
        self.tell_session(Wish::Resume);
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
        self.tell_session(Wish::Restart);
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
            State::Idle | State::AuthFailed { .. } => {
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
}
