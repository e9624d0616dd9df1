//! `ovpn-client check PROFILE`: what becomes of each directive, which servers and which data path
//! the profile leads to. Nothing is connected or changed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::EXIT_USAGE;
use crate::profile::{
    Family, KeySource, Options, Profile, ProfileError, ProfileFile, Protocol, Remote, Verdict,
    VerdictKind,
};
use crate::tls::{TlsConfig, TlsErrorKind};

/// Arguments of `check`.
#[derive(clap::Args, Clone, Debug)]
pub struct CheckArgs {
    /// The profile (.ovpn); files it names are looked up next to it
    pub profile: PathBuf,
    /// How the report is written
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
}

/// How a report is written.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Everything `check` finds out about a profile.
#[derive(Clone, Debug, Serialize)]
struct Report {
    /// The profile's file name.
    profile: String,
    /// It can be connected with.
    usable: bool,
    /// One for each directive, in the order of the profile.
    directives: Vec<Verdict>,
    /// What works other than written.
    warnings: Vec<String>,
    /// What makes it unusable.
    errors: Vec<ProfileError>,
    /// Servers in the order they are tried (before `remote-random`); empty if unusable.
    remotes: Vec<RemoteReport>,
    /// `None` if unusable.
    data_path: Option<DataPathReport>,
}

/// One server.
#[derive(Clone, Debug, Serialize)]
struct RemoteReport {
    /// Name or address.
    host: String,
    /// Port.
    port: u16,
    /// Transport.
    protocol: Protocol,
    /// 4 or 6 where the profile wants one address family.
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_version: Option<u8>,
    /// `HOST:PORT` of the HTTP proxy in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    http_proxy: Option<String>,
}

/// Which data path the profile allows.
#[derive(Clone, Debug, Serialize)]
struct DataPathReport {
    /// Kernel offload (ovpn) is possible as far as the profile is concerned.
    kernel_offload: bool,
    /// Directives that rule kernel offload out.
    reasons: Vec<String>,
    /// Data ciphers offered to the server, in order.
    ciphers: Vec<&'static str>,
}

impl Report {
    /// Parses the profile and writes down what came out.
    fn new(file: &ProfileFile) -> Self {
        let mut report = Self {
            profile: file.name.clone(),
            usable: false,
            directives: Vec::new(),
            warnings: Vec::new(),
            errors: Vec::new(),
            remotes: Vec::new(),
            data_path: None,
        };
        match Profile::parse(file.text.expose(), &file.name, &file.files) {
            Ok(Profile { options, verdicts }) => {
                report.directives = verdicts;
                report.check_tls(&options);
                report.usable = report.errors.is_empty();
                report.remotes = options.remotes.iter().map(RemoteReport::new).collect();
                report.data_path = Some(DataPathReport::new(&options));
            }
            Err(failed) => {
                report.directives = failed.verdicts;
                report.errors = failed.errors;
            }
        }
        report
    }

    /// Certificates, keys and TLS settings: whether the TLS library takes them.
    fn check_tls(&mut self, options: &Options) {
        // An external key is there only while connecting.
        if matches!(options.tls.key, Some(KeySource::External)) {
            return;
        }
        match TlsConfig::new(&options.tls, None) {
            Ok(config) => self.warnings.extend_from_slice(config.warnings()),
            Err(error) if error.kind == TlsErrorKind::PassphraseNeeded => {
                self.warnings.push("the private key needs a passphrase to connect".to_owned());
            }
            Err(error) => self.errors.push(ProfileError {
                file: self.profile.clone(),
                line: None,
                directive: None,
                reason: error.message,
                hint: None,
            }),
        }
    }

    /// Writes the report for people.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let line_width =
            self.directives.iter().map(|v| v.line).max().unwrap_or(0).to_string().len();
        let name_width = self.directives.iter().map(|v| v.directive.len()).max().unwrap_or(0);
        writeln!(out, "{}", self.profile)?;
        for verdict in &self.directives {
            let (word, text, hint) = match &verdict.kind {
                VerdictKind::Supported { note } => ("supported", note.as_deref(), None),
                VerdictKind::Ignored { reason, warning: false } => {
                    ("ignored", Some(&**reason), None)
                }
                VerdictKind::Ignored { reason, warning: true } => {
                    ("IGNORED", Some(&**reason), None)
                }
                VerdictKind::Refused { reason, hint } => {
                    ("REFUSED", Some(&**reason), hint.as_deref())
                }
            };
            let line = format!(
                "  {:>line_width$}  {:<name_width$}  {word:<9}  {}",
                verdict.line,
                verdict.directive,
                text.unwrap_or_default()
            );
            writeln!(out, "{}", line.trim_end())?;
            if let Some(hint) = hint {
                writeln!(out, "  {:line_width$}  {:name_width$}  {:9}  -> {hint}", "", "", "")?;
            }
        }
        if !self.remotes.is_empty() {
            writeln!(out, "\nServers")?;
        }
        for (n, remote) in self.remotes.iter().enumerate() {
            writeln!(out, "  {}. {remote}", n + 1)?;
        }
        if let Some(path) = &self.data_path {
            writeln!(out, "\nData path")?;
            if path.kernel_offload {
                writeln!(out, "  kernel offload (ovpn) if the kernel has it, else userspace")?;
            } else {
                let reasons = path.reasons.join(", ");
                writeln!(out, "  userspace; kernel offload is ruled out by: {reasons}")?;
            }
            writeln!(out, "  ciphers: {}", path.ciphers.join(", "))?;
        }
        if !self.warnings.is_empty() {
            writeln!(out, "\nWarnings")?;
        }
        for warning in &self.warnings {
            writeln!(out, "  {warning}")?;
        }
        if self.usable {
            return writeln!(out, "\nThe profile can be used.");
        }
        writeln!(out, "\nThe profile cannot be used:")?;
        for error in &self.errors {
            writeln!(out, "  {error}")?;
        }
        Ok(())
    }
}

impl RemoteReport {
    fn new(remote: &Remote) -> Self {
        Self {
            host: remote.host.clone(),
            port: remote.port,
            protocol: remote.protocol,
            ip_version: match remote.family {
                Family::Any => None,
                Family::V4 => Some(4),
                Family::V6 => Some(6),
            },
            http_proxy: remote.http_proxy.as_ref().map(|p| format!("{}:{}", p.host, p.port)),
        }
    }
}

impl std::fmt::Display for RemoteReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        };
        write!(f, "{}, port {}, {protocol}", self.host, self.port)?;
        if let Some(version) = self.ip_version {
            write!(f, ", IPv{version} only")?;
        }
        if let Some(proxy) = &self.http_proxy {
            write!(f, ", through HTTP proxy {proxy}")?;
        }
        Ok(())
    }
}

impl DataPathReport {
    fn new(options: &Options) -> Self {
        let reasons = options.data.dco_incompatible.clone();
        let ciphers = options.data.ciphers.iter().map(|c| c.name()).collect();
        Self { kernel_offload: reasons.is_empty(), reasons, ciphers }
    }
}

/// Runs `check`: the report goes to `out`, a file that cannot be read is told on `err`.
///
/// Exit status 0: the profile can be used; 2: it cannot, or cannot be read.
pub(super) fn run(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let file = match ProfileFile::read(&args.profile) {
        Ok(file) => file,
        Err(error) => {
            let _ = writeln!(err, "cannot read {}: {error}", args.profile.display());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let report = Report::new(&file);
    let written = match args.output {
        ReportFormat::Text => report.write_text(out),
        ReportFormat::Json => serde_json::to_writer_pretty(&mut *out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    if let Err(error) = written.and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`) is no reason to complain.
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = writeln!(err, "cannot write the report: {error}");
        }
    }
    if report.usable { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(profile: &str, output: ReportFormat) -> (ExitCode, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.ovpn");
        std::fs::write(&path, profile).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&CheckArgs { profile: path, output }, &mut out, &mut err);
        assert!(err.is_empty());
        (code, String::from_utf8(out).unwrap())
    }

    fn usable() -> String {
        let fingerprint = ["00"; 32].join(":");
        format!(
            "client\nremote vpn.example 443 tcp4\nremote ::1\nauth-user-pass\nuser nobody\n\
             up script\npeer-fingerprint {fingerprint}\n"
        )
    }

    #[test]
    fn text_for_a_usable_profile() {
        let (code, text) = check(&usable(), ReportFormat::Text);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(text.starts_with("site.ovpn\n  1  client            supported\n"), "{text}");
        assert!(text.contains("  6  up                IGNORED    scripts and plugins are not run"));
        assert!(
            text.contains("Servers\n  1. vpn.example, port 443, TCP, IPv4 only\n  2. ::1, port")
        );
        assert!(text.contains("kernel offload (ovpn) if the kernel has it"));
        assert!(text.ends_with("The profile can be used.\n"));
    }

    #[test]
    fn text_for_an_unusable_profile() {
        let bad = format!("{}fragment 1300\nremot a\n\u{1b}[2J\n", usable());
        let (code, text) = check(&bad, ReportFormat::Text);
        assert_eq!(code, ExitCode::from(EXIT_USAGE));
        assert!(text.contains("REFUSED    unknown directive\n"));
        assert!(text.contains("-> did you mean 'remote'?"));
        assert!(text.contains("  site.ovpn:8: fragment: fragmenting packets"));
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn json_has_the_same_facts() {
        let (code, text) =
            check(&format!("{}comp-lzo no\nhttp-proxy p 3128\n", usable()), ReportFormat::Json);
        assert_eq!(code, ExitCode::SUCCESS);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["usable"], true);
        assert_eq!(json["data_path"]["kernel_offload"], false);
        assert_eq!(json["data_path"]["reasons"], serde_json::json!(["http-proxy", "comp-lzo"]));
        // The UDP server cannot be reached through an HTTP proxy.
        assert_eq!(
            json["remotes"],
            serde_json::json!([{"host": "vpn.example", "port": 443, "protocol": "tcp",
                "ip_version": 4, "http_proxy": "p:3128"}])
        );
        assert_eq!(
            json["directives"][4],
            serde_json::json!({"line": 5, "directive": "user", "verdict": "ignored",
                "reason": "how the program runs is up to the service or command that starts it",
                "warning": false})
        );
    }

    #[test]
    fn certificates_are_looked_into() {
        let ca = "<ca>\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n</ca>\n";
        let (code, text) = check(&format!("{}{ca}", usable()), ReportFormat::Text);
        assert_eq!(code, ExitCode::from(EXIT_USAGE));
        assert!(text.contains("  8  ca                supported\n"), "{text}");
        assert!(text.contains("The profile cannot be used:\n  site.ovpn: "), "{text}");
        let weak = format!("{}tls-cipher TLS-RSA-WITH-AES-128-CBC-SHA\n", usable());
        assert!(check(&weak, ReportFormat::Text).1.contains("\nWarnings\n  "));
    }

    #[test]
    fn a_missing_file_is_told() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = CheckArgs { profile: "/nonexistent/x.ovpn".into(), output: ReportFormat::Text };
        assert_eq!(run(&args, &mut out, &mut err), ExitCode::from(EXIT_USAGE));
        assert!(String::from_utf8(err).unwrap().contains("/nonexistent/x.ovpn"));
    }
}
