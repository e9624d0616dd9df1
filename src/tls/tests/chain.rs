//! From the server's certificate to the profile's CA: every way to succeed and to fail.

use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::support::*;
use crate::profile::{CertProfile, TlsOptions};
use crate::tls::{TlsConfig, TlsErrorKind, TlsFactory};

#[test]
fn another_ca() {
    let (ca, other) = (Ca::new("Right CA"), Ca::new("Other CA"));
    let server = ca.issue(&server_params("server"));
    accepted(&options(&ca.pem()), &server);
    // Several roots.
    accepted(&options(&format!("{}{}", other.pem(), ca.pem())), &server);
    refused(
        &options(&other.pem()),
        &server,
        &["CN=server", "CN=Right CA", "CN=Other CA", "use the ca of this server"],
    );
}

#[test]
fn same_name_another_key() {
    let (ca, other) = (Ca::new("CA"), Ca::new("CA"));
    let server = ca.issue(&server_params("server"));
    refused(&options(&other.pem()), &server, &["another key", "ca of this server"]);
    // Both with the same name: the right one is found.
    accepted(&options(&format!("{}{}", other.pem(), ca.pem())), &server);
}

#[test]
fn validity() {
    let ca = Ca::new("CA");
    let mut params = server_params("server");
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    refused(&options(&ca.pem()), &ca.issue(&params), &["CN=server", "expired", "clock"]);
    let mut params = server_params("server");
    params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    refused(&options(&ca.pem()), &ca.issue(&params), &["CN=server", "not valid before", "clock"]);
}

#[test]
fn validity_of_the_ca() {
    let mut params = ca_params("Old CA");
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let ca = Ca::with(params);
    let server = ca.issue(&server_params("server"));
    refused(&options(&ca.pem()), &server, &["CN=Old CA", "expired", "new ca"]);
}

#[test]
fn renewed_ca_with_the_same_key() {
    let ca = Ca::new("CA");
    let mut params = ca_params("CA");
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old = params.self_signed(ca.issuer.key()).unwrap();
    let server = ca.issue(&server_params("server"));
    accepted(&options(&format!("{}{}", old.pem(), ca.pem())), &server);
    accepted(&options(&format!("{}{}", ca.pem(), old.pem())), &server);
    refused(&options(&old.pem()), &server, &["expired"]);
}

/// Root, intermediate, server.
fn three() -> (Ca, Ca, Identity) {
    let root = Ca::new("Root");
    let middle = root.intermediate(ca_params("Middle"));
    let server = middle.issue(&server_params("server"));
    (root, middle, server)
}

#[test]
fn intermediate_from_anywhere() {
    let (root, middle, mut server) = three();
    refused(&options(&root.pem()), &server, &["CN=Middle", "missing intermediate"]);
    // From ca.
    accepted(&options(&format!("{}{}", middle.pem(), root.pem())), &server);
    // From extra-certs.
    let mut with_extra = options(&root.pem());
    with_extra.extra_certs = Some(middle.pem());
    accepted(&with_extra, &server);
    // An intermediate alone is trusted if the profile trusts nothing else.
    accepted(&options(&middle.pem()), &server);
    // From the server, in any order and with noise.
    server.chain.push(Ca::new("Noise").der());
    server.chain.push(middle.der());
    server.chain.push(root.der());
    accepted(&options(&root.pem()), &server);
    refused(&options(&Ca::new("Other").pem()), &server, &["CN=Other"]);
}

#[test]
fn intermediate_must_be_a_ca() {
    let root = Ca::new("Root");
    let mut params = ca_params("Middle");
    params.is_ca = IsCa::ExplicitNoCa;
    let middle = root.intermediate(params);
    let mut server = middle.issue(&server_params("server"));
    server.chain.push(middle.der());
    refused(&options(&root.pem()), &server, &["CN=Middle", "not a CA"]);

    let mut params = ca_params("Middle");
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let middle = root.intermediate(params);
    let mut server = middle.issue(&server_params("server"));
    server.chain.push(middle.der());
    refused(&options(&root.pem()), &server, &["CN=Middle", "not a CA"]);
}

#[test]
fn intermediate_expired() {
    let root = Ca::new("Root");
    let mut params = ca_params("Middle");
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let middle = root.intermediate(params);
    let mut server = middle.issue(&server_params("server"));
    server.chain.push(middle.der());
    refused(&options(&root.pem()), &server, &["CN=Middle", "expired"]);
}

#[test]
fn path_length() {
    for limit in [0, 1] {
        let mut params = ca_params("Root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
        let root = Ca::with(params);
        let middle = root.intermediate(ca_params("Middle"));
        let mut server = middle.issue(&server_params("server"));
        server.chain.push(middle.der());
        if limit == 0 {
            refused(&options(&root.pem()), &server, &["path length", "CN=Root"]);
        } else {
            accepted(&options(&root.pem()), &server);
        }
    }
    let root = Ca::new("Root");
    let mut params = ca_params("Middle");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let middle = root.intermediate(params);
    let low = middle.intermediate(ca_params("Low"));
    let mut server = low.issue(&server_params("server"));
    server.chain.extend([low.der(), middle.der()]);
    refused(&options(&root.pem()), &server, &["path length"]);
}

#[test]
fn depth() {
    let root = Ca::new("Root");
    for depth in [6, 7] {
        let mut cas = vec![root.intermediate(ca_params("CA 0"))];
        for level in 1..depth {
            cas.push(cas[level - 1].intermediate(ca_params(&format!("CA {level}"))));
        }
        let mut server = cas[depth - 1].issue(&server_params("server"));
        server.chain.extend(cas.iter().map(Ca::der));
        if depth == 6 {
            accepted(&options(&root.pem()), &server);
        } else {
            refused(&options(&root.pem()), &server, &["more than six intermediate"]);
        }
    }
}

#[test]
fn purpose_of_the_issuer() {
    let mut params = ca_params("Client CA");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let ca = Ca::with(params.clone());
    let server = ca.issue(&server_params("server"));
    refused(&options(&ca.pem()), &server, &["CN=Client CA", "extended key usage"]);
    let root = Ca::new("Root");
    let middle = root.intermediate(params);
    let mut server = middle.issue(&server_params("server"));
    server.chain.push(middle.der());
    refused(&options(&root.pem()), &server, &["serverAuth"]);
}

#[test]
fn name_constraints() {
    let mut params = ca_params("CA");
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("good.example".into())],
        excluded_subtrees: Vec::new(),
    });
    let ca = Ca::with(params);
    for (host, good) in [("a.good.example", true), ("a.bad.example", false)] {
        let mut params = server_params("server");
        params.subject_alt_names = vec![rcgen::SanType::DnsName(host.try_into().unwrap())];
        let server = ca.issue(&params);
        if good {
            accepted(&options(&ca.pem()), &server);
        } else {
            refused(&options(&ca.pem()), &server, &["name constraints"]);
        }
    }
}

#[test]
fn unknown_critical_extension() {
    let ca = Ca::new("CA");
    let mut params = server_params("server");
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    params.custom_extensions = vec![extension.clone()];
    accepted(&options(&ca.pem()), &ca.issue(&params));
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    refused(&options(&ca.pem()), &ca.issue(&params), &["critical extension"]);
}

#[test]
fn self_signed_server_in_ca() {
    let key = KeyPair::generate().unwrap();
    let certificate = server_params("server").self_signed(&key).unwrap();
    let server = Identity { chain: vec![certificate.der().clone()], key };
    accepted(&options(&certificate.pem()), &server);
    // The same subject, another certificate.
    let key = KeyPair::generate().unwrap();
    let other = server_params("server").self_signed(&key).unwrap();
    refused(&options(&other.pem()), &server, &["CN=server"]);
    // It vouches for itself only: it is no CA.
    let issuer =
        Ca { certificate: other, issuer: rcgen::Issuer::new(server_params("server"), key) };
    refused(&options(&issuer.pem()), &issuer.issue(&server_params("x")), &["not a CA"]);
}

#[test]
fn stolen_certificate() {
    let ca = Ca::new("CA");
    let mut server = ca.issue(&server_params("server"));
    server.key = KeyPair::generate().unwrap();
    refused(&options(&ca.pem()), &server, &["does not hold its private key"]);
}

#[test]
fn server_certificate_with_ca_flag() {
    let ca = Ca::new("CA");
    let mut params = server_params("server");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    accepted(&options(&ca.pem()), &ca.issue(&params));
    refused(&options(&Ca::new("CA").pem()), &ca.issue(&params), &["another key"]);
    refused(&options(&Ca::new("Other").pem()), &ca.issue(&params), &["CN=Other"]);
    let mut constrained = ca_params("CA");
    constrained.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("good.example".into())],
        excluded_subtrees: Vec::new(),
    });
    let ca = Ca::with(constrained);
    refused(&options(&ca.pem()), &ca.issue(&params), &["name constraints"]);
}

#[test]
fn chain_is_locked_within_a_connection() {
    let ca = Ca::new("CA");
    let first = Server::new(&ca.issue(&server_params("server")));
    let second = Server::new(&ca.issue(&server_params("server")));
    let config = TlsConfig::new(&options(&ca.pem()), None).unwrap();
    handshake(&config, &first).unwrap();
    handshake(&config, &first).unwrap();
    let mut client = config.start().unwrap();
    let error = pump(&mut *client, &mut second.accept()).unwrap_err();
    check(&error, TlsErrorKind::CertVerify, &["renegotiation", "CN=server", "connect again"]);
    handshake(&config, &first).unwrap();
    handshake(&config.connection(), &second).unwrap();
    // A handshake that did not finish locks nothing.
    let config = config.connection();
    let mut thief = ca.issue(&server_params("server"));
    thief.key = KeyPair::generate().unwrap();
    handshake(&config, &Server::with(thief.chain.clone(), thief.key_der(), &BOTH)).err().unwrap();
    handshake(&config, &first).unwrap();
}

/// A CA and a server certificate made by openssl(1), where rcgen cannot.
struct Made {
    ca: String,
    server: Server13And12,
}

type Server13And12 = (Vec<rustls::pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>);

fn openssl_pki(ca_arguments: &str, key_arguments: &str, sign_arguments: &str) -> Made {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    openssl(
        path,
        &format!("req -x509 -nodes -keyout ca.key -out ca.crt -subj /CN=CA {ca_arguments}"),
    );
    openssl(
        path,
        &format!("req -new -nodes -keyout s.key -out s.csr -subj /CN=server {key_arguments}"),
    );
    std::fs::write(path.join("v3.cnf"), "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n")
        .unwrap();
    openssl(
        path,
        &format!(
            "x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out s.crt {sign_arguments}"
        ),
    );
    let chain = crate::tls::pem::certificates("cert", &read(path, "s.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(path.join("s.key")).unwrap();
    Made { ca: read(path, "ca.crt"), server: (chain, key) }
}

impl Made {
    fn try_with(
        &self,
        options: &TlsOptions,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<String, crate::tls::TlsError> {
        let server = Server::with(self.server.0.clone(), self.server.1.clone_key(), versions);
        connect(options, &server).map(|client| client.description())
    }
}

#[test]
fn version_1_certificates() {
    // Without an extension file, `openssl x509 -req` makes version 1.
    let made = openssl_pki("-newkey rsa:2048", "-newkey rsa:2048", "-days 30");
    for versions in [&TLS12, &TLS13] {
        made.try_with(&options(&made.ca), versions).unwrap();
        let error = made.try_with(&options(&Ca::new("CA").pem()), versions).unwrap_err();
        check(&error, TlsErrorKind::CertVerify, &["signature algorithm", "CN=server"]);
    }
    // A CA of version 1.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    openssl(path, "req -new -newkey rsa:2048 -nodes -keyout ca.key -out ca.csr -subj /CN=Old");
    openssl(path, "x509 -req -in ca.csr -signkey ca.key -out ca.crt -days 30");
    openssl(path, "req -new -newkey rsa:2048 -nodes -keyout s.key -out s.csr -subj /CN=server");
    std::fs::write(path.join("v3.cnf"), "keyUsage=digitalSignature\n").unwrap();
    openssl(
        path,
        "x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out s.crt -extfile v3.cnf",
    );
    let chain = crate::tls::pem::certificates("cert", &read(path, "s.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(path.join("s.key")).unwrap();
    connect(&options(&read(path, "ca.crt")), &Server::with(chain, key, &BOTH)).unwrap();
}

#[test]
fn ca_without_basic_constraints() {
    // Key usage keyCertSign makes it a CA, nothing at all does not: OpenSSL's measure.
    let extensions = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(
            path.join("req.cnf"),
            format!("[req]\ndistinguished_name=dn\nx509_extensions=e\n[dn]\n[e]\n{text}\n"),
        )
        .unwrap();
        openssl(
            path,
            "req -x509 -config req.cnf -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt \
             -subj /CN=Bare -days 30",
        );
        openssl(path, "req -new -newkey rsa:2048 -nodes -keyout s.key -out s.csr -subj /CN=server");
        std::fs::write(path.join("v3.cnf"), "keyUsage=digitalSignature\n").unwrap();
        openssl(
            path,
            "x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out s.crt -extfile v3.cnf",
        );
        let chain = crate::tls::pem::certificates("cert", &read(path, "s.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(path.join("s.key")).unwrap();
        connect(&options(&read(path, "ca.crt")), &Server::with(chain, key, &BOTH)).map(|_| ())
    };
    extensions("keyUsage=keyCertSign").unwrap();
    let error = extensions("subjectKeyIdentifier=hash").unwrap_err();
    check(&error, TlsErrorKind::CertVerify, &["CN=Bare", "not a CA"]);
}

#[test]
fn cert_profiles() {
    let small = openssl_pki(
        "-newkey rsa:1024 -sha256",
        "-newkey rsa:2048",
        "-days 9 -sha256 -extfile v3.cnf",
    );
    let sha1 = openssl_pki(
        "-newkey rsa:2048 -sha256",
        "-newkey rsa:2048",
        "-days 9 -sha1 -extfile v3.cnf",
    );
    let good =
        openssl_pki("-newkey rsa:2048", "-newkey rsa:2048", "-days 9 -sha256 -extfile v3.cnf");
    let curve = openssl_pki(
        "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
        "-days 9 -sha384 -extfile v3.cnf",
    );
    let with = |made: &Made, profile| {
        let mut options = options(&made.ca);
        options.cert_profile = profile;
        made.try_with(&options, &BOTH)
    };
    use CertProfile as P;
    for profile in [P::Insecure, P::Legacy, P::Preferred, P::SuiteB] {
        for (made, allowed) in [
            (&small, matches!(profile, P::Insecure | P::Legacy)),
            (&sha1, matches!(profile, P::Insecure)),
            (&good, !matches!(profile, P::SuiteB)),
            (&curve, true),
        ] {
            match with(made, profile) {
                Ok(_) => assert!(allowed, "{profile:?}"),
                Err(error) => {
                    assert!(!allowed, "{profile:?}: {error}");
                    // A server with an RSA key sees first that Suite B offers no RSA signatures.
                    let refused_by_server =
                        matches!(profile, P::SuiteB) && error.kind == TlsErrorKind::Alert;
                    assert!(refused_by_server || error.kind == TlsErrorKind::CertVerify, "{error}");
                    assert!(error.to_string().contains("tls-cert-profile"), "{error}");
                }
            }
        }
    }
    let error = with(&small, P::Preferred).unwrap_err();
    check(&error, TlsErrorKind::CertVerify, &["1024 bits", "2048"]);
    let error = with(&sha1, P::Legacy).unwrap_err();
    check(&error, TlsErrorKind::CertVerify, &["SHA-1", "tls-cert-profile insecure"]);
}

#[test]
fn key_types_of_servers() {
    for (name, key) in [
        ("P-256", "-newkey ec -pkeyopt ec_paramgen_curve:P-256"),
        ("P-384", "-newkey ec -pkeyopt ec_paramgen_curve:P-384"),
        ("P-521", "-newkey ec -pkeyopt ec_paramgen_curve:P-521"),
        ("Ed25519", "-newkey ed25519"),
        ("RSA", "-newkey rsa:3072"),
    ] {
        // Ed25519 has no separate digest.
        let made = openssl_pki(&format!("{key} -days 9"), key, "-days 9 -extfile v3.cnf");
        for versions in [&TLS12, &TLS13] {
            if let Err(error) = made.try_with(&options(&made.ca), versions) {
                panic!("{name}: {error}");
            }
        }
    }
}

/// PSS signatures of an ordinary key, with every salt that tools write.
#[test]
fn salts_of_pss() {
    let made = |hash: &str, salt: &str| {
        openssl_pki(
            "-newkey rsa:2048",
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
            &format!(
                "-days 9 -extfile v3.cnf -{hash} -sigopt rsa_padding_mode:pss \
                 -sigopt rsa_pss_saltlen:{salt}"
            ),
        )
    };
    for hash in ["sha256", "sha384", "sha512"] {
        for salt in ["0", "20", "digest", "max"] {
            let made = made(hash, salt);
            if let Err(error) = made.try_with(&options(&made.ca), &BOTH) {
                panic!("{hash}, {salt}: {error}");
            }
        }
    }
    let made = made("sha256", "17");
    let error = made.try_with(&options(&made.ca), &BOTH).unwrap_err();
    check(&error, TlsErrorKind::CertVerify, &["RSASSA-PSS", "salt", "not supported"]);
    assert!(!error.to_string().contains("SHA-1"), "{error}");
}

/// What cannot be verified is called by its name.
#[test]
fn algorithms_that_nobody_here_knows() {
    for (ca, sign, words) in [
        ("-newkey ed448", "", ["ED448", "not supported"]),
        ("-newkey rsa:2048", "-md5", ["md5WithRSAEncryption", "not supported"]),
        ("-newkey rsa:2048", "-sha1", ["sha1WithRSAEncryption", "tls-cert-profile insecure"]),
        (
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
            "-sha1",
            ["ecdsa-with-SHA1", "not supported"],
        ),
    ] {
        let made = openssl_pki(
            ca,
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
            &format!("-days 9 -extfile v3.cnf {sign}"),
        );
        let error = made.try_with(&options(&made.ca), &BOTH).unwrap_err();
        check(&error, TlsErrorKind::CertVerify, &words);
    }
}

#[test]
fn odd_serial_numbers() {
    for serial in ["0", "-5", "0xffffffffffffffffffffffffffffffffffffffffffffffff"] {
        let made = openssl_pki(
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
            &format!("-days 9 -extfile v3.cnf -set_serial {serial}"),
        );
        if let Err(error) = made.try_with(&options(&made.ca), &BOTH) {
            panic!("serial {serial}: {error}");
        }
    }
}
