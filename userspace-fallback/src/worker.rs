//! The thread that moves the packets: one loop that polls the TUN device, the transport socket and
//! the alarm that announces commands.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ovpn_dco::{ControlPort, DataEvent, Error, Generation, KeyConfig, PeerConfig, PeerStats, Told};
use tokio::sync::mpsc;

use crate::delivery::deliver;
use crate::link::{Link, Outbound};
use crate::offload::coalesce::{Coalescer, Config};
use crate::offload::split::Plan;
use crate::offload::virtio::{self, Header};
use crate::options::{Extras, Options};
use crate::pacer::Pacer;
use crate::stats::{Counters, Published, Snapshot};
use crate::sys::{self, Interest};
use crate::transport::{Gone, Received};
use crate::tun::TunDevice;
use crate::wake::Alarm;

/// Reads from the TUN device before the other direction has its turn, by number and by bytes.
const READS: usize = 64;
const READ_BYTES: usize = 256 * 1024;
/// Largest read: a header and the largest IP packet.
const READ_BUFFER: usize = virtio::LEN + 65_536;

/// What the channel has the worker do.
pub(crate) type Command = Box<dyn FnOnce(&mut Worker) + Send>;

pub(crate) struct Worker {
    tun: TunDevice,
    options: Options,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<Told>,
    alarm: Arc<Alarm>,
    waker: Waker,
    published: Arc<Published>,
    /// Boxed, because it is moved out and in for every batch.
    link: Option<Box<Link>>,
    /// Of the last peer that there was.
    generation: Generation,
    /// What a peer had moved that went by itself, until somebody asks.
    departed: Option<PeerStats>,
    coalescer: Coalescer,
    uplink: Uplink,
    counters: Counters,
    now: Instant,
    pacer: Pacer,
    tun_readable: bool,
    socket_readable: bool,
}

/// The last read from the TUN device, and how far it was sent.
struct Uplink {
    buffer: Box<[u8]>,
    pending: Option<Pending>,
}

struct Pending {
    plan: Plan,
    start: usize,
    end: usize,
    next: usize,
}

/// The channel was closed.
struct Closed;

impl Worker {
    pub(crate) fn new(
        tun: TunDevice,
        options: Options,
        commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::UnboundedSender<Told>,
        alarm: Arc<Alarm>,
        published: Arc<Published>,
    ) -> Self {
        let config = Config {
            tcp: options.coalesce_tcp && tun.takes_tcp(),
            udp: options.coalesce_udp && tun.takes_udp(),
            acknowledgements: options.supersede_acknowledgements,
        };
        Self {
            tun,
            options,
            commands,
            events,
            waker: Waker::from(Arc::clone(&alarm)),
            alarm,
            published,
            link: None,
            generation: Generation::default(),
            departed: None,
            coalescer: Coalescer::new(config),
            uplink: Uplink { buffer: vec![0; READ_BUFFER].into(), pending: None },
            counters: Counters::default(),
            now: Instant::now(),
            pacer: Pacer::new(Instant::now()),
            tun_readable: false,
            socket_readable: false,
        }
    }

    /// Runs until the channel is closed or the TUN device is gone.
    pub(crate) fn run(mut self) {
        sys::block_signals();
        sys::precise_sleeps();
        if let Err(error) = self.serve() {
            tracing::error!(interface = %self.tun.interface().name, %error, "data path failed");
            self.forget_link();
            let what = format!("interface {}: {error}", self.tun.interface().name);
            self.event(DataEvent::Failed(what));
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        if self.obey().is_err() {
            return Ok(());
        }
        loop {
            if self.alarm.take() && self.obey().is_err() {
                return Ok(());
            }
            self.now = Instant::now();
            if self.socket_readable {
                self.receive();
            }
            if self.tun_readable {
                self.transmit()?;
            }
            self.keep_alive();
            self.publish();
            let blocked = self.link.as_ref().is_some_and(|link| link.is_blocked());
            if !self.socket_readable && (!self.tun_readable || blocked) {
                match self.pacer.pause(self.now) {
                    Some(pause) if !blocked => {
                        std::thread::sleep(pause);
                        self.socket_readable = self.link.is_some();
                        self.tun_readable = true;
                    }
                    _ => self.wait()?,
                }
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        let blocked = self.link.as_ref().is_some_and(|link| link.is_blocked());
        let timeout = self
            .link
            .as_ref()
            .and_then(|link| link.timers.deadline())
            .map(|deadline| deadline.saturating_duration_since(self.now));
        let readable = Interest { readable: true, writable: false };
        let [_, tun, socket] = sys::poll(
            [
                (Some(self.alarm.as_fd()), readable),
                // While the socket takes nothing, packets wait in the device's queue.
                (Some(self.tun.as_fd()), Interest { readable: !blocked, writable: false }),
                (
                    self.link.as_ref().map(|link| link.transport.socket()),
                    Interest { readable: true, writable: blocked },
                ),
            ],
            timeout,
        )?;
        self.tun_readable |= tun.readable;
        self.socket_readable |= socket.readable;
        if socket.writable {
            self.with_link(|link, worker| link.unblock(&worker.waker, &mut worker.counters));
        }
        Ok(())
    }

    /// Runs something that may find out that the connection is over.
    fn with_link(&mut self, action: impl FnOnce(&mut Link, &mut Self) -> Result<(), Gone>) {
        let Some(mut link) = self.link.take() else { return };
        match action(&mut link, self) {
            Ok(()) => self.link = Some(link),
            Err(Gone(reason)) => {
                // The server may have said why before it went.
                link.read_last_words(&mut self.counters);
                self.departed = Some(link.stats());
                self.link = Some(link);
                self.forget_link();
                self.event(DataEvent::PeerDeleted(reason));
            }
        }
    }

    /// Drops the peer and everything that belonged to it.
    fn forget_link(&mut self) {
        if let Some(link) = self.link.take() {
            self.counters.faults += link.faults();
        }
        self.coalescer.clear();
        self.uplink.pending = None;
        self.socket_readable = false;
        // So that nobody reads the counters of a peer that is told to be gone.
        self.publish();
    }

    fn event(&self, event: DataEvent) {
        // Nobody listens while the channel is being closed.
        let _ = self.events.send(self.generation.tells(event));
    }

    fn publish(&self) {
        let (mut peer, mut counters) = (None, self.counters);
        if let Some(link) = &self.link {
            peer = Some(link.stats());
            counters.faults += link.faults();
        }
        self.published.set(Snapshot { peer, counters });
    }

    /// One batch from the socket to the TUN device.
    fn receive(&mut self) {
        self.with_link(|link, worker| {
            let (events, generation) = (&worker.events, worker.generation);
            let before = worker.counters;
            let received =
                link.receive(worker.now, &mut worker.coalescer, &mut worker.counters, |event| {
                    let _ = events.send(generation.tells(event));
                });
            worker.counters.acknowledgements_superseded = worker.coalescer.superseded();
            worker.pacer.received(
                worker.counters.received_messages - before.received_messages,
                worker.counters.received_packets - before.received_packets,
            );
            // What was opened before the connection broke is delivered.
            if !worker.coalescer.is_empty() {
                worker.write_tun(link.slab());
                // Acknowledgements, or what they permit, are there as soon as the write returns:
                // looking at once saves a poll.
                worker.tun_readable = true;
            }
            worker.socket_readable = received? == Received::More;
            worker.report_worn_out(link);
            Ok(())
        });
    }

    fn report_worn_out(&self, link: &mut Link) {
        if let Some(key) = link.peer.take_worn_out() {
            self.event(DataEvent::KeyExhausted(key));
        }
    }

    fn write_tun(&mut self, slab: &[u8]) {
        let tun = &self.tun;
        deliver(
            &mut self.coalescer,
            slab,
            tun.has_vnet_header(),
            |pieces| tun.write(pieces),
            &mut self.counters,
        );
    }

    /// Some reads from the TUN device to the socket.
    fn transmit(&mut self) -> io::Result<()> {
        if !self.link.as_ref().is_some_and(|link| link.peer.can_send()) {
            return self.discard();
        }
        let mut result = Ok(());
        self.with_link(|link, worker| {
            if link.is_blocked() {
                return Ok(());
            }
            let before = link.peer.stats().link_tx_packets;
            result = worker.send_from_tun(link)?;
            // Only what was sent stands in for a ping: the device is looked at for other reasons.
            if link.peer.stats().link_tx_packets != before {
                link.timers.sent(worker.now);
            }
            worker.report_worn_out(link);
            Ok(())
        });
        result
    }

    /// Reads, splits, seals and sends. The inner result is about the TUN device.
    fn send_from_tun(&mut self, link: &mut Link) -> Result<io::Result<()>, Gone> {
        let mut bytes = 0;
        for _ in 0..READS {
            if self.uplink.pending.is_none() {
                match self.read_tun() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return Ok(Err(error)),
                }
            }
            let Some(pending) = &mut self.uplink.pending else { continue };
            if pending.next == 0
                && link.is_recursive(&self.uplink.buffer[pending.start..pending.end], pending.plan)
            {
                self.uplink.pending = None;
                continue;
            }
            let outbound = Outbound {
                packet: &self.uplink.buffer[pending.start..pending.end],
                plan: pending.plan,
                next: &mut pending.next,
            };
            if !link.send(outbound, &mut self.counters)? {
                return Ok(Ok(()));
            }
            bytes += pending.end - pending.start;
            self.uplink.pending = None;
            if bytes >= READ_BYTES {
                break;
            }
        }
        link.flush(&mut self.counters)?;
        Ok(Ok(()))
    }

    /// Reads one packet or super-packet. `false`: there is none. A malformed one leaves nothing
    /// pending.
    fn read_tun(&mut self) -> io::Result<bool> {
        let start = self.tun.header_len();
        let end = match self.tun.read(&mut self.uplink.buffer) {
            Ok(end) => end,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.tun_readable = false;
                        Ok(false)
                    }
                    Some(libc::EINTR) => Ok(false),
                    _ => Err(error),
                };
            }
        };
        let plan = match self.uplink.buffer[..end].split_at_checked(start) {
            Some((header, packet)) => plan(header, packet),
            None => None,
        };
        self.counters.tun_reads += 1;
        match plan {
            Some(plan) => {
                self.counters.tun_read_packets += plan.segments() as u64;
                self.uplink.pending = Some(Pending { plan, start, end, next: 0 });
            }
            None => self.counters.tun_malformed += 1,
        }
        Ok(true)
    }

    /// Reads packets that cannot be sent, so that they are not sent much later.
    fn discard(&mut self) -> io::Result<()> {
        for _ in 0..READS {
            if !self.read_tun()? {
                break;
            }
            self.uplink.pending = None;
            self.counters.tun_discarded += 1;
        }
        Ok(())
    }

    fn keep_alive(&mut self) {
        self.with_link(|link, worker| link.keep_alive(worker.now, &mut worker.counters));
    }

    /// Obeys the commands that wait, and sends the control packets that wait before them: the last
    /// words to a server come before the command that deletes it.
    fn obey(&mut self) -> Result<(), Closed> {
        self.now = Instant::now();
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        loop {
            self.with_link(|link, worker| link.send_control(&waker, &mut worker.counters));
            match self.commands.poll_recv(&mut context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return Err(Closed),
                Poll::Ready(Some(command)) => command(self),
            }
        }
    }

    /// Replaces the peer.
    pub(crate) fn new_peer(
        &mut self,
        generation: Generation,
        config: PeerConfig,
        extras: &Extras,
    ) -> Result<ControlPort, Error> {
        self.generation = generation;
        self.forget_link();
        self.departed = None;
        let (link, port) = Link::new(config, extras, &self.options, self.now)?;
        self.link = Some(Box::new(link));
        // What was read ahead may hold whole packets although nothing more arrives.
        self.socket_readable = true;
        self.publish();
        Ok(port)
    }

    /// Deletes the peer, and tells what it has counted; also of one that went by itself, once.
    pub(crate) fn delete_peer(&mut self) -> Result<PeerStats, Error> {
        let stats = self.link.as_ref().map(|link| link.stats());
        let stats = stats.or_else(|| self.departed.take());
        self.forget_link();
        stats.ok_or(Error::NoSuchPeer)
    }

    pub(crate) fn install(&mut self, key: KeyConfig) -> Result<(), Error> {
        let now = self.now;
        let link = self.link.as_mut().ok_or(Error::NoSuchPeer)?;
        let slab = link.install(key, now, &mut self.coalescer)?;
        self.write_tun(&slab);
        Ok(())
    }

    /// Has the peer do something.
    pub(crate) fn for_link<T>(
        &mut self,
        action: impl FnOnce(&mut Link) -> Result<T, Error>,
    ) -> Result<T, Error> {
        action(self.link.as_mut().ok_or(Error::NoSuchPeer)?)
    }

    /// Has the peer send something, which may find out that the connection is over: that is told
    /// apart, as an event.
    pub(crate) fn send(
        &mut self,
        action: impl FnOnce(&mut Link, Instant, &mut Counters) -> Result<(), Gone>,
    ) -> Result<(), Error> {
        self.for_link(|_| Ok(()))?;
        self.with_link(|link, worker| action(link, worker.now, &mut worker.counters));
        Ok(())
    }
}

/// How to split what was read: `header` is empty when the device has none.
fn plan(header: &[u8], packet: &[u8]) -> Option<Plan> {
    let header = match header.first_chunk::<{ virtio::LEN }>() {
        Some(bytes) => Header::decode(bytes).ok()?,
        None => Header::default(),
    };
    Plan::new(&header, packet).ok()
}
