//! The journal's lines: JSON objects, one a line, read without trust in any of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::network::dns::DnsUndo;
use crate::network::namespace::NamespaceId;
use crate::network::netlink::LinkState;
use crate::network::plan::{PlannedRoute, TunnelAddress};

/// Of the format. Version 2 has the boot, and names no program.
pub(super) const VERSION: u32 = 2;

/// How to undo one change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::network) enum Undo {
    /// Delete a link, if it is still the one that was made.
    DeleteLink {
        name: String,
        /// As the kernel names it: `ovpn`, `ovpn-dco`.
        kind: String,
        index: u32,
    },
    /// Give a link its settings back.
    RestoreLink { name: String, index: u32, state: LinkState },
    /// Delete an address.
    DeleteAddress { name: String, index: u32, address: TunnelAddress },
    /// Delete a route. `tunnel`: the tunnel's interface.
    DeleteRoute { tunnel: u32, route: PlannedRoute },
    /// Take the tunnel's DNS back.
    Dns(DnsUndo),
}

impl Undo {
    /// The route to delete, and the tunnel's interface.
    pub(in crate::network) const fn as_route(&self) -> Option<(&PlannedRoute, u32)> {
        match self {
            Self::DeleteRoute { tunnel, route } => Some((route, *tunnel)),
            _ => None,
        }
    }

    /// Whether the change is on disk. Everything else ends with the kernel or the network namespace
    /// that it was made in, and the numbers in it mean something else, or nothing, in another.
    pub(super) const fn is_on_disk(&self) -> bool {
        matches!(self, Self::Dns(DnsUndo::File { .. }))
    }
}

/// What was changed.
impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteLink { name, kind, .. } => write!(f, "link {name} ({kind})"),
            Self::RestoreLink { name, .. } => write!(f, "settings of {name}"),
            Self::DeleteAddress { name, address, .. } => write!(f, "{address} of {name}"),
            Self::DeleteRoute { route, .. } => route.fmt(f),
            Self::Dns(undo) => undo.fmt(f),
        }
    }
}

/// Number of a journal entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(in crate::network) struct EntryId(pub(super) u64);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Process(Process),
    Undo { id: EntryId, what: Undo },
    Done { id: EntryId },
}

/// Whose journal it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) version: u32,
    pub(super) pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub(super) start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`
    pub(super) boot: String,
    pub(super) namespace: NamespaceId,
}

/// What a journal says.
#[derive(Default)]
pub(super) struct Contents {
    /// `None`: not even that was written, or it is another version's.
    pub(super) process: Option<Process>,
    /// Still to be undone, latest first.
    pub(super) open: Vec<Undo>,
    /// Lines that mean nothing here: torn by a crash, or of another version.
    pub(super) unreadable: usize,
}

/// Reads a journal. A line that cannot be read hides none of the others: one that a crash has torn
/// was never acted on, if it notes a change, and undoing twice does no harm.
pub(super) fn parse(journal: &[u8]) -> Contents {
    let mut contents = Contents::default();
    let mut open = BTreeMap::new();
    for line in journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line::Process(process))
                if process.version == VERSION && contents.process.is_none() =>
            {
                contents.process = Some(process);
            }
            Ok(Line::Undo { id, what }) => {
                open.insert(id, what);
            }
            Ok(Line::Done { id }) => {
                open.remove(&id);
            }
            Ok(Line::Process(_)) | Err(_) => contents.unreadable += 1,
        }
    }
    contents.open = open.into_values().rev().collect();
    contents
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: &str = r#"{"process":{"version":2,"pid":7,"start_time":9,"boot":"b","namespace":{"device":4,"inode":1}}}"#;

    fn undo(id: u32) -> String {
        format!(
            r#"{{"undo":{{"id":{id},"what":{{"delete_link":{{"name":"t{id}","kind":"ovpn","index":7}}}}}}}}"#
        )
    }

    /// Every line torn at every byte, and the line after it glued to it or not.
    #[test]
    fn a_torn_line_hides_nothing() {
        let lines =
            [PROCESS.to_owned(), undo(0), undo(1), r#"{"done":{"id":0}}"#.to_owned(), undo(2)];
        for torn in 0..lines.len() {
            for length in 0..lines[torn].len() {
                let mut text = lines.clone();
                text[torn].truncate(length);
                let contents = parse(text.join("\n").as_bytes());
                let names: Vec<_> = contents.open.iter().map(Undo::to_string).collect();
                let mut expected = vec!["link t2 (ovpn)", "link t1 (ovpn)"];
                match torn {
                    0 => assert!(contents.process.is_none()),
                    1 => {}
                    2 => drop(expected.remove(1)),
                    3 => expected.push("link t0 (ovpn)"),
                    _ => drop(expected.remove(0)),
                }
                assert_eq!(names, expected, "line {torn} torn at {length}");
                assert_eq!(contents.unreadable, usize::from(length > 0));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_hide_nothing() {
        let mut journal = format!("{PROCESS}\n{}\n", undo(0)).into_bytes();
        journal.extend_from_slice(b"\xff\xfe\0\n");
        journal.extend_from_slice(undo(1).as_bytes());
        let contents = parse(&journal);
        assert_eq!((contents.open.len(), contents.unreadable), (2, 1));
    }

    #[test]
    fn another_version_is_no_process() {
        let old = PROCESS.replace("\"version\":2", "\"version\":1");
        let contents = parse(format!("{old}\n{}\n", undo(0)).as_bytes());
        assert!(contents.process.is_none() && contents.unreadable == 1);
    }

    #[test]
    fn a_link_is_not_on_disk_and_resolv_conf_is() {
        assert!(!parse(undo(0).as_bytes()).open[0].is_on_disk());
        let file = r#"{"undo":{"id":0,"what":{"dns":{"file":{"path":"/etc/resolv.conf","layer":{"since":1,"pid":1}}}}}}"#;
        assert!(parse(file.as_bytes()).open[0].is_on_disk());
    }
}
