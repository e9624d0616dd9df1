//! A session whose key is elsewhere. rustls signs synchronously, so while the handshake lasts,
//! received bytes are processed on a thread that may block; the caller never does.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use super::client::RustlsSession;
use super::external::{Cancel, Waker};
use super::session::{PeerCertificate, Reason, TlsError, TlsErrorKind, TlsParameters, TlsSession};

/// What waits for the thread, at most: no honest handshake has that much.
const MAX_QUEUED: usize = 256 * 1024;

/// What goes wrong around the thread.
#[derive(Debug, thiserror::Error)]
enum ThreadError {
    #[error("TLS: no thread to sign on ({0})")]
    NoThread(#[source] io::Error),
    #[error("TLS: the server sent more than {MAX_QUEUED} bytes while the private key signs")]
    Flood,
    #[error("TLS: the handshake is not complete")]
    NotComplete,
    #[error("TLS: the handshake thread ended unexpectedly")]
    Lost,
}

impl Reason for ThreadError {
    fn kind(&self) -> TlsErrorKind {
        match self {
            Self::NoThread(_) | Self::NotComplete | Self::Lost => TlsErrorKind::Host,
            Self::Flood => TlsErrorKind::Protocol,
        }
    }
}

/// [`RustlsSession`] that lives on another thread while it may wait for a signature.
pub(super) struct ThreadedSession {
    state: State,
    /// Received while the thread works.
    queued: Vec<u8>,
    waker: Waker,
    /// Dropped with the session: the thread stops waiting.
    _cancel: Cancel,
}

enum State {
    Here(Box<RustlsSession>),
    /// On the thread; it comes back with what processing has said.
    Away(Receiver<(Box<RustlsSession>, Result<(), TlsError>)>),
    /// The thread died.
    Lost,
}

impl ThreadedSession {
    pub(super) fn new(session: RustlsSession, waker: Waker, cancel: Cancel) -> Self {
        let state = State::Here(Box::new(session));
        Self { state, queued: Vec::new(), waker, _cancel: cancel }
    }

    /// Takes the session back if the thread is done, and gives it what has come meanwhile.
    fn poll(&mut self) -> Result<(), TlsError> {
        if let State::Away(thread) = &self.state {
            match thread.try_recv() {
                Ok((session, result)) => {
                    self.state = State::Here(session);
                    result?;
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => self.state = State::Lost,
            }
        }
        if matches!(self.state, State::Lost) {
            return Err(ThreadError::Lost.into());
        }
        if self.queued.is_empty() {
            return Ok(());
        }
        let queued = std::mem::take(&mut self.queued);
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Here(mut session) if !session.is_handshaking() => {
                let result = session.read_ciphertext(&queued);
                self.state = State::Here(session);
                result
            }
            State::Here(session) => self.send_away(session, queued),
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    fn send_away(
        &mut self,
        mut session: Box<RustlsSession>,
        ciphertext: Vec<u8>,
    ) -> Result<(), TlsError> {
        let (sender, receiver) = channel();
        let waker = Arc::clone(&self.waker);
        let work = move || {
            let result = session.read_ciphertext(&ciphertext);
            // Nobody waits any more if the session was dropped.
            if sender.send((session, result)).is_ok() {
                waker();
            }
        };
        thread::Builder::new()
            .name("tls-handshake".to_owned())
            .spawn(work)
            .map_err(ThreadError::NoThread)?;
        self.state = State::Away(receiver);
        Ok(())
    }
}

impl TlsSession for ThreadedSession {
    fn read_ciphertext(&mut self, ciphertext: &[u8]) -> Result<(), TlsError> {
        if self.queued.len() + ciphertext.len() > MAX_QUEUED {
            return Err(ThreadError::Flood.into());
        }
        self.queued.extend_from_slice(ciphertext);
        self.poll()
    }

    fn take_ciphertext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.poll()?;
        match &mut self.state {
            State::Here(session) => session.take_ciphertext(out),
            State::Away(_) | State::Lost => Ok(()),
        }
    }

    fn write_plaintext(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.poll()?;
        match &mut self.state {
            State::Here(session) => session.write_plaintext(plaintext),
            State::Away(_) | State::Lost => Err(ThreadError::NotComplete.into()),
        }
    }

    fn read_plaintext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.poll()?;
        match &mut self.state {
            State::Here(session) => session.read_plaintext(out),
            State::Away(_) | State::Lost => Ok(()),
        }
    }

    fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Here(session) => session.is_handshaking(),
            State::Away(_) | State::Lost => true,
        }
    }

    fn export(&self, label: &str, out: &mut [u8]) -> Result<(), TlsError> {
        match &self.state {
            State::Here(session) => session.export(label, out),
            State::Away(_) | State::Lost => Err(ThreadError::NotComplete.into()),
        }
    }

    fn description(&self) -> String {
        match &self.state {
            State::Here(session) => session.description(),
            State::Away(_) | State::Lost => "TLS handshake not complete".to_owned(),
        }
    }

    fn parameters(&self) -> Option<TlsParameters> {
        match &self.state {
            State::Here(session) => session.parameters(),
            State::Away(_) | State::Lost => None,
        }
    }

    fn peer_certificate(&self) -> Option<PeerCertificate> {
        match &self.state {
            State::Here(session) => session.peer_certificate(),
            State::Away(_) | State::Lost => None,
        }
    }
}
