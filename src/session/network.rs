//! Who configures the network for this session: this process, or the netcfg service.

use std::net::SocketAddr;
use std::path::Path;

use ovpn_dco::Interface;
use socket2::Socket;

use super::event::Outcome;
use super::reconnect::Ending;
use crate::network::{DirectNetwork, NetworkError, NetworkPlan, PlanInput, RouteQuery};
use crate::transport::{Protect, TransportError};

/// Either way of configuring the network.
pub(super) enum Network {
    Direct(DirectNetwork),
}

impl Network {
    pub(super) async fn direct(runtime_dir: &Path) -> Result<Self, Outcome> {
        DirectNetwork::open(runtime_dir)
            .await
            .map(Self::Direct)
            .map_err(|e| Outcome::Privilege { message: e.to_string() })
    }

    /// Before a connection attempt: the way to the server must not lead into a tunnel kept from
    /// the last connection.
    pub(super) async fn protect(&mut self, query: &RouteQuery) -> Result<(), TransportError> {
        match self {
            Self::Direct(direct) => direct.protect(query).await.map_err(|e| {
                TransportError::Protect { address: query.remote.to_string(), reason: e.to_string() }
            }),
        }
    }

    /// What each socket needs before it connects.
    pub(super) const fn protector(&self) -> Protector {
        match self {
            Self::Direct(_) => Protector::Nothing,
        }
    }

    /// Makes the host's configuration what `input` says, on `interface`.
    pub(super) async fn apply(
        &mut self,
        interface: &Interface,
        query: &RouteQuery,
        input: impl FnOnce(&crate::network::Gateways) -> PlanResult,
    ) -> Result<(), Ending> {
        match self {
            Self::Direct(direct) => {
                let gateways = direct.lookup(query).await.map_err(failed)?;
                let plan = input(&gateways).map_err(|e| Ending::Unusable(e.to_string()))?;
                let applied = direct.apply(interface, &plan).await.map_err(failed)?;
                for warning in applied.warnings {
                    tracing::warn!("{warning}");
                }
                Ok(())
            }
        }
    }

    /// Takes everything back.
    pub(super) async fn undo(&mut self) {
        match self {
            Self::Direct(direct) => {
                if let Err(e) = direct.undo().await {
                    tracing::error!("undoing the network configuration: {e}");
                }
            }
        }
    }
}

/// What a plan builder returns.
pub(super) type PlanResult = Result<NetworkPlan, crate::network::PlanError>;

/// Builds the plan for [`Network::apply`].
pub(super) fn plan(input: &PlanInput<'_>) -> PlanResult {
    NetworkPlan::build(input)
}

fn failed(error: NetworkError) -> Ending {
    match &error {
        NetworkError::Netlink { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Ending::Privilege(error.to_string())
        }
        _ => Ending::Unusable(error.to_string()),
    }
}

/// Keeps sockets out of the tunnel, where that takes the socket.
pub(super) enum Protector {
    /// Routes do it.
    Nothing,
}

impl Protect for Protector {
    async fn protect(&self, _socket: &Socket, _remote: SocketAddr) -> Result<(), TransportError> {
        match self {
            Self::Nothing => Ok(()),
        }
    }
}
