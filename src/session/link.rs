//! One connection's transport and control channel.

use std::time::{Duration, Instant};

use super::inactivity::Inactivity;
use crate::control::{Allowance, ControlChannel};
use crate::counters::{Counter, Counters};
use crate::profile::{Remote, SessionOptions};
use crate::transport::Transport;

/// What exists while one connection does.
pub(super) struct Link {
    pub(super) transport: Transport,
    pub(super) control: ControlChannel,
    pub(super) remote: Remote,
    /// The server answered.
    pub(super) contacted: bool,
    /// No answer by then: the server is not there.
    pub(super) answer_by: Instant,
    /// After the push.
    pub(super) options: Option<SessionOptions>,
    pub(super) inactivity: Option<Inactivity>,
    pub(super) ends_at: Option<Instant>,
    pub(super) logged_in: bool,
    /// The one sent for the first key.
    pub(super) username: String,
    /// Bytes that the server may have the control channel work on.
    pub(super) pace: Allowance,
}

impl Link {
    /// Takes in a packet. Data for a key that is not installed yet is none: the data channel takes
    /// the rest. A stranger's packet does not count: it must not keep the server's waiting.
    pub(super) fn received(&mut self, packet: &mut [u8]) {
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
    pub(super) fn deadline(&self, control: Option<Instant>) -> Instant {
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

