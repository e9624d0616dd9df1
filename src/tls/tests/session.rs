//! The session itself: records, exporter, server name, alerts.

use std::io::{Read, Write};

use rustls::HandshakeKind;

use super::support::*;
use crate::profile::{KeySource, TlsOptions, TlsVersion};
use crate::tls::{TlsConfig, TlsError, TlsErrorKind, TlsFactory, TlsSession};

#[test]
fn negotiates_tls13_with_hybrid_group() {
    let ca = Ca::new("CA");
    let client = connect(&options(&ca.pem()), &Server::new(&ca.issue(&server_params("server"))));
    let client = client.unwrap();
    assert_eq!(client.description(), "TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768");
    let peer = client.peer_certificate().unwrap();
    assert_eq!(peer.subject, "CN=server");
    assert_eq!(peer.common_name.as_deref(), Some("server"));
}

#[test]
fn negotiates_tls12() {
    let ca = Ca::new("CA");
    let server = Server::new(&ca.issue(&server_params("server")));
    let mut options = options(&ca.pem());
    options.version_max = TlsVersion::V1_2;
    let client = connect(&options, &server).unwrap();
    assert_eq!(client.description(), "TLSv1.2, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, X25519");
}

/// An established pair for each version.
fn pairs() -> Vec<(Box<dyn TlsSession>, rustls::ServerConnection)> {
    let ca = Ca::new("CA");
    let identity = ca.issue(&server_params("server"));
    [&TLS12, &TLS13]
        .into_iter()
        .map(|versions| {
            let server = Server::with(identity.chain.clone(), identity.key_der(), versions);
            let config = TlsConfig::new(&options(&ca.pem()), None).unwrap();
            let (mut client, mut server) = (config.start().unwrap(), server.accept());
            assert!(client.peer_certificate().is_none());
            pump(&mut *client, &mut server).unwrap();
            (client, server)
        })
        .collect()
}

#[test]
fn one_write_is_one_record() {
    for (mut client, mut server) in pairs() {
        for length in [1, 2000, 16_384] {
            client.write_plaintext(&vec![7; length]).unwrap();
            let mut wire = Vec::new();
            client.take_ciphertext(&mut wire).unwrap();
            // Record header: type 23, legacy version, length.
            assert_eq!(wire[0], 23);
            assert_eq!(usize::from(u16::from_be_bytes([wire[3], wire[4]])) + 5, wire.len());
            let mut rest = &wire[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
            }
            let state = server.process_new_packets().unwrap();
            assert_eq!(state.plaintext_bytes_to_read(), length);
            server.reader().read_exact(&mut vec![0; length]).unwrap();
        }
        let error = client.write_plaintext(&[0; 16_385]).unwrap_err();
        check(&error, TlsErrorKind::Host, &["16385 bytes"]);
    }
}

#[test]
fn reads_any_split() {
    for (mut client, mut server) in pairs() {
        let text: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        server.set_buffer_limit(None);
        server.writer().write_all(&text).unwrap();
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut received = Vec::new();
        for piece in wire.chunks(7) {
            client.read_ciphertext(piece).unwrap();
        }
        client.read_plaintext(&mut received).unwrap();
        assert!(received == text);
        // Everything at once, too.
        server.writer().write_all(&text).unwrap();
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_ciphertext(&wire).unwrap();
        received.clear();
        client.read_plaintext(&mut received).unwrap();
        assert!(received == text);
    }
}

#[test]
fn exporter_without_context() {
    for (client, server) in pairs() {
        let label = "EXPORTER-OpenVPN-datakeys";
        let (mut ours, mut theirs) = ([0; 256], [0; 256]);
        client.export(label, &mut ours).unwrap();
        server.export_keying_material(&mut theirs, label.as_bytes(), None).unwrap();
        assert_eq!(ours, theirs);
        assert_ne!(ours, [0; 256]);
    }
    let ca = Ca::new("CA");
    let client = TlsConfig::new(&options(&ca.pem()), None).unwrap().start().unwrap();
    client.export("EXPORTER-x", &mut [0; 8]).unwrap_err();
}

#[test]
fn close_notify_comes_after_the_data() {
    for (mut client, mut server) in pairs() {
        server.writer().write_all(b"AUTH_FAILED\0").unwrap();
        server.send_close_notify();
        pump(&mut *client, &mut server).unwrap();
        let mut received = Vec::new();
        client.read_plaintext(&mut received).unwrap();
        assert_eq!(received, b"AUTH_FAILED\0");
        let error = client.read_plaintext(&mut received).unwrap_err();
        check(&error, TlsErrorKind::Alert, &["closed"]);
    }
}

#[test]
fn damaged_record() {
    for (mut client, mut server) in pairs() {
        server.writer().write_all(b"hello").unwrap();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        *wire.last_mut().unwrap() ^= 1;
        let error = client.read_ciphertext(&wire).unwrap_err();
        assert_eq!(error.kind, TlsErrorKind::Protocol);
        let mut alert = Vec::new();
        client.take_ciphertext(&mut alert).unwrap();
        assert!(!alert.is_empty());
        client.read_ciphertext(&wire).unwrap_err();
    }
}

#[test]
fn server_name_only_on_demand() {
    let ca = Ca::new("CA");
    let server = Server::new(&ca.issue(&server_params("server")));
    let mut options = options(&ca.pem());
    for sni in [None, Some("front.example.net")] {
        options.sni = sni.map(str::to_owned);
        let config = TlsConfig::new(&options, None).unwrap();
        let (mut client, mut server) = (config.start().unwrap(), server.accept());
        pump(&mut *client, &mut server).unwrap();
        assert_eq!(server.server_name(), sni);
    }
    for bad in ["", "192.0.2.1", "no name"] {
        options.sni = Some(bad.to_owned());
        let error = TlsConfig::new(&options, None).unwrap_err();
        check(&error, TlsErrorKind::Config, &["sni", "DNS name"]);
    }
}

#[test]
fn every_handshake_is_full_and_small() {
    let ca = Ca::new("CA");
    for versions in [&TLS12, &TLS13] {
        let identity = ca.issue(&server_params("server"));
        let mut server = Server::with(identity.chain.clone(), identity.key_der(), versions);
        server.config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let shared = std::sync::Arc::new(server.config);
        let config = TlsConfig::new(&options(&ca.pem()), None).unwrap();
        for _ in 0..3 {
            let mut client = config.start().unwrap();
            let mut hello = Vec::new();
            client.take_ciphertext(&mut hello).unwrap();
            // Two control packets of ordinary size.
            assert!(hello.len() < 1700, "{} bytes", hello.len());
            let mut server = rustls::ServerConnection::new(shared.clone()).unwrap();
            server.read_tls(&mut &hello[..]).unwrap();
            server.process_new_packets().unwrap();
            pump(&mut *client, &mut server).unwrap();
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[test]
fn without_common_version() {
    let ca = Ca::new("CA");
    let identity = ca.issue(&server_params("server"));
    let mut options = options(&ca.pem());
    options.version_min = TlsVersion::V1_3;
    let old = Server::with(identity.chain.clone(), identity.key_der(), &TLS12);
    let error = connect(&options, &old).err().unwrap();
    check(&error, TlsErrorKind::Version, &["protocol_version", "tls-version-min"]);
    options.version_min = TlsVersion::V1_0;
    options.version_max = TlsVersion::V1_2;
    connect(&options, &old).unwrap();
    let new = Server::with(identity.chain.clone(), identity.key_der(), &TLS13);
    let error = connect(&options, &new).err().unwrap();
    check(&error, TlsErrorKind::Version, &["protocol_version", "tls-version-max"]);
}

#[test]
fn without_common_suite_or_group() {
    let ca = Ca::new("CA");
    let server = Server::new(&ca.issue(&server_params("server")));
    let mut options = options(&ca.pem());
    options.groups = Some(vec!["MLKEM1024".into()]);
    let error = connect(&options, &server).err().unwrap();
    check(&error, TlsErrorKind::Alert, &["handshake_failure", "tls-groups"]);
    options.groups = None;
    options.version_max = TlsVersion::V1_2;
    options.ciphers = Some(vec!["ECDHE-RSA-AES256-GCM-SHA384".into()]);
    let error = connect(&options, &server).err().unwrap();
    check(&error, TlsErrorKind::Alert, &["handshake_failure", "tls-cipher"]);
}

/// What the client sees once a server that demands a certificate has judged.
fn judged(options: &TlsOptions, server: &Server) -> Result<(), TlsError> {
    connect(options, server).map(|_| ())
}

#[test]
fn client_certificates() {
    let ca = Ca::new("CA");
    let identity = ca.issue(&server_params("server"));
    let with_client = |client: &Identity| {
        let mut options = options(&ca.pem());
        options.cert = Some(client.pem());
        options.key = Some(KeySource::Pem(client.key.serialize_pem().into()));
        options
    };
    for versions in [&TLS12, &TLS13] {
        let server = Server::demanding(&identity, &ca.der(), versions);
        judged(&with_client(&ca.issue(&client_params("user"))), &server).unwrap();

        let error = judged(&options(&ca.pem()), &server).unwrap_err();
        // rustls servers of TLS 1.2 say handshake_failure here.
        check(&error, TlsErrorKind::Alert, &["certificate"]);

        let mut expired = client_params("user");
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = with_client(&ca.issue(&expired));
        let config = TlsConfig::new(&expired, None).unwrap();
        assert!(config.warnings()[0].contains("expired on"), "{:?}", config.warnings());
        let error = judged(&expired, &server).unwrap_err();
        check(&error, TlsErrorKind::Alert, &["certificate_expired", "renew"]);

        let foreign = Ca::new("Other").issue(&client_params("user"));
        let error = judged(&with_client(&foreign), &server).unwrap_err();
        check(&error, TlsErrorKind::Alert, &["unknown_ca", "issuer of the client certificate"]);
    }
}

#[test]
fn intermediates_of_the_client_are_sent() {
    let root = Ca::new("Root");
    let middle = root.intermediate(ca_params("Middle"));
    let server = Server::demanding(&root.issue(&server_params("server")), &root.der(), &BOTH);
    let mut client = middle.issue(&client_params("user"));
    let mut options = options(&root.pem());
    options.key = Some(KeySource::Pem(client.key.serialize_pem().into()));
    options.cert = Some(client.pem());
    judged(&options, &server).unwrap_err();
    // In extra-certs, in ca (as OpenSSL does), after the certificate.
    options.extra_certs = Some(middle.pem());
    judged(&options, &server).unwrap();
    options.extra_certs = None;
    options.ca = Some(format!("{}{}", root.pem(), middle.pem()));
    judged(&options, &server).unwrap();
    options.ca = Some(root.pem());
    client.chain.push(middle.der());
    options.cert = Some(client.pem());
    judged(&options, &server).unwrap();
}

#[test]
fn debug_shows_no_secret() {
    let ca = Ca::new("CA");
    let client = ca.issue(&client_params("user"));
    let mut options = options(&ca.pem());
    options.cert = Some(client.pem());
    options.key = Some(KeySource::Pem(client.key.serialize_pem().into()));
    let config = TlsConfig::new(&options, None).unwrap();
    assert_eq!(format!("{config:?}"), "TlsConfig { warnings: [], .. }");
}
