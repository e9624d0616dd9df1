//! A connection follows the host's network: what is configured for the tunnel stays, the transport
//! goes the way that leads to the server, and the server learns where we are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use ovpn_dco::{DataChannel, Error as DataError};
use socket2::SockRef;

use super::bring_up::{route_query, wanted};
use super::connected::{Connected, Stage};
use super::ending::{Ending, Loss, NetworkChange};
use super::negotiating::Negotiating;
use super::network::Kept;
use super::roaming::{Change, index};
use super::shared::Shared;
use crate::network::{News, Response, Roaming as Kind};
use crate::profile::{NetworkOptions, Protocol};

/// What could not be done is tried again then.
const RETRY: Duration = Duration::from_secs(1);
/// The discard service (RFC 863): what a packet is sent to that is to say nothing.
const DISCARD: u16 = 9;

impl Negotiating {
    /// A handshake belongs to its addresses.
    pub(super) async fn changed(
        &mut self,
        shared: &mut Shared,
        change: Change,
    ) -> Result<(), Ending> {
        if let Change::Awake(_) = change {
            return Err(NetworkChange::Slept.into());
        }
        let start = Instant::now();
        let outside = shared.roaming.outside(index(self.kept.as_ref())).await;
        let moved = shared.roaming.is_new(&outside);
        Box::pin(shared.network.keep(None, moved)).await;
        let kind = match self.link.transport.protocol() {
            Protocol::Tcp => Kind::Stream,
            Protocol::Udp => Kind::Fixed,
        };
        let verdict = shared.roaming.judge(&self.link.transport, kind, outside);
        shared.roaming.looked(start);
        let Some(verdict) = verdict else { return Ok(()) };
        let over = match verdict.response {
            Response::Stay | Response::Wait | Response::Rebind => false,
            Response::Reconnect => true,
            // What was sent may be lost, and its repetition takes longer and longer.
            Response::Announce => self.is_unanswered(),
        };
        if over && shared.roaming.may_give_up() {
            return Err(verdict.reason().into());
        }
        Ok(())
    }
}

impl Connected {
    /// The network has changed, or may have.
    pub(super) async fn changed(
        &mut self,
        shared: &mut Shared,
        change: Change,
    ) -> Result<(), Ending> {
        match change {
            Change::Network(news) => self.follow(shared, &news).await,
            Change::Awake(absence) => {
                tracing::info!("nothing ran for {} s: looking after the server", absence.as_secs());
                self.follow(shared, &News::default()).await?;
                self.ask_for_proof(shared);
                Ok(())
            }
            Change::ProofDue if shared.roaming.is_cut_off() => {
                shared.roaming.expect_proof();
                Ok(())
            }
            Change::ProofDue if self.link.control.has_unacknowledged() => {
                Err(NetworkChange::Forgotten.into())
            }
            Change::ProofDue => Ok(()),
        }
    }

    /// Has the server prove soon that it still knows us.
    fn ask_for_proof(&mut self, shared: &mut Shared) {
        self.link.control.probe(Instant::now());
        shared.roaming.expect_proof();
    }

    async fn follow(&mut self, shared: &mut Shared, news: &News) -> Result<(), Ending> {
        let start = Instant::now();
        let outside = shared.roaming.outside(index(Some(&self.tunnel))).await;
        let moved = shared.roaming.is_new(&outside);
        self.keep_configured(shared, news, moved).await?;
        if self.tunnel.learn_name() {
            tracing::info!("the interface is called {} now", self.tunnel.interface().name);
            if self.stage == Stage::Working {
                self.announce(shared);
            }
        }
        let kind = match (self.link.transport.protocol(), self.options.peer_id) {
            (Protocol::Tcp, _) => Kind::Stream,
            (Protocol::Udp, Some(_)) => Kind::Floats,
            (Protocol::Udp, None) => Kind::Fixed,
        };
        let verdict = shared.roaming.judge(&self.link.transport, kind, outside);
        shared.roaming.looked(start);
        let Some(verdict) = verdict else { return Ok(()) };
        match verdict.response {
            Response::Stay | Response::Wait => {}
            Response::Reconnect => {
                if shared.roaming.may_give_up() {
                    return Err(verdict.reason().into());
                }
            }
            Response::Announce => self.announce_way(false).await?,
            Response::Rebind => {
                if let Err(error) = self.link.transport.choose_source_again() {
                    tracing::debug!("choosing the source address again: {error}");
                    shared.roaming.look_again(RETRY);
                    return Ok(());
                }
                if let (Ok(source), present) = (self.link.transport.source(), verdict.present) {
                    tracing::info!("packets to the server come from {source} now, not {present}");
                }
                self.announce_way(true).await?;
            }
        }
        if verdict.response != Response::Wait {
            self.follow_path(shared).await?;
        }
        if verdict.doubtful {
            self.ask_for_proof(shared);
        }
        Ok(())
    }

    /// Packets are as large as the way to the server takes them in one piece.
    pub(super) async fn follow_path(&mut self, shared: &mut Shared) -> Result<(), Ending> {
        let sizes = |it: &Self, shared: &Shared| {
            let mtu = shared.mtu(&it.link, &it.options, it.tunnel.plane());
            (mtu, shared.mss(&it.link, &it.options))
        };
        let before = sizes(self, shared);
        if !self.link.look_at_path(&self.options.network) {
            return Ok(());
        }
        let now = sizes(self, shared);
        if now == before {
            return Ok(());
        }
        if let Some(path) = self.link.path {
            let mtu = now.0;
            tracing::info!(
                "packets to the server may have {path} bytes: the tunnel's MTU is {mtu}"
            );
        }
        self.resize(shared).await
    }

    /// Configures the host for what the tunnel is to be now, and has packets be as large as that.
    pub(super) async fn resize(&mut self, shared: &mut Shared) -> Result<(), Ending> {
        shared.configure(&mut self.link, &self.options, &mut self.tunnel).await?;
        let mss = shared.mss(&self.link, &self.options);
        if let Err(error) = self.tunnel.plane().set_mss(mss).await {
            // The data path tells by itself what has become of it.
            tracing::debug!("clamping TCP segments: {error}");
        }
        Ok(())
    }

    /// `moved`: the host's own network is not what it was.
    async fn keep_configured(
        &mut self,
        shared: &mut Shared,
        news: &News,
        moved: bool,
    ) -> Result<(), Ending> {
        // Who asks meanwhile is told of this connection, too.
        let counters = shared.counters(Some(self.link.counters()), Some(&mut self.tunnel)).await;
        let mtu = shared.mtu(&self.link, &self.options, self.tunnel.plane());
        let query = route_query(&shared.config, &self.link);
        let wanted = wanted(&shared.config, &self.link, &self.options, mtu, &query);
        // On the heap, like everything that configures a host.
        let keep = Box::pin(shared.network.keep(Some(wanted), moved));
        match shared.commands.while_busy(&counters, keep).await {
            Kept::InPlace => Ok(()),
            Kept::Failed => {
                shared.roaming.look_again(RETRY);
                Ok(())
            }
            Kept::Gone => {
                let interface = self.tunnel.interface();
                if news.moved.contains(&interface.index) {
                    return Err(Loss::Moved(interface.name.clone()).into());
                }
                // The data path tells so itself.
                Ok(())
            }
        }
    }

    /// Has the data path go the new way, and the server know. `moved`: from another address.
    async fn announce_way(&mut self, moved: bool) -> Result<(), Ending> {
        match self.tunnel.channel().announce().await {
            Ok(true) => {}
            Ok(false) => {
                let name = &self.tunnel.interface().name;
                if let Some(target) = other_end(&self.options.network)
                    && let Err(error) = say_nothing(name, target)
                {
                    tracing::debug!("sending a packet into the tunnel: {error}");
                }
            }
            Err(error @ DataError::Unsupported { .. }) if moved => {
                return Err(NetworkChange::FixedSource(error).into());
            }
            Err(error) => tracing::debug!("telling the server where we are: {error}"),
        }
        Ok(())
    }
}

/// An address at the other end of the tunnel.
fn other_end(network: &NetworkOptions) -> Option<IpAddr> {
    let v4 = network.route_gateway.map(IpAddr::V4);
    let v6 = network.ifconfig_ipv6.and_then(|(_, _, remote)| remote).or(network.route_ipv6_gateway);
    v4.or_else(|| v6.map(IpAddr::V6))
}

/// Sends a packet without content through an interface.
fn say_nothing(interface: &str, target: IpAddr) -> std::io::Result<()> {
    let any = match target {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    SockRef::from(&socket).bind_device(Some(interface.as_bytes()))?;
    socket.send_to(&[], (target, DISCARD)).map(drop)
}
