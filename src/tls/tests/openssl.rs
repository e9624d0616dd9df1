//! Against `openssl s_server`, the library of real OpenVPN servers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::support::*;
use crate::profile::{CertProfile, KeySource, TlsOptions, TlsVersion};
use crate::tls::{TlsConfig, TlsError, TlsErrorKind, TlsFactory};

/// A server process on a port of the kernel's choice.
struct SServer {
    process: Child,
    port: u16,
}

impl SServer {
    fn start(directory: &Path, arguments: &str) -> Self {
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "s.crt", "-key", "s.key"])
            .args(["-CAfile", "ca.crt", "-rev"])
            .args(arguments.split_whitespace())
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is needed");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let accept = lines
            .find_map(|line| line.unwrap().strip_prefix("ACCEPT 127.0.0.1:").map(str::to_owned));
        let port = accept.expect("s_server does not listen").trim().parse().unwrap();
        // It would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    /// A handshake, then a line that comes back reversed.
    fn talk(&self, options: &TlsOptions) -> Result<String, TlsError> {
        let mut client = TlsConfig::new(options, None)?.start()?;
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = Vec::new();
        let mut asked = false;
        while !answer.ends_with(b"\n") {
            if !client.is_handshaking() && !asked {
                client.write_plaintext(b"hello\n")?;
                asked = true;
            }
            let mut wire = Vec::new();
            client.take_ciphertext(&mut wire)?;
            socket.write_all(&wire).unwrap();
            let mut buffer = [0; 4096];
            let length = socket.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "the server hung up");
            client.read_ciphertext(&buffer[..length])?;
            client.read_plaintext(&mut answer)?;
        }
        assert_eq!(answer, b"olleh\n");
        Ok(client.description())
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn pki(key: &str) -> (tempfile::TempDir, TlsOptions) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    openssl(path, &format!("req -x509 -nodes -keyout ca.key -out ca.crt -subj /CN=CA {key}"));
    for name in ["s", "c"] {
        openssl(
            path,
            &format!("req -new -nodes -keyout {name}.key -out {name}.csr -subj /CN={name} {key}"),
        );
        openssl(
            path,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -out {name}.crt"
            ),
        );
    }
    let mut options = options(&read(path, "ca.crt"));
    options.cert = Some(read(path, "c.crt"));
    options.key = Some(KeySource::Pem(read(path, "c.key").into()));
    (directory, options)
}

#[test]
fn every_key_type_both_ways() {
    for key in [
        "-newkey rsa:2048",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-384",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-521",
        "-newkey ed25519",
    ] {
        let (directory, mut options) = pki(key);
        let server = SServer::start(directory.path(), "-Verify 1 -verify_return_error");
        let negotiated = server.talk(&options).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(negotiated.starts_with("TLSv1.3, TLS_AES_256_GCM_SHA384, "), "{negotiated}");
        options.version_max = TlsVersion::V1_2;
        let negotiated = server.talk(&options).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(negotiated.starts_with("TLSv1.2, TLS_ECDHE_"), "{negotiated}");
    }
}

#[test]
fn every_classic_group() {
    let (directory, mut options) = pki("-newkey rsa:2048");
    let server = SServer::start(directory.path(), "-groups X25519:P-256:P-384:P-521");
    for group in ["X25519", "secp256r1", "secp384r1", "secp521r1"] {
        options.groups = Some(vec![group.to_owned()]);
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            options.version_max = version;
            assert!(server.talk(&options).unwrap().ends_with(group));
        }
    }
}

#[test]
fn alerts() {
    let (directory, mut options) = pki("-newkey ec -pkeyopt ec_paramgen_curve:P-256");
    let server = SServer::start(directory.path(), "-Verify 1 -verify_return_error");
    (options.cert, options.key) = (None, None);
    let error = server.talk(&options).unwrap_err();
    check(&error, TlsErrorKind::Alert, &["certificate_required", "cert and key"]);
    let error = SServer::start(directory.path(), "-tls1_2 -cipher DHE:AES128-SHA")
        .talk(&options)
        .unwrap_err();
    check(&error, TlsErrorKind::Alert, &["handshake_failure", "DHE"]);
    let error =
        SServer::start(directory.path(), "-tls1_1 -cipher DEFAULT:@SECLEVEL=0").talk(&options);
    check(&error.unwrap_err(), TlsErrorKind::Version, &["protocol_version", "tls-version"]);
}

#[test]
fn small_rsa_keys() {
    let (directory, mut options) = pki("-newkey rsa:1024");
    let server = SServer::start(directory.path(), LENIENT);
    let warnings = TlsConfig::new(&options, None).unwrap().warnings().to_vec();
    assert!(
        warnings.iter().any(|warning| warning.contains("RSA key of 1024 bits")),
        "{warnings:?}"
    );
    for profile in [CertProfile::Legacy, CertProfile::Insecure] {
        options.cert_profile = profile;
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            options.version_max = version;
            server.talk(&options).unwrap();
        }
    }
    options.cert_profile = CertProfile::Preferred;
    let error = server.talk(&options).unwrap_err();
    check(&error, TlsErrorKind::CertVerify, &["1024 bits", "2048", "tls-cert-profile"]);
    // Of the same name, with another key.
    options.cert_profile = CertProfile::Legacy;
    let (other, _) = pki("-newkey rsa:1024");
    options.ca = Some(read(other.path(), "ca.crt"));
    let error = server.talk(&options).unwrap_err();
    check(&error, TlsErrorKind::CertVerify, &["another key", "use the ca of this server"]);
    // The key of somebody else.
    let (other, _) = pki("-newkey rsa:1024");
    options.key = Some(KeySource::Pem(read(other.path(), "c.key").into()));
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["do not belong together"]);
}

/// Asks for the client's certificate, whatever its key.
const LENIENT: &str = "-Verify 1 -verify_return_error -cipher DEFAULT:@SECLEVEL=0";

const BOUND_SHA256: &str =
    "-pkeyopt rsa_pss_keygen_md:sha256 -pkeyopt rsa_pss_keygen_mgf1_md:sha256";
const BOUND_SHA384: &str = "-pkeyopt rsa_pss_keygen_md:sha384 -pkeyopt \
                            rsa_pss_keygen_mgf1_md:sha384 -pkeyopt rsa_pss_keygen_saltlen:48";

/// Both sides and the CA have keys for RSA-PSS only, of any hash and of one.
#[test]
fn rsa_pss_keys() {
    for bound in ["", BOUND_SHA256, BOUND_SHA384] {
        let (directory, mut options) =
            pki(&format!("-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048 {bound}"));
        let server = SServer::start(directory.path(), LENIENT);
        let negotiated = server.talk(&options).unwrap_or_else(|error| panic!("{bound}: {error}"));
        assert!(negotiated.starts_with("TLSv1.3"), "{negotiated}");
        // rustls knows no such server keys in TLS 1.2.
        let server = SServer::start(directory.path(), "-tls1_2");
        let error = server.talk(&options).unwrap_err();
        check(&error, TlsErrorKind::Protocol, &["RSA-PSS key", "TLS 1.3", "ordinary RSA key"]);
        options.version_max = TlsVersion::V1_2;
        let error = server.talk(&options).unwrap_err();
        check(&error, TlsErrorKind::Alert, &["RSA-PSS"]);
    }
    // A client's key alone, with TLS 1.2, too.
    let (directory, mut options) = pki("-newkey rsa:2048");
    let path = directory.path();
    openssl(path, "genpkey -algorithm rsa-pss -pkeyopt rsa_keygen_bits:2048 -out c.key");
    openssl(path, "req -new -key c.key -out c.csr -subj /CN=c");
    openssl(path, "x509 -req -in c.csr -CA ca.crt -CAkey ca.key -days 9 -out c.crt");
    options.cert = Some(read(path, "c.crt"));
    options.key = Some(KeySource::Pem(read(path, "c.key").into()));
    let server = SServer::start(path, LENIENT);
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        options.version_max = version;
        server.talk(&options).unwrap();
    }
}
