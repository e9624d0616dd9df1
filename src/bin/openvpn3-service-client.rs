//! Backend process of OpenVPN 3 Linux, started by `net.openvpn.v3.backends`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use ovpn_client::cli::BackendArgs;
use ovpn_client::dbus::{EXIT_USAGE, run_process};
use ovpn_client::privileges::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    let Some(options) = BackendArgs::parse().options() else {
        let text = "openvpn3-service-client: exactly one argument is needed: the start-up token \
                    (this program is started by net.openvpn.v3.backends, not by hand)";
        // Without standard output there is nobody to tell.
        let _ = writeln!(std::io::stdout(), "{text}");
        return ExitCode::from(EXIT_USAGE);
    };
    match run_process(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => ExitCode::from(status),
    }
}
