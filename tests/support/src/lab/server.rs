//! Real OpenVPN servers: their configuration, their process, their log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::NetNs;
use crate::pki::{Identity, StaticKeys};

/// Release series of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// OpenVPN 2.6, of Debian trixie.
    V26,
    /// OpenVPN 2.7, of Debian sid.
    V27,
}

impl Version {
    /// Each series.
    pub const ALL: [Self; 2] = [Self::V26, Self::V27];

    /// The program with its own libraries, from the Debian root of the suite that has the series.
    pub fn command(self, ns: &NetNs) -> Command {
        let (root, series) = match self {
            Self::V26 => (root("trixie"), "2.6"),
            Self::V27 => (root("sid"), "2.7"),
        };
        let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let loader = loader(&libraries);
        let prepare = |mut command: Command| {
            command.arg("--library-path").arg(&libraries).arg(root.join("usr/sbin/openvpn"));
            command
        };
        let told = prepare(Command::new(&loader)).arg("--version").output().expect("openvpn");
        let told = String::from_utf8_lossy(&told.stdout);
        assert!(
            told.starts_with(&format!("OpenVPN {series}.")),
            "this root has not OpenVPN {series}: {told}"
        );
        prepare(ns.command(&loader))
    }
}

/// The dynamic loader, which every architecture calls by another name.
fn loader(libraries: &Path) -> PathBuf {
    let files = fs::read_dir(libraries)
        .unwrap_or_else(|error| panic!("no libraries in {}: {error}", libraries.display()));
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    let is_loader = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux-"))
    };
    paths.find(is_loader).unwrap_or_else(|| panic!("no loader in {}", libraries.display()))
}

/// A Debian root with peers, built by the script if it is not there yet.
fn root(suite: &'static str) -> &'static Path {
    static TRIXIE: OnceLock<PathBuf> = OnceLock::new();
    static SID: OnceLock<PathBuf> = OnceLock::new();
    let cell = if suite == "sid" { &SID } else { &TRIXIE };
    cell.get_or_init(|| {
        // A guest brings them along.
        if let Some(roots) = std::env::var_os("OVPN_TEST_ROOTS") {
            return PathBuf::from(roots).join(suite);
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ci/lib/roots.sh");
        let output = Command::new(script).arg(suite).output().expect("run ci/lib/roots.sh");
        assert!(
            output.status.success(),
            "ci/lib/roots.sh {suite}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

/// Transport between client and server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

impl Transport {
    /// Each transport.
    pub const ALL: [Self; 4] = [Self::Udp4, Self::Udp6, Self::Tcp4, Self::Tcp6];

    fn server_proto(self) -> &'static str {
        match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
            Self::Tcp4 => "tcp4-server",
            Self::Tcp6 => "tcp6-server",
        }
    }

    /// The last word of a profile's `remote`.
    pub fn client_proto(self) -> &'static str {
        match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
            Self::Tcp4 => "tcp4-client",
            Self::Tcp6 => "tcp6-client",
        }
    }

    /// Where the server listens, see [`crate::lab::Lab`].
    pub fn address(self) -> &'static str {
        match self {
            Self::Udp4 | Self::Tcp4 => "198.51.100.1",
            Self::Udp6 | Self::Tcp6 => "2001:db8:1::1",
        }
    }
}

/// How control packets are protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrapping {
    /// In the clear.
    None,
    /// With a key direction, and this `auth` digest.
    TlsAuth(&'static str),
    /// One key for all clients.
    TlsCrypt,
    /// The server keeps state from the first packet on.
    TlsCryptV2,
    /// The server answers with a cookie and expects the wrapped key again.
    TlsCryptV2Cookie,
}

impl Wrapping {
    /// Each way, tls-auth with one digest.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::TlsAuth("SHA256"),
        Self::TlsCrypt,
        Self::TlsCryptV2,
        Self::TlsCryptV2Cookie,
    ];

    fn server_options(self, keys: &StaticKeys) -> String {
        match self {
            Self::None => String::new(),
            Self::TlsAuth(digest) => {
                format!("auth {digest}\nkey-direction 0\n{}", inline("tls-auth", &keys.shared))
            }
            Self::TlsCrypt => inline("tls-crypt", &keys.shared),
            Self::TlsCryptV2 => inline("tls-crypt-v2", &keys.v2_server),
            Self::TlsCryptV2Cookie => {
                // In a file: only there the server takes the flag.
                "tls-crypt-v2 v2-server.key force-cookie\n".to_owned()
            }
        }
    }

    /// The lines of a profile.
    pub fn client_options(self, keys: &StaticKeys) -> String {
        match self {
            Self::None => String::new(),
            Self::TlsAuth(digest) => {
                format!("auth {digest}\nkey-direction 1\n{}", inline("tls-auth", &keys.shared))
            }
            Self::TlsCrypt => inline("tls-crypt", &keys.shared),
            Self::TlsCryptV2 | Self::TlsCryptV2Cookie => inline("tls-crypt-v2", &keys.v2_client),
        }
    }
}

/// An option whose value is in the file itself.
pub fn inline(name: &str, text: &str) -> String {
    format!("<{name}>\n{}\n</{name}>\n", text.trim_end())
}

/// What a server is started with.
#[derive(Clone)]
pub struct ServerConfig {
    /// Which program.
    pub version: Version,
    /// What it listens on.
    pub transport: Transport,
    /// How control packets are protected.
    pub wrapping: Wrapping,
    /// Data cipher, the only one the server accepts.
    pub cipher: &'static str,
    /// Further lines.
    pub extra: String,
}

/// Whether servers may use the kernel too: in guests.
pub fn may_offload() -> bool {
    std::env::var_os("OVPN_TEST_SERVER_DCO").is_some()
}

/// A running server. Killed on drop.
pub struct Server {
    process: Child,
    directory: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens. `directory` takes configuration and log.
    pub fn start(
        ns: &NetNs,
        directory: &Path,
        config: &ServerConfig,
        ca: &str,
        identity: &Identity,
        keys: &StaticKeys,
    ) -> Self {
        let text = format!(
            "mode server\ntls-server\ndev tun\ndev-type tun\ntopology subnet\nserver 10.8.0.0 \
             255.255.255.0\nserver-ipv6 fd00:8::/64\nlocal {local}\nproto {proto}\nport 1194\n\
             dh none\ndata-ciphers {cipher}\nkeepalive 1 5\nverb 4\n\
             script-security 2\n{dco}{wrapping}{ca}{cert}{key}{extra}",
            local = config.transport.address(),
            proto = config.transport.server_proto(),
            cipher = config.cipher,
            // In a guest the server may use the kernel too.
            dco = if may_offload() { "" } else { "disable-dco\n" },
            wrapping = config.wrapping.server_options(keys),
            ca = inline("ca", ca),
            cert = inline("cert", &identity.certificate),
            key = inline("key", &identity.key),
            extra = config.extra,
        );
        fs::write(directory.join("server.conf"), text).expect("server configuration");
        let log = fs::File::create(directory.join("server.log")).expect("server log");
        let mut process = config
            .version
            .command(ns)
            .args(["--cd", directory.to_str().expect("path is text"), "--config", "server.conf"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("start the OpenVPN server");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(directory.join("server.log")).unwrap_or_default();
            if text.contains("Initialization Sequence Completed") {
                break;
            }
            let ended = process.try_wait().expect("wait for the server");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the server did not start:\n{text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, directory: directory.to_owned() }
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
    }

    /// How many lines of the log contain `text`.
    pub fn log_count(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until the log has `text`.
    pub fn wait_log(&self, text: &str, limit: Duration) {
        self.wait_count(text, 1, limit);
    }

    /// Waits until so many lines of the log have `text`.
    pub fn wait_count(&self, text: &str, lines: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.log_count(text) < lines {
            assert!(
                Instant::now() < deadline,
                "{text:?} not {lines} times in the server's log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).expect("signal the server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed, it would leave its kernel link behind, and the port and addresses with it.
        if may_offload() {
            let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && matches!(self.process.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
