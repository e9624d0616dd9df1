//! The tunnel's DNS: what is wanted ([`DnsPlan`]), and giving it to whatever resolves names on this
//! host ([`HostResolver`]).
//!
//! Backends in the order in which they are tried, each only when this host's programs really
//! resolve through it (decided by `/etc/resolv.conf`, which they all read):
//!
//! 1. systemd-resolved over D-Bus: per interface, split DNS, DNSSEC, DNS over TLS.
//! 2. `resolvconf` (Debian's or openresolv).
//! 3. `/etc/resolv.conf` itself, where the tunnels of this host lie in layers on what others wrote.
//! 4. The netcfg service of OpenVPN 3 Linux, for a backend that may do none of these
//!    (`Resolver::set_service`).
//!
//! What others change meanwhile does not put the tunnel's DNS out of use: a restarted
//! systemd-resolved is told again, a rewritten file is taken as what lies below; and all of it is set
//! again with every connection (`Resolver::renew`).
//!
//! A tunnel works without DNS: nothing here is ever a reason to end it.

mod error;
mod file;
mod kept;
mod netcfg_file;
mod plan;
mod resolvconf;
mod resolved;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ovpn_dco::Interface;
use serde::{Deserialize, Serialize};

pub use self::error::{
    DnsError, FileError, NamespaceError, NeedsResolved, ProgramFailure, ResolvconfError,
    ResolvedError,
};
pub(super) use self::kept::Resolver;
pub use self::plan::{DnsPlan, NameServer};
use super::namespace::{netns_name, shares_netns};
use super::netcfg::{self, DnsDevice};
pub use crate::profile::DnsScope;
use crate::profile::DomainName;

/// This host's resolver: where its parts are. [`Default`] is right everywhere but in tests.
#[derive(Clone, Debug)]
pub struct HostResolver {
    /// Address of the bus that systemd-resolved and the netcfg service are on; `None`: the system
    /// bus.
    pub bus: Option<String>,
    /// Where to look for the program `resolvconf`.
    pub program_directories: Vec<PathBuf>,
    /// `resolv.conf` of the host.
    pub resolv_conf: PathBuf,
    /// Where a named network namespace has a directory with its own `resolv.conf`, which is used
    /// instead there.
    pub namespaces: PathBuf,
}

impl Default for HostResolver {
    fn default() -> Self {
        Self {
            bus: None,
            program_directories: ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"]
                .map(PathBuf::from)
                .to_vec(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            namespaces: PathBuf::from("/etc/netns"),
        }
    }
}

/// How to take the tunnel's DNS back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DnsUndo {
    /// `RevertLink`
    Resolved { index: u32 },
    /// `resolvconf -d RECORD`. The program is found anew: what is written down is never executed.
    Resolvconf { record: String },
    /// Take the layer away.
    File { path: PathBuf, layer: file::LayerId },
    /// Have the netcfg service destroy the device that it has set the DNS with.
    Netcfg { device: String },
}

/// Where the tunnel's DNS is.
impl fmt::Display for DnsUndo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved { .. } => f.write_str("DNS (systemd-resolved)"),
            Self::Resolvconf { .. } => f.write_str("DNS (resolvconf)"),
            Self::File { .. } => f.write_str("DNS (resolv.conf)"),
            Self::Netcfg { .. } => f.write_str("DNS (netcfg service)"),
        }
    }
}

/// A change that is ready to be made.
#[derive(Debug)]
pub(super) struct Prepared {
    pub undo: DnsUndo,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Resolved(resolved::Resolved),
    Resolvconf(resolvconf::Input),
    File(file::Placed),
    Netcfg(Box<DnsDevice>),
    /// The helper process has it ready.
    Helper,
}

impl Prepared {
    /// Names the backend.
    pub(super) fn backend(&self) -> &'static str {
        match self.undo {
            DnsUndo::Resolved { .. } => "systemd-resolved",
            DnsUndo::Resolvconf { .. } => "resolvconf",
            DnsUndo::File { .. } => "resolv.conf",
            DnsUndo::Netcfg { .. } => "the netcfg service",
        }
    }
}

impl HostResolver {
    /// Chooses the backend and finds out how to undo it. Changes nothing. `Err`: why the tunnel's
    /// DNS cannot be used on this host.
    async fn prepare(
        &self,
        plan: &DnsPlan,
        interface: &Interface,
        notes: &mut Vec<String>,
    ) -> Result<Prepared, DnsError> {
        let resolv_conf = self.visible_resolv_conf()?;
        let present = file::Present::read(&resolv_conf)
            .map_err(|error| DnsError::file(&resolv_conf, error))?;
        let mut reasons = Vec::new();
        match self.try_resolved(&present).await {
            Ok(service) => {
                return Ok(Prepared {
                    undo: DnsUndo::Resolved { index: interface.index },
                    change: Change::Resolved(service),
                });
            }
            Err(error) => reasons.push(error.into()),
        }
        let plain = plain_plan(plan, notes)?;
        match resolvconf::find(&self.program_directories, &present) {
            Ok(program) => {
                let input = resolvconf::Input::new(program, &plain, &interface.name);
                return Ok(Prepared { undo: input.undo(), change: Change::Resolvconf(input) });
            }
            Err(error) => reasons.push(error.into()),
        }
        match file::Placed::new(&resolv_conf, &present, plain) {
            Ok(placed) => {
                let undo = DnsUndo::File { path: resolv_conf, layer: placed.id() };
                Ok(Prepared { undo, change: Change::File(placed) })
            }
            Err(error) => {
                reasons.push(DnsError::file(resolv_conf, error));
                Err(DnsError::NoWay(reasons))
            }
        }
    }

    async fn try_resolved(
        &self,
        present: &file::Present,
    ) -> Result<resolved::Resolved, ResolvedError> {
        if !present.is_of_resolved() && !uses_nss_resolve() {
            return Err(ResolvedError::NotAsked);
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<resolved::Resolved, ResolvedError> {
        resolved::Resolved::connect(self.bus.as_deref()).await
    }

    /// Takes a change back. What somebody else has changed since is left alone.
    async fn revert(&self, undo: &DnsUndo) -> Result<(), DnsError> {
        match undo {
            DnsUndo::Resolved { index } => {
                match self.connect().await {
                    Ok(service) => Ok(service.revert(*index).await?),
                    // A service that has gone has forgotten the link, too.
                    Err(_) => Ok(()),
                }
            }
            DnsUndo::Resolvconf { record } => {
                resolvconf::remove(&self.program_directories, record).await
            }
            DnsUndo::File { path, layer } => file::take_away(path, *layer),
            DnsUndo::Netcfg { device } => {
                Ok(DnsDevice::destroy(self.bus.as_deref(), device).await?)
            }
        }
    }

    /// Whether a netcfg service that has gone has left `resolv.conf` as a tunnel needed it.
    pub(super) async fn is_left_by_service(&self) -> bool {
        self.visible_resolv_conf().is_ok_and(|path| netcfg_file::is_for_tunnel(&path))
            && !netcfg::is_running(self.bus.as_deref()).await
    }

    /// Makes a `resolv.conf` that was left so the host's own again; true if it was.
    pub(super) async fn put_right_after_service(&self) -> Result<bool, (PathBuf, io::Error)> {
        let Ok(path) = self.visible_resolv_conf() else { return Ok(false) };
        if !self.is_left_by_service().await {
            return Ok(false);
        }
        netcfg_file::put_right(&path).map_err(|error| (path, error))
    }

    /// Restores a `resolv.conf` that was left rewritten when the machine went down.
    pub(super) fn restore_after_reboot(&self) -> Result<bool, DnsError> {
        file::restore_after_reboot(&self.visible_resolv_conf()?)
    }

    /// Whether [`Self::restore_after_reboot`] would do something.
    pub(super) fn is_from_before_boot(&self) -> bool {
        self.visible_resolv_conf().is_ok_and(|path| {
            file::Present::read(&path).is_ok_and(|present| present.is_left_over())
        })
    }

    /// The `resolv.conf` of the programs in this network namespace.
    ///
    /// A process that has only changed its network namespace (`--netns`, `nsenter -n`) still sees
    /// the host's file, which must not learn of this namespace's servers. What such a namespace's
    /// programs see (`ip netns exec`) is `/etc/netns/NAME/resolv.conf`.
    fn visible_resolv_conf(&self) -> Result<PathBuf, NamespaceError> {
        const INIT: u32 = 1;
        let elsewhere = shares_netns(INIT) == Some(false);
        if !elsewhere || is_mount_point(&self.resolv_conf) {
            return Ok(self.resolv_conf.clone());
        }
        let name = netns_name().ok_or(NamespaceError::NoName)?;
        let directory = self.namespaces.join(name);
        if !directory.is_dir() {
            return Err(NamespaceError::NoDirectory(directory));
        }
        Ok(directory.join("resolv.conf"))
    }
}

/// Whether something is mounted on just this file.
fn is_mount_point(path: &Path) -> bool {
    // Fields: id, parent, device, root, mount point, ...; see proc_pid_mountinfo(5).
    fs::read_to_string("/proc/thread-self/mountinfo").is_ok_and(|mounts| {
        mounts.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
    })
}

/// Whether the C library asks systemd-resolved directly (`hosts: resolve` in nsswitch.conf).
fn uses_nss_resolve() -> bool {
    fs::read_to_string("/etc/nsswitch.conf").is_ok_and(|text| {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("hosts:"))
            .any(|services| services.split_whitespace().any(|service| service == "resolve"))
    })
}

/// For fuzzing: `resolv.conf` at `path` with a tunnel's layer, which is then taken away again.
///
/// # Errors
///
/// Why the file is not to be touched.
#[cfg(feature = "internals")]
pub fn with_layer(
    path: &Path,
    servers: Vec<std::net::IpAddr>,
    search: Vec<DomainName>,
) -> Result<Vec<u8>, DnsError> {
    let fail = |error| DnsError::file(path, error);
    let present = file::Present::read(path).map_err(fail)?;
    let plan = PlainPlan { servers, search };
    let placed = file::Placed::new(path, &present, plan).map_err(fail)?;
    placed.place()?;
    let text = fs::read(path).map_err(|error| fail(error.into()));
    file::take_away(path, placed.id())?;
    text
}

/// What `resolv.conf` can say of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct PlainPlan {
    servers: Vec<std::net::IpAddr>,
    search: Vec<DomainName>,
}

impl PlainPlan {
    fn lines(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.search.is_empty() {
            let search: Vec<_> = self.search.iter().map(DomainName::as_str).collect();
            text.push_str(&format!("search {}\n", search.join(" ")));
        }
        text
    }
}

fn plain_plan(plan: &DnsPlan, notes: &mut Vec<String>) -> Result<PlainPlan, NeedsResolved> {
    if plan.scope == DnsScope::Tunnel && !plan.servers.is_empty() {
        return Err(NeedsResolved::Split);
    }
    if plan.over_tls {
        return Err(NeedsResolved::OverTls);
    }
    let (usable, other): (Vec<_>, Vec<_>) =
        plan.servers.iter().partition(|server| matches!(server.port, 0 | 53));
    for server in &other {
        notes.push(format!(
            "dns server {} port {}: left out, ports other than 53 need systemd-resolved",
            server.address, server.port
        ));
    }
    if usable.is_empty() && !plan.servers.is_empty() {
        return Err(NeedsResolved::Ports);
    }
    if plan.dnssec.is_some() {
        notes.push("dnssec: ignored, it needs systemd-resolved".to_owned());
    }
    Ok(PlainPlan {
        servers: usable.iter().map(|server| server.address).collect(),
        search: plan.search_domains.clone(),
    })
}
