//! TLS as OpenVPN uses it: rustls behind [`TlsSession`], OpenVPN's own certificate rules, and
//! every private key form the field uses.

mod client;
mod config;
mod errors;
mod key;
mod name;
mod pem;
mod session;
mod suites;
#[cfg(test)]
mod tests;
mod verify;

pub use config::TlsConfig;
pub use key::key_needs_passphrase;
pub use session::{PeerCertificate, TlsError, TlsErrorKind, TlsFactory, TlsSession};
