//! TLS as OpenVPN uses it: rustls behind [`TlsSession`], OpenVPN's own certificate rules, and
//! every private key form the field uses.

mod session;

pub use session::{PeerCertificate, TlsError, TlsErrorKind, TlsFactory, TlsSession};
