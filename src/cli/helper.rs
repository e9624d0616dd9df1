//! `ovpn-client helper`: root's part of `ovpn-client connect`, see [`crate::network::helper`].

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::warn;

use super::EXIT_FAILED;
use super::tunnels::{Place, TunnelName};
use crate::ending;
use crate::line_writer::{LineWriter, Weight};
use crate::logging::{self, LogLevel};
use crate::network::Undone;
use crate::network::helper::{Said, serve};
use crate::privileges::{self, Calls};
use crate::stop;
use crate::text::printable_lines;

/// Log lines that wait for the process. It reads them at once.
const QUEUE: usize = 64;

/// Runs it; standard input is the lifeline. The socket of the tunnel, by name and inode, goes at its
/// end.
pub(super) fn run(runtime_dir: &Path, socket: Option<(&TunnelName, u64)>) -> ExitCode {
    let worked = work(runtime_dir.to_owned());
    if let Some((name, inode)) = socket {
        // What cannot be removed is a dead process's, and found to be that.
        let _ = Place::create(runtime_dir).and_then(|place| place.remove(name, inode));
    }
    let (last_words, status) = match worked {
        Ok(undone) => {
            // The process was killed; whoever did it may still look.
            let lines = undone.iter().map(|process| format!("ovpn-client: {process}\n"));
            (lines.collect::<String>(), ExitCode::SUCCESS)
        }
        Err(error) => {
            let text = printable_lines(&format!("helper process: {error}"));
            (format!("ovpn-client: {text}\n"), ExitCode::from(EXIT_FAILED))
        }
    };
    if !last_words.is_empty() {
        say(last_words);
    }
    status
}

/// Nobody may read it, and then nobody waits for that.
fn say(text: String) {
    // Without standard error, or a thread to write to it, there is nobody to tell.
    if let Ok(errors) = LineWriter::new(&io::stderr(), |_| String::new()) {
        errors.put(text, Weight::Heavy);
        errors.flush(ending::OUTPUT);
    }
}

fn work(runtime_dir: PathBuf) -> io::Result<Vec<Undone>> {
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
    runtime.block_on(async {
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
    })
}
