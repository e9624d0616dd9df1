//! The data channel contract over the worker thread.

use std::future::pending;
use std::sync::Arc;
use std::thread::JoinHandle;

use ovpn_dco::{
    ControlPort, DataChannel, DataEvent, Error, Generation, Interface, KeyConfig, KeyId,
    NotInstalled, PeerConfig, PeerStats, Slots, Told,
};
use tokio::sync::{mpsc, oneshot};

use crate::link::Link;
use crate::message;
use crate::mss::MssClamp;
use crate::options::{Extras, Options};
use crate::stats::{Counters, Published};
use crate::tun::TunDevice;
use crate::wake::Alarm;
use crate::worker::{Command, Worker};

/// The OpenVPN data channel in software, over a TUN device and a UDP or TCP socket.
///
/// Packets are moved by a thread of its own; the methods only talk to that thread. The TUN device
/// stays while peers come and go (`persist-tun`) and goes with the channel, however that ends.
#[derive(Debug)]
pub struct UserspaceDataChannel {
    interface: Interface,
    commands: Option<mpsc::UnboundedSender<Command>>,
    events: mpsc::UnboundedReceiver<Told>,
    /// Of the present peer, or of none.
    generation: Generation,
    /// The last event was told that can be.
    failed: bool,
    published: Arc<Published>,
    worker: Option<JoinHandle<()>>,
}

impl UserspaceDataChannel {
    /// Starts the thread that serves `tun`. Without a peer it throws away what is sent through
    /// the tunnel.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn new(tun: TunDevice, options: Options) -> Result<Self, Error> {
        let interface = tun.interface().clone();
        let (commands, commands_in) = mpsc::unbounded_channel();
        let (events_out, events) = mpsc::unbounded_channel();
        let alarm =
            Arc::new(Alarm::new().map_err(|e| Error::io("creating an event descriptor", e))?);
        let published = Arc::new(Published::default());
        let worker =
            Worker::new(tun, options, commands_in, events_out, alarm, Arc::clone(&published));
        let worker = std::thread::Builder::new()
            .name(format!("data {}", interface.name))
            .spawn(move || worker.run())
            .map_err(|e| Error::io("starting the data path's thread", e))?;
        Ok(Self {
            interface,
            commands: Some(commands),
            events,
            generation: Generation::default(),
            failed: false,
            published,
            worker: Some(worker),
        })
    }

    /// [`DataChannel::new_peer`], with what a peer can have here only. Extras that ask for nothing make
    /// the same peer.
    ///
    /// # Errors
    /// As `new_peer`; [`Error::Unsupported`] when more was read ahead than fits one read.
    pub async fn new_peer_with(
        &mut self,
        peer: PeerConfig,
        extras: Extras,
    ) -> Result<ControlPort, Error> {
        self.generation = self.generation.next();
        let generation = self.generation;
        self.ask(move |worker| worker.new_peer(generation, peer, &extras)).await
    }

    /// Clamps the MSS of the present peer's TCP anew, from the next SYN on.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`], [`Error::Closed`].
    pub async fn set_mss(&self, mss: Option<MssClamp>) -> Result<(), Error> {
        let set = move |link: &mut Link| {
            link.peer.set_mss(mss);
            Ok(())
        };
        self.ask(move |worker| worker.for_link(set)).await
    }

    /// How the data path works, since the channel was created.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.published.get().counters
    }

    /// Has the worker do something, and waits for what comes of it.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(Error::Closed)?;
        let command: Command = Box::new(move |worker| {
            // Whoever asked may have given up waiting for the answer.
            let _ = reply.send(work(worker));
        });
        commands.send(command).map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Ends the thread and waits for that. It notices within a batch, and its end removes the
    /// device.
    fn stop(&mut self) -> Result<(), Error> {
        self.commands = None;
        match self.worker.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::Closed),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl DataChannel for UserspaceDataChannel {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    async fn new_peer(&mut self, peer: PeerConfig) -> Result<ControlPort, Error> {
        self.new_peer_with(peer, Extras::default()).await
    }

    async fn install(&mut self, key: KeyConfig) -> Result<(), NotInstalled> {
        Ok(self.ask(move |worker| worker.install(key)).await?)
    }

    async fn promote(&mut self, key: KeyId) -> Result<(), Error> {
        self.ask(move |worker| worker.for_link(|link| link.peer.promote(key))).await
    }

    async fn retire(&mut self, key: KeyId) -> Result<(), Error> {
        let retire = move |link: &mut Link| {
            link.peer.retire(key);
            Ok(())
        };
        self.ask(move |worker| worker.for_link(retire)).await
    }

    async fn keys(&mut self) -> Result<Slots<()>, Error> {
        self.ask(|worker| worker.for_link(|link| Ok(link.peer.keys()))).await
    }

    async fn stats(&mut self) -> Result<PeerStats, Error> {
        if self.worker.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(Error::Closed);
        }
        self.published.get().peer.ok_or(Error::NoSuchPeer)
    }

    async fn notify_exit(&mut self) -> Result<(), Error> {
        let exit =
            |link: &mut Link, _, counters: &mut _| link.send_message(&message::EXIT, counters);
        self.ask(move |worker| worker.send(exit)).await
    }

    async fn announce(&mut self) -> Result<bool, Error> {
        self.ask(|worker| worker.send(Link::ping)).await.map(|()| true)
    }

    async fn del_peer(&mut self) -> Result<PeerStats, Error> {
        self.generation = self.generation.next();
        self.ask(Worker::delete_peer).await
    }

    async fn next_event(&mut self) -> DataEvent {
        while !self.failed {
            let Some(told) = self.events.recv().await else {
                self.failed = true;
                let what = format!("interface {}: worker ended", self.interface.name);
                return DataEvent::Failed(what);
            };
            if let Some(event) = told.about(self.generation) {
                self.failed = matches!(event, DataEvent::Failed(_));
                return event;
            }
        }
        pending().await
    }

    async fn close(mut self) -> Result<(), Error> {
        self.stop()
    }
}

impl Drop for UserspaceDataChannel {
    fn drop(&mut self) {
        // A worker that panicked has told so by ending.
        let _ = self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use nix::sched::{CloneFlags, unshare};
    use ovpn_dco::{Keepalive, TransportSocket};

    use super::*;
    use crate::tun::TunOptions;

    async fn a_worker_panics() {
        let device = TunDevice::create("tun", TunOptions::default()).unwrap();
        let mut channel = UserspaceDataChannel::new(device, Options::default()).unwrap();
        let index = channel.interface().index;
        let server = UdpSocket::bind("[::]:0").unwrap();
        let peer = PeerConfig {
            id: None,
            remote: server.local_addr().unwrap(),
            socket: TransportSocket::Udp(server.into()),
            local: None,
            keepalive: Keepalive::default(),
        };
        let ControlPort::Channel { mut incoming, .. } = channel.new_peer(peer).await.unwrap()
        else {
            panic!("no channel");
        };
        let panic: Command = Box::new(|_| panic!("as the test wants it"));
        assert!(channel.commands.as_ref().unwrap().send(panic).is_ok());
        let soon = Duration::from_secs(5);
        let event = tokio::time::timeout(soon, channel.next_event()).await.unwrap();
        assert!(matches!(event, DataEvent::Failed(_)), "{event:?}");
        assert_eq!(incoming.recv().await, None);
        let last = tokio::time::timeout(Duration::from_millis(50), channel.next_event()).await;
        assert!(last.is_err(), "told once: {last:?}");
        assert!(matches!(channel.keys().await, Err(Error::Closed)));
        assert!(matches!(channel.stats().await, Err(Error::Closed)));
        assert!(matches!(channel.del_peer().await, Err(Error::Closed)));
        assert!(matches!(channel.close().await, Err(Error::Closed)));
        let left = nix::net::if_::if_nametoindex("tun0").is_ok_and(|found| found == index);
        assert!(!left, "the interface goes with the worker");
    }

    /// A panic on the worker's thread is a data path that failed, like any other.
    #[test]
    fn a_panic_is_a_failure() {
        let test = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(a_worker_panics());
        });
        test.join().unwrap();
    }
}
