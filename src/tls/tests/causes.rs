//! Whoever looks below an error finds what caused it, as a type.

use std::error::Error;

use rcgen::{CertificateParams, date_time_ymd};

use super::support::*;
use crate::profile::KeySource;
use crate::secret::Secret;
use crate::tls::{TlsConfig, TlsError};

/// The first cause of this type below `error`.
fn cause<T: Error + 'static>(error: &TlsError) -> Option<&T> {
    std::iter::successors(error.source(), |error| (*error).source()).find_map(|e| e.downcast_ref())
}

#[test]
fn a_certificate_that_is_refused() {
    let ca = Ca::new("CA");
    let mut params: CertificateParams = server_params("server");
    params.not_after = date_time_ymd(2020, 1, 1);
    let error = connect(&options(&ca.pem()), &Server::new(&ca.issue(&params))).err().unwrap();
    let defect: &crate::tls::verify::Defect = cause(&error).expect("a cause");
    assert!(error.to_string().contains(&defect.to_string()), "{error}");
    assert!(defect.to_string().contains("2020"), "{defect}");
}

#[test]
fn an_alert() {
    let ca = Ca::new("CA");
    let server = Server::demanding(&ca.issue(&server_params("server")), &ca.der(), &TLS12);
    let error = connect(&options(&ca.pem()), &server).err().unwrap();
    let rustls: &rustls::Error = cause(&error).expect("a cause");
    assert!(matches!(rustls, rustls::Error::AlertReceived(_)), "{rustls}");
}

#[test]
fn a_key_that_is_no_use() {
    let ca = Ca::new("CA");
    let mut options = options(&ca.pem());
    options.cert = Some(ca.issue(&client_params("client")).pem());
    let damaged = pem::encode(&pem::Pem::new("ENCRYPTED PRIVATE KEY", [0x30, 0x03, 1, 2]));
    options.key = Some(KeySource::Pem(Secret::new(damaged)));
    options.key_passphrase = Some(Secret::new("x".to_owned()));
    let error = TlsConfig::new(&options, None).err().unwrap();
    let der: &pkcs8::der::Error = cause(&error).expect("a cause");
    assert!(error.to_string().contains(&der.to_string()), "{error}");

    options.key = Some(KeySource::Pem(Secret::new("-----BEGIN PRIVATE KEY-----\n%".to_owned())));
    let error = TlsConfig::new(&options, None).err().unwrap();
    assert!(error.to_string().contains("the PEM text is damaged"), "{error}");
}
