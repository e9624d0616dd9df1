//! The command line of `openvpn3-service-client`. It is here so that its manual page is written with the
//! others.

use std::path::PathBuf;

use clap::{ArgAction, Parser};

use crate::dbus::ProcessOptions;
use crate::logging::LogLevel;

/// VPN backend of OpenVPN 3 Linux; started by the backend starter service, not by hand
#[derive(Debug, Parser)]
#[command(name = "openvpn3-service-client", version)]
pub struct BackendArgs {
    /// Log verbosity, 0 to 6
    #[arg(long, value_name = "LEVEL", default_value_t = LogLevel::DEFAULT,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(LogLevel::MAX)))]
    log_level: u32,
    /// Write log lines to a file as well (stdout: for standard output)
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Colours in the log file
    #[arg(long, alias = "color")]
    colour: bool,
    /// Do not pass the socket to the network configuration service when asking it to protect the
    /// route to the server
    #[arg(long)]
    disable_protect_socket: bool,
    /// Where to note what has to be undone after a crash (default: /run/ovpn-client-backend,
    /// or /var/lib/openvpn3/ovpn-client)
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Token given by the backend starter
    #[arg(value_name = "TOKEN", action = ArgAction::Append)]
    token: Vec<String>,
}

impl BackendArgs {
    /// What the process is started with; `None` without exactly one token.
    pub fn options(self) -> Option<ProcessOptions> {
        let [token] = <[String; 1]>::try_from(self.token).ok()?;
        Some(ProcessOptions {
            token,
            log_level: self.log_level,
            log_file: self.log_file,
            colour: self.colour,
            disable_protect_socket: self.disable_protect_socket,
            runtime_dir: self.runtime_dir,
        })
    }
}
