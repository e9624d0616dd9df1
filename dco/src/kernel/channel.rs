//! [`DataChannel`] on top of either kernel interface.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::device::Device;
use super::events::{Event, Events};
use super::family::{Api, Family};
use super::link::{LinkName, Links, Mode};
use super::message::{NewPeer, PeerEvent, PeerInfo, SetPeer};
use super::usage::{KeyUsage, Unwrap};
use crate::data_channel::{ControlPort, DataChannel, DataEvent, Interface, PeerDeletedReason};
use crate::error::{Error, NotInstalled};
use crate::slots::Slots;
use crate::types::{
    Keepalive, KeyConfig, KeyId, KeySlot, PeerConfig, PeerId, PeerStats, TransportSocket,
};

/// `ovpn-dco-v2` tells about a deletion, then waits for the packets in flight and gives the socket
/// back. Nothing tells that; a grace period of the kernel is what it waits for.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// See [`RELEASE_PATIENCE`].
const RELEASE_PAUSE: Duration = Duration::from_millis(50);

/// How long a deleted link may take to disappear after its peer.
const LINK_PATIENCE: Duration = Duration::from_millis(300);

/// How often the counters are looked at for key usage.
const POLL: Duration = Duration::from_secs(10);

/// A data channel in the kernel: one point-to-point link with at most one peer.
///
/// Only control packets pass through this process. Whatever happens to the process, the link
/// stays until somebody deletes it: call [`DataChannel::close`]. Dropping the channel does the
/// same as far as it can; what a crash leaves behind, the next channel removes.
///
/// # Network namespaces
///
/// The link, the netlink sockets and the events of `ovpn-dco-v2` belong to the namespace of the
/// thread that called [`Self::create`]; the events of the in-tree module to that of the transport
/// socket. The transport socket must therefore be in the same namespace; a link that is moved away
/// later counts as gone.
///
/// # Recursive routing
///
/// Where the route to the server is gone and the tunnel has the next best, the module sends each
/// encrypted packet into its own link. It does not look for that.
///
/// * UDP: what ends it is the kernel's limit on nested transmissions ("Dead loop on virtual device":
///   `IP_TUNNEL_RECURSION_LIMIT`, 4 or 5 levels; `XMIT_RECURSION_LIMIT`, 8, in kernels before that),
///   because AEAD ciphers work synchronously on the processors at hand. A packet costs a few
///   encryptions, then, and never comes round again.
/// * TCP: nothing ends it. The in-tree module (seen with Linux 7.3) sends with the socket's lock held;
///   the segment comes back by way of the link, and `ovpn_tcp_send_skb` spins on the same lock in the
///   same softirq: the processor is lost, and soon the whole machine. Whoever hands a TCP socket over
///   must see to it that no route ever leads from there into the link, also for the moment after a
///   device has gone with the routes on it: with an `unreachable` route to the server, which belongs to
///   no device and loses against every other one.
///
/// # Transport sockets
///
/// SO_MARK applies to data packets; SO_BINDTODEVICE does not. The channel keeps its duplicate of
/// the descriptor as long as the peer exists, so that the caller closing its own does not end the
/// peer. On TCP the caller notices FIN and RST: the kernel tells nobody else.
pub struct KernelDataChannel {
    interface: Interface,
    api: Api,
    backend: Arc<Mutex<Backend>>,
    events: Events,
    poll: Interval,
    /// [`DataEvent::Failed`] was told; nothing follows.
    failed: bool,
    /// The peer was torn down by somebody else: told then, unless the link turns out to be gone.
    torn_down: Option<Instant>,
}

/// Everything that a request needs. Behind a lock, because requests run on the blocking pool:
/// the kernel may have to load a module for one, and a request whose caller is gone must end
/// before the next begins.
struct Backend {
    device: Device,
    links: Links,
    interface: Interface,
    /// The link is ours to delete.
    created: bool,
    /// The link is deleted, by us or by somebody else: no request may follow.
    gone: bool,
    peer: Option<Peer>,
}

struct Peer {
    id: PeerId,
    /// Kept open: with the in-tree module the last close deletes the peer.
    socket: OwnedFd,
    /// `None`: TCP.
    way: Option<Way>,
    usage: KeyUsage,
    unwrap: Unwrap,
}

/// The addresses of datagrams.
#[derive(Clone, Copy)]
struct Way {
    remote: SocketAddr,
    /// The socket's own, as the module knows it.
    source: IpAddr,
    /// It is the one that is wanted.
    fixed: bool,
}

impl KernelDataChannel {
    /// Creates the network link (down, without addresses) for one kernel interface; loads its
    /// module if need be. Links that crashed processes left behind are removed.
    ///
    /// Must be called on a tokio runtime. The calling thread's network namespace counts.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFamily`], [`Error::NotPermitted`]; [`Error::Kernel`] for everything else the
    /// kernel refuses (`EEXIST`: the name is taken; `EBUSY`: somebody uses the link of that name).
    pub async fn create(api: Api, name: LinkName) -> Result<Self, Error> {
        // Sockets belong to the namespace of the thread that opens them; the module may have to
        // be loaded first, but a thread of the blocking pool may be in another namespace.
        let mut links = Links::open()?;
        let family = blocking(move || Family::resolve(api)).await?;
        let mut events = Events::open(family.clone())?;
        let mut device = Device::open(family.clone(), 0)?;
        let backend = blocking(move || {
            if !family.permitted()? {
                return Err(Error::NotPermitted {
                    operation: "PEER_NEW",
                    needs: super::family::PRIVILEGE,
                });
            }
            if let Err(error) = links.remove_leftovers() {
                tracing::warn!(%error, "cannot remove links left behind");
            }
            let (interface, created) = links.create(api, &name, Mode::PointToPoint)?;
            device.set_ifindex(interface.index);
            Ok(Backend { device, links, interface, created, gone: false, peer: None })
        })
        .await?;
        events.watch(backend.interface.index);
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            interface: backend.interface.clone(),
            api,
            backend: Arc::new(Mutex::new(backend)),
            events,
            poll,
            failed: false,
            torn_down: None,
        })
    }

    /// Whether [`Self::create`] made the link (and closing deletes it), or found it.
    pub fn created_link(&self) -> bool {
        lock(&self.backend).created
    }

    /// Which kernel interface it uses.
    pub fn api(&self) -> Api {
        self.api
    }

    /// The peer as the kernel describes it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPeer`], [`Error::Kernel`].
    pub async fn peer_info(&mut self) -> Result<PeerInfo, Error> {
        self.request(|backend| {
            let id = backend.peer()?.id;
            backend.device.peer(id)
        })
        .await
    }

    async fn request<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Backend) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let backend = Arc::clone(&self.backend);
        blocking(move || {
            let mut backend = lock(&backend);
            if backend.gone { Err(Error::Closed) } else { request(&mut backend) }
        })
        .await
    }

    /// What an event means. Asks the kernel directly: nothing may be awaited between taking an
    /// event and telling it, or a dropped future would lose it.
    fn interpret(&mut self, event: Event) -> Option<DataEvent> {
        let mut backend = lock(&self.backend);
        if backend.gone {
            return None;
        }
        match event {
            Event::Peer(id, PeerEvent::Deleted(reason)) => {
                (backend.peer.as_ref()?.id == id).then_some(())?;
                backend.lost_peer().then_some(DataEvent::PeerDeleted(reason))
            }
            Event::Peer(id, PeerEvent::Floated(remote)) => {
                (backend.peer.as_ref()?.id == id).then_some(DataEvent::Floated(remote))
            }
            Event::Peer(id, PeerEvent::KeyExhausted(key)) => {
                let peer = backend.peer.as_mut().filter(|peer| peer.id == id)?;
                peer.usage.exhausted(key).then_some(DataEvent::KeyExhausted(key))
            }
            Event::Overrun => {
                tracing::warn!("kernel events were lost");
                match backend.links.exists(self.interface.index) {
                    Ok(false) => Some(self.fail(backend, "the network link was deleted")),
                    // Whatever the reason was, it is lost.
                    _ => backend
                        .lost_peer()
                        .then_some(DataEvent::PeerDeleted(PeerDeletedReason::Teardown)),
                }
            }
            Event::LinkGone => Some(self.fail(backend, "the network link was deleted")),
            Event::Broken(why) => Some(self.fail(backend, &why)),
        }
    }

    /// Looks at the counters: for the use of the key, and for what events did not tell.
    fn check(&mut self) -> Option<DataEvent> {
        let mut backend = lock(&self.backend);
        if backend.gone || backend.peer.is_none() {
            return None;
        }
        match found(backend.stats()) {
            Found::Peer(stats) => {
                let key = backend.peer.as_mut()?.usage.check(stats)?;
                Some(DataEvent::KeyExhausted(key))
            }
            // The peer is not forgotten yet: the event that says why may be on its way.
            Found::NoPeer => Some(TEARDOWN),
            Found::NoLink => Some(self.fail(backend, "the network link was deleted")),
            Found::Nothing => None,
        }
    }
}

/// A peer that was deleted, and nothing says by whom.
const TEARDOWN: DataEvent = DataEvent::PeerDeleted(PeerDeletedReason::Teardown);

/// What a look at the counters finds.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Peer(PeerStats),
    NoPeer,
    NoLink,
    /// The question failed: no reason to give anything up.
    Nothing,
}

fn found(answer: Result<PeerStats, Error>) -> Found {
    match answer {
        Ok(stats) => Found::Peer(stats),
        Err(Error::NoSuchPeer) => Found::NoPeer,
        Err(Error::Kernel { errno: libc::ENODEV, .. }) => Found::NoLink,
        Err(error) => {
            tracing::debug!(%error, "the peer's counters");
            Found::Nothing
        }
    }
}

impl KernelDataChannel {
    fn fail(&self, mut backend: MutexGuard<'_, Backend>, why: &str) -> DataEvent {
        backend.gone = true;
        backend.peer = None;
        DataEvent::Failed(format!("{} ({}): {why}", self.interface.name, self.api.name()))
    }
}

impl Backend {
    fn peer(&mut self) -> Result<&mut Peer, Error> {
        self.peer.as_mut().ok_or(Error::NoSuchPeer)
    }

    /// Whether the peer is really gone; forgets it then. An event of an earlier peer can arrive
    /// late and carry the id of the present one, so the kernel is asked.
    fn lost_peer(&mut self) -> bool {
        let Some(peer) = &self.peer else { return false };
        match self.device.peer(peer.id) {
            Err(Error::NoSuchPeer) => {
                self.peer = None;
                true
            }
            _ => false,
        }
    }

    fn stats(&mut self) -> Result<PeerStats, Error> {
        let id = self.peer()?.id;
        let stats = self.device.peer(id)?.stats;
        let api = self.device.api();
        let peer = self.peer()?;
        Ok(match api {
            Api::Ovpn => stats,
            Api::OvpnDcoV2 => peer.unwrap.extend(stats),
        })
    }

    fn new_peer(&mut self, config: PeerConfig) -> Result<ControlPort, Error> {
        let api = self.device.api();
        let PeerConfig { id, socket, remote, local, keepalive, .. } = config;
        let fixed = local.is_some();
        let Some(id) = id.filter(|id| *id != PeerId::UNDEFINED) else {
            return Err(unsupported(api, "DATA_V1 packets (the server pushed no peer-id)"));
        };
        let (socket, tcp) = match socket {
            TransportSocket::Udp(socket) => (socket, false),
            TransportSocket::Tcp(socket) => (socket, true),
        };
        if tcp {
            // A receive that waits in ovpn-dco-v2 (`ovpn_tcp_recvmsg`: `sk_wait_event` without the
            // lock it expects) leaves the socket locked: the next send hangs in the kernel for good.
            SockRef::from(&socket)
                .set_nonblocking(true)
                .map_err(|e| Error::io("making the transport socket non-blocking", e))?;
        } else {
            check_udp(api, &socket, remote)?;
        }
        self.device.new_peer(&NewPeer {
            id,
            socket: socket.as_fd(),
            // The in-tree module refuses an address for TCP: the connection has one.
            remote: (!tcp).then_some(remote),
            local: local.filter(|_| !tcp),
            vpn_ipv4: None,
            vpn_ipv6: None,
            tx_id: None,
        })?;
        let way = source(&socket).filter(|_| !tcp).map(|source| Way { remote, source, fixed });
        // This drops the descriptor of the peer that was replaced, after it is gone.
        self.peer =
            Some(Peer { id, way, socket, usage: KeyUsage::default(), unwrap: Unwrap::default() });
        if keepalive != Keepalive::default()
            && let Err(error) = self.set_keepalive(keepalive)
        {
            // All or nothing: without keepalive a dead server would never be noticed.
            let _ = self.del_peer();
            return Err(error);
        }
        Ok(ControlPort::Socket { tcp_packets: tcp && api == Api::Ovpn })
    }

    fn set_keepalive(&mut self, keepalive: Keepalive) -> Result<(), Error> {
        let id = self.peer()?.id;
        self.device.set_peer(&SetPeer { id, remote: None, keepalive: Some(keepalive) })
    }

    fn announce(&mut self) -> Result<bool, Error> {
        let api = self.device.api();
        let peer = self.peer()?;
        let (id, present) = (peer.id, source(&peer.socket));
        let Some(way) = peer.way.as_mut().filter(|way| !way.fixed) else { return Ok(false) };
        let before = way.source;
        way.source = present.unwrap_or(before);
        match api {
            // Which forgets the source address that it has learned, and chooses again.
            Api::Ovpn => {
                let remote = Some(way.remote);
                self.device.set_peer(&SetPeer { id, remote, keepalive: None })?;
            }
            // It chooses again by itself, but only once the address is none of this host any more.
            Api::OvpnDcoV2 if before != way.source && is_own(before) => {
                return Err(unsupported(api, "another source address while the old one is there"));
            }
            Api::OvpnDcoV2 => {}
        }
        Ok(false)
    }

    fn install(&mut self, key: KeyConfig) -> Result<(), NotInstalled> {
        // The rest first: once the kernel has the key, nothing may fail any more.
        let installed = self.make_room(key.key_id).and_then(|slot| {
            let before = self.stats()?;
            let id = self.peer()?.id;
            self.device.new_key(id, slot, &key)?;
            Ok(before)
        });
        match installed {
            Ok(before) => {
                if let Some(peer) = &mut self.peer {
                    peer.usage.installed(key.key_id, key.cipher, before);
                }
                Ok(())
            }
            Err(error) => Err(NotInstalled::new(error, key)),
        }
    }

    /// The slot for a new key. A namesake in the other one goes: the kernel would keep both.
    fn make_room(&mut self, key: KeyId) -> Result<KeySlot, Error> {
        let keys = self.peer()?.usage.keys();
        let slot = keys.place_for(key);
        if keys.find(key).is_some_and(|other| other != slot) {
            self.retire(key)?;
        }
        Ok(slot)
    }

    fn promote(&mut self, key: KeyId) -> Result<(), Error> {
        let peer = self.peer()?;
        let id = peer.id;
        if !peer.usage.keys().waits(key)? {
            return Ok(());
        }
        // The kernel exchanges with an empty slot too, and is left without a key to send with.
        match self.device.key(id, KeySlot::Secondary) {
            Ok(Some(info)) if info.key_id == key => {}
            Ok(_) => {
                self.peer()?.usage.retired(key);
                return Err(Error::NoSuchKey(key));
            }
            Err(Error::Unsupported { .. }) => {}
            Err(error) => return Err(error),
        }
        // Before the exchange: afterwards nothing may fail that was done.
        let before = self.stats()?;
        self.device.swap_keys(id)?;
        self.peer()?.usage.promoted(key, before)
    }

    fn retire(&mut self, key: KeyId) -> Result<(), Error> {
        let peer = self.peer()?;
        let id = peer.id;
        match peer.usage.retired(key) {
            Some(slot) => self.device.del_key(id, slot),
            None => Ok(()),
        }
    }

    fn del_peer(&mut self) -> Result<PeerStats, Error> {
        let id = self.peer()?.id;
        let stats = self.stats();
        // If the kernel does not answer, the descriptor is still given up: closing it is the
        // other way to end a peer.
        let result = self.device.del_peer(id);
        self.peer = None;
        result.and(stats)
    }

    /// Deletes the peer, then the link. Nothing may be asked of the link afterwards.
    fn close(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        let peer = match self.del_peer() {
            Err(Error::NoSuchPeer | Error::Kernel { errno: libc::ENODEV, .. }) => Ok(()),
            other => other.map(drop),
        };
        if self.created {
            // Also ends the peer.
            return self.links.delete(self.interface.index);
        }
        peer
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(name = self.interface.name, %error, "cannot remove the network link");
        }
    }
}

impl DataChannel for KernelDataChannel {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    async fn new_peer(&mut self, peer: PeerConfig) -> Result<ControlPort, Error> {
        match self.del_peer().await {
            Ok(_) | Err(Error::NoSuchPeer) => {}
            Err(error) => tracing::debug!(%error, "deleting the peer that is replaced"),
        }
        self.request(move |backend| backend.new_peer(peer)).await
    }

    async fn install(&mut self, key: KeyConfig) -> Result<(), NotInstalled> {
        self.request(move |backend| Ok(backend.install(key))).await?
    }

    async fn promote(&mut self, key: KeyId) -> Result<(), Error> {
        self.request(move |backend| backend.promote(key)).await
    }

    async fn retire(&mut self, key: KeyId) -> Result<(), Error> {
        self.request(move |backend| backend.retire(key)).await
    }

    async fn keys(&mut self) -> Result<Slots<()>, Error> {
        self.request(|backend| Ok(backend.peer()?.usage.keys().ids())).await
    }

    async fn stats(&mut self) -> Result<PeerStats, Error> {
        self.request(Backend::stats).await
    }

    async fn notify_exit(&mut self) -> Result<(), Error> {
        Err(unsupported(self.api, "the in-band exit notification"))
    }

    async fn announce(&mut self) -> Result<bool, Error> {
        self.request(Backend::announce).await
    }

    async fn del_peer(&mut self) -> Result<PeerStats, Error> {
        let deleted = self
            .request(|backend| {
                let id = backend.peer()?.id;
                Ok((id, backend.del_peer()))
            })
            .await;
        if let Ok((id, Ok(_))) = deleted
            && self.api == Api::OvpnDcoV2
        {
            // This module gives the socket back later, after it has told about the deletion.
            let told = self.events.wait_for_deletion(id);
            if tokio::time::timeout(RELEASE_PATIENCE, told).await.is_ok() {
                tokio::time::sleep(RELEASE_PAUSE).await;
            }
        }
        // Peer ids repeat (the server chooses them), so what is left of this one must not be there
        // when the next one comes.
        self.torn_down = None;
        self.events.forget_peers();
        deleted?.1
    }

    async fn next_event(&mut self) -> DataEvent {
        while !self.failed {
            let due = self.torn_down;
            let told = tokio::select! {
                biased;
                event = self.events.next() => self.interpret(event),
                () = wait_until(due) => Some(TEARDOWN),
                _ = self.poll.tick() => self.check(),
            };
            match told {
                // The link may be going, with its peer ahead of it.
                Some(TEARDOWN) if due.is_none() => {
                    self.torn_down = Some(Instant::now() + LINK_PATIENCE);
                }
                Some(event) => {
                    self.torn_down = None;
                    if matches!(event, DataEvent::PeerDeleted(_)) {
                        lock(&self.backend).peer = None;
                    }
                    self.failed = matches!(event, DataEvent::Failed(_));
                    return event;
                }
                None => {}
            }
        }
        std::future::pending().await
    }

    async fn close(self) -> Result<(), Error> {
        blocking(move || lock(&self.backend).close()).await
    }
}

impl fmt::Debug for KernelDataChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelDataChannel")
            .field("api", &self.api)
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}

fn unsupported(api: Api, what: &str) -> Error {
    Error::Unsupported { what: what.to_owned(), by: api.name() }
}

/// A UDP socket must be bound, or data packets would leave from port 0.
///
/// `ovpn-dco-v2` moves a peer to wherever a packet with its peer-id comes from, before it
/// authenticates the packet: one forged packet takes the tunnel's traffic away. A connected socket
/// receives from the server's address only.
fn check_udp(api: Api, socket: &OwnedFd, remote: SocketAddr) -> Result<(), Error> {
    let socket = SockRef::from(socket);
    let io = |e| Error::io("looking at the transport socket", e);
    if api == Api::OvpnDcoV2 && socket.peer_addr().is_err() {
        let remote = match (socket.domain().map_err(io)?, remote) {
            (socket2::Domain::IPV6, SocketAddr::V4(v4)) => {
                SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
            }
            _ => remote,
        };
        socket
            .connect(&remote.into())
            .map_err(|e| Error::io("connecting the transport socket", e))?;
    }
    let bound = socket.local_addr().map_err(io)?.as_socket().is_some_and(|local| local.port() != 0);
    if bound {
        Ok(())
    } else {
        Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not bound to a port")))
    }
}

/// The address that a socket sends from.
fn source(socket: &OwnedFd) -> Option<IpAddr> {
    Some(SockRef::from(socket).local_addr().ok()?.as_socket()?.ip())
}

/// Whether an address is one of this host.
fn is_own(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A panic in a request leaves no half-made change worth giving up the channel for.
fn lock(backend: &Mutex<Backend>) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // The runtime is shutting down, or the work panicked.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deletion whose event was lost must not leave a dead tunnel up.
    #[test]
    fn what_a_look_at_the_counters_finds() {
        let refused = |errno| Error::Kernel { operation: "PEER_GET", errno, message: None };
        assert_eq!(found(Ok(PeerStats::default())), Found::Peer(PeerStats::default()));
        assert_eq!(found(Err(Error::NoSuchPeer)), Found::NoPeer);
        assert_eq!(found(Err(refused(libc::ENODEV))), Found::NoLink);
        assert_eq!(found(Err(refused(libc::ENOBUFS))), Found::Nothing);
    }
}
