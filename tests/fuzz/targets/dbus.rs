//! Method calls to the backend object, any arguments, and any bytes after them: each call gets one
//! answer, in whatever state the session is, and the service ends when its peer has gone.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use ovpn_client::backend::Settings;
use ovpn_client::dbus::{OwnProfile, PrivateService, serve_private};
use ovpn_client::logging::LogLevel;
use ovpn_client::profile::{NoFiles, Profile};
use ovpn_client::session::{NetworkMode, Running, events};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

const BACKEND: &str = "net.openvpn.v3.backends";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const OBJECT: &str = "/net/openvpn/v3/backends/session";
const TOKEN: &str = "token";

/// Interface, method and the types of its arguments. What ends the session or the process is not
/// among them: it would end the run.
const METHODS: [(&str, &str, &str); 19] = [
    (BACKEND, "RegistrationConfirmation", "so"),
    (BACKEND, "Ping", ""),
    (BACKEND, "Ready", ""),
    (BACKEND, "Connect", ""),
    (BACKEND, "Pause", "s"),
    (BACKEND, "Resume", ""),
    (BACKEND, "Restart", ""),
    (BACKEND, "UserInputQueueGetTypeGroup", ""),
    (BACKEND, "UserInputQueueFetch", "uuu"),
    (BACKEND, "UserInputQueueCheck", "uu"),
    (BACKEND, "UserInputProvide", "uuus"),
    (BACKEND, "Frobnicate", ""),
    (PROPERTIES, "Get", "ss"),
    (PROPERTIES, "Set", "ssv"),
    (PROPERTIES, "GetAll", "s"),
    ("org.freedesktop.DBus.Introspectable", "Introspect", ""),
    ("org.freedesktop.DBus.Peer", "Ping", ""),
    ("org.freedesktop.DBus.Peer", "GetMachineId", ""),
    ("net.example", "Pause", "s"),
];
const OTHER_TYPES: [&str; 8] = ["", "s", "uu", "soo", "v", "a{sv}", "as", "(uh)"];

/// Nothing here waits for anything but the processor.
const LIMIT: Duration = Duration::from_secs(20);

/// Input: whether noise follows, and whether registration comes first (one byte); then calls: method,
/// types and number of bytes of the arguments (one byte each), and the arguments.
pub fn run(data: &[u8]) {
    let Some((&how, input)) = data.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (ours, theirs) = StdStream::pair().expect("sockets");
        let (_lines, lines) = mpsc::channel(1);
        let guid = zbus::Guid::generate();
        let service = serve_private(theirs, &guid, TOKEN.to_owned(), service(lines));
        let service = async {
            // Noise may break the connection, and with it the service.
            let _ = service.await;
        };
        let peer = peer(ours, how, input);
        let both = async { tokio::join!(service, peer) };
        tokio::time::timeout(LIMIT, both).await.expect("an end");
    });
}

async fn peer(socket: StdStream, how: u8, mut input: &[u8]) {
    let mut peer = Peer::connect(socket).await;
    let mut body = Vec::new();
    string(&mut body, TOKEN);
    string(&mut body, "/session");
    string(&mut body, "/profile");
    if how & 4 == 0 {
        peer.call(METHODS[0], "soo", &body).await;
        peer.settle().await;
    }
    while let Some((&[method, types, len], rest)) = input.split_first_chunk() {
        let (arguments, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        let method = METHODS[usize::from(method) % METHODS.len()];
        let types = match types {
            0..0x80 => method.2,
            other => OTHER_TYPES[usize::from(other) % OTHER_TYPES.len()],
        };
        peer.call(method, types, arguments).await;
        peer.settle().await;
    }
    if how & 2 != 0 {
        // Not waited for: nobody knows what it is.
        let _ = peer.socket.write_all(input).await;
    }
}

fn service(lines: mpsc::Receiver<ovpn_client::logging::LogLine>) -> PrivateService {
    let pin = ["00"; 32].join(":");
    let text = format!("client\nremote a\nauth-user-pass\npeer-fingerprint {pin}\n");
    let profile = Profile::parse(&text, "profile", &NoFiles).expect("a profile");
    // Nobody answers but by method calls.
    let (_, answers) = mpsc::channel(1);
    PrivateService {
        name: "fuzz".to_owned(),
        settings: Settings {
            network: NetworkMode::Direct,
            runtime_dir: "/nowhere".into(),
            gui_version: "test".to_owned(),
            sso: String::new(),
            posture: None,
        },
        start: Box::new(|_| {
            // A session that ends at once.
            let (commands, _) = mpsc::channel(1);
            let (_, events) = events();
            Running { commands, events }
        }),
        profile: OwnProfile { name: "profile".to_owned(), dco: false, profile },
        answers,
        log_level: LogLevel::new(3),
        lines,
    }
}

/// The other end of the connection.
struct Peer {
    socket: UnixStream,
    received: Vec<u8>,
    serial: u32,
    /// Calls without an answer.
    waiting: BTreeMap<u32, &'static str>,
}

/// What of a message matters here.
struct Received {
    kind: u8,
    reply_to: Option<u32>,
}

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

impl Peer {
    async fn connect(socket: StdStream) -> Self {
        socket.set_nonblocking(true).expect("a socket");
        let mut socket = UnixStream::from_std(socket).expect("a socket");
        let uid: String =
            nix::unistd::getuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        let hello = format!("\0AUTH EXTERNAL {uid}\r\n");
        socket.write_all(hello.as_bytes()).await.expect("open");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            answer.push(socket.read_u8().await.expect("an answer"));
        }
        assert!(answer.starts_with(b"OK "), "{}", String::from_utf8_lossy(&answer));
        socket.write_all(b"BEGIN\r\n").await.expect("open");
        Self { socket, received: Vec::new(), serial: 0, waiting: BTreeMap::new() }
    }

    async fn call(&mut self, method: (&'static str, &'static str, &str), types: &str, body: &[u8]) {
        let (interface, member, _) = method;
        self.serial += 1;
        self.waiting.insert(self.serial, member);
        let fields = [(1, 'o', OBJECT), (2, 's', interface), (3, 's', member), (8, 'g', types)];
        let message = message(CALL, self.serial, &fields, body);
        self.socket.write_all(&message).await.expect("open");
    }

    /// Until every call has its answer.
    async fn settle(&mut self) {
        while !self.waiting.is_empty() {
            let received = tokio::time::timeout(LIMIT / 2, self.receive()).await;
            let received = received.unwrap_or_else(|_| panic!("no answer: {:?}", self.waiting));
            match received.kind {
                RETURN | ERROR => {
                    let call = received.reply_to.expect("a serial");
                    assert!(self.waiting.remove(&call).is_some(), "a second answer to {call}");
                }
                // Signals: it needs nobody's methods.
                kind => assert_ne!(kind, CALL, "a call of the service's own"),
            }
        }
    }

    async fn receive(&mut self) -> Received {
        loop {
            if let Some((message, len)) = parse(&self.received) {
                self.received.drain(..len);
                return message;
            }
            let mut buffer = [0; 4096];
            let n = self.socket.read(&mut buffer).await.expect("an open connection");
            assert!(n > 0, "the service has gone; without an answer: {:?}", self.waiting);
            self.received.extend_from_slice(&buffer[..n]);
        }
    }
}

/// A message in the wire format of the D-Bus specification, little endian.
fn message(kind: u8, serial: u32, fields: &[(u8, char, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = vec![b'l', kind, 0, 1];
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&serial.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for &(code, kind, value) in fields {
        align(&mut out, 8);
        out.push(code);
        variant(&mut out, &kind.to_string());
        if kind == 'g' { variant(&mut out, value) } else { string(&mut out, value) }
    }
    let len = (out.len() - 16) as u32;
    out[12..16].copy_from_slice(&len.to_le_bytes());
    align(&mut out, 8);
    out.extend_from_slice(body);
    out
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// A string or an object path.
fn string(out: &mut Vec<u8>, text: &str) {
    align(out, 4);
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// The types of what follows.
fn variant(out: &mut Vec<u8>, types: &str) {
    out.push(types.len() as u8);
    out.extend_from_slice(types.as_bytes());
    out.push(0);
}

/// The first message, once it is whole, and its length. The service's own messages are sound.
fn parse(bytes: &[u8]) -> Option<(Received, usize)> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    };
    let (body_len, fields_len) = (number(4)? as usize, number(12)? as usize);
    let body_at = (16 + fields_len).next_multiple_of(8);
    bytes.get(body_at..body_at + body_len)?;
    let mut reply_to = None;
    let mut at = 16;
    while at < 16 + fields_len {
        at = at.next_multiple_of(8);
        // Code, length of the types (always 1), the type, a NUL.
        let (code, kind) = (bytes[at], bytes[at + 2]);
        at += 4;
        let value = match kind {
            b'u' => at..at + 4,
            b'g' => at + 1..at + 1 + usize::from(bytes[at]),
            _ => at + 4..at + 4 + number(at)? as usize,
        };
        if code == 5 {
            reply_to = number(value.start);
        }
        at = value.end + usize::from(kind != b'u');
    }
    Some((Received { kind: bytes[1], reply_to }, body_at + body_len))
}
