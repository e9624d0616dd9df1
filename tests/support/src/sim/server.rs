//! A server role for tests: the client's role-neutral parts, and what only a server does. Serves
//! one client. Can be told to misbehave.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use ovpn_client::control::key_method::{ClientRandoms, RANDOM_LEN, Randoms};
use ovpn_client::control::key_schedule::{
    self, DATA_KEY_LABEL, DYNAMIC_TLS_CRYPT_LABEL, KEY_BLOCK_LEN,
};
use ovpn_client::control::packet::{
    AckList, Body, Header, MAX_ACKS, MAX_PIGGYBACK_ACKS, Opcode, SessionId,
};
use ovpn_client::control::reliability::Reliability;
use ovpn_client::control::wrap::{Side, Wrapper};
use ovpn_client::profile::WrapOptions;
use ovpn_client::secret::Secret;
use ovpn_client::tls::TlsSession;
use ovpn_dco::{Cipher, KeyConfig, KeyId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zeroize::Zeroizing;

use super::wkc::ServerKey;
use super::{Mode, REPLAY_WINDOW, static_key};

const RESEND_WKC: &[u8] = &[0, 1, 0, 2, 0, 1];

/// How a server behaves.
pub struct ServerConfig {
    /// How control packets are wrapped.
    pub mode: Mode,
    /// `None`: TCP.
    pub retransmit: Option<Duration>,
    /// Answer resets without keeping state (2.6).
    pub stateless: bool,
    /// Send the push reply before it is asked for.
    pub unsolicited_push: bool,
    /// The push reply, message by message, without NUL.
    pub push: Vec<String>,
    /// Derive data keys from TLS (RFC 5705), as what it pushes should say.
    pub tls_ekm: bool,
    /// Wrap renegotiations with a key of the session's own.
    pub dynamic_tls_crypt: bool,
    /// Of the data channel.
    pub cipher: Cipher,
    /// Key method message that ends behind the options string (OpenVPN 3).
    pub short_key_message: bool,
    /// Payload of a packet, at most.
    pub payload: usize,
    /// Sent instead of the key method message.
    pub bad_key_message: Option<Vec<u8>>,
    /// Payload of the hard reset.
    pub reset_payload: Option<Vec<u8>>,
    /// Acknowledged in every packet although nothing like it was received.
    pub false_acks: Vec<u32>,
}

impl ServerConfig {
    /// A server as it should be.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            retransmit: Some(Duration::from_secs(2)),
            stateless: matches!(mode, Mode::TlsCryptV2 { cookie: true }),
            unsolicited_push: false,
            push: vec!["PUSH_REPLY,topology subnet,peer-id 7,cipher AES-256-GCM".to_owned()],
            tls_ekm: true,
            dynamic_tls_crypt: false,
            cipher: Cipher::Aes256Gcm,
            short_key_message: false,
            payload: 1100,
            bad_key_message: None,
            reset_payload: None,
            false_acks: Vec::new(),
        }
    }
}

/// What a client's key method message said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyMessage {
    /// The options string (OCC).
    pub options: String,
    /// The user name; empty without a login.
    pub username: String,
    /// The password, or a token.
    pub password: String,
    /// `IV_` lines.
    pub peer_info: String,
}

/// The server's end of one connection. Sans-I/O, like the client's.
pub struct Server {
    /// How it behaves from now on.
    pub config: ServerConfig,
    /// Keys of every finished exchange.
    pub keys: Vec<KeyConfig>,
    /// What the client said with each key exchange.
    pub key_messages: Vec<KeyMessage>,
    /// Text messages of the client.
    pub texts: Vec<String>,
    /// Packets that were not let in.
    pub refused: u64,
    /// TLS or protocol errors of the client.
    pub errors: Vec<String>,
    /// Most transmissions of one message.
    pub transmissions: u32,
    rng: StdRng,
    make_tls: Box<dyn FnMut() -> Box<dyn TlsSession>>,
    server_key: ServerKey,
    wrapper: Option<Wrapper>,
    dynamic: Option<Wrapper>,
    local: SessionId,
    peer: Option<SessionId>,
    sessions: Vec<Session>,
    outbox: VecDeque<Vec<u8>>,
    pushed: bool,
}

struct Session {
    key_id: KeyId,
    started: Instant,
    link: Reliability,
    tls: Option<Box<dyn TlsSession>>,
    peer_reset: bool,
    randoms: Option<ClientRandoms>,
    keyed: bool,
    active: bool,
    ciphertext: Vec<u8>,
    plaintext: Vec<u8>,
}

impl Session {
    fn new(key_id: KeyId, retransmit: Option<Duration>, started: Instant) -> Self {
        Self {
            key_id,
            started,
            link: Reliability::new(retransmit),
            tls: None,
            peer_reset: false,
            randoms: None,
            keyed: false,
            active: false,
            ciphertext: Vec::new(),
            plaintext: Vec::new(),
        }
    }

    fn write(&mut self, plaintext: &[u8]) {
        let tls = self.tls.as_mut().unwrap();
        tls.write_plaintext(plaintext).unwrap();
        tls.take_ciphertext(&mut self.ciphertext).unwrap();
    }
}

impl Server {
    /// All that it sends follows from the seed, but for what `make_tls` gives it.
    pub fn new(
        config: ServerConfig,
        seed: u64,
        make_tls: Box<dyn FnMut() -> Box<dyn TlsSession>>,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut local = [0; 8];
        rng.fill_bytes(&mut local);
        let wrapper = match config.mode {
            Mode::TlsCryptV2 { .. } => None,
            mode => Some(Wrapper::new(&mode.server(), Side::Server, REPLAY_WINDOW).unwrap()),
        };
        Self {
            config,
            keys: Vec::new(),
            key_messages: Vec::new(),
            texts: Vec::new(),
            refused: 0,
            errors: Vec::new(),
            transmissions: 0,
            rng,
            make_tls,
            server_key: super::server_key(),
            wrapper,
            dynamic: None,
            local: SessionId::new(local).unwrap(),
            peer: None,
            sessions: Vec::new(),
            outbox: VecDeque::new(),
            pushed: false,
        }
    }

    /// The newest complete key.
    pub fn active_key(&self) -> Option<KeyId> {
        self.sessions.iter().rev().find(|s| s.active).map(|s| s.key_id)
    }

    /// Its own session ID.
    pub fn session_id(&self) -> SessionId {
        self.local
    }

    /// Starts a renegotiation, if the newest key is complete.
    pub fn renegotiate(&mut self, now: Instant) {
        if let Some(last) = self.sessions.last()
            && last.active
        {
            self.start_session(last.key_id.next(), now);
        }
    }

    /// Sends one text message on the newest complete key.
    pub fn send_text(&mut self, text: &str) {
        self.send_plaintext(&[text.as_bytes(), &[0]].concat());
    }

    /// Sends one TLS record on the newest complete key.
    pub fn send_plaintext(&mut self, plaintext: &[u8]) {
        let session = self.sessions.iter_mut().rev().find(|s| s.keyed).unwrap();
        session.write(plaintext);
    }

    /// Bytes of TLS that wait for the client's acknowledgements.
    pub fn backlog(&self) -> usize {
        self.sessions.iter().map(|session| session.ciphertext.len()).sum()
    }

    /// Puts bytes into the stream of messages of the newest key, past TLS.
    pub fn send_garbage(&mut self, bytes: &[u8]) {
        self.sessions.last_mut().unwrap().ciphertext.extend_from_slice(bytes);
    }

    /// Sends a packet of any content, correctly wrapped.
    pub fn forge(&mut self, header: Header, body: &[u8], now: Instant) {
        let mut packet = Vec::new();
        let wrapper = self.wrapper.as_mut().unwrap();
        wrapper.wrap(header.opcode, &header.encode(), body, unix(now), &mut packet).unwrap();
        self.outbox.push_back(packet);
    }

    /// Takes in a control packet; what it does not let in counts as refused.
    pub fn handle_packet(&mut self, packet: Vec<u8>, now: Instant) {
        if self.try_handle(packet, now).is_none() {
            self.refused += 1;
        }
    }

    fn try_handle(&mut self, mut packet: Vec<u8>, now: Instant) -> Option<()> {
        let header = Header::parse(&packet).ok()?;
        if let Mode::TlsCryptV2 { .. } = self.config.mode
            && header.opcode.carries_wrapped_key()
        {
            let (key, len) = self.server_key.unwrap_from(&packet)?;
            packet.truncate(len);
            if self.wrapper.is_none() {
                let options =
                    WrapOptions::TlsCryptV2 { key: Secret::new(key.to_vec()), wrapped: Vec::new() };
                self.wrapper = Some(Wrapper::new(&options, Side::Server, REPLAY_WINDOW).unwrap());
            }
        }
        let wrapper = match &mut self.dynamic {
            Some(dynamic) if header.key_id != KeyId::FIRST => dynamic,
            _ => self.wrapper.as_mut()?,
        };
        let mut fresh;
        let wrapper = if self.config.stateless && self.peer.is_none() {
            // A server that remembers nothing has no replay window.
            fresh = Wrapper::new(&self.config.mode.server(), Side::Server, REPLAY_WINDOW).unwrap();
            &mut fresh
        } else {
            wrapper
        };
        let body = wrapper.unwrap(&mut packet, now).ok()?;
        let body = Body::parse(header.opcode, body).ok()?;
        match self.peer {
            Some(peer) if peer != header.session_id => return None,
            Some(_) => {}
            None if self.config.stateless => self.handle_stateless(&header, &body, now)?,
            None => {
                let hello =
                    matches!(header.opcode, Opcode::HardResetClientV2 | Opcode::HardResetClientV3);
                if !hello || body.message_id != Some(0) {
                    return None;
                }
                self.accept_client(&header, now);
            }
        }
        if body.acked_session.is_some_and(|id| id != self.local) {
            return None;
        }
        if header.opcode == Opcode::SoftResetV1 {
            self.consider_soft_reset(header.key_id, now);
        }
        let session = self.sessions.iter_mut().find(|s| s.key_id == header.key_id)?;
        session.link.acknowledged(body.acks.as_slice());
        if let Some(id) = body.message_id {
            session.link.receive(id, header.opcode, body.payload);
        }
        self.advance(header.key_id);
        Some(())
    }

    /// Answers the first packet out of nothing; lets the third in if it proves the answer came
    /// through.
    fn handle_stateless(&mut self, header: &Header, body: &Body<'_>, now: Instant) -> Option<()> {
        let secret = self.local;
        let cookie = digest::digest(
            &digest::SHA256,
            &[&secret.bytes()[..], header.session_id.bytes()].concat(),
        );
        let cookie = SessionId::new(*cookie.as_ref().first_chunk().unwrap()).unwrap();
        let v2 = matches!(self.config.mode, Mode::TlsCryptV2 { .. });
        match header.opcode {
            Opcode::HardResetClientV2 | Opcode::HardResetClientV3 => {
                let mut reply = Vec::new();
                Body {
                    acks: AckList::from_slice(&[0]),
                    acked_session: Some(header.session_id),
                    message_id: Some(0),
                    payload: if v2 { RESEND_WKC } else { &[] },
                }
                .encode(&mut reply);
                let opcode = Opcode::HardResetServerV2;
                let header = Header { opcode, key_id: KeyId::FIRST, session_id: cookie };
                self.forge(header, &reply, now);
                None
            }
            opcode => {
                let third = if v2 {
                    opcode == Opcode::ControlWkcV1 && body.message_id == Some(1)
                } else {
                    body.message_id.is_none_or(|id| id == 1)
                };
                let acks = body.acks.as_slice();
                let proven = body.acked_session == Some(cookie)
                    && acks.contains(&0)
                    && acks.iter().all(|id| *id <= 1);
                if !third || !proven {
                    return None;
                }
                self.local = cookie;
                self.accept_client(header, now);
                let session = self.sessions.last_mut().unwrap();
                session.link.receive(0, Opcode::HardResetClientV2, &[]);
                session.link.transmit(now);
                Some(())
            }
        }
    }

    fn accept_client(&mut self, header: &Header, now: Instant) {
        self.peer = Some(header.session_id);
        let mut session = Session::new(KeyId::FIRST, self.config.retransmit, now);
        let payload = self.config.reset_payload.clone().unwrap_or_default();
        session.link.queue(Opcode::HardResetServerV2, payload);
        self.sessions.push(session);
    }

    fn consider_soft_reset(&mut self, key_id: KeyId, now: Instant) {
        let complete = self.sessions.last().is_some_and(|s| s.active);
        let known = self.sessions.iter().any(|s| s.key_id == key_id);
        if complete && !known {
            self.start_session(key_id, now);
        }
    }

    fn start_session(&mut self, key_id: KeyId, now: Instant) {
        if self.sessions.len() > 2 {
            self.sessions.remove(0);
        }
        let mut session = Session::new(key_id, self.config.retransmit, now);
        session.link.queue(Opcode::SoftResetV1, Vec::new());
        self.sessions.push(session);
    }

    fn advance(&mut self, key_id: KeyId) {
        let index = self.sessions.iter().position(|s| s.key_id == key_id).unwrap();
        loop {
            let session = &mut self.sessions[index];
            while session.tls.is_some() || !session.peer_reset {
                let Some((opcode, payload)) = session.link.deliver() else {
                    break;
                };
                if opcode.is_reset() {
                    session.peer_reset = true;
                } else if let Some(tls) = &mut session.tls {
                    let result = tls.read_ciphertext(&payload);
                    tls.take_ciphertext(&mut session.ciphertext).unwrap();
                    tls.read_plaintext(&mut session.plaintext).unwrap();
                    if let Err(error) = result {
                        self.errors.push(error.to_string());
                    }
                }
            }
            if session.tls.is_none() && session.peer_reset && session.link.all_acknowledged() {
                session.tls = Some((self.make_tls)());
                continue;
            }
            if session.tls.as_ref().is_some_and(|tls| !tls.is_handshaking())
                && !session.keyed
                && let Some((message, randoms, len)) = parse_client(&session.plaintext)
            {
                session.plaintext.drain(..len);
                session.randoms = Some(randoms);
                session.keyed = true;
                self.key_messages.push(message);
                self.send_key_message(index);
                continue;
            }
            if session.keyed {
                session.active |= session.ciphertext.is_empty() && session.link.all_acknowledged();
                self.read_texts(index);
            }
            return;
        }
    }

    fn send_key_message(&mut self, index: usize) {
        let mut randoms = Randoms { random1: [0; RANDOM_LEN], random2: [0; RANDOM_LEN] };
        self.rng.fill_bytes(&mut randoms.random1);
        self.rng.fill_bytes(&mut randoms.random2);
        let options = b"V4,dev-type tun,cipher AES-256-GCM,tls-server\0";
        let mut message = vec![0, 0, 0, 0, 2];
        message.extend_from_slice(&randoms.random1);
        message.extend_from_slice(&randoms.random2);
        message.extend_from_slice(&(options.len() as u16).to_be_bytes());
        message.extend_from_slice(options);
        if !self.config.short_key_message {
            message.extend_from_slice(&[0; 6]);
        }
        let message = self.config.bad_key_message.clone().unwrap_or(message);
        let session = &mut self.sessions[index];
        session.write(&message);
        let tls = session.tls.as_ref().unwrap();
        let mut block = Zeroizing::new([0; KEY_BLOCK_LEN]);
        if self.config.tls_ekm {
            tls.export(DATA_KEY_LABEL, &mut block[..]).unwrap();
        } else {
            let client = session.randoms.as_ref().unwrap();
            let (peer, local) = (self.peer.unwrap(), self.local);
            key_schedule::expand(client, &randoms, peer, local, &mut block).unwrap();
        }
        let cipher = self.config.cipher;
        let keys = key_schedule::data_keys(&block, Side::Server, session.key_id, cipher).unwrap();
        self.keys.push(keys);
        if self.config.dynamic_tls_crypt && self.dynamic.is_none() {
            let mut exported = Zeroizing::new([0; KEY_BLOCK_LEN]);
            tls.export(DYNAMIC_TLS_CRYPT_LABEL, &mut exported[..]).unwrap();
            let wrapper = self.wrapper.as_ref().unwrap();
            self.dynamic = Some(wrapper.dynamic(&exported[..], Side::Server).unwrap());
        }
        if self.config.unsolicited_push {
            self.push(index);
        }
    }

    fn push(&mut self, index: usize) {
        if !std::mem::replace(&mut self.pushed, true) {
            for message in &self.config.push {
                self.sessions[index].write(&[message.as_bytes(), &[0]].concat());
            }
        }
    }

    fn read_texts(&mut self, index: usize) {
        while let Some(end) = self.sessions[index].plaintext.iter().position(|b| *b == 0) {
            let text: Vec<u8> = self.sessions[index].plaintext.drain(..=end).collect();
            let text = String::from_utf8(text[..end].to_vec()).unwrap();
            if text == "PUSH_REQUEST" {
                self.push(index);
            }
            self.texts.push(text);
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some(packet) = self.outbox.pop_front() {
            return Some(packet);
        }
        let peer = self.peer?;
        for session in self.sessions.iter_mut().rev() {
            while !session.ciphertext.is_empty() && session.link.can_queue() {
                let len = session.ciphertext.len().min(self.config.payload);
                session.link.queue(Opcode::ControlV1, session.ciphertext.drain(..len).collect());
            }
            let (opcode, message, acks) = if session.link.is_due(now) {
                let acks = session.link.take_acks(MAX_PIGGYBACK_ACKS);
                let message = session.link.transmit(now).unwrap();
                (message.opcode, Some((message.message_id, message.payload.to_vec())), acks)
            } else if session.link.acks_pending() {
                (Opcode::AckV1, None, session.link.take_acks(MAX_ACKS))
            } else {
                continue;
            };
            self.transmissions = self.transmissions.max(session.link.transmissions());
            let mut acks = acks.as_slice().to_vec();
            acks.extend_from_slice(&self.config.false_acks);
            let (message_id, payload) = message.unzip();
            let mut body = Vec::new();
            Body {
                acks: AckList::from_slice(&acks),
                acked_session: Some(peer),
                message_id,
                payload: payload.as_deref().unwrap_or_default(),
            }
            .encode(&mut body);
            let key_id = session.key_id;
            let header = Header { opcode, key_id, session_id: self.local };
            let wrapper = match &mut self.dynamic {
                Some(dynamic) if key_id != KeyId::FIRST => dynamic,
                _ => self.wrapper.as_mut().unwrap(),
            };
            let mut packet = Vec::new();
            wrapper.wrap(opcode, &header.encode(), &body, unix(now), &mut packet).unwrap();
            return Some(packet);
        }
        None
    }

    /// When it has something to send again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sessions.iter().filter_map(|s| s.link.deadline()).min()
    }

    /// Gives up negotiations that last longer than `hand_window`.
    pub fn handle_timeout(&mut self, now: Instant, hand_window: Duration) {
        self.sessions.retain(|s| s.active || now < s.started + hand_window);
    }
}

/// Virtual time is not tied to a calendar; replay ids only need it to grow slowly.
fn unix(_now: Instant) -> u32 {
    1_700_000_000
}

fn parse_client(input: &[u8]) -> Option<(KeyMessage, ClientRandoms, usize)> {
    let mut rest = input;
    let mut take = |len: usize| -> Option<&[u8]> {
        let (head, tail) = rest.split_at_checked(len)?;
        rest = tail;
        Some(head)
    };
    assert_eq!(take(5)?, [0, 0, 0, 0, 2]);
    let pre_master = take(48)?.try_into().unwrap();
    let random1 = take(RANDOM_LEN)?.try_into().unwrap();
    let random2 = take(RANDOM_LEN)?.try_into().unwrap();
    let mut strings = [const { String::new() }; 4];
    for string in &mut strings {
        let len = u16::from_be_bytes(take(2)?.try_into().unwrap());
        let bytes = take(usize::from(len))?;
        if let Some((nul, text)) = bytes.split_last() {
            assert_eq!(*nul, 0);
            *string = String::from_utf8(text.to_vec()).unwrap();
        }
    }
    let [options, username, password, peer_info] = strings;
    let used = input.len() - rest.len();
    assert!(used < 2048, "a 2.x server reads 2048 bytes at once");
    let randoms = ClientRandoms { pre_master, randoms: Randoms { random1, random2 } };
    Some((KeyMessage { options, username, password, peer_info }, randoms, used))
}

/// The wrapped client key that [`Mode::TlsCryptV2`] uses.
pub fn wrapped_key() -> Vec<u8> {
    let key: [u8; 256] = static_key().try_into().unwrap();
    super::server_key().wrap(&key, &[1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap()
}
