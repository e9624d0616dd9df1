//! What the user sees: steps and a live line, or JSON. Nothing waits for it to be read.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use serde_json::json;

use super::event;
use super::peer::News;
use crate::cli::journald::{self, Level};
use crate::ending;
use crate::line_writer::{LineWriter, Weight};

/// Standard output and standard error, neither of which anything waits for.
#[derive(Clone, Debug)]
pub(super) struct Console {
    pub(super) out: LineWriter,
    pub(super) err: LineWriter,
    /// Where somebody reads what they are asked: standard error, or else the terminal that answers.
    pub(super) prompt: LineWriter,
    /// Who reads one reads the other.
    one_reader: bool,
    /// Standard error goes into systemd's journal.
    journal: bool,
}

impl Console {
    /// # Errors
    /// As [`LineWriter::new`].
    pub(super) fn new(json: bool) -> io::Result<Self> {
        let dropped = if json { dropped_json } else { dropped_text };
        let err = LineWriter::new(&io::stderr(), dropped_text)?;
        let prompt = if !io::stderr().is_terminal() && io::stdin().is_terminal() {
            LineWriter::new(&io::stdin(), dropped_text)?
        } else {
            err.clone()
        };
        let one_reader = !json && same_file(&io::stdout(), &io::stderr());
        let out = LineWriter::new(&io::stdout(), dropped)?;
        Ok(Self { out, err, prompt, one_reader, journal: journald::reads(&io::stderr()) })
    }

    /// Says what is wrong.
    pub(super) fn complain(&self, text: &str) {
        let mut text = format!("ovpn-client: {}\n", without_marker(text));
        if self.journal {
            text = journald::lines(Level::Error, &text);
        }
        self.err.put(text, Weight::Heavy);
    }

    /// Says what is wrong, unless the same reader has just read it: `told`.
    pub(super) fn complain_once(&self, text: &str, told: Option<&str>) {
        if !self.one_reader || told != Some(text) {
            self.complain(text);
        }
    }

    /// The end: what is not read by then is lost.
    pub(super) fn flush(&self) {
        let end = Instant::now() + ending::OUTPUT;
        self.out.flush(ending::OUTPUT);
        self.err.flush(end.saturating_duration_since(Instant::now()));
        self.prompt.flush(end.saturating_duration_since(Instant::now()));
    }
}

/// Whether both lead to the same terminal, file or pipe.
fn same_file(one: &impl AsFd, other: &impl AsFd) -> bool {
    let identity = |output: &dyn AsFd| fstat(output.as_fd()).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

fn dropped_json(lines: u64) -> String {
    format!("{}\n", event::line(&json!({ "signal": "OutputDropped", "lines": lines })))
}

fn dropped_text(lines: u64) -> String {
    format!("[{lines} lines are missing here: they were not read in time]\n")
}

/// Clears the line of a terminal.
const CLEAR: &str = "\r\x1b[2K";

/// How the front end talks.
pub(in crate::cli) struct Printer {
    out: LineWriter,
    json: bool,
    /// It goes into systemd's journal, which has the time of every line.
    journal: bool,
    live: bool,
    live_shown: bool,
    last_error: Option<String>,
    started: Instant,
    last: Option<(Instant, i64, i64)>,
}

impl Printer {
    pub(in crate::cli) fn new(json: bool, out: LineWriter) -> Self {
        Self {
            out,
            json,
            journal: !json && journald::reads(&io::stdout()),
            live: !json && io::stdout().is_terminal(),
            live_shown: false,
            last_error: None,
            started: Instant::now(),
            last: None,
        }
    }

    /// True if the live line is to be kept up to date.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// The backend's signal.
    pub(in crate::cli) fn news(&mut self, news: &News) {
        if self.json {
            if let Some(line) = event::of_news(news) {
                let log = matches!(news, News::Log { .. });
                self.line(&line, if log { Weight::Light } else { Weight::Heavy });
            }
        } else if let News::Log { level, message, .. } = news {
            let (label, level_there) = match level {
                0..=3 => ("  ", Level::Debug),
                4 => ("", Level::Info),
                5 => ("warning: ", Level::Warning),
                _ => ("error: ", Level::Error),
            };
            if *level > 5 {
                self.last_error = Some(message.clone());
            }
            let weight = if *level < 4 { Weight::Light } else { Weight::Heavy };
            let message = without_marker(message);
            if self.journal {
                self.line(journald::lines(level_there, message).trim_end(), weight);
            } else {
                self.timed(&format!("{label}{message}"), weight);
            }
        }
    }

    /// True if programs read it.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// What is for programs alone.
    pub(super) fn event(&mut self, line: &str) {
        if self.json {
            self.line(line, Weight::Heavy);
        }
    }

    /// The last error of the backend's log that was shown.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// So many of the backend's news are missing here.
    pub(super) fn missed(&mut self, news: u64) {
        let text = if self.json { dropped_json(news) } else { dropped_text(news) };
        self.line(text.trim_end(), Weight::Heavy);
    }

    /// A step of the front end itself. JSON output has no place for it.
    pub(super) fn step(&mut self, text: &str) {
        if self.journal {
            self.line(text, Weight::Heavy);
        } else if !self.json {
            self.timed(text, Weight::Heavy);
        }
    }

    fn timed(&mut self, text: &str, weight: Weight) {
        let elapsed = self.started.elapsed().as_secs_f64();
        self.line(&format!("[{elapsed:9.3}] {text}"), weight);
    }

    /// The counters, on request.
    pub(super) fn statistics(&mut self, counters: &HashMap<String, i64>) {
        if self.json {
            let line = event::line(&json!({ "signal": "Statistics", "counters": counters }));
            self.line(&line, Weight::Light);
            return;
        }
        if counters.is_empty() {
            self.line("Nothing has been counted yet", Weight::Light);
        }
        let mut names: Vec<_> = counters.iter().collect();
        names.sort();
        for (name, count) in names {
            self.line(&format!("{name:.<24}{count:.>20}"), Weight::Light);
        }
    }

    /// Shows something while somebody is asked something; the prompt is shown again below it.
    pub(super) fn above(&mut self, prompt: &str, show: impl FnOnce(&mut Self)) {
        if self.live {
            self.out.put("\n", Weight::Heavy);
        }
        show(self);
        if self.live {
            self.out.put(prompt, Weight::Heavy);
        }
    }

    /// Rewrites the live line: rates since the last call, totals, time connected.
    pub(super) fn live(
        &mut self,
        device: &str,
        connected: Instant,
        counters: &HashMap<String, i64>,
    ) {
        let count = |name| counters.get(name).copied().unwrap_or(0);
        let (received, sent) = (count("BYTES_IN"), count("BYTES_OUT"));
        let now = Instant::now();
        let rate = |before: i64, after: i64, since: Instant| {
            let seconds = now.duration_since(since).as_secs_f64().max(0.001);
            #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
            let bits = (after - before).max(0) as f64 * 8.0;
            bits / seconds
        };
        let (down, up) = match self.last {
            Some((since, r, s)) => (rate(r, received, since), rate(s, sent, since)),
            None => (0.0, 0.0),
        };
        self.last = Some((now, received, sent));
        let text = format!(
            "{device}  {}  down {} ({})  up {} ({})",
            clock(connected.elapsed()),
            scaled(down, "bit/s"),
            scaled_bytes(received),
            scaled(up, "bit/s"),
            scaled_bytes(sent),
        );
        self.out.put_if_idle(format!("{CLEAR}{text}"));
        self.live_shown = true;
    }

    /// Takes the live line away: something else is about to be shown.
    pub(super) fn leave_live(&mut self) {
        if std::mem::take(&mut self.live_shown) {
            self.out.put_if_idle(CLEAR);
        }
    }

    fn line(&mut self, text: &str, weight: Weight) {
        let clear = if std::mem::take(&mut self.live_shown) { CLEAR } else { "" };
        self.out.put(format!("{clear}{text}\n"), weight);
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        if self.live_shown {
            self.out.put("\n", Weight::Heavy);
        }
    }
}

/// Without the word for programs that OpenVPN 3 puts behind some texts, as in `... {TUN_SETUP_FAILED}`.
pub(super) fn without_marker(message: &str) -> &str {
    message
        .strip_suffix('}')
        .and_then(|text| text.rsplit_once(" {"))
        .filter(|(_, marker)| marker.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .map_or(message, |(text, _)| text)
}

pub(in crate::cli) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(in crate::cli) fn scaled_bytes(bytes: i64) -> String {
    scaled(bytes as f64, "B")
}

/// Three significant digits and a decimal prefix.
fn scaled(value: f64, unit: &str) -> String {
    let mut value = value;
    for prefix in ["", "k", "M", "G"] {
        if value < 999.5 {
            let digits = if prefix.is_empty() || value >= 99.95 {
                0
            } else if value >= 9.995 {
                1
            } else {
                2
            };
            return format!("{value:.digits$} {prefix}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} T{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_as_documented() {
        let line = |news: &News| serde_json::to_string(news).unwrap();
        assert_eq!(
            line(&News::Status { major: 2, minor: 7, message: "\u{e9}\"".to_owned() }),
            r#"{"signal":"StatusChange","code_major":2,"code_minor":7,"message":"é\""}"#
        );
        assert_eq!(
            line(&News::Log { group: 7, level: 4, message: "x".to_owned() }),
            r#"{"signal":"Log","group":7,"level":4,"message":"x"}"#
        );
        assert_eq!(
            line(&News::Attention { kind: 1, group: 9, message: "x".to_owned() }),
            r#"{"signal":"AttentionRequired","type":1,"group":9,"message":"x"}"#
        );
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(scaled(0.0, "B"), "0 B");
        assert_eq!(scaled(999.4, "B"), "999 B");
        assert_eq!(scaled(1000.0, "B"), "1.00 kB");
        assert_eq!(scaled(12_345.0, "bit/s"), "12.3 kbit/s");
        assert_eq!(scaled(999_900_000.0, "B"), "1.00 GB");
        assert_eq!(scaled(5e12, "B"), "5.0 TB");
    }

    #[test]
    fn people_do_not_read_markers() {
        assert_eq!(without_marker("no device {TUN_SETUP_FAILED}"), "no device");
        for as_it_is in ["no device", "route {10.0.0.1}", "{TUN_SETUP_FAILED}", "a {b", "c}"] {
            assert_eq!(without_marker(as_it_is), as_it_is);
        }
    }

    #[test]
    fn time_connected() {
        assert_eq!(clock(Duration::from_secs(3_723)), "01:02:03");
    }
}
