//! A scripted fake that records every call, for tests of code that drives a data channel.
//!
//! It keeps the contract's state (no peer, no key call), so that code that breaks the order of
//! operations fails with it as it would with the real ones.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::data_channel::{ControlPort, DataChannel, DataEvent, Interface};
use crate::error::{Error, NotInstalled};
use crate::format::Cipher;
use crate::generation::{Generation, Told};
use crate::slots::Slots;
use crate::types::{Keepalive, KeyConfig, KeyId, PeerConfig, PeerId, PeerStats, TransportSocket};

/// One call, with what of its arguments a test may want to see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// `new_peer`
    NewPeer {
        /// [`PeerConfig::id`]
        id: Option<PeerId>,
        /// Whether the transport is TCP.
        tcp: bool,
        /// [`PeerConfig::remote`]
        remote: SocketAddr,
        /// [`PeerConfig::keepalive`]
        keepalive: Keepalive,
    },
    /// `install`; not the material.
    Install(KeyId, Cipher),
    /// `promote`
    Promote(KeyId),
    /// `retire`
    Retire(KeyId),
    /// `notify_exit`
    NotifyExit,
    /// `announce`
    Announce,
    /// `del_peer`
    DelPeer,
    /// `close`, or drop without it.
    Close,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    failures: VecDeque<Failure>,
    peer: bool,
    keys: Slots<()>,
    stats: PeerStats,
    /// Of the present peer.
    generation: Generation,
    closed: bool,
}

/// When a call that fails does so.
enum Failure {
    /// It changes nothing.
    Instead(Error),
    /// It has done its work.
    Afterwards(Error),
}

/// The fake.
#[derive(Debug)]
pub struct RecordingDataChannel {
    interface: Interface,
    tcp_packets: bool,
    shared: Recorder,
    events: mpsc::UnboundedReceiver<Told>,
}

/// The test's side: what was called, and what happens next.
#[derive(Clone)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
    events: mpsc::UnboundedSender<Told>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl RecordingDataChannel {
    /// A fake with an interface of that name (which does not exist) and index 1. `tcp_packets`:
    /// what [`ControlPort::Socket`] says about TCP.
    pub fn new(name: &str, tcp_packets: bool) -> (Self, Recorder) {
        let (sender, events) = mpsc::unbounded_channel();
        let shared = Recorder { state: Arc::default(), events: sender };
        let interface = Interface { name: name.to_owned(), index: 1 };
        (Self { interface, tcp_packets, shared: shared.clone(), events }, shared)
    }

    /// Records the call and lets it work; fails if the test said so, or if there is no peer where
    /// one is needed.
    fn call(
        &self,
        call: Call,
        needs_peer: bool,
        work: impl FnOnce(&mut State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.calls.push(call);
        match state.failures.pop_front() {
            Some(Failure::Instead(error)) => Err(error),
            _ if needs_peer && !state.peer => Err(Error::NoSuchPeer),
            Some(Failure::Afterwards(error)) => work(&mut state).and(Err(error)),
            None => work(&mut state),
        }
    }
}

impl Recorder {
    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// The calls since this was last asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    /// The next call fails with this; several queue up.
    pub fn fail_next(&self, error: Error) {
        self.lock().failures.push_back(Failure::Instead(error));
    }

    /// The next call does its work, and fails with this all the same: the answer got lost.
    pub fn fail_after_next(&self, error: Error) {
        self.lock().failures.push_back(Failure::Afterwards(error));
    }

    /// What `stats` answers while there is a peer.
    pub fn set_stats(&self, stats: PeerStats) {
        self.lock().stats = stats;
    }

    /// The key that sends and the one that only opens.
    pub fn keys(&self) -> [Option<KeyId>; 2] {
        let keys = self.lock().keys;
        [keys.sending(), keys.opening()]
    }

    /// Lets the channel tell something. A deleted peer is gone from then on, like a failed
    /// channel's.
    pub fn tell(&self, event: DataEvent) {
        let mut state = self.lock();
        let told = state.generation.tells(event.clone());
        if matches!(event, DataEvent::PeerDeleted(_) | DataEvent::Failed(_)) {
            state.clear_peer();
        }
        // A channel that is gone has nobody to tell.
        let _ = self.events.send(told);
    }

    /// Whether the channel was closed or dropped.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn clear_peer(&mut self) {
        self.peer = false;
        self.keys = Slots::default();
    }

    fn replace_peer(&mut self) {
        self.clear_peer();
        self.generation = self.generation.next();
    }
}

impl DataChannel for RecordingDataChannel {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    async fn new_peer(&mut self, peer: PeerConfig) -> Result<ControlPort, Error> {
        let tcp = matches!(peer.socket, TransportSocket::Tcp(_));
        let PeerConfig { id, remote, keepalive, .. } = peer;
        let call = Call::NewPeer { id, tcp, remote, keepalive };
        self.call(call, false, |state| {
            state.replace_peer();
            state.peer = true;
            Ok(())
        })?;
        Ok(ControlPort::Socket { tcp_packets: tcp && self.tcp_packets })
    }

    async fn install(&mut self, key: KeyConfig) -> Result<(), NotInstalled> {
        let installed = self.call(Call::Install(key.key_id, key.cipher), true, |state| {
            state.keys.install(key.key_id, ());
            Ok(())
        });
        installed.map_err(|error| NotInstalled::new(error, key))
    }

    async fn promote(&mut self, key: KeyId) -> Result<(), Error> {
        self.call(Call::Promote(key), true, |state| state.keys.promote(key))
    }

    async fn retire(&mut self, key: KeyId) -> Result<(), Error> {
        self.call(Call::Retire(key), true, |state| {
            state.keys.retire(key);
            Ok(())
        })
    }

    async fn keys(&mut self) -> Result<Slots<()>, Error> {
        let state = self.shared.lock();
        if state.peer { Ok(state.keys) } else { Err(Error::NoSuchPeer) }
    }

    async fn stats(&mut self) -> Result<PeerStats, Error> {
        let state = self.shared.lock();
        if state.peer { Ok(state.stats) } else { Err(Error::NoSuchPeer) }
    }

    async fn notify_exit(&mut self) -> Result<(), Error> {
        self.call(Call::NotifyExit, true, |_| Ok(()))
    }

    async fn announce(&mut self) -> Result<bool, Error> {
        self.call(Call::Announce, true, |_| Ok(())).map(|()| true)
    }

    async fn del_peer(&mut self) -> Result<PeerStats, Error> {
        let stats = self.shared.lock().stats;
        let deleted = self.call(Call::DelPeer, true, |_| Ok(()));
        // Also of a peer that is gone already nothing more is told.
        self.shared.lock().replace_peer();
        deleted.map(|()| stats)
    }

    async fn next_event(&mut self) -> DataEvent {
        // There is always another: the channel holds a sender itself.
        while let Some(told) = self.events.recv().await {
            let present = self.shared.lock().generation;
            if let Some(event) = told.about(present) {
                return event;
            }
        }
        std::future::pending().await
    }

    async fn close(self) -> Result<(), Error> {
        // Dropping records it.
        match self.shared.lock().failures.pop_front() {
            Some(Failure::Instead(error) | Failure::Afterwards(error)) => Err(error),
            None => Ok(()),
        }
    }
}

impl Drop for RecordingDataChannel {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.calls.push(Call::Close);
        state.clear_peer();
        state.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_channel::PeerDeletedReason;
    use crate::types::DirectionKey;

    fn peer() -> PeerConfig {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        PeerConfig {
            id: PeerId::new(1),
            socket: TransportSocket::Udp(socket.into()),
            remote: "127.0.0.1:1".parse().unwrap(),
            local: None,
            keepalive: Keepalive::default(),
        }
    }

    fn key(id: KeyId) -> KeyConfig {
        let cipher = Cipher::Aes128Gcm;
        let direction = || DirectionKey::new(cipher, &[0; 16], [0; 8]).unwrap();
        KeyConfig { key_id: id, cipher, encrypt: direction(), decrypt: direction() }
    }

    #[tokio::test]
    async fn a_key_comes_back_only_if_it_was_refused() {
        let (mut channel, recorder) = RecordingDataChannel::new("tun0", true);
        let no_peer = channel.install(key(KeyId::FIRST)).await.unwrap_err();
        assert!(no_peer.key.is_some(), "{no_peer}");
        channel.new_peer(peer()).await.unwrap();
        let refused = || Error::Kernel { operation: "KEY_NEW", errno: 22, message: None };
        recorder.fail_next(refused());
        let not_installed = channel.install(*no_peer.key.unwrap()).await;
        assert_eq!(recorder.keys(), [None; 2]);
        let key = not_installed.unwrap_err().key.unwrap();
        let lost = || Error::io("KEY_NEW", std::io::ErrorKind::TimedOut.into());
        recorder.fail_after_next(lost());
        let perhaps = channel.install(*key).await.unwrap_err();
        assert!(perhaps.key.is_none() && recorder.keys() == [Some(KeyId::FIRST), None]);
    }

    #[tokio::test]
    async fn nothing_is_told_of_an_earlier_peer() {
        let (mut channel, recorder) = RecordingDataChannel::new("tun0", true);
        let gone = || DataEvent::PeerDeleted(PeerDeletedReason::Expired);
        let failed = DataEvent::Failed("test".to_owned());
        channel.new_peer(peer()).await.unwrap();
        recorder.tell(gone());
        channel.new_peer(peer()).await.unwrap();
        recorder.tell(DataEvent::PeerExit);
        recorder.tell(gone());
        assert_eq!(channel.next_event().await, DataEvent::PeerExit);
        assert!(matches!(channel.del_peer().await, Err(Error::NoSuchPeer)));
        recorder.tell(failed.clone());
        assert_eq!(channel.next_event().await, failed);
    }

    #[tokio::test]
    async fn keeps_state_and_records() {
        let (mut channel, recorder) = RecordingDataChannel::new("tun0", true);
        assert!(matches!(channel.keys().await, Err(Error::NoSuchPeer)));
        channel.new_peer(peer()).await.unwrap();
        let second = KeyId::FIRST.next();
        for id in [KeyId::FIRST, second] {
            channel.install(key(id)).await.unwrap();
        }
        channel.promote(second).await.unwrap();
        channel.retire(KeyId::FIRST).await.unwrap();
        let gone = channel.promote(KeyId::FIRST).await;
        assert!(matches!(gone, Err(Error::NoSuchKey(KeyId::FIRST))));
        assert_eq!(recorder.keys(), [Some(second), None]);
        assert_eq!(channel.keys().await.unwrap().sending(), Some(second));
        recorder.fail_next(Error::Closed);
        assert!(channel.stats().await.is_ok());
        assert!(matches!(channel.retire(second).await, Err(Error::Closed)));
        assert_eq!(recorder.keys(), [Some(second), None], "a failing call changes nothing");
        let gone = DataEvent::PeerDeleted(PeerDeletedReason::Expired);
        recorder.tell(gone.clone());
        assert_eq!(channel.next_event().await, gone);
        assert!(matches!(channel.stats().await, Err(Error::NoSuchPeer)));
        recorder.take_calls();
        channel.close().await.unwrap();
        assert_eq!(recorder.calls(), [Call::Close]);
        assert!(recorder.is_closed());
    }
}
