//! Questions on a terminal. Whoever waits for an answer can stop waiting.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::output::Console;
use super::peer::Question;
use crate::line_writer::Weight;
use crate::secret::Secret;

/// Longest answer, in bytes. Terminals take less in one line.
const LONGEST: usize = 16 * 1024;

/// How long a prompt waits for the lines before it, if nobody reads them.
const BEFORE: Duration = Duration::from_millis(200);

/// True if somebody can be asked.
pub(super) fn possible() -> bool {
    io::stdin().is_terminal()
}

/// Ends the line of a prompt that is left unanswered.
pub(super) fn leave(console: &Console) {
    if possible() {
        console.prompt.put("\n", Weight::Heavy);
    }
}

/// What is shown of a question. The backend's own words are OpenVPN 3's, which front ends look for.
pub(super) fn text(question: &Question) -> String {
    let asked = match &*question.name {
        "username" => "User name",
        "password" => "Password",
        _ => question.description.trim_end_matches([':', ' ']),
    };
    format!("{asked}: ")
}

/// Asks on the terminal, without echo if the answer is secret. The answer may be empty. Cancel safe,
/// but for a line that has not been ended.
///
/// # Errors
/// As reading; the end of the file as `UnexpectedEof`.
pub(super) async fn ask(
    console: &Console,
    text: String,
    hidden: bool,
) -> io::Result<Secret<String>> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    // Before the text: it may be answered at once.
    let _silent = hidden.then(|| Silent::new(&input)).transpose()?;
    // What was told before has another writer, and would clear the line.
    console.out.flush(BEFORE);
    console.prompt.put(text, Weight::Heavy);
    read_line(input).await
}

/// The terminal does not show what is typed.
struct Silent {
    terminal: OwnedFd,
    before: Termios,
}

impl Silent {
    fn new(terminal: &OwnedFd) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        // The end of the line is no secret.
        silent.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(&terminal, SetArg::TCSANOW, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // If the terminal has gone there is nothing to restore.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// One line without its end, which may be that of the file. No more of the terminal is read.
async fn read_line(input: OwnedFd) -> io::Result<Secret<String>> {
    // SAFETY: an `OwnedFd` is the same open descriptor as long as it lives.
    let input = unsafe { AsyncFd::register_with_interest(input, Interest::READABLE) }?;
    let mut terminal = File::from(input.get_ref().try_clone()?);
    // Of this length from the start: the standard library's buffers would keep the answer.
    let mut line = Secret::new(vec![0; LONGEST]);
    let mut length = 0;
    loop {
        let mut ready = input.readable().await?;
        // The descriptor waits, since others share it: the event may be an old one.
        if !is_readable(input.get_ref())? {
            ready.clear_ready();
            continue;
        }
        let rest = line.expose_mut().get_mut(length..).filter(|rest| !rest.is_empty());
        let rest = rest.ok_or_else(|| io::Error::other("the line is too long"))?;
        let more = terminal.read(rest)?;
        if more == 0 && length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length += more;
        let so_far = line.expose().get(..length).unwrap_or_default();
        if more == 0 || so_far.ends_with(b"\n") {
            let text = str::from_utf8(so_far).map_err(io::Error::other)?;
            return Ok(text.trim_end_matches(['\r', '\n']).into());
        }
    }
}

/// Whether reading would return at once.
fn is_readable(terminal: &OwnedFd) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut descriptors, PollTimeout::ZERO)? > 0)
}
