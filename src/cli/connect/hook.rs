//! `--on-event PROGRAM`: whoever wants something to be done when the tunnel stands or falls.
//!
//! `connect` itself can run no programs by then, and has few rights. A process of its own, made before
//! that, runs the program for one event after the other, with the event as JSON on its standard input and
//! through no shell: what a server says is never part of a command. It has the rights of whoever started
//! `connect`, which under sudo are those of the user who called it.

use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::unistd::AccessFlags;

use crate::cli::complain;
use crate::ending;
use crate::privileges::Caller;

/// The command line of the other process.
const COMMAND: &str = "run-on-events";
/// How long the program has for an event; then it is killed.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest event, in bytes: the routes of a connection are what is long in one.
const LONGEST: usize = 128 * 1024;
/// Between one look at the program and the next.
const LOOK: Duration = Duration::from_millis(10);

/// The process that runs the program.
pub(super) struct Hook {
    /// Keeps events whole.
    pipe: OwnedFd,
    child: Child,
}

impl Hook {
    /// Starts the process.
    ///
    /// # Errors
    /// As starting a process, and when there is no such program.
    pub(super) fn start(program: &Path) -> io::Result<Self> {
        let program = program.canonicalize()?;
        let (unix, whole) = (AddressFamily::Unix, SockType::SeqPacket);
        let (ours, theirs) = socketpair(unix, whole, None, SockFlag::SOCK_CLOEXEC)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("ovpn-client").arg(COMMAND).arg(&program).stdin(theirs);
        // Lines of the program are no part of the output.
        command.stdout(io::stderr());
        // Ctrl-C in this terminal ends the tunnel, which is an event.
        command.process_group(0);
        // What is told to the service manager is told by one.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let start = || {
            nix::unistd::access(&program, AccessFlags::X_OK)?;
            command.spawn()
        };
        let child = match Caller::of_this_process()? {
            Some(caller) => caller.act(start)??,
            None => {
                let mut start = start;
                start()?
            }
        };
        Ok(Self { pipe: ours, child })
    }

    /// An event, as a line of JSON. What the program is too slow for is lost to it.
    pub(super) fn tell(&self, line: &str) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if send(self.pipe.as_raw_fd(), line.as_bytes(), flags).is_err() {
            tracing::warn!("--on-event: the program is too slow, or has gone: an event is lost");
        }
    }

    /// No more events come. Waits until the program has had the last one, for as long as that may take.
    pub(super) fn end(self) {
        let Self { pipe, mut child } = self;
        drop(pipe);
        let begin = Instant::now();
        while begin.elapsed() < ending::HOOK && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
    }
}

/// The other process: runs the program for each event that comes over standard input.
pub(crate) fn run_on_events(program: &Path) -> ExitCode {
    let mut event = vec![0; LONGEST];
    while let Ok(length @ 1..) = nix::unistd::read(io::stdin(), &mut event) {
        if let Err(why) = run(program, event.get(..length).unwrap_or_default()) {
            let _ = complain(&format!("--on-event {}: {why}", program.display()), 0);
        }
    }
    ExitCode::SUCCESS
}

fn run(program: &Path, event: &[u8]) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let mut child = Command::new(program).stdin(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // Who does not read it does not need it; who reads half of it keeps nobody else waiting.
        let event = [event, b"\n"].concat();
        std::thread::spawn(move || input.write_all(&event));
    }
    let begin = Instant::now();
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if begin.elapsed() >= LIMIT => {
                child.kill().map_err(failed)?;
                let _ = child.wait();
                return Err(format!("killed: an event took it more than {} s", LIMIT.as_secs()));
            }
            None => std::thread::sleep(LOOK),
        }
    }
}
