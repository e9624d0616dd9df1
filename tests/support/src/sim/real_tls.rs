//! Real TLS on both ends: rustls, with certificates made for the run.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use ovpn_client::profile::{KeySource, NoFiles, Profile, TlsOptions};
use ovpn_client::tls::{
    ExternalSigner, PeerCertificate, TlsConfig, TlsError, TlsErrorKind, TlsFactory, TlsSession,
    Waker,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

use crate::pki::{Authority, Identity, Validity};

struct Pki {
    ca: String,
    server: Identity,
    client: Identity,
}

/// One for all runs of a process.
fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let authority = Authority::new("ca");
        Pki {
            ca: authority.certificate(),
            server: authority.server("server", Validity::Now),
            client: authority.client("client", Validity::Now),
        }
    })
}

/// What a profile needs for the client's end.
pub fn identity() -> String {
    let Pki { ca, client: Identity { certificate: cert, key, .. }, .. } = pki();
    format!("remote-cert-tls server\n<ca>\n{ca}</ca>\n<cert>\n{cert}</cert>\n<key>\n{key}</key>\n")
}

/// The client's private key, and [`identity`] with that encrypted.
pub fn encrypted_identity(passphrase: &str) -> (String, String) {
    let key = pki().client.key.clone();
    let mut openssl = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout"])
        .arg(format!("pass:{passphrase}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success());
    let encrypted = String::from_utf8(output.stdout).unwrap();
    let identity = identity().replace(&key, &encrypted);
    (key, identity)
}

/// Both ends, for [`super::Setup`].
pub fn pair(version: &'static SupportedProtocolVersion) -> super::TlsPair {
    pair_with(version, |options| TlsConfig::new(options, None).unwrap())
}

/// The same, with a client key that only `signer` has. Also returns that key, in PEM.
pub fn external_pair(
    version: &'static SupportedProtocolVersion,
    signer: Arc<dyn ExternalSigner>,
    waker: Waker,
) -> (super::TlsPair, &'static str) {
    let pair = pair_with(version, |options| {
        options.key = Some(KeySource::External);
        TlsConfig::with_signer(options, signer, waker).unwrap()
    });
    (pair, &pki().client.key)
}

fn pair_with(
    version: &'static SupportedProtocolVersion,
    configure: impl FnOnce(&mut TlsOptions) -> TlsConfig,
) -> super::TlsPair {
    let Pki { ca, server, .. } = pki();
    let text = format!("client\ndev tun\nremote vpn.test\n{}", identity());
    let mut options = Profile::parse(&text, "test", &NoFiles).unwrap().options;
    let factory: Arc<dyn TlsFactory> = Arc::new(configure(&mut options.tls));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let accept = move || -> Box<dyn TlsSession> {
        Box::new(RealServer(ServerConnection::new(Arc::clone(&config)).unwrap()))
    };
    (factory, Box::new(accept))
}

/// A server's end with a certificate that nobody has signed but itself.
pub fn impostor() -> Box<dyn FnMut() -> Box<dyn TlsSession>> {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["server".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    Box::new(move || Box::new(RealServer(ServerConnection::new(Arc::clone(&config)).unwrap())))
}

struct RealServer(ServerConnection);

impl TlsSession for RealServer {
    fn read_ciphertext(&mut self, mut ciphertext: &[u8]) -> Result<(), TlsError> {
        while !ciphertext.is_empty() {
            self.0.read_tls(&mut ciphertext).unwrap();
            self.0.process_new_packets().map_err(|e| TlsError::new(TlsErrorKind::Protocol, e))?;
        }
        Ok(())
    }

    fn take_ciphertext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        while self.0.wants_write() {
            self.0.write_tls(out).unwrap();
        }
        Ok(())
    }

    fn write_plaintext(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.0.writer().write_all(plaintext).unwrap();
        Ok(())
    }

    fn read_plaintext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        // "Would block" says that everything was read.
        let _ = self.0.reader().read_to_end(out);
        Ok(())
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn export(&self, label: &str, out: &mut [u8]) -> Result<(), TlsError> {
        self.0.export_keying_material(out, label.as_bytes(), None).unwrap();
        Ok(())
    }

    fn description(&self) -> String {
        format!("{:?}", self.0.protocol_version())
    }

    fn peer_certificate(&self) -> Option<PeerCertificate> {
        None
    }
}
