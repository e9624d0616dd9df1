//! One client and one server machine with a wire between them.
//!
//! Wire: client 198.51.100.2 and 2001:db8:1::2, server .1 and ::1. Tunnel: server 10.8.0.1 and
//! fd00:8::1. Behind the server: 192.0.2.1 and 2001:db8:2::1.

pub mod client;
pub mod server;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use self::client::Client;
use self::server::{Server, ServerConfig, Transport, Version, Wrapping, inline};
use crate::netns::{ImpairedLink, Impairment, NetNs, connect, connect_impaired};
use crate::pki::{Authority, Identity, StaticKeys, Validity};

/// Everything one test needs; removed on drop.
pub struct Lab {
    /// The client's machine.
    pub client_ns: NetNs,
    /// The server's machine.
    pub server_ns: NetNs,
    directory: TempDir,
    /// Who has signed both certificates.
    pub authority: Authority,
    /// What the server shows.
    pub server_identity: Identity,
    /// What the client shows.
    pub client_identity: Identity,
    /// For tls-auth, tls-crypt and tls-crypt-v2.
    pub keys: StaticKeys,
    _wire: Option<ImpairedLink>,
}

impl Lab {
    /// Both machines with a perfect wire.
    #[expect(clippy::new_without_default, reason = "it changes the machine that it runs on")]
    pub fn new() -> Self {
        Self::with_wire(None)
    }

    /// Both machines with a wire like this.
    pub fn with_impairment(impairment: Impairment) -> Self {
        Self::with_wire(Some(impairment))
    }

    fn with_wire(impairment: Option<Impairment>) -> Self {
        let (client_ns, server_ns) = (NetNs::new("interop"), NetNs::new("interop"));
        // Otherwise an IPv6 address comes into use a second or two later, in the middle of a test.
        for ns in [&client_ns, &server_ns] {
            ns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        }
        let wire = match impairment {
            None => {
                connect(&client_ns, "eth0", &server_ns, "eth0");
                None
            }
            Some(impairment) => {
                Some(connect_impaired(&client_ns, "eth0", &server_ns, "eth0", impairment))
            }
        };
        client_ns.add_address("eth0", "198.51.100.2/24");
        client_ns.add_address("eth0", "2001:db8:1::2/64");
        client_ns.add_route("default", Some("198.51.100.1"), Some("eth0"));
        // Past the tunnel nothing may reach the server's end of it, or a broken tunnel looks whole.
        client_ns.add_unreachable_route("10.8.0.0/15");
        server_ns.add_address("eth0", "198.51.100.1/24");
        server_ns.add_address("eth0", "2001:db8:1::1/64");
        server_ns.add_address("lo", "192.0.2.1/32");
        server_ns.add_address("lo", "2001:db8:2::1/128");

        let directory = TempDir::new().expect("temporary directory");
        let authority = Authority::new("Interop CA");
        let keys = StaticKeys::generate(directory.path());
        Self {
            server_identity: authority.server("server.example", Validity::Now),
            client_identity: authority.client("client.example", Validity::Now),
            client_ns,
            server_ns,
            authority,
            directory,
            keys,
            _wire: wire,
        }
    }

    /// Where configuration, logs and the client's journal are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a server on its machine and waits until it listens.
    pub fn start_server(&self, config: &ServerConfig) -> Server {
        Server::start(
            &self.server_ns,
            self.directory(),
            config,
            &self.authority.certificate(),
            &self.server_identity,
            &self.keys,
        )
    }

    /// The profile that fits a server's configuration, as text.
    pub fn profile(&self, config: &ServerConfig, extra: &str) -> String {
        format!(
            "client\ndev tun\nremote {address} 1194 {proto}\nnobind\nremote-cert-tls server\n\
             data-ciphers {cipher}\nconnect-retry 1 2\n{wrapping}{ca}{cert}{key}{extra}",
            address = config.transport.address(),
            proto = config.transport.client_proto(),
            cipher = config.cipher,
            wrapping = config.wrapping.client_options(&self.keys),
            ca = inline("ca", &self.authority.certificate()),
            cert = inline("cert", &self.client_identity.certificate),
            key = inline("key", &self.client_identity.key),
        )
    }

    /// Starts `ovpn-client connect` on its machine with a profile of this text.
    pub fn start_client(&self, profile: &str, arguments: &[&str]) -> Client {
        Client::start(&self.client_ns, self.directory(), profile, arguments)
    }

    /// Writes a file for a profile, a script or an argument, and gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory().join(name);
        std::fs::write(&path, text).expect("file for the test");
        path.to_str().expect("path is text").to_owned()
    }

    /// An executable script for the server.
    pub fn script(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(name, text);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("script for the test");
        path
    }

    /// Pings from the client.
    pub fn ping(&self, to: &str) -> Result<(), String> {
        self.ping_with(&format!("-n -c 3 -i 0.2 -W 2 {to}"))
    }

    /// Runs ping in the client's namespace with these arguments; an error unless every echo came
    /// back.
    pub fn ping_with(&self, arguments: &str) -> Result<(), String> {
        let output = self
            .client_ns
            .command("ping")
            .args(arguments.split(' '))
            .output()
            .map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && text.contains(" 0% packet loss") {
            Ok(())
        } else {
            Err(format!("ping {arguments}: {text}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Moves `size` bytes each way through the tunnel over TCP and compares what arrives with what
    /// was sent.
    pub fn transfer(&self, to: &str, size: usize) -> Result<(), String> {
        const LIMIT: Option<Duration> = Some(Duration::from_secs(60));
        let data: Vec<u8> =
            (0..size).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let text = |error: std::io::Error| format!("transfer: {error}");
        let listener = self
            .server_ns
            .run(|| TcpListener::bind(SocketAddr::new(to.parse().expect("address"), 0)))
            .map_err(text)?;
        let address = listener.local_addr().map_err(text)?;
        std::thread::scope(|scope| {
            // Sends everything back once it has all of it.
            let echo = scope.spawn(|| -> std::io::Result<()> {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(LIMIT)?;
                let mut received = vec![0; size];
                stream.read_exact(&mut received)?;
                stream.write_all(&received)
            });
            let returned = self.client_ns.run(|| -> std::io::Result<Vec<u8>> {
                let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
                stream.set_read_timeout(LIMIT)?;
                stream.write_all(&data)?;
                let mut received = vec![0; size];
                stream.read_exact(&mut received)?;
                Ok(received)
            });
            if let Err(error) = returned {
                // Lets the other thread go, should it still wait for a connection.
                let _ = self.server_ns.run(|| TcpStream::connect(address));
                let _ = echo.join();
                return Err(text(error));
            }
            let returned = returned.map_err(text)?;
            echo.join().expect("echo thread").map_err(text)?;
            if returned == data {
                Ok(())
            } else {
                Err("transfer: what came back differs from what was sent".to_owned())
            }
        })
    }
}

/// The server most tests use, where nothing but its own subject matters.
pub fn plain(version: Version, transport: Transport) -> ServerConfig {
    ServerConfig {
        version,
        transport,
        wrapping: Wrapping::TlsCrypt,
        cipher: "AES-256-GCM",
        extra: String::new(),
    }
}
