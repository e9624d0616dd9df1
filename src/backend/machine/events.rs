//! What the session's news and the passing of time do.

use tracing::{debug, error, info, trace};

use super::super::attention::AttentionGroup;
use super::super::credentials::{self, DynamicChallenge};
use super::super::outcome::{Verdict, verdict};
use super::super::queue::Question;
use super::super::signing;
use super::super::status::{Status, StatusMajor, StatusMinor};
use super::{Effect, LAST_WORD_DELAY, LOGIN_NEEDED, Machine, Phase, QUESTIONS_DELAY, Run, State};
use crate::control::PendingAuth;
use crate::secret::Secret;
use crate::session::{ConnectionInfo, Outcome, SessionEvent, SessionState, SignatureRequest, Wish};
use crate::text::printable;

impl Machine {
    /// The session's news.
    pub fn event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::State(state) => self.progress(state),
            SessionEvent::PendingAuth(pending) => self.pending_auth(pending),
            SessionEvent::CredentialsNeeded => self.login_needed(),
            SessionEvent::Info(text) => info!("Message from the server: {}", printable(&text)),
            SessionEvent::Sign(request) => self.sign(&request),
            SessionEvent::Ended(outcome) => self.ended(outcome),
        }
    }

    /// A renegotiation asks; the tunnel goes on working meanwhile. It asks again when it gets no
    /// answer, and the questions stay as they are.
    fn login_needed(&mut self) {
        match &mut self.state {
            State::Running(run) if !run.login_wanted => run.login_wanted = true,
            _ => return,
        }
        if self.ask_login_again() {
            self.ask(AttentionGroup::UserPassword, LOGIN_NEEDED);
        }
    }

    /// The private key is outside (a token, say): whoever has it signs. See
    /// [`crate::backend::signing`] for the encoding.
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
        if state == SessionState::Paused {
            run.pauses_due = run.pauses_due.saturating_sub(1);
        }
        // The session finishes what it is at before it pauses. What it tells until then is the
        // past: it ends no pause, and begins no resumption.
        let outdated = run.pauses_due > 0;
        if run.phase == Phase::Resuming && !outdated && state != SessionState::Paused {
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
            SessionState::Waiting { host, .. } => self.session_name = Some((host, false)),
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
                run.established = true;
                run.web_auth = false;
                self.queue.remove(AttentionGroup::ChallengeAuthPending);
                // The session has opened the key, and keeps it open for as long as it lives. Not
                // before this: a challenge that the server answers with leads to another session.
                let profile = self.registration.as_ref().map(|r| &r.profile);
                if matches!(profile, Some(Ok(options)) if options.auth.nocache) {
                    self.queue.spend(AttentionGroup::PkPassphrase);
                }
                info!("{}", connected_line(&info));
                self.session_name = Some((info.host.clone(), true));
                self.connection = Some(info);
                if !outdated {
                    run.phase = Phase::Connected;
                    self.say(StatusMinor::ConnConnected, "");
                }
            }
            SessionState::Reconnecting { reason } => {
                run.web_auth = false;
                let login_wanted = std::mem::take(&mut run.login_wanted);
                let established = run.established;
                if established && !outdated {
                    run.phase = Phase::Reconnecting;
                }
                self.take_questions_back(login_wanted);
                let reason = printable(&reason);
                if established {
                    info!("Reconnecting: {reason}");
                    if !outdated {
                        self.say(StatusMinor::ConnReconnecting, "");
                    }
                } else {
                    info!("Connection attempt failed: {reason}; trying again");
                }
            }
            SessionState::Paused => {
                let lasting = run.phase == Phase::Paused && !outdated;
                run.web_auth = false;
                let login_wanted = std::mem::take(&mut run.login_wanted);
                self.take_questions_back(login_wanted);
                if lasting {
                    self.say(StatusMinor::ConnPaused, "");
                }
            }
        }
    }

    /// The connection that asked is over. `login_wanted`: a renegotiation has asked for user name and
    /// password; the next connection asks for them by itself, unless it has a token.
    fn take_questions_back(&mut self, login_wanted: bool) {
        self.queue.remove(AttentionGroup::ChallengeAuthPending);
        self.queue.remove(AttentionGroup::Pkcs11Sign);
        if login_wanted {
            self.queue.spend(AttentionGroup::UserPassword);
            self.queue.spend(AttentionGroup::ChallengeStatic);
        }
    }

    fn pending_auth(&mut self, pending: PendingAuth) {
        let dialect = self.dialect();
        let State::Running(run) = &mut self.state else { return };
        match pending {
            PendingAuth::OpenUrl { url, flags } => {
                // In a renegotiation nothing tells when it is done.
                run.web_auth = run.phase != Phase::Connected;
                let url = url.to_string();
                debug!("Web authentication, flags: {}", printable(&flags.join(",")));
                self.ask(AttentionGroup::OpenUrl, &url);
                self.say_status(Status {
                    major: StatusMajor::Session,
                    minor: StatusMinor::SessAuthUrl,
                    message: url,
                });
            }
            PendingAuth::Challenge { echo, response_required: true, text } => {
                let connecting = run.phase != Phase::Connected;
                let text = printable(&text);
                let group = AttentionGroup::ChallengeAuthPending;
                let question = Question::new("auth_pending", &*text, !echo);
                self.queue.renew(group, dialect, [question]);
                self.ask(group, &text);
                // A renegotiation asks, too: the tunnel goes on working meanwhile.
                if connecting {
                    self.say(StatusMinor::CfgRequireUser, text);
                }
            }
            PendingAuth::Challenge { response_required: false, text, .. } => {
                info!("Message from the server: {}", printable(&text));
            }
            PendingAuth::Malformed(text) => {
                error!("Authentication request that cannot be decoded: {}", printable(&text));
                run.malformed_auth = true;
                self.tell_session(Wish::Disconnect);
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
                // After the answer to a challenge within the connection.
                let questions_due = self.status.minor == StatusMinor::CfgRequireUser;
                self.state = State::AuthFailed { questions_due };
                if questions_due {
                    self.effects.push(Effect::Timer(QUESTIONS_DELAY));
                } else {
                    self.ask_login_again();
                }
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

    pub(super) fn fail_before_connected(&mut self, message: String) {
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
    pub(in crate::backend) fn timeout(&mut self) {
        match &mut self.state {
            State::Failed { last_word } => {
                if let Some(message) = last_word.take() {
                    self.say(StatusMinor::ConnFailed, message);
                }
            }
            State::AuthFailed { questions_due: due @ true } => {
                *due = false;
                self.ask_login_again();
            }
            State::Ending(_) => {
                error!("The connection did not wind up in time");
                self.say_farewell();
            }
            _ => {}
        }
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
        info.protocol,
        info.device,
        info.tunnel.join("/"),
        info.gateways.join("/"),
        info.mtu,
        info.cipher.name(),
    )
}
