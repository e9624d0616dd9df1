//! What can be asked of the helper. Each is answered by `Result<T, Refusal>`: what stands behind it
//! here, or why not.

use ovpn_dco::Interface;
use serde::{Deserialize, Serialize};

use super::error::Refusal;
use crate::network::dns::{DnsPlan, DnsUndo};
use crate::network::journal::{EntryId, Undo};

/// Changes in one request, at most: they fit into a message.
pub(super) const CHANGES: usize = 256;
/// Changes that are noted at a time, at most.
pub(super) const NOTED: usize = 64 * 1024;

/// One of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// The first on a line: undo what dead processes left, and start a journal. `()`, and the lock of
    /// the journal, which tells others that the process lives.
    Open,
    /// Changes that are about to be made. `Vec<EntryId>`, in this order.
    ///
    /// DNS only as [`Self::PrepareDns`] has just said it.
    Record(Vec<Undo>),
    /// They are undone, or were not made. `()`
    Done(Vec<EntryId>),
    /// [`PreparedDns`]
    PrepareDns { plan: DnsPlan, name: String, index: u32 },
    /// Make the change that is prepared. `Vec<String>`: what there is to say.
    ApplyDns,
    /// Set again what is set. `Vec<String>`: what there is to say.
    RenewDns,
    /// Take back what is noted, or what is prepared. `()`
    RevertDns(DnsUndo),
    /// `()`, and an open `/dev/net/tun`.
    OpenTun,
    /// Undo what is noted although nobody says that it is over. `Vec<Undone>`
    UndoAbandoned,
}

/// A change to the host's resolver that can be made.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::network) struct PreparedDns {
    pub(in crate::network) undo: DnsUndo,
    /// What is left out.
    pub(in crate::network) notes: Vec<String>,
}

/// The device of a request. Programs get its name: the kernel allows more than they are made for.
pub(super) fn interface(name: String, index: u32) -> Result<Interface, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty()
        || name.len() > 15
        || name.starts_with(['-', '.'])
        || !name.chars().all(plain)
    {
        return Err(Refusal::new(format_args!(
            "the device name {name:?} is not for DNS programs (up to 15 letters, digits, '-', '_', '.')"
        )));
    }
    Ok(Interface { name, index })
}
