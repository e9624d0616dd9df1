//! One key's negotiation and TLS session: reset, handshake, key method 2, then text messages.

use std::time::{Duration, Instant};

use ovpn_dco::{Cipher, KeyConfig, KeyId};
use zeroize::{Zeroize, Zeroizing};

use super::error::{ApiMisuse, ControlError, HostFailure, LimitReached, PeerMisbehaved};
use super::key_method::{self, ClientRandoms, ServerMessage};
use super::key_schedule::{self, DATA_KEY_LABEL, KEY_BLOCK_LEN};
use super::packet::{Body, MAX_ACKS, MAX_PIGGYBACK_ACKS, Opcode, SessionId};
use super::reliability::Reliability;
use super::wrap::{Side, wants_wrapped_key};
use crate::secret::Credentials;
use crate::tls::{TlsFactory, TlsSession};

/// Text of the server that has not been read yet, at most. Its messages have about 1 kB each.
const MAX_PLAINTEXT: usize = 64 * 1024;

/// TLS bytes that the server has not acknowledged, at most. Some are answers, which it can ask for.
const MAX_UNSENT: usize = 256 * 1024;

/// How far a key's negotiation is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    /// Our reset is out; the server's reset and its acknowledgement of ours are awaited.
    Reset,
    /// TLS handshake.
    Handshake,
    /// Our key method message is written.
    SentKey,
    /// The server's was read; some of our packets are not acknowledged.
    GotKey,
    /// Complete.
    Active,
    /// TLS failed; an alert may still go out.
    Failed,
}

/// What a new TLS session needs from the connection.
pub(super) struct Hello<'a> {
    pub(super) factory: &'a dyn TlsFactory,
    pub(super) options: &'a str,
    /// `None`: nobody has answered yet. The session waits.
    pub(super) login: Option<&'a Credentials>,
    pub(super) peer_info: &'a str,
}

/// A packet of this session, ready to be wrapped.
pub(super) struct Outgoing<'a> {
    pub(super) opcode: Opcode,
    pub(super) acks: super::packet::AckList,
    pub(super) message_id: Option<u32>,
    pub(super) payload: &'a [u8],
    pub(super) again: bool,
}

pub(super) struct KeySession {
    key_id: KeyId,
    started: Instant,
    stage: Stage,
    link: Reliability,
    tls: Option<Box<dyn TlsSession>>,
    randoms: Box<ClientRandoms>,
    server: Option<ServerMessage>,
    /// Ciphertext that waits for room in the send window.
    ciphertext: Vec<u8>,
    plaintext: Zeroizing<Vec<u8>>,
    /// How much of `plaintext` has been read.
    read: usize,
    peer_reset: bool,
    heard: bool,
    /// TLS has got something from the server.
    answered: bool,
    /// For what to log in with.
    asked: bool,
    /// CONTROL_WKC_V1 if the server wants the wrapped key again.
    first_message: Opcode,
}

impl KeySession {
    /// Queues `reset` as message 0.
    pub(super) fn new(
        key_id: KeyId,
        reset: Opcode,
        randoms: Box<ClientRandoms>,
        retransmit: Option<Duration>,
        now: Instant,
    ) -> Self {
        let mut link = Reliability::new(retransmit);
        link.queue(reset, Vec::new());
        Self {
            key_id,
            started: now,
            stage: Stage::Reset,
            link,
            tls: None,
            randoms,
            server: None,
            ciphertext: Vec::new(),
            plaintext: Zeroizing::default(),
            read: 0,
            peer_reset: false,
            heard: false,
            answered: false,
            asked: false,
            first_message: Opcode::ControlV1,
        }
    }

    pub(super) const fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub(super) const fn started(&self) -> Instant {
        self.started
    }

    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    /// The server answered on this key.
    pub(super) const fn heard(&self) -> bool {
        self.heard
    }

    /// All that is missing is what to log in with.
    pub(super) fn wants_login(&self) -> bool {
        self.stage == Stage::Handshake && self.tls().is_some_and(|tls| !tls.is_handshaking())
    }

    /// The same, once.
    pub(super) fn asks_for_login(&mut self) -> bool {
        self.wants_login() && !std::mem::replace(&mut self.asked, true)
    }

    /// The server is there, and says nothing to our TLS hello.
    pub(super) const fn hello_is_unanswered(&self) -> bool {
        matches!(self.stage, Stage::Handshake) && !self.answered
    }

    pub(super) fn tls(&self) -> Option<&dyn TlsSession> {
        self.tls.as_deref()
    }

    /// The server's options string, without a copy of it staying here.
    pub(super) fn take_server_options(&mut self) -> String {
        self.server.as_mut().map(|s| std::mem::take(&mut s.options)).unwrap_or_default()
    }

    /// Whether a packet would end the handshake by what anybody can write: an alert in clear text.
    pub(super) fn would_be_ended_by(&self, opcode: Opcode, body: &Body<'_>) -> bool {
        opcode == Opcode::ControlV1 && self.stage <= Stage::Handshake && is_alert(body.payload)
    }

    /// Takes in the acknowledgements and the message of an authentic packet.
    pub(super) fn receive(&mut self, opcode: Opcode, body: &Body<'_>) {
        self.heard = true;
        self.link.acknowledged(body.acks.as_slice());
        if let Some(id) = body.message_id {
            self.link.receive(id, opcode, body.payload);
        }
    }

    /// Goes as far as what was received allows.
    pub(super) fn advance(&mut self, hello: &Hello<'_>) -> Result<(), ControlError> {
        let result = self.try_advance(hello);
        if result.is_err() {
            self.fail();
        }
        result
    }

    fn try_advance(&mut self, hello: &Hello<'_>) -> Result<(), ControlError> {
        // TLS may have gone on by itself: an external key has signed.
        self.pump()?;
        loop {
            self.deliver()?;
            self.pump()?;
            let Some(next) = self.next_stage(hello)? else {
                return Ok(());
            };
            self.stage = next;
        }
    }

    fn next_stage(&mut self, hello: &Hello<'_>) -> Result<Option<Stage>, ControlError> {
        match (self.stage, &mut self.tls) {
            (Stage::Reset, _) if self.peer_reset && self.link.all_acknowledged() => {
                self.tls = Some(hello.factory.start()?);
                Ok(Some(Stage::Handshake))
            }
            (Stage::Handshake, Some(tls)) if !tls.is_handshaking() => {
                let Some(credentials) = hello.login else { return Ok(None) };
                let message = key_method::encode_client(
                    &self.randoms,
                    hello.options,
                    credentials,
                    hello.peer_info,
                )?;
                tls.write_plaintext(&message)?;
                Ok(Some(Stage::SentKey))
            }
            (Stage::SentKey, _) => {
                let unread = self.plaintext.get(self.read..).unwrap_or_default();
                let Some((message, len)) = key_method::parse_server(unread)? else {
                    return Ok(None);
                };
                self.read += len;
                self.server = Some(message);
                Ok(Some(Stage::GotKey))
            }
            (Stage::GotKey, _) if self.ciphertext.is_empty() && self.link.all_acknowledged() => {
                Ok(Some(Stage::Active))
            }
            _ => Ok(None),
        }
    }

    /// Hands messages to TLS in order. TLS bytes wait until there is a TLS session.
    fn deliver(&mut self) -> Result<(), ControlError> {
        while self.stage != Stage::Failed && (self.tls.is_some() || !self.peer_reset) {
            let Some((opcode, payload)) = self.link.deliver() else {
                break;
            };
            if opcode.is_reset() {
                self.peer_reset = true;
                if opcode == Opcode::HardResetServerV2 && wants_wrapped_key(&payload)? {
                    self.first_message = Opcode::ControlWkcV1;
                }
            } else if let Some(tls) = &mut self.tls
                && !payload.is_empty()
            {
                self.answered = true;
                tls.read_ciphertext(&payload)?;
            }
        }
        Ok(())
    }

    /// Moves what TLS has produced, in both directions.
    fn pump(&mut self) -> Result<(), ControlError> {
        self.forget_read();
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        tls.take_ciphertext(&mut self.ciphertext)?;
        if self.ciphertext.len() > MAX_UNSENT {
            return Err(LimitReached::Unacknowledged(MAX_UNSENT).into());
        }
        tls.read_plaintext(&mut self.plaintext)?;
        if self.plaintext.len() > MAX_PLAINTEXT {
            return Err(PeerMisbehaved::EndlessText(MAX_PLAINTEXT).into());
        }
        Ok(())
    }

    /// Ends the session; what TLS still has to say (an alert) goes out once.
    pub(super) fn fail(&mut self) {
        if self.stage == Stage::Failed {
            return;
        }
        self.stage = Stage::Failed;
        self.link.stop_retransmitting();
        if let Some(mut tls) = self.tls.take() {
            // The session is over: an error here says nothing new.
            let _ = tls.take_ciphertext(&mut self.ciphertext);
        }
    }

    /// What is still on its way is not sent again.
    pub(super) fn stop_retransmitting(&mut self) {
        self.link.stop_retransmitting();
    }

    /// Queues a text message as one TLS record.
    pub(super) fn send_text(&mut self, text: &str) -> Result<(), ControlError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let mut record = Zeroizing::new(Vec::with_capacity(text.len() + 1));
        record.extend_from_slice(text.as_bytes());
        record.push(0);
        tls.write_plaintext(&record)?;
        tls.take_ciphertext(&mut self.ciphertext)?;
        if self.ciphertext.len() > MAX_UNSENT {
            return Err(LimitReached::Unacknowledged(MAX_UNSENT).into());
        }
        Ok(())
    }

    /// The next complete message, without its NUL. Empty ones are skipped: they include the empty
    /// strings at the end of the server's key method message.
    pub(super) fn next_text(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        if self.stage != Stage::Active {
            return None;
        }
        loop {
            let unread = self.plaintext.get(self.read..)?;
            let end = unread.iter().position(|b| *b == 0)?;
            let text = Zeroizing::new(unread.get(..end)?.to_vec());
            self.read += end + 1;
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    /// Removes bytes that were read, without leaving them in the buffer.
    fn forget_read(&mut self) {
        let total = self.plaintext.len();
        let len = std::mem::take(&mut self.read).min(total);
        if len == 0 {
            return;
        }
        self.plaintext.copy_within(len.., 0);
        if let Some(tail) = self.plaintext.get_mut(total - len..) {
            tail.zeroize();
        }
        self.plaintext.truncate(total - len);
    }

    /// The data keys of this session.
    pub(super) fn derive(
        &self,
        exporter: bool,
        cipher: Cipher,
        local: SessionId,
        peer: SessionId,
    ) -> Result<KeyConfig, ControlError> {
        let mut block = Zeroizing::new([0; KEY_BLOCK_LEN]);
        if exporter {
            let tls = self.tls.as_deref().ok_or(ApiMisuse::NoKeyExchange)?;
            tls.export(DATA_KEY_LABEL, &mut block[..]).map_err(HostFailure::Exporter)?;
        } else {
            let server = self.server.as_ref().ok_or(ApiMisuse::NoKeyExchange)?;
            key_schedule::expand(&self.randoms, &server.randoms, local, peer, &mut block)
                .map_err(HostFailure::DataKeys)?;
        }
        let keys = key_schedule::data_keys(&block, Side::Client, self.key_id, cipher);
        Ok(keys.map_err(HostFailure::DataKeys)?)
    }

    /// The next packet to send at `now`. `room` says how much payload fits a packet with this
    /// opcode; a dedicated acknowledgement carries at most `max_acks`.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max_acks: usize,
        room: impl Fn(Opcode) -> usize,
    ) -> Option<Outgoing<'_>> {
        self.fill(room);
        if self.link.is_due(now) {
            let acks = self.link.take_acks(MAX_PIGGYBACK_ACKS);
            let message = self.link.transmit(now)?;
            return Some(Outgoing {
                opcode: message.opcode,
                acks,
                message_id: Some(message.message_id),
                payload: message.payload,
                again: message.again,
            });
        }
        if !self.link.acks_pending() {
            return None;
        }
        Some(Outgoing {
            opcode: Opcode::AckV1,
            acks: self.link.take_acks(max_acks.min(MAX_ACKS)),
            message_id: None,
            payload: &[],
            again: false,
        })
    }

    /// Cuts ciphertext into messages while there is room in the window.
    fn fill(&mut self, room: impl Fn(Opcode) -> usize) {
        while self.link.can_queue() {
            let opcode =
                if self.link.next_id() == 1 { self.first_message } else { Opcode::ControlV1 };
            // A stateless server wants the wrapped key before anything else, even before an
            // acknowledgement.
            let owed = opcode == Opcode::ControlWkcV1
                && self.stage == Stage::Reset
                && self.link.acks_pending();
            if self.ciphertext.is_empty() && !owed {
                return;
            }
            let len = room(opcode).min(self.ciphertext.len());
            let payload = self.ciphertext.drain(..len).collect();
            self.link.queue(opcode, payload);
        }
    }

    /// When something is to be sent again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.link.deadline()
    }

    /// Everything queued has been sent and acknowledged.
    pub(super) fn is_delivered(&self) -> bool {
        self.ciphertext.is_empty() && self.link.all_acknowledged()
    }

    /// A failed session has nothing left to say.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.stage == Stage::Failed && self.ciphertext.is_empty() && !self.link.is_due(now)
    }
}

/// A TLS record with an alert in clear text: type, version, length (RFC 8446, 5.1 and 6). Five bytes,
/// as a message may begin anywhere in the stream of records.
fn is_alert(payload: &[u8]) -> bool {
    matches!(payload, [21, 3, 0..=4, 0, 2, ..])
}

/// At most four TLS sessions: that is all the memory a peer can make us use.
#[derive(Default)]
pub(super) struct Sessions {
    /// The key being negotiated.
    pub(super) negotiating: Option<KeySession>,
    /// The newest complete key; carries text messages.
    pub(super) current: Option<KeySession>,
    /// The key before: late packets are still acknowledged and read.
    pub(super) previous: Option<KeySession>,
    /// Failed; an alert goes out.
    pub(super) failed: Option<KeySession>,
}

impl Sessions {
    /// In the order in which packets are sent.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut KeySession> {
        [&mut self.current, &mut self.negotiating, &mut self.previous, &mut self.failed]
            .into_iter()
            .flatten()
    }

    pub(super) fn live_mut(&mut self, key_id: KeyId) -> Option<&mut KeySession> {
        [&mut self.current, &mut self.negotiating, &mut self.previous]
            .into_iter()
            .flatten()
            .find(|s| s.key_id() == key_id)
    }

    pub(super) fn is_live(&self, key_id: KeyId) -> bool {
        [&self.current, &self.negotiating, &self.previous]
            .into_iter()
            .flatten()
            .any(|s| s.key_id() == key_id)
    }
}
