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

// Under the name by which the simulated server of `tests/sim` knows it.
#[cfg(test)]
extern crate self as ovpn_client;

pub mod backend;
mod bus_call;
pub mod cli;
pub mod control;
pub mod data_path;
pub mod dbus;
pub mod logging;
pub mod network;
pub mod posture;
pub mod privileges;
pub mod profile;
pub mod secret;
pub mod session;
pub mod tls;
pub mod transport;
