//! An OpenVPN client backend for Linux.
//!
//! ```text
//! profile text --profile--> Profile ------------------------------+
//!                                                                 v
//! front end --dbus--> backend --commands--> session <--events-- control (sans-I/O, TLS inside)
//!                     (state machine,         |  ^                 ^
//!                      user-input queue)      |  |              transport (UDP, TCP, HTTP proxy)
//!                                             |  +-- data events
//!                         network plan --rtnetlink, D-Bus     data plane: kernel (ovpn-dco) or
//!                         (addresses, routes, DNS)            software (ovpn-userspace)
//! ```
//!
//! Each module starts by saying what it decides and what it never does.
//!
//! The text of an error is complete: one line that tells the cause, too, and what to do about it
//! where something can be done. `source()` gives the cause by itself: show one or the other.
#![cfg_attr(
    not(feature = "internals"),
    allow(unreachable_pub, reason = "what is public only with it")
)]

#[cfg(feature = "dbus")]
pub mod backend;
#[cfg(feature = "session")]
mod bus_call;
#[cfg(feature = "cli")]
pub mod cli;
pub mod control;
pub mod counters;
#[cfg(feature = "session")]
pub mod data_path;
#[cfg(feature = "dbus")]
pub mod dbus;
#[cfg(feature = "session")]
mod ending;
pub mod fault;
#[cfg(feature = "dbus")]
mod line_writer;
#[cfg(feature = "dbus")]
pub mod logging;
#[cfg(feature = "session")]
pub mod network;
#[cfg(feature = "session")]
pub mod posture;
#[cfg(feature = "dbus")]
pub mod privileges;
pub mod profile;
pub mod secret;
#[cfg(feature = "session")]
pub mod session;
#[cfg(feature = "dbus")]
mod stop;
pub mod text;
pub mod tls;
#[cfg(feature = "session")]
pub mod transport;
