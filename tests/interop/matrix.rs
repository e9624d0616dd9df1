//! Every transport with every wrapping and every cipher, on both server series.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, DISCONNECTED, dco};
use crate::lab::Lab;
use crate::server::{ServerConfig, Transport, Version, Wrapping, may_offload};

const CIPHERS: [&str; 4] = ["AES-128-GCM", "AES-192-GCM", "AES-256-GCM", "CHACHA20-POLY1305"];

/// One combination from start to end.
fn one(lab: &Lab, config: &ServerConfig) -> Result<(), String> {
    let server = lab.start_server(config);
    let before = lab.client_ns.snapshot();
    let mut client = lab.start_client(&lab.profile(config, ""), &[]);
    let works = client
        .wait(CONNECTED, Duration::from_secs(15))
        .and_then(|_| lab.ping("10.8.0.1"))
        .and_then(|()| lab.ping("fd00:8::1"))
        .and_then(|()| lab.transfer("10.8.0.1", 300_000))
        .and_then(|()| lab.transfer("fd00:8::1", 300_000));
    if let Err(error) = works {
        return Err(format!("{error}\nserver:\n{}", server.log()));
    }
    let ending = client.stop(Signal::SIGTERM);
    if ending.code != Some(0) || !ending.statuses.iter().any(|(code, _)| *code == DISCONNECTED) {
        return Err(format!("did not end as asked: {ending:?}"));
    }
    // An orderly end waits for nobody; where a limit had to end it, it takes seconds.
    if ending.took > Duration::from_secs(3) {
        return Err(format!("took {:?} to disconnect", ending.took));
    }
    let left = before.difference(&lab.client_ns.snapshot());
    if !left.is_empty() {
        return Err(format!("left behind: {left:?}"));
    }
    // In user space a server of 2.7 has epoch keys.
    let epochs = config.version == Version::V27 && dco() == "off";
    let key = if epochs { "Epoch Data key 1" } else { "Data Channel" };
    let expected = format!("{key}: Cipher '{}'", config.cipher);
    // A server with offload does not say.
    if !may_offload() && server.log_count(&expected) == 0 {
        return Err(format!("the server did not use {expected}:\n{}", server.log()));
    }
    Ok(())
}

/// All transports and ciphers with one wrapping; tells every combination that fails.
fn all(version: Version, wrapping: Wrapping) {
    let lab = Lab::new();
    let mut failed = Vec::new();
    for transport in Transport::ALL {
        for cipher in CIPHERS {
            let config =
                ServerConfig { version, transport, wrapping, cipher, extra: String::new() };
            if let Err(error) = one(&lab, &config) {
                failed.push(format!("--- {transport:?} {cipher}: {error}"));
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} combinations failed; the first two:\n{}",
        failed.len(),
        Transport::ALL.len() * CIPHERS.len(),
        failed[..failed.len().min(2)].join("\n")
    );
}

macro_rules! matrix {
    ($($name:ident: $version:ident $wrapping:expr;)*) => {
        $(#[test] fn $name() { all(Version::$version, $wrapping); })*
    };
}

matrix! {
    openvpn_2_6_without_wrapping: V26 Wrapping::None;
    openvpn_2_6_tls_auth: V26 Wrapping::TlsAuth("SHA256");
    openvpn_2_6_tls_crypt: V26 Wrapping::TlsCrypt;
    openvpn_2_6_tls_crypt_v2: V26 Wrapping::TlsCryptV2;
    openvpn_2_6_tls_crypt_v2_cookie: V26 Wrapping::TlsCryptV2Cookie;
    openvpn_2_7_without_wrapping: V27 Wrapping::None;
    openvpn_2_7_tls_auth: V27 Wrapping::TlsAuth("SHA256");
    openvpn_2_7_tls_crypt: V27 Wrapping::TlsCrypt;
    openvpn_2_7_tls_crypt_v2: V27 Wrapping::TlsCryptV2;
    openvpn_2_7_tls_crypt_v2_cookie: V27 Wrapping::TlsCryptV2Cookie;
}

/// The other digests that tls-auth meets in the field.
#[test]
fn tls_auth_with_every_digest() {
    let lab = Lab::new();
    for version in Version::ALL {
        for digest in ["SHA1", "SHA384", "SHA512"] {
            let config = ServerConfig {
                version,
                transport: Transport::Udp4,
                wrapping: Wrapping::TlsAuth(digest),
                cipher: "AES-256-GCM",
                extra: String::new(),
            };
            one(&lab, &config).unwrap_or_else(|e| panic!("{version:?} {digest}: {e}"));
        }
    }
}
