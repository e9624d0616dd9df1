//! TLS as OpenVPN uses it: rustls behind [`TlsSession`], OpenVPN's own certificate rules, and
//! every private key form the field uses.

mod client;
mod config;
mod errors;
mod external;
mod key;
mod name;
mod p521;
mod pem;
mod rsa;
mod session;
mod suites;
#[cfg(test)]
mod tests;
mod threaded;
mod verify;

pub use config::TlsConfig;
pub use external::{ExternalSigner, SignAlgorithm, SignReply, SignRequest, Waker};
pub use key::{key_needs_passphrase, open_key};
pub use session::{PeerCertificate, TlsError, TlsErrorKind, TlsFactory, TlsParameters, TlsSession};
