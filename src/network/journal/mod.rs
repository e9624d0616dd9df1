//! What to undo, kept in a file so that it survives `kill -9`.
//!
//! One file per process in the runtime directory: a line of JSON for the process, then one for
//! each change *before* it is made, and one for each change that has been undone. Every line is
//! synced. The file is locked (`flock`) as long as its process lives, which also tells across PID
//! namespaces whether it still does. The next process to start in the same network namespace
//! undoes what dead ones left; other namespaces' files are left to processes there, and to
//! [`mod@super::clean_up`], which goes there.
//!
//! What a journal says is done with root's rights, so it must be ours: see [`directory`]. It holds
//! names and numbers, never a program to run.

pub(super) mod directory;
mod format;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tracing::warn;

use self::directory::{Directory, Locked, failure};
use self::format::{Contents, Line, Process, VERSION};
pub(super) use self::format::{EntryId, Undo};
use super::boot::boot_id;
use super::error::NetworkError;
use super::namespace::NamespaceId;

const EXTENSION: &str = "journal";

/// This process's journal.
#[derive(Debug)]
pub(super) struct Journal {
    directory: Arc<Directory>,
    name: String,
    file: File,
    /// Tells others that the process lives. `None`: it was handed over.
    lock: Option<File>,
    /// The last line was not written to its end.
    torn: bool,
    next: u64,
    open: BTreeMap<EntryId, Undo>,
}

/// What a dead process left.
#[derive(Debug)]
pub(super) struct Leftover {
    directory: Arc<Directory>,
    name: String,
    pid: u32,
    /// Where it left it; `None`: in a kernel that has ended since.
    pub(super) namespace: Option<NamespaceId>,
    /// Held until the file is gone, so that no one else starts on it.
    _lock: File,
    /// To be undone in this order.
    pub(super) undo: Vec<Undo>,
    /// Changes that the end of the kernel has undone.
    pub(super) gone: usize,
}

impl Leftover {
    /// The process that left it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The network namespace has gone, with all that the kernel had in it.
    pub(super) fn forget_kernel(&mut self) {
        let all = self.undo.len();
        self.undo.retain(Undo::is_on_disk);
        self.gone += all - self.undo.len();
    }

    /// Everything is undone.
    pub(super) fn finish(self) -> Result<(), NetworkError> {
        self.directory
            .remove(&self.name)
            .map_err(|e| failure("remove", &self.directory.path_of(&self.name), e))
    }
}

/// How long a dead process may still hold its locks.
const LET_GO: Duration = Duration::from_secs(2);

/// What a process has left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) leftovers: Vec<Leftover>,
    _lock: Option<Locked>,
}

/// Everything in a directory of journals.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) leftovers: Vec<Leftover>,
    /// Journals that are not used, and why.
    pub(super) refused: Vec<(PathBuf, String)>,
}

/// A process that has changed something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pid: u32,
    start_time: u64,
}

impl Owner {
    /// This process.
    pub(super) fn this() -> Self {
        Self::of(std::process::id())
    }

    /// The process that has started this one.
    pub(super) fn parent() -> Self {
        Self::of(std::os::unix::process::parent_id())
    }

    fn of(pid: u32) -> Self {
        Self { pid, start_time: start_time(pid).unwrap_or(0) }
    }

    fn has(self, process: &Process) -> bool {
        (process.pid, process.start_time) == (self.pid, self.start_time)
            && process.boot == boot_id()
    }
}

impl Journal {
    /// Makes the directory (mode 0700) and a process's journal in it, and finds what dead
    /// processes left in this network namespace, or before the last boot.
    pub(super) fn open(
        directory: &Path,
        owner: Owner,
    ) -> Result<(Self, Vec<Leftover>), NetworkError> {
        let directory = Arc::new(Directory::create(directory)?);
        // Between making a journal and locking it, it would look like a dead process's.
        let _lock = directory.lock()?;
        let here = this_namespace()?;
        let mut survey = survey(&directory, Whose::Dead)?;
        for (path, reason) in &survey.refused {
            warn!("{}: {reason}; it is not used", path.display());
        }
        // Another namespace may live on; a process there will undo it.
        survey.leftovers.retain(|leftover| leftover.namespace.is_none_or(|place| place == here));
        let journal = Self::create(directory, here, owner)?;
        Ok((journal, survey.leftovers))
    }

    /// What dead processes have left, wherever. Nothing without the directory.
    pub(super) fn survey(directory: &Path) -> Result<Survey, NetworkError> {
        let Some(directory) = Directory::open(directory)? else { return Ok(Survey::default()) };
        let directory = Arc::new(directory);
        let _lock = directory.lock()?;
        survey(&directory, Whose::Dead)
    }

    /// What a process has noted itself: for when the task that keeps its journal hangs. Not
    /// locked; whoever holds the lock does nothing any more.
    pub(super) fn of(directory: &Path, owner: Owner) -> Result<Vec<Leftover>, NetworkError> {
        let Some(directory) = Directory::open(directory)? else { return Ok(Vec::new()) };
        let here = this_namespace()?;
        let mut own = survey(&Arc::new(directory), Whose::Living(owner))?.leftovers;
        own.retain(|leftover| leftover.namespace == Some(here));
        Ok(own)
    }

    /// What a process has left in this network namespace, now that it is dead, unless somebody else
    /// is undoing it already. Nobody starts a journal in this directory as long as the result lives.
    pub(super) fn left_by(directory: &Path, owner: Owner) -> Result<Left, NetworkError> {
        let Some(directory) = Directory::open(directory)? else { return Ok(Left::default()) };
        let directory = Arc::new(directory);
        let lock = directory.lock()?;
        let here = this_namespace()?;
        let end = Instant::now() + LET_GO;
        loop {
            let mut leftovers = survey(&directory, Whose::Dead)?.leftovers;
            leftovers.retain(|left| left.pid == owner.pid && left.namespace == Some(here));
            // A process that dies does not let go of all that it has at the same time.
            let held = survey(&directory, Whose::Living(owner))?.leftovers.len();
            if held <= leftovers.len() || Instant::now() > end {
                return Ok(Left { leftovers, _lock: Some(lock) });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn create(
        directory: Arc<Directory>,
        namespace: NamespaceId,
        owner: Owner,
    ) -> Result<Self, NetworkError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = owner.pid;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A process of another PID namespace may have the same number.
        let (name, made) = (0..100)
            .map(|attempt| format!("{pid}-{number}-{attempt}.{EXTENSION}"))
            .find_map(|name| match directory.make(&name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
                made => Some((name, made)),
            })
            .ok_or_else(|| {
                let exists = io::ErrorKind::AlreadyExists.into();
                failure("create a journal in", &directory.path_of(""), exists)
            })?;
        let path = directory.path_of(&name);
        let file = made.map_err(|e| failure("create", &path, e))?;
        // Opened anew: a lock belongs to a descriptor and its copies, wherever they are.
        let lock =
            directory.get(&name).ok().flatten().ok_or_else(|| io::ErrorKind::NotFound.into());
        let lock = lock.map_err(|e| failure("lock", &path, e))?;
        lock.try_lock().map_err(|e| failure("lock", &path, e.into()))?;
        let mut journal = Self {
            directory,
            name,
            file,
            lock: Some(lock),
            torn: false,
            next: 0,
            open: BTreeMap::new(),
        };
        journal.write(&[Line::Process(Process {
            version: VERSION,
            pid,
            start_time: owner.start_time,
            boot: boot_id(),
            namespace,
        })])?;
        Ok(journal)
    }

    /// The lock, for the process that this one keeps the journal for: it ends with that process.
    pub(super) fn hand_over_lock(&mut self) -> Option<File> {
        self.lock.take()
    }

    /// How many changes are noted.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether a change is noted.
    pub(super) fn has(&self, what: &Undo) -> bool {
        self.open.values().any(|open| open == what)
    }

    fn path(&self) -> PathBuf {
        self.directory.path_of(&self.name)
    }

    /// Notes a change that is about to be made. When this returns it is on disk.
    pub(super) fn record(&mut self, what: Undo) -> Result<EntryId, NetworkError> {
        let id = EntryId(self.next);
        self.write(&[Line::Undo { id, what: what.clone() }])?;
        self.next += 1;
        self.open.insert(id, what);
        Ok(id)
    }

    /// [`Self::record`] for many changes at once.
    pub(super) fn record_all(
        &mut self,
        what: impl IntoIterator<Item = Undo>,
    ) -> Result<Vec<EntryId>, NetworkError> {
        let new: Vec<_> = (self.next..).map(EntryId).zip(what).collect();
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let line = |(id, what): &(EntryId, Undo)| Line::Undo { id: *id, what: what.clone() };
        self.write(&new.iter().map(line).collect::<Vec<_>>())?;
        self.next += new.len() as u64;
        let ids = new.iter().map(|(id, _)| *id).collect();
        self.open.extend(new);
        Ok(ids)
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
        self.write(&[Line::Done { id }])
    }

    /// [`Self::done`] for many entries at once.
    pub(super) fn done_all(&mut self, ids: &[EntryId]) -> Result<(), NetworkError> {
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids {
            self.open.remove(id);
        }
        if self.open.is_empty() {
            return self.restart();
        }
        self.write(&ids.iter().map(|id| Line::Done { id: *id }).collect::<Vec<_>>())
    }

    /// Nothing is left to undo: keeps the first line only.
    fn restart(&mut self) -> Result<(), NetworkError> {
        let path = self.path();
        let fail = |e| failure("rewrite", &path, e);
        self.file.seek(io::SeekFrom::Start(0)).map_err(fail)?;
        let mut first = String::new();
        BufReader::new(&self.file).read_line(&mut first).map_err(fail)?;
        self.file.set_len(first.len() as u64).map_err(fail)?;
        self.torn = false;
        self.file.sync_data().map_err(fail)
    }

    fn write(&mut self, lines: &[Line]) -> Result<(), NetworkError> {
        let path = self.path();
        let fail = |e| failure("write", &path, e);
        // A line that a full disk has torn must not spoil the next.
        let mut text = if self.torn { vec![b'\n'] } else { Vec::new() };
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(|e| fail(e.into()))?;
            text.push(b'\n');
        }
        self.torn = true;
        self.file.write_all(&text).and_then(|()| self.file.sync_data()).map_err(fail)?;
        self.torn = false;
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.open.is_empty() {
            // If it stays it is an empty leftover, which the next start removes.
            let _ = self.directory.remove(&self.name);
        }
    }
}

fn this_namespace() -> Result<NamespaceId, NetworkError> {
    NamespaceId::current().map_err(|e| failure("read", Path::new("/proc/thread-self/ns/net"), e))
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the command in parentheses, may itself contain spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Of processes that do not live any more.
    Dead,
    /// Of a process that lives.
    Living(Owner),
}

fn survey(directory: &Arc<Directory>, whose: Whose) -> Result<Survey, NetworkError> {
    let mut found = Survey::default();
    for name in directory.names(EXTENSION)? {
        let path = directory.path_of(&name);
        let file = match directory.get(&name) {
            Ok(Some(file)) => file,
            // Its process just ended in good order.
            Ok(None) => continue,
            Err(reason) => {
                found.refused.push((path, reason));
                continue;
            }
        };
        if whose == Whose::Dead {
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => continue,
                Err(fs::TryLockError::Error(e)) => return Err(failure("lock", &path, e)),
            }
        }
        let contents = read(&file).map_err(|e| failure("read", &path, e))?;
        match contents.process {
            Some(process) if matches!(whose, Whose::Living(owner) if !owner.has(&process)) => {}
            Some(process) => {
                if contents.open.is_empty() {
                    // Nothing was changed, or all was undone.
                    if whose == Whose::Dead {
                        directory.remove(&name).map_err(|e| failure("remove", &path, e))?;
                    }
                    continue;
                }
                let same_boot = process.boot == boot_id();
                let mut leftover = Leftover {
                    directory: Arc::clone(directory),
                    name,
                    pid: process.pid,
                    namespace: same_boot.then_some(process.namespace),
                    _lock: file,
                    undo: contents.open,
                    gone: 0,
                };
                if !same_boot {
                    leftover.forget_kernel();
                }
                found.leftovers.push(leftover);
            }
            None if whose != Whose::Dead => {}
            // It was not even begun.
            None if contents.open.is_empty() && contents.unreadable <= 1 => {
                directory.remove(&name).map_err(|e| failure("remove", &path, e))?;
            }
            None => {
                let reason = "does not say whose journal it is; was it written by another version \
                              of this program?";
                found.refused.push((path, reason.to_owned()));
            }
        }
    }
    Ok(found)
}

fn read(file: &File) -> io::Result<Contents> {
    let mut bytes = Vec::new();
    let mut file = file;
    file.read_to_end(&mut bytes)?;
    Ok(format::parse(&bytes))
}

/// For fuzzing: how many changes a journal leaves to be undone, and how many lines mean nothing.
#[cfg(feature = "internals")]
pub fn parse_journal(journal: &[u8]) -> (usize, usize) {
    let contents = format::parse(journal);
    (contents.open.len(), contents.unreadable)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn undo(name: &str) -> Undo {
        Undo::DeleteLink { name: name.to_owned(), kind: "ovpn".to_owned(), index: 7 }
    }

    /// Ends a journal the way `kill -9` does: the file stays, the lock goes.
    fn kill(journal: Journal) -> PathBuf {
        let path = journal.path();
        let kept = fs::read(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions();
        drop(journal);
        fs::write(&path, kept).unwrap();
        fs::set_permissions(&path, mode).unwrap();
        path
    }

    fn elsewhere(directory: &Path) -> Journal {
        let directory = Arc::new(Directory::create(directory).unwrap());
        Journal::create(directory, NamespaceId { device: 4, inode: 1 }, Owner::this()).unwrap()
    }

    /// As if the machine had been started anew since.
    fn reboot(path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace(&boot_id(), "another boot")).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_is_found_latest_first() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, leftovers) = Journal::open(directory.path(), Owner::this()).unwrap();
        assert!(leftovers.is_empty());
        let mode = fs::metadata(journal.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let a = journal.record(undo("a")).unwrap();
        journal.record(undo("b")).unwrap();
        journal.record(undo("c")).unwrap();
        journal.done(a).unwrap();

        // As long as it lives it is no leftover.
        assert!(Journal::open(directory.path(), Owner::this()).unwrap().1.is_empty());
        assert!(Journal::survey(directory.path()).unwrap().leftovers.is_empty());
        let path = kill(journal);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"undo\":{\"id\":9,\"wh").unwrap();
        let (_second, mut leftovers) = Journal::open(directory.path(), Owner::this()).unwrap();
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
        let (mut journal, _) = Journal::open(directory.path(), Owner::this()).unwrap();
        journal.record(undo("a")).unwrap();
        let mut foreign = elsewhere(directory.path());
        foreign.record(undo("b")).unwrap();
        let mut own = Journal::of(directory.path(), Owner::this()).unwrap();
        assert_eq!(own.len(), 1);
        let own = own.remove(0);
        assert_eq!(own.undo, [undo("a")]);
        own.finish().unwrap();
        assert!(Journal::of(directory.path(), Owner::this()).unwrap().is_empty());
        assert!(foreign.path().exists());
    }

    #[test]
    fn a_journal_without_open_entries_shrinks_and_disappears() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), Owner::this()).unwrap();
        let path = journal.path();
        let empty = fs::metadata(&path).unwrap().len();
        for _ in 0..3 {
            let id = journal.record(undo("a")).unwrap();
            journal.done(id).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), empty);
        let id = journal.record(undo("b")).unwrap();
        assert_eq!(read(&File::open(&path).unwrap()).unwrap().open, [undo("b")]);
        journal.done(id).unwrap();
        drop(journal);
        assert!(!path.exists());
    }

    /// A line that could not be written to its end, and the ones after it.
    #[test]
    fn after_a_torn_line_the_next_ones_count() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), Owner::this()).unwrap();
        journal.record(undo("a")).unwrap();
        journal.file.write_all(b"{\"undo\":{\"id\":1,").unwrap();
        journal.torn = true;
        journal.record(undo("b")).unwrap();
        let contents = read(&File::open(journal.path()).unwrap()).unwrap();
        assert_eq!(contents.open, [undo("b"), undo("a")]);
    }

    #[test]
    fn an_empty_or_foreign_file_is_no_reason_to_fail() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("1-0-0.journal"), "").unwrap();
        fs::write(directory.path().join("2-0-0.journal"), "{\"process\":{\"ver").unwrap();
        fs::write(directory.path().join("notes.txt"), "keep").unwrap();
        let (_journal, leftovers) = Journal::open(directory.path(), Owner::this()).unwrap();
        assert!(leftovers.is_empty());
        assert!(!directory.path().join("1-0-0.journal").exists());
        assert!(!directory.path().join("2-0-0.journal").exists());
        assert!(directory.path().join("notes.txt").exists());
    }

    #[test]
    fn a_journal_of_another_version_stays_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), Owner::this()).unwrap();
        journal.record(undo("a")).unwrap();
        let path = kill(journal);
        let text = fs::read_to_string(&path).unwrap().replace("\"version\":2", "\"version\":9");
        fs::write(&path, text).unwrap();
        let survey = Journal::survey(directory.path()).unwrap();
        assert!(survey.leftovers.is_empty());
        let [(named, reason)] = &*survey.refused else { panic!("{survey:?}") };
        assert!(*named == path && reason.contains("another version"), "{reason}");
        assert!(Journal::open(directory.path(), Owner::this()).unwrap().1.is_empty());
        assert!(path.exists());
    }

    #[test]
    fn another_namespace_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = elsewhere(directory.path());
        journal.record(undo("a")).unwrap();
        let path = kill(journal);
        assert!(Journal::open(directory.path(), Owner::this()).unwrap().1.is_empty());
        assert!(path.exists());
        let survey = Journal::survey(directory.path()).unwrap();
        let [leftover] = &*survey.leftovers else { panic!("{survey:?}") };
        assert_eq!(leftover.namespace, Some(NamespaceId { device: 4, inode: 1 }));
    }

    /// What ended with the kernel is not looked for in the next one, where its numbers are other
    /// things'. The namespace does not matter then.
    #[test]
    fn after_a_reboot_only_what_is_on_disk_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = elsewhere(directory.path());
        journal.record(undo("a")).unwrap();
        journal.record(undo("b")).unwrap();
        let path = kill(journal);
        reboot(&path);
        let (_journal, leftovers) = Journal::open(directory.path(), Owner::this()).unwrap();
        let [leftover] = &*leftovers else { panic!("{leftovers:?}") };
        assert_eq!((leftover.undo.len(), leftover.gone, leftover.namespace), (0, 2, None));
        assert!(Journal::of(directory.path(), Owner::this()).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_somebody_else_could_have_written_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), Owner::this()).unwrap();
        journal.record(undo("a")).unwrap();
        let path = kill(journal);
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let (_second, leftovers) = Journal::open(directory.path(), Owner::this()).unwrap();
        assert!(leftovers.is_empty() && path.exists());
        let survey = Journal::survey(directory.path()).unwrap();
        assert!(survey.refused[0].1.contains("written to by others"), "{survey:?}");
    }
}
