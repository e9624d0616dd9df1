//! `ovpn-client helper`: root's part of `ovpn-client connect`, see [`crate::network::helper`].

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::warn;

use super::{EXIT_FAILED, complain};
use crate::logging::{self, LogLevel};
use crate::network::helper::{Said, serve};
use crate::privileges::{self, Calls};
use crate::stop;

/// Log lines that wait for the process. It reads them at once.
const QUEUE: usize = 64;

/// Runs it; standard input is the lifeline.
pub(super) fn run(runtime_dir: PathBuf) -> ExitCode {
    match work(runtime_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("helper process: {error}"), EXIT_FAILED),
    }
}

fn work(runtime_dir: PathBuf) -> io::Result<()> {
    // For lists of processes: it was started by way of `/proc/self/exe`.
    let _ = nix::sys::prctl::set_name(c"ovpn-helper");
    // Ctrl-C is for the process, and so is the end of the terminal. Whoever is a leader already has
    // no terminal that matters.
    let _ = nix::unistd::setsid();
    let restricted = privileges::restrict(Calls::Programs);
    let level = LogLevel::new(LogLevel::MAX);
    let mut lines = logging::init(&level, None, false).map_err(io::Error::other)?;
    if let Err(error) = restricted {
        warn!("helper process: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let undone = runtime.block_on(async {
        // It ends with the process, however that is told to end, and not before.
        let mut ignored = stop::reasons()?;
        tokio::spawn(async move { while ignored.recv().await.is_some() {} });
        // Caught rather than ignored: programs that it runs do not inherit that.
        let _requests = [SignalKind::user_defined1(), SignalKind::user_defined2()].map(signal);
        let (sender, said) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                let said = Said { category: line.category as u32, text: line.text };
                if sender.send(said).await.is_err() {
                    break;
                }
            }
        });
        serve(io::stdin().as_fd().try_clone_to_owned()?, runtime_dir, said).await
    })?;
    for process in undone {
        // The process was killed; whoever did it may still look.
        let _ = writeln!(io::stderr(), "ovpn-client: {process}");
    }
    Ok(())
}
