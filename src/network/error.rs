//! What can go wrong, in words a person can act on.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::dns::DnsError;
use super::helper::HelperError;

/// Options that make no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// Neither `ifconfig` nor `ifconfig-ipv6`.
    #[error(
        "the server pushed no address for the tunnel (no ifconfig, no ifconfig-ipv6); \
         check the server's address pool"
    )]
    NoAddress,
    /// `ifconfig ADDRESS NETMASK` whose second word is no netmask.
    #[error(
        "ifconfig {address} {netmask}: {netmask} is not a netmask, but topology is subnet; \
         server and profile disagree about the topology"
    )]
    Netmask {
        /// First word.
        address: Ipv4Addr,
        /// Second word.
        netmask: Ipv4Addr,
    },
    /// A prefix length out of range.
    #[error("ifconfig-ipv6 {address}/{prefix}: the prefix length must be at most 128")]
    Prefix {
        /// The address.
        address: std::net::Ipv6Addr,
        /// The prefix length.
        prefix: u8,
    },
}

/// Configuration of the host that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A netlink operation.
    #[error("cannot {operation}: {source}{}", hint(.source))]
    Netlink {
        /// What was tried, e.g. `add route 0.0.0.0/1 tunnel`.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A route that another program has already set to somewhere else.
    #[error(
        "cannot {operation}: there is such a route already, to somewhere else; \
         is another VPN connected that takes the default route?"
    )]
    RouteTaken {
        /// What was tried.
        operation: String,
    },
    /// Something that was made, but is not there afterwards however often it is made.
    #[error(
        "{what} does not stay: something else on this host removes it; is there a program that \
         manages routes it did not make (systemd-networkd: set ManageForeignRoutes=no)?"
    )]
    NotKept {
        /// The part, e.g. `route 0.0.0.0/1 tunnel`.
        what: String,
    },
    /// The undo journal cannot be kept. Nothing is changed without it.
    #[error("cannot {operation} {}: {source} (the undo journal must be writable; see --runtime-dir)", .path.display())]
    Journal {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else could write what is to be undone with this process's rights.
    #[error(
        "{} {reason}: what is undone after a crash is noted there, so nobody else may write to it; \
         correct its owner and mode, or choose another directory with --runtime-dir", .path.display()
    )]
    UnsafePath {
        /// The directory, or one on the way to it.
        path: PathBuf,
        /// Who could.
        reason: String,
    },
    /// The helper process could not do its part.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The tunnel's DNS cannot be taken back.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The network namespace cannot be entered.
    #[error("cannot enter network namespace {name} ({}): {source}{}", .path.display(), netns_hint(.source))]
    Namespace {
        /// As given.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name that no namespace can have.
    #[error(
        "network namespace name {0:?}: use the name that `ip netns list` shows, without slashes"
    )]
    NamespaceName(String),
}

impl NetworkError {
    pub(super) fn netlink(operation: impl Into<String>, source: io::Error) -> Self {
        Self::Netlink { operation: operation.into(), source }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            " (CAP_NET_ADMIN is needed: run as root, in a container with --cap-add NET_ADMIN, or use the \
             netcfg service)"
        }
        _ => "",
    }
}

fn netns_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "; `ip netns list` shows the ones there are",
        Some(libc::EPERM) => "; CAP_SYS_ADMIN is needed: run as root",
        _ => "",
    }
}
