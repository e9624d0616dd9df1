//! `ovpn-client connect`: a backend in this process, driven over its D-Bus interface through a
//! private connection, like any other front end drives it.

mod browser;
mod event;
mod front;
mod given;
mod hook;
mod output;
mod peer;
mod prompt;
mod service_manager;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use nix::unistd::{Group, Uid};
use tokio::sync::mpsc;

use self::browser::Browser;
use self::event::Own;
use self::front::Ended;
use self::given::{Given, GivenError, INPUT, Places};
use self::hook::Hook;
use self::output::{Console, without_marker};
use self::service_manager::ServiceManager;
use super::doctor;
use super::journals::RUNTIME_DIR;
use super::tunnels::{Access, Place, PlaceError, TunnelName};
use super::{EXIT_FAILED, EXIT_PRIVILEGE, EXIT_USAGE, complain, without_net_admin};
use crate::backend::{Settings, Threads};
use crate::dbus::{Answer, OwnProfile, PrivateService};
use crate::ending;
use crate::line_writer::Weight;
use crate::logging::{self, LogLevel, LogLine};
use crate::network::enter_netns;
use crate::network::helper::{Helper, HelperEnd};
use crate::privileges::{self, Caller, Calls, Needs};
use crate::profile::{Options, Profile, ProfileErrors, ProfileFile, Remote};
use crate::secret::Secret;
use crate::session::NetworkMode;
use crate::stop;

/// Exit status: the server refused the credentials.
const EXIT_AUTH: u8 = 3;

/// What the manual page has besides the options.
pub(super) const MANUAL: &str = "\
Exit status:
  0  stopped as asked
  1  the connection failed; another try may find something else
  2  the command line, the profile or what is given as an answer cannot be used
  3  the server refused the login, or the passphrase is wrong
  4  a privilege or a device is missing
With 2, 3 and 4 another try would find the same, so ovpn-client@.service does not try again.

Signals:
  SIGINT, SIGTERM, SIGQUIT, SIGHUP  disconnect, and put everything back
  SIGUSR1                           connect again
  SIGUSR2                           print statistics

Environment:
  CREDENTIALS_DIRECTORY  here are answers, if no option gives them: in 'login' those of
                         --auth-user-pass, in 'passphrase' that of --askpass, in 'otp' that of --otp
                         (LoadCredential= and SetCredential= of a unit)
  NOTIFY_SOCKET          the service manager is told when the tunnel is there, how it stands, and
                         within WATCHDOG_USEC that it works
  JOURNAL_STREAM         lines for the journal have its levels

Files:
  /etc/ovpn-client/NAME.ovpn   the profile of ovpn-client@NAME.service
  /run/ovpn-client/NAME.sock   where a running tunnel is asked
";

pub(super) use self::browser::open_pages;
pub(super) use self::hook::run_on_events;
pub(super) use self::output::{Printer, clock, scaled_bytes};
pub(super) use self::peer::{News, read_signal};

/// Arguments of `ovpn-client connect`.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Profile (.ovpn); `-` is standard input
    profile: PathBuf,
    /// Kernel data channel offload: if possible, insist on it, or never
    #[arg(long, value_enum, default_value_t = Dco::Auto)]
    dco: Dco,
    /// File with the user name in its first line, the password in its second, which is asked for if it
    /// is not there, and in a third the answer to a challenge; `-` is standard input
    #[arg(long, value_name = "FILE")]
    auth_user_pass: Option<PathBuf>,
    /// File with the passphrase of the private key in its first line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    askpass: Option<PathBuf>,
    /// File with the answer to a challenge of the server in its first line; `-` is standard input. It is
    /// read anew for each login, and nothing in it is used twice
    #[arg(long, value_name = "FILE")]
    otp: Option<PathBuf>,
    /// Run in this network namespace (as made by `ip netns`): the tunnel, and the connection to the
    /// server too
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Output for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Run this program for each event, with the event on its standard input as --output json shows it
    #[arg(long, value_name = "PROGRAM")]
    on_event: Option<PathBuf>,
    /// Verbosity, 0 (only what is fatal) to 6 (everything); default: the profile's `verb`, at least 3
    #[arg(long, value_name = "LEVEL",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(LogLevel::MAX)))]
    verb: Option<u32>,
    /// Where to note what has to be undone after a crash
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// What the tunnel is called by `status`, `disconnect` and their kind; default: the profile's
    /// file without its ending
    #[arg(long)]
    name: Option<TunnelName>,
    /// Everybody in this group may ask the tunnel, and end it, besides root and who started it
    #[arg(long, value_name = "GROUP")]
    control_group: Option<String>,
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
    let json = args.output == Output::Json;
    match prepare(args) {
        Ok(status) => status,
        Err((text, status)) => {
            if json {
                refuse(&text, status);
            }
            let manager = ServiceManager::of_this_process();
            manager.status(&text);
            manager.flush(ending::OUTPUT);
            complain(&text, status)
        }
    }
}

/// The last event of a connection that is not begun.
fn refuse(reason: &str, exit_status: u8) {
    let line = event::line(&Own::Ended { reason: Some(reason), exit_status });
    // Without standard output there is nobody to tell.
    let _ = io::Write::write_all(&mut io::stdout(), format!("{line}\n").as_bytes());
}

/// A command line that cannot be read, told to the program that reads events, if it asks for them.
pub(super) fn refuse_usage(error: &clap::Error) {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let json = arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
        || arguments.iter().any(|argument| argument == "--output=json");
    if json && error.use_stderr() && arguments.first().is_some_and(|command| command == "connect") {
        refuse(error.to_string().trim_end(), EXIT_USAGE);
    }
}

fn prepare(args: ConnectArgs) -> Result<ExitCode, (String, u8)> {
    let usage = |error: &dyn std::error::Error| (error.to_string(), EXIT_USAGE);
    // Said again, where it can be heard, by what restricts the process.
    let _ = privileges::forbid_dumps();
    // Before the profile is in memory, and before the right to become another user goes.
    let browser = Browser::start();
    let hook = args.on_event.as_deref().map(|program| {
        let named = |error| (format!("--on-event {}: {error}", program.display()), EXIT_USAGE);
        Hook::start(program).map_err(named)
    });
    let hook = hook.transpose()?;
    // Not before: programs would inherit it.
    stop::ignore_requests();
    let (profile, given) = read_files(&args).map_err(|error| usage(&error))?;
    if !privileges::can_configure_network() {
        let text = without_net_admin("a tunnel needs a network device, addresses and routes");
        return Err((text, EXIT_PRIVILEGE));
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
    let name = args.name.clone().unwrap_or_else(|| TunnelName::of_profile(&args.profile));
    let access = access(args.control_group.as_deref())?;
    // Without one it works as well, and a directory that may not be used is named by what needs it.
    let bound = match Place::create(&args.runtime_dir).and_then(|place| place.bind(&name, access)) {
        Ok(bound) => Ok(bound),
        Err(error @ PlaceError::InUse { .. }) => return Err(usage(&error)),
        Err(error) => Err(error),
    };
    let socket = bound.as_ref().ok().map(|bound| bound.inode);
    let (helper, _socket) = match args.sandbox {
        Sandbox::On => (Some(start_helper(&args.runtime_dir, &name, socket)?), None),
        Sandbox::Off => {
            let directory = args.runtime_dir.clone();
            (None, socket.map(|inode| Socket { directory, name: name.clone(), inode }))
        }
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
    let door = match bound {
        Ok(bound) => Some((bound.listener, access)),
        Err(error) => {
            tracing::warn!("'ovpn-client status' and its kind will not find this tunnel: {error}");
            None
        }
    };
    let failed = |error: io::Error| (error.to_string(), EXIT_FAILED);
    let threads = Threads::new().map_err(failed)?;
    let json = args.output == Output::Json;
    let console = Console::new(json).map_err(failed)?;
    let (answers, receiver) = mpsc::channel(1);
    let service = backend(&args, name, profile, receiver, &threads, log_level.clone(), lines);
    let front = front::run(front::Start {
        args: &args,
        given,
        verbosity: log_level.get(),
        service,
        answers,
        browser,
        helper: helper.as_ref(),
        hook,
        door,
        console: console.clone(),
    });
    // A panic is in the log, and all is undone.
    let ended = catch_unwind(AssertUnwindSafe(|| threads.run(front)));
    let Ended { reason, mut status, hook } = ended.unwrap_or(Ended::BROKEN);
    if let Some(helper) = helper
        && !helper.end(ending::LAST_RESORT)
    {
        console.complain(
            "the helper process, which keeps root's rights, hangs: it undoes what is left (DNS) once \
             it goes on, and 'ovpn-client cleanup' does if it is killed",
        );
        status = status.max(EXIT_FAILED);
    }
    let reason = reason.as_deref().map(without_marker);
    let last = event::line(&Own::Ended { reason, exit_status: status });
    if json {
        console.out.put(format!("{last}\n"), Weight::Heavy);
    }
    if let Some(hook) = hook {
        hook.tell(&last);
        hook.end();
    }
    console.flush();
    Ok(ExitCode::from(status))
}

/// The socket of a process that removes it itself.
struct Socket {
    directory: PathBuf,
    name: TunnelName,
    inode: u64,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What cannot be removed is a dead process's, and found to be that.
        let _ =
            Place::create(&self.directory).and_then(|place| place.remove(&self.name, self.inode));
    }
}

/// Who may ask the tunnel: whoever had this program run as root, and a group.
fn access(group: Option<&str>) -> Result<Access, (String, u8)> {
    let usage = |text: String| (text, EXIT_USAGE);
    let caller = Caller::of_this_process().map_err(|error| usage(error.to_string()))?;
    let group = match group {
        None => None,
        Some(name) => match Group::from_name(name) {
            Ok(Some(group)) => Some(group.gid),
            Ok(None) => return Err(usage(format!("--control-group: there is no group {name}"))),
            Err(error) => return Err(usage(format!("--control-group {name}: {error}"))),
        },
    };
    Ok(Access { owner: caller.map_or_else(Uid::effective, |caller| caller.uid()), group })
}

/// `socket`: the inode of the tunnel's, which goes with the helper.
fn start_helper(
    runtime_dir: &Path,
    name: &TunnelName,
    socket: Option<u64>,
) -> Result<HelperEnd, (String, u8)> {
    let inode = socket.map(|inode| inode.to_string());
    let mut arguments = vec!["helper"];
    if let Some(inode) = &inode {
        arguments.extend(["--name", name.as_str(), "--inode", inode]);
    }
    Helper::start(&arguments, runtime_dir).map_err(|error| {
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
        error: io::Error,
    },
    /// What stands in it, every reason.
    #[error(transparent)]
    Profile(#[from] ProfileErrors),
    /// Answers.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// Standard input is named twice.
    #[error(
        "standard input ('-') can be only one of the profile, --auth-user-pass, --askpass and --otp"
    )]
    InputTwice,
}

/// Opens every file, before the rights to them go. Nothing of their text stays.
fn read_files(args: &ConnectArgs) -> Result<(OwnProfile, Given), Unusable> {
    let is_input = |path: &&Path| *path == Path::new(INPUT);
    let places = Places {
        login: args.auth_user_pass.as_deref(),
        passphrase: args.askpass.as_deref(),
        code: args.otp.as_deref(),
    };
    let named = [Some(&*args.profile), places.login, places.passphrase, places.code];
    if named.into_iter().flatten().filter(is_input).count() > 1 {
        return Err(Unusable::InputTwice);
    }
    let file = read_profile(&args.profile)
        .map_err(|error| Unusable::Unreadable { path: args.profile.clone(), error })?;
    let given = Given::open(places, &file.files)?;
    let profile = check_profile(&file, given.has_login())?;
    Ok((OwnProfile { name: file.name, dco: args.dco != Dco::Off, profile }, given))
}

fn read_profile(path: &Path) -> io::Result<ProfileFile> {
    if path != Path::new(INPUT) {
        return ProfileFile::read_with(path, privileges::files_of_caller(path)?);
    }
    // What it names is where this program was started. It is nobody's file, so no file of root's is it
    // trusted with.
    let opener = privileges::files_of_caller(Path::new(""))?;
    ProfileFile::read_opened(given::input()?, Path::new("standard input"), opener)
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
    name: TunnelName,
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
        name: name.to_string(),
        profile,
        answers,
        log_level: level,
        lines,
    }
}
