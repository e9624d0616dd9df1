//! The kernel implementations over generic netlink.
//!
//! Linux has two interfaces for the OpenVPN data channel ([`Api`]): the in-tree module `ovpn`
//! (Linux 6.16 and newer) and the out-of-tree `ovpn-dco-v2`. They do the same with different
//! numbers. Three levels, each usable by itself:
//!
//! - [`KernelDataChannel`] keeps the [`crate::DataChannel`] contract: a client's view, one peer.
//! - [`Device`], [`Links`], [`Family`]: one method per kernel command, for servers and tests.
//! - [`ovpn`] and [`dco_v2`]: typed commands and answers to and from bytes, without any I/O.
//!
//! [`probe()`] tells what the running kernel offers.
//!
//! Everything but looking needs `CAP_NET_ADMIN` in the initial user namespace, from the first
//! command to the last: the modules check each one.

mod attr;
mod channel;
pub mod dco_v2;
mod device;
mod envelope;
mod events;
mod family;
mod link;
mod message;
mod netlink;
pub mod ovpn;
mod probe;
#[cfg(test)]
mod test_data;
mod uapi;
mod usage;

pub use attr::Request;
pub use channel::KernelDataChannel;
pub use device::Device;
pub use family::{Api, Family, Features};
pub use link::{Link, LinkName, Links, Mode};
pub use message::{
    Algorithm, Command, KeyInfo, NewPeer, Notification, PeerEvent, PeerInfo, SetPeer,
};
pub use probe::{ApiReport, Report, Status, probe};

/// Runs every decoder that sees bytes from the kernel. For fuzzing: must return.
#[cfg(any(test, feature = "internals"))]
pub fn decode_anything(bytes: &[u8]) {
    for message in envelope::messages(bytes).flatten() {
        if let Ok(envelope::Content::Message(payload)) = message.content() {
            family::decode_anything(payload);
            events::decode_anything(payload);
        }
    }
    family::decode_anything(bytes);
    for api in Api::ALL {
        let _ = api.decode_peer(bytes);
        let _ = api.decode_key(bytes);
        let _ = api.decode_notification(bytes);
    }
}
