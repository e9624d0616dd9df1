//! A peer with its connection: everything that exists from `new_peer` to `del_peer`.

use std::ops::Range;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ovpn_dco::{
    ControlPort, DataEvent, Error, KeyConfig, PeerConfig, PeerDeletedReason, PeerStats,
    is_data_packet,
};
use tokio::sync::mpsc;

use crate::early::Early;
use crate::inflate::{Algorithm, Inflated};
use crate::keepalive::{Due, Timers};
use crate::message;
use crate::offload::coalesce::Coalescer;
use crate::offload::split::Plan;
use crate::options::{Extras, Options};
use crate::peer::{Opened, Peer};
use crate::recursion::Guard;
use crate::stats::{Counters, Faults};
use crate::transport::{Gone, Received, Transport};

/// Control packets that wait to be read; more are dropped, and the control channel retransmits.
const INCOMING: usize = 256;
/// Control packets that wait to be sent.
const OUTGOING: usize = 64;
/// Reads for what a server has said before its stream broke: more than a receive buffer holds.
const LAST_READS: usize = 256;

pub(crate) struct Link {
    pub(crate) peer: Peer,
    pub(crate) transport: Transport,
    pub(crate) timers: Timers,
    incoming: mpsc::Sender<Vec<u8>>,
    outgoing: Option<mpsc::Receiver<Vec<u8>>>,
    early: Early,
    /// Where the server may compress.
    inflated: Option<Inflated>,
    /// That something could not be decompressed.
    compression_told: bool,
    guard: Option<Guard>,
    /// Packets that it has caught.
    recursive: u64,
    /// Once is enough, however often the server says it.
    exit_told: bool,
    /// A control packet that the socket did not take yet.
    waiting: Option<Vec<u8>>,
    /// The socket takes nothing until it is writable.
    blocked: bool,
}

/// A packet or super-packet on its way out, and how far it has got.
#[derive(Debug)]
pub(crate) struct Outbound<'a> {
    pub(crate) packet: &'a [u8],
    pub(crate) plan: Plan,
    pub(crate) next: &'a mut usize,
}

impl Link {
    pub(crate) fn new(
        config: PeerConfig,
        extras: &Extras,
        options: &Options,
        now: Instant,
    ) -> Result<(Self, ControlPort), Error> {
        let transport = Transport::new(config.socket, &extras.read_ahead, options)?;
        let guard = Guard::new(config.remote, transport.is_reliable());
        let (incoming, from_server) = mpsc::channel(INCOMING);
        let (to_server, outgoing) = mpsc::channel(OUTGOING);
        let link = Self {
            peer: Peer::new(config.id, extras.framing, extras.mss),
            transport,
            timers: Timers::new(config.keepalive, now),
            incoming,
            outgoing: Some(outgoing),
            early: Early::default(),
            inflated: extras.framing.compresses().then(Inflated::default),
            compression_told: false,
            guard: (!extras.allow_recursive_routing).then_some(guard),
            recursive: 0,
            exit_told: false,
            waiting: None,
            blocked: false,
        };
        Ok((link, ControlPort::Channel { incoming: from_server, outgoing: to_server }))
    }

    /// The peer's counters.
    pub(crate) fn stats(&self) -> PeerStats {
        self.peer.stats()
    }

    /// What came to nothing.
    pub(crate) fn faults(&self) -> Faults {
        Faults { recursive_packets: self.recursive, ..self.peer.faults() }
    }

    /// Whether this packet of the TUN device is one of the transport's own, which must not go into
    /// the tunnel. Counts it.
    #[inline]
    pub(crate) fn is_recursive(&mut self, packet: &[u8], plan: Plan) -> bool {
        let recursive = self.guard.as_ref().is_some_and(|guard| guard.catches(packet));
        if recursive {
            self.caught(plan);
        }
        recursive
    }

    #[cold]
    fn caught(&mut self, plan: Plan) {
        if self.recursive == 0 {
            tracing::warn!(
                "packets to the server come back through the tunnel, and are dropped: the route to \
                 the server is gone"
            );
        }
        self.recursive += plan.segments() as u64;
    }

    /// Whether the socket has to become writable before anything can be sent.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The socket is writable again.
    pub(crate) fn unblock(&mut self, waker: &Waker, counters: &mut Counters) -> Result<(), Gone> {
        self.blocked = false;
        self.send_control(waker, counters)
    }

    /// Receives a batch: inner packets go to the coalescer, control packets to their channel.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        coalescer: &mut Coalescer,
        counters: &mut Counters,
        mut event: impl FnMut(DataEvent),
    ) -> Result<Received, Gone> {
        let received = self.transport.receive(counters)?;
        let reliable = self.transport.is_reliable();
        if let Some(inflated) = &mut self.inflated {
            inflated.clear();
        }
        let (slab, packets) = self.transport.received();
        let mut authentic = false;
        for packet in packets {
            let end = packet.start + packet.len;
            let mut opened = self.peer.open(&mut slab[packet.start..end], now);
            if let Opened::Compressed(algorithm, body) = opened {
                let body = &slab[packet.start + body.start..packet.start + body.end];
                opened =
                    push_compressed(&mut self.peer, &mut self.inflated, coalescer, algorithm, body);
            }
            match opened {
                Opened::Packet(inner) => {
                    authentic = true;
                    let inner = packet.start + inner.start..packet.start + inner.end;
                    push(&mut self.inflated, coalescer, slab, inner);
                }
                Opened::Control => {
                    if self.incoming.try_send(slab[packet.start..end].to_vec()).is_err() {
                        counters.control_dropped += 1;
                    }
                }
                Opened::Consumed | Opened::Compressed(..) => authentic = true,
                Opened::Exit => {
                    authentic = true;
                    if !std::mem::replace(&mut self.exit_told, true) {
                        event(DataEvent::PeerExit);
                    }
                }
                Opened::UnknownKey => self.early.push(&slab[packet.start..end], now),
                Opened::Ignored => {}
                Opened::Forged if reliable => {
                    return Err(Gone(PeerDeletedReason::TransportError));
                }
                Opened::Forged => {}
            }
        }
        if authentic {
            self.timers.received(now);
        }
        if self.peer.faults().compress_errors > 0 && !self.compression_told {
            self.tell_compression();
        }
        Ok(received)
    }

    #[cold]
    fn tell_compression(&mut self) {
        self.compression_told = true;
        tracing::warn!(
            "the server sends packets that are compressed or framed in another way than agreed, and \
             they are dropped: let profile and server say the same (comp-lzo, compress), or remove \
             compression on the server"
        );
    }

    /// The stream has broken, maybe while sending: hands over the control packets that had arrived.
    pub(crate) fn read_last_words(&mut self, counters: &mut Counters) {
        if !self.transport.is_reliable() {
            return;
        }
        for _ in 0..LAST_READS {
            let Ok(received) = self.transport.receive(counters) else { return };
            let (slab, packets) = self.transport.received();
            for packet in packets {
                let packet = &slab[packet.start..packet.start + packet.len];
                let control = packet.first().is_some_and(|byte| !is_data_packet(*byte));
                if control && self.incoming.try_send(packet.to_vec()).is_err() {
                    counters.control_dropped += 1;
                }
            }
            if received == Received::Drained {
                return;
            }
        }
    }

    /// Adds a key, and gives the coalescer the inner packets that came before it. The coalescer's
    /// places are in the buffer returned.
    pub(crate) fn install(
        &mut self,
        key: KeyConfig,
        now: Instant,
        coalescer: &mut Coalescer,
    ) -> Result<Vec<u8>, Error> {
        self.peer.install(key)?;
        let (mut slab, packets) = self.early.take(now);
        if let Some(inflated) = &mut self.inflated {
            inflated.clear();
        }
        for packet in packets {
            let start = packet.start;
            match self.peer.open_early(&mut slab[packet], now) {
                Opened::Packet(inner) => {
                    let inner = start + inner.start..start + inner.end;
                    push(&mut self.inflated, coalescer, &slab, inner);
                }
                Opened::Compressed(algorithm, body) => {
                    let body = &slab[start + body.start..start + body.end];
                    push_compressed(&mut self.peer, &mut self.inflated, coalescer, algorithm, body);
                }
                // Whatever else it may be is worth nothing by now.
                _ => {}
            }
        }
        Ok(self.inflated.as_mut().map_or(slab, Inflated::take))
    }

    /// The buffer that the coalescer's places are in.
    pub(crate) fn slab(&mut self) -> &[u8] {
        match &mut self.inflated {
            Some(inflated) => inflated.bytes(),
            None => self.transport.received().0,
        }
    }

    /// Splits, seals and puts in line. `false`: the socket takes no more now.
    #[inline]
    pub(crate) fn send(
        &mut self,
        outbound: Outbound<'_>,
        counters: &mut Counters,
    ) -> Result<bool, Gone> {
        let Outbound { packet, plan, next } = outbound;
        let Some(&first) = packet.first() else { return Ok(true) };
        let envelope = self.peer.envelope(first);
        while *next < plan.segments() {
            let len = plan.segment_len(*next);
            let sealed = envelope.sealed_len(len);
            if sealed > self.transport.max_packet() {
                counters.tun_malformed += 1;
                *next += 1;
                continue;
            }
            let Some(out) = self.transport.reserve(sealed, counters)? else {
                self.block(counters);
                return Ok(false);
            };
            plan.write_segment(packet, *next, &mut out[envelope.inner(len)]);
            *next += 1;
            // A key at its end was reported before; nothing can be sent until it is replaced.
            if self.peer.seal(envelope, out, len).is_ok() {
                self.transport.commit(sealed);
            } else {
                counters.tun_discarded += 1;
            }
        }
        Ok(true)
    }

    fn block(&mut self, counters: &mut Counters) {
        self.blocked = true;
        counters.send_blocked += 1;
    }

    /// Sends what is in line, as far as the socket takes it.
    #[inline]
    pub(crate) fn flush(&mut self, counters: &mut Counters) -> Result<(), Gone> {
        if !self.blocked && !self.transport.flush(counters)? {
            self.block(counters);
        }
        Ok(())
    }

    /// Seals and sends a message of the data channel's own. Without a key, or when the socket
    /// takes nothing, it is lost, as it might be on the way.
    pub(crate) fn send_message(
        &mut self,
        message: &[u8],
        counters: &mut Counters,
    ) -> Result<(), Gone> {
        let envelope = self.peer.envelope(message[0]);
        let sealed = envelope.sealed_len(message.len());
        if self.blocked || !self.peer.can_send() {
            return Ok(());
        }
        let Some(out) = self.transport.reserve(sealed, counters)? else {
            self.block(counters);
            return Ok(());
        };
        out[envelope.inner(message.len())].copy_from_slice(message);
        if self.peer.seal_message(envelope, out, message.len()).is_ok() {
            self.transport.commit(sealed);
        }
        self.flush(counters)
    }

    /// Sends control packets that wait, and arranges for a wake-up when there are more.
    pub(crate) fn send_control(
        &mut self,
        waker: &Waker,
        counters: &mut Counters,
    ) -> Result<(), Gone> {
        if self.blocked {
            return Ok(());
        }
        let mut context = Context::from_waker(waker);
        loop {
            let next = self.waiting.take().map_or_else(
                || match self.outgoing.as_mut().map(|o| o.poll_recv(&mut context)) {
                    Some(Poll::Ready(packet)) => packet,
                    Some(Poll::Pending) | None => None,
                },
                Some,
            );
            let Some(packet) = next else { break };
            let len = packet.len();
            if len == 0 || len > self.transport.max_packet() {
                continue;
            }
            let Some(out) = self.transport.reserve(len, counters)? else {
                self.waiting = Some(packet);
                self.block(counters);
                return Ok(());
            };
            out.copy_from_slice(&packet);
            self.transport.commit(len);
        }
        if self.outgoing.as_ref().is_some_and(|o| o.is_closed() && o.is_empty()) {
            self.outgoing = None;
        }
        self.flush(counters)
    }

    /// Sends a ping when it is time, and tells when the peer is to be given up.
    pub(crate) fn keep_alive(&mut self, now: Instant, counters: &mut Counters) -> Result<(), Gone> {
        match self.timers.due(now) {
            Due::Nothing => Ok(()),
            Due::Expired => Err(Gone(PeerDeletedReason::Expired)),
            Due::Ping => self.ping(now, counters),
        }
    }

    /// Sends a ping.
    pub(crate) fn ping(&mut self, now: Instant, counters: &mut Counters) -> Result<(), Gone> {
        self.timers.sent(now);
        self.send_message(&message::PING, counters)
    }
}

/// Gives the coalescer an inner packet, which is at `place` in `slab`.
#[inline]
fn push(
    inflated: &mut Option<Inflated>,
    coalescer: &mut Coalescer,
    slab: &[u8],
    place: Range<usize>,
) {
    match inflated {
        None => coalescer.push(slab, place.start, place.len()),
        Some(inflated) => {
            let place = inflated.push(&slab[place]);
            coalescer.push(inflated.bytes(), place.start, place.len());
        }
    }
}

/// The same with one that is compressed. Returns what it was instead, or that it is done with.
fn push_compressed(
    peer: &mut Peer,
    inflated: &mut Option<Inflated>,
    coalescer: &mut Coalescer,
    algorithm: Algorithm,
    body: &[u8],
) -> Opened {
    let packet = inflated.as_mut().and_then(|i| Some((i.inflate(algorithm, body).ok()?, i)));
    let Some((place, inflated)) = packet else {
        peer.refuse();
        return Opened::Consumed;
    };
    if let Some(instead) = peer.admit(&mut inflated.bytes()[place.clone()]) {
        return instead;
    }
    coalescer.push(inflated.bytes(), place.start, place.len());
    Opened::Consumed
}
