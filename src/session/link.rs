//! One connection's transport and control channel, and the only mover of control packets between
//! them.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::ending::{Ending, Loss};
use super::heard::Heard;
use super::login::Login;
use super::shared::Shared;
use crate::control::{Allowance, ControlChannel, Event, Output};
use crate::counters::{Counter, Counters};
use crate::profile::{NetworkOptions, Protocol, Remote};
use crate::transport::Transport;

/// Bytes of control packets that are worked on: so many at once (more than the longest push reply),
/// so many a second. Beyond it the socket is not read: the server has to wait.
const PACE: (u32, f64) = (1024 * 1024, 128.0 * 1024.0);
/// Packets that are read after the transport broke, at most.
const LAST_WORDS: usize = 512;
/// A control channel always has a timer; this is only a bound.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A connection to a server.
pub(super) struct Link {
    pub(super) transport: Transport,
    pub(super) control: ControlChannel,
    pub(super) remote: Remote,
    /// The largest packet that the way to the server takes in one piece, bytes; `None`: unknown.
    pub(super) path: Option<u16>,
    /// The one sent for the first key; `None`: nothing has been sent yet.
    username: Option<String>,
    /// Bytes that the server may have the control channel work on.
    pace: Allowance,
    /// When the control channel wants to be called again, if no packet comes.
    until: Option<Instant>,
    packet: Vec<u8>,
}

impl Link {
    pub(super) const fn new(remote: Remote, transport: Transport, control: ControlChannel) -> Self {
        Self {
            transport,
            control,
            remote,
            path: None,
            username: None,
            pace: Allowance::new(PACE.0, PACE.1),
            until: None,
            packet: Vec::new(),
        }
    }

    /// The user name that the connection began with; empty if there was none.
    pub(super) fn username(&self) -> &str {
        self.username.as_deref().unwrap_or_default()
    }

    /// The next event of the control channel. What is to be sent before it is sent; what is to be
    /// sent after it waits for the next call, by when the event must have been acted on. `None`:
    /// there is nothing to do but to [wait](Self::wait).
    pub(super) fn poll(&mut self) -> Result<Option<Event>, Ending> {
        loop {
            let room = self.transport.has_room().then_some(&mut self.packet);
            match self.control.poll_output(Instant::now(), room) {
                Output::Event(event) => return Ok(Some(event)),
                Output::Transmit => self.transport.send(&self.packet).map_err(Loss::Send)?,
                Output::Wait(until) => {
                    self.until = until;
                    return Ok(None);
                }
            }
        }
    }

    /// Waits for a packet, or until time has passed that the control channel waits for, and hands it
    /// either. Cancel safe.
    pub(super) async fn wait(&mut self) -> Result<(), Ending> {
        let until = self.until.unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
        let paced = self.pace.ready_at();
        tokio::select! {
            received = self.transport.recv(&mut self.packet), if paced.is_none() => {
                received.map_err(broke)?;
                self.received();
            }
            () = sleep_until(paced.unwrap_or(until).into()), if paced.is_some() => {
                self.pace.spend(0, Instant::now());
            }
            () = sleep_until(until.into()) => self.control.handle_timeout(Instant::now()),
        }
        Ok(())
    }

    /// Takes in a packet. Data for a key that is not installed yet is none: the data channel takes
    /// the rest. A stranger's packet does not count: it must not keep the server's waiting.
    fn received(&mut self) {
        let now = Instant::now();
        if self.packet.first().is_some_and(|byte| !ovpn_dco::is_data_packet(*byte))
            && self.control.handle_packet(&mut self.packet, now)
        {
            self.pace.spend(self.packet.len(), now);
        }
    }

    /// What the server said before the transport broke: why the connection ends is worth more than
    /// that it does. Nothing is set up or installed any more.
    pub(super) async fn last_words(&mut self, shared: &mut Shared) -> Option<Ending> {
        for _ in 0..LAST_WORDS {
            // The stream takes nothing any more.
            while let Output::Event(event) = self.control.poll_output(Instant::now(), None) {
                if let Heard::Told(told) = event.into()
                    && let Err(ending) = shared.told(told)
                {
                    return Some(ending);
                }
            }
            if !self.transport.recv_arrived(&mut self.packet).await {
                break;
            }
            self.received();
        }
        None
    }

    /// What the transport's end means where the server said nothing more: it closes a stream where
    /// over UDP it would be silent.
    pub(super) fn explain(&self, loss: Loss) -> Ending {
        use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
        match loss {
            Loss::Receive(error) if matches!(error.kind(), UnexpectedEof | ConnectionReset) => {
                if self.control.last_received().is_none() {
                    Loss::Wordless(error)
                } else if self.control.hello_is_unanswered() {
                    Loss::Hello(error)
                } else {
                    Loss::Receive(error)
                }
            }
            loss => loss,
        }
        .into()
    }

    /// Gives an exit message, which [`ControlChannel::send_exit`] has made, until then to arrive.
    pub(super) async fn flush_exit(&mut self, shared: &mut Shared, until: Instant) {
        loop {
            match self.poll() {
                Ok(Some(event)) => {
                    // Nothing else matters any more.
                    if let Heard::Told(told) = event.into()
                        && shared.told(told).is_err()
                    {
                        return;
                    }
                }
                Ok(None) if self.control.has_unacknowledged() => tokio::select! {
                    moved = self.wait() => if moved.is_err() { return },
                    () = sleep_until(until.into()) => return,
                },
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Reads and writes until the stream stands between two packets with nothing left to send, and
    /// nothing left to read: `ovpn-dco-v2` would not look at it before more arrives.
    pub(super) async fn come_to_boundary(&mut self) -> Result<(), Ending> {
        self.transport.flush().await.map_err(broke)?;
        while !self.transport.at_packet_boundary() || self.transport.has_unread() {
            self.transport.recv(&mut self.packet).await.map_err(broke)?;
            self.received();
        }
        Ok(())
    }

    /// Writes what the stream could not take at once.
    pub(super) async fn flush(&mut self) -> Result<(), Ending> {
        self.transport.flush().await.map_err(broke)
    }

    /// Lends the key exchange that waits what it has to send. False: there is nothing.
    pub(super) fn log_in(&mut self, login: &mut Login) -> bool {
        let Some(credentials) = login.next() else { return false };
        let username = credentials.username.clone();
        if self.control.log_in(credentials, Instant::now()) {
            self.username.get_or_insert(username);
            login.sent();
        }
        true
    }

    /// Asks the kernel how large packets to the server may be. True: it is not what it was. `own`: the
    /// tunnel's addresses; a way that leads through the tunnel itself says nothing.
    pub(super) fn look_at_path(&mut self, own: &NetworkOptions) -> bool {
        if self.transport.protocol() != Protocol::Udp {
            return false;
        }
        let own = [
            own.ifconfig.map(|(address, _)| address.into()),
            own.ifconfig_ipv6.map(|(address, ..)| address.into()),
        ];
        let path = match self.transport.path_now() {
            Ok((source, path)) if !own.contains(&Some(source)) => path,
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!("how large packets to the server may be: {error}");
                return false;
            }
        };
        self.path.replace(path) != Some(path)
    }

    /// What the control channel and its packets' way have counted.
    pub(super) fn counters(&self) -> Counters {
        let stats = self.control.stats();
        let mut counters = Counters::default();
        counters.add(Counter::BytesIn, stats.bytes_in);
        counters.add(Counter::BytesOut, stats.bytes_out);
        counters.add(Counter::PacketsIn, stats.packets_in);
        counters.add(Counter::PacketsOut, stats.packets_out);
        counters.add(Counter::NetworkSendError, self.transport.send_errors());
        for (counter, amount) in stats.errors() {
            counters.add(counter, amount);
        }
        counters
    }
}

fn broke(error: std::io::Error) -> Ending {
    Loss::Receive(error).into()
}
