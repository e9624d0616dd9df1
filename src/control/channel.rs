//! [`ControlChannel`]: packets and time in, packets and events out. What happens to keys after the
//! first one is in [`super::rekey`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ovpn_dco::KeyId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zeroize::Zeroizing;

use super::allowance::Allowance;
use super::app_control::{self, AppControlError, AppMessage, Assembly};
use super::dialogue::Requesting;
use super::error::{ApiMisuse, ControlError, HostFailure, PeerMisbehaved};
use super::event::{ControlConfig, Event, NegotiatedParameters, TransportKind};
use super::key_method::ClientRandoms;
use super::key_schedule::{DYNAMIC_TLS_CRYPT_LABEL, KEY_BLOCK_LEN};
use super::messages;
use super::packet::{Body, Header, Opcode, SESSION_ID_LEN, SessionId};
use super::push::{PUSH_REQUEST, PushReply};
use super::rekey::Renegotiation;
use super::session::{Hello, KeySession, Sessions, Stage};
use super::slots::{KeySlots, SlotChange};
use super::stats::{ControlStats, ErrorCounter};
use super::wrap::{Side, UnwrapError, Wrapper};
use crate::profile::{AppControl, ControlOptions, WrapOptions};
use crate::secret::Credentials;
use crate::tls::{TlsFactory, TlsSession};

/// Control packets may come late, but not so late that the window of data packets fits them.
const MIN_REPLAY_WINDOW: u32 = 64;

/// Messages of the server that are told or answered: so many at once, so many a second.
const TALK: (u32, f64) = (32, 1.0);
/// Updates of what was pushed, each of which may change the host's routes: at once, and a second.
const UPDATES: (u32, f64) = (64, 2.0);

/// Resets without an acknowledgement that are kept for the one that may follow.
const MAX_EARLY: usize = 4;

/// How long an alert in clear text waits for something else from the server in its place.
const ALERT_DELAY: Duration = Duration::from_secs(2);

/// One connection attempt's control channel. Client role.
///
/// Call [`Self::handle_packet`], [`Self::handle_timeout`] and the commands as things happen; after
/// each call do what [`Self::poll_output`] says until it says to wait.
pub struct ControlChannel {
    pub(super) options: ControlOptions,
    pub(super) phase: Phase,
    pub(super) sessions: Sessions,
    pub(super) slots: KeySlots,
    pub(super) renegotiation: Renegotiation,
    pub(super) stats: ControlStats,
    pub(super) app_control: Option<AppControl>,
    pub(super) app_message: Assembly,
    pub(super) talk: Allowance,
    pub(super) updates: Allowance,
    /// Resets that acknowledge nothing, with whose they are: some servers acknowledge ours in a
    /// packet of its own, and over TCP neither comes again.
    early: VecDeque<(SessionId, Vec<u8>)>,
    /// One that anybody may have sent.
    alert: Option<Alert>,
    transport: TransportKind,
    ipv6: bool,
    tls: Arc<dyn TlsFactory>,
    occ: String,
    peer_info: String,
    rng: StdRng,
    pub(super) started: Instant,
    pub(super) unix_time: u64,
    pub(super) wrapper: Wrapper,
    /// Dynamic tls-crypt: for every key but the first.
    pub(super) dynamic_wrapper: Option<Wrapper>,
    pub(super) local: SessionId,
    pub(super) peer: Option<SessionId>,
    last_received: Option<Instant>,
    pub(super) events: VecDeque<Event>,
    pub(super) scratch: Zeroizing<Vec<u8>>,
}

/// An alert in clear text that waits for something else in its place.
struct Alert {
    /// When it counts.
    at: Instant,
    key_id: KeyId,
    message_id: u32,
    payload: Vec<u8>,
}

/// What the connection is waiting for.
pub(super) enum Phase {
    /// The first key.
    Connecting,
    /// PUSH_REPLY.
    Requesting(Requesting),
    /// The caller's [`ControlChannel::accept_push`].
    Applying,
    /// Nothing: it works.
    Up(Up),
    /// Over.
    Closed,
}

pub(super) struct Up {
    /// What has come of an update.
    pub(super) update: PushReply,
    pub(super) parameters: NegotiatedParameters,
}

impl ControlChannel {
    /// Starts an attempt: the first packet is ready to be sent.
    ///
    /// # Errors
    /// [`ApiMisuse::WrapKey`]: the wrapping key is too short for its use.
    pub fn new(mut config: ControlConfig, now: Instant) -> Result<Self, ControlError> {
        let mut rng = StdRng::from_seed(config.seed);
        zeroize::Zeroize::zeroize(&mut config.seed);
        let local = loop {
            let mut bytes = [0; SESSION_ID_LEN];
            rng.fill_bytes(&mut bytes);
            if let Some(id) = SessionId::new(bytes) {
                break id;
            }
        };
        let (ids, expiry) = config.options.replay_window;
        let window = (ids.max(MIN_REPLAY_WINDOW) as usize, expiry);
        let wrapper =
            Wrapper::new(&config.wrap, Side::Client, window).map_err(ApiMisuse::WrapKey)?;
        let reset = match config.wrap {
            WrapOptions::TlsCryptV2 { .. } => Opcode::HardResetClientV3,
            _ => Opcode::HardResetClientV2,
        };
        let mut channel = Self {
            options: config.options,
            phase: Phase::Connecting,
            sessions: Sessions::default(),
            slots: KeySlots::default(),
            renegotiation: Renegotiation::default(),
            stats: ControlStats::default(),
            app_control: None,
            app_message: Assembly::default(),
            talk: Allowance::new(TALK.0, TALK.1),
            updates: Allowance::new(UPDATES.0, UPDATES.1),
            early: VecDeque::new(),
            alert: None,
            transport: config.transport,
            ipv6: config.ipv6,
            tls: config.tls,
            occ: config.occ,
            peer_info: config.peer_info,
            rng,
            started: now,
            unix_time: config.unix_time,
            wrapper,
            dynamic_wrapper: None,
            local,
            peer: None,
            last_received: None,
            events: VecDeque::new(),
            scratch: Zeroizing::default(),
        };
        channel.sessions.negotiating = Some(channel.new_session(KeyId::FIRST, reset, now));
        Ok(channel)
    }

    /// Takes in one packet without TCP length, never a data packet (opcodes 6 and 9). Decrypts in
    /// place. True if it was authentic and belongs to this connection: a sign of life.
    pub fn handle_packet(&mut self, packet: &mut [u8], now: Instant) -> bool {
        if matches!(self.phase, Phase::Closed) {
            return false;
        }
        self.stats.packets_in += 1;
        self.stats.bytes_in += packet.len() as u64;
        match self.accept_packet(packet, now) {
            Ok(key_id) => {
                self.last_received = Some(now);
                self.advance(key_id, now);
                true
            }
            Err(counter) => {
                self.stats.count(counter);
                // Strangers can send as many as they like.
                let so_far = self.stats.error(counter);
                if so_far.is_power_of_two() {
                    tracing::debug!(
                        error = counter.counter().name(),
                        so_far,
                        "control packet dropped"
                    );
                }
                false
            }
        }
    }

    /// Lets the handshake go on after TLS called its [`crate::tls::Waker`]: an external private
    /// key has signed, or refused.
    pub fn handle_tls_ready(&mut self, now: Instant) {
        self.go_on(now);
    }

    /// Lets the key exchange under way go on without a packet.
    fn go_on(&mut self, now: Instant) {
        if let Some(key_id) = self.sessions.negotiating.as_ref().map(KeySession::key_id) {
            self.advance(key_id, now);
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.check_alert(now);
        self.check_negotiation_deadline(now);
        self.check_push_deadline(now);
        self.request_push(now);
        self.check_keys(now);
        self.check_renegotiation(now);
        if self.sessions.failed.as_ref().is_some_and(|s| s.is_spent(now)) {
            self.sessions.failed = None;
        }
    }

    /// Answers [`Event::Pushed`]: derives the first data key ([`Event::Keys`]) and sets what holds
    /// from now on.
    ///
    /// # Errors
    /// [`ApiMisuse::NoPushReply`] where there was no such event; or [`HostFailure`].
    pub fn accept_push(
        &mut self,
        mut parameters: NegotiatedParameters,
        now: Instant,
    ) -> Result<(), ControlError> {
        let Phase::Applying = self.phase else {
            return Err(ApiMisuse::NoPushReply.into());
        };
        if let Some(agreed) = parameters.app_control.take() {
            self.app_control = Some(agreed);
        }
        if parameters.dynamic_tls_crypt {
            self.dynamic_wrapper = Some(self.make_dynamic_wrapper()?);
        }
        let keys = self.derive(&parameters)?;
        self.phase = Phase::Up(Up { parameters, update: PushReply::default() });
        self.install(keys, now);
        self.schedule_renegotiation(now);
        // What arrived behind the push reply.
        self.read_messages(now);
        Ok(())
    }

    /// Sends the answer to a `CR_TEXT` challenge.
    pub fn respond(&mut self, response: &str, now: Instant) {
        self.send_text(&Zeroizing::new(messages::challenge_response(response)), now);
    }

    /// Sends a message of an application.
    ///
    /// # Errors
    /// The server has not agreed to the protocol, or to an encoding that fits. Nothing is sent then.
    pub fn send_app_message(
        &mut self,
        message: &AppMessage,
        now: Instant,
    ) -> Result<(), AppControlError> {
        for part in app_control::cut(message, self.app_control.as_ref())? {
            self.send_text(&part, now);
        }
        Ok(())
    }

    /// Queues `EXIT`, if the server takes it as a control message (`cc-exit`). False: it does not;
    /// notify it on the data channel.
    pub fn send_exit(&mut self, now: Instant) -> bool {
        if !matches!(&self.phase, Phase::Up(up) if up.parameters.cc_exit) {
            return false;
        }
        self.send_text("EXIT", now);
        !matches!(self.phase, Phase::Closed)
    }

    /// Answers [`Event::LoginNeeded`]: the key exchange that waits sends them and goes on. Nothing
    /// of them is kept here. False: none waits.
    pub fn log_in(&mut self, credentials: &Credentials, now: Instant) -> bool {
        let waiting = self.sessions.negotiating.as_ref().filter(|session| session.wants_login());
        let Some(key_id) = waiting.map(KeySession::key_id) else { return false };
        self.advance_with(key_id, Some(credentials), now);
        true
    }

    /// Sends something that the server acknowledges if it still knows this connection, and that changes
    /// nothing: another PUSH_REQUEST. [`Self::has_unacknowledged`] tells when it has.
    pub fn probe(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Up(_)) {
            self.send_text(PUSH_REQUEST, now);
        }
    }

    /// Messages of the newest complete key are still on their way.
    pub fn has_unacknowledged(&self) -> bool {
        self.sessions.current.as_ref().is_some_and(|session| !session.is_delivered())
    }

    /// The server has taken our first TLS hello and said nothing to it (yet).
    pub fn hello_is_unanswered(&self) -> bool {
        self.sessions.current.is_none()
            && self.sessions.negotiating.as_ref().is_some_and(KeySession::hello_is_unanswered)
    }

    /// The first key exchange is complete, and the channel is not closed.
    pub const fn is_active(&self) -> bool {
        self.sessions.current.is_some() && !matches!(self.phase, Phase::Closed)
    }

    /// When the last authentic packet arrived.
    pub const fn last_received(&self) -> Option<Instant> {
        self.last_received
    }

    /// Counters.
    pub const fn stats(&self) -> ControlStats {
        self.stats
    }

    fn accept_packet(&mut self, packet: &mut [u8], now: Instant) -> Result<KeyId, ErrorCounter> {
        let header = Header::parse(packet).map_err(|_| ErrorCounter::ControlChannel)?;
        let Header { opcode, key_id, session_id } = header;
        let legal = match opcode {
            Opcode::HardResetServerV2 => key_id == KeyId::FIRST,
            Opcode::SoftResetV1 => key_id != KeyId::FIRST,
            Opcode::ControlV1 | Opcode::AckV1 => true,
            Opcode::HardResetClientV2 | Opcode::HardResetClientV3 | Opcode::ControlWkcV1 => false,
        };
        if !legal {
            return Err(ErrorCounter::ControlChannel);
        }
        let wrapper = match &mut self.dynamic_wrapper {
            Some(dynamic) if key_id != KeyId::FIRST => dynamic,
            _ => &mut self.wrapper,
        };
        let counter = |error: UnwrapError| match error {
            UnwrapError::Truncated => ErrorCounter::ControlChannel,
            UnwrapError::Authentication => ErrorCounter::Hmac,
            UnwrapError::Replay(_) => ErrorCounter::Replay,
        };
        let (id, body) = wrapper.open(packet).map_err(counter)?;
        let body = Body::parse(opcode, body).map_err(|_| ErrorCounter::ControlChannel)?;
        let known_peer = match self.peer {
            Some(peer) => peer == session_id,
            // Whoever guesses address and port cannot acknowledge our reset: that takes our session
            // id.
            None => {
                matches!(opcode, Opcode::HardResetServerV2 | Opcode::AckV1)
                    && body.acked_session == Some(self.local)
                    && body.acks.as_slice().contains(&0)
            }
        };
        let ours = body.acked_session.is_none_or(|id| id == self.local);
        let in_place = opcode.is_reset() == (body.message_id == Some(0));
        if !known_peer || !ours || !in_place {
            if self.peer.is_none() && opcode == Opcode::HardResetServerV2 && body.acks.is_empty() {
                self.early.truncate(MAX_EARLY - 1);
                self.early.push_front((session_id, body.payload.to_vec()));
            }
            return Err(ErrorCounter::ControlChannel);
        }
        // Not before: others have the same key, and their ids say nothing about the server's.
        wrapper.accept(id, now).map_err(counter)?;
        if opcode == Opcode::SoftResetV1 {
            self.consider_soft_reset(key_id, now);
        }
        let session = self.sessions.live_mut(key_id).ok_or(ErrorCounter::KeyState)?;
        if self.wrapper.is_none()
            && session.would_be_ended_by(opcode, &body)
            && let Some(id) = body.message_id
        {
            let at = now + ALERT_DELAY;
            let payload = body.payload.to_vec();
            self.alert.get_or_insert(Alert { at, key_id, message_id: id, payload });
            return Ok(key_id);
        }
        session.receive(opcode, &body);
        if self.peer.is_none() {
            self.peer = Some(session_id);
            self.events.push_back(Event::ServerContacted);
            let mut early = std::mem::take(&mut self.early).into_iter();
            if let Some((_, payload)) = early.find(|(id, _)| *id == session_id) {
                session.receive(Opcode::HardResetServerV2, &Body::message(0, &payload));
            }
        }
        Ok(key_id)
    }

    /// When an alert that waits counts.
    pub(super) fn alert_deadline(&self) -> Option<Instant> {
        self.alert.as_ref().map(|alert| alert.at)
    }

    /// An alert counts once nothing else came in its place: the server's own message does if the
    /// alert was somebody else's.
    fn check_alert(&mut self, now: Instant) {
        let Some(alert) = self.alert.take_if(|alert| alert.at <= now) else { return };
        if let Some(session) = self.sessions.live_mut(alert.key_id) {
            let body = Body::message(alert.message_id, &alert.payload);
            session.receive(Opcode::ControlV1, &body);
            self.advance(alert.key_id, now);
        }
    }

    /// Lets the session of `key_id` go on after a packet.
    fn advance(&mut self, key_id: KeyId, now: Instant) {
        self.advance_with(key_id, None, now);
    }

    fn advance_with(&mut self, key_id: KeyId, login: Option<&Credentials>, now: Instant) {
        let hello =
            Hello { factory: &*self.tls, options: &self.occ, login, peer_info: &self.peer_info };
        let Some(session) = self.sessions.live_mut(key_id) else {
            return;
        };
        let before = session.stage();
        let result = session.advance(&hello);
        let after = session.stage();
        if session.asks_for_login() {
            self.events.push_back(Event::LoginNeeded);
        }
        if before < Stage::SentKey && after >= Stage::SentKey && after != Stage::Failed {
            let description = session.tls().map(describe).unwrap_or_default();
            let parameters = session.tls().and_then(TlsSession::parameters);
            self.events.push_back(Event::TlsEstablished { key_id, description, parameters });
        }
        if let Err(error) = result {
            self.session_failed(key_id, error, now);
        } else if before < Stage::Active && after == Stage::Active {
            self.negotiation_complete(now);
        }
        self.read_messages(now);
    }

    /// Counts and reports a failed session; the connection is over unless another key works.
    pub(super) fn session_failed(&mut self, key_id: KeyId, error: ControlError, now: Instant) {
        let counter = match error {
            ControlError::PeerMisbehaved(PeerMisbehaved::EarlyNegotiation) => {
                ErrorCounter::EarlyNegotiation
            }
            ControlError::Tls(_) => ErrorCounter::Ssl,
            _ => ErrorCounter::ControlChannel,
        };
        self.stats.count(counter);
        let is =
            |session: &Option<KeySession>| session.as_ref().is_some_and(|s| s.key_id() == key_id);
        if is(&self.sessions.previous) {
            self.sessions.previous = None;
        } else if is(&self.sessions.negotiating) && self.sessions.current.is_some() {
            self.renegotiation_failed(error, now);
        } else {
            // That it was the early negotiation is told by nothing but its counter.
            if counter != ErrorCounter::EarlyNegotiation {
                self.stats.closed_by(counter);
            }
            self.close(error);
        }
    }

    pub(super) fn close(&mut self, error: ControlError) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            for session in self.sessions.iter_mut() {
                session.fail();
            }
            self.events.push_back(Event::Closed(error));
        }
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn emit_slot_change(&mut self, change: SlotChange) {
        self.events.push_back(match change {
            SlotChange::Promote(key_id) => Event::PromoteKey(key_id),
            SlotChange::Retire(key_id) => Event::RetireKey(key_id),
        });
    }

    /// The data keys of the current session.
    pub(super) fn derive(
        &self,
        parameters: &NegotiatedParameters,
    ) -> Result<ovpn_dco::KeyConfig, ControlError> {
        let (Some(session), Some(peer)) = (&self.sessions.current, self.peer) else {
            return Err(ApiMisuse::NoKeyExchange.into());
        };
        session.derive(parameters.tls_ekm, parameters.cipher, self.local, peer)
    }

    fn make_dynamic_wrapper(&self) -> Result<Wrapper, ControlError> {
        let tls = self.sessions.current.as_ref().and_then(KeySession::tls);
        let tls = tls.ok_or(ApiMisuse::NoKeyExchange)?;
        let mut exported = Zeroizing::new([0; KEY_BLOCK_LEN]);
        tls.export(DYNAMIC_TLS_CRYPT_LABEL, &mut exported[..]).map_err(HostFailure::Exporter)?;
        Ok(self.wrapper.dynamic(&exported[..], Side::Client).map_err(ApiMisuse::WrapKey)?)
    }

    pub(super) fn new_session(&mut self, key_id: KeyId, reset: Opcode, now: Instant) -> KeySession {
        let retransmit = match self.transport {
            TransportKind::Udp => Some(self.options.retransmit),
            TransportKind::Tcp => None,
        };
        let randoms = ClientRandoms::generate(&mut self.rng);
        KeySession::new(key_id, reset, randoms, retransmit, now)
    }

    /// Bytes of IP and UDP (or TCP and its length prefix) below a packet.
    pub(super) const fn lower_headers(&self) -> usize {
        let ip = if self.ipv6 { 40 } else { 20 };
        match self.transport {
            TransportKind::Udp => ip + 8,
            TransportKind::Tcp => ip + 22,
        }
    }
}

fn describe(tls: &dyn TlsSession) -> String {
    match tls.peer_certificate() {
        Some(peer) => format!("{}, peer {}", tls.description(), peer.subject),
        None => tls.description(),
    }
}
