//! From a profile's TLS options to a rustls configuration.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::client::RustlsSession;
use super::session::{TlsError, TlsErrorKind, TlsFactory, TlsSession};
use super::suites::Offer;
use super::verify::ServerVerifier;
use super::{errors, key};
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
        let passphrase = passphrase.or(options.key_passphrase.as_ref());
        let mut warnings = Vec::new();
        let offer = Offer::new(options, &mut warnings)?;
        let identity = key::Identity::load(options, passphrase)?;
        let verifier = Arc::new(ServerVerifier::new(options, &identity.ca, &identity.extra)?);

        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = offer.suites;
        provider.kx_groups = offer.groups;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&offer.versions)
            .map_err(|error| {
                TlsError::new(
                    TlsErrorKind::Config,
                    format!(
                        "the TLS options contradict each other ({error}); check tls-version-min, \
                         tls-version-max, tls-cipher, tls-ciphersuites and tls-groups"
                    ),
                )
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<ServerVerifier>::clone(&verifier));
        let mut client = match identity.key {
            Some(key) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        client.resumption = Resumption::disabled();
        client.enable_sni = options.sni.is_some();
        Ok(Self {
            client: Arc::new(client),
            verifier,
            server_name: server_name(options)?,
            warnings,
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
        }
    }

    /// What of the options was passed over, for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl TlsFactory for TlsConfig {
    fn start(&self) -> Result<Box<dyn TlsSession>, TlsError> {
        let connection = ClientConnection::new(Arc::clone(&self.client), self.server_name.clone())
            .map_err(|error| errors::from_rustls(&error))?;
        Ok(Box::new(RustlsSession::new(connection, Arc::clone(&self.verifier))))
    }
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfig").field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

/// rustls wants a name; it leaves this machine only with `sni`.
fn server_name(options: &TlsOptions) -> Result<ServerName<'static>, TlsError> {
    let name = options.sni.clone().unwrap_or_else(|| "openvpn.invalid".to_owned());
    match ServerName::try_from(name) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(TlsError::new(
            TlsErrorKind::Config,
            "sni must be a DNS name (letters, digits, hyphens and dots)",
        )),
    }
}
