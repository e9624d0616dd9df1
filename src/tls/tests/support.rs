//! An issuing authority and an in-memory rustls server, for all TLS tests.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

use crate::profile::{CertProfile, TlsOptions, TlsVersion};
use crate::tls::{TlsConfig, TlsError, TlsErrorKind, TlsFactory, TlsSession};

/// A CA that rcgen keeps.
pub(super) struct Ca {
    pub(super) certificate: Certificate,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        Self::with(ca_params(name))
    }

    pub(super) fn with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A CA below this one.
    pub(super) fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        self.issue_for(params, key)
    }

    pub(super) fn issue_for(&self, params: &CertificateParams, key: KeyPair) -> Identity {
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain: vec![certificate.der().clone()], key }
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }
}

/// A certificate chain with its key.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: KeyPair,
}

impl Identity {
    pub(super) fn pem(&self) -> String {
        to_pem(&self.chain)
    }

    pub(super) fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.chain[0])
    }

    pub(super) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref().try_into().unwrap()
}

pub(super) fn to_pem(chain: &[CertificateDer<'_>]) -> String {
    let blocks: Vec<_> =
        chain.iter().map(|der| pem::Pem::new("CERTIFICATE", der.to_vec())).collect();
    pem::encode_many(&blocks)
}

pub(super) fn ca_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A certificate with a common name and nothing else, no SAN.
pub(super) fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// What EasyRSA's `build-server-full` makes.
pub(super) fn server_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// What EasyRSA's `build-client-full` makes.
pub(super) fn client_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Options with nothing but `ca`.
pub(super) fn options(ca: &str) -> TlsOptions {
    TlsOptions {
        ca: (!ca.is_empty()).then(|| ca.to_owned()),
        cert: None,
        extra_certs: None,
        key: None,
        key_passphrase: None,
        crl: None,
        revoked_serials: Default::default(),
        version_min: TlsVersion::V1_2,
        version_max: TlsVersion::V1_3,
        cert_profile: CertProfile::Legacy,
        ciphers: None,
        ciphersuites: None,
        groups: None,
        remote_cert_tls: None,
        remote_cert_ku: None,
        remote_cert_eku: None,
        ns_cert_type: None,
        verify_x509_name: None,
        peer_fingerprints: Vec::new(),
        verify_hash: None,
        sni: None,
    }
}

/// A rustls server.
pub(super) struct Server {
    pub(super) config: ServerConfig,
}

pub(super) static BOTH: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];
pub(super) static TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
pub(super) static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

impl Server {
    pub(super) fn new(identity: &Identity) -> Self {
        Self::with(identity.chain.clone(), identity.key_der(), &BOTH)
    }

    /// Nothing about the certificate is checked.
    pub(super) fn with(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Self::with_resolver(CertifiedKey::new(chain, key), provider, versions, None)
    }

    pub(super) fn with_resolver(
        key: CertifiedKey,
        provider: Arc<rustls::crypto::CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
        client_ca: Option<&CertificateDer<'static>>,
    ) -> Self {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(ca.clone()).unwrap();
                builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .unwrap(),
                )
            }
        };
        Self { config: builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key))) }
    }

    /// Demands a client certificate of `ca`.
    pub(super) fn demanding(
        identity: &Identity,
        ca: &CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&identity.key_der()).unwrap();
        Self::with_resolver(
            CertifiedKey::new(identity.chain.clone(), key),
            provider,
            versions,
            Some(ca),
        )
    }

    pub(super) fn accept(&self) -> ServerConnection {
        ServerConnection::new(Arc::new(self.config.clone())).unwrap()
    }
}

/// Carries ciphertext until nothing moves. The server's own errors end up as alerts.
pub(super) fn pump(
    client: &mut dyn TlsSession,
    server: &mut ServerConnection,
) -> Result<(), TlsError> {
    loop {
        let mut to_server = Vec::new();
        client.take_ciphertext(&mut to_server)?;
        let mut moved = !to_server.is_empty();
        let mut rest = &to_server[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            if server.process_new_packets().is_err() {
                break;
            }
        }
        let mut to_client = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        moved |= !to_client.is_empty();
        client.read_ciphertext(&to_client)?;
        if !moved {
            return Ok(());
        }
    }
}

/// A whole handshake with a fresh configuration.
pub(super) fn connect(
    options: &TlsOptions,
    server: &Server,
) -> Result<Box<dyn TlsSession>, TlsError> {
    handshake(&TlsConfig::new(options, None)?, server)
}

pub(super) fn handshake(
    config: &dyn TlsFactory,
    server: &Server,
) -> Result<Box<dyn TlsSession>, TlsError> {
    let mut client = config.start()?;
    pump(&mut *client, &mut server.accept())?;
    assert!(!client.is_handshaking(), "stuck");
    Ok(client)
}

/// The rule accepts this server, with TLS 1.2 and 1.3.
#[track_caller]
pub(super) fn accepted(options: &TlsOptions, identity: &Identity) {
    for versions in [&TLS12, &TLS13] {
        let server = Server::with(identity.chain.clone(), identity.key_der(), versions);
        if let Err(error) = connect(options, &server) {
            panic!("refused: {error}");
        }
    }
}

/// The rule refuses this server, with TLS 1.2 and 1.3; the message holds all `words`.
#[track_caller]
pub(super) fn refused(options: &TlsOptions, identity: &Identity, words: &[&str]) {
    for versions in [&TLS12, &TLS13] {
        let server = Server::with(identity.chain.clone(), identity.key_der(), versions);
        let config = TlsConfig::new(options, None).unwrap();
        let mut client = config.start().unwrap();
        let error = pump(&mut *client, &mut server.accept()).expect_err("accepted");
        check(&error, TlsErrorKind::CertVerify, words);
        // It fails closed, and the server is told.
        assert!(client.is_handshaking());
        assert!(client.peer_certificate().is_none());
        let mut alert = Vec::new();
        client.take_ciphertext(&mut alert).unwrap();
        assert!(!alert.is_empty(), "no alert");
    }
}

#[track_caller]
pub(super) fn check(error: &TlsError, kind: TlsErrorKind, words: &[&str]) {
    assert_eq!(error.kind, kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "\"{word}\" is not in: {error}");
    }
}

/// Runs openssl(1) in `directory`; arguments separated by blanks.
pub(super) fn openssl(directory: &Path, arguments: &str) {
    run(directory, "openssl", arguments);
}

pub(super) fn run(directory: &Path, program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{program} (a Debian package of the tests): {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(super) fn read(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}
