//! From the push reply to the end of the connection: there is a tunnel.

use std::time::{Duration, Instant};

use ovpn_dco::kernel::Api;
use ovpn_dco::{
    DataChannel, DataEvent, Error as DataError, KeyConfig, KeyId, NotInstalled, PeerDeletedReason,
};

use super::ending::{DataPathError, Ending, Loss};
use super::event::{ConnectionInfo, SessionState};
use super::fall_back::Broken;
use super::heard::{Heard, Pushed, Told, TunnelEvent};
use super::inactivity::{Inactivity, traffic};
use super::link::Link;
use super::negotiating::{Negotiating, until};
use super::over::{End, Over};
use super::roaming::index;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::control::{Event, NegotiatedParameters, PushedOptions};
use crate::counters::Counter;
use crate::ending;
use crate::profile::{Protocol, PushedState, SessionOptions, loggable};

/// Between one exit notification that nobody acknowledges and the next.
const EXIT_INTERVAL: Duration = Duration::from_millis(100);

/// How often the way to the server is asked how large packets may be: nothing tells what a router has
/// said about it.
const PATH_LOOK: Duration = Duration::from_secs(10);

/// How long a new key waits for what has the server take it to be written.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// A connection with a tunnel.
pub(super) struct Connected {
    pub(super) link: Link,
    pub(super) tunnel: Tunnel,
    /// What was pushed.
    pub(super) options: SessionOptions,
    /// The same as the server may update it.
    pub(super) pushed: PushedState,
    pub(super) stage: Stage,
    /// `inactive`
    pub(super) inactivity: Option<Inactivity>,
    /// `session-timeout`
    pub(super) ends_at: Option<Instant>,
    /// When to look at the way to the server again.
    pub(super) path_due: Instant,
}

/// How far a connection with a tunnel has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// There has never been a key to send with.
    Configured,
    /// It has worked, and has been announced.
    Working,
}

/// Why a connection does not simply go on.
#[derive(Debug)]
pub(super) enum Stop {
    End(End),
    /// Another data path may do.
    DataPath(Broken),
}

impl<T: Into<End>> From<T> for Stop {
    fn from(end: T) -> Self {
        Self::End(end.into())
    }
}

impl Connected {
    pub(super) fn new(
        link: Link,
        tunnel: Tunnel,
        options: SessionOptions,
        pushed: PushedState,
    ) -> Self {
        let (stage, path_due) = (Stage::Configured, Instant::now() + PATH_LOOK);
        Self { link, tunnel, options, pushed, stage, inactivity: None, ends_at: None, path_due }
    }

    /// Brings the tunnel up that the push reply describes, and lets the control channel derive keys.
    pub(super) async fn establish(
        negotiating: Negotiating,
        pushed: Pushed,
        shared: &mut Shared,
    ) -> Result<Self, Over> {
        let options = match accept(shared, negotiating.link.username(), &pushed) {
            Ok(options) => options,
            Err(ending) => return Err(negotiating.over(shared, ending.into()).await),
        };
        shared.enter(SessionState::Configuring);
        let begun = Instant::now();
        let Negotiating { mut link, kept, .. } = negotiating;
        let tunnel = match Box::pin(shared.bring_up(&mut link, &options, kept)).await {
            Ok(tunnel) => tunnel,
            Err(unmade) => {
                let (ending, left) = (unmade.failure.into(), unmade.left);
                return Err(shared.part(link, End::Ending(ending), false, left).await);
            }
        };
        let negotiated = NegotiatedParameters {
            cipher: options.cipher,
            tls_ekm: options.tls_ekm,
            dynamic_tls_crypt: options.dynamic_tls_crypt,
            cc_exit: options.cc_exit,
            app_control: options.app_control.clone(),
            reneg: options.reneg.unwrap_or(shared.config.options.control.reneg),
        };
        let pushed = PushedState::new(&pushed.options, &pushed.server_occ);
        let mut connected = Self::new(link, tunnel, options, pushed);
        connected.ends_at = connected.options.session_timeout.map(|after| begun + after);
        if let Some(rule) = connected.options.inactive {
            let traffic = connected.traffic(shared).await;
            connected.inactivity = Some(Inactivity::new(rule, Instant::now(), traffic));
        }
        match connected.link.control.accept_push(negotiated, Instant::now()) {
            Ok(()) => Ok(connected),
            Err(error) => Err(connected.over(shared, Ending::Control(error).into()).await),
        }
    }

    /// To the end.
    pub(super) async fn run(mut self, shared: &mut Shared) -> Over {
        loop {
            match self.step(shared).await {
                Ok(()) => {}
                Err(Stop::End(end)) => return self.over(shared, end).await,
                Err(Stop::DataPath(broken)) => match Box::pin(self.fall_back(shared, broken)).await
                {
                    Ok(connected) => self = connected,
                    Err(over) => return over,
                },
            }
        }
    }

    pub(super) async fn over(mut self, shared: &mut Shared, end: End) -> Over {
        if let End::Wish(_) | End::Ending(Ending::Inactive | Ending::SessionTimeout) = end {
            self.say_goodbye(shared).await;
        }
        let connected = self.stage == Stage::Working;
        shared.part(self.link, end, connected, Some(self.tunnel)).await
    }

    /// Acts on what there is, or waits for the next thing. An event source more is an arm more.
    pub(super) async fn step(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        while let Some(event) = self.link.poll()? {
            self.hear(shared, event).await?;
        }
        let (deadline, interface) = (self.deadline(), index(Some(&self.tunnel)));
        tokio::select! {
            moved = self.link.wait() => moved?,
            () = until(deadline) => self.timeout(shared).await?,
            event = self.tunnel.next_event() => self.data_event(shared, event)?,
            change = shared.roaming.changed(interface) => {
                Box::pin(self.changed(shared, change)).await?;
            }
            step = shared.extensions.next() => shared.perform(&mut self.link, step),
            command = shared.commands.next() => {
                if let Some(reply) = shared.obey(&mut self.link, command)? {
                    let link = Some(self.link.counters());
                    let counters = shared.counters(link, Some(&mut self.tunnel)).await;
                    // Whoever does not wait any more needs no answer.
                    let _ = reply.send(counters);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn hear(&mut self, shared: &mut Shared, event: Event) -> Result<(), Stop> {
        match event.into() {
            Heard::Told(told) => {
                // The first handshake was before the push reply.
                if matches!(told, Told::Tls { .. }) {
                    shared.statistics.count(Counter::Renegotiations);
                }
                shared.told(told)?;
            }
            Heard::Asked(asked) => shared.asked(&mut self.link, asked),
            Heard::Tunnel(TunnelEvent::Keys(key)) => {
                self.install_key(shared, key).await?;
                self.announce_first(shared).await;
            }
            Heard::Tunnel(TunnelEvent::Promote(key)) => self.promote_key(shared, key).await?,
            Heard::Tunnel(TunnelEvent::Retire(key)) => self.retire_key(shared, key).await?,
            Heard::Tunnel(TunnelEvent::PushedLater(options)) => {
                self.pushed_later(shared, &options)?;
            }
            Heard::Tunnel(TunnelEvent::Updated(update)) => {
                Box::pin(self.update(shared, &update)).await?;
            }
            Heard::Tunnel(TunnelEvent::RenegotiationFailed(reason)) => {
                if !self.tunnel.can_send().await {
                    return Err(Loss::NoKey(reason).into());
                }
                tracing::warn!("renegotiation failed, the old key stays in use: {reason}");
            }
            Heard::Negotiation(_) => {
                return Err(Ending::Disorder("a push reply after the one in force").into());
            }
        }
        Ok(())
    }

    /// Another push reply while the connection works: it may bring a new token.
    fn pushed_later(&self, shared: &mut Shared, pushed: &PushedOptions) -> Result<(), Ending> {
        let token = SessionOptions::token_from_push(&shared.config.options, pushed)?;
        if let Some(pushed) = token {
            shared.login.accept_token(pushed.token, pushed.username, self.link.username());
        }
        Ok(())
    }

    /// Once there is a key to send with: not yet, where an installation failed and a new key is on
    /// its way.
    pub(super) async fn announce_first(&mut self, shared: &mut Shared) {
        if self.stage == Stage::Configured && self.tunnel.can_send().await {
            self.stage = Stage::Working;
            shared.remotes.succeeded();
            self.announce(shared);
        }
    }

    /// Tells where and how we are connected.
    pub(super) fn announce(&self, shared: &Shared) {
        shared.enter(SessionState::Connected(self.info(shared)));
    }

    fn info(&self, shared: &Shared) -> ConnectionInfo {
        let (link, network) = (&self.link, &self.options.network);
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
        ConnectionInfo {
            protocol: link.remote.protocol,
            host: link.remote.host.clone(),
            address: link.transport.remote(),
            username: link.username().to_owned(),
            device: self.tunnel.interface().name.clone(),
            data_path: self.tunnel.plane().path(),
            data_path_reasons: self.tunnel.why_not_kernel.clone(),
            tunnel: addresses,
            gateways,
            mtu: shared.mtu(link, &self.options, self.tunnel.plane()),
            cipher: self.options.cipher,
            device_path: self.tunnel.device_path.clone(),
            tls: shared.tls_parameters.clone().map(Box::new),
            network: Box::new(shared.network.configured()),
        }
    }

    /// When to look at the time next.
    fn deadline(&self) -> Option<Instant> {
        let inactive = self.inactivity.as_ref().map(Inactivity::deadline);
        [inactive, self.ends_at, Some(self.path_due)].into_iter().flatten().min()
    }

    async fn timeout(&mut self, shared: &mut Shared) -> Result<(), Ending> {
        let now = Instant::now();
        if now >= self.path_due {
            self.path_due = now + PATH_LOOK;
            Box::pin(self.follow_path(shared)).await?;
        }
        if self.ends_at.is_some_and(|at| now >= at) {
            return Err(Ending::SessionTimeout);
        }
        if self.inactivity.as_ref().is_some_and(|watch| now >= watch.deadline()) {
            let traffic = self.traffic(shared).await;
            if self.inactivity.as_mut().is_some_and(|watch| watch.is_idle(now, traffic)) {
                return Err(Ending::Inactive);
            }
        }
        Ok(())
    }

    /// What went through the tunnel since the session started, in bytes.
    pub(super) async fn traffic(&mut self, shared: &mut Shared) -> u64 {
        let with_keepalives = self.tunnel.plane().api() == Some(Api::OvpnDcoV2);
        traffic(&shared.counters(None, Some(&mut self.tunnel)).await, with_keepalives)
    }

    pub(super) fn data_event(&mut self, shared: &mut Shared, event: DataEvent) -> Result<(), Stop> {
        match event {
            DataEvent::PeerDeleted(PeerDeletedReason::Expired) => {
                let exit = self.options.ping_timeout.is_some_and(|timeout| timeout.exit);
                Err(Ending::PingTimeout { exit }.into())
            }
            DataEvent::PeerDeleted(
                PeerDeletedReason::TransportError | PeerDeletedReason::TransportDisconnect,
            ) => Err(Loss::Transport.into()),
            DataEvent::PeerDeleted(
                reason @ (PeerDeletedReason::Teardown | PeerDeletedReason::Userspace),
            ) => Err(Loss::PeerDeleted(reason).into()),
            DataEvent::KeyExhausted(key) => {
                tracing::info!("key {key} is nearly used up: renegotiating");
                shared.statistics.count(Counter::KeyLimitRenegotiations);
                self.link.control.renegotiate(Instant::now());
                Ok(())
            }
            DataEvent::Floated(address) => {
                tracing::info!("the server is reached at {address} now");
                Ok(())
            }
            DataEvent::PeerExit => Err(Ending::ServerExit.into()),
            DataEvent::Failed(why) => {
                Err(Stop::DataPath(Broken { why: DataPathError::Failed(why), key: None }))
            }
        }
    }

    pub(super) async fn install_key(
        &mut self,
        shared: &mut Shared,
        key: KeyConfig,
    ) -> Result<(), Stop> {
        let installed = self.tunnel.channel().install(key).await;
        installed.or_else(|failed| self.repair(shared, failed))
    }

    pub(super) async fn promote_key(
        &mut self,
        shared: &mut Shared,
        key: KeyId,
    ) -> Result<(), Stop> {
        // What has the server take the key may wait for a full stream to have room; the kernel's packets
        // would pass it, and are dropped there until it comes. An error is told by what reads.
        let _ = tokio::time::timeout(WRITE_LIMIT, self.link.flush()).await;
        let promoted = self.tunnel.promote_key(key).await;
        promoted.or_else(|error| self.repair(shared, error.into()))
    }

    pub(super) async fn retire_key(&mut self, shared: &mut Shared, key: KeyId) -> Result<(), Stop> {
        let retired = self.tunnel.channel().retire(key).await;
        retired.or_else(|error| self.repair(shared, error.into()))
    }

    /// A key operation failed.
    fn repair(&mut self, shared: &mut Shared, failed: NotInstalled) -> Result<(), Stop> {
        match failed.error {
            DataError::NoSuchPeer => Err(Loss::NoPeer.into()),
            DataError::NoSuchKey(key) => {
                tracing::warn!("the data channel has lost key {key}: renegotiating");
                shared.statistics.count(Counter::KeyStateError);
                self.link.control.renegotiate(Instant::now());
                Ok(())
            }
            error => Err(Stop::DataPath(Broken { why: error.into(), key: failed.key })),
        }
    }

    /// Tells the server that we leave, and gives it a moment to hear it.
    pub(super) async fn say_goodbye(&mut self, shared: &mut Shared) {
        if self.link.transport.protocol() != Protocol::Udp {
            return;
        }
        let now = Instant::now();
        if self.link.control.send_exit(now) {
            self.link.flush_exit(shared, now + ending::GOODBYE).await;
        } else {
            notify_exit(&mut self.tunnel, self.options.exit_notices).await;
        }
    }
}

/// What the push reply makes of the profile.
fn accept(shared: &mut Shared, username: &str, pushed: &Pushed) -> Result<SessionOptions, Ending> {
    for option in pushed.options.iter() {
        tracing::debug!("pushed: {}", loggable(option));
    }
    let (profile, server_occ) = (&shared.config.options, &pushed.server_occ);
    let mut options = SessionOptions::from_push(profile, &pushed.options, server_occ)?;
    for ignored in &options.ignored {
        tracing::info!("pushed option ignored: {ignored}");
    }
    if let Some(token) = options.auth_token.take() {
        shared.login.accept_token(token, options.auth_token_user.take(), username);
    }
    if options.auth_nocache {
        shared.login.forget_once_sent();
    }
    Ok(options)
}

/// Over the data channel, where nothing is acknowledged.
async fn notify_exit(tunnel: &mut Tunnel, times: u32) {
    for time in 0..times {
        if time > 0 {
            tokio::time::sleep(EXIT_INTERVAL).await;
        }
        match tunnel.channel().notify_exit().await {
            Ok(()) => {}
            Err(DataError::Unsupported { .. }) => return,
            Err(e) => return tracing::debug!("exit notification: {e}"),
        }
    }
}
