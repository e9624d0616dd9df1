//! From a profile's TLS options to a rustls configuration.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::client::RustlsSession;
use super::errors;
use super::external::{ExternalIdentity, ExternalSigner, Waker};
use super::key::{ClientKey, Identity};
use super::session::{Reason, TlsError, TlsErrorKind, TlsFactory, TlsSession};
use super::suites::Offer;
use super::threaded::ThreadedSession;
use super::verify::ServerVerifier;
use crate::profile::TlsOptions;
use crate::secret::Secret;

/// Makes the TLS sessions of one connection.
///
/// The first complete handshake locks the server's certificate chain: a later session of the same
/// value refuses any other. Use [`TlsConfig::connection`] for each new connection.
pub struct TlsConfig {
    client: Arc<ClientConfig>,
    verifier: Arc<ServerVerifier>,
    server_name: ServerName<'static>,
    warnings: Vec<String>,
    certificate_doubt: Option<String>,
    external: Option<External>,
}

/// Why rustls takes the options as a whole for unusable.
#[derive(Debug, thiserror::Error)]
enum UnusableOptions {
    #[error(
        "the TLS options contradict each other ({0}); check tls-version-min, tls-version-max, \
         tls-cipher, tls-ciphersuites and tls-groups"
    )]
    Contradiction(#[source] rustls::Error),
    #[error("sni must be a DNS name (letters, digits, hyphens and dots)")]
    Sni,
}

impl Reason for UnusableOptions {
    fn kind(&self) -> TlsErrorKind {
        TlsErrorKind::Config
    }
}

/// A key elsewhere, and whom to tell that its signature has arrived.
#[derive(Clone)]
struct External {
    identity: Arc<ExternalIdentity>,
    waker: Waker,
}

impl TlsConfig {
    /// Reads `options`. `passphrase` is the user's answer for an encrypted private key; without
    /// it, that of the profile (`askpass`) is used.
    ///
    /// # Errors
    /// [`TlsErrorKind::Config`] names the option and what to do;
    /// [`TlsErrorKind::PassphraseNeeded`] and [`TlsErrorKind::WrongPassphrase`] concern the key.
    pub fn new(
        options: &TlsOptions,
        passphrase: Option<&Secret<String>>,
    ) -> Result<Self, TlsError> {
        Self::build(options, passphrase, None)
    }

    /// The same, for a profile whose private key is external ([`KeySource::External`]): `signer`
    /// is asked for signatures. Its sessions never block: [`TlsSession::read_ciphertext`] returns
    /// at once, and `waker` is called when [`TlsSession::take_ciphertext`] and
    /// [`TlsSession::is_handshaking`] have something new.
    ///
    /// [`KeySource::External`]: crate::profile::KeySource::External
    ///
    /// # Errors
    /// As [`TlsConfig::new`].
    pub fn with_signer(
        options: &TlsOptions,
        signer: Arc<dyn ExternalSigner>,
        waker: Waker,
    ) -> Result<Self, TlsError> {
        Self::build(options, options.key_passphrase.as_ref(), Some((signer, waker)))
    }

    fn build(
        options: &TlsOptions,
        passphrase: Option<&Secret<String>>,
        signing: Option<(Arc<dyn ExternalSigner>, Waker)>,
    ) -> Result<Self, TlsError> {
        let passphrase = passphrase.or(options.key_passphrase.as_ref());
        let mut warnings = Vec::new();
        let offer = Offer::new(options, &mut warnings)?;
        let identity =
            Identity::load(options, passphrase, signing.as_ref().map(|(signer, _)| signer))?;
        let certificate_doubt = identity.key.warning();
        warnings.extend(certificate_doubt.clone());
        warnings.extend(identity.key.weakness());
        let verifier = ServerVerifier::new(options, &identity.ca, &identity.extra, &mut warnings)?;
        let verifier = Arc::new(verifier);

        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = offer.suites;
        provider.kx_groups = offer.groups;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&offer.versions)
            .map_err(UnusableOptions::Contradiction)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<ServerVerifier>::clone(&verifier));
        let (mut client, external) = match identity.key {
            ClientKey::Own(key) => {
                let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
                (builder.with_client_cert_resolver(resolver), None)
            }
            // Each session gets a resolver of its own.
            ClientKey::External(key) => (builder.with_no_client_auth(), Some(Arc::new(key))),
            ClientKey::None => (builder.with_no_client_auth(), None),
        };
        let external =
            external.zip(signing).map(|(identity, (_, waker))| External { identity, waker });
        client.resumption = Resumption::disabled();
        client.enable_sni = options.sni.is_some();
        Ok(Self {
            client: Arc::new(client),
            verifier,
            server_name: server_name(options)?,
            warnings,
            certificate_doubt,
            external,
        })
    }

    /// The same configuration for another connection: no server certificate is locked.
    pub fn connection(&self) -> Self {
        let verifier = Arc::new(self.verifier.unlocked());
        let mut client = ClientConfig::clone(&self.client);
        client.dangerous().set_certificate_verifier(Arc::<ServerVerifier>::clone(&verifier));
        Self {
            client: Arc::new(client),
            verifier,
            server_name: self.server_name.clone(),
            warnings: self.warnings.clone(),
            certificate_doubt: self.certificate_doubt.clone(),
            external: self.external.clone(),
        }
    }

    /// What decides about servers' certificates. For fuzzing.
    #[cfg(feature = "internals")]
    pub fn verifier(&self) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
        Arc::<ServerVerifier>::clone(&self.verifier)
    }

    /// What of the options was passed over, for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Why a server that falls silent during the handshake may have refused our certificate: many
    /// do so without a word.
    pub fn certificate_doubt(&self) -> Option<&str> {
        self.certificate_doubt.as_deref()
    }
}

impl TlsFactory for TlsConfig {
    fn start(&self) -> Result<Box<dyn TlsSession>, TlsError> {
        let open = |client: &Arc<ClientConfig>| {
            ClientConnection::new(Arc::clone(client), self.server_name.clone())
                .map(|connection| RustlsSession::new(connection, Arc::clone(&self.verifier)))
                .map_err(errors::from_rustls)
        };
        let Some(external) = &self.external else {
            return Ok(Box::new(open(&self.client)?));
        };
        let (resolver, cancel) = external.identity.resolver();
        let mut client = ClientConfig::clone(&self.client);
        client.client_auth_cert_resolver = resolver;
        let session = open(&Arc::new(client))?;
        Ok(Box::new(ThreadedSession::new(session, Arc::clone(&external.waker), cancel)))
    }
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfig").field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

/// rustls wants a name; it leaves this machine only with `sni`.
fn server_name(options: &TlsOptions) -> Result<ServerName<'static>, UnusableOptions> {
    let name = options.sni.clone().unwrap_or_else(|| "openvpn.invalid".to_owned());
    match ServerName::try_from(name) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(UnusableOptions::Sni),
    }
}
