//! Keys elsewhere: late answers, no answers, wrong answers, and a PKCS#11 token.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rcgen::{KeyPair, SubjectPublicKeyInfo};
use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;

use super::support::*;
use crate::profile::{KeySource, TlsOptions};
use crate::tls::{
    ExternalSigner, SignAlgorithm, SignReply, SignRequest, TlsConfig, TlsError, TlsErrorKind,
    TlsFactory, TlsSession, Waker,
};

/// Hands requests to the test.
struct Forward(Mutex<Sender<(SignRequest, SignReply)>>);

impl ExternalSigner for Forward {
    fn sign(&self, request: SignRequest, reply: SignReply) {
        self.0.lock().unwrap().send((request, reply)).unwrap();
    }
}

struct Bench {
    ca: Ca,
    server: Identity,
    config: TlsConfig,
    signer: Weak<Forward>,
    requests: Receiver<(SignRequest, SignReply)>,
    woken: Receiver<()>,
}

/// A client with this certificate of `ca`; its key is in the hands of the test.
fn bench(ca: Ca, certificate: &CertificateDer<'static>) -> Bench {
    let mut options = options(&ca.pem());
    options.cert = Some(to_pem(std::slice::from_ref(certificate)));
    options.key = Some(KeySource::External);
    let (sender, requests) = channel();
    let (wake, woken) = channel();
    let wake = Mutex::new(wake);
    let waker: Waker = Arc::new(move || wake.lock().unwrap().send(()).unwrap_or(()));
    let signer = Arc::new(Forward(Mutex::new(sender)));
    let weak = Arc::downgrade(&signer);
    let config = TlsConfig::with_signer(&options, signer, waker).unwrap();
    let server = ca.issue(&server_params("server"));
    Bench { ca, server, config, signer: weak, requests, woken }
}

impl Bench {
    fn server(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ServerConnection {
        Server::demanding(&self.server, &self.ca.der(), versions).accept()
    }

    /// Drives the handshake as an event loop does: only when woken, never waiting inside.
    /// `Ok(true)`: complete. `Ok(false)`: a signature is wanted.
    fn drive(
        &self,
        client: &mut dyn TlsSession,
        server: &mut rustls::ServerConnection,
    ) -> Result<Option<(SignRequest, SignReply)>, TlsError> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            pump(client, server)?;
            if !client.is_handshaking() && !server.is_handshaking() {
                return Ok(None);
            }
            if let Ok(request) = self.requests.try_recv() {
                return Ok(Some(request));
            }
            assert!(Instant::now() < deadline, "stuck");
            let _ = self.woken.recv_timeout(Duration::from_millis(5));
        }
    }
}

/// A key pair as a rustls signer.
fn sign(key: &KeyPair, request: &SignRequest) -> Vec<u8> {
    let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    let scheme = match request.algorithm {
        SignAlgorithm::EcdsaP256Sha256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        SignAlgorithm::Ed25519 => SignatureScheme::ED25519,
        other => panic!("{other}"),
    };
    key.choose_scheme(&[scheme]).unwrap().sign(&request.message).unwrap()
}

fn soft_key() -> (Bench, KeyPair) {
    let ca = Ca::new("CA");
    let client = ca.issue(&client_params("user"));
    let bench = bench(ca, &client.chain[0]);
    (bench, client.key)
}

#[test]
fn late_answer_from_another_thread() {
    let (bench, key) = soft_key();
    let key = Arc::new(key);
    for versions in [&TLS12, &TLS13] {
        let (mut client, mut server) = (bench.config.start().unwrap(), bench.server(versions));
        let (request, reply) = bench.drive(&mut *client, &mut server).unwrap().unwrap();
        assert_eq!(request.algorithm.name(), "ECDSA-P256-SHA256");
        assert_eq!(request.digest().unwrap(), sha256(&request.message));
        // Nothing blocks meanwhile, and nothing pretends to be done.
        let started = Instant::now();
        client.read_ciphertext(&[]).unwrap();
        pump(&mut *client, &mut server).unwrap();
        assert!(client.is_handshaking());
        assert!(client.peer_certificate().is_none());
        client.export("EXPORTER-x", &mut [0; 8]).unwrap_err();
        client.write_plaintext(b"too early").unwrap_err();
        assert!(started.elapsed() < Duration::from_millis(200));

        while bench.woken.try_recv().is_ok() {}
        let key = Arc::clone(&key);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            reply.answer(sign(&key, &request));
        });
        // Only the waker says when to look again.
        bench.woken.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(300));
        assert!(bench.drive(&mut *client, &mut server).unwrap().is_none());
        thread.join().unwrap();
        assert_eq!(client.peer_certificate().unwrap().subject, "CN=server");
        assert_eq!(server.peer_certificates().unwrap().len(), 1);

        client.write_plaintext(b"hello").unwrap();
        pump(&mut *client, &mut server).unwrap();
        let (mut ours, mut theirs) = ([0; 32], [0; 32]);
        client.export("EXPORTER-x", &mut ours).unwrap();
        server.export_keying_material(&mut theirs, b"EXPORTER-x", None).unwrap();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn refusals_name_the_reason() {
    let (bench, _) = soft_key();
    type Act = fn(SignReply);
    let cases: [(Act, &str); 4] = [
        (|reply| reply.refuse("the user removed the card"), "the user removed the card"),
        (drop, "dropped"),
        (|reply| reply.answer(vec![1, 2, 3]), "does not fit the certificate"),
        (|reply| reply.answer(vec![1; 64]), "does not fit the certificate"),
    ];
    for (act, words) in cases {
        for versions in [&TLS12, &TLS13] {
            let (mut client, mut server) = (bench.config.start().unwrap(), bench.server(versions));
            let (_, reply) = bench.drive(&mut *client, &mut server).unwrap().unwrap();
            act(reply);
            let error = bench.drive(&mut *client, &mut server).map(|_| ()).unwrap_err();
            check(&error, TlsErrorKind::ExternalSign, &["ECDSA-P256-SHA256", words]);
            assert!(client.is_handshaking());
            client.take_ciphertext(&mut Vec::new()).unwrap();
        }
    }
}

#[test]
fn a_dropped_session_leaves_no_thread() {
    let (bench, _) = soft_key();
    let (mut client, mut server) = (bench.config.start().unwrap(), bench.server(&TLS13));
    let (request, reply) = bench.drive(&mut *client, &mut server).unwrap().unwrap();
    // The waiting thread holds the signer; so does the configuration.
    drop(bench.config);
    assert!(bench.signer.upgrade().is_some());
    while bench.woken.try_recv().is_ok() {}
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.signer.upgrade().is_some() {
        assert!(Instant::now() < deadline, "the thread is still waiting");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(bench.woken.try_recv().is_err(), "woken for a session that is gone");
    reply.answer(request.message);
}

#[test]
fn options_that_do_not_fit() {
    let ca = Ca::new("CA");
    let mut options: TlsOptions = options(&ca.pem());
    options.key = Some(KeySource::External);
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["external", "cert"]);
    options.cert = Some(ca.issue(&client_params("user")).pem());
    let error = TlsConfig::new(&options, None).unwrap_err();
    check(&error, TlsErrorKind::Config, &["external", "sign"]);
}

/// A SoftHSM token, reached only through the program pkcs11-tool.
struct Token {
    directory: tempfile::TempDir,
}

impl Token {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token = Self { directory };
        std::fs::create_dir(token.path().join("tokens")).unwrap();
        std::fs::write(
            token.path().join("softhsm2.conf"),
            format!("directories.tokendir = {}\n", token.path().join("tokens").display()),
        )
        .unwrap();
        token.run("softhsm2-util", "--init-token --free --label test --pin 1234 --so-pin 5678");
        token
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, program: &str, arguments: &str) {
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .current_dir(self.path())
            .env("SOFTHSM2_CONF", self.path().join("softhsm2.conf"))
            .output()
            .unwrap_or_else(|error| panic!("{program} (packages softhsm2, opensc): {error}"));
        assert!(
            output.status.success(),
            "{program} {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn tool(&self, arguments: &str) {
        self.run(
            "pkcs11-tool",
            &format!("--module /usr/lib/softhsm/libsofthsm2.so --token-label test --login --pin 1234 {arguments}"),
        );
    }

    /// Makes a key pair; its public half.
    fn generate(&self, kind: &str, id: &str) -> SubjectPublicKeyInfo {
        self.tool(&format!("--keypairgen --key-type {kind} --id {id} --usage-sign"));
        self.tool(&format!("--read-object --type pubkey --id {id} -o public.der"));
        let der = std::fs::read(self.path().join("public.der")).unwrap();
        SubjectPublicKeyInfo::from_der(&der).unwrap()
    }

    fn sign(&self, id: &str, request: &SignRequest) -> Vec<u8> {
        let (mechanism, input) = match request.algorithm {
            SignAlgorithm::RsaPkcs1Sha256 => ("SHA256-RSA-PKCS", request.message.clone()),
            SignAlgorithm::RsaPssSha256 => (
                "RSA-PKCS-PSS --hash-algorithm SHA256 --mgf MGF1-SHA256 --salt-len 32",
                request.digest().unwrap(),
            ),
            SignAlgorithm::EcdsaP256Sha256 => ("ECDSA", request.digest().unwrap()),
            other => panic!("{other}"),
        };
        std::fs::write(self.path().join("input"), input).unwrap();
        self.tool(&format!("--sign --id {id} -i input -o output --mechanism {mechanism}"));
        std::fs::read(self.path().join("output")).unwrap()
    }
}

#[test]
fn key_in_a_pkcs11_token() {
    let token = Token::new();
    for (kind, id) in [("rsa:2048", "01"), ("EC:prime256v1", "02")] {
        let ca = Ca::new("CA");
        let public = token.generate(kind, id);
        let certificate = client_params("card").signed_by(&public, &ca.issuer).unwrap();
        let bench = bench(ca, certificate.der());
        for versions in [&TLS12, &TLS13] {
            let (mut client, mut server) = (bench.config.start().unwrap(), bench.server(versions));
            let (request, reply) = bench.drive(&mut *client, &mut server).unwrap().unwrap();
            reply.answer(token.sign(id, &request));
            assert!(bench.drive(&mut *client, &mut server).unwrap().is_none(), "{kind}");
            assert_eq!(server.peer_certificates().unwrap()[0], *certificate.der());
        }
    }
}
