//! For each rule about the server's own certificate: one that passes, one that breaks exactly it.

use rcgen::{
    CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

use super::support::*;
use crate::profile::{CertUsage, VerifyHash, X509Name};
use crate::tls::{TlsConfig, TlsErrorKind};

#[test]
fn certificate_without_extensions_needs_no_rule() {
    let ca = Ca::new("CA");
    accepted(&options(&ca.pem()), &ca.issue(&named("server with a name, not a host")));
}

#[test]
fn server_purpose() {
    let ca = Ca::new("CA");
    let options = options(&ca.pem());
    let mut params = server_params("server");
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    accepted(&options, &ca.issue(&params));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    accepted(&options, &ca.issue(&params));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3])];
    accepted(&options, &ca.issue(&params));

    refused(
        &options,
        &ca.issue(&client_params("other user")),
        &["CN=other user", "serverAuth", "issued again"],
    );
    let mut params = named("server");
    params.key_usages = vec![KeyUsagePurpose::DataEncipherment];
    refused(&options, &ca.issue(&params), &["key usage", "CN=server"]);
}

#[test]
fn remote_cert_tls() {
    let ca = Ca::new("CA");
    let mut options = options(&ca.pem());
    options.remote_cert_tls = Some(CertUsage::Server);
    accepted(&options, &ca.issue(&server_params("server")));

    let mut no_key_usage = server_params("server");
    no_key_usage.key_usages.clear();
    refused(&options, &ca.issue(&no_key_usage), &["remote-cert-tls", "key usage", "CN=server"]);
    let mut no_extended = server_params("server");
    no_extended.extended_key_usages.clear();
    refused(
        &options,
        &ca.issue(&no_extended),
        &["remote-cert-tls", "extended key usage", "build-server-full"],
    );
    let mut any = server_params("server");
    any.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    refused(&options, &ca.issue(&any), &["remote-cert-tls"]);

    options.remote_cert_tls = Some(CertUsage::Client);
    let mut both = server_params("server");
    refused(&options, &ca.issue(&both), &["remote-cert-tls", "TLS client"]);
    both.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    accepted(&options, &ca.issue(&both));
}

#[test]
fn remote_cert_ku() {
    let ca = Ca::new("CA");
    let mut options = options(&ca.pem());
    let server = ca.issue(&server_params("server"));
    for masks in [vec![0xa0], vec![0x80], vec![0x88, 0x20], vec![]] {
        options.remote_cert_ku = Some(masks);
        accepted(&options, &server);
    }
    options.remote_cert_ku = Some(vec![0x88, 0x01]);
    refused(&options, &server, &["remote-cert-ku", "a0", "88, 01"]);
    options.remote_cert_ku = Some(vec![]);
    refused(&options, &ca.issue(&named("server")), &["remote-cert-ku", "no key usage"]);
}

#[test]
fn remote_cert_eku() {
    let ca = Ca::new("CA");
    let mut options = options(&ca.pem());
    let server = ca.issue(&server_params("server"));
    let mut params = server_params("server");
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::Other(vec![1, 2, 3, 4]));
    let special = ca.issue(&params);
    for wanted in ["TLS Web Server Authentication", "1.3.6.1.5.5.7.3.1", "serverAuth"] {
        options.remote_cert_eku = Some(wanted.to_owned());
        accepted(&options, &server);
        refused(&options, &ca.issue(&named("server")), &["remote-cert-eku", wanted]);
    }
    options.remote_cert_eku = Some("1.2.3.4".to_owned());
    accepted(&options, &special);
    refused(&options, &server, &["remote-cert-eku", "1.2.3.4"]);

    options.remote_cert_eku = Some("no such usage".to_owned());
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["remote-cert-eku", "no such usage", "object identifier"]);
    // What the error gives as the example is one.
    check(&error, TlsErrorKind::Config, &["1.3.6.1.5.5.7.3.1 for"]);
}

#[test]
fn ns_cert_type() {
    let netscape = |bits: u8, unused: u8| {
        let mut params = named("server");
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &[2, 16, 840, 1, 113730, 1, 1],
            vec![0x03, 0x02, unused, bits],
        )];
        params
    };
    let ca = Ca::new("CA");
    let mut options = options(&ca.pem());
    // With the extension, its server bit decides, rule or not.
    accepted(&options, &ca.issue(&netscape(0x40, 6)));
    refused(&options, &ca.issue(&netscape(0x80, 7)), &["Netscape", "CN=server"]);
    options.ns_cert_type = Some(CertUsage::Server);
    accepted(&options, &ca.issue(&netscape(0x40, 6)));
    accepted(&options, &ca.issue(&server_params("server")));
    // The purpose would stop it first where a CA is involved.
    options.ca = None;
    let client = ca.issue(&client_params("other user"));
    options.peer_fingerprints = vec![client.fingerprint()];
    refused(&options, &client, &["ns-cert-type", "CN=other user"]);
}

#[test]
fn verify_x509_name() {
    let ca = Ca::new("CA");
    let mut params = server_params("server-1.example.net");
    params.distinguished_name.push(DnType::OrganizationName, "O, Inc.");
    let server = ca.issue(&params);
    let mut options = options(&ca.pem());
    let good = [
        X509Name::Subject("CN=server-1.example.net, O=O, Inc.".into()),
        X509Name::Name("server-1.example.net".into()),
        X509Name::NamePrefix("server-".into()),
    ];
    for name in good {
        options.verify_x509_name = Some(name);
        accepted(&options, &server);
    }
    let bad = [
        X509Name::Subject("O=O, Inc., CN=server-1.example.net".into()),
        X509Name::Subject("CN=server-1.example.net".into()),
        X509Name::Name("server-1".into()),
        X509Name::Name("Server-1.example.net".into()),
        X509Name::NamePrefix("Server-".into()),
        X509Name::NamePrefix("1.example.net".into()),
    ];
    for name in bad {
        options.verify_x509_name = Some(name);
        refused(&options, &server, &["verify-x509-name", "CN=server-1.example.net, O=O, Inc."]);
    }
    let mut nameless = server_params("");
    nameless.distinguished_name.remove(DnType::CommonName);
    nameless.distinguished_name.push(DnType::OrganizationName, "server");
    options.verify_x509_name = Some(X509Name::NamePrefix(String::new()));
    refused(&options, &ca.issue(&nameless), &["verify-x509-name", "O=server"]);
    // A leading hyphen and control characters are compared as underscores.
    let mut odd = server_params("-a\nb");
    odd.distinguished_name.push(DnType::LocalityName, "Köln");
    options.verify_x509_name = Some(X509Name::Name("_a_b".into()));
    accepted(&options, &ca.issue(&odd));
    options.verify_x509_name = Some(X509Name::Subject("CN=-a\\0Ab, L=Köln".into()));
    accepted(&options, &ca.issue(&odd));
}

#[test]
fn subject_of_every_string_type() {
    let ca = Ca::new("CA");
    let mut params = server_params("plain");
    let bmp = rcgen::string::BmpString::try_from("Zürich €").unwrap();
    params.distinguished_name.push(DnType::LocalityName, DnValue::BmpString(bmp));
    let t61 = rcgen::string::TeletexString::try_from("teletex").unwrap();
    params.distinguished_name.push(DnType::OrganizationName, DnValue::TeletexString(t61));
    let universal = rcgen::string::UniversalString::try_from("wide").unwrap();
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, DnValue::UniversalString(universal));
    params.distinguished_name.push(DnType::from_oid(&[1, 2, 3, 4]), "own");
    let server = ca.issue(&params);
    let client = connect(&options(&ca.pem()), &Server::new(&server)).unwrap();
    assert_eq!(
        client.peer_certificate().unwrap().subject,
        "CN=plain, L=Zürich €, O=teletex, OU=wide, 1.2.3.4=own"
    );
}

#[test]
fn peer_fingerprint_with_ca() {
    let (ca, other) = (Ca::new("CA"), Ca::new("CA"));
    let server = ca.issue(&server_params("server"));
    let mut options = options(&ca.pem());
    options.peer_fingerprints = vec![[0; 32], server.fingerprint()];
    accepted(&options, &server);
    refused(
        &options,
        &ca.issue(&server_params("server")),
        &["peer-fingerprint", "CN=server", "add it if"],
    );
    // The chain still counts.
    let foreign = other.issue(&server_params("server"));
    options.peer_fingerprints = vec![foreign.fingerprint()];
    refused(&options, &foreign, &["made with another key"]);
}

#[test]
fn peer_fingerprint_without_ca() {
    let key = KeyPair::generate().unwrap();
    let mut params = server_params("server");
    // Neither expiry nor the CA flag nor a self-signature matters to a fingerprint.
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let server = Identity { chain: vec![certificate.der().clone()], key };
    let mut options = options("");
    options.peer_fingerprints = vec![server.fingerprint()];
    accepted(&options, &server);
    // Other rules apply.
    options.verify_x509_name = Some(X509Name::Name("other".into()));
    refused(&options, &server, &["verify-x509-name"]);
    options.verify_x509_name = None;
    options.peer_fingerprints = vec![[7; 32]];
    refused(&options, &server, &["peer-fingerprint"]);
    // The right certificate with somebody else's key.
    options.peer_fingerprints = vec![server.fingerprint()];
    let thief = Identity { chain: server.chain, key: KeyPair::generate().unwrap() };
    refused(&options, &thief, &["does not hold its private key"]);
}

#[test]
fn no_ca_and_no_fingerprint_is_an_error() {
    let error = TlsConfig::new(&options(""), None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["ca", "peer-fingerprint"]);
}

#[test]
fn verify_hash() {
    let ca = Ca::new("CA");
    let server = ca.issue(&server_params("server"));
    let mut options = options(&ca.pem());
    options.verify_hash = Some(VerifyHash::Sha256(sha256(&ca.der())));
    accepted(&options, &server);
    let sha1 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &ca.der());
    options.verify_hash = Some(VerifyHash::Sha1(sha1.as_ref().try_into().unwrap()));
    accepted(&options, &server);
    options.verify_hash = Some(VerifyHash::Sha1([1; 20]));
    refused(&options, &server, &["verify-hash", "CN=CA"]);
    // The leaf's own hash is not the issuer's.
    options.verify_hash = Some(VerifyHash::Sha256(server.fingerprint()));
    refused(&options, &server, &["verify-hash", "CN=CA"]);

    options.ca = None;
    options.peer_fingerprints = vec![server.fingerprint()];
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["verify-hash", "ca", "use peer-fingerprint instead"]);
    options.verify_hash = None;
    accepted(&options, &server);
}
