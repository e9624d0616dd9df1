//! Certificates as old and as unusual set-ups have them, made by openssl(1).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::client::{CONNECTED, FAILED};
use crate::lab::{Lab, plain};
use crate::pki::Identity;
use crate::server::{Server, ServerConfig, Transport, Version, inline};

/// A CA and what it signed.
struct Made {
    ca: String,
    server: Identity,
    client: Identity,
}

/// All with keys of this kind, as `openssl req -newkey` takes it.
fn made(directory: &Path, key: &str) -> Made {
    let run = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(directory)
            .output()
            .expect("openssl (a Debian package of the tests)");
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    };
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("file");
    run(&format!("req -x509 -nodes -keyout ca.key -out ca.crt -subj /CN=CA -days 9 {key}"));
    let sign = |name: &str, serial: u64| {
        std::fs::write(
            directory.join("v3.cnf"),
            format!("keyUsage=digitalSignature\nextendedKeyUsage={name}Auth\n"),
        )
        .expect("file");
        run(&format!("req -new -nodes -keyout k.key -out k.csr -subj /CN={name}.example {key}"));
        run(&format!(
            "x509 -req -in k.csr -CA ca.crt -CAkey ca.key -set_serial {serial} -days 9 -extfile \
             v3.cnf -out k.crt"
        ));
        Identity { certificate: read("k.crt"), key: read("k.key"), serial }
    };
    let (server, client) = (sign("server", 2), sign("client", 3));
    Made { ca: read("ca.crt"), server, client }
}

impl Made {
    fn server(&self, lab: &Lab, config: &ServerConfig) -> Server {
        Server::start(&lab.server_ns, lab.directory(), config, &self.ca, &self.server, &lab.keys)
    }

    fn profile(&self, lab: &mut Lab, config: &ServerConfig, extra: &str) -> String {
        lab.client_identity = self.client.clone();
        let ca = inline("ca", &lab.authority.certificate());
        lab.profile(config, extra).replace(&ca, &inline("ca", &self.ca))
    }
}

/// The real client connects with these, too, and says nothing.
#[test]
fn keys_too_short_to_be_safe() {
    for version in Version::ALL {
        for lines in ["", "tls-version-max 1.2\n"] {
            let mut lab = Lab::new();
            let made = made(lab.directory(), "-newkey rsa:1024");
            let config = plain(version, Transport::Udp4);
            let _server = made.server(&lab, &config);
            let profile = made.profile(&mut lab, &config, lines);
            let mut client = lab.start_client(&profile, &[]);
            client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
            lab.ping("10.8.0.1").unwrap();
            let words = "an RSA key of 1024 bits, too short";
            assert_eq!(client.count(words), 2, "{}", client.transcript());
        }
    }
}

#[test]
fn keys_for_pss_only() {
    for version in Version::ALL {
        for bound in
            ["", "-pkeyopt rsa_pss_keygen_md:sha256 -pkeyopt rsa_pss_keygen_mgf1_md:sha256"]
        {
            let mut lab = Lab::new();
            let key = format!("-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048 {bound}");
            let made = made(lab.directory(), &key);
            let config = plain(version, Transport::Udp4);
            let _server = made.server(&lab, &config);
            let profile = made.profile(&mut lab, &config, "");
            let mut client = lab.start_client(&profile, &[]);
            client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
            lab.ping("10.8.0.1").unwrap();
        }
    }
}

/// OpenVPN sends no alert. Each remedy that the message names is followed.
#[test]
fn servers_that_share_nothing_with_us() {
    let cases = [
        ("tls-version-max 1.2\ntls-cipher ECDHE-ECDSA-AES128-SHA256\n", "tls-cipher"),
        ("tls-version-max 1.2\ntls-cipher DHE-RSA-AES128-GCM-SHA256\n", "tls-cipher"),
        ("tls-version-min 1.0\ntls-version-max 1.1\n", "tls-version-m"),
        ("tls-groups brainpoolP256r1\n", "tls-groups"),
    ];
    let servers = Version::ALL.into_iter().flat_map(|version| {
        [Transport::Udp4, Transport::Tcp4].map(|transport| (version, transport))
    });
    for (version, transport) in servers {
        for (lines, remedy) in cases {
            let lab = Lab::new();
            let config = ServerConfig { extra: lines.to_owned(), ..plain(version, transport) };
            let profile = lab.profile(&config, "connect-retry-max 1\nhand-window 5\n");
            let server = lab.start_server(&config);
            let ending = lab.start_client(&profile, &[]).finish(Duration::from_secs(30));
            let words: &[&str] = match transport {
                Transport::Udp4 => &["tls-version-max, tls-cipher or tls-groups"],
                // An alert may come through before the connection is closed. With OpenSSL 3 a server
                // of TLS 1.1 closes it before it reads our hello.
                _ if remedy == "tls-version-m" => &["without a word"],
                _ => &["tls-version-max, tls-cipher or tls-groups", "alert handshake_failure"],
            };
            ending.assert_failure(1, FAILED, words);
            drop(server);
            let keep = |line: &&str| !line.starts_with(remedy);
            let extra = lines.lines().filter(keep).map(|line| format!("{line}\n")).collect();
            let _server = lab.start_server(&ServerConfig { extra, ..config });
            lab.start_client(&profile, &[]).wait(CONNECTED, Duration::from_secs(15)).unwrap();
        }
    }
}

/// The next remote has its turn after one `hand-window`.
#[test]
fn another_remote_after_one_that_shares_nothing() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let lines = "tls-groups brainpoolP256r1\nport 1195\n";
    let _deaf = lab.start_server(&ServerConfig { extra: lines.to_owned(), ..config.clone() });
    let _server = lab.start_server(&config);
    let address = Transport::Udp4.address();
    let first = format!("client\nremote {address} 1195 udp\n");
    let profile = lab.profile(&config, "hand-window 5\n").replacen("client\n", &first, 1);
    let mut client = lab.start_client(&profile, &[]);
    client.wait(CONNECTED, Duration::from_secs(20)).unwrap();
    assert_eq!(client.count("connection attempt failed: the server answered, but not our TLS"), 1);
}
