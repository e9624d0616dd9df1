//! Questions on a terminal.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

use super::output::Console;
use super::peer::Question;
use crate::line_writer::Weight;
use crate::secret::Secret;

/// The state of the terminal at the start, to come back to when a prompt is left unanswered.
pub(super) struct Terminal(Option<Termios>);

impl Terminal {
    pub(super) fn new() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }

    pub(super) fn restore(&self) {
        if let Some(settings) = &self.0 {
            // If the terminal has gone there is nothing to restore.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, settings);
        }
    }
}

/// True if somebody can be asked.
pub(super) fn possible() -> bool {
    io::stdin().is_terminal()
}

/// Ends the line of a prompt that is left unanswered.
pub(super) fn leave(console: &Console) {
    if possible() {
        console.err.put("\n", Weight::Heavy);
    }
}

/// What is shown of a question.
pub(super) fn text(question: &Question) -> String {
    format!("{}: ", question.description.trim_end_matches([':', ' ']))
}

/// Asks on the terminal, without echo if the answer is secret. The answer may be empty.
pub(super) async fn ask(text: String, hidden: bool) -> io::Result<Secret<String>> {
    let answer = tokio::task::spawn_blocking(move || {
        if hidden {
            return rpassword::prompt_password(text);
        }
        let mut terminal = io::stderr();
        terminal.write_all(text.as_bytes())?;
        terminal.flush()?;
        // The standard library's own buffer would keep the answer.
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut line = String::new();
        BufReader::new(input).read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    });
    answer.await.map_err(io::Error::other)?.map(Secret::new)
}
