//! What to undo, kept in a file so that it survives `kill -9`.
//!
//! One file per process in the runtime directory: a line of JSON for the process, then one for
//! each change *before* it is made, and one for each change that has been undone. Every line is
//! synced. The file is locked (`flock`) as long as its process lives, which also tells across PID
//! namespaces whether it still does. The next process to start in the same network namespace
//! undoes what dead ones left; other namespaces' files are left to processes there.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::dns::DnsUndo;
use super::error::NetworkError;
use super::netlink::LinkState;
use super::plan::{PlannedRoute, TunnelAddress};

const VERSION: u32 = 1;
const EXTENSION: &str = "journal";

/// How to undo one change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Undo {
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

/// Number of a journal entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct EntryId(u64);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Process(Process),
    Undo { id: EntryId, what: Undo },
    Done { id: EntryId },
}

/// Whose journal it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Process {
    version: u32,
    pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    start_time: u64,
    namespace: Namespace,
}

/// Identity of a network namespace: its file in nsfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Namespace {
    device: u64,
    inode: u64,
}

impl Namespace {
    fn current() -> io::Result<Self> {
        let metadata = fs::metadata("/proc/thread-self/ns/net")?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// This process's journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    next: u64,
    open: BTreeMap<EntryId, Undo>,
}

/// What a dead process left.
#[derive(Debug)]
pub(super) struct Leftover {
    path: PathBuf,
    pid: u32,
    /// Held until the file is gone, so that no one else starts on it.
    _lock: File,
    /// To be undone in this order.
    pub(super) undo: Vec<Undo>,
}

impl Leftover {
    /// The process that left it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Everything is undone.
    pub(super) fn finish(self) -> Result<(), NetworkError> {
        fs::remove_file(&self.path).map_err(|e| failure("remove", &self.path, e))
    }
}

impl Journal {
    /// Makes the directory (mode 0700) and this process's journal in it, and finds what dead
    /// processes left in this network namespace.
    pub(super) fn open(directory: &Path) -> Result<(Self, Vec<Leftover>), NetworkError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| failure("create", directory, e))?;
        // Between making a journal and locking it, it would look like a dead process's.
        let lock = File::open(directory).map_err(|e| failure("open", directory, e))?;
        lock.lock().map_err(|e| failure("lock", directory, e))?;
        let namespace = Namespace::current()
            .map_err(|e| failure("read", Path::new("/proc/thread-self/ns/net"), e))?;
        let leftovers = find_leftovers(directory, namespace)?;
        let journal = Self::create(directory, namespace)?;
        Ok((journal, leftovers))
    }

    /// What this process itself has noted: for when the task that keeps its journal hangs. Not
    /// locked; whoever holds the lock does nothing any more.
    pub(super) fn of_this_process(directory: &Path) -> Result<Vec<Leftover>, NetworkError> {
        let namespace = Namespace::current()
            .map_err(|e| failure("read", Path::new("/proc/thread-self/ns/net"), e))?;
        let (pid, started) = (std::process::id(), start_time().unwrap_or(0));
        let mut own = Vec::new();
        for (path, file) in journals(directory)? {
            if let Some((process, undo)) = read(&file)
                && (process.pid, process.start_time, process.namespace) == (pid, started, namespace)
            {
                own.push(Leftover { path, pid, _lock: file, undo });
            }
        }
        Ok(own)
    }

    fn create(directory: &Path, namespace: Namespace) -> Result<Self, NetworkError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A process of another PID namespace may have the same number.
        let (path, file) = (0..100)
            .map(|attempt| directory.join(format!("{pid}-{number}-{attempt}.{EXTENSION}")))
            .find_map(|path| {
                let mut options = OpenOptions::new();
                match options.create_new(true).append(true).read(true).mode(0o600).open(&path) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
                    other => Some((path, other)),
                }
            })
            .ok_or_else(|| {
                failure("create a journal in", directory, io::ErrorKind::AlreadyExists.into())
            })?;
        let file = file.map_err(|e| failure("create", &path, e))?;
        file.try_lock().map_err(|e| failure("lock", &path, e.into()))?;
        let mut journal = Self { path, file, next: 0, open: BTreeMap::new() };
        journal.write(&Line::Process(Process {
            version: VERSION,
            pid,
            start_time: start_time().unwrap_or(0),
            namespace,
        }))?;
        Ok(journal)
    }

    /// Notes a change that is about to be made. When this returns it is on disk.
    pub(super) fn record(&mut self, what: Undo) -> Result<EntryId, NetworkError> {
        let id = EntryId(self.next);
        self.write(&Line::Undo { id, what: what.clone() })?;
        self.next += 1;
        self.open.insert(id, what);
        Ok(id)
    }

    /// What undoes an entry.
    pub(super) fn get(&self, id: EntryId) -> Option<&Undo> {
        self.open.get(&id)
    }

    /// Notes that a change has been undone, or was not made after all.
    pub(super) fn done(&mut self, id: EntryId) -> Result<(), NetworkError> {
        self.open.remove(&id);
        if self.open.is_empty() {
            return self.restart();
        }
        self.write(&Line::Done { id })
    }

    /// Nothing is left to undo: keeps the first line only.
    fn restart(&mut self) -> Result<(), NetworkError> {
        let fail = |e| failure("rewrite", &self.path, e);
        self.file.seek(io::SeekFrom::Start(0)).map_err(fail)?;
        let mut first = String::new();
        BufReader::new(&self.file).read_line(&mut first).map_err(fail)?;
        self.file.set_len(first.len() as u64).map_err(fail)?;
        self.file.sync_data().map_err(fail)
    }

    fn write(&mut self, line: &Line) -> Result<(), NetworkError> {
        let mut text =
            serde_json::to_vec(line).map_err(|e| failure("write", &self.path, e.into()))?;
        text.push(b'\n');
        self.file
            .write_all(&text)
            .and_then(|()| self.file.sync_data())
            .map_err(|e| failure("write", &self.path, e))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.open.is_empty() {
            // If it stays it is an empty leftover, which the next start removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failure(operation: &'static str, path: &Path, source: io::Error) -> NetworkError {
    NetworkError::Journal { operation, path: path.to_owned(), source }
}

fn start_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the command in parentheses, may itself contain spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// All journals in the directory, opened.
fn journals(directory: &Path) -> Result<Vec<(PathBuf, File)>, NetworkError> {
    let mut journals = Vec::new();
    let entries = fs::read_dir(directory).map_err(|e| failure("read", directory, e))?;
    for entry in entries {
        let path = entry.map_err(|e| failure("read", directory, e))?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => journals.push((path, file)),
            // Its process just ended in good order.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failure("open", &path, e)),
        }
    }
    Ok(journals)
}

fn find_leftovers(directory: &Path, here: Namespace) -> Result<Vec<Leftover>, NetworkError> {
    let mut leftovers = Vec::new();
    for (path, file) in journals(directory)? {
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => continue,
            Err(fs::TryLockError::Error(e)) => return Err(failure("lock", &path, e)),
        }
        match read(&file) {
            Some((process, undo)) if process.namespace == here => {
                leftovers.push(Leftover { path, pid: process.pid, _lock: file, undo });
            }
            // Its namespace may live on; a process there will undo it.
            Some((_, undo)) if !undo.is_empty() => {}
            // Nothing was changed yet.
            _ => fs::remove_file(&path).map_err(|e| failure("remove", &path, e))?,
        }
    }
    Ok(leftovers)
}

/// The process, and what is still to be undone, latest first. `None` when not even the first line
/// was written.
fn read(file: &File) -> Option<(Process, Vec<Undo>)> {
    let mut lines = BufReader::new(file).lines();
    let first = lines.next()?.ok()?;
    let Ok(Line::Process(process)) = serde_json::from_str(&first) else { return None };
    if process.version != VERSION {
        return None;
    }
    let mut open = BTreeMap::new();
    for line in lines {
        // A torn last line belongs to a change that was never made.
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Line::Undo { id, what }) => {
                open.insert(id, what);
            }
            Ok(Line::Done { id }) => {
                open.remove(&id);
            }
            Ok(Line::Process(_)) | Err(_) => break,
        }
    }
    Some((process, open.into_values().rev().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(name: &str) -> Undo {
        Undo::DeleteLink { name: name.to_owned(), kind: "ovpn".to_owned(), index: 7 }
    }

    /// Ends a journal the way `kill -9` does: the file stays, the lock goes.
    fn kill(journal: Journal) -> PathBuf {
        let path = journal.path.clone();
        let kept = fs::read(&path).unwrap();
        drop(journal);
        fs::write(&path, kept).unwrap();
        path
    }

    #[test]
    fn what_a_dead_process_left_is_found_latest_first() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, leftovers) = Journal::open(directory.path()).unwrap();
        assert!(leftovers.is_empty());
        let mode = fs::metadata(&journal.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let a = journal.record(undo("a")).unwrap();
        journal.record(undo("b")).unwrap();
        journal.record(undo("c")).unwrap();
        journal.done(a).unwrap();

        // As long as it lives it is no leftover.
        assert!(Journal::open(directory.path()).unwrap().1.is_empty());
        let path = kill(journal);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"undo\":{\"id\":9,\"wh").unwrap();
        let (_second, mut leftovers) = Journal::open(directory.path()).unwrap();
        assert_eq!(leftovers.len(), 1);
        let leftover = leftovers.remove(0);
        assert_eq!(leftover.undo, [undo("c"), undo("b")]);
        assert_eq!(leftover.pid(), std::process::id());
        leftover.finish().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_own_notes_are_found_although_they_are_locked() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        journal.record(undo("a")).unwrap();
        let elsewhere = Namespace { device: 4, inode: 1 };
        let mut foreign = Journal::create(directory.path(), elsewhere).unwrap();
        foreign.record(undo("b")).unwrap();
        let mut own = Journal::of_this_process(directory.path()).unwrap();
        assert_eq!(own.len(), 1);
        let own = own.remove(0);
        assert_eq!(own.undo, [undo("a")]);
        own.finish().unwrap();
        assert!(Journal::of_this_process(directory.path()).unwrap().is_empty());
        assert!(foreign.path.exists());
    }

    #[test]
    fn a_journal_without_open_entries_shrinks_and_disappears() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        let empty = fs::metadata(&journal.path).unwrap().len();
        for _ in 0..3 {
            let id = journal.record(undo("a")).unwrap();
            journal.done(id).unwrap();
        }
        assert_eq!(fs::metadata(&journal.path).unwrap().len(), empty);
        let id = journal.record(undo("b")).unwrap();
        assert_eq!(read(&File::open(&journal.path).unwrap()).unwrap().1, [undo("b")]);
        journal.done(id).unwrap();
        let path = journal.path.clone();
        drop(journal);
        assert!(!path.exists());
    }

    #[test]
    fn an_empty_or_foreign_file_is_no_reason_to_fail() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("1-0-0.journal"), "").unwrap();
        fs::write(directory.path().join("notes.txt"), "keep").unwrap();
        let (_journal, leftovers) = Journal::open(directory.path()).unwrap();
        assert!(leftovers.is_empty());
        assert!(!directory.path().join("1-0-0.journal").exists());
        assert!(directory.path().join("notes.txt").exists());
    }

    #[test]
    fn another_namespace_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = Namespace { device: 4, inode: 1 };
        let mut journal = Journal::create(directory.path(), elsewhere).unwrap();
        journal.record(undo("a")).unwrap();
        let path = kill(journal);
        assert!(Journal::open(directory.path()).unwrap().1.is_empty());
        assert!(path.exists());
    }

    #[test]
    fn an_unwritable_directory_is_named() {
        let error = Journal::open(Path::new("/proc/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/proc/nowhere"), "{error}");
    }
}
