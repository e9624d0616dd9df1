//! From the profile's next remote to a connection that can begin: name, socket, control channel.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rand::RngExt;

use super::event::SessionState;
use super::host;
use super::life::End;
use super::link::Link;
use super::posture::Posture;
use super::reconnect::Ending;
use super::resolve::{self, Outside};
use super::shared::Session;
use crate::control::{Allowance, ControlChannel, ControlConfig, TransportKind};
use crate::data_path::Decision;
use crate::network::RouteQuery;
use crate::profile::{Family, PeerInfoExtra, Protocol, Remote, occ_string, peer_info};
use crate::transport::{SocketOptions, Transport, TransportError};

/// `IV_SSL`
const TLS_LIBRARY: &str = "rustls, aws-lc";

/// Bytes of control packets that are worked on: so many at once (more than the longest push reply),
/// so many a second. Beyond it the socket is not read: the server has to wait.
const PACE: (u32, f64) = (1024 * 1024, 128.0 * 1024.0);

impl Session {
    /// Finds the server and opens a socket to it.
    pub(super) async fn open(&mut self) -> Result<(Remote, Transport), End> {
        let Some(remote) = self.remotes.current().cloned() else {
            return Err(Ending::Unusable("the profile has no remote".to_owned()).into());
        };
        let through = remote.proxy.as_ref().map_or_else(
            || (remote.host.clone(), remote.port),
            |proxy| (proxy.host.clone(), proxy.port),
        );
        self.enter(SessionState::Resolving { host: remote.host.clone() });
        if self.remotes.address().is_none() {
            self.find_addresses(&through.0, through.1, remote.family).await?;
        }
        let Some(address) = self.remotes.address() else {
            return Err(Ending::Resolve(format!("{} has no usable address", through.0)).into());
        };
        self.enter(SessionState::Waiting {
            host: remote.host.clone(),
            address,
            protocol: remote.protocol,
        });
        let device = &self.config.options.device;
        let options = SocketOptions {
            local: remote.local,
            local_port: remote.local_port,
            mark: device.mark,
            bind_dev: device.bind_dev.clone(),
            sndbuf: device.sndbuf,
            rcvbuf: device.rcvbuf,
        };
        let limit = self.config.options.retry.server_poll_timeout;
        let query = RouteQuery {
            remote: address.ip(),
            mark: device.mark,
            bind_dev: device.bind_dev.clone(),
        };
        self.commands.or_wish(&self.statistics, self.network.recheck()).await?;
        let protect = self.network.protect(&query);
        self.commands.while_busy(&self.statistics, protect).await.map_err(Ending::Transport)?;
        let protect = self.network.protector();
        let proxy_credentials = self.config.proxy_credentials.as_ref();
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
        let connected = self
            .commands
            .or_wish(&self.statistics, tokio::time::timeout(limit, connect))
            .await?
            .unwrap_or_else(|_| {
                Err(TransportError::Io {
                    operation: "connect to",
                    address: address.to_string(),
                    source: std::io::ErrorKind::TimedOut.into(),
                })
            });
        Ok((remote, connected.map_err(Ending::Transport)?))
    }

    /// Resolves the current remote's name, or else recalls the addresses it had before: while a
    /// tunnel is kept, the host's resolver may be behind it.
    async fn find_addresses(&mut self, host: &str, port: u16, family: Family) -> Result<(), End> {
        let behind = if self.tunnel.is_some() {
            Some(&self.outside)
        } else {
            self.outside = Outside::remember(self.config.options.device.mark).await;
            None
        };
        let name = resolve::Name { host, port, family };
        let lookup = resolve::look_up(name, behind, self.remotes.is_known());
        match self.commands.or_wish(&self.statistics, lookup).await? {
            Ok(addresses) => self.remotes.resolved(addresses),
            Err(reason) if self.remotes.recall() => {
                tracing::warn!("cannot resolve {host}: {reason}; trying the address it had before");
            }
            Err(reason) => {
                return Err(Ending::Resolve(format!("cannot resolve {host}: {reason}")).into());
            }
        }
        Ok(())
    }

    pub(super) fn link(&self, remote: Remote, transport: Transport) -> Result<Link, Ending> {
        let options = &self.config.options;
        let now = Instant::now();
        let unix_time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let extra = PeerInfoExtra {
            gui_version: self.config.gui_version.clone(),
            sso: self.config.sso.clone(),
            app_protocols: self.posture.as_ref().map(Posture::protocols).unwrap_or_default(),
            // The kernel knows no framing, so a server must not count on it.
            stubs: matches!(self.decide(&remote, None), Decision::Userspace { .. }),
            hardware_address: host::machine_identifier(),
            tls_library: Some(TLS_LIBRARY.to_owned()),
            platform_version: host::platform_version(),
        };
        let control = ControlChannel::new(
            ControlConfig {
                transport: match transport.protocol() {
                    Protocol::Udp => TransportKind::Udp,
                    Protocol::Tcp => TransportKind::Tcp,
                },
                ipv6: transport.remote().is_ipv6(),
                options: options.control.clone(),
                wrap: options.wrap.clone(),
                tls: Arc::new(self.tls.connection()),
                occ: occ_string(options, remote.protocol),
                peer_info: peer_info(options, &extra),
                unix_time,
                seed: rand::rng().random(),
            },
            now,
        )
        .map_err(Ending::Control)?;
        Ok(Link {
            transport,
            control,
            remote,
            contacted: false,
            answer_by: now + options.retry.server_poll_timeout,
            options: None,
            inactivity: None,
            ends_at: None,
            logged_in: false,
            username: String::new(),
            pace: Allowance::new(PACE.0, PACE.1),
        })
    }
}
