//! From a push reply to a working tunnel: data path, interface, network configuration, peer; and
//! what to do when the kernel refuses any of it.

use std::time::{Duration, Instant};

use ovpn_dco::kernel::{Api, KernelDataChannel, LinkName};
use ovpn_dco::{
    DataChannel, Error as DataError, Keepalive, KeyConfig, KeyId, NotInstalled, PeerConfig,
};
use ovpn_userspace::{TunDevice, TunOptions, UserspaceDataChannel};

use super::event::ConnectionInfo;
use super::link::Link;
use super::mtu::{Outer, link_mtu, mss_clamp};
use super::network::{Network, Wanted, configure_directly, netcfg_failed};
use super::plane::DataPlane;
use super::reconnect::Ending;
use super::shared::Session;
use super::tunnel::Tunnel;
use crate::counters::Counter;
use crate::data_path::{self, Decision, Inputs};
use crate::network::{NetcfgNetwork, NetcfgPlan, RouteQuery, open_tun};
use crate::profile::{Protocol, Remote, SessionOptions};

/// How long a TCP stream may take to come to a packet boundary for the kernel.
const HANDOVER_LIMIT: Duration = Duration::from_secs(5);

/// Why a tunnel could not be set up.
#[derive(Debug)]
pub(super) enum Failure {
    /// This data path could not; another one may.
    DataPath {
        why: String,
        /// Without another one.
        ending: Ending,
    },
    /// No data path will help.
    Ending(Ending),
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let why = error.to_string();
        let ending = match error {
            DataError::NotPermitted { .. } => Ending::Privilege(why.clone()),
            _ => Ending::Unusable(format!("cannot set up the tunnel: {why}")),
        };
        Self::DataPath { why, ending }
    }
}

impl From<Ending> for Failure {
    fn from(ending: Ending) -> Self {
        Self::Ending(ending)
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::DataPath { ending, .. } | Failure::Ending(ending) => ending,
        }
    }
}

impl Session {
    /// Makes the tunnel what the push says. A tunnel kept from the last connection is used again
    /// where it fits. A kernel that refuses costs speed only.
    pub(super) async fn bring_up(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
    ) -> Result<(), Ending> {
        let result = self.try_bring_up(link, options).await;
        if result.is_err() {
            self.undo_unused().await;
        }
        result
    }

    async fn try_bring_up(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
    ) -> Result<(), Ending> {
        self.discard_dead_tunnel().await;
        let mut decision = self.decide(&link.remote, Some(options));
        if let Decision::Kernel(api) = decision {
            match self.with_kernel(link, options, api).await {
                Ok(()) => return Ok(()),
                Err(Failure::Ending(ending)) => return Err(ending),
                Err(Failure::DataPath { why, .. }) => {
                    self.kernel_failed(link, &why).await;
                    decision = self.decide(&link.remote, Some(options));
                }
            }
        }
        Ok(self.with_userspace(link, options, decision.why_not_kernel()).await?)
    }

    /// Kernel or userspace, as far as it can be told now.
    pub(super) fn decide(&self, remote: &Remote, session: Option<&SessionOptions>) -> Decision {
        data_path::decide(&Inputs {
            wanted: self.config.dco,
            options: &self.config.options,
            remote: Some(remote),
            session,
            kernel: &self.kernel,
            netcfg: matches!(self.network, Network::Netcfg(_)),
            kernel_failure: self.kernel_failure.as_deref(),
        })
    }

    /// A tunnel kept from the last connection may have lost its data path or its interface since:
    /// nobody listens to it between connections.
    async fn discard_dead_tunnel(&mut self) {
        let Some(tunnel) = &self.tunnel else { return };
        let interface = tunnel.plane().interface();
        if tunnel.has_failed() || !self.network.has_link(interface).await {
            tracing::info!("{} is gone: the tunnel is made anew", interface.name);
            self.replace_tunnel().await;
        }
    }

    /// The kernel refused or lost the data channel: this session does not ask it again.
    async fn kernel_failed(&mut self, link: &mut Link, why: &str) {
        tracing::warn!("kernel offload failed: {why}; going on in userspace");
        self.statistics.count(Counter::TunError);
        self.kernel_failure = Some(why.to_owned());
        self.take_last_statistics().await;
        self.replace_tunnel().await;
        if let Err(error) = link.transport.detach() {
            // The next receive fails, and the session reconnects.
            tracing::warn!("taking the transport socket back: {error}");
        }
    }

    async fn take_last_statistics(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            self.statistics.add_all(&tunnel.del_peer().await);
        }
    }

    /// The data path is gone. Userspace takes over from the kernel: with `key`, which no data path
    /// had, or with a new one, because packet ids of the old ones would repeat. In any case the old
    /// tunnel goes.
    pub(super) async fn fall_back(
        &mut self,
        link: &mut Link,
        why: &str,
        key: Option<KeyConfig>,
    ) -> Result<(), Ending> {
        let result = self.try_fall_back(link, why, key).await;
        if result.is_err() {
            self.undo_unused().await;
        }
        result
    }

    async fn try_fall_back(
        &mut self,
        link: &mut Link,
        why: &str,
        key: Option<KeyConfig>,
    ) -> Result<(), Ending> {
        let lost = || Ending::Lost(format!("the data path failed: {why}"));
        if !self.tunnel.as_ref().is_some_and(|tunnel| tunnel.plane().is_kernel()) {
            self.take_last_statistics().await;
            self.drop_tunnel().await;
            return Err(lost());
        }
        self.kernel_failed(link, why).await;
        // The kernel may have left a TCP stream in the middle of a packet, in either direction, and
        // nothing tells: only a new connection is sure to be in step.
        let udp = link.transport.protocol() == Protocol::Udp;
        let Some(options) = link.options.clone().filter(|_| udp) else { return Err(lost()) };
        let why_not_kernel = self.decide(&link.remote, Some(&options)).why_not_kernel();
        self.with_userspace(link, &options, why_not_kernel).await?;
        match (key, &mut self.tunnel) {
            (Some(key), Some(tunnel)) => {
                tunnel.install_key(key).await.map_err(|e| Failure::from(e.error))?;
            }
            _ => link.control.renegotiate(Instant::now()),
        }
        if self.connected {
            self.announce(link);
        }
        Ok(())
    }

    async fn with_kernel(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        api: Api,
    ) -> Result<(), Failure> {
        if self.tunnel.as_ref().is_none_or(|tunnel| tunnel.plane().api() != Some(api)) {
            self.replace_tunnel().await;
            let name = LinkName::from_dev(&self.config.options.device.name);
            let channel = KernelDataChannel::create(api, name).await?;
            if channel.created_link() {
                let adopt = self.network.adopt(channel.interface());
                self.commands.while_busy(&self.statistics, adopt).await?;
            }
            self.tunnel = Some(Tunnel::new(DataPlane::Kernel(channel)));
        }
        self.configure(link, options).await?;
        let arrival = tokio::time::timeout(HANDOVER_LIMIT, link.come_to_boundary());
        self.commands
            .unless_wished(&self.statistics, arrival)
            .await
            .ok_or_else(interrupted)?
            .map_err(|_| {
                // Userspace can go on in the middle of a packet.
                let why = "the TCP stream does not come to a packet's end".to_owned();
                Failure::DataPath { ending: Ending::Lost(why.clone()), why }
            })?
            .map_err(|e| Ending::Lost(format!("the connection to the server broke: {e}")))?;
        self.add_peer(link, options).await
    }

    async fn with_userspace(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        why_not_kernel: Option<String>,
    ) -> Result<(), Failure> {
        if let Some(reason) = &why_not_kernel {
            tracing::info!("data path: userspace ({reason})");
        }
        if self.tunnel.as_ref().is_some_and(|tunnel| tunnel.plane().is_kernel()) {
            self.replace_tunnel().await;
        }
        if self.tunnel.is_none() && matches!(self.network, Network::Direct(_)) {
            let name = &self.config.options.device.name;
            let opened = self.commands.while_busy(&self.statistics, open_tun()).await;
            let created = TunDevice::create_with(|| opened, name, TunOptions::default());
            let device = created.map_err(|e| match e {
                DataError::NotPermitted { .. } => Failure::from(e),
                e => Ending::Unusable(format!("cannot create the device {name}: {e}")).into(),
            })?;
            self.tunnel = Some(userspace(device)?);
        }
        self.configure(link, options).await?;
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.why_not_kernel = why_not_kernel;
        }
        let written = tokio::time::timeout(HANDOVER_LIMIT, link.transport.flush());
        self.commands
            .unless_wished(&self.statistics, written)
            .await
            .ok_or_else(interrupted)?
            .map_err(|_| Ending::Lost("the TCP stream stands still".to_owned()))?
            .map_err(|e| Ending::Lost(format!("the connection to the server broke: {e}")))?;
        self.add_peer(link, options).await
    }

    /// Addresses, routes, DNS; and, where the netcfg service makes it, the device itself.
    async fn configure(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
    ) -> Result<(), Failure> {
        let mtu = self.mtu(link, options);
        let device = &self.config.options.device;
        let query = RouteQuery {
            remote: link.transport.remote().ip(),
            mark: device.mark,
            bind_dev: device.bind_dev.clone(),
        };
        let wanted = Wanted {
            options: &options.network,
            mtu,
            tx_queue_len: device.tx_queue_len,
            dns_scope: self.config.dns_scope,
            query: &query,
        };
        let (network, tunnel) = (&mut self.network, &mut self.tunnel);
        let work = async {
            match network {
                Network::Direct(direct) => match tunnel {
                    Some(tunnel) => configure_directly(direct, tunnel, wanted).await,
                    None => Ok(()),
                },
                Network::Netcfg(netcfg) => netcfg_device(netcfg, tunnel, wanted).await,
            }
        };
        self.commands.while_busy(&self.statistics, work).await
    }

    async fn add_peer(&mut self, link: &mut Link, options: &SessionOptions) -> Result<(), Failure> {
        let Some(tunnel) = &mut self.tunnel else { return Ok(()) };
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
            framing: options.framing,
            mss: mss_clamp(self.config.options.data.mssfix, options.tun_mtu, outer(link, options))
                .filter(|_| !tunnel.plane().is_kernel()),
            allow_recursive_routing: self.config.options.device.allow_recursive_routing,
        };
        let residue = link.transport.take_residue();
        let port = tunnel.new_peer(peer, residue).await?;
        link.transport
            .attach(port)
            .map_err(|e| DataError::io("hand the transport socket over", e))?;
        Ok(())
    }

    /// The interface's MTU. Where packets bypass this process no SYN can be rewritten, so the MTU
    /// itself keeps outer packets as small as `mssfix` wants them.
    fn mtu(&self, link: &Link, options: &SessionOptions) -> u16 {
        let kernel = self.tunnel.as_ref().is_some_and(|tunnel| tunnel.plane().is_kernel());
        if !kernel {
            return options.tun_mtu;
        }
        let clamp =
            mss_clamp(self.config.options.data.mssfix, options.tun_mtu, outer(link, options));
        link_mtu(options.tun_mtu, clamp, options.network.ifconfig_ipv6.is_some())
    }

    /// Whether the tunnel has a key to send with: not yet, where an installation failed and a new
    /// key is on its way.
    pub(super) async fn can_send(&mut self) -> bool {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.can_send().await,
            None => false,
        }
    }

    pub(super) async fn install_key(
        &mut self,
        link: &mut Link,
        key: KeyConfig,
    ) -> Result<(), Ending> {
        let Some(tunnel) = &mut self.tunnel else { return Ok(()) };
        match tunnel.install_key(key).await {
            Ok(()) => Ok(()),
            Err(not_installed) => self.repair(link, not_installed).await,
        }
    }

    pub(super) async fn promote_key(&mut self, link: &mut Link, key: KeyId) -> Result<(), Ending> {
        match &mut self.tunnel {
            Some(tunnel) => match tunnel.promote_key(key).await {
                Ok(()) => Ok(()),
                Err(error) => self.repair(link, error.into()).await,
            },
            None => Ok(()),
        }
    }

    pub(super) async fn retire_key(&mut self, link: &mut Link, key: KeyId) -> Result<(), Ending> {
        match &mut self.tunnel {
            Some(tunnel) => match tunnel.retire_key(key).await {
                Ok(()) => Ok(()),
                Err(error) => self.repair(link, error.into()).await,
            },
            None => Ok(()),
        }
    }

    /// A key operation failed.
    async fn repair(&mut self, link: &mut Link, failed: NotInstalled) -> Result<(), Ending> {
        match failed.error {
            DataError::NoSuchPeer => {
                Err(Ending::Lost("the data channel's peer has disappeared".to_owned()))
            }
            DataError::NoSuchKey(key) => {
                tracing::warn!("the data channel has lost key {key}: renegotiating");
                self.statistics.count(Counter::KeyStateError);
                link.control.renegotiate(Instant::now());
                Ok(())
            }
            error => self.fall_back(link, &error.to_string(), failed.key.map(|key| *key)).await,
        }
    }

    pub(super) fn connection_info(&self, link: &Link) -> Option<ConnectionInfo> {
        let (tunnel, options) = (self.tunnel.as_ref()?, link.options.as_ref()?);
        let network = &options.network;
        let mut addresses = Vec::new();
        addresses.extend(network.ifconfig.map(|(address, _)| address.to_string()));
        addresses
            .extend(network.ifconfig_ipv6.map(|(address, bits, _)| format!("{address}/{bits}")));
        let mut gateways = Vec::new();
        gateways.extend(network.route_gateway.map(|gateway| gateway.to_string()));
        gateways.extend(
            network
                .route_ipv6_gateway
                .or_else(|| network.ifconfig_ipv6.and_then(|(_, _, remote)| remote))
                .map(|gateway| gateway.to_string()),
        );
        Some(ConnectionInfo {
            protocol: link.remote.protocol,
            host: link.remote.host.clone(),
            address: link.transport.remote(),
            username: link.username.clone(),
            device: tunnel.plane().interface().name.clone(),
            data_path: tunnel.plane().name(),
            data_path_reason: tunnel.why_not_kernel.clone(),
            tunnel: addresses,
            gateways,
            mtu: self.mtu(link, options),
            cipher: options.cipher.name(),
            device_path: tunnel.device_path.clone(),
        })
    }
}

/// A wish came before the stream was ready. It is next.
fn interrupted() -> Failure {
    Ending::Lost("interrupted".to_owned()).into()
}

fn userspace(device: TunDevice) -> Result<Tunnel, DataError> {
    let channel = UserspaceDataChannel::new(device, ovpn_userspace::Options::default())?;
    Ok(Tunnel::new(DataPlane::Userspace(channel)))
}

/// Has the service make the device, unless it has already made the very same.
async fn netcfg_device(
    netcfg: &mut NetcfgNetwork,
    tunnel: &mut Option<Tunnel>,
    wanted: Wanted<'_>,
) -> Result<(), Failure> {
    let plan = NetcfgPlan::build(
        wanted.options,
        wanted.mtu,
        wanted.tx_queue_len,
        wanted.query.remote,
        wanted.dns_scope,
    )
    .map_err(|e| Ending::Unusable(e.to_string()))?;
    if tunnel.is_some() && netcfg.is_established(&plan) {
        return Ok(());
    }
    for note in plan.notes() {
        tracing::warn!("{note}");
    }
    if let Some(old) = tunnel.take() {
        old.close().await;
    }
    let made = netcfg.establish(&plan).await.map_err(netcfg_failed)?;
    for warning in made.warnings {
        tracing::warn!("{warning}");
    }
    tracing::debug!("virtual interface {} created at {}", made.device_name, made.device_path);
    let mut new = userspace(TunDevice::from_fd(made.tun, TunOptions::default())?)?;
    new.device_path = Some(made.device_path);
    *tunnel = Some(new);
    Ok(())
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
    }
}
