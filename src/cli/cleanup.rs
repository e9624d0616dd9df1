//! `ovpn-client cleanup`: undoes what processes have left that were killed, or that the machine went
//! down with.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use ovpn_dco::kernel::Links;
use serde::Serialize;

use super::check::ReportFormat;
use super::tunnels::Place;
use super::{EXIT_FAILED, EXIT_PRIVILEGE, complain, journals, without_net_admin};
use crate::network::{CleanUp, StillThere, Undone, clean_up};
use crate::privileges;

/// Arguments of `cleanup`.
#[derive(clap::Args, Clone, Debug)]
pub struct CleanupArgs {
    /// How the report is written
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    output: ReportFormat,
    /// Where `connect` or the backend has noted what has to be undone
    #[arg(long, value_name = "DIR", default_values_os_t = journals::usual())]
    runtime_dir: Vec<PathBuf>,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    #[serde(flatten)]
    journals: CleanUp,
    /// Kernel links that were removed: of processes that have gone, and in no journal.
    links: Vec<String>,
    /// Tunnels whose sockets were removed: nobody listens to them.
    sockets: Vec<String>,
}

/// Runs the command. The exit status is 0 if nothing is left.
pub(super) fn run(args: &CleanupArgs, out: &mut dyn Write) -> ExitCode {
    if !privileges::can_configure_network() {
        let text = without_net_admin("routes and devices cannot be removed without it");
        return complain(&text, EXIT_PRIVILEGE);
    }
    let mut report = Report::default();
    let mut not_done = Vec::new();
    for directory in &args.runtime_dir {
        match journals::with(directory, clean_up) {
            Ok(done) => report.journals.add(done.unwrap_or_default()),
            Err(error) => not_done.push(error),
        }
        // What is wrong with a directory stands above.
        let stale = Place::open(directory).and_then(|place| match place {
            Some(place) => place.remove_stale(),
            None => Ok(Vec::new()),
        });
        report.sockets.extend(stale.unwrap_or_default().iter().map(ToString::to_string));
    }
    report.links = remove_links();
    let written = match args.output {
        ReportFormat::Text if report.is_empty() && !not_done.is_empty() => Ok(()),
        ReportFormat::Text => report.write_text(out),
        ReportFormat::Json => report.write_json(out),
    };
    // A reader that went away has seen enough; the status still counts.
    let _ = written.and_then(|()| out.flush());
    if !not_done.is_empty() {
        return complain(&not_done.join("\n"), EXIT_FAILED);
    }
    if report.journals.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }
}

/// A process may be killed between making a link and noting it.
fn remove_links() -> Vec<String> {
    let removed = Links::open().and_then(|mut links| links.remove_leftovers());
    // Without a kernel module there are none.
    removed.unwrap_or_default().into_iter().map(|link| link.interface.name).collect()
}

impl Report {
    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let CleanUp { processes, resolv_conf_restored, refused } = &self.journals;
        for Undone { pid, undone, failed, gone } in processes {
            write!(out, "process {pid}: undid {}", changes(undone.len()))?;
            match gone {
                0 => writeln!(out)?,
                gone => writeln!(out, ", {} had gone by themselves", changes(*gone))?,
            }
            for what in undone {
                writeln!(out, "  undone      {what}")?;
            }
            for StillThere { what, why } in failed {
                writeln!(out, "  STILL THERE {what}: {why}")?;
            }
        }
        if *resolv_conf_restored {
            writeln!(out, "resolv.conf: put back as it was before a tunnel that has gone")?;
        }
        for name in &self.links {
            writeln!(out, "link {name}: removed, its process is gone")?;
        }
        for name in &self.sockets {
            writeln!(out, "socket of tunnel {name}: removed, its process is gone")?;
        }
        for file in refused {
            writeln!(out, "LEFT ALONE {}: {}", file.path.display(), file.why)?;
        }
        if self.is_empty() { writeln!(out, "nothing to undo") } else { Ok(()) }
    }

    /// Nothing was there.
    fn is_empty(&self) -> bool {
        let CleanUp { processes, resolv_conf_restored, refused } = &self.journals;
        let journals = processes.is_empty() && !resolv_conf_restored && refused.is_empty();
        journals && self.links.is_empty() && self.sockets.is_empty()
    }
}

fn changes(number: usize) -> String {
    if number == 1 { "1 change".to_owned() } else { format!("{number} changes") }
}
