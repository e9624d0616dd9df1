//! The manual pages: what clap knows of each command, and below it sections from texts in the notation of
//! `--help`.
//!
//! ```text
//! Heading:
//!   term  its description,
//!         which may go on
//! A paragraph in one line.
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{BackendArgs, EXIT_USAGE, complain};

/// Arguments of `man`.
#[derive(Clone, Debug, clap::Args)]
pub struct ManualArgs {
    /// Where to
    directory: PathBuf,
    /// Of the pages: year, month and day, as in 2026-01-31
    #[arg(long)]
    date: String,
}

/// What is on the page of a command and not in its `--help`.
const CONNECT: &str = "\
JSON:
With --output json every line of standard output is an object. Its member 'signal' says what it is, 'time' \
when it was said, in seconds since 1970. Members may be added; what is here keeps its meaning.
  StatusChange  'code_major', 'code_minor', 'name', 'message': codes and names of OpenVPN 3 Linux, (2,7) is \
connected
  AttentionRequired  'type', 'group', 'name', 'message': input is wanted
  Log  'group', 'level', 'name', 'message'
  Connected  'connection': an object as in 'ovpn-client status --json'
  Ended  'exit_status' and 'reason', which is null if it was asked to end; the last line
  Statistics  'counters': an object of numbers, after SIGUSR2
  OutputDropped  'lines': so many are missing here, because nobody read them in time
Security:
Started as root, it reads its files and becomes a user without rights that keeps CAP_NET_ADMIN; a helper \
process does what takes root. Both have only the system calls that they need.
A profile can name any file, and its content goes to the server that the profile names. So under sudo, run0, \
doas and pkexec files are opened with the rights of the user who called it.
Passwords belong into files that nobody else may read, or into credentials of the service manager: there is no \
option that takes one on the command line, where every user of the machine could see it.
Examples:
  ovpn-client connect site.ovpn  in the foreground, until Ctrl-C
  ovpn-client connect site.ovpn --dco on  only with the kernel's help; says what is missing otherwise
  ovpn-client connect site.ovpn --netns lab  in a network namespace
  ovpn-client connect - --auth-user-pass login.txt --output json <site.ovpn  without a terminal
";

const CLEANUP: &str = "\
Exit status:
  0  nothing is left
  1  something is left, or it failed
  2  the command line cannot be used
  4  CAP_NET_ADMIN is missing
Files:
  /run/ovpn-client  where 'connect' notes what is to be undone
  /run/ovpn-client-backend  where the backend does
Examples:
  ovpn-client cleanup  after a process was killed; when the machine boots, ovpn-client-cleanup.service calls it
";

const CHECK: &str = "\
Exit status:
  0  the profile can be connected with
  2  it cannot, or the command line cannot be used
JSON:
With --output json it is one object: 'profile', 'usable', 'directives', 'files', 'warnings', 'errors', \
'remotes' and what is known of the data path.
Examples:
  ovpn-client check site.ovpn --machine  and which data path this machine's kernel allows
";

const DOCTOR: &str = "\
Exit status:
  0  the kernel can take the data
  1  only user space can
  2  the command line cannot be used
JSON:
With --output json it is one object: 'data_path', 'reasons', 'kernel', 'interfaces' and more.
";

/// Of what asks running tunnels.
const ASKS: &str = "\
Exit status:
  0  done
  1  no such tunnel is running, or it does not answer, or refuses
  2  the command line cannot be used
Files:
  /run/ovpn-client/NAME.sock  where a tunnel is asked: D-Bus, peer to peer
Security:
Root may ask, and whoever started the tunnel by sudo, and the group of its --control-group.
";

const STATUS: &str = "\
JSON:
With --json there is an object for each tunnel, in a line. Its members are described in \
/usr/share/ovpn-client/status.schema.json.
Examples:
  ovpn-client status site  state, server, data path, routes, DNS, traffic, warnings
";

const METRICS: &str = "\
Exit status:
  0  done; of a tunnel that is named and does not answer, 'up' is 0
  1  it failed
  2  the command line cannot be used
Examples:
  ovpn-client metrics --textfile /var/lib/prometheus/node-exporter/ovpn.prom  for node_exporter; a timer \
calls it
  ovpn-client metrics --listen 9176  over HTTP at 127.0.0.1, until it is ended
";

const COMPLETIONS: &str = "\
Files:
The package has them where shells look; for a program that was installed otherwise they are:
  ~/.local/share/bash-completion/completions/ovpn-client  of bash
  ~/.config/fish/completions/ovpn-client.fish  of fish
  _ovpn-client  of zsh, in a directory of its fpath
";

const BACKEND: &str = "\
Exit status:
  0  the process went into the background
  1  the command line or the log file cannot be used
  3  the process cannot go into the background
Signals:
  SIGINT, SIGTERM, SIGQUIT, SIGHUP  end the session, and put everything back
Files:
  /usr/libexec/openvpn3-linux/openvpn3-service-client  this program, in the place of openvpn3-client's, which \
is beside it with the ending 'upstream'
  /run/ovpn-client-backend  what is to be undone after a crash; 'ovpn-client cleanup' does it
  /var/lib/openvpn3/netcfg.json  how the netcfg service sets DNS on hosts without systemd-resolved
Security:
The program has CAP_NET_ADMIN by its file, and only the user of the service may execute it.
";

/// Writes the pages.
pub(super) fn run(args: &ManualArgs, command: Command) -> ExitCode {
    let written = pages(command, &args.date)
        .and_then(|pages| pages.iter().try_for_each(|page| page.write(&args.directory)));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{}: {error}", args.directory.display()), EXIT_USAGE),
    }
}

struct Page {
    file: String,
    text: String,
}

impl Page {
    fn write(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join(&self.file), &self.text)
    }

    /// `file` is the page's name, which has its section.
    fn new(command: &Command, file: String, date: &str, more: &[&str]) -> io::Result<Self> {
        let mut command = command.clone();
        // One line of the kind that people know, in place of every option without its value.
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").to_owned();
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let command = command.override_usage(usage).after_long_help(None::<&str>);
        let (name, section) = file.rsplit_once('.').unwrap_or((&file, "1"));
        let page = Man::new(command)
            .title(name.to_uppercase())
            .section(section)
            .date(date)
            .source(concat!("ovpn-client ", env!("CARGO_PKG_VERSION")))
            .manual("ovpn-client manual");
        let mut text = Vec::new();
        page.render(&mut text)?;
        let text = String::from_utf8(text).map_err(io::Error::other)?;
        // Two breaks with nothing between are no paragraph.
        let mut text = text.replace("\n.br\n\n.br\n", "\n.sp\n");
        let mut roff = Roff::new();
        sections(&mut roff, &help);
        for more in more {
            sections(&mut roff, more);
        }
        text.push_str(&roff.to_roff());
        Ok(Self { file, text })
    }
}

/// A page for each command that is shown, and the backend's. That one is called as its package:
/// openvpn3-client has a page by the program's name.
fn pages(command: Command, date: &str) -> io::Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = vec![Page::new(&command, "ovpn-client.1".to_owned(), date, &[])?];
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let file = format!("ovpn-client-{}.1", command.get_name());
        pages.push(Page::new(command, file, date, more(command.get_name()))?);
    }
    let backend = "ovpn-client-backend.8".to_owned();
    let command = BackendArgs::command().display_name("ovpn-client-backend");
    pages.push(Page::new(&command, backend, date, &[BACKEND])?);
    Ok(pages)
}

fn more(command: &str) -> &'static [&'static str] {
    match command {
        "connect" => &[CONNECT],
        "cleanup" => &[CLEANUP],
        "check" => &[CHECK],
        "doctor" => &[DOCTOR],
        "completions" => &[COMPLETIONS],
        "status" => &[ASKS, STATUS],
        "metrics" => &[METRICS],
        _ => &[ASKS],
    }
}

/// Lines of the notation that this module's documentation shows.
fn sections(roff: &mut Roff, text: &str) {
    // What stands right below a heading begins a paragraph anyway.
    let mut below_heading = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let rest = line.trim_start();
        match line.len() - rest.len() {
            0 => {
                if let Some(heading) = line.strip_suffix(':') {
                    roff.control("SH", [heading.to_uppercase().as_str()]);
                    below_heading = true;
                    continue;
                }
                if !below_heading {
                    roff.control("PP", []);
                }
                roff.text([roman(line)]);
            }
            2 => {
                let (term, description) = rest.split_once("  ").unwrap_or((rest, ""));
                roff.control("TP", []);
                roff.text([bold(term)]);
                roff.text([roman(description.trim_start())]);
            }
            _ => {
                roff.text([roman(rest)]);
            }
        }
        below_heading = false;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_shown_command_has_a_page_and_each_page_says_how_the_command_ends() {
        let command = Cli::command();
        let pages = pages(command.clone(), "2026-01-31").unwrap();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        assert_eq!(pages.len(), shown.count() + 2);
        for page in pages {
            let plain =
                ["ovpn-client.1", "ovpn-client-completions.1"].contains(&page.file.as_str());
            assert_eq!(page.text.contains(".SH \"EXIT STATUS\""), !plain, "{}", page.file);
            assert!(page.text.contains("2026-01-31"), "{}", page.text);
        }
    }

    #[test]
    fn help_becomes_sections_terms_and_paragraphs() {
        let mut roff = Roff::new();
        sections(
            &mut roff,
            "Files:\n  /a b  is it,\n        or not\nAnd so on.\nEnd.\n\nSignals:\n  A, B      x\n",
        );
        let expected = ".SH FILES\n.TP\n\\fB/a b\\fR\nis it,\nor not\n.PP\nAnd so on.\n.PP\nEnd.\n.SH SIGNALS\n.TP\n\
                        \\fBA, B\\fR\nx\n";
        assert_eq!(roff.to_roff(), expected);
    }
}
