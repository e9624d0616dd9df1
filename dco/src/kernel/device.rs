//! Typed commands for one link.

use std::fmt;

use netlink_sys::protocols::NETLINK_GENERIC;

use super::envelope::Refusal;
use super::family::{self, Api, Family};
use super::message::{Command, KeyInfo, NewPeer, PeerInfo, SetPeer};
use super::netlink::{Failure, Netlink};
use crate::error::Error;
use crate::types::{KeyConfig, KeySlot, PeerId};

/// Commands to the module for one link. The lower of this crate's two levels: one method per
/// command, several peers where the link is in multi-peer mode, no state of its own.
///
/// Methods block only as long as the kernel works on the request: microseconds, except that the
/// first key of an algorithm may load a module.
///
/// Errors of every method: [`Error::NotPermitted`] without `CAP_NET_ADMIN` in the initial user
/// namespace (asked anew each time, of the process that opened the device and of the caller);
/// [`Error::NoSuchPeer`]; [`Error::Kernel`] with the kernel's own words for everything else.
pub struct Device {
    family: Family,
    ifindex: u32,
    netlink: Netlink,
}

impl Device {
    /// Opens a socket for commands to the link with this index, which must be in the calling
    /// thread's network namespace. Does not check that the link exists.
    ///
    /// # Errors
    ///
    /// When no netlink socket can be opened.
    pub fn open(family: Family, ifindex: u32) -> Result<Self, Error> {
        Ok(Self { family, ifindex, netlink: Netlink::open(NETLINK_GENERIC)? })
    }

    /// For a device opened before its link, so that its socket is in the right namespace.
    pub(super) fn set_ifindex(&mut self, ifindex: u32) {
        self.ifindex = ifindex;
    }

    /// Which interface it speaks.
    pub fn api(&self) -> Api {
        self.family.api
    }

    /// Creates a peer; in point-to-point mode in place of the one there is.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn new_peer(&mut self, peer: &NewPeer<'_>) -> Result<(), Error> {
        self.command(&Command::NewPeer(peer))
    }

    /// Changes a peer.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn set_peer(&mut self, peer: &SetPeer) -> Result<(), Error> {
        self.command(&Command::SetPeer(peer))
    }

    /// Describes a peer.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn peer(&mut self, id: PeerId) -> Result<PeerInfo, Error> {
        let mut info = None;
        let api = self.api();
        self.send(&Command::GetPeer(id), |bytes| {
            info = Some(api.decode_peer(bytes)?);
            Ok(())
        })?;
        info.ok_or(Error::NoSuchPeer)
    }

    /// Describes every peer. `ovpn-dco-v2` lists none in point-to-point mode.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn peers(&mut self) -> Result<Vec<PeerInfo>, Error> {
        let mut peers = Vec::new();
        let api = self.api();
        self.send(&Command::DumpPeers, |bytes| {
            peers.push(api.decode_peer(bytes)?);
            Ok(())
        })?;
        Ok(peers)
    }

    /// Deletes a peer and its keys.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn del_peer(&mut self, id: PeerId) -> Result<(), Error> {
        self.command(&Command::DelPeer(id))
    }

    /// Puts a key into a slot, in place of what is there. [`Error::Unsupported`] if the kernel
    /// lacks the cipher.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn new_key(&mut self, peer: PeerId, slot: KeySlot, key: &KeyConfig) -> Result<(), Error> {
        if !key.cipher.is_aead() {
            let what = format!("the cipher {}", key.cipher);
            return Err(Error::Unsupported { what, by: self.api().name() });
        }
        match self.command(&Command::NewKey { peer, slot, key }) {
            // ENOENT means either: no such peer, or no such algorithm in the kernel.
            Err(Error::NoSuchPeer) if self.peer(peer).is_ok() => Err(Error::Unsupported {
                what: format!("the cipher {}", key.cipher),
                by: self.api().name(),
            }),
            result => result,
        }
    }

    /// Describes the key in a slot, if there is one. [`Error::Unsupported`] by `ovpn-dco-v2`.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn key(&mut self, peer: PeerId, slot: KeySlot) -> Result<Option<KeyInfo>, Error> {
        let mut info = None;
        let api = self.api();
        let result = self.send(&Command::GetKey { peer, slot }, |bytes| {
            info = Some(api.decode_key(bytes)?);
            Ok(())
        });
        match result {
            Err(Error::NoSuchPeer) if self.peer(peer).is_ok() => Ok(None),
            other => other.map(|()| info),
        }
    }

    /// Exchanges the slots, also when the secondary one is empty: then there is no key to send
    /// with.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn swap_keys(&mut self, peer: PeerId) -> Result<(), Error> {
        self.command(&Command::SwapKeys(peer))
    }

    /// Empties a slot. Succeeds if it is empty.
    #[expect(clippy::missing_errors_doc, reason = "at the type")]
    pub fn del_key(&mut self, peer: PeerId, slot: KeySlot) -> Result<(), Error> {
        self.command(&Command::DelKey { peer, slot })
    }

    fn command(&mut self, command: &Command<'_>) -> Result<(), Error> {
        self.send(command, |_| Ok(()))
    }

    fn send(
        &mut self,
        command: &Command<'_>,
        answer: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let request = self.family.api.encode(command, self.ifindex)?;
        let operation = request.operation();
        family::send(&mut self.netlink, request, self.family.id, answer).map_err(|failure| {
            match failure {
                Failure::Refused(Refusal { errno: libc::ENOENT, .. }) => Error::NoSuchPeer,
                other => family::to_error(operation, other),
            }
        })
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("family", &self.family)
            .field("ifindex", &self.ifindex)
            .finish_non_exhaustive()
    }
}
