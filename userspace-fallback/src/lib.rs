//! The OpenVPN data channel in software, for hosts where no kernel module can serve.
//!
//! [`UserspaceDataChannel`] implements the contract of `ovpn-dco` over a [`TunDevice`]. Its speed
//! comes from one idea: 40 to 60 packets cross each kernel boundary as one. Upwards, a TCP
//! super-packet is read from the TUN device ([`offload::split`]), its packets are sealed where
//! they will be sent from ([`peer`]) and leave with one `UDP_SEGMENT` send. Downwards, merged
//! datagrams are received (`UDP_GRO`), opened in place, and written back as super-packets
//! ([`offload::coalesce`]). Every kernel feature is probed; without it the same code handles
//! batches of one.
//!
//! The modules that are public but hidden are pure and exposed for tests, fuzzing and benchmarks
//! only.
#![deny(unsafe_code)]

mod channel;
#[doc(hidden)]
pub mod crypto;
mod delivery;
mod early;
#[doc(hidden)]
pub mod framing;
mod keepalive;
mod link;
#[doc(hidden)]
pub mod message;
#[doc(hidden)]
pub mod mss;
#[doc(hidden)]
pub mod offload;
mod options;
mod pacer;
#[doc(hidden)]
pub mod peer;
#[doc(hidden)]
pub mod recursion;
mod stats;
mod sys;
#[doc(hidden)]
pub mod transport;
mod tun;
mod wake;
mod worker;

pub use channel::UserspaceDataChannel;
pub use options::Options;
pub use stats::Counters;
pub use tun::{TunDevice, TunOptions};
