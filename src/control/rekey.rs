//! Renegotiation: when a new key is negotiated, who starts, and what becomes of the old one.

use std::time::{Duration, Instant};

use ovpn_dco::{KeyConfig, KeyId};

use super::allowance::Allowance;
use super::channel::{ControlChannel, Phase};
use super::error::ControlError;
use super::event::Event;
use super::packet::Opcode;
use super::stats::ErrorCounter;

/// Renegotiations that the server starts: so many at once, so many a second. Each is a TLS
/// handshake and a new key in the kernel.
const BY_SERVER: (u32, f64) = (10, 1.0);

/// Plan of the next renegotiation.
#[derive(Debug)]
pub(super) struct Renegotiation {
    by_server: Allowance,
    /// When we start one.
    at: Option<Instant>,
    /// The key id it will use, where the one after the current key's is spent: a peer that
    /// answered a failed attempt counts it, one that never heard of it does not.
    skip_to: Option<KeyId>,
    /// Since when, and why, attempts have been failing.
    failing: Option<(Instant, ControlError)>,
}

impl Default for Renegotiation {
    fn default() -> Self {
        let by_server = Allowance::new(BY_SERVER.0, BY_SERVER.1);
        Self { by_server, at: None, skip_to: None, failing: None }
    }
}

impl ControlChannel {
    /// Starts a new key exchange now (data limits, packet ids running out). Nothing happens if one
    /// is running already or the first one is not finished.
    pub fn renegotiate(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Up(_)) || self.sessions.negotiating.is_some() {
            return;
        }
        if let Some(key_id) = self.next_key_id() {
            self.start_negotiation(key_id, now);
        }
    }

    fn next_key_id(&self) -> Option<KeyId> {
        let current = self.sessions.current.as_ref()?.key_id();
        let mut key_id = self.renegotiation.skip_to.unwrap_or_else(|| current.next());
        while self.sessions.is_live(key_id) {
            key_id = key_id.next();
        }
        Some(key_id)
    }

    fn start_negotiation(&mut self, key_id: KeyId, now: Instant) {
        self.renegotiation.at = None;
        self.sessions.negotiating = Some(self.new_session(key_id, Opcode::SoftResetV1, now));
        // A 2.x peer keeps two keys, of which the one now negotiated is one: the key before the
        // current one is no longer received.
        if let Some(change) = self.slots.promote_next(self.options.tran_window) {
            self.emit_slot_change(change);
        }
    }

    /// An authentic soft reset: the answer to ours, a repetition, or the server starts one itself.
    pub(super) fn consider_soft_reset(&mut self, key_id: KeyId, now: Instant) {
        let Phase::Up(_) = self.phase else {
            return;
        };
        if self.sessions.is_live(key_id) {
            return;
        }
        let successor = self.sessions.current.as_ref().map(|s| s.key_id().next());
        let start = match &self.sessions.negotiating {
            None => Some(key_id) == successor || Some(key_id) == self.next_key_id(),
            // Both sides disagree on the id after a failure. Ours was never answered: take theirs.
            Some(ours) => !ours.heard() && Some(key_id) == successor,
        };
        if !start {
            return;
        }
        // One that is not let in comes again, like every message that gets no acknowledgement.
        if self.renegotiation.by_server.take(now) {
            self.start_negotiation(key_id, now);
        } else if self.renegotiation.by_server.is_worth_telling() {
            tracing::warn!("the server renegotiates too often; it has to wait");
        }
    }

    pub(super) fn negotiation_deadline(&self) -> Option<Instant> {
        let session = self.sessions.negotiating.as_ref()?;
        session.started().checked_add(self.options.hand_window)
    }

    pub(super) fn check_negotiation_deadline(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Closed)
            || self.negotiation_deadline().is_none_or(|at| at > now)
        {
            return;
        }
        self.stats.count(ErrorCounter::HandshakeTimeout);
        let limit = self.options.hand_window;
        let error = match &self.sessions.negotiating {
            Some(session) if session.wants_login() => ControlError::NoLogin(limit),
            Some(session) if session.hello_is_unanswered() => ControlError::HelloUnanswered(limit),
            _ => ControlError::HandshakeTimeout(limit),
        };
        if self.sessions.current.is_some() {
            self.renegotiation_failed(error, now);
        } else {
            self.stats.closed_by(ErrorCounter::HandshakeTimeout);
            self.close(error);
        }
    }

    /// The negotiated key is complete.
    pub(super) fn negotiation_complete(&mut self, now: Instant) {
        let Some(session) = self.sessions.negotiating.take() else {
            return;
        };
        self.sessions.previous = self.sessions.current.replace(session);
        if let Some(previous) = &mut self.sessions.previous {
            // A 2.x peer takes control packets of the newest key only.
            previous.stop_retransmitting();
        }
        self.renegotiation.skip_to = None;
        self.renegotiation.failing = None;
        let Phase::Up(up) = &self.phase else {
            return self.start_requesting(now);
        };
        match self.derive(&up.parameters) {
            Ok(keys) => {
                self.install(keys, now);
                self.schedule_renegotiation(now);
            }
            Err(error) => self.close(error),
        }
    }

    /// Keeps the old key, and tries again: at once if time ran out, else (the server refused)
    /// after as long as an attempt may last.
    pub(super) fn renegotiation_failed(&mut self, error: ControlError, now: Instant) {
        let Some(mut session) = self.sessions.negotiating.take() else {
            return;
        };
        if session.heard() {
            self.renegotiation.skip_to = Some(session.key_id().next());
        }
        let started = session.started();
        session.fail();
        self.sessions.failed = Some(session);
        let pause = match error {
            ControlError::HandshakeTimeout(_)
            | ControlError::HelloUnanswered(_)
            | ControlError::NoLogin(_) => Duration::ZERO,
            _ => self.options.hand_window,
        };
        self.renegotiation.at = now.checked_add(pause);
        let since = self.renegotiation.failing.take().map_or(started, |(since, _)| since);
        self.renegotiation.failing = Some((since, error.clone()));
        self.emit(Event::RenegotiationFailed(error));
    }

    /// Puts a key into its slot; its predecessor sends on for a while.
    pub(super) fn install(&mut self, keys: KeyConfig, now: Instant) {
        let (key_id, defer) = (keys.key_id, self.defer());
        let started = self.sessions.current.as_ref().map_or(now, |s| s.started());
        for change in self.slots.install(key_id, started, defer) {
            self.emit_slot_change(change);
        }
        self.emit(Event::Keys(keys));
        self.check_keys(now);
    }

    /// How long after the start of its negotiation a key begins to send: half of its predecessor's
    /// life, as a server reckons with its own `reneg-sec`, which nobody tells us.
    fn defer(&self) -> Duration {
        let (Some(new), Some(old)) = (&self.sessions.current, &self.sessions.previous) else {
            return Duration::ZERO;
        };
        let life = new.started().saturating_duration_since(old.started());
        (life / 2).min(self.options.hand_window)
    }

    pub(super) fn reneg_interval(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Up(up) => up.parameters.reneg,
            _ => self.options.reneg,
        }
    }

    pub(super) fn check_keys(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        while let Some(change) = self.slots.due(now, self.options.tran_window) {
            self.emit_slot_change(change);
        }
    }

    pub(super) fn schedule_renegotiation(&mut self, now: Instant) {
        self.renegotiation.at =
            self.reneg_interval().and_then(|interval| now.checked_add(interval));
    }

    /// When a renegotiation starts, or the last key expires because none succeeds.
    pub(super) fn renegotiation_deadline(&self) -> Option<Instant> {
        let expires = self.key_expiry();
        match self.renegotiation.at {
            Some(at) => Some(expires.map_or(at, |e| e.min(at))),
            None => expires,
        }
    }

    fn key_expiry(&self) -> Option<Instant> {
        let (since, _) = self.renegotiation.failing.as_ref()?;
        since.checked_add(self.options.tran_window)
    }

    pub(super) fn check_renegotiation(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Up(_)) {
            return;
        }
        if self.key_expiry().is_some_and(|at| at <= now)
            && let Some((_, why)) = self.renegotiation.failing.take()
        {
            return self.close(ControlError::KeyExpired(Box::new(why)));
        }
        if self.renegotiation.at.is_some_and(|at| at <= now) {
            self.renegotiation.at = None;
            self.renegotiate(now);
        }
    }
}
