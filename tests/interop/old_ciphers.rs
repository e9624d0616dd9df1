//! Servers with CBC ciphers only, as old ones are.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, Client};
use crate::lab::Lab;
use crate::server::{Server, ServerConfig, Transport, Version, Wrapping};

const LIMIT: Duration = Duration::from_secs(15);

fn config(
    version: Version,
    transport: Transport,
    cipher: &'static str,
    extra: &str,
) -> ServerConfig {
    ServerConfig { version, transport, wrapping: Wrapping::None, cipher, extra: extra.to_owned() }
}

/// Small and large pings both ways round, then as much as TCP can have.
fn carries(lab: &Lab, client: &mut Client) -> Result<(), String> {
    client.wait(CONNECTED, LIMIT)?;
    lab.ping("10.8.0.1")?;
    lab.ping("fd00:8::1")?;
    for size in ["1000", "1400", "1471", "1472"] {
        let output = lab
            .client_ns
            .command("ping")
            .args(["-n", "-c", "2", "-i", "0.2", "-W", "5", "-s", size, "10.8.0.1"])
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("ping of {size}: {}", String::from_utf8_lossy(&output.stdout)));
        }
    }
    lab.transfer("10.8.0.1", 3_000_000)?;
    lab.transfer("fd00:8::1", 3_000_000)
}

fn works(lab: &Lab, server: &Server, profile: &str) -> Result<(), String> {
    let before = lab.client_ns.snapshot();
    let mut client = lab.start_client(profile, &[]);
    carries(lab, &mut client).map_err(|error| format!("{error}\nserver:\n{}", server.log()))?;
    for wrong in ["Authenticate/Decrypt packet error", "Replay"] {
        if server.log_count(wrong) > 0 {
            return Err(format!("the server said {wrong:?}:\n{}", server.log()));
        }
    }
    let ending = client.stop(Signal::SIGTERM);
    if ending.code != Some(0) {
        return Err(format!("did not end as asked: {ending:?}"));
    }
    let left = before.difference(&lab.client_ns.snapshot());
    if !left.is_empty() {
        return Err(format!("left behind: {left:?}"));
    }
    Ok(())
}

fn every_cipher(version: Version) {
    let lab = Lab::new();
    let mut failed = Vec::new();
    for (transport, cipher, digest) in [
        (Transport::Udp4, "AES-128-CBC", "SHA1"),
        (Transport::Udp4, "AES-192-CBC", "SHA224"),
        (Transport::Udp4, "AES-256-CBC", "SHA256"),
        (Transport::Udp6, "AES-256-CBC", "SHA512"),
        (Transport::Tcp4, "AES-128-CBC", "SHA256"),
        (Transport::Tcp4, "AES-256-CBC", "SHA384"),
        (Transport::Tcp6, "AES-192-CBC", "SHA1"),
    ] {
        let auth = format!("auth {digest}\n");
        let config = config(version, transport, cipher, &auth);
        let server = lab.start_server(&config);
        if let Err(error) = works(&lab, &server, &lab.profile(&config, &auth)) {
            failed.push(format!("--- {transport:?} {cipher} {digest}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{} failed; the first:\n{}", failed.len(), failed[0]);
}

#[test]
fn every_cbc_cipher_2_6() {
    every_cipher(Version::V26);
}

#[test]
fn every_cbc_cipher_2_7() {
    every_cipher(Version::V27);
}

/// A profile of the time of 2.3 and a server that does not say what it uses (its push of the cipher
/// is kept from us), or says it in its options string only. 2.7 as a client goes with data-ciphers.
#[test]
fn a_server_that_does_not_negotiate() {
    let lab = Lab::new();
    let silent = "pull-filter ignore \"cipher \"\n";
    for (version, server_says, client_says) in [
        (Version::V26, "cipher AES-256-CBC\n", ""),
        (Version::V27, "cipher AES-256-CBC\n", ""),
        (Version::V26, "disable-occ\n", "data-ciphers-fallback AES-256-CBC\n"),
        (Version::V26, "disable-occ\n", "cipher AES-256-CBC\n"),
    ] {
        let extra = format!("auth SHA256\n{server_says}");
        let config = config(version, Transport::Udp4, "AES-256-CBC", &extra);
        let server = lab.start_server(&config);
        let profile = lab.profile(&config, &format!("auth SHA256\n{silent}{client_says}"));
        works(&lab, &server, &profile)
            .unwrap_or_else(|error| panic!("{version:?} {server_says:?} {client_says:?}: {error}"));
    }
}

/// The server refuses it as it refuses a login; what can be done is told, and works.
#[test]
fn no_data_cipher_in_common() {
    let lab = Lab::new();
    for version in Version::ALL {
        let config = config(version, Transport::Udp4, "AES-256-CBC", "");
        let server = lab.start_server(&config);
        let offered = "data-ciphers AES-256-GCM:CHACHA20-POLY1305";
        let profile = lab.profile(&config, "").replace("data-ciphers AES-256-CBC", offered);
        let ending = lab.start_client(&profile, &[]).finish(LIMIT);
        assert_eq!(ending.code, Some(3), "{}", ending.transcript);
        let told = "offered (AES-256-GCM:CHACHA20-POLY1305): add its own to data-ciphers";
        assert!(ending.transcript.contains(told), "{version:?}: {}", ending.transcript);
        works(&lab, &server, &profile.replace(offered, &format!("{offered}:AES-256-CBC"))).unwrap();
    }
}

/// `auth` is the digest of the data channel and of tls-auth alike.
#[test]
fn one_digest_for_data_and_tls_auth() {
    let lab = Lab::new();
    for (version, digest) in [(Version::V26, "SHA512"), (Version::V27, "SHA256")] {
        let auth = format!("auth {digest}\n");
        let config = ServerConfig {
            wrapping: Wrapping::TlsAuth(digest),
            ..config(version, Transport::Udp4, "AES-256-CBC", &auth)
        };
        let server = lab.start_server(&config);
        works(&lab, &server, &lab.profile(&config, &auth))
            .unwrap_or_else(|error| panic!("{version:?} {digest}: {error}"));
    }
}

/// The keys of a renegotiation, both ways round, under load.
#[test]
fn renegotiation_with_cbc() {
    let lab = Lab::new();
    for (version, transport) in [(Version::V26, Transport::Tcp4), (Version::V27, Transport::Udp4)] {
        let config = config(version, transport, "AES-256-CBC", "auth SHA256\nreneg-sec 5\n");
        let server = lab.start_server(&config);
        let mut client = lab.start_client(&lab.profile(&config, "auth SHA256\nreneg-sec 6\n"), &[]);
        client.wait(CONNECTED, LIMIT).unwrap();
        let output = lab
            .client_ns
            .command("ping")
            .args(["-n", "-q", "-c", "130", "-i", "0.1", "-s", "1300", "10.8.0.1"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(" 0% packet loss"), "{version:?}: {told}\n{}", server.log());
        let keys = server.log_count("Outgoing Data Channel: Cipher 'AES-256-CBC'");
        assert!(keys >= 3, "{keys} keys:\n{}", server.log());
        assert_eq!(server.log_count("Authenticate/Decrypt packet error"), 0, "{}", server.log());
    }
}
