//! The conversation inside TLS: asking for the configuration, waiting for it, what else the server
//! says.

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::channel::{ControlChannel, Phase};
use super::error::{ControlError, LimitReached};
use super::event::{Event, PushedOptions};
use super::messages::{self, ServerMessage};
use super::push::{PUSH_REQUEST, PushReply, PushRequests};
use super::session::KeySession;
use crate::profile::{AppControl, split_push};

/// Waiting for PUSH_REPLY.
pub(super) struct Requesting {
    since: Instant,
    deadline: Instant,
    limit: Duration,
    requests: PushRequests,
    reply: PushReply,
}

impl Requesting {
    /// When waiting ends.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) const fn next_request(&self) -> Option<Instant> {
        self.requests.deadline()
    }
}

impl ControlChannel {
    /// The first key exchange is complete: ask for the configuration.
    pub(super) fn start_requesting(&mut self, now: Instant) {
        let limit = self.options.hand_window;
        self.phase = Phase::Requesting(Requesting {
            since: now,
            deadline: now + limit,
            limit,
            requests: PushRequests::new(now),
            reply: PushReply::default(),
        });
        // A server may push without being asked; then no request is needed.
        self.read_messages(now);
        self.request_push(now);
    }

    pub(super) fn request_push(&mut self, now: Instant) {
        let Phase::Requesting(push) = &mut self.phase else {
            return;
        };
        let first = push.requests.is_first();
        if !push.requests.is_due(now) {
            return;
        }
        self.send_text(PUSH_REQUEST, now);
        if first && !matches!(self.phase, Phase::Closed) {
            self.emit(Event::ConfigRequested);
        }
    }

    pub(super) fn check_push_deadline(&mut self, now: Instant) {
        if let Phase::Requesting(push) = &self.phase
            && push.deadline <= now
        {
            let limit = push.limit;
            self.close(ControlError::NoPushReply(limit));
        }
    }

    /// Reads the text messages of the complete sessions. What comes between the push reply and
    /// [`Self::accept_push`] waits.
    pub(super) fn read_messages(&mut self, now: Instant) {
        loop {
            if matches!(self.phase, Phase::Closed | Phase::Applying) {
                return;
            }
            let sessions = &mut self.sessions;
            let text = [&mut sessions.current, &mut sessions.previous]
                .into_iter()
                .flatten()
                .find_map(KeySession::next_text);
            let Some(text) = text else {
                return;
            };
            match messages::clean(&text).map(Zeroizing::new) {
                Some(text) => self.handle_message(ServerMessage::parse(&text), now),
                None if self.may_talk(now) => {
                    tracing::warn!("the server sent a message with control characters; ignored")
                }
                None => {}
            }
        }
    }

    /// Whether another message that changes nothing here, but is told or answered, may be taken:
    /// a server that talks without end fills nobody's memory and log.
    fn may_talk(&mut self, now: Instant) -> bool {
        let granted = self.talk.take(now);
        if !granted && self.talk.is_worth_telling() {
            tracing::warn!(
                "the server sends too many messages; {} so far were ignored",
                self.talk.refused()
            );
        }
        granted
    }

    fn handle_message(&mut self, message: ServerMessage, now: Instant) {
        let ends = matches!(
            message,
            ServerMessage::AuthFailed(_)
                | ServerMessage::Restart { .. }
                | ServerMessage::Halt { .. }
                | ServerMessage::Exit
        );
        let awaited = matches!(message, ServerMessage::PushReply(_))
            && matches!(self.phase, Phase::Requesting(_));
        // Parts of a longer message; see there.
        let part = matches!(message, ServerMessage::AppControl(_) | ServerMessage::PushUpdate(_));
        if !(ends || awaited || part || self.may_talk(now)) {
            return;
        }
        let event = match message {
            ServerMessage::PushReply(text) => return self.handle_push_reply(&text),
            ServerMessage::PushUpdate(text) => return self.handle_push_update(&text, now),
            ServerMessage::AuthPending { timeout } => {
                self.wait_for_authentication(timeout);
                Event::AuthPending { timeout }
            }
            ServerMessage::AuthFailed(failed) => Event::AuthFailed(failed),
            ServerMessage::PendingAuth(pending) => Event::PendingAuth(pending),
            ServerMessage::Info(text) => Event::Info(text),
            ServerMessage::AppControl(part) => return self.handle_app_control(&part, now),
            ServerMessage::AppControlAgreed(text) => return self.agree_to_app_control(&text),
            ServerMessage::Restart { reason, flags } => Event::Restart { reason, flags },
            ServerMessage::Halt { reason } => Event::Halt { reason },
            ServerMessage::Exit => Event::ServerExit,
            ServerMessage::Unknown => {
                tracing::debug!("the server sent a message that a client does not know; ignored");
                return;
            }
        };
        self.emit(event);
    }

    fn handle_push_reply(&mut self, text: &str) {
        match &mut self.phase {
            Phase::Requesting(push) => {
                push.requests.stop();
                match push.reply.add(text) {
                    Ok(None) => {}
                    Ok(Some(options)) => {
                        self.phase = Phase::Applying;
                        let session = self.sessions.current.as_mut();
                        let server_occ =
                            session.map(KeySession::take_server_options).unwrap_or_default();
                        let options = PushedOptions::new(options);
                        self.emit(Event::Pushed { options, server_occ });
                    }
                    Err(error) => self.close(error.into()),
                }
            }
            Phase::Up(_) => {
                let options = PushedOptions::new(Zeroizing::new(split_push(text)));
                self.emit(Event::PushedLater { options });
            }
            Phase::Connecting | Phase::Applying | Phase::Closed => {}
        }
    }

    /// An update is taken whole or not at all: whoever sends too many is left.
    fn handle_push_update(&mut self, text: &str, now: Instant) {
        let Phase::Up(up) = &mut self.phase else { return };
        if !up.update.is_begun() && !self.updates.take(now) {
            return self.close(LimitReached::PushUpdates.into());
        }
        match up.update.add(text) {
            Ok(None) => {}
            Ok(Some(options)) => {
                let update = PushedOptions::new(options);
                self.emit(Event::PushUpdated { update });
            }
            Err(error) => self.close(error.into()),
        }
    }

    fn handle_app_control(&mut self, part: &str, now: Instant) {
        match self.app_message.add(part) {
            Ok(None) => {}
            _ if !self.may_talk(now) => {}
            Ok(Some(message)) => {
                let allows = |agreed: &AppControl| agreed.allows(&message.protocol);
                if self.app_control.as_ref().is_some_and(allows) {
                    self.emit(Event::AppControl(message));
                } else {
                    tracing::debug!(
                        "a message of application {} was not agreed on; ignored",
                        message.protocol
                    );
                }
            }
            Err(error) => tracing::warn!("message of an application ignored: {error}"),
        }
    }

    fn agree_to_app_control(&mut self, text: &str) {
        match AppControl::from_info(text) {
            Ok(agreed) => self.app_control = Some(agreed),
            Err(error) => tracing::warn!("the server's {error}"),
        }
    }

    /// AUTH_PENDING: as long as the server says, but not longer than half a key's life. A server takes
    /// nothing that a later key has encrypted before it is satisfied, and does not tell when it is: the
    /// key before goes on sending.
    fn wait_for_authentication(&mut self, timeout: Option<Duration>) {
        let hand_window = self.options.hand_window;
        let most = self.reneg_interval().map_or(Duration::MAX, |r| (r / 2).max(hand_window));
        let limit = timeout.unwrap_or(hand_window).min(most);
        match &mut self.phase {
            Phase::Requesting(push) => {
                push.limit = limit;
                // A server's number may be beyond what the clock can hold.
                push.deadline = push.since.checked_add(push.limit).unwrap_or(push.deadline);
                push.requests.slow_down();
            }
            Phase::Up(_) => self.slots.defer_next(limit.min(self.options.tran_window / 2)),
            Phase::Connecting | Phase::Applying | Phase::Closed => {}
        }
    }

    pub(super) fn send_text(&mut self, text: &str, now: Instant) {
        let Some(session) = &mut self.sessions.current else {
            return;
        };
        let key_id = session.key_id();
        if let Err(error) = session.send_text(text) {
            session.fail();
            self.session_failed(key_id, error, now);
        }
    }
}
