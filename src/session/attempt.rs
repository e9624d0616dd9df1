//! One connection: from the server's name to the end of the transport.

use std::time::{Duration, Instant};

use ovpn_dco::kernel::Api;
use ovpn_dco::{DataEvent, Error as DataError, PeerDeletedReason};
use tokio::time::sleep_until;

use super::commands::{Command, Wish};
use super::event::{SessionEvent, SessionState};
use super::inactivity::{Inactivity, traffic};
use super::life::End;
use super::link::Link;
use super::posture;
use super::reconnect::Ending;
use super::shared::Session;
use super::signing;
use crate::control::{Event, NegotiatedParameters, Output, PendingAuth};
use crate::counters::{Counter, Counters};
use crate::ending;
use crate::profile::{Protocol, PushError, SessionOptions, loggable};

/// Between one exit notification that nobody acknowledges and the next.
const EXIT_INTERVAL: Duration = Duration::from_millis(100);
/// Packets that are read after the transport broke, at most.
const LAST_WORDS: usize = 512;
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
