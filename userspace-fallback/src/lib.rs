//! The OpenVPN data channel in software, for hosts where no kernel module can serve.
//!
//! [`UserspaceDataChannel`] implements the contract of `ovpn-dco` over a [`TunDevice`]. Its speed
//! comes from one idea: 40 to 60 packets cross each kernel boundary as one. Upwards, a TCP
//! super-packet is read from the TUN device (`offload::split`), its packets are sealed where
//! they will be sent from (`peer`) and leave with one `UDP_SEGMENT` send. Downwards, merged
//! datagrams are received (`UDP_GRO`), opened in place, and written back as super-packets
//! (`offload::coalesce`). Every kernel feature is probed; without it the same code handles
//! batches of one.
//!
//! The pure modules are public for tests, fuzzing and benchmarks, with the feature `internals`.
#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "internals"),
    allow(unreachable_pub, reason = "what is public only with it")
)]

mod channel;
#[cfg(not(feature = "internals"))]
mod crypto;
#[cfg(feature = "internals")]
pub mod crypto;
mod delivery;
mod early;
#[cfg(not(feature = "internals"))]
mod framing;
#[cfg(feature = "internals")]
pub mod framing;
#[cfg(not(feature = "internals"))]
mod inflate;
#[cfg(feature = "internals")]
pub mod inflate;
mod keepalive;
mod link;
#[cfg(not(feature = "internals"))]
mod message;
#[cfg(feature = "internals")]
pub mod message;
#[cfg(not(feature = "internals"))]
mod mss;
#[cfg(feature = "internals")]
pub mod mss;
#[cfg(not(feature = "internals"))]
mod offload;
#[cfg(feature = "internals")]
pub mod offload;
mod options;
mod pacer;
#[cfg(not(feature = "internals"))]
mod peer;
#[cfg(feature = "internals")]
pub mod peer;
#[cfg(not(feature = "internals"))]
mod recursion;
#[cfg(feature = "internals")]
pub mod recursion;
mod stats;
mod sys;
#[cfg(not(feature = "internals"))]
mod transport;
#[cfg(feature = "internals")]
pub mod transport;
mod tun;
mod wake;
mod worker;

pub use channel::UserspaceDataChannel;
pub use mss::MssClamp;
pub use options::{Extras, Options};
pub use stats::{Counters, Faults};
pub use tun::{TunDevice, TunOptions};
