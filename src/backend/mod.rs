//! What the D-Bus interface means: registration, the life of a session, user input, status.
//!
//! [`Machine`] decides everything and does nothing: requests and session events go in, signals and
//! effects come out. [`Backend`] carries the effects out: it owns the running session and the
//! timers. Neither knows about D-Bus messages; `crate::dbus` puts both on a connection.

mod allowance;
mod attention;
mod credentials;
mod driver;
mod error;
pub(crate) mod last_resort;
mod machine;
mod outcome;
mod queue;
mod signing;
mod status;
mod threads;

pub use attention::{AttentionGroup, AttentionType, Dialect};
pub use driver::{Backend, Settings, StartSession};
pub use error::{Domain, Error};
pub use machine::{Machine, Registration, Request, Signal, UnusableProfile};
pub use queue::Slot;
pub use status::{Status, StatusMajor, StatusMinor};
pub use threads::Threads;
