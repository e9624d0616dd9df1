//! From the profile's next remote to a connection that can begin: name, socket, control channel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rand::RngExt;

use super::ending::{Ending, SetUpError};
use super::event::SessionState;
use super::host;
use super::life::Opening;
use super::link::Link;
use super::network::Network;
use super::offload;
use super::over::End;
use super::resolve::{self, Outside};
use super::roaming::index;
use super::shared::Shared;
use crate::control::{ControlChannel, ControlConfig, TransportKind};
use crate::data_path::Decision;
use crate::network::RouteQuery;
use crate::profile::{PeerInfoExtra, Protocol, Remote, occ_string, peer_info};
use crate::text::printable;
use crate::transport::{SocketOptions, Transport, TransportError};

/// `IV_SSL`
const TLS_LIBRARY: &str = "rustls, aws-lc";

impl Opening {
    /// A connection to the next server, and until when it may take to answer.
    pub(super) async fn open(&self, shared: &mut Shared) -> Result<(Link, Instant), End> {
        shared.commands.or_wish(&shared.statistics, shared.extensions.prepare()).await?;
        shared.ask_kernel_again().await;
        shared.roaming.begin(index(self.kept.as_ref())).await;
        let Some(remote) = shared.remotes.current().cloned() else {
            return Err(Ending::from(SetUpError::NoRemote).into());
        };
        shared.enter(SessionState::Resolving { host: remote.host.clone() });
        let address = self.address(shared, &remote).await?;
        // Here, before anything that is said of the packets.
        let (host, protocol) = (printable(&remote.host), remote.protocol);
        tracing::info!("Contacting {host} at {address} over {protocol}");
        shared.enter(SessionState::Waiting {
            host: remote.host.clone(),
            address,
            protocol: remote.protocol,
        });
        let tunnel = index(self.kept.as_ref());
        let transport = connect(shared, &remote, address, tunnel).await?;
        let answer_by = Instant::now() + shared.config.options.retry.server_poll_timeout;
        Ok((shared.link(remote, transport)?, answer_by))
    }

    /// Where to connect to: the remote itself, or its proxy. Resolves the name, or else recalls the
    /// addresses it had before: while a tunnel is kept, the host's resolver may be behind it.
    async fn address(&self, shared: &mut Shared, remote: &Remote) -> Result<SocketAddr, End> {
        if let Some(address) = shared.remotes.address() {
            return Ok(address);
        }
        let (host, port) = match &remote.proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (&remote.host, remote.port),
        };
        if self.kept.is_none() {
            shared.outside = Outside::remember(shared.config.options.device.mark).await;
        }
        let behind = self.kept.is_some().then_some(&shared.outside);
        let name = resolve::Name { host, port, family: remote.family };
        let lookup = resolve::look_up(name, behind, shared.remotes.is_known());
        let lookup = shared.roaming.unless_changed(index(self.kept.as_ref()), lookup);
        match shared.commands.or_wish(&shared.statistics, lookup).await?? {
            Ok(addresses) => shared.remotes.resolved(addresses),
            Err(reason) if shared.remotes.recall() => {
                tracing::warn!("cannot resolve {host}: {reason}; trying the address it had before");
            }
            Err(source) => {
                return Err(Ending::Resolve { host: host.clone(), source }.into());
            }
        }
        shared.remotes.address().ok_or_else(|| Ending::NoAddress(host.clone()).into())
    }
}

/// A socket to the server, outside of any tunnel.
async fn connect(
    shared: &mut Shared,
    remote: &Remote,
    address: SocketAddr,
    tunnel: Option<u32>,
) -> Result<Transport, End> {
    let device = &shared.config.options.device;
    let options = SocketOptions {
        local: remote.local,
        local_port: remote.local_port,
        mark: device.mark,
        bind_dev: device.bind_dev.clone(),
        sndbuf: device.sndbuf,
        rcvbuf: device.rcvbuf,
    };
    let limit = shared.config.options.retry.server_poll_timeout;
    let query =
        RouteQuery { remote: address.ip(), mark: device.mark, bind_dev: device.bind_dev.clone() };
    shared.commands.or_wish(&shared.statistics, shared.network.recheck()).await?;
    let protect = shared.network.protect(&query);
    shared.commands.while_busy(&shared.statistics, protect).await.map_err(Ending::Transport)?;
    let protect = shared.network.protector();
    let proxy_credentials = shared.config.proxy_credentials.as_ref();
    let connect = async {
        match (&remote.protocol, &remote.proxy) {
            (Protocol::Udp, _) => Transport::udp(address, &options, &protect).await,
            (Protocol::Tcp, None) => Transport::tcp(address, &options, &protect).await,
            (Protocol::Tcp, Some(proxy)) => {
                Transport::tcp_via_proxy(
                    address,
                    proxy,
                    proxy_credentials,
                    &remote.host,
                    remote.port,
                    &options,
                    &protect,
                )
                .await
            }
        }
    };
    let connect = tokio::time::timeout(limit, connect);
    let connected = shared
        .commands
        .or_wish(&shared.statistics, shared.roaming.unless_changed(tunnel, connect))
        .await??
        .unwrap_or_else(|_| {
            Err(TransportError::Io {
                operation: "connect to",
                address: address.to_string(),
                source: std::io::ErrorKind::TimedOut.into(),
            })
        });
    Ok(connected.map_err(Ending::Transport)?)
}

impl Shared {
    /// Has the kernel have another chance, if it is time.
    async fn ask_kernel_again(&mut self) {
        let direct = matches!(self.network, Network::Direct(_));
        if !(self.config.dco && direct && self.offload.is_due(Instant::now())) {
            return;
        }
        match offload::probe().await {
            Ok(report) => self.offload.renew(report, Instant::now()),
            Err(error) => tracing::debug!("asking the kernel again: {error}"),
        }
    }

    /// A connection that begins on this transport.
    pub(super) fn link(&self, remote: Remote, transport: Transport) -> Result<Link, Ending> {
        let options = &self.config.options;
        let unix_time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut extra = PeerInfoExtra {
            gui_version: self.config.gui_version.clone(),
            sso: self.config.sso.clone(),
            app_protocols: String::new(),
            // What the kernel does not know a server must not count on.
            userspace: matches!(self.decide(&remote, None), Decision::Userspace { .. }),
            // A device of the service's would have to be made anew.
            push_update: !matches!(self.network, Network::Netcfg(_)),
            hardware_address: host::machine_identifier(),
            tls_library: Some(TLS_LIBRARY.to_owned()),
            platform_version: host::platform_version(),
        };
        self.extensions.introduce(&mut extra);
        let wrap = options.wrap_for(&remote);
        let control = ControlChannel::new(
            ControlConfig {
                transport: match transport.protocol() {
                    Protocol::Udp => TransportKind::Udp,
                    Protocol::Tcp => TransportKind::Tcp,
                },
                ipv6: transport.remote().is_ipv6(),
                options: options.control.clone(),
                wrap: wrap.clone(),
                tls: Arc::new(self.tls.connection()),
                occ: occ_string(options, wrap, remote.protocol),
                peer_info: peer_info(options, &extra),
                unix_time,
                seed: rand::rng().random(),
            },
            Instant::now(),
        )
        .map_err(Ending::Control)?;
        Ok(Link::new(remote, transport, control))
    }
}
