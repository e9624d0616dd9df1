//! Private keys in all their forms, from a profile that somebody else wrote: whatever stands there
//! is a key, a question for the passphrase, or an error in words; never the passphrase itself, and
//! never for long.

use ovpn_client::profile::{KeySource, NoFiles, Profile, TlsOptions};
use ovpn_client::secret::Secret;
use ovpn_client::tls::{TlsConfig, TlsErrorKind, key_needs_passphrase};

const CERT: &str = include_str!("../pki/client.crt");
const PASSPHRASE: &str = "secret";

/// Labels under which DER is tried.
const LABELS: [&str; 4] =
    ["PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];

/// Input: the form (one byte), then PEM text, DER behind a label, or PKCS#12.
pub fn run(data: &[u8]) {
    let Some((&form, key)) = data.split_first() else { return };
    let mut options = options();
    options.key = Some(match usize::from(form % 6) {
        0 => KeySource::Pem(Secret::new(String::from_utf8_lossy(key).into_owned())),
        1 => {
            options.cert = None;
            KeySource::Pkcs12(Secret::new(key.to_vec()))
        }
        label => {
            KeySource::Pem(Secret::new(::pem::encode(&::pem::Pem::new(LABELS[label - 2], key))))
        }
    });
    let encrypted = key_needs_passphrase(&options);
    let without = open(&options, None);
    assert_eq!(without, open(&options, None));
    match &without {
        // It holds the key of the certificate.
        Ok(()) => assert!(!encrypted),
        Err((kind, _)) => {
            let asks = *kind == TlsErrorKind::PassphraseNeeded;
            assert_eq!(asks, encrypted, "{without:?}");
        }
    }
    let with = open(&options, Some(PASSPHRASE));
    if let Err((kind, message)) = &with {
        assert_ne!(*kind, TlsErrorKind::PassphraseNeeded, "it was given");
        let shown = key.windows(PASSPHRASE.len()).any(|part| part == PASSPHRASE.as_bytes());
        assert!(shown || !message.contains(PASSPHRASE), "{message}");
    }
    if !encrypted && matches!(form % 6, 2..) {
        assert_eq!(with, without, "a passphrase for a key that is not encrypted");
    }
}

fn open(options: &TlsOptions, passphrase: Option<&str>) -> Result<(), (TlsErrorKind, String)> {
    let passphrase = passphrase.map(Secret::from);
    let opened = TlsConfig::new(options, passphrase.as_ref());
    opened.map(drop).map_err(|error| {
        assert!(!error.to_string().contains(char::is_control), "{error}");
        (error.kind, error.to_string())
    })
}

fn options() -> TlsOptions {
    let fingerprint = ["00"; 32].join(":");
    let text = format!("client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n");
    let profile = Profile::parse(&text, "fuzz.ovpn", &NoFiles).expect("complete");
    TlsOptions { cert: Some(CERT.to_owned()), ..profile.options.tls }
}
