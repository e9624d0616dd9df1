//! Root's part of a process that is not root any more: a helper process that was started before.
//!
//! ```text
//! ovpn-client connect, a user without rights       ovpn-client helper, root
//!   DirectNetwork: routes, addresses -- netlink     Office: journal, resolver
//!     Notes, Resolver -------- a line each ------->   (the journal's lock goes the other way)
//!     TUN device     <------- a descriptor -------
//!   Helper <------------- the lifeline ----------->  ends with it, and undoes what is noted
//! ```
//!
//! The process keeps `CAP_NET_ADMIN` and does with it what that allows. Only what takes uid 0 is asked
//! of the helper: the files of the journal, whatever resolves names on this host, and the device node.
//! A request says what is wanted in types; it names no program, no file, and no change to DNS that the
//! helper has not made itself. So whoever takes the process over can ask for no more than a tunnel
//! needs.
//!
//! The helper dies with the process, and then undoes what is still noted: also `SIGKILL` leaves
//! nothing. Killed itself, it leaves the journal, and the process ends.

mod desk;
mod error;
mod line;
mod office;
mod process;
mod request;

pub(super) use self::desk::{Desk, Notes};
pub use self::error::{HelperError, Refusal};
pub(super) use self::office::open_here;
pub use self::office::{Said, serve};
pub(super) use self::process::of_this_process;
pub use self::process::{Helper, HelperEnd};
