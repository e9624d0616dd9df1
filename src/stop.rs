//! Why a process ends in order: a signal, or a panic somewhere in it.

use std::panic;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::error;

/// Signals that would end the process on the spot, with everything it has changed left behind. Not
/// among them are those of a program that is broken beyond that (`SIGSEGV` and its kind).
const SIGNALS: [libc::c_int; 11] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
];

/// A reason to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// A signal.
    Asked,
    /// Something in this process has panicked. What it was is in the log.
    Broken,
}

/// From now on the reasons come as messages. Once for a process, inside its runtime.
///
/// # Errors
/// As installing a signal handler.
pub(crate) fn reasons() -> std::io::Result<mpsc::Receiver<Stop>> {
    // Whoever does not look does not need more than one.
    let (sender, receiver) = mpsc::channel(1);
    for number in SIGNALS {
        // `nohup` wants the process to survive its terminal.
        if number == libc::SIGHUP && is_ignored(number) {
            continue;
        }
        let mut signals = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if sender.send(Stop::Asked).await.is_err() {
                    break;
                }
            }
        });
    }
    // Writing more than a file may hold fails then, and nothing else happens.
    drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
    panic::set_hook(Box::new(move |panic| {
        // Standard error, where the standard hook writes, may be stuck.
        error!(fatal = true, "internal error, please report it: {panic}");
        // Full: it ends already.
        let _ = sender.try_send(Stop::Broken);
    }));
    Ok(receiver)
}

/// Until somebody listens to them, the signals that ask something of a connection ask for nothing.
/// By themselves they would end the process.
#[cfg(feature = "cli")]
pub(crate) fn ignore_requests() {
    use nix::sys::signal::{SigHandler, Signal};

    for request in [Signal::SIGUSR1, Signal::SIGUSR2] {
        // SAFETY: no handler comes with it that could run at a wrong time. It cannot fail.
        let _ = unsafe { nix::sys::signal::signal(request, SigHandler::SigIgn) };
    }
}

/// Whether a signal was ignored when the process started, see `proc_pid_status(5)`.
fn is_ignored(number: libc::c_int) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}
