//! From `tracing` events to the log lines of OpenVPN 3 Linux: categories, the seven verbosity
//! levels, a bounded queue to whoever sends them on, and an optional log file.
//!
//! Filtering happens here, before a line is formatted. What is sent where is not decided here.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::ending;
use crate::line_writer::{LineWriter, Weight};
use crate::text::{excerpt, printable};

/// Lines that wait to be sent. More are dropped: whoever should read them is stuck.
const QUEUE: usize = 1024;

/// Longest line, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// `LogCategory` of OpenVPN 3 Linux.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
#[expect(missing_docs, reason = "OpenVPN 3's own names")]
pub enum Category {
    Debug = 1,
    Verb2 = 2,
    Verb1 = 3,
    Info = 4,
    Warn = 5,
    Error = 6,
    Fatal = 8,
}

impl Category {
    /// What the category with this number is called.
    #[cfg(feature = "cli")]
    pub(crate) const fn named(number: u32) -> Option<&'static str> {
        Some(match number {
            1 => "debug",
            2 | 3 => "verbose",
            4 => "info",
            5 => "warning",
            6 => "error",
            7 | 8 => "fatal",
            _ => return None,
        })
    }

    /// The lowest `log_level` that shows this category; 0 shows what nobody may miss.
    const fn level(self) -> u32 {
        match self {
            Self::Debug => 6,
            Self::Verb2 => 5,
            Self::Verb1 => 4,
            Self::Info => 3,
            Self::Warn => 2,
            Self::Error => 1,
            Self::Fatal => 0,
        }
    }

    /// Of an event. Other crates' details are all debug output.
    fn of(metadata: &Metadata<'_>) -> Self {
        let ours = metadata.target().starts_with("ovpn");
        match *metadata.level() {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO if ours => Self::Info,
            Level::DEBUG if ours => Self::Verb1,
            Level::TRACE if ours => Self::Verb2,
            _ => Self::Debug,
        }
    }
}

/// `LogGroup` of OpenVPN 3 Linux, the two a backend uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Group {
    /// The process.
    BackendProc = 6,
    /// The VPN client in it.
    Client = 7,
}

/// One line, free of control characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// Who says it.
    pub group: Group,
    /// How important it is.
    pub category: Category,
    /// What.
    pub text: String,
}

/// The verbosity in force, 0 (only what is fatal) to 6 (everything). Clones share it.
#[derive(Clone, Debug)]
pub struct LogLevel(Arc<AtomicU32>);

impl LogLevel {
    /// The highest level.
    pub const MAX: u32 = 6;
    /// Where nobody says anything else.
    pub const DEFAULT: u32 = 3;

    /// A level of its own; cut to [`Self::MAX`].
    pub fn new(level: u32) -> Self {
        Self(Arc::new(AtomicU32::new(level.min(Self::MAX))))
    }

    /// The level.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes it at once, everywhere; cut to [`Self::MAX`].
    pub fn set(&self, level: u32) {
        self.0.store(level.min(Self::MAX), Ordering::Relaxed);
    }

    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        // Whether an error is fatal is known only with its fields; let every error through here.
        let category = Category::of(metadata);
        category >= Category::Error || category.level() <= self.get()
    }
}

impl<S> Filter<S> for LogLevel {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.shows(metadata)
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        // The level changes while the process runs.
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        None
    }
}

/// Where log lines may go besides the queue.
#[derive(Debug)]
pub struct LogFile(OwnedFd);

impl LogFile {
    /// `--log-file`: a path, opened for appending, or `stdout:`.
    ///
    /// # Errors
    /// As opening a file.
    pub fn open(name: &Path) -> io::Result<Self> {
        if name.as_os_str() == "stdout:" {
            return io::stdout().as_fd().try_clone_to_owned().map(Self);
        }
        Ok(Self(OpenOptions::new().create(true).append(true).open(name)?.into()))
    }

    /// Starts the thread that writes to it.
    ///
    /// # Errors
    /// As starting a thread.
    pub fn start(&self) -> io::Result<LogOutput> {
        let mark = |lines| format!("{lines} log lines are missing here\n");
        LineWriter::new(&self.0, mark).map(LogOutput)
    }
}

/// A log file that is being written to. Nothing waits for that.
#[derive(Clone, Debug)]
pub struct LogOutput(LineWriter);

impl LogOutput {
    /// The end: what is not written by then is lost.
    pub fn flush(&self) {
        self.0.flush(ending::OUTPUT);
    }
}

impl<'a> MakeWriter<'a> for LogOutput {
    type Writer = LogWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogWriter { file: &self.0, weight: Weight::Light }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        let heavy = *metadata.level() <= Level::INFO;
        LogWriter { file: &self.0, weight: if heavy { Weight::Heavy } else { Weight::Light } }
    }
}

/// Takes one line.
#[derive(Debug)]
pub struct LogWriter<'a> {
    file: &'a LineWriter,
    weight: Weight,
}

impl io::Write for LogWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.file.put(line, self.weight);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sets up logging for the whole process: into the returned queue, and into a file if wished.
///
/// # Errors
///
/// If logging has been set up before.
pub fn init(
    level: &LogLevel,
    file: Option<LogOutput>,
    colour: bool,
) -> Result<mpsc::Receiver<LogLine>, TryInitError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let file = file.map(|file| to_file(file, colour).with_filter(level.clone()));
    let forward = Forward { level: level.clone(), sender }.with_filter(level.clone());
    tracing_subscriber::registry().with(forward).with(file).try_init()?;
    Ok(receiver)
}

/// Writes events as lines.
fn to_file<S>(file: LogOutput, colour: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(PrintableFields)
        .with_writer(file)
        .with_ansi(colour)
        .with_target(false)
}

/// Message and fields without control characters: a server's text must not steer the terminal
/// that somebody reads the file with.
struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut text = Text::default();
        fields.record(&mut text);
        writer.write_str(&printable(&excerpt(&text.text, MAX_LINE)))
    }
}

/// Puts events into the queue.
struct Forward {
    level: LogLevel,
    sender: mpsc::Sender<LogLine>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Forward {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        // What the bus library says while it sends a line must not become a line.
        if target.starts_with("zbus") {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let category = match Category::of(event.metadata()) {
            Category::Error if text.fatal => Category::Fatal,
            category => category,
        };
        if category.level() > self.level.get() {
            return;
        }
        let process = target.starts_with("ovpn_client::dbus");
        let group = if process { Group::BackendProc } else { Group::Client };
        let line = LogLine { group, category, text: printable(&excerpt(&text.text, MAX_LINE)) };
        // A full queue means that nobody reads; there is no better place to say so.
        let _ = self.sender.try_send(line);
    }
}

#[derive(Default)]
struct Text {
    text: String,
    fatal: bool,
}

impl Visit for Text {
    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "fatal" => self.fatal = value,
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => {
                let fields = std::mem::take(&mut self.text);
                write!(self.text, "{value:?}{fields}")
            }
            name => write!(self.text, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(level: u32, emit: impl FnOnce()) -> Vec<(Group, u32, String)> {
        let level = LogLevel::new(level);
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let forward = Forward { level: level.clone(), sender }.with_filter(level);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(forward), emit);
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|line| (line.group, line.category as u32, line.text))
            .collect()
    }

    fn emit_all() {
        tracing::error!(target: "ovpn_client::backend", fatal = true, "fatal");
        tracing::error!(target: "ovpn_client::backend", "error");
        tracing::warn!(target: "ovpn_dco", "warn");
        tracing::info!(target: "ovpn_client::dbus::service", "info");
        tracing::debug!(target: "ovpn_client::session", "verb1");
        tracing::trace!(target: "ovpn_client::session", "verb2");
        tracing::debug!(target: "rustls", "debug");
        tracing::error!(target: "zbus::connection", "never");
    }

    #[test]
    fn each_level_shows_one_category_more() {
        let names = ["fatal", "error", "warn", "info", "verb1", "verb2", "debug"];
        let numbers = [8, 6, 5, 4, 3, 2, 1];
        for level in 0..=6_u32 {
            let seen = lines(level, emit_all);
            let want = level as usize + 1;
            assert_eq!(seen.iter().map(|l| &*l.2).collect::<Vec<_>>(), names[..want]);
            assert_eq!(seen.iter().map(|l| l.1).collect::<Vec<_>>(), numbers[..want]);
        }
    }

    #[test]
    fn the_group_tells_process_from_client() {
        let seen = lines(3, emit_all);
        assert_eq!(seen[3].0, Group::BackendProc);
        assert_eq!(seen[0].0, Group::Client);
    }

    #[test]
    fn a_file_gets_no_control_characters_either() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = LogFile::open(file.path()).unwrap().start().unwrap();
        let subscriber = tracing_subscriber::registry().with(to_file(log.clone(), false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "ovpn_client", host = "a\x1bb", "to\n{}\u{9b}1m", "x");
        });
        log.flush();
        let written = std::fs::read_to_string(file.path()).unwrap();
        assert!(written.ends_with("tox1m host=ab\n"), "{written:?}");
    }

    #[test]
    fn fields_follow_the_message_and_control_characters_go() {
        let seen = lines(3, || {
            tracing::info!(target: "ovpn_client", port = 5, host = "a\x1bb", "to\n{}", "x");
        });
        assert_eq!(seen[0].2, "tox port=5 host=ab");
    }
}
