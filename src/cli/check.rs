//! `ovpn-client check PROFILE`: what becomes of each directive, which servers and which data path
//! the profile leads to. Nothing is connected or changed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use ovpn_dco::kernel::{self, Api, ApiReport, Features, Status};
use serde::Serialize;

use super::EXIT_USAGE;
use crate::data_path::{Decision, Inputs, Reason, decide};
use crate::privileges::files_of_caller;
use crate::profile::{
    DirFiles, Family, KeySource, Options, Profile, ProfileError, ProfileFile, Protocol, Proxy,
    ProxyKind, Remote, Verdict, VerdictKind,
};
use crate::text::{printable, printable_json, printable_lines};
use crate::tls::{TlsConfig, TlsErrorKind};

/// Arguments of `check`.
#[derive(clap::Args, Clone, Debug)]
pub struct CheckArgs {
    /// The profile (.ovpn); files it names are looked up next to it
    pub profile: PathBuf,
    /// How the report is written
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// Judge the data path for the kernel of this machine (the kernel may load a module)
    #[arg(long)]
    pub machine: bool,
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
    /// Every file that is read for it, in the order of the profile.
    files: Vec<FileReport>,
    /// What works other than written.
    warnings: Vec<String>,
    /// What makes it unusable.
    errors: Vec<ProfileError>,
    /// Servers in the order they are tried (before `remote-random`); empty if unusable.
    remotes: Vec<RemoteReport>,
    /// `None` if unusable.
    data_path: Option<DataPathReport>,
}

/// A file that the profile names.
#[derive(Clone, Debug, Serialize)]
struct FileReport {
    /// Line in the profile, from 1.
    line: usize,
    /// The directive that names it.
    directive: String,
    /// Where it is: absolute, and without symbolic links if it exists.
    path: String,
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
    /// `HOST:PORT` of the SOCKS proxy in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    socks_proxy: Option<String>,
    /// What rules kernel offload out for this server, beyond [`DataPathReport::reasons`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Explained>,
}

/// Which data path the profile allows.
#[derive(Clone, Debug, Serialize)]
struct DataPathReport {
    /// Kernel offload (ovpn) is possible for some server, as far as the profile is concerned, and
    /// with `--machine` the machine too.
    kernel_offload: bool,
    /// The interface that this machine's kernel offers, with `--machine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'static str>,
    /// What rules kernel offload out for every server.
    reasons: Vec<Explained>,
    /// Data ciphers offered to the server, in order.
    ciphers: Vec<&'static str>,
}

/// A reason against kernel offload, with its sentence.
#[derive(Clone, Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    reason: Reason,
    text: String,
}

impl From<Reason> for Explained {
    fn from(reason: Reason) -> Self {
        Self { text: reason.to_string(), reason }
    }
}

impl Report {
    /// Parses the profile and writes down what came out. `machine`: what its kernel offers.
    fn new(file: &ProfileFile, machine: Option<&kernel::Report>) -> Self {
        let mut report = Self {
            profile: file.name.clone(),
            usable: false,
            directives: Vec::new(),
            files: Vec::new(),
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
                report.check_data_path(&options, machine);
            }
            Err(failed) => {
                report.directives = failed.verdicts;
                report.errors = failed.errors;
            }
        }
        report.list_files(&file.files);
        report
    }

    /// What somebody who has the profile from elsewhere wants to know: whatever is in these files may
    /// go to the server.
    fn list_files(&mut self, files: &DirFiles) {
        let named = self.directives.iter().filter_map(|v| Some((v, v.file.as_deref()?)));
        self.files = named
            .map(|(verdict, written)| {
                let path = files.locate(written);
                let path = path.canonicalize().or_else(|_| std::path::absolute(&path));
                FileReport {
                    line: verdict.line,
                    directive: verdict.directive.clone(),
                    path: printable(&path.unwrap_or_else(|_| written.into()).to_string_lossy()),
                }
            })
            .collect();
    }

    /// Asks the decision that connecting asks, for each server.
    fn check_data_path(&mut self, options: &Options, machine: Option<&kernel::Report>) {
        let capable = capable_kernel();
        let against: Vec<Vec<Reason>> = options
            .remotes
            .iter()
            .map(|remote| {
                let decision = decide(&Inputs {
                    wanted: true,
                    options,
                    remote: Some(remote),
                    session: None,
                    kernel: machine.unwrap_or(&capable),
                    netcfg: false,
                    kernel_failure: None,
                });
                match decision {
                    Decision::Kernel(_) => Vec::new(),
                    Decision::Userspace { reasons } => reasons,
                }
            })
            .collect();
        let everywhere = |reason: &Reason| against.iter().all(|reasons| reasons.contains(reason));
        let common = against.first().into_iter().flatten().filter(|reason| everywhere(reason));
        self.data_path = Some(DataPathReport {
            kernel_offload: against.iter().any(Vec::is_empty),
            interface: machine.and_then(kernel::Report::ready).map(Api::name),
            reasons: common.cloned().map(Explained::from).collect(),
            ciphers: options.data.ciphers.iter().map(|c| c.name()).collect(),
        });
        self.remotes = std::iter::zip(&options.remotes, &against)
            .map(|(remote, reasons)| {
                let own = reasons.iter().filter(|reason| !everywhere(reason));
                RemoteReport::new(remote, own.cloned().map(Explained::from).collect())
            })
            .collect();
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
                reason: error.to_string(),
                hint: None,
            }),
        }
    }

    /// The report for people. Names in certificates may hold anything.
    fn text(&self) -> io::Result<String> {
        let mut text = Vec::new();
        self.write_text(&mut text)?;
        Ok(printable_lines(&String::from_utf8_lossy(&text)))
    }

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
        if !self.files.is_empty() {
            writeln!(out, "\nFiles read")?;
        }
        for FileReport { line, directive, path } in &self.files {
            writeln!(out, "  {line:>line_width$}  {directive:<name_width$}  {path}")?;
        }
        if !self.remotes.is_empty() {
            writeln!(out, "\nServers")?;
        }
        for (n, remote) in self.remotes.iter().enumerate() {
            writeln!(out, "  {}. {remote}", n + 1)?;
            for reason in &remote.reasons {
                writeln!(out, "     userspace: {reason}")?;
            }
        }
        if let Some(path) = &self.data_path {
            writeln!(out, "\nData path")?;
            match (path.kernel_offload, path.interface) {
                (true, Some(name)) => writeln!(out, "  kernel offload ({name})")?,
                (true, None) => {
                    writeln!(out, "  kernel offload (ovpn) if the kernel has it, else userspace")?;
                }
                (false, _) => writeln!(out, "  userspace; kernel offload is ruled out")?,
            }
            for reason in &path.reasons {
                writeln!(out, "    {reason}")?;
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
    fn new(remote: &Remote, reasons: Vec<Explained>) -> Self {
        let (mut http_proxy, mut socks_proxy) = (None, None);
        if let Some(Proxy { host, port, kind, .. }) = &remote.proxy {
            *match kind {
                ProxyKind::Http(_) => &mut http_proxy,
                ProxyKind::Socks5 => &mut socks_proxy,
            } = Some(format!("{host}:{port}"));
        }
        Self {
            host: remote.host.clone(),
            port: remote.port,
            protocol: remote.protocol,
            ip_version: match remote.family {
                Family::Any => None,
                Family::V4 => Some(4),
                Family::V6 => Some(6),
            },
            http_proxy,
            socks_proxy,
            reasons,
        }
    }
}

impl std::fmt::Display for RemoteReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, port {}, {}", self.host, self.port, self.protocol)?;
        if let Some(version) = self.ip_version {
            write!(f, ", IPv{version} only")?;
        }
        if let Some(proxy) = &self.http_proxy {
            write!(f, ", through HTTP proxy {proxy}")?;
        }
        if let Some(proxy) = &self.socks_proxy {
            write!(f, ", through SOCKS proxy {proxy}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.text, self.reason.id())
    }
}

/// A kernel that can do all: what is left in the way is the profile's.
fn capable_kernel() -> kernel::Report {
    let ready = Status::Ready(Features::default());
    let ovpn = ApiReport {
        api: Api::Ovpn,
        status: ready,
        loaded: true,
        family_version: None,
        version: None,
    };
    kernel::Report { kernel: String::new(), apis: vec![ovpn] }
}

/// Runs `check`: the report goes to `out`, a file that cannot be read is told on `err`.
///
/// Exit status 0: the profile can be used; 2: it cannot, or cannot be read.
pub(super) fn run(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let read = files_of_caller(&args.profile)
        .and_then(|opener| ProfileFile::read_with(&args.profile, opener));
    let file = match read {
        Ok(file) => file,
        Err(error) => {
            let _ = writeln!(err, "cannot read {}: {error}", args.profile.display());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let machine = args.machine.then(kernel::probe);
    let report = Report::new(&file, machine.as_ref());
    let written = match args.output {
        ReportFormat::Text => report.text().and_then(|text| out.write_all(text.as_bytes())),
        ReportFormat::Json => serde_json::to_string_pretty(&report)
            .map_err(io::Error::from)
            .and_then(|json| writeln!(out, "{}", printable_json(&json))),
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
        let args = CheckArgs { profile: path, output, machine: false };
        let code = run(&args, &mut out, &mut err);
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
        assert_eq!(
            json["data_path"]["reasons"],
            serde_json::json!([
                {"id": "http-proxy", "text": "the kernel cannot use an HTTP proxy's connection"},
                {"id": "directive", "detail": "comp-lzo",
                    "text": "the kernel cannot do what the profile's comp-lzo asks"},
            ])
        );
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
    fn a_proxy_rules_kernel_offload_out_for_its_server_only() {
        let profile = format!(
            "{}<connection>\nremote b 443 tcp\nhttp-proxy p 3128\n</connection>\n",
            usable()
        );
        let (_, text) = check(&profile, ReportFormat::Text);
        let proxy = "the kernel cannot use an HTTP proxy's connection (http-proxy)";
        assert!(text.contains("kernel offload (ovpn) if the kernel has it"), "{text}");
        assert!(
            text.contains(&format!("through HTTP proxy p:3128\n     userspace: {proxy}\n")),
            "{text}"
        );
        let json = check(&profile, ReportFormat::Json).1;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["data_path"]["kernel_offload"], true);
        assert_eq!(json["data_path"]["reasons"], serde_json::json!([]));
        assert_eq!(json["remotes"][0].get("reasons"), None);
        assert_eq!(json["remotes"][2]["reasons"][0]["id"], "http-proxy");
    }

    #[test]
    fn bind_dev_rules_kernel_offload_out() {
        let text = check(&format!("{}bind-dev eth0\n", usable()), ReportFormat::Text).1;
        let reason = "the kernel ignores bind-dev for data packets (bind-dev)";
        assert!(
            text.contains(&format!("userspace; kernel offload is ruled out\n    {reason}\n")),
            "{text}"
        );
    }

    #[test]
    fn the_machine_counts_if_asked_for() {
        let file = ProfileFile {
            name: "site.ovpn".to_owned(),
            text: usable().into(),
            files: DirFiles::new(".".into(), std::sync::Arc::new(crate::profile::OwnRights)),
        };
        let none = kernel::Report { kernel: "6.1.0".to_owned(), apis: Vec::new() };
        let path = Report::new(&file, Some(&none)).data_path.unwrap();
        assert!(!path.kernel_offload);
        assert_eq!(path.reasons[0].reason.id(), "no-module");
        let mut text = Vec::new();
        Report::new(&file, Some(&capable_kernel())).write_text(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("Data path\n  kernel offload (ovpn)\n"), "{text}");
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
        let args = CheckArgs {
            profile: "/nonexistent/x.ovpn".into(),
            output: ReportFormat::Text,
            machine: false,
        };
        assert_eq!(run(&args, &mut out, &mut err), ExitCode::from(EXIT_USAGE));
        assert!(String::from_utf8(err).unwrap().contains("/nonexistent/x.ovpn"));
    }
}
