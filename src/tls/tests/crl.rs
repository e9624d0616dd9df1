//! `crl-verify`

use rcgen::{
    CertificateRevocationListParams, CustomExtension, KeyIdMethod, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};

use rcgen::SigningKey as _;

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

/// DER of one element.
fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], &content].concat()
}

/// What a large provider's list looks like: the dates of its entries end without `Z`.
fn list_without_zones(ca: &Ca, serial: u8, this_update: &str) -> String {
    const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let (_, certificate) = x509_parser::parse_x509_certificate(ca.certificate.der()).unwrap();
    let date = |text: &str| der(0x17, &[text.as_bytes()]);
    let entry = der(0x30, &[&[2, 1, serial], &date("160708190046")]);
    let signed = der(
        0x30,
        &[
            ECDSA_SHA256,
            certificate.subject().as_raw(),
            &date(this_update),
            &date("490703190046Z"),
            &der(0x30, &[&entry]),
        ],
    );
    let signature = ca.issuer.key().sign(&signed).unwrap();
    let list = der(0x30, &[&signed, ECDSA_SHA256, &der(3, &[&[0], &signature])]);
    pem::encode(&pem::Pem::new("X509 CRL", list))
}

/// As OpenSSL 3.0 reads them, which OpenVPN 3 Linux brings along.
#[test]
fn dates_without_a_zone_are_read_with_a_warning() {
    let ca = Ca::new("CA");
    for this_update in ["160708190046Z", "160708190046"] {
        let options = with_crl(&ca.pem(), &list_without_zones(&ca, 7, this_update));
        accepted(&options, &numbered(&ca, 5));
        refused(&options, &numbered(&ca, 7), &["crl-verify", "CN=server", "revoked"]);
        let warnings = TlsConfig::new(&options, None).unwrap().warnings().join("\n");
        assert!(warnings.contains("list 1 has dates without a time zone"), "{warnings}");
    }
    let sound = TlsConfig::new(&with_crl(&ca.pem(), &list(&ca, &[7], 2999)), None).unwrap();
    assert_eq!(sound.warnings(), [""; 0]);
    // Signed is the list as it came.
    let (forger, other) = (Ca::new("CA"), Ca::new("Other"));
    let forged = with_crl(&ca.pem(), &list_without_zones(&forger, 7, "160708190046Z"));
    refused(&forged, &numbered(&ca, 5), &["crl-verify", "not signed by that CA"]);
    let elsewhere = with_crl(&ca.pem(), &list_without_zones(&other, 7, "160708190046Z"));
    accepted(&elsewhere, &numbered(&ca, 7));
    let wrong = with_crl(&ca.pem(), &list_without_zones(&ca, 7, "16070819"));
    let error = TlsConfig::new(&wrong, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["crl-verify", "list 1 cannot be read"]);
}

/// `crl-verify DIR dir`: of every certificate of the chain, and without any list.
#[test]
fn serial_numbers_of_a_directory() {
    let root = Ca::new("Root");
    let mut params = ca_params("Middle");
    params.serial_number = Some(SerialNumber::from(vec![1, 0, 0, 0, 0, 0, 0, 0, 9]));
    let middle = root.intermediate(params);
    let mut server = numbered(&middle, 700);
    server.chain.push(middle.der());
    let with_serials = |serials: &[&str]| {
        let mut options = options(&root.pem());
        options.revoked_serials = serials.iter().map(|serial| (*serial).to_owned()).collect();
        options
    };
    accepted(&with_serials(&["70", "7000", "0700"]), &server);
    refused(&with_serials(&["700"]), &server, &["crl-verify", "CN=server", "is revoked"]);
    let words = ["crl-verify", "CN=Middle", "revoked"];
    refused(&with_serials(&["18446744073709551625"]), &server, &words);
    // It needs no CA.
    let mut by_fingerprint = with_serials(&["700"]);
    by_fingerprint.ca = None;
    by_fingerprint.peer_fingerprints = vec![server.fingerprint()];
    refused(&by_fingerprint, &server, &["crl-verify", "is revoked"]);
    by_fingerprint.revoked_serials.clear();
    accepted(&by_fingerprint, &server);
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
