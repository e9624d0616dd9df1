//! The OpenVPN data channel: vocabulary, contract, and the two Linux kernel offload APIs.
//!
//! [`DataChannel`] is the contract; [`kernel`] implements it over generic netlink for the in-tree
//! `ovpn` module (Linux 6.16 and newer) and for the out-of-tree `ovpn-dco-v2`. The crate
//! `ovpn-userspace` implements it in software.
//!
//! # Example
//!
//! The calls of one end, for a socket and keys that both ends have agreed on. The whole program,
//! with two peers in two network namespaces that ping each other, is `examples/two_peers.rs`
//! (`cargo run -p ovpn-dco --example two_peers`).
//!
#![cfg_attr(feature = "kernel", doc = "```no_run")]
#![cfg_attr(not(feature = "kernel"), doc = "```ignore")]
//! use ovpn_dco::kernel::{KernelDataChannel, LinkName, probe};
//! use ovpn_dco::{
//!     Cipher, DataChannel, DataEvent, DirectionKey, Keepalive, KeyConfig, KeyId,
//!     PeerConfig, PeerId, TransportSocket,
//! };
//!
//! /// `ours` and `theirs`: 32 bytes of key each, exchanged at the other end.
//! async fn tunnel(
//!     socket: std::net::UdpSocket,
//!     ours: [u8; 32],
//!     theirs: [u8; 32],
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let api = probe().ready().ok_or("no usable module")?;
//!     let mut channel = KernelDataChannel::create(api, LinkName::from_dev("tun")).await?;
//!     println!("{} is there: give it addresses and routes", channel.interface().name);
//!
//!     let remote = socket.peer_addr()?;
//!     let peer = PeerConfig {
//!         id: PeerId::new(1),
//!         socket: TransportSocket::Udp(socket.into()),
//!         remote,
//!         local: None,
//!         keepalive: Keepalive { interval: 10, timeout: 60 },
//!     };
//!     channel.new_peer(peer).await?;
//!
//!     let cipher = Cipher::Aes256Gcm;
//!     let direction =
//!         |key: &[u8]| DirectionKey::new(cipher, key, [0; 8]).ok_or("the key is too short");
//!     let key = KeyConfig {
//!         key_id: KeyId::FIRST,
//!         cipher,
//!         encrypt: direction(&ours)?,
//!         decrypt: direction(&theirs)?,
//!     };
//!     channel.install(key).await?;
//!     loop {
//!         match channel.next_event().await {
//!             DataEvent::PeerDeleted(reason) => {
//!                 println!("the peer is gone: {reason:?}");
//!                 break;
//!             }
//!             event => println!("{event:?}"),
//!         }
//!     }
//!     channel.close().await?;
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

mod data_channel;
mod error;
pub mod format;
mod generation;
#[cfg(feature = "kernel")]
pub mod kernel;
#[cfg(feature = "recording")]
pub mod recording;
pub mod replay;
mod slots;
mod types;

pub use data_channel::{ControlPort, DataChannel, DataEvent, Either, Interface, PeerDeletedReason};
pub use error::{Error, NotInstalled};
pub use format::{Cipher, DataFormat, DataHeader, Digest, is_data_packet};
pub use generation::{Generation, Told};
pub use slots::Slots;
pub use types::{
    DirectionKey, Framing, Keepalive, KeyConfig, KeyId, KeySlot, PeerConfig, PeerId, PeerStats,
    TransportSocket,
};
