//! A simulated network for the control channel: virtual time, lossy links, a server role.
//!
//! A run follows from its seed alone. `OVPN_SIM_SEED=n` (decimal) runs only that seed.

pub mod fake_tls;
pub mod net;
pub mod real_tls;
pub mod running;
pub mod server;
pub mod wkc;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ovpn_client::control::{
    ControlChannel, ControlConfig, Event, NegotiatedParameters, Output, TransportKind,
};
use ovpn_client::profile::{ControlOptions, Digest, KeyDirection, WrapOptions};
use ovpn_client::secret::{Credentials, Secret};
use ovpn_client::tls::{TlsFactory, TlsSession};
use ovpn_dco::{Cipher, KeyConfig, KeyId, is_data_packet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use fake_tls::{FakeTls, FakeTlsFactory};
use net::{Conditions, Link};
use server::{Server, ServerConfig};
use wkc::ServerKey;

/// Packets, and the time that one may be late: OpenVPN's defaults.
pub const REPLAY_WINDOW: (usize, Duration) = (64, Duration::from_secs(15));

/// Steps of one run, at most: more is a busy loop.
const MAX_STEPS: u32 = 20_000;

const DATA_V1: u8 = 6;

/// How control packets are wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In the clear.
    None,
    /// tls-auth with a key direction and this digest.
    TlsAuth(Digest),
    /// tls-auth with one key for both directions.
    TlsAuthBidirectional,
    /// tls-crypt.
    TlsCrypt,
    /// tls-crypt-v2.
    TlsCryptV2 {
        /// The server keeps no state before the client has answered its cookie.
        cookie: bool,
    },
}

impl Mode {
    /// Every way that differs on the wire.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::TlsAuth(Digest::Sha1),
        Self::TlsAuth(Digest::Sha256),
        Self::TlsAuth(Digest::Sha384),
        Self::TlsAuth(Digest::Sha512),
        Self::TlsAuthBidirectional,
        Self::TlsCrypt,
        Self::TlsCryptV2 { cookie: false },
        Self::TlsCryptV2 { cookie: true },
    ];

    /// The client's options.
    pub fn client(self) -> WrapOptions {
        match self {
            Self::TlsCryptV2 { .. } => WrapOptions::TlsCryptV2 {
                key: Secret::new(static_key()),
                wrapped: server::wrapped_key(),
            },
            _ => self.options(KeyDirection::Inverse),
        }
    }

    /// The server's options.
    pub fn server(self) -> WrapOptions {
        match self {
            Self::TlsCryptV2 { .. } => {
                WrapOptions::TlsCryptV2 { key: Secret::new(static_key()), wrapped: Vec::new() }
            }
            _ => self.options(KeyDirection::Normal),
        }
    }

    fn options(self, direction: KeyDirection) -> WrapOptions {
        let key = Secret::new(static_key());
        let direction = Some(direction);
        match self {
            Self::None => WrapOptions::None,
            Self::TlsAuth(digest) => WrapOptions::TlsAuth { key, direction, digest },
            Self::TlsAuthBidirectional => {
                WrapOptions::TlsAuth { key, direction: None, digest: Digest::Sha1 }
            }
            Self::TlsCrypt | Self::TlsCryptV2 { .. } => WrapOptions::TlsCrypt { key },
        }
    }
}

/// The static key that both ends share, 256 bytes.
pub fn static_key() -> Vec<u8> {
    (0..256_u32).map(|i| (i * 7 + 3) as u8).collect()
}

/// The server's key of tls-crypt-v2.
pub fn server_key() -> ServerKey {
    ServerKey::new(&std::array::from_fn(|i| i as u8))
}

/// A client's timers and sizes; OpenVPN 2's defaults.
pub fn control_options() -> ControlOptions {
    ControlOptions {
        retransmit: Duration::from_secs(2),
        hand_window: Duration::from_secs(60),
        tran_window: Duration::from_secs(3600),
        reneg: None,
        max_packet_size: 1250,
        replay_window: (64, Duration::from_secs(15)),
        ping: None,
        ping_timeout: None,
        inactive: None,
        session_timeout: None,
    }
}

/// The client's TLS sessions, and the server's.
pub type TlsPair = (Arc<dyn TlsFactory>, Box<dyn FnMut() -> Box<dyn TlsSession>>);

/// Everything that makes one run.
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// What the client thinks its packets go over.
    pub transport: TransportKind,
    /// The client's timers and sizes.
    pub options: ControlOptions,
    /// How the server behaves.
    pub server: ServerConfig,
    /// From client to server.
    pub up: Conditions,
    /// From server to client.
    pub down: Conditions,
    /// What every key exchange sends.
    pub login: Credentials,
    /// They are sent once.
    pub forget_login: bool,
    /// `None`: fake TLS.
    pub tls: Option<TlsPair>,
    /// Answer [`Event::Pushed`] by itself.
    pub accept: bool,
    /// Send first and act afterwards, as the client must not.
    pub careless: bool,
}

impl Setup {
    /// Over UDP and a perfect network, with a login that is given whenever it is asked for.
    pub fn new(mode: Mode, seed: u64) -> Self {
        Self {
            seed,
            transport: TransportKind::Udp,
            options: control_options(),
            server: ServerConfig::new(mode),
            up: Conditions::perfect(),
            down: Conditions::perfect(),
            login: Credentials { username: "joe".to_owned(), password: Secret::from("secret") },
            forget_login: false,
            tls: None,
            accept: true,
            careless: false,
        }
    }

    /// Both directions under stress.
    pub fn stressed(mut self) -> Self {
        let checksum = self.server.mode == Mode::None;
        self.up = Conditions { checksum, ..Conditions::stress() };
        self.down = self.up.clone();
        self
    }

    /// Over a stream: nothing is sent twice.
    pub fn tcp(mut self) -> Self {
        self.transport = TransportKind::Tcp;
        self.server.retransmit = None;
        self
    }

    /// What is sent arrives before the sender does anything else.
    pub fn at_once(mut self) -> Self {
        self.up.latency = Duration::ZERO;
        self.down.latency = Duration::ZERO;
        self
    }

    /// Both ends, before the first packet.
    pub fn start(self) -> Sim {
        Sim::new(self)
    }
}

/// Something else that happens meanwhile.
pub type Beside = Box<dyn FnMut(&mut Sim)>;

/// One run.
pub struct Sim {
    /// The client's end.
    pub client: ControlChannel,
    /// The server's end.
    pub server: Server,
    /// Virtual time.
    pub now: Instant,
    /// From client to server.
    pub up: Link,
    /// From server to client.
    pub down: Link,
    /// When it began.
    pub start: Instant,
    /// Everything the client told, and when.
    pub events: Vec<(Duration, Event)>,
    /// Largest packet that the client sent.
    pub largest: usize,
    /// Called at each step, before packets arrive.
    pub beside: Option<Beside>,
    /// When the client has something to do next by itself, as it said last.
    pub client_deadline: Option<Instant>,
    /// Keys for which the server sent data that the client's data channel did not know yet.
    pub too_early: Vec<KeyId>,
    /// Keys under which the client sent data when the server did not know them yet, or any more.
    pub not_taken: Vec<KeyId>,
    /// What key exchanges that ask for it are given.
    pub login: Option<Credentials>,
    forget_login: bool,
    accept: bool,
    careless: bool,
    seed: u64,
    steps: u32,
    hand_window: Duration,
}

impl Sim {
    fn new(setup: Setup) -> Self {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let (tls, make_tls) = setup.tls.unwrap_or_else(|| {
            let mut tls_rng = StdRng::seed_from_u64(setup.seed ^ 1);
            let make_server = move || -> Box<dyn TlsSession> {
                let mut random = [0; 32];
                tls_rng.fill_bytes(&mut random);
                Box::new(FakeTls::server(random, "CN=server"))
            };
            (Arc::new(FakeTlsFactory::new(setup.seed ^ 2)), Box::new(make_server))
        });
        let hand_window = setup.options.hand_window;
        let config = ControlConfig {
            transport: setup.transport,
            ipv6: false,
            options: setup.options,
            wrap: setup.server.mode.client(),
            tls,
            occ: "V4,dev-type tun,tls-client".to_owned(),
            peer_info: "IV_VER=1\nIV_PROTO=990\n".to_owned(),
            unix_time: 1_700_000_000,
            seed,
        };
        Self {
            client: ControlChannel::new(config, start).unwrap(),
            server: Server::new(setup.server, rng.next_u64(), make_tls),
            now: start,
            up: Link::new(setup.up, rng.next_u64(), start),
            down: Link::new(setup.down, rng.next_u64(), start),
            start,
            events: Vec::new(),
            largest: 0,
            beside: None,
            client_deadline: None,
            too_early: Vec::new(),
            not_taken: Vec::new(),
            login: Some(setup.login),
            forget_login: setup.forget_login,
            accept: setup.accept,
            careless: setup.careless,
            seed: setup.seed,
            steps: 0,
            hand_window,
        }
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// What a push reply like [`ServerConfig::new`]'s means.
    pub fn parameters(&self) -> NegotiatedParameters {
        NegotiatedParameters {
            cipher: Cipher::Aes256Gcm,
            tls_ekm: self.server.config.tls_ekm,
            dynamic_tls_crypt: self.server.config.dynamic_tls_crypt,
            cc_exit: true,
            app_control: None,
            reneg: None,
        }
    }

    /// Goes on until `done` or fails after `limit` of virtual time.
    pub fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        self.drain();
        while !done(self) {
            let Some(next) = self.next_event().filter(|next| *next <= end) else {
                self.fail(&format!("{what}: not within {limit:?}"));
            };
            self.step_to(next);
        }
    }

    /// Lets `duration` pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.drain();
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            self.step_to(next);
        }
        self.now = end;
        self.client.handle_timeout(end);
        self.drain();
    }

    /// Until the first data key is there.
    pub fn connect(&mut self) {
        let limit = self.hand_window * 2;
        self.run_until(limit, "connect", |sim| sim.client_key().is_some());
    }

    /// Until both sides have completed key `id`.
    pub fn wait_for_key(&mut self, id: u8) {
        let id = KeyId::new(id).unwrap();
        self.run_until(self.hand_window, &format!("key {id}"), |sim| {
            sim.client_key() == Some(id) && sim.server.active_key() == Some(id)
        });
    }

    /// Every data key that the client told, oldest first.
    pub fn client_keys(&self) -> Vec<&KeyConfig> {
        let keys = self.events.iter().filter_map(|(_, event)| match event {
            Event::Keys(keys) => Some(keys),
            _ => None,
        });
        keys.collect()
    }

    /// The newest key that the client told.
    pub fn client_key(&self) -> Option<KeyId> {
        self.client_keys().last().map(|k| k.key_id)
    }

    /// Whether the client has told something like this.
    pub fn has(&self, matches: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| matches(event))
    }

    /// Both sides have the same keys, mirrored, in the same order.
    pub fn assert_equal_keys(&self) {
        let client = self.client_keys();
        if client.len() != self.server.keys.len() {
            self.fail(&format!("{} keys here, {} there", client.len(), self.server.keys.len()));
        }
        for (ours, theirs) in client.iter().zip(&self.server.keys) {
            let equal = |a: &ovpn_dco::DirectionKey, b: &ovpn_dco::DirectionKey| {
                a.cipher_key() == b.cipher_key() && a.second_key() == b.second_key()
            };
            let same = ours.key_id == theirs.key_id
                && ours.cipher == theirs.cipher
                && equal(&ours.encrypt, &theirs.decrypt)
                && equal(&ours.decrypt, &theirs.encrypt);
            if !same {
                self.fail(&format!("key {} differs", ours.key_id));
            }
        }
    }

    /// Panics with the whole story, and the seed that tells it again.
    pub fn fail(&self, what: &str) -> ! {
        for (at, event) in &self.events {
            eprintln!("{at:>12.3?} {event:?}");
        }
        eprintln!("client: {:?}", self.client.stats());
        eprintln!(
            "server: active {:?}, refused {}, errors {:?}, texts {:?}",
            self.server.active_key(),
            self.server.refused,
            self.server.errors,
            self.server.texts
        );
        panic!(
            "{what} (at {:?}, mode {:?}; run again with OVPN_SIM_SEED={})",
            self.elapsed(),
            self.server.config.mode,
            self.seed
        );
    }

    fn next_event(&self) -> Option<Instant> {
        [
            self.up.next_arrival(),
            self.down.next_arrival(),
            self.client_deadline,
            self.server.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn step_to(&mut self, next: Instant) {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            self.fail("busy loop");
        }
        self.now = next.max(self.now);
        if let Some(mut beside) = self.beside.take() {
            beside(self);
            self.beside = Some(beside);
        }
        self.server_receives();
        while let Some(mut packet) = self.down.receive(self.now) {
            // The transport hands data packets to the data plane.
            if !is_data_packet(packet[0]) {
                self.client.handle_packet(&mut packet, self.now);
            }
        }
        self.server.handle_timeout(self.now, self.hand_window);
        self.client.handle_timeout(self.now);
        self.drain();
        if self.client_deadline.is_some_and(|at| at <= self.now) {
            self.fail("the client's deadline does not move");
        }
    }

    /// Moves what both sides want to send, and answers events.
    pub fn drain(&mut self) {
        let mut put_off = Vec::new();
        loop {
            let mut packet = Vec::new();
            match self.client.poll_output(self.now, Some(&mut packet)) {
                Output::Transmit => {
                    self.largest = self.largest.max(packet.len());
                    self.up.send(packet, self.now);
                    if self.up.conditions.latency.is_zero() {
                        self.server_receives();
                    }
                }
                Output::Event(event) if self.careless => put_off.push(event),
                Output::Event(event) => self.client_event(event),
                Output::Wait(until) if put_off.is_empty() => {
                    self.client_deadline = until;
                    break;
                }
                Output::Wait(_) => {
                    for event in put_off.drain(..) {
                        self.client_event(event);
                    }
                }
            }
        }
        while let Some(packet) = self.server.poll_transmit(self.now) {
            self.down.send(packet, self.now);
        }
    }

    fn client_event(&mut self, event: Event) {
        let pushed = matches!(event, Event::Pushed { .. });
        if let Event::PromoteKey(key) = event {
            // The data plane has always something to send.
            self.up.send(vec![DATA_V1 << 3 | key.get(); 100], self.now);
        }
        if matches!(event, Event::LoginNeeded)
            && let Some(login) = self.login.take()
        {
            self.client.log_in(&login, self.now);
            self.login = Some(login).filter(|_| !self.forget_login);
        }
        self.events.push((self.elapsed(), event));
        if pushed && self.accept {
            let parameters = self.parameters();
            if let Err(error) = self.client.accept_push(parameters, self.now) {
                self.fail(&error.to_string());
            }
        }
    }

    /// The server takes in what has arrived. With the new key that this may complete it sends data at
    /// once; what goes to a data channel is not in the way of the control channel's packets.
    fn server_receives(&mut self) {
        while let Some(packet) = self.up.receive(self.now) {
            if packet[0] >> 3 == DATA_V1 {
                let key = KeyId::from_first_byte(packet[0]);
                if self.server.active_key() != Some(key) {
                    self.not_taken.push(key);
                }
                continue;
            }
            let before = self.server.active_key();
            self.server.handle_packet(packet, self.now);
            if let Some(key) = self.server.active_key().filter(|key| Some(*key) != before)
                // Before the push nobody sends.
                && key != KeyId::FIRST
                && self.client_key() != Some(key)
            {
                self.too_early.push(key);
            }
        }
    }
}

/// Calls `run` with each seed, or with the one in `OVPN_SIM_SEED`.
pub fn for_each_seed(count: u64, run: impl Fn(u64)) {
    match std::env::var("OVPN_SIM_SEED") {
        Ok(seed) => run(seed.parse().expect("OVPN_SIM_SEED is a decimal number")),
        Err(_) => (0..count).for_each(run),
    }
}
