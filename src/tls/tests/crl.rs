//! `crl-verify`

use rcgen::{
    CertificateRevocationListParams, CustomExtension, KeyIdMethod, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};

use super::support::*;
use crate::profile::TlsOptions;
use crate::tls::{TlsConfig, TlsErrorKind};

fn list(ca: &Ca, serials: &[u64], next_year: i32) -> String {
    CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(next_year, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: rcgen::date_time_ymd(2021, 1, 1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(&ca.issuer)
    .unwrap()
    .pem()
    .unwrap()
}

fn with_crl(ca: &str, crl: &str) -> TlsOptions {
    let mut options = options(ca);
    options.crl = Some(crl.to_owned());
    options
}

fn numbered(ca: &Ca, serial: u64) -> Identity {
    let mut params = server_params("server");
    params.serial_number = Some(SerialNumber::from(serial));
    ca.issue(&params)
}

#[test]
fn revoked_and_not() {
    let ca = Ca::new("CA");
    let options = with_crl(&ca.pem(), &list(&ca, &[4, 7], 2999));
    accepted(&options, &numbered(&ca, 5));
    refused(&options, &numbered(&ca, 7), &["crl-verify", "CN=server", "revoked"]);
}

#[test]
fn issuer_without_list_is_passed_over() {
    let (ca, other) = (Ca::new("CA"), Ca::new("Other"));
    let options = with_crl(&ca.pem(), &list(&other, &[7], 2999));
    accepted(&options, &numbered(&ca, 7));
}

#[test]
fn revoked_intermediate() {
    let root = Ca::new("Root");
    let mut params = ca_params("Middle");
    params.serial_number = Some(SerialNumber::from(9));
    let middle = root.intermediate(params);
    let mut server = numbered(&middle, 7);
    server.chain.push(middle.der());
    accepted(&with_crl(&root.pem(), &list(&root, &[7], 2999)), &server);
    refused(
        &with_crl(&root.pem(), &list(&root, &[9], 2999)),
        &server,
        &["crl-verify", "CN=Middle", "revoked"],
    );
    // Several lists in one file.
    let both = format!("{}{}", list(&root, &[], 2999), list(&middle, &[7], 2999));
    refused(&with_crl(&root.pem(), &both), &server, &["crl-verify", "is revoked"]);
}

#[test]
fn expired_list() {
    let ca = Ca::new("CA");
    let stale = list(&ca, &[], 2022);
    refused(
        &with_crl(&ca.pem(), &stale),
        &numbered(&ca, 5),
        &["crl-verify", "expired", "CN=CA", "new one"],
    );
    // A current one next to it counts.
    let both = format!("{stale}{}", list(&ca, &[6], 2999));
    accepted(&with_crl(&ca.pem(), &both), &numbered(&ca, 5));
    refused(&with_crl(&ca.pem(), &both), &numbered(&ca, 6), &["crl-verify", "revoked"]);
}

#[test]
fn forged_list() {
    let (ca, forger) = (Ca::new("CA"), Ca::new("CA"));
    let options = with_crl(&ca.pem(), &list(&forger, &[7], 2999));
    refused(&options, &numbered(&ca, 5), &["crl-verify", "not signed by that CA"]);
}

#[test]
fn list_of_a_ca_that_may_not() {
    let mut params = ca_params("CA");
    let ca = Ca::with(params.clone());
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // The same key and name, without cRLSign.
    let certificate = params.self_signed(ca.issuer.key()).unwrap();
    let options = with_crl(&certificate.pem(), &list(&ca, &[], 2999));
    refused(&options, &numbered(&ca, 5), &["crl-verify", "cRLSign"]);
}

#[test]
fn partial_list_is_not_taken_for_a_whole_one() {
    let ca = Ca::new("CA");
    let mut params = server_params("server");
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![0x05, 0x00])];
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2999, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: Some(rcgen::CrlIssuingDistributionPoint {
            distribution_point: rcgen::CrlDistributionPoint { uris: vec!["http://x/".into()] },
            scope: None,
        }),
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&ca.issuer).unwrap().pem().unwrap();
    refused(
        &with_crl(&ca.pem(), &list),
        &numbered(&ca, 5),
        &["crl-verify", "critical extension 2.5.29.28"],
    );
}

#[test]
fn openssl_list_of_version_1() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let ca = Ca::new("CA");
    std::fs::write(path.join("ca.crt"), ca.pem()).unwrap();
    std::fs::write(path.join("ca.key"), ca.issuer.key().serialize_pem()).unwrap();
    std::fs::write(
        path.join("ca.cnf"),
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=30\n",
    )
    .unwrap();
    // Index format: state, expiry, revocation, serial, file, subject.
    std::fs::write(
        path.join("index.txt"),
        "R\t491231000000Z\t230101000000Z\t07\tunknown\t/CN=server\n",
    )
    .unwrap();
    openssl(path, "ca -config ca.cnf -gencrl -cert ca.crt -keyfile ca.key -out crl.pem");
    let crl = read(path, "crl.pem");
    accepted(&with_crl(&ca.pem(), &crl), &numbered(&ca, 5));
    refused(&with_crl(&ca.pem(), &crl), &numbered(&ca, 7), &["crl-verify", "revoked"]);
}

#[test]
fn a_list_without_a_ca_is_an_error() {
    let ca = Ca::new("CA");
    let mut options = with_crl(&ca.pem(), &list(&ca, &[7], 2999));
    options.ca = None;
    options.peer_fingerprints = vec![numbered(&ca, 7).fingerprint()];
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["crl-verify", "peer-fingerprint", "add the ca"]);
}

#[test]
fn unreadable_list_is_an_error() {
    let ca = Ca::new("CA");
    for (crl, words) in [
        ("", "no revocation list found"),
        (&*ca.pem(), "no revocation list found"),
        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "list 1 cannot be read"),
        ("-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n", "damaged"),
    ] {
        let error = TlsConfig::new(&with_crl(&ca.pem(), crl), None).unwrap_err();
        check(&error, TlsErrorKind::Config, &["crl-verify", words]);
    }
}
