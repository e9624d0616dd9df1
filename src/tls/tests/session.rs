//! The session itself: versions, records, exporter, alerts.

use std::io::{Read, Write};

use super::support::*;
use crate::profile::TlsVersion;
use crate::tls::{TlsConfig, TlsErrorKind, TlsFactory};

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
