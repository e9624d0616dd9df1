//! Backend process of OpenVPN 3 Linux, started by `net.openvpn.v3.backends`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser};
use ovpn_client::dbus::{EXIT_USAGE, ProcessOptions, run_process};
use ovpn_client::logging::LogLevel;
use ovpn_client::privileges::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

/// VPN backend of OpenVPN 3 Linux; started by the backend starter service, not by hand
#[derive(Debug, Parser)]
#[command(name = "openvpn3-service-client", version)]
struct Arguments {
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

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let (Some(token), []) = (arguments.token.pop(), &*arguments.token) else {
        let text = "openvpn3-service-client: exactly one argument is needed: the start-up token \
                    (this program is started by net.openvpn.v3.backends, not by hand)";
        // Without standard output there is nobody to tell.
        let _ = writeln!(std::io::stdout(), "{text}");
        return ExitCode::from(EXIT_USAGE);
    };
    let result = run_process(ProcessOptions {
        token,
        log_level: arguments.log_level,
        log_file: arguments.log_file,
        colour: arguments.colour,
        disable_protect_socket: arguments.disable_protect_socket,
        runtime_dir: arguments.runtime_dir,
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => ExitCode::from(status),
    }
}
