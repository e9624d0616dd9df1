//! One connection: from the server's name to the end of the transport.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ovpn_dco::kernel::Api;
use ovpn_dco::{DataEvent, Error as DataError, PeerDeletedReason};
use rand::RngExt;
use tokio::time::sleep_until;

use super::commands::{Command, Wish};
use super::event::{SessionEvent, SessionState};
use super::host;
use super::inactivity::{Inactivity, traffic};
use super::posture::{self, Posture};
use super::reconnect::Ending;
use super::resolve::{self, Outside};
use super::run::{End, Session};
use super::signing;
use crate::control::{
    Allowance, ControlChannel, ControlConfig, Event, NegotiatedParameters, Output, PendingAuth,
    TransportKind,
};
use crate::counters::{Counter, Counters};
use crate::data_path::Decision;
use crate::ending;
use crate::network::RouteQuery;
use crate::profile::{
    Family, PeerInfoExtra, Protocol, PushError, Remote, SessionOptions, loggable, occ_string,
    peer_info,
};
use crate::transport::{SocketOptions, Transport, TransportError};

/// Between one exit notification that nobody acknowledges and the next.
const EXIT_INTERVAL: Duration = Duration::from_millis(100);
/// Packets that are read after the transport broke, at most.
const LAST_WORDS: usize = 512;
/// `IV_SSL`
const TLS_LIBRARY: &str = "rustls, aws-lc";

/// Bytes of control packets that are worked on: so many at once (more than the longest push reply),
/// so many a second. Beyond it the socket is not read: the server has to wait.
const PACE: (u32, f64) = (1024 * 1024, 128.0 * 1024.0);

/// What exists while one connection does.
pub(super) struct Link {
    pub(super) transport: Transport,
    pub(super) control: ControlChannel,
    pub(super) remote: Remote,
    /// The server answered.
    contacted: bool,
    /// No answer by then: the server is not there.
    answer_by: Instant,
    /// After the push.
    pub(super) options: Option<SessionOptions>,
    inactivity: Option<Inactivity>,
    ends_at: Option<Instant>,
    logged_in: bool,
    /// The one sent for the first key.
    pub(super) username: String,
    /// Bytes that the server may have the control channel work on.
    pace: Allowance,
}

impl Session {
    /// Runs one attempt to its end. Afterwards the transport is closed and the tunnel has no peer.
    pub(super) async fn attempt(&mut self) -> End {
        if let Some(posture) = &mut self.posture
            && let Err(wish) = self.commands.or_wish(&self.statistics, posture.look_up()).await
        {
            return wish.into();
        }
        let (remote, transport) = match self.open().await {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        let mut link = match self.link(remote, transport) {
            Ok(link) => link,
            Err(ending) => return ending.into(),
        };
        let end = self.drive(&mut link).await;
        if let End::Wish(_) | End::Ending(Ending::Inactive | Ending::SessionTimeout) = end {
            self.say_goodbye(&mut link).await;
        }
        if let Some(tunnel) = &mut self.tunnel {
            self.statistics.add_all(&tunnel.del_peer().await);
        }
        self.statistics.add_all(&link.statistics());
        if let Some(signing) = &mut self.signing {
            signing.forget();
        }
        if let Some(posture) = &mut self.posture {
            posture.forget_checks();
        }
        end
    }

    /// Finds the server and opens a socket to it.
    async fn open(&mut self) -> Result<(Remote, Transport), End> {
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

    /// Moves packets and time until something ends the connection.
    pub(super) async fn drive(&mut self, link: &mut Link) -> End {
        match self.converse(link).await {
            End::Ending(Ending::Lost(why)) => {
                self.last_words(link).await.unwrap_or(Ending::Lost(why)).into()
            }
            end => end,
        }
    }

    async fn converse(&mut self, link: &mut Link) -> End {
        let mut packet = Vec::new();
        loop {
            let until = match self.drain(link).await {
                Ok(until) => until,
                Err(ending) => return ending.into(),
            };
            let (deadline, paced) = (link.deadline(until), link.pace.ready_at());
            let tunnel = self.tunnel.as_mut().filter(|tunnel| tunnel.has_peer());
            tokio::select! {
                received = link.transport.recv(&mut packet), if paced.is_none() => {
                    if let Err(e) = received {
                        return Ending::Lost(format!("the connection to the server broke: {e}")).into();
                    }
                    link.received(&mut packet);
                }
                () = sleep_until(paced.unwrap_or(deadline).into()), if paced.is_some() => {
                    link.pace.spend(0, Instant::now());
                }
                () = sleep_until(deadline.into()) => {
                    if let Err(ending) = self.timeout(link).await {
                        return ending.into();
                    }
                }
                event = next_event(tunnel) => {
                    if let Err(ending) = self.data_event(link, event).await {
                        return ending.into();
                    }
                }
                step = next_signing(self.signing.as_mut()) => match step {
                    signing::Step::Ask(request) => self.tell(SessionEvent::Sign(request)),
                    signing::Step::Progress => link.control.handle_tls_ready(Instant::now()),
                },
                check = posture::next_check(self.posture.as_mut()) => {
                    posture::answer(&mut link.control, check);
                }
                command = self.commands.next() => match command {
                    Command::Wish(Wish::Resume) => {}
                    Command::Wish(wish) => return wish.into(),
                    Command::Respond(response) => {
                        link.control.respond(response.expose(), Instant::now());
                    }
                    Command::LogIn { credentials, one_time } => {
                        self.login.renew(credentials, one_time);
                        self.log_in(link);
                    }
                    Command::Sign { id, signature } => {
                        if !self.signing.as_mut().is_some_and(|s| s.answer(id, signature)) {
                            tracing::warn!("signature {id} came too late: nothing waits for it");
                        }
                    }
                    Command::Statistics(reply) => {
                        let _ = reply.send(self.statistics_now(&link.statistics()).await);
                    }
                    Command::Ping(reply) => drop(reply.send(())),
                }
            }
        }
    }

    /// Does what the control channel says; until when there is nothing else to do for it.
    async fn drain(&mut self, link: &mut Link) -> Result<Option<Instant>, Ending> {
        let mut packet = Vec::new();
        loop {
            let room = link.transport.has_room().then_some(&mut packet);
            match link.control.poll_output(Instant::now(), room) {
                Output::Event(event) => self.control_event(link, event).await?,
                Output::Transmit => link
                    .transport
                    .send(&packet)
                    .map_err(|e| Ending::Lost(format!("cannot send to the server: {e}")))?,
                Output::Wait(until) => return Ok(until),
            }
        }
    }

    /// What the server said before the transport broke: why the connection ends is worth more than
    /// that it does. Nothing is set up or installed any more.
    async fn last_words(&mut self, link: &mut Link) -> Option<Ending> {
        let mut packet = Vec::new();
        for _ in 0..LAST_WORDS {
            // The stream takes nothing any more.
            while let Output::Event(event) = link.control.poll_output(Instant::now(), None) {
                match event {
                    Event::Restart { .. }
                    | Event::Halt { .. }
                    | Event::AuthFailed(_)
                    | Event::ServerExit
                    | Event::Closed(_)
                    | Event::Info(_)
                    | Event::PendingAuth(_) => {
                        if let Err(ending) = self.control_event(link, event).await {
                            return Some(ending);
                        }
                    }
                    _ => {}
                }
            }
            if !link.transport.recv_arrived(&mut packet).await {
                break;
            }
            link.received(&mut packet);
        }
        None
    }

    pub(super) async fn control_event(
        &mut self,
        link: &mut Link,
        event: Event,
    ) -> Result<(), Ending> {
        match event {
            Event::ServerContacted => {
                link.contacted = true;
                self.enter(SessionState::Authenticating);
            }
            Event::TlsEstablished { key_id, description } => {
                tracing::info!("TLS for key {key_id}: {description}");
            }
            Event::ConfigRequested => self.enter(SessionState::GetConfig),
            Event::Pushed { options, server_occ } => {
                self.pushed(link, &options, &server_occ).await?
            }
            Event::LoginNeeded if self.log_in(link) => {}
            Event::LoginNeeded => {
                tracing::info!("a renegotiation needs user name and password again");
                self.tell(SessionEvent::CredentialsNeeded);
            }
            Event::PushedLater { options } => self.pushed_later(link, &options)?,
            Event::Keys(key) => {
                self.install_key(link, key).await?;
                if !self.connected && self.can_send().await {
                    self.connected(link);
                }
            }
            Event::PromoteKey(key) => self.promote_key(link, key).await?,
            Event::RetireKey(key) => self.retire_key(link, key).await?,
            Event::Info(text) => {
                self.tell(SessionEvent::Info(text));
            }
            Event::PendingAuth(pending) => {
                if let PendingAuth::OpenUrl { flags, .. } = &pending {
                    tracing::debug!("web authentication, flags {flags:?}");
                }
                self.tell(SessionEvent::PendingAuth(pending));
            }
            Event::AuthPending { timeout } => {
                tracing::info!(
                    "the server waits for an authentication step outside{}",
                    timeout.map_or_else(String::new, |t| format!(" (up to {} s)", t.as_secs()))
                );
            }
            Event::AppControl(message) => {
                if let Some(posture) = &mut self.posture {
                    posture.consider(message);
                }
            }
            Event::Restart { reason, flags } => return Err(Ending::ServerRestart(reason, flags)),
            Event::Halt { reason } => return Err(Ending::Halted(reason)),
            Event::AuthFailed(failed) => return Err(Ending::AuthFailed(failed)),
            Event::ServerExit => return Err(Ending::ServerExit),
            Event::RenegotiationFailed { reason } => {
                if !self.can_send().await {
                    return Err(Ending::Lost(format!("there is no key to send with: {reason}")));
                }
                tracing::warn!("renegotiation failed, the old key stays in use: {reason}");
            }
            Event::Closed(error) => return Err(Ending::Control(error)),
        }
        Ok(())
    }

    /// The push reply is complete: bring the tunnel up and let the control channel derive keys.
    async fn pushed(
        &mut self,
        link: &mut Link,
        pushed: &[String],
        server_occ: &str,
    ) -> Result<(), Ending> {
        for option in pushed {
            tracing::debug!("pushed: {}", loggable(option));
        }
        let mut options = SessionOptions::from_push(&self.config.options, pushed, server_occ)
            .map_err(unusable_push)?;
        for ignored in &options.ignored {
            tracing::info!("pushed option ignored: {ignored}");
        }
        if let Some(token) = options.auth_token.take() {
            self.login.accept_token(token, options.auth_token_user.take(), &link.username);
        }
        if options.auth_nocache {
            self.login.forget_once_sent();
        }
        self.enter(SessionState::Configuring);
        let negotiated = NegotiatedParameters {
            cipher: options.cipher,
            tls_ekm: options.tls_ekm,
            dynamic_tls_crypt: options.dynamic_tls_crypt,
            cc_exit: options.cc_exit,
            app_control: options.app_control.clone(),
            reneg: options.reneg.unwrap_or(self.config.options.control.reneg),
        };
        link.ends_at = options.session_timeout.map(|after| Instant::now() + after);
        link.options = Some(options.clone());
        self.bring_up(link, &options).await?;
        if let Some(rule) = options.inactive {
            link.inactivity = Some(Inactivity::new(rule, Instant::now(), self.traffic().await));
        }
        link.control.accept_push(negotiated, Instant::now()).map_err(Ending::Control)
    }

    /// Another push reply while the connection works: it may bring a new token.
    fn pushed_later(&mut self, link: &mut Link, pushed: &[String]) -> Result<(), Ending> {
        let token =
            SessionOptions::token_from_push(&self.config.options, pushed).map_err(unusable_push)?;
        if let Some(pushed) = token {
            self.login.accept_token(pushed.token, pushed.username, &link.username);
        }
        Ok(())
    }

    /// Lends the key exchange that waits what it has to send. False: there is nothing.
    fn log_in(&mut self, link: &mut Link) -> bool {
        let first = !link.logged_in;
        let login =
            if first { self.login.for_connection() } else { self.login.for_renegotiation() };
        let Some(credentials) = login else { return false };
        if first {
            link.username.clone_from(&credentials.username);
        }
        if link.control.log_in(credentials, Instant::now()) {
            link.logged_in = true;
            self.login.sent();
        }
        true
    }

    fn connected(&mut self, link: &Link) {
        self.connected = true;
        self.remotes.succeeded();
        self.announce(link);
    }

    /// Tells where and how we are connected.
    pub(super) fn announce(&self, link: &Link) {
        if let Some(info) = self.connection_info(link) {
            self.enter(SessionState::Connected(info));
        }
    }

    async fn timeout(&mut self, link: &mut Link) -> Result<(), Ending> {
        let now = Instant::now();
        link.control.handle_timeout(now);
        if !link.contacted && now >= link.answer_by {
            return Err(Ending::NoAnswer(self.config.options.retry.server_poll_timeout));
        }
        if link.ends_at.is_some_and(|at| now >= at) {
            return Err(Ending::SessionTimeout);
        }
        if let Some(watch) = &mut link.inactivity
            && now >= watch.deadline()
            && watch.is_idle(now, self.traffic().await)
        {
            return Err(Ending::Inactive);
        }
        Ok(())
    }

    /// What went through the tunnel since the session started, in bytes.
    pub(super) async fn traffic(&mut self) -> u64 {
        let api = self.tunnel.as_ref().and_then(|tunnel| tunnel.plane().api());
        traffic(&self.statistics_now(&Counters::default()).await, api == Some(Api::OvpnDcoV2))
    }

    pub(super) async fn data_event(
        &mut self,
        link: &mut Link,
        event: DataEvent,
    ) -> Result<(), Ending> {
        match event {
            DataEvent::PeerDeleted(PeerDeletedReason::Expired) => {
                let exit = link
                    .options
                    .as_ref()
                    .and_then(|options| options.ping_timeout)
                    .is_some_and(|timeout| timeout.exit);
                Err(Ending::PingTimeout { exit })
            }
            DataEvent::PeerDeleted(
                PeerDeletedReason::TransportError | PeerDeletedReason::TransportDisconnect,
            ) => Err(Ending::Lost("the data channel's transport broke".to_owned())),
            DataEvent::PeerDeleted(
                reason @ (PeerDeletedReason::Teardown | PeerDeletedReason::Userspace),
            ) => Err(Ending::Lost(format!(
                "something else deleted the data channel's peer ({reason:?})"
            ))),
            DataEvent::KeyExhausted(key) => {
                tracing::info!("key {key} is nearly used up: renegotiating");
                self.statistics.count(Counter::KeyLimitRenegotiations);
                link.control.renegotiate(Instant::now());
                Ok(())
            }
            DataEvent::Floated(address) => {
                tracing::info!("the server is reached at {address} now");
                Ok(())
            }
            DataEvent::PeerExit => Err(Ending::ServerExit),
            DataEvent::Failed(reason) => self.fall_back(link, &reason, None).await,
        }
    }

    /// Tells the server that we leave, and gives it a moment to hear it.
    pub(super) async fn say_goodbye(&mut self, link: &mut Link) {
        let Some(options) = &link.options else { return };
        if link.transport.protocol() != Protocol::Udp {
            return;
        }
        let now = Instant::now();
        if !link.control.send_exit(now) {
            if let Some(tunnel) = &mut self.tunnel {
                notify_exit(tunnel, options.exit_notices).await;
            }
            return;
        }
        let until = now + ending::GOODBYE;
        let mut packet = Vec::new();
        while self.drain(link).await.is_ok() && link.control.has_unacknowledged() {
            tokio::select! {
                received = link.transport.recv(&mut packet) => {
                    if received.is_err() {
                        return;
                    }
                    link.received(&mut packet);
                }
                () = sleep_until(until.into()) => return,
            }
        }
    }

    async fn statistics_now(&mut self, link: &Counters) -> Counters {
        let mut now = self.statistics.clone();
        now.add_all(link);
        if let Some(tunnel) = &mut self.tunnel {
            now.add_all(&tunnel.counters().await);
        }
        now
    }
}

impl Link {
    /// Takes in a packet. Data for a key that is not installed yet is none: the data channel takes
    /// the rest. A stranger's packet does not count: it must not keep the server's waiting.
    fn received(&mut self, packet: &mut [u8]) {
        let now = Instant::now();
        if packet.first().is_some_and(|byte| !ovpn_dco::is_data_packet(*byte))
            && self.control.handle_packet(packet, now)
        {
            self.pace.spend(packet.len(), now);
        }
    }

    /// Reads and writes until the stream stands between two packets with nothing left to send, and
    /// nothing left to read: `ovpn-dco-v2` would not look at it before more arrives.
    pub(super) async fn come_to_boundary(&mut self) -> std::io::Result<()> {
        self.transport.flush().await?;
        let mut packet = Vec::new();
        while !self.transport.at_packet_boundary() || self.transport.has_unread() {
            self.transport.recv(&mut packet).await?;
            self.received(&mut packet);
        }
        Ok(())
    }

    /// What the control channel and its packets' way have counted.
    pub(super) fn statistics(&self) -> Counters {
        let stats = self.control.stats();
        let mut statistics = Counters::default();
        statistics.add(Counter::BytesIn, stats.bytes_in);
        statistics.add(Counter::BytesOut, stats.bytes_out);
        statistics.add(Counter::PacketsIn, stats.packets_in);
        statistics.add(Counter::PacketsOut, stats.packets_out);
        statistics.add(Counter::NetworkSendError, self.transport.send_errors());
        for (counter, amount) in stats.errors() {
            statistics.add(counter, amount);
        }
        statistics
    }

    /// `control`: the control channel's own.
    fn deadline(&self, control: Option<Instant>) -> Instant {
        let answer = (!self.contacted).then_some(self.answer_by);
        let inactive = self.inactivity.as_ref().map(Inactivity::deadline);
        [control, answer, inactive, self.ends_at]
            .into_iter()
            .flatten()
            .min()
            // A control channel always has a timer; this is only a bound.
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(60))
    }
}

fn unusable_push(error: PushError) -> Ending {
    match error {
        PushError::Rejected { .. } => Ending::PushRejected(error.to_string()),
        error => Ending::Unusable(error.to_string()),
    }
}

/// Over the data channel, where nothing is acknowledged.
async fn notify_exit(tunnel: &mut super::tunnel::Tunnel, times: u32) {
    for time in 0..times {
        if time > 0 {
            tokio::time::sleep(EXIT_INTERVAL).await;
        }
        match tunnel.notify_exit().await {
            Ok(()) => {}
            Err(DataError::Unsupported { .. }) => return,
            Err(e) => return tracing::debug!("exit notification: {e}"),
        }
    }
}

async fn next_event(tunnel: Option<&mut super::tunnel::Tunnel>) -> DataEvent {
    match tunnel {
        Some(tunnel) => tunnel.next_event().await,
        None => std::future::pending().await,
    }
}

async fn next_signing(signing: Option<&mut signing::Signing>) -> signing::Step {
    match signing {
        Some(signing) => signing.next().await,
        None => std::future::pending().await,
    }
}
