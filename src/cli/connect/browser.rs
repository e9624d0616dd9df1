//! Having a page opened in the browser of whoever sits at this desktop.
//!
//! A server names the page, so root opens none: neither browsers nor what stands between them and
//! `xdg-open` are made for that. A process of its own, made while this one may still become somebody
//! else, belongs to the user who called sudo and opens what it is told. Root itself is shown the
//! address only.

use std::env;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};

use crate::control::WebAddress;
use crate::privileges::Caller;

/// The command line of the other process.
const COMMAND: &str = "open-pages";
/// Between one page and the next. A browser that is just starting does not like to be started again.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the end of the other process is waited for. It has nothing to do then.
const GRACE: Duration = Duration::from_millis(200);

/// The process that opens pages, if there is a desktop and a user for it.
pub(super) struct Browser(Option<(UnixStream, Child)>);

impl Browser {
    pub(super) fn start() -> Self {
        let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| env::var_os(name).is_some());
        // Addresses are printed as well: without a browser it is less convenient.
        Self(desktop.then(|| spawn().ok()).flatten())
    }

    /// Opens a page, unless another one was opened a moment ago.
    pub(super) fn open(&mut self, address: &WebAddress) {
        if let Some((pipe, _)) = &mut self.0 {
            // Somebody who sends more than is read can do without the rest.
            let _ = writeln!(pipe, "{address}");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let Some((pipe, mut child)) = self.0.take() else { return };
        drop(pipe);
        let begin = Instant::now();
        while begin.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn spawn() -> io::Result<(UnixStream, Child)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in this terminal is not for a browser.
    command.process_group(0);
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    command.stdin(OwnedFd::from(theirs));
    if !Uid::effective().is_root() {
        return Ok((ours, command.spawn()?));
    }
    let caller = Caller::of_this_process()?.ok_or(io::ErrorKind::NotFound)?;
    let user = User::from_uid(caller.uid())?.ok_or(io::ErrorKind::NotFound)?;
    let runtime = format!("/run/user/{}", user.uid);
    command
        .env("HOME", user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", user.name)
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={runtime}/bus"))
        .env("XDG_RUNTIME_DIR", runtime);
    Ok((ours, caller.act(|| command.spawn())??))
}

/// The other process: opens the pages whose addresses are the lines of standard input, until that
/// ends.
pub(crate) fn open_pages() -> ExitCode {
    let mut last: Option<Instant> = None;
    for line in io::stdin().lines() {
        let Ok(line) = line else { break };
        let Ok(address) = line.parse::<WebAddress>() else { continue };
        if last.is_some_and(|last| last.elapsed() < INTERVAL) {
            continue;
        }
        last = Some(Instant::now());
        let opener = Command::new("xdg-open").arg(address.as_str()).stdin(Stdio::null()).spawn();
        if let Ok(mut opener) = opener {
            // It may itself become the browser, and last.
            std::thread::spawn(move || opener.wait());
        }
    }
    ExitCode::SUCCESS
}
