//! The control channel: reliable, wrapped, TLS inside; key exchange, push, renegotiation, messages.
//!
//! Sans-I/O: no socket, no clock, no randomness but what is passed in. Feed it packets and time,
//! then do what [`ControlChannel::poll_output`] says until it says to wait.
//!
//! ```text
//! packet -> wrap (authentic? new?) -> packet (fields) -> session of its key id
//!                                                          reliability (order) -> TLS -> text
//!                                                                                  |
//!                             channel (phases, messages, push) <-------------------+
//!                             rekey + slots (which key, how long)
//! ```
#![forbid(unsafe_code)]

mod allowance;
// Role-neutral parts are public for the server role of tests, and for fuzzing, with `internals`.
#[cfg(not(feature = "internals"))]
mod app_control;
#[cfg(feature = "internals")]
pub mod app_control;
mod channel;
mod dialogue;
mod error;
mod event;
#[cfg(not(feature = "internals"))]
mod key_method;
#[cfg(feature = "internals")]
pub mod key_method;
#[cfg(not(feature = "internals"))]
mod key_schedule;
#[cfg(feature = "internals")]
pub mod key_schedule;
#[cfg(not(feature = "internals"))]
mod messages;
#[cfg(feature = "internals")]
pub mod messages;
mod output;
#[cfg(not(feature = "internals"))]
mod packet;
#[cfg(feature = "internals")]
pub mod packet;
#[cfg(not(feature = "internals"))]
mod push;
#[cfg(feature = "internals")]
pub mod push;
mod rekey;
#[cfg(not(feature = "internals"))]
mod reliability;
#[cfg(feature = "internals")]
pub mod reliability;
mod session;
mod slots;
mod stats;
mod web_address;
#[cfg(not(feature = "internals"))]
mod wrap;
#[cfg(feature = "internals")]
pub mod wrap;

pub use allowance::Allowance;
pub use app_control::{AppControlError, AppMessage};
pub use channel::ControlChannel;
#[cfg(feature = "session")]
pub(crate) use error::NOTHING_SHARED;
pub use error::{ApiMisuse, ControlError, HostFailure, LimitReached, PeerMisbehaved};
pub use event::{
    Advance, AuthFailed, ControlConfig, Event, NegotiatedParameters, PendingAuth, PushedOptions,
    RestartFlags, TransportKind,
};
pub use output::Output;
pub use stats::{ControlStats, ErrorCounter};
pub use web_address::{NoWebAddress, WebAddress};
