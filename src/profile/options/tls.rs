//! TLS: certificates, keys, and the rules a server certificate must keep.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::sign::SigningKey;

use crate::secret::Secret;

/// TLS and certificate verification, as OpenVPN defines it.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// `ca`: PEM text. `None` only with `peer_fingerprints`, or with a PKCS#12 `key` that brings the
    /// CA.
    pub ca: Option<String>,
    /// `cert`: PEM text of the client certificate (chain).
    pub cert: Option<String>,
    /// `extra-certs`: PEM text.
    pub extra_certs: Option<String>,
    /// Client key.
    pub key: Option<KeySource>,
    /// `askpass FILE`: passphrase of the private key.
    pub key_passphrase: Option<Secret<String>>,
    /// `crl-verify FILE`: PEM text.
    pub crl: Option<String>,
    /// `crl-verify DIR dir`: serial numbers of revoked certificates, in decimal without leading zeros.
    pub revoked_serials: BTreeSet<String>,
    /// `tls-version-min` (default 1.2).
    pub version_min: TlsVersion,
    /// `tls-version-max`
    pub version_max: TlsVersion,
    /// `tls-cert-profile`
    pub cert_profile: CertProfile,
    /// `tls-cipher`: names as written, for TLS 1.2.
    pub ciphers: Option<Vec<String>>,
    /// `tls-ciphersuites`: names as written, for TLS 1.3.
    pub ciphersuites: Option<Vec<String>>,
    /// `tls-groups`: names as written.
    pub groups: Option<Vec<String>>,
    /// `remote-cert-tls`
    pub remote_cert_tls: Option<CertUsage>,
    /// `remote-cert-ku`: masks of the first key usage byte. `Some([])`: key usage must be present.
    pub remote_cert_ku: Option<Vec<u8>>,
    /// `remote-cert-eku`: dotted OID or long name.
    pub remote_cert_eku: Option<String>,
    /// `ns-cert-type server`
    pub ns_cert_type: Option<CertUsage>,
    /// `verify-x509-name`
    pub verify_x509_name: Option<X509Name>,
    /// `peer-fingerprint`: SHA-256 of the leaf.
    pub peer_fingerprints: Vec<[u8; 32]>,
    /// `verify-hash`: SHA-256 or SHA-1 of the certificate that issued the leaf.
    pub verify_hash: Option<VerifyHash>,
    /// `sni`: server name indication to send.
    pub sni: Option<String>,
}

/// What holds when a profile says nothing.
impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            ca: None,
            cert: None,
            extra_certs: None,
            key: None,
            key_passphrase: None,
            crl: None,
            revoked_serials: BTreeSet::new(),
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
}

/// A private key as the TLS library holds it.
#[derive(Clone, Debug)]
pub struct OpenedKey(pub Arc<dyn SigningKey>);

/// Where the private key is.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `key`: PEM text.
    Pem(Secret<String>),
    /// `pkcs12`: DER.
    Pkcs12(Secret<Vec<u8>>),
    /// Either of them, opened: what it was read from is gone.
    Opened(OpenedKey),
    /// External PKI: signatures are asked for through the user-input queue.
    External,
}

/// TLS protocol version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}

/// `tls-cert-profile`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "names of the directive")]
pub enum CertProfile {
    Insecure,
    Legacy,
    Preferred,
    SuiteB,
}

/// Which side's certificate a check wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertUsage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
}

/// `verify-x509-name NAME [TYPE]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum X509Name {
    /// Whole subject DN, `C=US, O=x, CN=y`.
    Subject(String),
    /// Common name.
    Name(String),
    /// Start of the common name.
    NamePrefix(String),
}

/// `verify-hash`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VerifyHash {
    /// 32 bytes.
    Sha256([u8; 32]),
    /// 20 bytes.
    Sha1([u8; 20]),
}
