//! Whose fault an error is.

use std::fmt;

/// Who has to change something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// The other end, or what lies between.
    Peer,
    /// Nobody: a limit was reached, of time or size.
    Limit,
    /// Whoever wrote the profile, gave the credentials, or called this library.
    Misuse,
    /// This machine, or this program.
    Host,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "the other end",
            Self::Limit => "a limit",
            Self::Misuse => "profile, credentials or caller",
            Self::Host => "this machine",
        })
    }
}
