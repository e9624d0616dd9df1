//! Versions, suites and groups as the options say.

use super::support::*;
use crate::profile::{TlsOptions, TlsVersion};
use crate::tls::{TlsConfig, TlsErrorKind};

fn list(names: &str) -> Option<Vec<String>> {
    Some(names.split(':').map(str::to_owned).collect())
}

struct Bench {
    server: Server,
    options: TlsOptions,
}

fn bench() -> Bench {
    let ca = Ca::new("CA");
    let options = options(&ca.pem());
    Bench { server: Server::new(&ca.issue(&server_params("server"))), options }
}

impl Bench {
    fn negotiated(&self) -> String {
        connect(&self.options, &self.server).unwrap().description()
    }

    fn warnings(&self) -> Vec<String> {
        TlsConfig::new(&self.options, None).unwrap().warnings().to_vec()
    }

    #[track_caller]
    fn fails(&self, words: &[&str]) {
        check(&TlsConfig::new(&self.options, None).unwrap_err(), TlsErrorKind::Config, words);
    }
}

#[test]
fn versions() {
    use TlsVersion as V;
    let mut bench = bench();
    for (min, max, expected) in [
        (V::V1_0, V::V1_3, "TLSv1.3"),
        (V::V1_1, V::V1_2, "TLSv1.2"),
        (V::V1_2, V::V1_2, "TLSv1.2"),
        (V::V1_3, V::V1_3, "TLSv1.3"),
    ] {
        (bench.options.version_min, bench.options.version_max) = (min, max);
        assert!(bench.negotiated().starts_with(expected));
        assert!(bench.warnings().is_empty());
    }
    (bench.options.version_min, bench.options.version_max) = (V::V1_0, V::V1_1);
    bench.fails(&["tls-version-max", "1.2 and 1.3"]);
    (bench.options.version_min, bench.options.version_max) = (V::V1_3, V::V1_2);
    bench.fails(&["tls-version-min", "tls-version-max"]);
}

#[test]
fn ciphersuites() {
    let mut bench = bench();
    bench.options.ciphersuites = list("TLS_CHACHA20_POLY1305_SHA256");
    assert!(bench.negotiated().contains("TLS_CHACHA20_POLY1305_SHA256"));
    bench.options.ciphersuites = list("TLS-AES-128-GCM-SHA256");
    assert!(bench.negotiated().contains("TLS_AES_128_GCM_SHA256"));
    bench.options.ciphersuites = list("TLS_AES_128_CCM_SHA256:TLS_AES_256_GCM_SHA384");
    assert_eq!(
        bench.warnings(),
        ["tls-ciphersuites: TLS_AES_128_CCM_SHA256 is not supported, skipped"]
    );
    bench.options.ciphersuites = list("TLS_AES_128_CCM_SHA256");
    bench.fails(&["tls-ciphersuites", "TLS_AES_256_GCM_SHA384"]);
    bench.options.version_max = TlsVersion::V1_2;
    assert!(bench.warnings().is_empty());
}

#[test]
fn cipher_names() {
    let mut bench = bench();
    bench.options.version_max = TlsVersion::V1_2;
    for (names, expected) in [
        ("TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256", "AES_128_GCM"),
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "AES_128_GCM"),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "AES_128_GCM"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "CHACHA20_POLY1305"),
        ("DEFAULT", "AES_256_GCM"),
        ("DEFAULT:!EXP:!LOW:!MEDIUM:!kDH:!kECDH:!DSS:!PSK:!SRP:!kRSA", "AES_256_GCM"),
        ("HIGH:!AES256", "AES_128_GCM"),
        ("ALL:!AESGCM", "CHACHA20_POLY1305"),
        ("ECDHE+AESGCM:!AES256:@STRENGTH", "AES_128_GCM"),
        ("ECDHE+ECDSA+AES128", "AES_128_GCM"),
        ("ALL:-AESGCM:AES128", "CHACHA20_POLY1305"),
        ("ALL:+AESGCM:-CHACHA20:+AES256", "AES_128_GCM"),
    ] {
        bench.options.ciphers = list(names);
        let negotiated = {
            let mut server = bench.server.config.clone();
            // Let the client's order decide.
            server.ignore_client_order = false;
            connect(&bench.options, &Server { config: server }).unwrap().description()
        };
        assert!(negotiated.contains(expected), "{names}: {negotiated}");
        assert!(bench.warnings().is_empty(), "{names}: {:?}", bench.warnings());
    }
    // Banned for good.
    bench.options.ciphers = list("!AES256:ALL:AES256:-CHACHA20");
    assert!(bench.negotiated().contains("AES_128_GCM"));
}

#[test]
fn ciphers_rustls_does_not_have() {
    let mut bench = bench();
    bench.options.ciphers = list("TLS-DHE-RSA-WITH-AES-256-GCM-SHA384:DEFAULT:@SECLEVEL=0");
    let warnings = bench.warnings();
    assert!(warnings[0].contains("TLS-DHE-RSA-WITH-AES-256-GCM-SHA384 is not supported"));
    assert!(warnings[1].contains("@SECLEVEL=0"));
    assert_eq!(warnings.len(), 2);
    // TLS 1.3 does not depend on tls-cipher: it stays.
    bench.options.ciphers = list("TLS-DHE-RSA-WITH-AES-256-CBC-SHA");
    assert!(bench.negotiated().starts_with("TLSv1.3"));
    assert!(bench.warnings()[1].contains("only TLS 1.3"));
    bench.options.version_max = TlsVersion::V1_2;
    bench.fails(&["tls-cipher", "TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384"]);
}

#[test]
fn groups() {
    let mut bench = bench();
    for (names, expected) in [
        ("X25519", "X25519"),
        ("prime256v1", "secp256r1"),
        ("secp256r1", "secp256r1"),
        ("P-384:X25519", "secp384r1"),
        ("?SecP256r1MLKEM768:*secp256r1", "secp256r1MLKEM768"),
    ] {
        bench.options.groups = list(names);
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS.to_vec();
        let ca = Ca::new("CA");
        let identity = ca.issue(&server_params("server"));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&identity.key_der()).unwrap();
        let server = Server::with_resolver(
            rustls::sign::CertifiedKey::new(identity.chain.clone(), key),
            std::sync::Arc::new(provider),
            &BOTH,
            None,
        );
        bench.options.ca = Some(ca.pem());
        let negotiated = connect(&bench.options, &server).unwrap().description();
        let group = negotiated.rsplit(", ").next().unwrap();
        assert!(group.eq_ignore_ascii_case(expected), "{names}: {group}");
    }
    bench.options.groups = list("X448:ffdhe2048:X25519");
    assert_eq!(bench.warnings().len(), 2);
    assert!(bench.warnings()[0].contains("X448 is not supported"));
    bench.options.groups = list("X448");
    bench.fails(&["tls-groups", "X25519MLKEM768", "secp256r1"]);
}

/// Every name that such an error lists is one that helps.
#[test]
fn names_that_errors_list_are_taken() {
    type Set = fn(&mut TlsOptions, Option<Vec<String>>);
    let options: [(Set, usize); 3] = [
        (|o, names| (o.version_max, o.ciphers) = (TlsVersion::V1_2, names), 6),
        (|o, names| o.ciphersuites = names, 3),
        (|o, names| o.groups = names, 8),
    ];
    for (set, count) in options {
        let mut bench = bench();
        set(&mut bench.options, list("nonsense"));
        let error = TlsConfig::new(&bench.options, None).unwrap_err().to_string();
        let (_, names) = error.split_once("supported are ").unwrap();
        let names: Vec<_> = names.split(", ").collect();
        assert_eq!(names.len(), count, "{error}");
        for name in names {
            set(&mut bench.options, list(name));
            assert!(bench.warnings().is_empty(), "{name}");
        }
    }
}
