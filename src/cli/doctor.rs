//! `ovpn-client doctor`: what this machine can do for a connection, why not, and what would help.
//! Looks only; the one thing it may change is that the kernel loads a module that it has.

mod loading;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ovpn_dco::kernel::{self, Api, Links, Status};
use serde::Serialize;

use self::loading::Loading;
use super::check::ReportFormat;
use super::journals;
use crate::data_path::{Decision, Inputs, Reason, decide, decide_for_machine};
use crate::network::{Leftovers, Refused};
use crate::profile::Options;

/// Exit status: only the userspace path can serve.
const EXIT_USERSPACE: u8 = 1;
/// The inode of the initial user namespace (`PROC_USER_INIT_INO` in the kernel).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";
const BUS_PATIENCE: Duration = Duration::from_secs(3);

/// Arguments of `doctor`.
#[derive(clap::Args, Clone, Debug)]
pub struct DoctorArgs {
    /// How the report is written
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// Where `connect` or the backend notes what has to be undone
    #[arg(long, value_name = "DIR", default_values_os_t = journals::usual())]
    pub runtime_dir: Vec<PathBuf>,
}

/// Everything `doctor` finds out.
#[derive(Clone, Debug, Serialize)]
struct Report {
    /// `ovpn`, `ovpn-dco-v2` or `userspace`.
    data_path: &'static str,
    /// Why not the kernel; empty if it is.
    reasons: Vec<Explained>,
    /// Kernel release.
    kernel: String,
    /// The kernel's interfaces for offload, the preferred one first.
    interfaces: Vec<Interface>,
    #[serde(flatten)]
    loading: Loading,
    capabilities: Capabilities,
    namespaces: Namespaces,
    tun: Tun,
    resolver: Resolver,
    /// Network links of either kind that exist now.
    links: Vec<Link>,
    /// What killed processes have left.
    leftovers: Left,
}

/// A reason with its sentence.
#[derive(Clone, Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    reason: Reason,
    text: String,
    /// What would help.
    advice: &'static str,
}

/// One kernel interface.
#[derive(Clone, Debug, Serialize)]
struct Interface {
    name: &'static str,
    /// `ready`, `not-permitted`, `no-module` or `failed`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The module is loaded.
    loaded: bool,
    /// The running kernel's module directory has it (or it is built in).
    installed: bool,
    /// Version of the generic netlink family.
    #[serde(skip_serializing_if = "Option::is_none")]
    family_version: Option<u32>,
    /// Module version, of builds outside the kernel tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// The kernel tells when the server's address changes, and peers may have two ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    float_events: Option<bool>,
}

/// Capabilities of this process that matter.
#[derive(Clone, Debug, Serialize)]
struct Capabilities {
    net_admin: bool,
    net_bind_service: bool,
    net_raw: bool,
}

/// Where this process is.
#[derive(Clone, Debug, Serialize)]
struct Namespaces {
    /// In the initial user namespace, the only one that may use offload.
    initial_user: bool,
    /// In the same network namespace as process 1; `None` if it does not let itself be seen.
    network_of_init: Option<bool>,
    /// As in `/proc/self/ns`.
    user: String,
    network: String,
}

/// The TUN device, which the userspace path needs.
#[derive(Clone, Debug, Serialize)]
struct Tun {
    usable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// DNS.
#[derive(Clone, Debug, Serialize)]
struct Resolver {
    /// systemd-resolved answers on the system bus.
    resolved: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Where `/etc/resolv.conf` leads, if it is a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolv_conf: Option<String>,
}

/// A network link of an offload kind.
#[derive(Clone, Debug, Serialize)]
struct Link {
    name: String,
    interface: &'static str,
    /// Its process is gone; `ovpn-client cleanup` or the next connection removes it.
    leftover: bool,
}

/// What killed processes have left.
#[derive(Clone, Debug, Default, Serialize)]
struct Left {
    processes: Vec<LeftBy>,
    /// `resolv.conf` is still as a tunnel needed it that has gone.
    resolv_conf: bool,
    /// Journals that would not be used, each with the reason.
    refused: Vec<String>,
    /// Why it is not known, or not all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

/// What one of them has left.
#[derive(Clone, Debug, Serialize)]
struct LeftBy {
    pid: u32,
    changes: Vec<String>,
}

/// Runs the command. The exit status is 0 if kernel offload is ready and 1 if only the userspace
/// path is.
pub(super) fn run(args: &DoctorArgs, out: &mut dyn Write) -> ExitCode {
    let report = Report::new(&args.runtime_dir);
    let written = match args.output {
        ReportFormat::Text => report.write_text(out),
        ReportFormat::Json => report.write_json(out),
    };
    // A reader that went away (`| head`) has seen enough; the status still counts.
    let _ = written.and_then(|()| out.flush());
    if report.reasons.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USERSPACE) }
}

/// Why the kernel cannot serve a profile on this machine, and what helps; `None` if it can as far as
/// can be told before a server has answered.
pub(super) fn why_not_kernel(options: &Options) -> Option<String> {
    let probe = kernel::probe();
    let inputs = Inputs {
        wanted: true,
        options,
        remote: None,
        session: None,
        kernel: &probe,
        netcfg: false,
        kernel_failure: None,
    };
    let Decision::Userspace { reasons } = decide(&inputs) else { return None };
    let interfaces = interfaces(&probe);
    let loading = Loading::of_this_machine();
    let texts: Vec<_> = reasons
        .iter()
        .map(|reason| match reason {
            reason if reason.is_about_machine() => {
                format!("{reason} ({})", advice(reason, &interfaces, &loading))
            }
            reason => reason.to_string(),
        })
        .collect();
    Some(texts.join("; "))
}

fn interfaces(probe: &kernel::Report) -> Vec<Interface> {
    let modules = installed_modules(&probe.kernel);
    probe.apis.iter().map(|api| Interface::new(api, &modules)).collect()
}

impl Report {
    fn new(runtime_dirs: &[PathBuf]) -> Self {
        let probe = kernel::probe();
        let decision = decide_for_machine(&probe);
        let data_path = decision.path().name();
        let interfaces = interfaces(&probe);
        let loading = Loading::of_this_machine();
        let reasons = match decision {
            Decision::Kernel(_) => Vec::new(),
            Decision::Userspace { reasons } => reasons
                .into_iter()
                .map(|reason| Explained {
                    text: reason.to_string(),
                    advice: advice(&reason, &interfaces, &loading),
                    reason,
                })
                .collect(),
        };
        Self {
            data_path,
            reasons,
            kernel: probe.kernel,
            interfaces,
            loading,
            capabilities: Capabilities::new(),
            namespaces: Namespaces::new(),
            tun: Tun::new(),
            resolver: Resolver::new(),
            links: links(),
            leftovers: Left::find(runtime_dirs),
        }
    }

    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |name: &str, text: &str| writeln!(out, "{name:<20} {text}");
        line("data path", self.data_path)?;
        for reason in &self.reasons {
            line("  why", &reason.text)?;
            line("  what helps", reason.advice)?;
        }
        line("kernel", &self.kernel)?;
        line(
            "  data ciphers",
            "AES-GCM, CHACHA20-POLY1305; with AES-CBC the data stays in user space",
        )?;
        for interface in &self.interfaces {
            line(&format!("  {}", interface.name), &interface.describe())?;
        }
        line("module loader", self.loading.describe())?;
        let has = |yes| if yes { "yes" } else { "no" };
        let Capabilities { net_admin, net_bind_service, net_raw } = self.capabilities;
        line(
            "capabilities",
            &format!(
                "CAP_NET_ADMIN {}, CAP_NET_BIND_SERVICE {}, CAP_NET_RAW {}",
                has(net_admin),
                has(net_bind_service),
                has(net_raw)
            ),
        )?;
        let user = if self.namespaces.initial_user { "initial" } else { "not the initial one" };
        line("user namespace", &format!("{user} ({})", self.namespaces.user))?;
        let network = match self.namespaces.network_of_init {
            Some(true) => "that of process 1",
            Some(false) => "not that of process 1",
            None => "unknown whether that of process 1",
        };
        line("network namespace", &format!("{network} ({})", self.namespaces.network))?;
        line("/dev/net/tun", self.tun.error.as_deref().unwrap_or("usable"))?;
        let resolved = if self.resolver.resolved { "running" } else { "not running" };
        line(
            "systemd-resolved",
            &match &self.resolver.error {
                Some(error) => format!("{resolved} ({error})"),
                None => resolved.to_owned(),
            },
        )?;
        if let Some(target) = &self.resolver.resolv_conf {
            line("/etc/resolv.conf", &format!("link to {target}"))?;
        }
        for link in &self.links {
            let owner = if link.leftover {
                "left behind; 'ovpn-client cleanup' removes it"
            } else {
                "in use"
            };
            line("link", &format!("{} ({}): {owner}", link.name, link.interface))?;
        }
        for text in self.leftovers.texts() {
            line("left behind", &text)?;
        }
        Ok(())
    }
}

impl Interface {
    fn new(report: &kernel::ApiReport, modules: &[String]) -> Self {
        let (status, error, float_events) = match &report.status {
            Status::Ready(features) => {
                let float = (report.api == Api::Ovpn).then_some(features.tx_id_and_float);
                ("ready", None, float)
            }
            Status::NotPermitted => ("not-permitted", None, None),
            Status::NoModule => ("no-module", None, None),
            Status::Failed(error) => ("failed", Some(error.clone()), None),
        };
        // The kernel takes - and _ for the same in module names.
        let module = report.api.module().replace('-', "_");
        let installed = report.loaded || modules.contains(&module);
        Self {
            name: report.api.name(),
            status,
            error,
            loaded: report.loaded,
            installed,
            family_version: report.family_version,
            version: report.version.clone(),
            float_events,
        }
    }

    fn describe(&self) -> String {
        let mut text = match (self.status, &self.error) {
            ("ready", _) => "ready".to_owned(),
            ("not-permitted", _) => "there, but not for this process".to_owned(),
            (_, Some(error)) => format!("does not work: {error}"),
            _ if self.installed => "installed, but could not be loaded".to_owned(),
            _ => "not installed".to_owned(),
        };
        if let Some(version) = self.family_version {
            text.push_str(&format!(", family version {version}"));
        }
        if let Some(version) = &self.version {
            text.push_str(", module version ");
            text.push_str(version);
        }
        if self.float_events == Some(false) {
            text.push_str(", does not tell when the server's address changes");
        }
        text
    }
}

fn advice(reason: &Reason, interfaces: &[Interface], loading: &Loading) -> &'static str {
    match reason {
        Reason::NotPermitted { .. } => {
            "run it as root or with CAP_NET_ADMIN, outside of rootless containers"
        }
        Reason::NoModule { .. } if interfaces.iter().any(|interface| interface.installed) => {
            loading.advice()
        }
        Reason::NoModule { .. } => {
            "use Linux 6.16 or newer with CONFIG_OVPN, or install openvpn-dco-dkms"
        }
        _ => "see the kernel log (dmesg)",
    }
}

/// Names of the running kernel's modules, loadable and built in, with underscores.
fn installed_modules(release: &str) -> Vec<String> {
    ["modules.dep", "modules.builtin"]
        .iter()
        .flat_map(|list| {
            let text = read_file(&format!("/lib/modules/{release}/{list}"));
            text.lines().filter_map(module_name).collect::<Vec<_>>()
        })
        .collect()
}

/// `kernel/net/x/some-module.ko.xz: other.ko` to `some_module`.
fn module_name(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let file = path.rsplit('/').next()?;
    Some(file.split(".ko").next()?.replace('-', "_"))
}

impl Capabilities {
    fn new() -> Self {
        let has =
            |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false);
        Self {
            net_admin: has(caps::Capability::CAP_NET_ADMIN),
            net_bind_service: has(caps::Capability::CAP_NET_BIND_SERVICE),
            net_raw: has(caps::Capability::CAP_NET_RAW),
        }
    }
}

impl Namespaces {
    fn new() -> Self {
        let link = |path: &str| fs::read_link(path).ok().map(|p| p.to_string_lossy().into_owned());
        let user = link("/proc/self/ns/user").unwrap_or_default();
        let network = link("/proc/self/ns/net").unwrap_or_default();
        Self {
            initial_user: user == INITIAL_USER_NAMESPACE,
            network_of_init: link("/proc/1/ns/net").map(|init| init == network),
            user,
            network,
        }
    }
}

impl Tun {
    fn new() -> Self {
        let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let error = opened.err().map(|e| match e.raw_os_error() {
            Some(libc::ENOENT) => "missing: load the module tun (modprobe tun), or give this container --device /dev/net/tun"
                    .to_owned(),
            Some(libc::ENODEV | libc::ENXIO) => "there, but the kernel has no tun".to_owned(),
            Some(libc::EACCES) => {
                "this user may not read and write it: chmod 666 /dev/net/tun".to_owned()
            }
            Some(libc::EPERM) => "this container may not use it: --device /dev/net/tun".to_owned(),
            _ => e.to_string(),
        });
        Self { usable: error.is_none(), error }
    }
}

impl Resolver {
    fn new() -> Self {
        let resolv_conf = fs::read_link(Path::new("/etc/resolv.conf")).ok();
        let (resolved, error) = match resolved_answers() {
            Ok(answers) => (answers, None),
            Err(error) => (false, Some(error.to_string())),
        };
        let resolv_conf = resolv_conf.map(|target| target.to_string_lossy().into_owned());
        Self { resolved, error, resolv_conf }
    }
}

/// Why the system bus tells nothing.
#[derive(Debug, thiserror::Error)]
enum NoBus {
    #[error("no system bus: {0}")]
    Refused(#[source] zbus::Error),
    #[error("the system bus does not answer")]
    Hangs,
}

/// Whether somebody owns systemd-resolved's name on the system bus.
fn resolved_answers() -> Result<bool, NoBus> {
    let ask = async {
        let bus = zbus::Connection::system().await?;
        let daemon = "org.freedesktop.DBus";
        let name = "org.freedesktop.resolve1";
        let path = "/org/freedesktop/DBus";
        let reply =
            bus.call_method(Some(daemon), path, Some(daemon), "NameHasOwner", &name).await?;
        reply.body().deserialize::<bool>()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NoBus::Refused(error.into()))?;
    let answer = runtime.block_on(async { tokio::time::timeout(BUS_PATIENCE, ask).await });
    match answer {
        Ok(Ok(owned)) => Ok(owned),
        Ok(Err(error)) => Err(NoBus::Refused(error)),
        Err(_) => Err(NoBus::Hangs),
    }
}

impl Left {
    fn find(runtime_dirs: &[PathBuf]) -> Self {
        let mut left = Self::default();
        for directory in runtime_dirs {
            match journals::with(directory, Leftovers::find) {
                Ok(found) => {
                    let found = found.unwrap_or_default();
                    let by = |(pid, changes)| LeftBy { pid, changes };
                    left.processes.extend(found.processes.into_iter().map(by));
                    left.resolv_conf |= found.resolv_conf;
                    let why = |file: Refused| format!("{}: {}", file.path.display(), file.why);
                    left.refused.extend(found.refused.into_iter().map(why));
                }
                Err(error) => left.errors.push(error),
            }
        }
        left
    }

    /// One line each, with what removes it.
    fn texts(&self) -> Vec<String> {
        let remedy = "'ovpn-client cleanup' undoes it";
        let mut texts: Vec<_> = self
            .processes
            .iter()
            .map(|LeftBy { pid, changes }| {
                format!("by process {pid}: {}; {remedy}", changes.join(", "))
            })
            .collect();
        if self.resolv_conf {
            texts.push(format!("resolv.conf of a tunnel that has gone; {remedy}"));
        }
        texts.extend(self.refused.iter().map(|file| format!("{file}; it is left alone")));
        texts.extend(self.errors.iter().map(|error| format!("unknown: {error}")));
        texts
    }
}

fn links() -> Vec<Link> {
    let links = Links::open().and_then(|mut links| links.list());
    // Not being told is not worth more than an empty list here.
    let links = links.unwrap_or_default().into_iter();
    links
        .map(|link| Link {
            name: link.interface.name,
            interface: link.api.name(),
            leftover: link.leftover,
        })
        .collect()
}

fn read(path: &str) -> String {
    read_file(path).trim().to_owned()
}

fn read_file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names() {
        for (line, name) in [
            ("kernel/drivers/net/ovpn/ovpn.ko.xz: kernel/net/ipv4/udp_tunnel.ko.xz", "ovpn"),
            ("updates/dkms/ovpn-dco-v2.ko:", "ovpn_dco_v2"),
            ("kernel/drivers/net/tun.ko", "tun"),
        ] {
            assert_eq!(module_name(line).as_deref(), Some(name));
        }
    }

    #[test]
    fn report_of_this_machine() {
        let nowhere = tempfile::tempdir().unwrap();
        let report = Report::new(&[nowhere.path().join("none")]);
        assert_eq!(report.reasons.is_empty(), report.data_path != "userspace");
        let mut json = Vec::new();
        report.write_json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["interfaces"][0]["name"], "ovpn");
        assert_eq!(json["kernel"], read("/proc/sys/kernel/osrelease"));
        assert!(json["capabilities"]["net_admin"].is_boolean());
        let mut text = Vec::new();
        report.write_text(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("data path"), "{text}");
        for reason in json["reasons"].as_array().unwrap() {
            assert!(text.contains(reason["text"].as_str().unwrap()), "{text}");
            assert!(reason["id"].is_string() && reason["advice"].is_string());
        }
    }

    #[test]
    fn advice_fits_the_reason() {
        let interface = |installed| Interface {
            name: "ovpn",
            status: "no-module",
            error: None,
            loaded: false,
            installed,
            family_version: None,
            version: None,
            float_events: None,
        };
        let free = Loading::default();
        let reason = Reason::NoModule { kernel: "6.1".to_owned() };
        assert!(advice(&reason, &[interface(true)], &free).contains("modprobe"));
        assert!(advice(&reason, &[interface(false)], &free).contains("6.16"));
        assert!(interface(true).describe().contains("could not be loaded"));
        let reason = Reason::NotPermitted { api: "ovpn" };
        assert!(advice(&reason, &[], &free).contains("CAP_NET_ADMIN"));
    }
}
