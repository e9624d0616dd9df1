//! [`ControlChannel::poll_output`]: everything that comes out of a control channel, in the one order
//! in which it may be acted on.

use std::time::Instant;

use ovpn_dco::KeyId;

use super::channel::{ControlChannel, Phase};
use super::error::{HostFailure, LimitReached};
use super::event::Event;
use super::packet::{AckList, Body, HEADER_LEN, Header, MAX_ACKS, MAX_PIGGYBACK_ACKS};
use super::session::KeySession;
use super::stats::ErrorCounter;
use super::wrap::WrapError;

/// Payload of a control packet, at least, whatever `max-packet-size` says.
const MIN_PAYLOAD: usize = 16;

/// Acknowledgements that very old and foreign servers take in one packet.
const LEGACY_MAX_ACKS: usize = 4;

/// What to do next.
#[derive(Debug)]
#[must_use = "acted on in the order in which they come"]
pub enum Output {
    /// Act on it before anything else is taken out.
    Event(Event),
    /// The buffer holds a packet: send it.
    Transmit,
    /// Nothing, before a packet comes or, at the latest, this time: then call
    /// [`ControlChannel::handle_timeout`]. `None`: nothing ever, it is closed.
    Wait(Option<Instant>),
}

impl ControlChannel {
    /// What to do next; call it again and again until it says [`Output::Wait`], after everything
    /// that went in, and after [`Event::Closed`], too (a TLS alert may be left to send).
    ///
    /// `packet` holds nothing of what it held before; a packet after [`Output::Transmit`]. `None`: the transport takes no more now;
    /// what is to be sent waits here.
    ///
    /// The order is part of the protocol. A server sends with a new key as soon as its last message
    /// is acknowledged, and a data channel without that key drops what it sends: [`Event::Keys`]
    /// comes before the packet that acknowledges. Nor does it open packets under a key before:
    /// [`Event::PromoteKey`] comes behind that packet. So does what takes its time
    /// ([`Event::Pushed`]: the server would send everything again), or ends the connection.
    pub fn poll_output(&mut self, now: Instant, packet: Option<&mut Vec<u8>>) -> Output {
        let urgent = self.events.iter().any(|event| !may_wait(event));
        if !urgent && let Some(packet) = packet {
            packet.clear();
            if self.transmit(now, packet) {
                return Output::Transmit;
            }
        }
        // Trying to send may have closed the channel, which is an event.
        match self.events.pop_front() {
            Some(event) => Output::Event(event),
            None => Output::Wait(self.deadline()),
        }
    }

    /// Appends the next packet to send; false if there is none.
    fn transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let elapsed = now.saturating_duration_since(self.started).as_secs();
        // Replay ids hold 32 bits of unix time on the wire.
        let unix_time = self.unix_time.wrapping_add(elapsed) as u32;
        let limit = self.options.max_packet_size.saturating_sub(self.lower_headers());
        let exporter = matches!(&self.phase, Phase::Up(up) if up.parameters.tls_ekm);
        let mut failed = None;
        for session in self.sessions.iter_mut() {
            let key_id = session.key_id();
            let wrapper = match &mut self.dynamic_wrapper {
                Some(dynamic) if key_id != KeyId::FIRST => dynamic,
                _ => &mut self.wrapper,
            };
            let max_acks = if wrapper.is_none() && !exporter { LEGACY_MAX_ACKS } else { MAX_ACKS };
            let room = |opcode| payload_room(limit, wrapper.overhead(opcode));
            let Some(packet) = session.poll_transmit(now, max_acks, room) else {
                continue;
            };
            let header = Header { opcode: packet.opcode, key_id, session_id: self.local }.encode();
            self.scratch.clear();
            let body = Body {
                acks: packet.acks,
                acked_session: self.peer,
                message_id: packet.message_id,
                payload: packet.payload,
            };
            body.encode(&mut self.scratch);
            let again = packet.again;
            if let Err(error) = wrapper.wrap(packet.opcode, &header, &self.scratch, unix_time, out)
            {
                failed = Some(error);
                break;
            }
            self.stats.packets_out += 1;
            self.stats.bytes_out += out.len() as u64;
            self.stats.retransmissions += u64::from(again);
            return true;
        }
        if let Some(error) = failed {
            self.stats.count(ErrorCounter::Encapsulation);
            self.close(match error {
                WrapError::Exhausted => LimitReached::PacketIds.into(),
                WrapError::Cipher => HostFailure::Encryption.into(),
            });
        }
        false
    }

    /// When there is something to do without a packet. Everything that can be sent now has been.
    fn deadline(&self) -> Option<Instant> {
        if matches!(self.phase, Phase::Closed) {
            return None;
        }
        let sessions = &self.sessions;
        let retransmit = [&sessions.current, &sessions.negotiating, &sessions.previous]
            .into_iter()
            .flatten()
            .filter_map(KeySession::deadline);
        let push = match &self.phase {
            Phase::Requesting(push) => [Some(push.deadline()), push.next_request()],
            _ => [None, None],
        };
        retransmit
            .chain(push.into_iter().flatten())
            .chain(self.alert_deadline())
            .chain(self.negotiation_deadline())
            .chain(self.slots.deadline())
            .chain(self.renegotiation_deadline())
            .min()
    }
}

/// Whether what is to be sent goes before this.
const fn may_wait(event: &Event) -> bool {
    matches!(
        event,
        Event::PromoteKey(_)
            | Event::Pushed { .. }
            | Event::Restart { .. }
            | Event::Halt { .. }
            | Event::AuthFailed(_)
            | Event::ServerExit
            | Event::Closed(_)
    )
}

/// Payload that fits a packet of `limit` bytes with the most acknowledgements it can carry.
fn payload_room(limit: usize, overhead: usize) -> usize {
    let fixed = HEADER_LEN + AckList::encoded_len(MAX_PIGGYBACK_ACKS) + 4;
    limit.saturating_sub(fixed + overhead).max(MIN_PAYLOAD)
}
