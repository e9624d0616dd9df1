//! Why the tunnel's DNS is not in use on this host, or still is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::DnsUndo;
use crate::network::helper::HelperError;
use crate::network::netcfg::NetcfgError;

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Of all that could resolve names here nothing can be used: why each cannot.
    #[error("{}", listed(.0))]
    NoWay(Vec<Self>),
    /// systemd-resolved is not there for this tunnel, or says no.
    #[error("systemd-resolved: {0}")]
    Resolved(#[from] ResolvedError),
    /// The program `resolvconf` cannot be used.
    #[error("resolvconf: {0}")]
    Resolvconf(#[from] ResolvconfError),
    /// A program failed.
    #[error("{call}: {failure}")]
    Program {
        /// Path and arguments.
        call: String,
        /// How it ended.
        #[source]
        failure: ProgramFailure,
    },
    /// `resolv.conf` is not to be changed, or cannot be.
    #[error("{}: {error}{}", .path.display(), immutable(path, error))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: FileError,
    },
    /// There is no `resolv.conf` for the programs in this network namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Only systemd-resolved could do what the tunnel wants.
    #[error(transparent)]
    Plan(#[from] NeedsResolved),
    /// The netcfg service says no.
    #[error(transparent)]
    Netcfg(#[from] NetcfgError),
    /// The helper process says no.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// Whoever was asked did not answer.
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// It cannot be taken back.
    #[error("{what}: {error}")]
    StillSet {
        /// Where it is.
        what: String,
        /// Why.
        #[source]
        error: Box<Self>,
    },
}

impl DnsError {
    pub(super) fn file(path: impl Into<PathBuf>, error: FileError) -> Self {
        Self::File { path: path.into(), error }
    }

    pub(super) fn still_set(what: &DnsUndo, error: Self) -> Self {
        Self::StillSet { what: what.to_string(), error: Box::new(error) }
    }

    /// With another reason behind the reasons so far.
    pub(super) fn and(self, other: Self) -> Self {
        match self {
            Self::NoWay(mut reasons) => {
                reasons.push(other);
                Self::NoWay(reasons)
            }
            one => Self::NoWay(vec![one, other]),
        }
    }
}

/// What makes this of a file that even root may not change.
fn immutable(path: &Path, error: &FileError) -> String {
    match error {
        FileError::Io(error) if error.raw_os_error() == Some(libc::EPERM) => {
            format!(
                " (immutable? 'lsattr' shows it, 'chattr -i {}' lets it be written)",
                path.display()
            )
        }
        _ => String::new(),
    }
}

fn listed(reasons: &[DnsError]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What is wrong with systemd-resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// Neither `resolv.conf` nor the C library leads to it.
    #[error("programs on this host do not ask it")]
    NotAsked,
    /// The bus hangs.
    #[error("the system bus does not answer")]
    BusHangs,
    /// There is no bus.
    #[error("no system bus ({0})")]
    NoBus(#[source] zbus::Error),
    /// It was not started.
    #[error("it is not running")]
    NotRunning,
    /// It knows other interfaces.
    #[error("it runs in another network namespace")]
    OtherNamespace,
    /// It refused a call, or did not answer.
    #[error("{method}: {error}")]
    Call {
        /// Of which method.
        method: &'static str,
        /// What it says.
        #[source]
        error: zbus::Error,
    },
    /// An interface number beyond what D-Bus calls can say.
    #[error("the interface has number {0}, and it knows those below 2^31 only")]
    Index(u32),
}

/// What is wrong with the program `resolvconf`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResolvconfError {
    /// There is none.
    #[error("not installed")]
    NotInstalled,
    /// It is systemd's.
    #[error("it is a front end of systemd-resolved")]
    FrontEnd,
    /// Something else writes the file.
    #[error("it does not manage resolv.conf on this host")]
    NotTheManager,
    /// This process may not.
    #[error("only root may use it")]
    NotRoot,
}

/// How a program ended.
#[derive(Debug, thiserror::Error)]
pub enum ProgramFailure {
    /// It hangs.
    #[error("does not end")]
    Hangs,
    /// It did not start.
    #[error(transparent)]
    NotStarted(#[from] io::Error),
    /// With an error: its status, and what it said.
    #[error("{status} {said}")]
    Failed {
        /// Its exit status, or the signal that ended it.
        status: std::process::ExitStatus,
        /// The beginning of its standard error.
        said: String,
    },
}

/// What is wrong with a `resolv.conf`.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It has more than any resolver reads.
    #[error("too large")]
    TooLarge,
    /// It is a device, a directory, ...
    #[error("neither a file nor a link")]
    Kind,
    /// What stands in it is a systemd-resolved's that is somewhere else.
    #[error("it belongs to a systemd-resolved that cannot be reached from here")]
    OfResolved,
}

/// Why this network namespace has no `resolv.conf` of its own.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Nobody could find a directory for it.
    #[error(
        "this network namespace has no name under /run/netns, and the host's resolv.conf is not \
         for it"
    )]
    NoName,
    /// There is no directory for it.
    #[error(
        "programs of this network namespace share the host's resolv.conf; create {} to give them \
         their own", .0.display()
    )]
    NoDirectory(PathBuf),
}

/// What `resolv.conf` cannot say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NeedsResolved {
    /// Some names there, the others elsewhere.
    #[error(
        "without systemd-resolved this host cannot ask the tunnel's DNS servers for some names \
         only (split DNS, dns-scope tunnel)"
    )]
    Split,
    /// Encryption.
    #[error("DNS over TLS needs systemd-resolved")]
    OverTls,
    /// No server is on the usual port.
    #[error("no server is on port 53, and other ports need systemd-resolved")]
    Ports,
}
