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
// Doc-hidden modules are role-neutral parts, public for the server role of tests and for fuzzing
// only.
#[doc(hidden)]
pub mod app_control;
mod channel;
mod dialogue;
mod event;
#[doc(hidden)]
pub mod key_method;
#[doc(hidden)]
pub mod key_schedule;
#[doc(hidden)]
pub mod messages;
mod output;
#[doc(hidden)]
pub mod packet;
#[doc(hidden)]
pub mod push;
mod rekey;
#[doc(hidden)]
pub mod reliability;
mod session;
mod slots;
mod stats;
mod web_address;
#[doc(hidden)]
pub mod wrap;

pub use allowance::Allowance;
pub use app_control::{AppControlError, AppMessage};
pub use channel::ControlChannel;
pub use event::{
    Advance, AuthFailed, ControlConfig, ControlError, Event, NegotiatedParameters, PendingAuth,
    PushedOptions, RestartFlags, TransportKind,
};
pub use output::Output;
pub use stats::{ControlStats, ErrorCounter};
pub use web_address::{NoWebAddress, WebAddress};
