//! The command line of `ovpn-client`, and of the backend.

mod backend;
mod check;
mod cleanup;
mod completions;
mod connect;
mod doctor;
mod helper;
mod journald;
mod journals;
mod manual;
mod metrics;
mod tunnels;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use backend::BackendArgs;
pub use check::{CheckArgs, ReportFormat};
pub use cleanup::CleanupArgs;
pub use completions::CompletionsArgs;
pub use connect::ConnectArgs;
pub use doctor::DoctorArgs;
pub use manual::ManualArgs;
pub use metrics::MetricsArgs;
pub use tunnels::{ListArgs, LogsArgs, OneArgs, StatusArgs, Where};

use self::tunnels::Act;
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
    #[command(after_long_help = connect::MANUAL)]
    Connect(ConnectArgs),
    /// The running tunnels
    List(ListArgs),
    /// What a running tunnel is and does, in words or as JSON
    Status(StatusArgs),
    /// End a running tunnel, and wait until everything is put back
    Disconnect(OneArgs),
    /// Close a tunnel's connection until it is resumed
    Pause(OneArgs),
    /// Connect again after a pause
    Resume(OneArgs),
    /// Drop a tunnel's connection and make a new one at once
    Reconnect(OneArgs),
    /// Follow what a running tunnel says, from now on
    Logs(LogsArgs),
    /// What running tunnels count, for Prometheus and its kind
    Metrics(MetricsArgs),
    /// Say what becomes of each directive of a profile, and which data path it allows
    Check(CheckArgs),
    /// Say what this machine can do: kernel offload, privileges, TUN, DNS
    Doctor(DoctorArgs),
    /// Undo what killed processes have left: DNS, routes, devices
    Cleanup(CleanupArgs),
    /// Run a program for the events that come over standard input, as `connect` has it done
    #[command(hide = true)]
    RunOnEvents {
        /// Which
        program: std::path::PathBuf,
    },
    /// Open the pages whose addresses stand on standard input, as `connect` has it done
    #[command(hide = true)]
    OpenPages,
    /// What `connect` has root do for it
    #[command(hide = true)]
    Helper {
        /// Of the undo journal
        runtime_dir: std::path::PathBuf,
        /// The tunnel's name, whose socket goes with the helper
        #[arg(long, requires = "inode")]
        name: Option<tunnels::TunnelName>,
        /// Of the socket
        #[arg(long)]
        inode: Option<u64>,
    },
    /// Write what a shell completes of a command line
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(ManualArgs),
}

/// Runs the command line. Must be called before any thread exists.
pub fn run() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            connect::refuse_usage(&error);
            error.exit()
        }
    };
    match command {
        Command::Connect(args) => connect::run(args),
        Command::Check(args) => {
            check::run(&args, &mut std::io::stdout().lock(), &mut std::io::stderr())
        }
        Command::Doctor(args) => doctor::run(&args, &mut std::io::stdout().lock()),
        Command::Cleanup(args) => cleanup::run(&args, &mut std::io::stdout().lock()),
        Command::List(args) => tunnels::list(&args),
        Command::Status(args) => tunnels::status(&args),
        Command::Disconnect(args) => tunnels::act(&args, Act::Disconnect),
        Command::Pause(args) => tunnels::act(&args, Act::Pause),
        Command::Resume(args) => tunnels::act(&args, Act::Resume),
        Command::Reconnect(args) => tunnels::act(&args, Act::Reconnect),
        Command::Logs(args) => tunnels::logs(&args),
        Command::Metrics(args) => metrics::run(&args),
        Command::Helper { runtime_dir, name, inode } => {
            helper::run(&runtime_dir, name.as_ref().zip(inode))
        }
        Command::OpenPages => connect::open_pages(),
        Command::RunOnEvents { program } => connect::run_on_events(&program),
        Command::Completions(args) => completions::run(&args, &Cli::command()),
        Command::Man(args) => manual::run(&args, Cli::command()),
    }
}

/// This process may not change the network, for which it has this reason.
fn without_net_admin(reason: &str) -> String {
    let remedy = if nix::unistd::Uid::effective().is_root() {
        "this container's root does not have it, start it with --cap-add NET_ADMIN"
    } else {
        "run this as root"
    };
    format!("CAP_NET_ADMIN is missing: {reason}; {remedy}")
}

/// Says what is wrong on standard error.
fn complain(text: &str, status: u8) -> ExitCode {
    use std::io::Write as _;
    let mut text = format!("ovpn-client: {}\n", printable_lines(text));
    if journald::reads(&std::io::stderr()) {
        text = journald::lines(journald::Level::Error, &text);
    }
    // Without standard error there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(status)
}
