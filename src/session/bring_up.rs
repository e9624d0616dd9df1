//! From a push reply to a working tunnel: data path, interface, network configuration, peer; in
//! userspace where the kernel refuses any of it.

use std::time::Duration;

use ovpn_dco::kernel::{Api, KernelDataChannel, LinkName};
use ovpn_dco::{DataChannel, Error as DataError, Keepalive, PeerConfig};
use ovpn_userspace::{Extras, MssClamp, TunDevice, TunOptions, UserspaceDataChannel};

use super::SessionConfig;
use super::ending::{DataPathError, Ending, Loss, SetUpError};
use super::link::Link;
use super::mtu::{Outer, device_mtu, link_mtu, mss_clamp};
use super::network::{Network, Wanted};
use super::plane::DataPlane;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::data_path::{self, Decision, Inputs};
use crate::network::{NetcfgNetwork, NetcfgPlan, RouteQuery, open_tun};
use crate::profile::{Remote, SessionOptions};

/// How long a TCP stream may take to come to a packet boundary for the kernel.
const HANDOVER_LIMIT: Duration = Duration::from_secs(5);

/// Why a tunnel could not be set up.
#[derive(Debug)]
pub(super) enum Failure {
    /// This data path could not; another one may.
    DataPath(DataPathError),
    /// No data path will help.
    Ending(Ending),
}

/// A tunnel that could not be made what was pushed.
#[derive(Debug)]
pub(super) struct Unmade {
    pub(super) failure: Failure,
    /// What there is of it.
    pub(super) left: Option<Tunnel>,
}

impl<T: Into<Failure>> From<T> for Unmade {
    fn from(failure: T) -> Self {
        Self { failure: failure.into(), left: None }
    }
}

impl From<DataPathError> for Failure {
    fn from(error: DataPathError) -> Self {
        Self::DataPath(error)
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::DataPath(error.into())
    }
}

impl From<Ending> for Failure {
    fn from(ending: Ending) -> Self {
        Self::Ending(ending)
    }
}

impl From<Loss> for Failure {
    fn from(loss: Loss) -> Self {
        Self::Ending(loss.into())
    }
}

impl From<SetUpError> for Failure {
    fn from(error: SetUpError) -> Self {
        Self::Ending(error.into())
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::DataPath(error) => error.into(),
            Failure::Ending(ending) => ending,
        }
    }
}

impl Shared {
    /// Makes a tunnel of what was pushed. One kept from the last connection is used again where it
    /// fits. A kernel that refuses costs speed only.
    pub(super) async fn bring_up(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        kept: Option<Tunnel>,
    ) -> Result<Tunnel, Unmade> {
        link.look_at_path(&options.network);
        let mut kept = self.without_dead(kept).await;
        let mut decision = self.decide(&link.remote, Some(options));
        if let Decision::Kernel(api) = decision {
            match self.with_kernel(link, options, kept.take(), api).await {
                Err(Unmade { failure: Failure::DataPath(why), left }) => {
                    self.kernel_failed(link, left, &why).await;
                    decision = self.decide(&link.remote, Some(options));
                }
                made => return self.settle(made).await,
            }
        }
        let made = self.with_userspace(link, options, kept, decision).await;
        self.settle(made).await
    }

    /// Undoes what is left of a tunnel that was to be replaced and was not.
    pub(super) async fn settle(&mut self, made: Result<Tunnel, Unmade>) -> Result<Tunnel, Unmade> {
        if let Err(Unmade { left: None, .. }) = made {
            self.undo_unused().await;
        }
        made
    }

    /// Kernel or userspace, as far as it can be told now.
    pub(super) fn decide(&self, remote: &Remote, session: Option<&SessionOptions>) -> Decision {
        data_path::decide(&Inputs {
            wanted: self.config.dco,
            options: &self.config.options,
            remote: Some(remote),
            session,
            kernel: self.offload.report(),
            netcfg: matches!(self.network, Network::Netcfg(_)),
            kernel_failure: self.offload.failure(),
        })
    }

    /// A tunnel kept from the last connection may have lost its data path or its interface since:
    /// nobody listens to it between connections.
    async fn without_dead(&mut self, kept: Option<Tunnel>) -> Option<Tunnel> {
        let tunnel = kept?;
        let interface = tunnel.interface();
        if tunnel.has_failed() || !self.network.has_link(interface).await {
            tracing::info!("{} is gone: the tunnel is made anew", interface.name);
            self.replace(tunnel).await;
            return None;
        }
        Some(tunnel)
    }

    async fn with_kernel(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        kept: Option<Tunnel>,
        api: Api,
    ) -> Result<Tunnel, Unmade> {
        let mut tunnel = match kept {
            Some(tunnel) if tunnel.plane().api() == Some(api) => tunnel,
            other => {
                if let Some(other) = other {
                    self.replace(other).await;
                }
                self.kernel_tunnel(api).await?
            }
        };
        match self.hand_to_kernel(link, options, &mut tunnel).await {
            Ok(()) => Ok(tunnel),
            Err(failure) => Err(Unmade { failure, left: Some(tunnel) }),
        }
    }

    async fn kernel_tunnel(&mut self, api: Api) -> Result<Tunnel, Failure> {
        let name = LinkName::from_dev(&self.config.options.device.name);
        let channel = KernelDataChannel::create(api, name).await?;
        if channel.created_link() {
            let adopt = self.network.adopt(channel.interface());
            self.commands.while_busy(&self.statistics, adopt).await?;
        }
        Ok(Tunnel::new(DataPlane::kernel(channel)))
    }

    async fn hand_to_kernel(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        tunnel: &mut Tunnel,
    ) -> Result<(), Failure> {
        self.configure(link, options, tunnel).await?;
        let arrival = tokio::time::timeout(HANDOVER_LIMIT, link.come_to_boundary());
        self.commands
            .unless_wished(&self.statistics, arrival)
            .await
            .ok_or_else(interrupted)?
            // Userspace can go on in the middle of a packet.
            .map_err(|_| DataPathError::NoBoundary)??;
        self.add_peer(link, options, tunnel).await
    }

    /// `kept` that cannot serve makes room.
    pub(super) async fn with_userspace(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        mut kept: Option<Tunnel>,
        decision: Decision,
    ) -> Result<Tunnel, Unmade> {
        if let Some(reason) = decision.why_not_kernel() {
            tracing::info!("data path: userspace ({reason})");
        }
        if let Some(kernel) = kept.take_if(|tunnel| tunnel.plane().is_kernel()) {
            self.replace(kernel).await;
        }
        let mut tunnel = self.userspace_tunnel(link, options, kept).await?;
        tunnel.why_not_kernel = decision.into_reasons();
        match self.hand_to_userspace(link, options, &mut tunnel).await {
            Ok(()) => Ok(tunnel),
            Err(failure) => Err(Unmade { failure, left: Some(tunnel) }),
        }
    }

    /// A device in userspace that is configured: `kept`, if that will do.
    async fn userspace_tunnel(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        kept: Option<Tunnel>,
    ) -> Result<Tunnel, Unmade> {
        if let Network::Netcfg(netcfg) = &mut self.network {
            let query = route_query(&self.config, link);
            let wanted = wanted(&self.config, link, options, options.tun_mtu, &query);
            let made = Box::pin(netcfg_device(netcfg, kept, wanted));
            return self.commands.while_busy(&self.statistics, made).await;
        }
        let mut tunnel = match kept {
            Some(tunnel) => tunnel,
            None => {
                let name = &self.config.options.device.name;
                let opened = self.commands.while_busy(&self.statistics, open_tun()).await;
                let created = TunDevice::create_with(|| opened, name, TunOptions::default());
                userspace(created.map_err(|source| match source {
                    DataError::NotPermitted { .. } => Failure::from(source),
                    source => SetUpError::Device { name: name.clone(), source }.into(),
                })?)?
            }
        };
        match self.configure(link, options, &mut tunnel).await {
            Ok(()) => Ok(tunnel),
            Err(failure) => Err(Unmade { failure, left: Some(tunnel) }),
        }
    }

    async fn hand_to_userspace(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        tunnel: &mut Tunnel,
    ) -> Result<(), Failure> {
        let written = tokio::time::timeout(HANDOVER_LIMIT, link.flush());
        self.commands
            .unless_wished(&self.statistics, written)
            .await
            .ok_or_else(interrupted)?
            .map_err(|_| Loss::Stalled)??;
        self.add_peer(link, options, tunnel).await
    }

    /// Addresses, routes, DNS of a device that this process has made.
    pub(super) async fn configure(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        tunnel: &mut Tunnel,
    ) -> Result<(), Failure> {
        // Who asks meanwhile is told of this connection, too.
        let counters = self.counters(Some(link.counters()), Some(tunnel)).await;
        let mtu = self.mtu(link, options, tunnel.plane());
        let query = route_query(&self.config, link);
        let wanted = wanted(&self.config, link, options, mtu, &query);
        // On the heap: what configures a host is large, and would be so in every state around it.
        let work = Box::pin(self.network.configure(tunnel, wanted));
        self.commands.while_busy(&counters, work).await
    }

    async fn add_peer(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        tunnel: &mut Tunnel,
    ) -> Result<(), Failure> {
        let socket = link
            .transport
            .share()
            .map_err(|e| DataError::io("duplicate the transport socket", e))?;
        let peer = PeerConfig {
            id: options.peer_id,
            socket,
            remote: link.transport.remote(),
            local: link.remote.local,
            keepalive: Keepalive {
                interval: seconds(options.ping),
                timeout: seconds(options.ping_timeout.map(|timeout| timeout.after)),
            },
        };
        let extras = Extras {
            framing: options.framing,
            mss: self.mss(link, options),
            allow_recursive_routing: self.config.options.device.allow_recursive_routing,
            read_ahead: link.transport.take_residue(),
        };
        let port = tunnel.new_peer(peer, extras).await?;
        link.transport
            .attach(port)
            .map_err(|e| DataError::io("hand the transport socket over", e))?;
        Ok(())
    }

    /// The interface's MTU. Where packets bypass this process no SYN can be rewritten, so the MTU
    /// itself keeps outer packets as small as `mssfix` wants them.
    pub(super) fn mtu(&self, link: &Link, options: &SessionOptions, plane: &DataPlane) -> u16 {
        let ipv6 = options.network.ifconfig_ipv6.is_some();
        match (plane.is_kernel(), &self.network) {
            (true, _) => link_mtu(options.tun_mtu, self.mss(link, options), ipv6),
            (false, Network::Direct(_)) => {
                let mssfix = self.config.options.data.mssfix;
                device_mtu(mssfix, options.tun_mtu, outer(link, options), ipv6)
            }
            // The service makes it once.
            (false, Network::Netcfg(_)) => options.tun_mtu,
        }
    }

    /// The clamp of TCP segments, where packets pass through this process.
    pub(super) fn mss(&self, link: &Link, options: &SessionOptions) -> Option<MssClamp> {
        mss_clamp(self.config.options.data.mssfix, options.tun_mtu, outer(link, options))
    }
}

/// How the transport socket reaches the server.
pub(super) fn route_query(config: &SessionConfig, link: &Link) -> RouteQuery {
    let device = &config.options.device;
    RouteQuery {
        remote: link.transport.remote().ip(),
        mark: device.mark,
        bind_dev: device.bind_dev.clone(),
    }
}

pub(super) fn wanted<'a>(
    config: &SessionConfig,
    link: &Link,
    options: &'a SessionOptions,
    mtu: u16,
    query: &'a RouteQuery,
) -> Wanted<'a> {
    Wanted {
        options: &options.network,
        mtu,
        tx_queue_len: config.options.device.tx_queue_len,
        dns_scope: config.dns_scope,
        query,
        protocol: link.transport.protocol(),
    }
}

/// A wish came before the stream was ready. It is next.
fn interrupted() -> Failure {
    Loss::Interrupted.into()
}

fn userspace(device: TunDevice) -> Result<Tunnel, DataError> {
    let channel = UserspaceDataChannel::new(device, ovpn_userspace::Options::default())?;
    Ok(Tunnel::new(DataPlane::userspace(channel)))
}

/// Has the service make the device, unless it has already made the very same.
async fn netcfg_device(
    netcfg: &mut NetcfgNetwork,
    kept: Option<Tunnel>,
    wanted: Wanted<'_>,
) -> Result<Tunnel, Unmade> {
    let plan = match NetcfgPlan::build(
        wanted.options,
        wanted.mtu,
        wanted.tx_queue_len,
        wanted.query.remote,
        wanted.dns_scope,
    ) {
        Ok(plan) => plan,
        Err(e) => {
            return Err(Unmade { failure: SetUpError::from(e).into(), left: kept });
        }
    };
    if let Some(tunnel) = kept {
        if netcfg.is_established(&plan) {
            return Ok(tunnel);
        }
        tunnel.close().await;
    }
    for note in plan.notes() {
        tracing::warn!("{note}");
    }
    let made = netcfg.establish(&plan).await.map_err(SetUpError::from)?;
    for warning in made.warnings {
        tracing::warn!("{warning}");
    }
    tracing::debug!("virtual interface {} created at {}", made.device_name, made.device_path);
    let mut new = userspace(TunDevice::from_fd(made.tun, TunOptions::default())?)?;
    new.device_path = Some(made.device_path);
    Ok(new)
}

/// Keepalive seconds as the data channel takes them.
fn seconds(duration: Option<Duration>) -> u32 {
    duration.map_or(0, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX))
}

fn outer(link: &Link, options: &SessionOptions) -> Outer {
    Outer {
        protocol: link.transport.protocol(),
        ipv6: link.transport.remote().is_ipv6(),
        data_v2: options.peer_id.is_some(),
        format: options.cipher.format(),
        framing: options.framing,
        path: link.path,
    }
}
