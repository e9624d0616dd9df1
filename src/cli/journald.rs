//! Lines for systemd's journal, which takes their level from their beginning, see sd-daemon(3).

use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// How much a line matters, numbered as for syslog(3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

/// Whether what is written there goes into the journal, line by line, as `JOURNAL_STREAM` says.
pub(super) fn reads(output: &impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(output.as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The text as one or more whole lines, each with its level.
pub(super) fn lines(level: Level, text: &str) -> String {
    text.lines().map(|line| format!("<{}>{line}\n", level as u8)).collect()
}
