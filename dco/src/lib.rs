//! The OpenVPN data channel: vocabulary, contract, and the two Linux kernel offload APIs.
//!
//! [`DataChannel`] is the contract; [`kernel`] implements it over generic netlink for the in-tree
//! `ovpn` module (Linux 6.16 and newer) and for the out-of-tree `ovpn-dco-v2`. The crate
//! `ovpn-userspace` implements it in software.
#![forbid(unsafe_code)]

mod data_channel;
mod error;
#[cfg(feature = "kernel")]
pub mod kernel;
#[cfg(feature = "recording")]
pub mod recording;
mod types;

pub use data_channel::{ControlPort, DataChannel, DataEvent, Interface, PeerDeletedReason};
pub use error::Error;
pub use types::{
    Cipher, DirectionKey, Framing, Keepalive, KeyConfig, KeyId, KeySlot, MssClamp, PeerConfig,
    PeerId, PeerStats, TransportSocket,
};

/// Whether a packet's first byte marks it as a data packet (DATA_V1 or DATA_V2): not for the
/// control channel.
pub const fn is_data_packet(first_byte: u8) -> bool {
    matches!(first_byte >> 3, 6 | 9)
}
