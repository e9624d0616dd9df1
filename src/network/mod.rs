//! Network configuration: addresses, routes and DNS of the tunnel as a pure plan that is diffed,
//! journalled, applied and undone.
//!
//! ```text
//! NetworkOptions --\
//! MTU, MSS --------+--> NetworkPlan::build --> diff(applied, plan) --> steps
//! Gateways --------/                                                     |
//!    ^                                        journal, then netlink or DNS, one step at a time
//!    +-- DirectNetwork::lookup (how the host reaches the server without the tunnel)
//! ```
//!
//! - [`DirectNetwork`] configures the host itself, over rtnetlink and its resolver's interface.
//! - [`NetcfgNetwork`] leaves it to the service `net.openvpn.v3.netcfg`.
//!
//! The tunnel's interface itself is made elsewhere (data plane); this module only configures it.
//! It never decides what to push or accept: the options it is given are complete and filtered.

mod boot;
mod clean_up;
mod direct;
pub mod dns;
mod error;
mod fib;
pub mod helper;
mod journal;
mod namespace;
mod netcfg;
mod netlink;
mod plan;
mod types;
mod uplink;
mod watch;
#[cfg(feature = "internals")]
mod way_by;

pub use self::clean_up::{CleanUp, Leftovers, Refused, StillThere, Undone, clean_up};
pub use self::direct::{Applied, DirectNetwork, Kept, Way, open_tun};
pub use self::error::{NetworkError, PlanError};
#[cfg(feature = "cli")]
pub(crate) use self::journal::directory::Directory as RuntimeDirectory;
#[cfg(feature = "internals")]
pub use self::journal::parse_journal;
pub use self::namespace::enter_netns;
pub use self::netcfg::{Established, NetcfgConfig, NetcfgError, NetcfgNetwork, NetcfgPlan};
pub(crate) use self::plan::IPV6_MIN_MTU;
pub use self::plan::{
    Item, LinkSettings, NetworkPlan, PlanInput, PlannedRoute, RouteTarget, Step, TunnelAddress,
    diff,
};
pub use self::types::{Gateways, Network, Path, RemotePath, RouteQuery};
pub use self::uplink::device_towards;
pub use self::watch::{NetworkWatch, News, Outlook, Outside, Response, Roaming, respond};
#[cfg(feature = "internals")]
pub use self::way_by::way_by;
