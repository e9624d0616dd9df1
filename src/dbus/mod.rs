//! The backend on D-Bus: one object, spoken to over a bus by a session manager or over a private
//! connection by the front end in this process.
//!
//! This module knows messages, names and peers; what a method means is `crate::backend`'s.

mod error;
mod introspection;
mod log_service;
mod object;
mod peers;
mod process;
mod profile;
mod properties;
mod report;
mod residue;
mod service;

use std::time::Duration;

pub use error::encoded_name;
pub use process::{EXIT_FORK, EXIT_USAGE, ProcessOptions, RUNTIME_DIRS, run_process};
pub use profile::OwnProfile;
pub use report::{
    ConnectionReport, DataPathReport, DnsReport, Problem, ProcessReport, ReasonReport, Report,
    RouteReport, ServerReport, TUNNEL_INTERFACE, TlsReport, TunnelState,
};
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

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long the other end of the connection may take to read what it is sent. A session manager
/// gives up sooner on a process that says nothing.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// Sends, and takes a connection that nobody reads for one that is broken: whoever waited for it
/// longer could not be told to end.
async fn in_time<T>(send: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    match tokio::time::timeout(SEND_LIMIT, send).await {
        Ok(sent) => sent,
        Err(_) => {
            let reason = format!("nobody reads its other end for {} s", SEND_LIMIT.as_secs());
            Err(zbus::Error::Failure(reason))
        }
    }
}
