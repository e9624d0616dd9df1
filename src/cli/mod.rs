//! The command line of `ovpn-client`.

mod check;
mod cleanup;
mod connect;
mod doctor;
mod helper;
mod journals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use check::{CheckArgs, ReportFormat};
pub use cleanup::CleanupArgs;
pub use connect::ConnectArgs;
pub use doctor::DoctorArgs;

use crate::text::printable_lines;

/// Exit status: the profile or the command line cannot be used.
pub const EXIT_USAGE: u8 = 2;
/// Exit status: the connection failed, or something is left.
const EXIT_FAILED: u8 = 1;
/// Exit status: a privilege or a device is missing.
const EXIT_PRIVILEGE: u8 = 4;

/// OpenVPN client: kernel data channel offload first, fast userspace path otherwise.
#[derive(Debug, Parser)]
#[command(name = "ovpn-client", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connect with a profile, in the foreground
    Connect(ConnectArgs),
    /// Say what becomes of each directive of a profile, and which data path it allows
    Check(CheckArgs),
    /// Say what this machine can do: kernel offload, privileges, TUN, DNS
    Doctor(DoctorArgs),
    /// Undo what killed processes have left: DNS, routes, devices
    Cleanup(CleanupArgs),
    /// Open the pages whose addresses stand on standard input, as `connect` has it done
    #[command(hide = true)]
    OpenPages,
    /// What `connect` has root do for it
    #[command(hide = true)]
    Helper {
        /// Of the undo journal
        runtime_dir: std::path::PathBuf,
    },
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// Where to
        directory: std::path::PathBuf,
    },
}

/// Runs the command line. Must be called before any thread exists.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Connect(args) => connect::run(args),
        Command::Check(args) => {
            check::run(&args, &mut std::io::stdout().lock(), &mut std::io::stderr())
        }
        Command::Doctor(args) => doctor::run(&args, &mut std::io::stdout().lock()),
        Command::Cleanup(args) => cleanup::run(&args, &mut std::io::stdout().lock()),
        Command::Helper { runtime_dir } => helper::run(runtime_dir),
        Command::OpenPages => connect::open_pages(),
        Command::Man { directory } => write_manual(&directory),
    }
}

fn write_manual(directory: &std::path::Path) -> ExitCode {
    use clap::CommandFactory as _;
    match clap_mangen::generate_to(Cli::command(), directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{}: {error}", directory.display()), EXIT_USAGE),
    }
}

/// Says what is wrong on standard error.
fn complain(text: &str, status: u8) -> ExitCode {
    use std::io::Write as _;
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "ovpn-client: {}", printable_lines(text));
    ExitCode::from(status)
}
