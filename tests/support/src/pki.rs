//! Certificates and keys for one test: made fresh, never reused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    date_time_ymd,
};

/// Of the next certificate.
static SERIAL: AtomicU64 = AtomicU64::new(1001);

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS#8.
    pub key: String,
    /// The certificate's serial number.
    pub serial: u64,
}

/// A certification authority that signs server and client certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Today.
    Now,
    /// No longer.
    Expired,
}

impl Authority {
    /// A new authority with this common name, signed by itself.
    pub fn new(name: &str) -> Self {
        let mut params = parameters(name, Validity::Now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("CA key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("CA certificate") }
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A server with this common name.
    pub fn server(&self, name: &str, validity: Validity) -> Identity {
        self.sign(name, validity, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client with this common name.
    pub fn client(&self, name: &str, validity: Validity) -> Identity {
        self.sign(name, validity, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, validity: Validity, usage: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = parameters(name, validity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(serial.into());
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        Identity { certificate: certificate.pem(), key: key.serialize_pem(), serial }
    }

    /// Its list of revoked certificates, by their serial numbers; PEM.
    pub fn revocation_list(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("list").pem().expect("PEM")
    }
}

fn parameters(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = match validity {
        Validity::Now => date_time_ymd(2099, 1, 1),
        Validity::Expired => date_time_ymd(2021, 1, 1),
    };
    params
}

/// Static keys of the control channel wrappings, made by OpenVPN itself.
pub struct StaticKeys {
    /// For tls-auth and tls-crypt.
    pub shared: String,
    /// tls-crypt-v2: what the server holds.
    pub v2_server: String,
    /// tls-crypt-v2: what the client holds, wrapped by the above.
    pub v2_client: String,
}

impl StaticKeys {
    /// Fresh ones, as files in `directory` too. Needs the program `openvpn`.
    pub fn generate(directory: &Path) -> Self {
        let make = |arguments: &[&str], file: &str| -> (PathBuf, String) {
            let path = directory.join(file);
            let output = Command::new("openvpn").args(arguments).arg(&path).output();
            let output = output.expect("run openvpn --genkey: is openvpn installed?");
            assert!(
                output.status.success(),
                "openvpn {arguments:?}: {}",
                String::from_utf8_lossy(&output.stdout)
            );
            let text = std::fs::read_to_string(&path).expect("key file");
            (path, text)
        };
        let (_, shared) = make(&["--genkey", "secret"], "shared.key");
        let (server, v2_server) = make(&["--genkey", "tls-crypt-v2-server"], "v2-server.key");
        let server = server.to_str().expect("path is text");
        let arguments = ["--tls-crypt-v2", server, "--genkey", "tls-crypt-v2-client"];
        let (_, v2_client) = make(&arguments, "v2-client.key");
        Self { shared, v2_server, v2_client }
    }
}
