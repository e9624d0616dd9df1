//! Lines to somebody who may not read them: a thread of its own writes, so that a stopped pager, a
//! full pipe or disk, or a terminal that has gone never keeps anything else waiting.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that wait to be written, at most. What comes then is dropped.
const ROOM: usize = 256 * 1024;
/// Of it, what stays free for lines that matter more than others.
const RESERVE: usize = 64 * 1024;

/// Between one try and the next where the descriptor itself does not wait.
const AGAIN: Duration = Duration::from_millis(10);

/// How much a line matters when there is no room for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weight {
    /// Of many.
    Light,
    /// Says where things stand.
    Heavy,
}

/// The writing end. Clones share the thread.
#[derive(Clone, Debug)]
pub(crate) struct LineWriter(Arc<Shared>);

/// What stands in the output for lines that were dropped, given their number.
type Mark = fn(u64) -> String;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something waits, or nothing more will come.
    filled: Condvar,
    /// Nothing waits any more.
    emptied: Condvar,
    mark: Mark,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Item>,
    /// Bytes in `waiting`.
    bytes: usize,
    /// The thread is in the middle of writing.
    writing: bool,
    /// Lines dropped since the last mark.
    dropped: u64,
}

#[derive(Debug)]
enum Item {
    Text(Vec<u8>),
    /// Stands for this many lines.
    Mark(u64),
}

impl LineWriter {
    /// Starts the thread. `mark`: what stands for lines that were dropped, given their number.
    ///
    /// # Errors
    /// As duplicating a descriptor and starting a thread.
    pub(crate) fn new(output: &impl AsFd, mark: Mark) -> io::Result<Self> {
        // A descriptor of its own: the lock of the standard library's streams is nobody's here.
        Self::to(File::from(output.as_fd().try_clone_to_owned()?), mark)
    }

    /// As [`LineWriter::new`], to whatever takes a text at once or in parts.
    ///
    /// # Errors
    /// As starting a thread.
    pub(crate) fn to(output: impl Write + Send + 'static, mark: Mark) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            mark,
        });
        let work = Arc::clone(&shared);
        thread::Builder::new().name("output".to_owned()).spawn(move || work.write(output))?;
        Ok(Self(shared))
    }

    /// Writes a text, soon. Whole, or not at all.
    pub(crate) fn put(&self, text: impl Into<Vec<u8>>, weight: Weight) {
        self.0.put(text.into(), weight);
    }

    /// Writes a text unless something else waits to be written: it is worth nothing later.
    #[cfg(feature = "cli")]
    pub(crate) fn put_if_idle(&self, text: impl Into<Vec<u8>>) {
        let idle = {
            let state = self.0.lock();
            state.waiting.is_empty() && !state.writing
        };
        if idle {
            self.0.put(text.into(), Weight::Light);
        }
    }

    /// Waits until everything is written, or until `limit` has passed. What is not written by then is
    /// lost.
    pub(crate) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.0.lock();
        state.mark();
        self.0.filled.notify_one();
        while !state.waiting.is_empty() || state.writing {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    /// A thread that panicked has left nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: Vec<u8>, weight: Weight) {
        let mut state = self.lock();
        let room = if weight == Weight::Heavy { ROOM } else { ROOM - RESERVE };
        // However long, one text always has room.
        if !state.waiting.is_empty() && state.bytes + text.len() > room {
            state.dropped += 1;
            return;
        }
        state.mark();
        state.bytes += text.len();
        state.waiting.push_back(Item::Text(text));
        self.filled.notify_one();
    }

    fn next(&self) -> Item {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.waiting.pop_front() {
                if let Item::Text(text) = &item {
                    state.bytes -= text.len();
                }
                state.writing = true;
                return item;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The thread's work. Ends with the process.
    fn write(&self, mut output: impl Write) {
        // A text was written in part: what follows begins on a line of its own.
        let mut torn = false;
        loop {
            let (text, lines) = match self.next() {
                Item::Text(text) => (text, 1),
                Item::Mark(lines) => ((self.mark)(lines).into_bytes(), lines),
            };
            let lead: &[u8] = if torn { b"\n" } else { b"" };
            let written = write_all(&mut output, &[lead, &text].concat());
            let mut state = self.lock();
            state.writing = false;
            match written {
                Ok(()) => torn = false,
                // A reader may come back, a disk may get room again: the next text is tried.
                Err(partly) => {
                    torn |= partly;
                    state.dropped += lines;
                }
            }
            if state.waiting.is_empty() {
                self.emptied.notify_all();
            }
        }
    }
}

impl State {
    /// Puts in what stands for the lines dropped since the last time.
    fn mark(&mut self) {
        let lines = std::mem::take(&mut self.dropped);
        match self.waiting.back_mut() {
            _ if lines == 0 => {}
            Some(Item::Mark(more)) => *more += lines,
            _ => self.waiting.push_back(Item::Mark(lines)),
        }
    }
}

/// `Err`: it could not be written; true if a part of it was.
fn write_all(output: &mut impl Write, text: &[u8]) -> Result<(), bool> {
    let mut rest = text;
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => return Err(rest.len() < text.len()),
            Ok(written) => rest = &rest[written..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Somebody who shares the terminal or pipe has made it so.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(_) => return Err(rest.len() < text.len()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const FILLING: u8 = b'#';

    fn mark(lines: u64) -> String {
        format!("({lines} dropped)\n")
    }

    /// A pipe whose reader sleeps, filled to the brim, and the queue behind it too.
    fn stuck() -> (LineWriter, File, u64) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        // Full before the thread is there, and the thread at its first line before the queue is full:
        // later each would make room for another one.
        while nix::unistd::write(&writer, &[FILLING; 4096]).is_ok() {}
        let writer = LineWriter::new(&writer, mark).unwrap();
        writer.put("line 0\n", Weight::Light);
        while !writer.0.lock().waiting.is_empty() {
            thread::yield_now();
        }
        let mut lines = 1;
        while writer.0.lock().dropped == 0 {
            writer.put(format!("line {lines}\n"), Weight::Light);
            lines += 1;
        }
        (writer, File::from(reader), lines)
    }

    #[test]
    fn nobody_waits_for_a_reader_who_sleeps_and_later_he_hears_what_he_missed() {
        let (writer, reader, lines) = stuck();
        for _ in 0..10 {
            writer.put("lost\n", Weight::Light);
        }
        writer.put("state\n", Weight::Heavy);
        let before = Instant::now();
        writer.flush(Duration::from_millis(50));
        assert!(before.elapsed() < LIMIT);
        // Now he reads.
        let mut said = String::new();
        let mut reader = reader;
        let mut buffer = [0; 4096];
        while !said.contains("state\n") {
            let read = reader.read(&mut buffer).unwrap();
            said += std::str::from_utf8(&buffer[..read]).unwrap();
        }
        let said = said.trim_start_matches(char::from(FILLING));
        let whole: Vec<_> = (0..lines - 1).map(|n| format!("line {n}")).collect();
        let (kept, rest) = said.split_once("(").unwrap();
        assert_eq!(kept.lines().collect::<Vec<_>>(), whole);
        assert_eq!(rest, "11 dropped)\nstate\n");
        writer.put("more\n", Weight::Light);
        writer.flush(LIMIT);
        let read = reader.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"more\n");
    }

    #[test]
    fn what_is_dropped_last_is_told_by_the_flush() {
        let (writer, mut reader, _) = stuck();
        let reading = thread::spawn(move || {
            let mut said = String::new();
            let mut buffer = [0; 4096];
            while !said.ends_with("dropped)\n") {
                let read = reader.read(&mut buffer).unwrap();
                said += std::str::from_utf8(&buffer[..read]).unwrap();
            }
            said
        });
        writer.flush(LIMIT);
        assert!(reading.join().unwrap().ends_with("(1 dropped)\n"));
    }

    #[test]
    fn a_reader_who_has_gone_and_a_full_disk_stop_nothing() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for output in [pipe, full.into()] {
            let writer = LineWriter::new(&output, mark).unwrap();
            for _ in 0..10 {
                writer.put("line\n", Weight::Light);
                writer.flush(LIMIT);
            }
            writer.flush(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let writer = LineWriter::new(&pipe, mark).unwrap();
        let text = "x".repeat(200_000);
        writer.put(text.clone() + "\n", Weight::Light);
        let mut said = vec![0; text.len() + 1];
        File::from(reader).read_exact(&mut said).unwrap();
        assert_eq!(said, (text + "\n").into_bytes());
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_live_text_is_worth_nothing_later() {
        let (writer, _reader, _) = stuck();
        let before = writer.0.lock().dropped;
        writer.put_if_idle("live");
        assert_eq!(writer.0.lock().dropped, before);
    }
}
