//! `ovpn-client connect`: a backend in this process, driven over its D-Bus interface through a
//! private connection, like any other front end drives it.

mod browser;
mod front;
mod login;
mod output;
mod peer;
mod prompt;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tokio::sync::mpsc;

use self::browser::Browser;
use self::login::{LoginError, LoginFile};
use self::output::Console;
use super::doctor;
use super::journals::RUNTIME_DIR;
use super::{EXIT_FAILED, EXIT_PRIVILEGE, EXIT_USAGE, complain};
use crate::backend::{Settings, Threads};
use crate::dbus::{Answer, OwnProfile, PrivateService};
use crate::ending;
use crate::logging::{self, LogLevel, LogLine};
use crate::network::enter_netns;
use crate::network::helper::{Helper, HelperEnd};
use crate::privileges::{self, Calls, Needs};
use crate::profile::{Options, Profile, ProfileErrors, ProfileFile, Remote};
use crate::secret::Secret;
use crate::session::NetworkMode;
use crate::stop;

/// Exit status: the server refused the credentials.
const EXIT_AUTH: u8 = 3;

pub(super) use self::browser::open_pages;

/// Arguments of `ovpn-client connect`.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Profile (.ovpn)
    profile: PathBuf,
    /// Kernel data channel offload: if possible, insist on it, or never
    #[arg(long, value_enum, default_value_t = Dco::Auto)]
    dco: Dco,
    /// File with the user name in its first line and the password in its second
    #[arg(long, value_name = "FILE")]
    auth_user_pass: Option<PathBuf>,
    /// Run in this network namespace (as made by `ip netns`)
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Output for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Verbosity, 0 (only what is fatal) to 6 (everything); default: the profile's `verb`, at least 3
    #[arg(long, value_name = "LEVEL",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(LogLevel::MAX)))]
    verb: Option<u32>,
    /// Where to note what has to be undone after a crash
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// Give up root's rights but those over the network, or keep them in case this is in the way
    #[arg(long, value_enum, default_value_t = Sandbox::On)]
    sandbox: Sandbox,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Sandbox {
    /// Run as a user without rights; a helper process does what takes root
    On,
    /// Run as root, without a helper process
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Dco {
    /// Kernel offload where profile, server and kernel allow it, userspace otherwise
    Auto,
    /// Fail if kernel offload is not possible
    On,
    /// Userspace
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Output {
    /// Steps, then a live line
    Text,
    /// One object per line
    Json,
}

/// Connects, until asked to stop. Must be called before any thread exists.
pub(super) fn run(args: ConnectArgs) -> ExitCode {
    match prepare(args) {
        Ok(status) => status,
        Err((text, status)) => complain(&text, status),
    }
}

fn prepare(args: ConnectArgs) -> Result<ExitCode, (String, u8)> {
    let usage = |error: &dyn std::error::Error| (error.to_string(), EXIT_USAGE);
    // Said again, where it can be heard, by what restricts the process.
    let _ = privileges::forbid_dumps();
    // Before the profile is in memory, and before the right to become another user goes.
    let browser = Browser::start();
    // Not before: programs would inherit it.
    stop::ignore_requests();
    let (profile, login) = read_files(&args).map_err(|error| usage(&error))?;
    if !privileges::can_configure_network() {
        let text = "CAP_NET_ADMIN is missing: a tunnel needs a network device, addresses and \
                    routes; run this as root";
        return Err((text.to_owned(), EXIT_PRIVILEGE));
    }
    if let Some(name) = &args.netns {
        enter_netns(name).map_err(|error| (error.to_string(), EXIT_PRIVILEGE))?;
    }
    // Before a packet leaves. What only the server can tell is looked at again when connected.
    if args.dco == Dco::On
        && let Some(why) = doctor::why_not_kernel(&profile.profile.options)
    {
        return Err((format!("--dco on: {why}"), EXIT_PRIVILEGE));
    }
    let helper = match args.sandbox {
        Sandbox::On => Some(start_helper(&args.runtime_dir)?),
        Sandbox::Off => None,
    };
    // Threads come into being with the runtime and inherit what is left.
    let restricted = match args.sandbox {
        Sandbox::On => privileges::become_unprivileged(needs(&profile.profile.options)),
        Sandbox::Off => privileges::restrict(Calls::Programs),
    };

    // Few profiles say `verb 1` to hide the steps from somebody who watches.
    let verb = profile.profile.options.verb.map_or(0, u32::from).max(LogLevel::DEFAULT);
    let verbosity = args.verb.unwrap_or(verb).min(LogLevel::MAX);
    let log_level = LogLevel::new(verbosity);
    let lines = logging::init(&log_level, None, false).map_err(|error| usage(&error))?;
    if let Err(error) = restricted {
        tracing::warn!("{error}");
    }
    let failed = |error: std::io::Error| (error.to_string(), EXIT_FAILED);
    let threads = Threads::new().map_err(failed)?;
    let console = Console::new(args.output == Output::Json).map_err(failed)?;
    let (answers, receiver) = mpsc::channel(1);
    let service = backend(&args, profile, receiver, &threads, log_level.clone(), lines);
    let front = front::run(front::Start {
        args: &args,
        login,
        verbosity: log_level.get(),
        service,
        answers,
        browser,
        helper: helper.as_ref(),
        console: console.clone(),
    });
    // A panic is in the log, and all is undone.
    let mut status = catch_unwind(AssertUnwindSafe(|| threads.run(front))).unwrap_or(EXIT_FAILED);
    if let Some(helper) = helper
        && !helper.end(ending::LAST_RESORT)
    {
        console.complain(
            "the helper process, which keeps root's rights, hangs: it undoes what is left (DNS) once \
             it goes on, and 'ovpn-client cleanup' does if it is killed",
        );
        status = status.max(EXIT_FAILED);
    }
    console.flush();
    Ok(ExitCode::from(status))
}

fn start_helper(runtime_dir: &Path) -> Result<HelperEnd, (String, u8)> {
    Helper::start(&["helper"], runtime_dir).map_err(|error| {
        let text = format!(
            "the helper process that keeps root's rights cannot be started: {error} (--sandbox off \
             does without, and keeps them in this process)"
        );
        (text, EXIT_FAILED)
    })
}

/// Which rights a profile takes besides those that every one does.
fn needs(options: &Options) -> Needs {
    let low = |remote: &Remote| remote.local_port.is_some_and(|port| (1..1024).contains(&port));
    Needs { device: options.device.bind_dev.is_some(), low_port: options.remotes.iter().any(low) }
}

/// Why nothing is begun.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// The profile's file.
    #[error("{}: {error}", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    /// What stands in it, every reason.
    #[error(transparent)]
    Profile(#[from] ProfileErrors),
    /// The login's file.
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// Opens every file, before the rights to them go. Nothing of their text stays.
fn read_files(args: &ConnectArgs) -> Result<(OwnProfile, Option<LoginFile>), Unusable> {
    let file = privileges::files_of_caller(&args.profile)
        .and_then(|opener| ProfileFile::read_with(&args.profile, opener))
        .map_err(|error| Unusable::Unreadable { path: args.profile.clone(), error })?;
    let login = args.auth_user_pass.as_deref().map(|path| LoginFile::open(path, &file.files));
    let login = login.transpose()?;
    let profile = check_profile(&file, login.is_some())?;
    Ok((OwnProfile { name: file.name, dco: args.dco != Dco::Off, profile }, login))
}

/// Refuses a profile that cannot be used, with every reason. `--auth-user-pass` means the same as
/// the directive.
fn check_profile(file: &ProfileFile, with_login: bool) -> Result<Profile, ProfileErrors> {
    let parse = |text: &Secret<String>| Profile::parse(text.expose(), &file.name, &file.files);
    let mut parsed = parse(&file.text);
    let asks = parsed.as_ref().is_ok_and(|parsed| parsed.options.auth.user_pass);
    if with_login && !asks {
        parsed = parse(&Secret::new(format!("{}\nauth-user-pass\n", file.text.expose())));
    }
    parsed
}

fn backend(
    args: &ConnectArgs,
    profile: OwnProfile,
    answers: mpsc::Receiver<Answer>,
    threads: &Threads,
    level: LogLevel,
    lines: mpsc::Receiver<LogLine>,
) -> PrivateService {
    PrivateService {
        settings: Settings {
            network: NetworkMode::Direct,
            runtime_dir: args.runtime_dir.clone(),
            gui_version: concat!("ovpn-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            sso: "openurl,webauth,crtext".to_owned(),
            posture: None,
        },
        start: threads.starter(),
        profile,
        answers,
        log_level: level,
        lines,
    }
}
