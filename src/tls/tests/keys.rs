//! Client keys in every form, made by openssl(1).

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::support::*;
use crate::profile::{KeySource, TlsOptions};
use crate::secret::Secret;
use crate::tls::{TlsConfig, TlsErrorKind, TlsFactory, key_needs_passphrase};

const PASSPHRASE: &str = "pass phräse";

/// A CA, a server demanding its client certificates, and a directory.
struct Bench {
    ca: Ca,
    server: Server,
    directory: tempfile::TempDir,
}

fn bench() -> Bench {
    let ca = Ca::new("CA");
    let server = Server::demanding(&ca.issue(&server_params("server")), &ca.der(), &BOTH);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.crt"), ca.pem()).unwrap();
    std::fs::write(directory.path().join("ca.key"), ca.issuer.key().serialize_pem()).unwrap();
    std::fs::write(directory.path().join("pass"), PASSPHRASE).unwrap();
    std::fs::write(
        directory.path().join("v3.cnf"),
        "keyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n",
    )
    .unwrap();
    Bench { ca, server, directory }
}

impl Bench {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes `k.pem` (PKCS#8) and `c.crt`.
    fn make(&self, algorithm: &str) {
        openssl(self.path(), &format!("genpkey -out k.pem {algorithm}"));
        openssl(self.path(), "req -new -key k.pem -out c.csr -subj /CN=user");
        openssl(
            self.path(),
            "x509 -req -in c.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -extfile v3.cnf \
             -out c.crt",
        );
    }

    fn options(&self, key: &str) -> TlsOptions {
        let mut options = options(&self.ca.pem());
        options.cert = Some(read(self.path(), "c.crt"));
        options.key = Some(KeySource::Pem(read(self.path(), key).into()));
        options
    }

    /// The server accepts the client with this key.
    #[track_caller]
    fn works(&self, options: &TlsOptions, passphrase: Option<&str>) {
        let passphrase = passphrase.map(Secret::from);
        let config = TlsConfig::new(options, passphrase.as_ref());
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        handshake(&config, &self.server).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Needs the passphrase, refuses wrong ones, takes the right one.
    #[track_caller]
    fn works_encrypted(&self, options: &TlsOptions) {
        assert!(key_needs_passphrase(options));
        let error = TlsConfig::new(options, None).unwrap_err();
        check(&error, TlsErrorKind::PassphraseNeeded, &["passphrase"]);
        for wrong in ["", "wrong", "pass phrase"] {
            let error = TlsConfig::new(options, Some(&wrong.into())).unwrap_err();
            check(&error, TlsErrorKind::WrongPassphrase, &["PEM_PASSWORD_FAIL"]);
            assert!(wrong.is_empty() || !error.to_string().contains(&format!("\"{wrong}\"")));
        }
        self.works(options, Some(PASSPHRASE));
        let mut stored = options.clone();
        stored.key_passphrase = Some(PASSPHRASE.into());
        assert!(!key_needs_passphrase(&stored));
        self.works(&stored, None);
    }
}

#[test]
fn plain_keys_of_every_kind() {
    let bench = bench();
    for algorithm in [
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
        "-algorithm ED25519",
    ] {
        bench.make(algorithm);
        let options = bench.options("k.pem");
        assert!(!key_needs_passphrase(&options));
        bench.works(&options, None);
        // A passphrase that nothing needs does no harm.
        bench.works(&options, Some("unused"));
        if !algorithm.contains("ED25519") {
            // PKCS#1 and SEC1.
            openssl(bench.path(), "pkey -traditional -in k.pem -out t.pem");
            assert!(!read(bench.path(), "t.pem").contains("BEGIN PRIVATE"));
            bench.works(&bench.options("t.pem"), None);
        }
    }
}

#[test]
fn pem_as_profiles_hold_it() {
    let bench = bench();
    bench.make("-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    openssl(bench.path(), "ec -in k.pem -out t.pem");
    openssl(bench.path(), "ecparam -name prime256v1 -out params.pem");
    let key = format!("{}{}", read(bench.path(), "params.pem"), read(bench.path(), "t.pem"));
    let mut options = bench.options("k.pem");
    for text in [
        key.clone(),
        key.replace('\n', "\r\n"),
        key.lines().map(|line| format!("  {line} \n\n")).collect(),
        format!("Bag Attributes: x\n\n{key}\n\n"),
    ] {
        options.key = Some(KeySource::Pem(text.into()));
        bench.works(&options, None);
    }
    openssl(bench.path(), "x509 -in c.crt -text -out text.crt");
    openssl(bench.path(), "x509 -in c.crt -trustout -addtrust clientAuth -out trusted.crt");
    for name in ["text.crt", "trusted.crt"] {
        options.cert = Some(read(bench.path(), name));
        bench.works(&options, None);
    }
}

#[test]
fn encrypted_pkcs8() {
    let bench = bench();
    bench.make("-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    for arguments in [
        "-v2 aes-256-cbc",
        "-v2 aes-128-cbc -v2prf hmacWithSHA1",
        "-v2 aes-192-cbc -v2prf hmacWithSHA512",
        "-v2 des3",
        "-scrypt",
        "-v1 PBE-SHA1-3DES",
        "-v1 PBE-MD5-DES -provider legacy -provider default",
        "-v1 PBE-SHA1-DES -provider legacy -provider default",
    ] {
        openssl(
            bench.path(),
            &format!("pkcs8 -topk8 -in k.pem -out e.pem -passout file:pass {arguments}"),
        );
        println!("{arguments}");
        bench.works_encrypted(&bench.options("e.pem"));
    }
    openssl(
        bench.path(),
        "pkcs8 -topk8 -in k.pem -out e.pem -passout file:pass -v1 PBE-SHA1-RC4-128 \
         -provider legacy -provider default",
    );
    let error = TlsConfig::new(&bench.options("e.pem"), Some(&PASSPHRASE.into())).unwrap_err();
    check(&error, TlsErrorKind::Config, &["not supported", "openssl pkcs8"]);
}

#[test]
fn encrypted_traditional() {
    let bench = bench();
    for algorithm in [
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    ] {
        bench.make(algorithm);
        let program = if algorithm.contains("RSA") { "rsa -traditional" } else { "ec" };
        for cipher in ["-des3", "-aes128", "-aes192", "-aes256"] {
            openssl(
                bench.path(),
                &format!("{program} -in k.pem -out e.pem -passout file:pass {cipher}"),
            );
            assert!(read(bench.path(), "e.pem").contains("Proc-Type: 4,ENCRYPTED"));
            bench.works_encrypted(&bench.options("e.pem"));
        }
    }
    openssl(bench.path(), "ec -in k.pem -out e.pem -passout file:pass -camellia256");
    let options = bench.options("e.pem");
    let error = TlsConfig::new(&options, Some(&PASSPHRASE.into())).unwrap_err();
    check(&error, TlsErrorKind::Config, &["CAMELLIA-256-CBC", "openssl pkcs8"]);
}

#[test]
fn pkcs12() {
    let bench = bench();
    bench.make("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    for arguments in [
        "",
        "-legacy",
        "-certpbe AES-128-CBC -keypbe PBE-SHA1-3DES -macalg sha1",
        "-certpbe NONE -keypbe AES-256-CBC",
    ] {
        openssl(
            bench.path(),
            &format!(
                "pkcs12 -export -inkey k.pem -in c.crt -certfile ca.crt -name user -out b.p12 \
                 -passout file:pass {arguments}"
            ),
        );
        println!("{arguments}");
        let der = std::fs::read(bench.path().join("b.p12")).unwrap();
        // The CA comes from the file, or from the profile.
        let mut options = options("");
        options.key = Some(KeySource::Pkcs12(der.into()));
        bench.works_encrypted(&options);
        options.ca = Some(bench.ca.pem());
        bench.works(&options, Some(PASSPHRASE));
        options.ca = Some(Ca::new("Other").pem());
        let config = TlsConfig::new(&options, Some(&PASSPHRASE.into())).unwrap();
        let error = pump(&mut *config.start().unwrap(), &mut bench.server.accept()).unwrap_err();
        check(&error, TlsErrorKind::CertVerify, &["CN=Other"]);
    }
    // Without passphrase.
    openssl(
        bench.path(),
        "pkcs12 -export -inkey k.pem -in c.crt -certfile ca.crt -out b.p12 -passout pass:",
    );
    let mut options = options("");
    options.key =
        Some(KeySource::Pkcs12(std::fs::read(bench.path().join("b.p12")).unwrap().into()));
    assert!(!key_needs_passphrase(&options));
    bench.works(&options, None);
}

#[test]
fn pkcs12_that_is_no_use() {
    let bench = bench();
    let mut options = options(&bench.ca.pem());
    options.key = Some(KeySource::Pkcs12(b"nonsense".to_vec().into()));
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["pkcs12", "export it again"]);
    openssl(bench.path(), "pkcs12 -export -nokeys -in ca.crt -out b.p12 -passout pass:");
    options.key =
        Some(KeySource::Pkcs12(std::fs::read(bench.path().join("b.p12")).unwrap().into()));
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["pkcs12", "no supported private key"]);
}

#[test]
fn options_that_do_not_fit() {
    let bench = bench();
    bench.make("-algorithm ED25519");
    let good = bench.options("k.pem");
    let fails = |options: &TlsOptions, words: &[&str]| {
        check(&TlsConfig::new(options, None).unwrap_err(), TlsErrorKind::Config, words);
    };
    let mut options = good.clone();
    options.key = None;
    fails(&options, &["cert but no key"]);
    let mut options = good.clone();
    options.cert = None;
    fails(&options, &["key but no cert"]);
    let mut options = good.clone();
    let other = bench.ca.issue(&client_params("other"));
    options.key = Some(KeySource::Pem(other.key.serialize_pem().into()));
    fails(&options, &["cert and key do not belong together"]);
    let mut options = good.clone();
    options.key = Some(KeySource::Pem("no key here".into()));
    fails(&options, &["key", "no private key found", "BEGIN PRIVATE KEY"]);
    let mut options = good.clone();
    options.key = Some(KeySource::Pem(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n".into(),
    ));
    fails(&options, &["OPENSSH", "openssl pkcs8"]);
    let mut options = good.clone();
    options.cert = Some("no certificate here".into());
    fails(&options, &["cert: no certificate found"]);
    let mut options = good.clone();
    options.ca = Some(to_pem(&[CertificateDer::from(vec![1, 2, 3])]));
    fails(&options, &["ca: certificate 1 cannot be read"]);
    let mut options = good.clone();
    let ca = bench.ca.pem();
    options.ca = Some(format!("{ca}{}", &ca[..ca.len() / 2]));
    fails(&options, &["ca", "block 2 has no"]);
    // Too small, and of a kind nobody supports.
    openssl(bench.path(), "genrsa -out small.pem 768");
    fails(&bench.options("small.pem"), &["RSA-PSS of 1024"]);
    openssl(bench.path(), "genpkey -algorithm ED448 -out ed448.pem");
    fails(&bench.options("ed448.pem"), &["Ed25519"]);
}
