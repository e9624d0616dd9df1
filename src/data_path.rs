//! Kernel offload or userspace: one pure decision, with its reasons.
//!
//! Asked twice per connection: before connecting, when profile, front end and machine are known
//! (the answer shapes what is offered to the server), and again after the push reply, when peer-id
//! and compression framing are. It never touches the machine: [`ovpn_dco::kernel::probe`] does.
//!
//! Not using the kernel is never an error. Every reason has a stable identifier for programs and a
//! sentence for people, and all that apply are given, not only the first.

use std::fmt;

use ovpn_dco::kernel::{Api, Report, Status};
use ovpn_dco::{DataFormat, Framing, PeerId};
use serde::Serialize;

use crate::profile::{Options, ProxyKind, Remote, SessionOptions};

/// All that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The front end wants kernel offload if possible (`dco` override, on by default).
    pub wanted: bool,
    /// The profile.
    pub options: &'a Options,
    /// The server to be connected to; `None` where a profile is only checked.
    pub remote: Option<&'a Remote>,
    /// What was negotiated; `None` before the push reply.
    pub session: Option<&'a SessionOptions>,
    /// What the machine offers to this process.
    pub kernel: &'a Report,
    /// The netcfg service makes the device, and not this process.
    pub netcfg: bool,
    /// The kernel refused or lost the data channel of this session: what it said.
    pub kernel_failure: Option<&'a str>,
}

/// What carries a connection's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataPath {
    /// The kernel, through this interface.
    Kernel(Api),
    /// This process.
    Userspace,
}

impl DataPath {
    /// `ovpn`, `ovpn-dco-v2` or `userspace`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel(api) => api.name(),
            Self::Userspace => "userspace",
        }
    }

    /// Kernel offload.
    pub const fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel(_))
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the data channel goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Into the kernel, through this interface.
    Kernel(Api),
    /// Through this process.
    Userspace {
        /// Why not the kernel; at least one.
        reasons: Vec<Reason>,
    },
}

impl Decision {
    /// Without the reasons.
    pub const fn path(&self) -> DataPath {
        match self {
            Self::Kernel(api) => DataPath::Kernel(*api),
            Self::Userspace { .. } => DataPath::Userspace,
        }
    }

    /// Why not the kernel; nothing if it is.
    pub fn into_reasons(self) -> Vec<Reason> {
        match self {
            Self::Kernel(_) => Vec::new(),
            Self::Userspace { reasons } => reasons,
        }
    }

    /// The reasons in one line, where there are any.
    pub fn why_not_kernel(&self) -> Option<String> {
        match self {
            Self::Kernel(_) => None,
            Self::Userspace { reasons } => {
                Some(reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// Why the kernel cannot or may not serve a connection. Serialises as
/// `{"id": "no-module", "detail": ...}`; the identifiers are stable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "id", content = "detail", rename_all = "kebab-case")]
pub enum Reason {
    /// The front end switched it off.
    SwitchedOff,
    /// The profile has `disable-dco`.
    DisableDco,
    /// The profile has a directive that no kernel module can do.
    Directive(String),
    /// This server is reached through an HTTP proxy, in a connection that the kernel cannot know.
    HttpProxy,
    /// The same through a SOCKS proxy.
    SocksProxy,
    /// `bind-dev`: the kernel sends data packets wherever their route leads, not through the
    /// device the socket is bound to.
    BindDev,
    /// The data cipher is not authenticated by itself (AEAD): the only one that the profile allows, or
    /// the one that the server chose.
    Cipher(&'static str),
    /// The server uses epoch keys.
    EpochKeys,
    /// The server wants data packets marked for compression.
    CompressionFraming,
    /// The server pushed no peer-id (it uses DATA_V1 packets), or the one that names nobody.
    NoPeerId,
    /// No kernel module offers either interface.
    NoModule {
        /// The kernel release.
        kernel: String,
    },
    /// A module is there, but not for this process.
    NotPermitted {
        /// Which interface.
        api: &'static str,
    },
    /// A module is there, but does not answer as it should.
    Unusable {
        /// Which interface.
        api: &'static str,
        /// What happened.
        error: String,
    },
    /// The netcfg service makes the device, and it knows no kernel interface that this process does.
    Netcfg,
    /// It was tried in this session, and the kernel refused or lost it.
    KernelFailure(String),
}

impl Reason {
    /// The identifier for programs, as it is serialised.
    pub const fn id(&self) -> &'static str {
        match self {
            Self::SwitchedOff => "switched-off",
            Self::DisableDco => "disable-dco",
            Self::Directive(_) => "directive",
            Self::HttpProxy => "http-proxy",
            Self::SocksProxy => "socks-proxy",
            Self::BindDev => "bind-dev",
            Self::Cipher(_) => "cipher",
            Self::EpochKeys => "epoch-keys",
            Self::CompressionFraming => "compression-framing",
            Self::NoPeerId => "no-peer-id",
            Self::NoModule { .. } => "no-module",
            Self::NotPermitted { .. } => "not-permitted",
            Self::Unusable { .. } => "unusable",
            Self::Netcfg => "netcfg",
            Self::KernelFailure(_) => "kernel-failure",
        }
    }

    /// Something about the machine rather than about the profile or the server.
    pub fn is_about_machine(&self) -> bool {
        matches!(
            self,
            Self::NoModule { .. }
                | Self::NotPermitted { .. }
                | Self::Unusable { .. }
                | Self::KernelFailure(_)
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwitchedOff => f.write_str("kernel offload is switched off (dco)"),
            Self::DisableDco => f.write_str("the profile has disable-dco"),
            Self::Directive(name) => {
                write!(f, "the kernel cannot do what the profile's {name} asks")
            }
            Self::HttpProxy => f.write_str("the kernel cannot use an HTTP proxy's connection"),
            Self::SocksProxy => f.write_str("the kernel cannot use a SOCKS proxy's connection"),
            Self::BindDev => f.write_str("the kernel ignores bind-dev for data packets"),
            Self::Cipher(name) => {
                write!(
                    f,
                    "the kernel has no {name}; AES-256-GCM, set on the server, would be faster"
                )
            }
            Self::EpochKeys => f.write_str("the kernel has no epoch keys, which the server uses"),
            Self::CompressionFraming => {
                f.write_str("the kernel cannot mark packets for compression as the server wants")
            }
            Self::NoPeerId => {
                f.write_str("the server pushed no usable peer-id, and the kernel cannot do without")
            }
            Self::NoModule { kernel } => write!(
                f,
                "kernel {kernel} has neither the module ovpn (Linux 6.16 and newer) nor ovpn-dco-v2"
            ),
            Self::NotPermitted { api } => {
                write!(f, "the module {api} needs CAP_NET_ADMIN in the initial user namespace")
            }
            Self::Unusable { api, error } => write!(f, "the module {api} does not work: {error}"),
            Self::Netcfg => f.write_str(
                "the netcfg service configures the network; kernel offload needs CAP_NET_ADMIN in \
                 this process",
            ),
            Self::KernelFailure(error) => write!(f, "the kernel gave up: {error}"),
        }
    }
}

/// Decides. Pure.
pub fn decide(inputs: &Inputs<'_>) -> Decision {
    let mut reasons = Vec::new();
    if !inputs.wanted {
        reasons.push(Reason::SwitchedOff);
    }
    profile_reasons(inputs, &mut reasons);
    if let Some(session) = inputs.session {
        if session.peer_id.is_none_or(|id| id == PeerId::UNDEFINED) {
            reasons.push(Reason::NoPeerId);
        }
        match session.cipher.format() {
            DataFormat::Aead | DataFormat::Epoch => {}
            DataFormat::Cbc(_) => reasons.push(Reason::Cipher(session.cipher.name())),
        }
        if session.framing != Framing::None {
            reasons.push(Reason::CompressionFraming);
        }
    }
    if inputs.netcfg {
        reasons.push(Reason::Netcfg);
    }
    if let Some(error) = inputs.kernel_failure {
        reasons.push(Reason::KernelFailure(error.to_owned()));
    }
    // They were offered because something else stood against the kernel. Where that still does, it is the
    // reason.
    let epochs = inputs.session.is_some_and(|s| s.cipher.format() == DataFormat::Epoch);
    match decide_for_machine(inputs.kernel) {
        Decision::Kernel(_) if reasons.is_empty() && epochs => {
            Decision::Userspace { reasons: vec![Reason::EpochKeys] }
        }
        Decision::Kernel(api) if reasons.is_empty() => Decision::Kernel(api),
        Decision::Kernel(_) => Decision::Userspace { reasons },
        Decision::Userspace { reasons: machine } => {
            reasons.extend(machine);
            Decision::Userspace { reasons }
        }
    }
}

/// What the machine alone allows, whatever profile and server want.
pub fn decide_for_machine(kernel: &Report) -> Decision {
    match kernel.ready() {
        Some(api) => Decision::Kernel(api),
        None => Decision::Userspace { reasons: machine_reasons(kernel) },
    }
}

fn profile_reasons(inputs: &Inputs<'_>, reasons: &mut Vec<Reason>) {
    let data = &inputs.options.data;
    if data.disable_dco {
        reasons.push(Reason::DisableDco);
    }
    if inputs.options.device.bind_dev.is_some() {
        reasons.push(Reason::BindDev);
    }
    let mut ciphers = data.ciphers.iter().chain(&data.fallback);
    if let (None, Some(cipher)) = (inputs.session, data.ciphers.first())
        && !ciphers.any(|cipher| cipher.is_aead())
    {
        reasons.push(Reason::Cipher(cipher.name()));
    }
    // A proxy concerns the remote that is reached through it; without one in sight, all of them.
    let remotes = match inputs.remote {
        Some(remote) => std::slice::from_ref(remote),
        None => &inputs.options.remotes,
    };
    let direct = remotes.iter().any(|remote| remote.proxy.is_none());
    if let Some(proxy) = remotes.iter().find_map(|remote| remote.proxy.as_ref())
        && !direct
    {
        reasons.push(match proxy.kind {
            ProxyKind::Http(_) => Reason::HttpProxy,
            ProxyKind::Socks5 => Reason::SocksProxy,
        });
    }
    let said_above = ["disable-dco", "bind-dev", "http-proxy", "socks-proxy"];
    let others = data.dco_incompatible.iter().filter(|name| !said_above.contains(&name.as_str()));
    reasons.extend(others.cloned().map(Reason::Directive));
}

/// Why no interface is ready: what is wrong with those that are there, or that none is.
fn machine_reasons(kernel: &Report) -> Vec<Reason> {
    let there: Vec<_> = kernel
        .apis
        .iter()
        .filter_map(|report| match &report.status {
            Status::NotPermitted => Some(Reason::NotPermitted { api: report.api.name() }),
            Status::Failed(error) => {
                Some(Reason::Unusable { api: report.api.name(), error: error.clone() })
            }
            Status::Ready(_) | Status::NoModule => None,
        })
        .collect();
    if there.is_empty() { vec![Reason::NoModule { kernel: kernel.kernel.clone() }] } else { there }
}

#[cfg(test)]
#[path = "data_path_tests.rs"]
mod tests;
