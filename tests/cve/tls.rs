//! Certificates, private keys and TLS.

use std::fs;
use std::process::{Command, Stdio};

use ovpn_client::tls::{TlsConfig, TlsErrorKind, TlsFactory};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{options, profile_text};

/// OpenVPN 3 Core dereferenced what a PKCS#7 file, in the place of a certificate, did not have.
#[test]
fn cve_2023_6247_pkcs7() {
    let empty = pem::encode(&pem::Pem::new("PKCS7", [0x30, 0x00]));
    let mut tls = options("").tls;
    tls.ca = Some(empty);
    let error = TlsConfig::new(&tls, None).unwrap_err();
    assert_eq!(error.kind, TlsErrorKind::Config);
    assert!(error.to_string().contains("ca: no certificate found"), "{error}");
}

/// OpenVPN Connect wrote the profile's private key to its log.
#[test]
fn cve_2024_8474_no_key_in_the_log() {
    let key = fs::read_to_string("tests/fuzz/corpus/private_key/sec1").unwrap();
    let key = key.trim_start_matches('\0');
    let secret: Vec<&str> = key.lines().filter(|line| !line.starts_with("--")).collect();
    let cert = fs::read_to_string("tests/fuzz/pki/client.crt").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (profile, login) = (directory.path().join("a.ovpn"), directory.path().join("login"));
    fs::write(&login, "joe\nsecret\n").unwrap();
    let silent = |text: String, connect: bool| {
        fs::write(&profile, profile_text(&text).replace("remote a", "remote 127.0.0.1 9")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovpn-client"));
        command.arg(if connect { "connect" } else { "check" }).arg(&profile);
        if connect {
            command.args(["--verb", "6", "--auth-user-pass"]).arg(&login);
            command.arg("--runtime-dir").arg(directory.path());
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!said.is_empty() && (!connect || !output.status.success()));
        for line in &secret {
            assert!(!said.contains(&line[8..32]), "{text}\nsaid {said}");
        }
    };
    let damaged = key.replacen(secret[1], &secret[1].replace(['A', 'E'], "?"), 1);
    let endless = key.replace("-----END EC PRIVATE KEY-----", "");
    silent(format!("<cert>\n{cert}</cert>\n<key>\n{key}</key>"), false);
    for key in [&*damaged, &*endless] {
        silent(format!("<cert>\n{cert}</cert>\n<key>\n{key}</key>"), true);
    }
    for key in [key, &*damaged, &*endless] {
        for text in [
            // A block without end, one whose name is wrong, and a key where no block is.
            format!("<cert>\n{cert}</cert>\n<key>\n{key}"),
            format!("<kye>\n{key}</kye>"),
            key.to_owned(),
        ] {
            silent(text.clone(), false);
            silent(text, true);
        }
    }
}

/// rustls-webpki: certificates that could all have issued each other were tried in every order.
#[test]
fn rustsec_2023_0053_paths_without_number() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let named = |name: &str, ca| {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = ca;
        params
    };
    let authority = || named("everybody", IsCa::Ca(BasicConstraints::Unconstrained));
    let keys: Vec<KeyPair> = (0..24).map(|_| KeyPair::generate().unwrap()).collect();
    let issued = |by: usize, params: CertificateParams, key: &KeyPair| {
        let authority = authority();
        let issuer = Issuer::from_params(&authority, &keys[by]);
        params.signed_by(key, &issuer).unwrap().der().clone()
    };
    let between: Vec<CertificateDer<'static>> =
        (1..keys.len()).map(|n| issued(n - 1, authority(), &keys[n])).collect();
    let leaf = issued(keys.len() - 1, named("server", IsCa::NoCa), &KeyPair::generate().unwrap());
    // Not one of them.
    let root = authority().self_signed(&KeyPair::generate().unwrap()).unwrap();
    let mut tls = options("").tls;
    tls.peer_fingerprints.clear();
    tls.ca = Some(root.pem());
    let verifier = TlsConfig::new(&tls, None).unwrap().verifier();
    let name = ServerName::try_from("a.example").unwrap();
    let verdict = verifier.verify_server_cert(&leaf, &between, &name, &[], UnixTime::now());
    assert!(verdict.is_err());
}

/// rustls: an alert that says goodbye in the middle of a handshake was read for ever.
#[test]
fn rustsec_2024_0336_goodbye_in_a_handshake() {
    let certificate = fs::read("tests/fuzz/pki/server.crt").unwrap();
    assert!(CertificateDer::from_pem_slice(&certificate).is_ok());
    let mut tls = options("").tls;
    tls.ca = Some(String::from_utf8(certificate).unwrap());
    let mut session = TlsConfig::new(&tls, None).unwrap().start().unwrap();
    const CLOSE_NOTIFY: &[u8] = &[21, 3, 3, 0, 2, 1, 0];
    for _ in 0..3 {
        // An error or not: it comes back, and nothing is taken for complete.
        let _ = session.read_ciphertext(CLOSE_NOTIFY);
        let mut plaintext = Vec::new();
        let _ = session.read_plaintext(&mut plaintext);
        assert!(session.is_handshaking() && plaintext.is_empty());
    }
}
