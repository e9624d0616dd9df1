//! An OpenVPN server that serves every client as it should, except for what a [`Scenario`] has it
//! do besides. UDP or TCP, real TLS, nothing wraps the control channel.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::netns::NetNs;
use crate::sim::server::{KeyMessage, Server, ServerConfig};
use crate::sim::{Mode, real_tls};

/// How often every peer is looked at.
const TICK: Duration = Duration::from_millis(10);
/// Longest that the server waits for a client that does not read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a client and of the server.
const HAND_WINDOW: Duration = Duration::from_secs(60);

/// What every push reply ends with.
const PUSH: &str = "route-gateway 10.66.0.1,topology subnet,ping 10,ping-restart 120,\
                    ifconfig 10.66.0.2 255.255.255.0,peer-id 0,cipher AES-256-GCM,\
                    protocol-flags cc-exit tls-ekm dyn-tls-crypt";

type Hook = Box<dyn FnMut(&mut Peer) + Send>;
type PacketHook = Box<dyn FnMut(&mut Peer, &[u8]) + Send>;
type PacketFilter = Box<dyn FnMut(&Peer, &[u8]) -> bool + Send>;

/// What a server does besides serving. By itself nothing.
pub(crate) struct Scenario {
    push: Vec<String>,
    tcp: bool,
    impostors: usize,
    keyed: Hook,
    tick: Hook,
    received: PacketHook,
    serves: PacketFilter,
    reads: Box<dyn Fn(&Peer) -> bool + Send>,
}

#[allow(dead_code, reason = "for the next scenario")]
impl Scenario {
    /// An honest server that pushes `options` before the usual ones; each ends with a comma.
    pub(crate) fn new(options: &str) -> Self {
        Self {
            push: vec![Self::reply(options)],
            tcp: false,
            impostors: 0,
            keyed: Box::new(|_| {}),
            tick: Box::new(|_| {}),
            received: Box::new(|_, _| {}),
            serves: Box::new(|_, _| true),
            reads: Box::new(|_| true),
        }
    }

    /// What such a server pushes.
    pub(crate) fn reply(options: &str) -> String {
        format!("PUSH_REPLY,{options}{PUSH}")
    }

    /// Pushes as many options as there are, in as many messages as they need.
    pub(crate) fn pushing(options: impl IntoIterator<Item = String>) -> Self {
        const MESSAGE: usize = 60_000;
        let mut scenario = Self::new("");
        let mut text = "PUSH_REPLY".to_owned();
        let last = std::mem::take(&mut scenario.push).remove(0);
        for option in options {
            if text.len() + option.len() > MESSAGE {
                scenario.push.push(text + ",push-continuation 2");
                text = "PUSH_REPLY".to_owned();
            }
            text = format!("{text},{option}");
        }
        text += last.trim_start_matches("PUSH_REPLY");
        if !scenario.push.is_empty() {
            text += ",push-continuation 1";
        }
        scenario.push.push(text);
        scenario
    }

    /// Never pushes anything.
    pub(crate) fn without_push(mut self) -> Self {
        self.push.clear();
        self
    }

    pub(crate) fn over_tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// The first `count` connections meet a certificate that nobody has signed.
    pub(crate) fn impostors(mut self, count: usize) -> Self {
        self.impostors = count;
        self
    }

    /// Once the first key exchange is complete.
    pub(crate) fn keyed(mut self, hook: impl FnMut(&mut Peer) + Send + 'static) -> Self {
        self.keyed = Box::new(hook);
        self
    }

    /// Again and again once the first key exchange is complete.
    pub(crate) fn tick(mut self, hook: impl FnMut(&mut Peer) + Send + 'static) -> Self {
        self.tick = Box::new(hook);
        self
    }

    /// With each packet, before it is served.
    pub(crate) fn received(mut self, hook: impl FnMut(&mut Peer, &[u8]) + Send + 'static) -> Self {
        self.received = Box::new(hook);
        self
    }

    /// Whether a packet is served, or lost on its way.
    pub(crate) fn serves(
        mut self,
        when: impl FnMut(&Peer, &[u8]) -> bool + Send + 'static,
    ) -> Self {
        self.serves = Box::new(when);
        self
    }

    /// Over TCP: whether what the client sends is read.
    pub(crate) fn reads(mut self, when: impl Fn(&Peer) -> bool + Send + 'static) -> Self {
        self.reads = Box::new(when);
        self
    }
}

/// One client, as the server sees it.
pub(crate) struct Peer {
    pub(crate) server: Server,
    /// Packets to send as they are.
    pub(crate) raw: Vec<Vec<u8>>,
    /// The connection shall end (TCP).
    pub(crate) close: bool,
    /// How many came before.
    pub(crate) number: usize,
    keyed: bool,
    asked: Option<Instant>,
    done: BTreeSet<&'static str>,
    noted: usize,
}

impl Peer {
    fn new(scenario: &Scenario, number: usize) -> Self {
        let tls = if number < scenario.impostors {
            real_tls::impostor()
        } else {
            real_tls::pair(&rustls::version::TLS13).1
        };
        let mut config = ServerConfig::new(Mode::None);
        config.push = scenario.push.clone();
        config.dynamic_tls_crypt = true;
        if scenario.tcp {
            config.retransmit = None;
        }
        Self {
            server: Server::new(config, rand::random(), tls),
            raw: Vec::new(),
            close: false,
            number,
            keyed: false,
            asked: None,
            done: BTreeSet::new(),
            noted: 0,
        }
    }

    /// Sends a text message.
    pub(crate) fn say(&mut self, text: &str) {
        self.server.send_text(text);
    }

    /// The first key exchange is complete.
    pub(crate) fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// How long ago the client asked for its configuration.
    pub(crate) fn since_push(&self) -> Option<Duration> {
        self.asked.map(|at| at.elapsed())
    }

    /// True once: this long after the client has asked for its configuration.
    pub(crate) fn once(&mut self, what: &'static str, after: Duration) -> bool {
        self.since_push().is_some_and(|since| since >= after) && self.done.insert(what)
    }

    fn look(&mut self, scenario: &mut Scenario, logins: &Mutex<Vec<KeyMessage>>) {
        let messages = &self.server.key_messages;
        if messages.len() > self.noted {
            logins.lock().expect("logins").extend_from_slice(&messages[self.noted..]);
            self.noted = messages.len();
        }
        if self.asked.is_none() && self.server.texts.iter().any(|text| text == "PUSH_REQUEST") {
            self.asked = Some(Instant::now());
        }
        self.server.handle_timeout(Instant::now(), HAND_WINDOW);
        if self.noted > 0 {
            if !std::mem::replace(&mut self.keyed, true) {
                (scenario.keyed)(self);
            }
            (scenario.tick)(self);
        }
    }

    fn packets(&mut self) -> Vec<Vec<u8>> {
        let now = Instant::now();
        let mut packets = std::mem::take(&mut self.raw);
        packets.extend(std::iter::from_fn(|| self.server.poll_transmit(now)));
        packets
    }
}

/// A running server; ends on drop.
pub(crate) struct Hostile {
    stop: Arc<AtomicBool>,
    logins: Arc<Mutex<Vec<KeyMessage>>>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    pub(crate) fn start(ns: &NetNs, address: &str, scenario: Scenario) -> Self {
        let address: SocketAddr = address.parse().expect("address");
        let stop = Arc::new(AtomicBool::new(false));
        let logins = Arc::default();
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&logins));
        let thread = if scenario.tcp {
            let listener = ns.run(|| TcpListener::bind(address)).expect("listen");
            listener.set_nonblocking(true).expect("listener");
            std::thread::spawn(move || serve_tcp(&listener, scenario, &stopped, &noted))
        } else {
            let socket = ns.run(|| UdpSocket::bind(address)).expect("bind");
            socket.set_read_timeout(Some(TICK)).expect("socket");
            std::thread::spawn(move || serve_udp(&socket, scenario, &stopped, &noted))
        };
        Self { stop, logins, thread: Some(thread) }
    }

    /// What clients have logged in with, of all key exchanges so far.
    pub(crate) fn logins(&self) -> Vec<KeyMessage> {
        self.logins.lock().expect("logins").clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn serve_udp(
    socket: &UdpSocket,
    mut scenario: Scenario,
    stop: &AtomicBool,
    logins: &Mutex<Vec<KeyMessage>>,
) {
    let mut peers: BTreeMap<SocketAddr, Peer> = BTreeMap::new();
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // Errors are answers of hosts that do not listen any more.
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let number = peers.len();
            let peer = peers.entry(from).or_insert_with(|| Peer::new(&scenario, number));
            serve_packet(peer, &mut scenario, &buffer[..len]);
        }
        for (address, peer) in &mut peers {
            peer.look(&mut scenario, logins);
            for packet in peer.packets() {
                let _ = socket.send_to(&packet, address);
            }
        }
    }
}

fn serve_packet(peer: &mut Peer, scenario: &mut Scenario, packet: &[u8]) {
    (scenario.received)(peer, packet);
    // Nobody is at the other end of the tunnel.
    let data = packet.first().is_none_or(|byte| ovpn_dco::is_data_packet(*byte));
    if !data && (scenario.serves)(peer, packet) {
        peer.server.handle_packet(packet.to_vec(), Instant::now());
    }
}

fn serve_tcp(
    listener: &TcpListener,
    mut scenario: Scenario,
    stop: &AtomicBool,
    logins: &Mutex<Vec<KeyMessage>>,
) {
    let mut connections: Vec<Connection> = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).expect("stream");
            stream.set_read_timeout(Some(TICK)).expect("stream");
            stream.set_write_timeout(Some(PATIENCE)).expect("stream");
            let peer = Peer::new(&scenario, number);
            connections.push(Connection { stream, peer, unread: Vec::new() });
            number += 1;
        }
        connections.retain_mut(|connection| connection.serve(&mut scenario, logins).is_ok());
        if connections.is_empty() {
            std::thread::sleep(TICK);
        }
    }
}

struct Connection {
    stream: TcpStream,
    peer: Peer,
    unread: Vec<u8>,
}

impl Connection {
    /// One round; an error is the connection's end.
    fn serve(
        &mut self,
        scenario: &mut Scenario,
        logins: &Mutex<Vec<KeyMessage>>,
    ) -> std::io::Result<()> {
        if (scenario.reads)(&self.peer) {
            let mut buffer = [0; 16_384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
        } else {
            std::thread::sleep(TICK);
        }
        while let Some((length, rest)) = self.unread.split_first_chunk()
            && let Some(packet) = rest.get(..usize::from(u16::from_be_bytes(*length)))
        {
            let packet = packet.to_vec();
            self.unread.drain(..2 + packet.len());
            serve_packet(&mut self.peer, scenario, &packet);
        }
        self.peer.look(scenario, logins);
        for packet in self.peer.packets() {
            let length = u16::try_from(packet.len()).expect("packet").to_be_bytes();
            self.stream.write_all(&[&length[..], &packet].concat())?;
        }
        if self.peer.close {
            // A reset: whatever the client sends meanwhile fails.
            socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}
