//! Running tunnels, from outside: `list`, `status`, `disconnect`, `pause`, `resume`, `reconnect`,
//! `logs`.
//!
//! ```text
//! ovpn-client status ---- runtime directory/NAME.sock ---> Door ---> backend of ovpn-client connect
//!                         D-Bus, peer to peer
//! ```
//!
//! - `place` is where the sockets are, `name` what they are called.
//! - `door` is the tunnel's end, `wire` what bounds what it is sent; `client` is the other end.

mod client;
mod door;
mod name;
mod place;
mod show;
mod wire;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use self::client::Tunnel;
pub(super) use self::door::Door;
pub(super) use self::name::TunnelName;
use self::place::Found;
pub(super) use self::place::{Access, Place, PlaceError};
pub(super) use self::show::summary;
use super::connect::Printer;
use super::journals::RUNTIME_DIR;
use super::{EXIT_FAILED, EXIT_USAGE, complain};
use crate::dbus::Report;
use crate::line_writer::LineWriter;

/// A tunnel that was told to end has as long as its parts take, see `crate::ending`.
const END: Duration = Duration::from_secs(60);

/// Between one look at a tunnel that ends and the next.
const LOOK: Duration = Duration::from_millis(5);

/// Where tunnels are looked for.
#[derive(Clone, Debug, Args)]
pub struct Where {
    /// Where `connect` has its sockets
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
}

/// Arguments of `list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Where,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Which tunnel; default: all of them
    name: Option<TunnelName>,
    /// One JSON object per tunnel, each in a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

/// Arguments of what is done to one tunnel.
#[derive(Clone, Debug, Args)]
pub struct OneArgs {
    /// Which tunnel; may be left out where only one is running
    name: Option<TunnelName>,
    #[command(flatten)]
    place: Where,
}

/// Arguments of `logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    one: OneArgs,
    /// One JSON object per line, as `connect --output json` has them
    #[arg(long)]
    json: bool,
}

/// What is done to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    Disconnect,
    Pause,
    Resume,
    Reconnect,
}

/// What is said instead of what was asked for.
pub(super) type Refusal = (String, u8);

pub(super) fn failed(error: impl ToString) -> Refusal {
    (error.to_string(), EXIT_FAILED)
}

pub(super) fn list(args: &ListArgs) -> ExitCode {
    finish(blocking(async {
        let mut reports = Vec::new();
        let mut silent = Vec::new();
        for name in running(&args.place)? {
            match ask(&args.place, &name).await {
                Ok(Some(report)) => reports.push(report),
                // It has ended meanwhile.
                Ok(None) => {}
                Err((why, _)) => silent.push(why),
            }
        }
        print(&show::list(&reports))?;
        all_answered(silent)
    }))
}

pub(super) fn status(args: &StatusArgs) -> ExitCode {
    finish(blocking(async {
        let names = match &args.name {
            Some(name) => vec![name.clone()],
            None => running(&args.place)?,
        };
        let mut silent = Vec::new();
        for (n, name) in names.iter().enumerate() {
            match ask(&args.place, name).await {
                Ok(Some(report)) if args.json => {
                    print(&format!("{}\n", serde_json::to_string(&report).map_err(failed)?))?;
                }
                Ok(Some(report)) => {
                    print(&format!("{}{}", if n > 0 { "\n" } else { "" }, show::status(&report)))?;
                }
                Ok(None) if args.name.is_some() => return Err(not_running(name, &args.place)),
                Ok(None) => {}
                Err((why, _)) => silent.push(why),
            }
        }
        if names.is_empty() && !args.json {
            print("no tunnel is running\n")?;
        }
        all_answered(silent)
    }))
}

pub(super) fn act(args: &OneArgs, act: Act) -> ExitCode {
    finish(blocking(async {
        let (name, mut tunnel) = the_one(args).await?;
        let refused = |error: client::NoAnswer| failed(error);
        match act {
            Act::Pause => {
                tunnel.request("Pause", &"asked for on the command line").await.map_err(refused)
            }
            Act::Resume => tunnel.request("Resume", &()).await.map_err(refused),
            Act::Reconnect => tunnel.request("Restart", &()).await.map_err(refused),
            Act::Disconnect => {
                tunnel.request("Disconnect", &()).await.map_err(refused)?;
                let ended = async {
                    while tunnel.news().await.is_some() {}
                    // Its socket goes last.
                    while is_left(&args.place, &name) {
                        tokio::time::sleep(LOOK).await;
                    }
                };
                tokio::time::timeout(END, ended).await.map_err(|_| {
                    failed(format!("the tunnel {name} has not ended within {} s", END.as_secs()))
                })
            }
        }
    }))
}

pub(super) fn logs(args: &LogsArgs) -> ExitCode {
    finish(blocking(async {
        let (_, mut tunnel) = the_one(&args.one).await?;
        let dropped = |lines: u64| format!("[{lines} lines are missing here]\n");
        let out = LineWriter::new(&std::io::stdout(), dropped).map_err(failed)?;
        let mut printer = Printer::new(args.json, out.clone());
        while let Some(news) = tunnel.news().await {
            printer.news(&news);
        }
        out.flush(crate::ending::OUTPUT);
        Ok(())
    }))
}

pub(super) fn blocking<T>(work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(work)
}

pub(super) fn finish(result: Result<(), Refusal>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((text, status)) => complain(&text, status),
    }
}

pub(super) fn print(text: &str) -> Result<(), Refusal> {
    let mut out = std::io::stdout().lock();
    // A reader that went away has seen enough.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

fn all_answered(silent: Vec<String>) -> Result<(), Refusal> {
    if silent.is_empty() { Ok(()) } else { Err((silent.join("\n"), EXIT_FAILED)) }
}

fn running(place: &Where) -> Result<Vec<TunnelName>, Refusal> {
    match Place::open(&place.runtime_dir).map_err(failed)? {
        Some(place) => {
            let mut names = place.names().map_err(failed)?;
            names.retain(|name| {
                matches!(place.find(name), Found::Listening(_) | Found::Unanswered(_))
            });
            Ok(names)
        }
        None => Ok(Vec::new()),
    }
}

/// Whether a tunnel that has said its last word still has a socket. One that answers is another one's.
fn is_left(place: &Where, name: &TunnelName) -> bool {
    match Place::open(&place.runtime_dir) {
        Ok(Some(place)) => matches!(place.find(name), Found::Stale),
        _ => false,
    }
}

/// `None`: no such tunnel is running.
async fn open(place: &Where, name: &TunnelName) -> Result<Option<Tunnel>, Refusal> {
    let Some(place) = Place::open(&place.runtime_dir).map_err(failed)? else { return Ok(None) };
    match place.find(name) {
        Found::Listening(stream) => {
            Tunnel::open(name.clone(), stream).await.map(Some).map_err(failed)
        }
        Found::Unanswered(error) => {
            Err(failed(format!("the tunnel {name} cannot be asked: {error}")))
        }
        Found::Stale | Found::Nothing => Ok(None),
    }
}

async fn ask(place: &Where, name: &TunnelName) -> Result<Option<Report>, Refusal> {
    match open(place, name).await? {
        Some(tunnel) => tunnel.report().await.map(Some).map_err(failed),
        None => Ok(None),
    }
}

/// What these tunnels say of themselves, or all that are running; `None`: it is not running, or does not
/// answer.
pub(super) async fn reports(
    place: &Where,
    names: &[TunnelName],
) -> Result<Vec<(TunnelName, Option<Report>)>, Refusal> {
    let names = if names.is_empty() { running(place)? } else { names.to_vec() };
    let mut reports = Vec::with_capacity(names.len());
    for name in names {
        let report = ask(place, &name).await.unwrap_or_default();
        reports.push((name, report));
    }
    Ok(reports)
}

async fn the_one(args: &OneArgs) -> Result<(TunnelName, Tunnel), Refusal> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let names = running(&args.place)?;
            match <[TunnelName; 1]>::try_from(names) {
                Ok([name]) => name,
                Err(names) if names.is_empty() => {
                    return Err(failed("no tunnel is running"));
                }
                Err(names) => {
                    let names: Vec<_> = names.iter().map(TunnelName::as_str).collect();
                    let names = names.join(", ");
                    return Err((format!("which one? These are running: {names}"), EXIT_USAGE));
                }
            }
        }
    };
    match open(&args.place, &name).await? {
        Some(tunnel) => Ok((name, tunnel)),
        None => Err(not_running(&name, &args.place)),
    }
}

fn not_running(name: &TunnelName, place: &Where) -> Refusal {
    let names = running(place).unwrap_or_default();
    let names: Vec<_> = names.iter().map(TunnelName::as_str).collect();
    let others = match &*names {
        [] => "no tunnel is running".to_owned(),
        names => format!("these are running: {}", names.join(", ")),
    };
    failed(format!("no tunnel named {name} is running ({others})"))
}
