//! Certificates and revocation lists before anybody is authenticated: nothing that the CA has not
//! signed is ever accepted, a revoked certificate stays revoked whatever else a list holds, and what
//! is said about a certificate is fit to be shown.

use std::sync::Arc;
use std::time::Duration;

use ovpn_client::profile::{CertProfile, CertUsage, NoFiles, Profile, TlsOptions, X509Name};
use ovpn_client::tls::{TlsConfig, TlsError};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

const CA: &str = include_str!("../pki/ca.crt");
const SERVER: &str = include_str!("../pki/server.crt");
const REVOKED: &str = include_str!("../pki/revoked.crt");
const SUB: &str = include_str!("../pki/sub.crt");
const BELOW: &str = include_str!("../pki/below.crt");
const LIST: &str = include_str!("../pki/ca.crl");

/// Everything in `pki` is valid then.
const NOW: u64 = 1_900_000_000;

/// Input: what it is (one byte), which rules hold (one byte), then DER; with a chain, the length of
/// the server's certificate (two bytes) comes before it, and an intermediate follows it.
pub fn run(data: &[u8]) {
    let Some((&[kind, rules], der)) = data.split_first_chunk() else { return };
    match kind % 4 {
        0 => server(rules, der),
        1 => pinned(rules, der),
        2 => authority(rules, der),
        _ => revocation(rules, der),
    }
}

/// As a server's certificate and an intermediate.
fn server(rules: u8, input: &[u8]) {
    let Some((len, der)) = input.split_first_chunk() else { return };
    let (leaf, above) = der.split_at(usize::from(u16::from_be_bytes(*len)).min(der.len()));
    let verifier = verifier(&options(rules)).expect("its own CA");
    let issued = [SERVER, REVOKED, BELOW].map(|pem| certificate(pem).to_vec());
    if accepts(&*verifier, leaf, &[above]) {
        // Another encoding of the signature is another certificate, but what is signed is the same.
        assert!(issued.iter().any(|known| signed_part(known) == signed_part(leaf)), "forged");
    }
    // Junk beside them keeps no sound certificates from being accepted, nor makes others so.
    if rules & 0xf == 0 {
        assert!(accepts(&*verifier, &certificate(SERVER), &[leaf, above]));
    }
    let sub = certificate(SUB);
    let whole = accepts(&*verifier, &certificate(BELOW), &[&sub, leaf]);
    assert_eq!(whole, accepts(&*verifier, &certificate(BELOW), &[leaf, &sub]));
}

/// As a certificate whose fingerprint the profile has: only the rules are left.
fn pinned(rules: u8, der: &[u8]) {
    let mut options = options(rules);
    options.ca = None;
    options.peer_fingerprints = vec![sha256(der)];
    let verifier = verifier(&options).expect("a fingerprint");
    let accepted = accepts(&*verifier, der, &[]);
    options.peer_fingerprints = vec![[0; 32]];
    let another = self::verifier(&options).expect("a fingerprint");
    assert!(!accepts(&*another, der, &[]), "a foreign fingerprint");
    if accepted && rules & 4 != 0 {
        assert!(contains(der, b"server"), "a name that is not in it");
    }
}

/// As the profile's CA.
fn authority(rules: u8, der: &[u8]) {
    let mut options = options(rules);
    options.ca = Some(pem("CERTIFICATE", der));
    let Ok(verifier) = verifier(&options) else { return };
    if accepts(&*verifier, &certificate(SERVER), &[]) {
        // The last 65 bytes of the public key information are the key.
        let ca = certificate(CA);
        let key = public_key(&ca).expect("a P-256 key");
        assert!(contains(der, key), "by a CA that has not signed it");
    }
}

/// As a revocation list.
fn revocation(rules: u8, der: &[u8]) {
    let mut options = options(rules);
    let list = pem("X509 CRL", der);
    for text in [format!("{LIST}{list}"), format!("{list}{LIST}")] {
        options.crl = Some(text);
        let Ok(verifier) = verifier(&options) else { continue };
        assert!(!accepts(&*verifier, &certificate(REVOKED), &[]), "revoked");
    }
    options.crl = Some(list);
    if let Ok(verifier) = verifier(&options) {
        accepts(&*verifier, &certificate(SERVER), &[]);
    }
}

fn options(rules: u8) -> TlsOptions {
    let text = format!("client\nremote a\nauth-user-pass\n<ca>\n{CA}</ca>\n");
    let profile = Profile::parse(&text, "fuzz.ovpn", &NoFiles).expect("complete");
    let mut options = profile.options.tls;
    options.remote_cert_tls = (rules & 1 != 0).then_some(CertUsage::Server);
    options.remote_cert_ku = (rules & 2 != 0).then(Vec::new);
    options.verify_x509_name = match rules >> 2 & 3 {
        1 => Some(X509Name::Name("server".to_owned())),
        3 => Some(X509Name::NamePrefix("server".to_owned())),
        _ => None,
    };
    options.ns_cert_type = (rules & 0x10 != 0).then_some(CertUsage::Server);
    options.remote_cert_eku = (rules & 0x20 != 0).then(|| "serverAuth".to_owned());
    use CertProfile::{Insecure, Legacy, Preferred, SuiteB};
    options.cert_profile = [Legacy, Preferred, SuiteB, Insecure][usize::from(rules >> 6)];
    options
}

fn verifier(options: &TlsOptions) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let config = TlsConfig::new(options, None);
    if let Err(error) = &config {
        showable(&error.to_string(), 0);
    }
    config.map(|config| config.verifier())
}

/// The verdict, which is the same when asked again.
fn accepts(verifier: &dyn ServerCertVerifier, leaf: &[u8], others: &[&[u8]]) -> bool {
    let others: Vec<CertificateDer<'_>> =
        others.iter().map(|der| CertificateDer::from(*der)).collect();
    let leaf = CertificateDer::from(leaf);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let name = ServerName::try_from("a.example").expect("a name");
    let ask =
        || verifier.verify_server_cert(&leaf, &others, &name, &[], now).map_err(|e| e.to_string());
    let verdict = ask().map(drop);
    assert_eq!(verdict, ask().map(drop));
    if let Err(text) = &verdict {
        showable(text, leaf.len() + others.iter().map(|other| other.len()).sum::<usize>());
    }
    verdict.is_ok()
}

/// No control characters, and not much longer than what it is about.
fn showable(text: &str, about: usize) {
    assert!(!text.is_empty() && text.len() < 2000 + 20 * about);
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

fn pem(label: &str, der: &[u8]) -> String {
    ::pem::encode(&::pem::Pem::new(label, der))
}

/// The first element of the outer SEQUENCE.
fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let (_, outer) = element(der)?;
    let (whole, _) = element(outer)?;
    Some(whole)
}

/// An uncompressed point of P-256 behind its BIT STRING header.
fn public_key(der: &[u8]) -> Option<&[u8]> {
    let header = [0x03, 0x42, 0x00, 0x04];
    let at = der.windows(header.len()).position(|window| window == header)?;
    der.get(at + 3..at + 3 + 65)
}

/// One element of DER: the whole, and its content.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = usize::from(*der.get(1)?);
    let (header, len) = match first {
        0..=0x7f => (2, first),
        0x81..=0x84 => {
            let bytes = der.get(2..2 + (first & 0x7f))?;
            (2 + bytes.len(), bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)))
        }
        _ => return None,
    };
    Some((der.get(..header + len)?, der.get(header..header + len)?))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    *digest.as_ref().first_chunk().expect("32 bytes")
}
