//! One rustls client connection behind [`TlsSession`].

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::ClientConnection;

use super::errors;
use super::session::{PeerCertificate, Reason, TlsError, TlsErrorKind, TlsParameters, TlsSession};
use super::verify::ServerVerifier;

/// Largest plaintext of one TLS record (RFC 8446, 5.1).
const RECORD: usize = 16_384;

/// What goes wrong around TLS itself.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("TLS: {0}")]
    Io(#[from] io::Error),
    #[error("a control message of {0} bytes exceeds a TLS record")]
    TooLong(usize),
    #[error("the server closed the TLS session (close_notify); its log says why")]
    Closed,
}

impl Reason for StreamError {
    fn kind(&self) -> TlsErrorKind {
        match self {
            Self::Io(_) => TlsErrorKind::Protocol,
            Self::TooLong(_) => TlsErrorKind::Host,
            Self::Closed => TlsErrorKind::Alert,
        }
    }
}

/// A session that does everything at once, on the caller's thread.
pub(super) struct RustlsSession {
    connection: ClientConnection,
    verifier: Arc<ServerVerifier>,
    plaintext: Vec<u8>,
    peer: Option<PeerCertificate>,
    closed: bool,
}

impl RustlsSession {
    pub(super) fn new(mut connection: ClientConnection, verifier: Arc<ServerVerifier>) -> Self {
        connection.set_buffer_limit(None);
        Self { connection, verifier, plaintext: Vec::new(), peer: None, closed: false }
    }

    /// Processes what rustls has read; collects plaintext and notices the end of the handshake.
    fn process(&mut self) -> Result<(), TlsError> {
        let state = self.connection.process_new_packets().map_err(errors::from_rustls)?;
        self.closed |= state.peer_has_closed();
        let mut reader = self.connection.reader();
        let mut chunk = [0; 2048];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => self.plaintext.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(StreamError::Io(error).into()),
            }
        }
        if self.peer.is_none() && !self.connection.is_handshaking() {
            let leaf = self.connection.peer_certificates().and_then(|chain| chain.first());
            if let Some(leaf) = leaf {
                self.peer = Some(self.verifier.established(leaf)?);
            }
        }
        Ok(())
    }
}

impl TlsSession for RustlsSession {
    fn read_ciphertext(&mut self, mut ciphertext: &[u8]) -> Result<(), TlsError> {
        while !ciphertext.is_empty() {
            let taken = self.connection.read_tls(&mut ciphertext).map_err(StreamError::Io)?;
            self.process()?;
            if taken == 0 {
                // Nothing is taken after close_notify: the rest is not TLS.
                break;
            }
        }
        Ok(())
    }

    fn take_ciphertext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        while self.connection.wants_write() {
            self.connection.write_tls(out).map_err(StreamError::Io)?;
        }
        Ok(())
    }

    fn write_plaintext(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        if plaintext.len() > RECORD {
            return Err(StreamError::TooLong(plaintext.len()).into());
        }
        Ok(self.connection.writer().write_all(plaintext).map_err(StreamError::Io)?)
    }

    fn read_plaintext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.plaintext.is_empty() && self.closed {
            return Err(StreamError::Closed.into());
        }
        out.append(&mut self.plaintext);
        Ok(())
    }

    fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    fn export(&self, label: &str, out: &mut [u8]) -> Result<(), TlsError> {
        self.connection
            .export_keying_material(out, label.as_bytes(), None)
            .map(|_| ())
            .map_err(errors::from_rustls)
    }

    fn description(&self) -> String {
        self.parameters()
            .map_or_else(|| "TLS handshake not complete".to_owned(), |tls| tls.to_string())
    }

    fn parameters(&self) -> Option<TlsParameters> {
        let version = match self.connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => return None,
        };
        let suite = self.connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let suite = suite.as_ref().and_then(rustls::CipherSuite::as_str).unwrap_or("?");
        let group = self.connection.negotiated_key_exchange_group();
        Some(TlsParameters {
            version,
            // rustls marks its TLS 1.3 constants; the registered names have no version in them.
            cipher_suite: suite.replace("TLS13_", "TLS_"),
            key_exchange: group
                .map_or_else(|| "?".to_owned(), |group| format!("{:?}", group.name())),
        })
    }

    fn peer_certificate(&self) -> Option<PeerCertificate> {
        self.peer.clone()
    }
}
