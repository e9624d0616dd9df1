//! Who configures the network for this session: this process, or the netcfg service.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use ovpn_dco::Interface;
use socket2::Socket;

use super::bring_up::Failure;
use super::ending::{DataPathError, SetUpError};
use super::event::{ConfiguredNetwork, Outcome};
use super::tunnel::Tunnel;
use crate::network::{
    DirectNetwork, Gateways, NetcfgConfig, NetcfgNetwork, NetworkError, NetworkPlan, PlanError,
    PlanInput, RemotePath, RouteQuery, Step, Way,
};
use crate::profile::{DnsScope, NetworkOptions, Protocol};
use crate::transport::{Protect, TransportError};

/// Either way of configuring the network.
pub(super) enum Network {
    Direct(Box<DirectNetwork>),
    Netcfg(Box<NetcfgNetwork>),
}

/// What has become of a tunnel's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// It is as planned, as far as it can be.
    InPlace,
    /// Some of it could not be put back.
    Failed,
    /// The interface is gone.
    Gone,
}

/// What is to be configured.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) options: &'a NetworkOptions,
    /// Of the interface.
    pub(super) mtu: u16,
    pub(super) tx_queue_len: Option<u32>,
    pub(super) dns_scope: DnsScope,
    /// How the transport socket reaches the server.
    pub(super) query: &'a RouteQuery,
    /// What it sends there.
    pub(super) protocol: Protocol,
}

impl Network {
    /// `dns_service`: sets DNS where this process cannot.
    pub(super) async fn direct(
        runtime_dir: &Path,
        dns_service: Option<NetcfgConfig>,
    ) -> Result<Self, Outcome> {
        let direct = DirectNetwork::open(runtime_dir)
            .await
            .map_err(|e| Outcome::Privilege(SetUpError::from(e).into()))?;
        Ok(Self::Direct(Box::new(match dns_service {
            Some(service) => direct.with_dns_service(service),
            None => direct,
        })))
    }

    pub(super) fn netcfg(config: NetcfgConfig) -> Self {
        Self::Netcfg(Box::new(NetcfgNetwork::new(config)))
    }

    /// Before a connection attempt: a tunnel kept from the last connection may have been lost.
    /// Cancel safe.
    pub(super) async fn recheck(&mut self) {
        if let Self::Netcfg(netcfg) = self {
            netcfg.recheck().await;
        }
    }

    /// Before a connection attempt: the way to the server must not lead into a tunnel kept from
    /// the last connection.
    pub(super) async fn protect(&mut self, query: &RouteQuery) -> Result<(), TransportError> {
        match self {
            Self::Direct(direct) => {
                let failed = |e| not_protected(query.remote.to_string(), &e, false);
                direct.protect(query).await.map_err(failed)
            }
            // Takes the socket, see the protector.
            Self::Netcfg(_) => Ok(()),
        }
    }

    /// What each socket needs before it connects.
    pub(super) const fn protector(&self) -> Protector<'_> {
        match self {
            Self::Direct(_) => Protector::Nothing,
            Self::Netcfg(netcfg) => Protector::Netcfg(netcfg),
        }
    }

    /// A link that would outlive this process exists: a crash must not leave it.
    pub(super) async fn adopt(&mut self, interface: &Interface) -> Result<(), Failure> {
        match self {
            Self::Direct(direct) => direct.adopt_link(interface).await.map_err(failed),
            Self::Netcfg(_) => Ok(()),
        }
    }

    /// Configures the host for a tunnel whose device this process has made.
    pub(super) async fn configure(
        &mut self,
        tunnel: &Tunnel,
        wanted: Wanted<'_>,
    ) -> Result<(), Failure> {
        match self {
            Self::Direct(direct) => configure_directly(direct, tunnel, wanted).await,
            Self::Netcfg(_) => Err(DataPathError::NotNetcfg.into()),
        }
    }

    /// Puts back what has gone of a tunnel's configuration, and has it follow the way to the server.
    /// `None` for what is wanted: between connections. `moved`: the host's own network is not what it
    /// was at the last look.
    pub(super) async fn keep(&mut self, wanted: Option<Wanted<'_>>, moved: bool) -> Kept {
        let Self::Direct(direct) = self else { return Kept::InPlace };
        match keep_directly(direct, wanted, moved).await {
            Ok(Some(steps)) => {
                for step in steps {
                    tracing::info!("the network has changed: {step}");
                }
                Kept::InPlace
            }
            Ok(None) => Kept::Gone,
            Err(error) => {
                tracing::debug!("keeping the tunnel's configuration: {error}");
                Kept::Failed
            }
        }
    }

    /// What is configured now, as far as this process does it.
    pub(super) fn configured(&self) -> ConfiguredNetwork {
        match self {
            Self::Direct(direct) => ConfiguredNetwork::of(direct.planned()),
            Self::Netcfg(_) => ConfiguredNetwork::default(),
        }
    }

    /// Whether a tunnel's interface still exists, as far as that can be known.
    pub(super) async fn has_link(&self, interface: &Interface) -> bool {
        match self {
            Self::Direct(direct) => direct.has_link(interface).await.unwrap_or_else(|error| {
                tracing::debug!("{error}");
                true
            }),
            // The kernel keeps a device whose descriptor is open.
            Self::Netcfg(_) => true,
        }
    }

    /// Takes a tunnel away for another one, which follows at once; if it does not, [`Self::undo`] is
    /// next. Nothing leaves outside in between.
    pub(super) async fn replace(&mut self, tunnel: Tunnel) {
        if let Self::Direct(direct) = self {
            if let Err(e) = direct.leave_interface().await {
                tracing::error!("taking the tunnel's configuration back: {e}");
            }
            tunnel.close().await;
            if let Err(e) = direct.forget_link().await {
                tracing::error!("{e}");
            }
        } else {
            self.release(tunnel).await;
        }
    }

    /// Undoes what no tunnel is there for any more.
    pub(super) async fn undo(&mut self) {
        if let Self::Direct(direct) = self
            && let Err(e) = direct.undo().await
        {
            tracing::error!("undoing the network configuration: {e}");
        }
    }

    /// Releases a tunnel: removes it with everything that was configured for it.
    pub(super) async fn release(&mut self, tunnel: Tunnel) {
        match self {
            Self::Direct(direct) => {
                if let Err(e) = direct.undo().await {
                    tracing::error!("undoing the network configuration: {e}");
                }
                tunnel.close().await;
                if let Err(e) = direct.forget_link().await {
                    tracing::error!("{e}");
                }
            }
            Self::Netcfg(netcfg) => {
                // The kernel keeps a device whose descriptor is open.
                tunnel.close().await;
                if let Err(e) = netcfg.destroy().await {
                    tracing::error!("removing the device: {e}");
                }
            }
        }
    }

    /// The session is over: nothing may be left.
    pub(super) async fn close(&mut self) {
        match self {
            Self::Direct(direct) => {
                if let Err(e) = direct.undo().await {
                    tracing::error!("undoing the network configuration: {e}");
                }
            }
            Self::Netcfg(netcfg) => {
                if let Err(e) = netcfg.cleanup().await {
                    tracing::error!("cleaning up: {e}");
                }
            }
        }
    }
}

/// Configures the host for a tunnel whose interface exists.
async fn configure_directly(
    direct: &mut DirectNetwork,
    tunnel: &Tunnel,
    wanted: Wanted<'_>,
) -> Result<(), Failure> {
    let gateways = direct.lookup(wanted.query).await.map_err(failed)?;
    let plan = plan(wanted, &gateways).map_err(SetUpError::from)?;
    let applied = direct.apply(tunnel.interface(), &plan).await.map_err(failed)?;
    for warning in applied.warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

fn plan(wanted: Wanted<'_>, gateways: &Gateways) -> Result<NetworkPlan, PlanError> {
    NetworkPlan::build(&PlanInput {
        options: wanted.options,
        tun_mtu: wanted.mtu,
        tx_queue_len: wanted.tx_queue_len,
        remote: wanted.query.remote,
        protocol: wanted.protocol,
        gateways,
        dns_scope: wanted.dns_scope,
    })
}

/// `Ok(None)`: the interface is gone.
async fn keep_directly(
    direct: &mut DirectNetwork,
    wanted: Option<Wanted<'_>>,
    moved: bool,
) -> Result<Option<Vec<Step>>, NetworkError> {
    let plan = match wanted {
        Some(wanted) => {
            let gateways = direct.lookup(wanted.query).await?;
            // A plan that could be made once can be made again.
            plan(wanted, &gateways).ok().filter(|_| gateways.remote != RemotePath::Unreachable)
        }
        None => None,
    };
    let way = match &plan {
        None => Way::Gone,
        Some(plan) if moved => Way::New(plan),
        Some(plan) => Way::AsBefore(plan),
    };
    Ok(direct.keep(way, Instant::now()).await?.map(|kept| kept.steps))
}

/// What the kernel refuses it may have against this interface only.
fn failed(error: NetworkError) -> Failure {
    match error {
        NetworkError::Netlink { .. } => DataPathError::Network(error).into(),
        error => SetUpError::from(error).into(),
    }
}

fn not_protected(address: String, error: &impl ToString, lasting: bool) -> TransportError {
    TransportError::Protect { address, reason: error.to_string(), lasting }
}

/// Keeps sockets out of the tunnel, where that takes the socket.
pub(super) enum Protector<'a> {
    /// Routes do it.
    Nothing,
    /// The service does it.
    Netcfg(&'a NetcfgNetwork),
}

impl Protect for Protector<'_> {
    async fn protect(&self, socket: &Socket, remote: SocketAddr) -> Result<(), TransportError> {
        match self {
            Self::Nothing => Ok(()),
            Self::Netcfg(netcfg) => netcfg
                .protect(socket.as_fd(), remote.ip())
                .await
                .map_err(|e| not_protected(remote.to_string(), &e, e.is_lasting())),
        }
    }
}
