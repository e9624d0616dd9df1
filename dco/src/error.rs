//! What can go wrong with a data channel operation.

use crate::types::{KeyConfig, KeyId};

/// Why a data channel operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This implementation cannot do what the configuration asks; another may.
    #[error("{what} is not supported by {by}")]
    Unsupported {
        /// The feature, in the words of the OpenVPN manual.
        what: String,
        /// The implementation: `ovpn`, `ovpn-dco-v2` or `userspace`.
        by: &'static str,
    },
    /// No module offers the generic netlink family.
    #[error("no kernel module offers the generic netlink family {family}")]
    NoSuchFamily {
        /// The family that was looked up.
        family: &'static str,
    },
    /// The peer does not exist (any more).
    #[error("no such peer")]
    NoSuchPeer,
    /// The peer has no key of this id.
    #[error("there is no key {0}")]
    NoSuchKey(KeyId),
    /// The process lacks a privilege.
    #[error("{operation} needs {needs}")]
    NotPermitted {
        /// What was tried.
        operation: &'static str,
        /// What is missing, e.g. `CAP_NET_ADMIN in the initial user namespace`.
        needs: &'static str,
    },
    /// The kernel refused a request.
    #[error("{operation}: {}{}", std::io::Error::from_raw_os_error(*errno),
        message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Kernel {
        /// The command, e.g. `PEER_NEW`.
        operation: &'static str,
        /// Positive errno.
        errno: i32,
        /// The extended acknowledgement's text, where the kernel gave one.
        message: Option<String>,
    },
    /// A system call or the netlink socket failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A message from the kernel does not make sense.
    #[error("malformed {what}")]
    Malformed {
        /// The message or attribute.
        what: String,
    },
    /// The worker that serves this channel has ended.
    #[error("the data channel has ended")]
    Closed,
}

/// A key was not installed, or may not have been.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotInstalled {
    /// Why.
    #[source]
    pub error: Error,
    /// The key, where it is certain that it sealed nothing and never will. Another data channel
    /// may have it then; otherwise nobody ever again (see [`KeyConfig`]).
    pub key: Option<Box<KeyConfig>>,
}

impl NotInstalled {
    /// The error decides whether there is still a key to give back: not if it can have come after
    /// the key was taken.
    pub fn new(error: Error, key: KeyConfig) -> Self {
        let key = error.is_refusal().then(|| Box::new(key));
        Self { error, key }
    }
}

impl From<Error> for NotInstalled {
    fn from(error: Error) -> Self {
        Self { error, key: None }
    }
}

impl From<NotInstalled> for Error {
    fn from(not_installed: NotInstalled) -> Self {
        not_installed.error
    }
}

impl Error {
    /// Whether it says for certain that nothing was done.
    const fn is_refusal(&self) -> bool {
        match self {
            Self::Unsupported { .. }
            | Self::NoSuchFamily { .. }
            | Self::NoSuchPeer
            | Self::NoSuchKey(_)
            | Self::NotPermitted { .. }
            | Self::Kernel { .. } => true,
            Self::Io { .. } | Self::Malformed { .. } | Self::Closed => false,
        }
    }

    /// Wraps an I/O error with what was tried.
    pub fn io(operation: &'static str, source: std::io::Error) -> Self {
        Self::Io { operation, source }
    }
}
