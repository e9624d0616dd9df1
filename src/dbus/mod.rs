//! The backend on D-Bus: one object, spoken to over a bus by a session manager or over a private
//! connection by the front end in this process.
//!
//! This module knows messages, names and peers; what a method means is `crate::backend`'s.

mod error;
mod introspection;
mod last_resort;
mod log_service;
mod object;
mod peers;
mod process;
mod profile;
mod properties;
mod service;

pub use error::encoded_name;
pub use process::{EXIT_FORK, EXIT_USAGE, ProcessOptions, run_process};
pub use profile::OwnProfile;
pub use service::{Answer, PrivateService, serve_private};

/// Interface of the backend object, and prefix of its bus name.
pub const INTERFACE: &str = "net.openvpn.v3.backends";
/// Path of the backend object.
pub const OBJECT: &str = "/net/openvpn/v3/backends/session";
/// Bus name of the session manager.
pub const SESSIONS: &str = "net.openvpn.v3.sessions";
/// Path of the session manager.
pub const SESSIONS_OBJECT: &str = "/net/openvpn/v3/sessions";
/// Bus name and interface of the configuration manager.
pub const CONFIGURATION: &str = "net.openvpn.v3.configuration";
/// Bus name and interface of the log service.
pub const LOG: &str = "net.openvpn.v3.log";
/// Path of the log service.
pub const LOG_OBJECT: &str = "/net/openvpn/v3/log";
/// Bus name and interface of the network configuration service.
pub const NETCFG: &str = "net.openvpn.v3.netcfg";
/// Path of the network configuration service.
pub const NETCFG_OBJECT: &str = "/net/openvpn/v3/netcfg";

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
