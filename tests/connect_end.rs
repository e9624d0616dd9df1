//! However `ovpn-client connect` ends, nothing stays behind: what it leaves when it is asked to end,
//! and what `ovpn-client cleanup` undoes when it was not asked.
//!
//! In network namespaces whose resolver is `/etc/netns/NAME/resolv.conf`. The server is the simulated
//! one; it pushes DNS, and a route around the tunnel, which outlives the tunnel's device.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use caps::Capability::{CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ovpn_test_support::netns::{NetNs, Snapshot};
use ovpn_test_support::sim::running::RunningServer;
use ovpn_test_support::{bus, confined, sim};
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
const RESOLV_CONF: &str = "# by hand\nnameserver 192.0.2.53\n";
const PUSH: &str = ",dhcp-option DNS 10.8.0.1,route 203.0.113.0 255.255.255.0 net_gateway";

/// A machine.
struct Host {
    ns: NetNs,
    /// `/etc/netns/NAME`
    etc: PathBuf,
    directory: TempDir,
}

/// Everything that a client could have left changed.
#[derive(PartialEq, Debug)]
struct State {
    network: Snapshot,
    resolv_conf: String,
    files: Vec<String>,
}

impl Host {
    fn new() -> Self {
        let ns = NetNs::new("end");
        ns.add_bridge("br0");
        ns.add_address("br0", "192.0.2.10/24");
        ns.add_route("default", Some("192.0.2.1"), None);
        let etc = Path::new("/etc/netns").join(ns.name());
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("resolv.conf"), RESOLV_CONF).unwrap();
        Self { ns, etc, directory: TempDir::new().unwrap() }
    }

    fn state(&self) -> State {
        State {
            network: self.ns.settled_snapshot(),
            resolv_conf: self.resolv_conf(),
            files: names(&self.etc),
        }
    }

    fn resolv_conf(&self) -> String {
        fs::read_to_string(self.etc.join("resolv.conf")).unwrap()
    }

    fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Names of the journals.
    fn journals(&self) -> Vec<String> {
        names(&self.runtime_dir())
    }

    fn assert_is(&self, before: &State) {
        let after = self.state();
        let difference = before.network.difference(&after.network);
        assert!(difference.is_empty(), "{}", difference.join("\n"));
        assert_eq!(*before, after);
        assert_eq!(self.journals(), [""; 0]);
    }

    /// `ovpn-client` with one of the commands that look at journals.
    fn ovpn_client(&self, arguments: &[&str]) -> Output {
        let mut command = self.ns.command(program());
        command.args(arguments).arg("--runtime-dir").arg(self.runtime_dir());
        command.output().unwrap()
    }

    fn cleanup(&self) -> Value {
        let output = self.ovpn_client(&["cleanup", "--output", "json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A client that was connected and then killed with its helper process, which would have undone
    /// everything; `lo` is back as it was.
    fn with_killed_client(&self) -> u32 {
        let server = RunningServer::pushing(&self.ns, PUSH);
        let mut client = Client::connected(self, &server);
        let pid = client.process.id();
        // Neither may notice the other's end.
        client.signal(Signal::SIGSTOP);
        kill(client.helper(), Signal::SIGKILL).unwrap();
        client.process.kill().unwrap();
        client.process.wait().unwrap();
        server.end();
        pid
    }
}

/// Waits for something that happens outside of what the client says.
fn wait_for(what: &str, happened: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !happened() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.etc);
    }
}

/// The program under test; another build of it with `OVPN_TEST_CLIENT`.
fn program() -> PathBuf {
    let other = std::env::var_os("OVPN_TEST_CLIENT");
    other.map_or_else(|| env!("CARGO_BIN_EXE_ovpn-client").into(), PathBuf::from)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A running `ovpn-client connect`.
struct Client {
    process: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Client {
    fn start(host: &Host, server: &RunningServer) -> Self {
        Self::spawn(&mut Self::command(host, server))
    }

    fn command(host: &Host, server: &RunningServer) -> Command {
        let profile = host.directory.path().join("test.ovpn");
        let text = format!(
            "client\ndev tun\nremote {} {} udp\n{}",
            server.address.ip(),
            server.address.port(),
            sim::real_tls::identity()
        );
        fs::write(&profile, text).unwrap();
        let mut command = host.ns.command(program());
        command.args(["connect", "--dco", "off", "--output", "json", "--runtime-dir"]);
        command.arg(host.runtime_dir()).arg(&profile);
        command
    }

    fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::piped(), Stdio::piped())
    }

    fn spawn_with(command: &mut Command, out: Stdio, err: Stdio) -> Self {
        let mut process = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        let (sender, lines) = channel();
        if let Some(output) = process.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // Nobody listens any more once the test is over.
                    let _ = sender.send(line);
                }
            });
        }
        Self { process, lines, seen: Vec::new() }
    }

    /// A client that works.
    fn connected(host: &Host, server: &RunningServer) -> Self {
        let mut client = Self::start(host, server);
        client.expect("\"code_minor\":7,");
        assert!(host.resolv_conf().contains("nameserver 10.8.0.1"));
        assert!(!host.ns.snapshot().lines_with("203.0.113.0").is_empty());
        client
    }

    fn expect(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(_) => panic!("no {text}:\n{}", self.seen.join("\n")),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// The process that does for it what takes root.
    fn helper(&self) -> Pid {
        let parent = format!("PPid:\t{}", self.process.id());
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
        let mut children = pids.filter(|pid| {
            // It may have ended meanwhile.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line == parent)
        });
        let helper = children.next().unwrap();
        assert_eq!(children.next(), None, "one helper");
        Pid::from_raw(helper)
    }

    /// Waits until it has ended.
    fn wait(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < limit, "does not end:\n{}", self.seen.join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end: the exit status, everything it said, and how long it took.
    fn end(mut self) -> (Option<i32>, String, Duration) {
        let start = Instant::now();
        let code = self.wait(LIMIT);
        let took = start.elapsed();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.seen.push(line);
        }
        let mut errors = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            stderr.read_to_string(&mut errors).unwrap();
        }
        (code, format!("{}\n{errors}", self.seen.join("\n")), took)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_a_killed_client_left_is_named_by_doctor_and_undone_by_cleanup() {
    let host = Host::new();
    let before = host.state();
    let pid = host.with_killed_client();
    assert!(host.resolv_conf().contains("nameserver 10.8.0.1"));

    let told = host.ovpn_client(&["doctor"]);
    let told = String::from_utf8(told.stdout).unwrap();
    let line = told.lines().find(|line| line.starts_with("left behind")).unwrap();
    for part in [&format!("process {pid}"), "resolv.conf", "203.0.113.0/24", "ovpn-client cleanup"]
    {
        assert!(line.contains(part), "{part}: {told}");
    }

    let report = host.cleanup();
    let process = &report["processes"][0];
    assert_eq!(process["pid"], pid);
    let undone = process["undone"].as_array().unwrap();
    assert!(undone.iter().any(|what| what == "DNS (resolv.conf)"), "{report}");
    host.assert_is(&before);

    let again = host.ovpn_client(&["cleanup"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), "nothing to undo\n");
    let told = String::from_utf8(host.ovpn_client(&["doctor"]).stdout).unwrap();
    assert!(!told.contains("left behind"), "{told}");
}

/// Whatever it dies of: its helper process is still there.
#[test]
fn a_killed_client_leaves_nothing() {
    for signal in [Signal::SIGKILL, Signal::SIGABRT] {
        let host = Host::new();
        let before = host.state();
        let server = RunningServer::pushing(&host.ns, PUSH);
        let client = Client::connected(&host, &server);
        let pid = client.process.id();
        client.signal(signal);
        // Both have the same standard error, whose end is that of the last of them.
        let (code, said, _) = client.end();
        assert_eq!(code, None, "{signal}: {said}");
        assert!(said.contains(&format!("changes of process {pid}")), "{signal}: {said}");
        server.end();
        host.assert_is(&before);
    }
}

#[test]
fn without_its_helper_a_client_ends_and_cleanup_does_the_rest() {
    let host = Host::new();
    let before = host.state();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let client = Client::connected(&host, &server);
    kill(client.helper(), Signal::SIGKILL).unwrap();
    let (code, said, _) = client.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("helper process has ended") && said.contains("cleanup"), "{said}");
    server.end();
    before.network.assert_same(&host.ns.settled_snapshot());
    host.cleanup();
    host.assert_is(&before);
}

/// A process that does nothing until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> Self {
        kill(process, Signal::SIGSTOP).unwrap();
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// A helper process that is stopped, or hangs: everything else goes on, and what does not take root
/// is undone. The rest it undoes itself once it goes on.
#[test]
fn a_helper_that_does_not_answer_keeps_nothing_else_waiting() {
    std::thread::scope(|scope| {
        for reconnect in [false, true] {
            scope.spawn(move || {
                let host = Host::new();
                let before = host.state();
                let server = RunningServer::pushing(&host.ns, PUSH);
                let mut client = Client::connected(&host, &server);
                let stopped = Stopped::new(client.helper());
                if reconnect {
                    client.signal(Signal::SIGUSR1);
                    client.expect("Restarting connection");
                    for _ in 0..5 {
                        client.signal(Signal::SIGUSR2);
                        client.expect("\"Statistics\"");
                        assert!(client.seen.last().unwrap().contains("BYTES_IN"));
                        std::thread::sleep(Duration::from_millis(500));
                    }
                    client.expect("the helper process has not answered within");
                    client.expect("\"code_minor\":7,");
                }
                client.signal(Signal::SIGTERM);
                assert_eq!(client.wait(2 * LIMIT), Some(1));
                server.end();
                before.network.assert_same(&host.ns.settled_snapshot());
                drop(stopped);
                // It has the same standard error, which ends with it.
                let (_, said, _) = client.end();
                let named = said.contains("the helper process, which keeps root's rights, hangs");
                assert!(named, "{said}");
                wait_for("the rest is undone", || host.resolv_conf() == before.resolv_conf);
                wait_for("its journals end", || host.journals().is_empty());
                host.assert_is(&before);
            });
        }
    });
}

/// It is busy for a while, and nobody minds.
#[test]
fn a_helper_that_takes_its_time_is_waited_for() {
    let host = Host::new();
    let before = host.state();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let mut client = Client::connected(&host, &server);
    let stopped = Stopped::new(client.helper());
    client.signal(Signal::SIGUSR1);
    client.expect("Restarting connection");
    std::thread::sleep(Duration::from_secs(3));
    drop(stopped);
    client.expect("\"code_minor\":7,");
    assert!(host.resolv_conf().contains("nameserver 10.8.0.1"));
    client.signal(Signal::SIGTERM);
    let (code, said, _) = client.end();
    assert_eq!(code, Some(0), "{said}");
    host.assert_is(&before);
}

#[test]
fn cleanup_says_in_words_what_it_did() {
    let host = Host::new();
    let pid = host.with_killed_client();
    let output = host.ovpn_client(&["cleanup"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("process {pid}: undid ")), "{text}");
    assert!(text.contains("\n  undone      route 203.0.113.0/24 "), "{text}");
}

/// As long as a client lives, its changes are its own.
#[test]
fn cleanup_leaves_a_living_client_alone() {
    let host = Host::new();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let client = Client::connected(&host, &server);
    let output = host.ovpn_client(&["cleanup"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "nothing to undo\n");
    assert!(host.resolv_conf().contains("nameserver 10.8.0.1"));
    client.signal(Signal::SIGTERM);
    assert_eq!(client.end().0, Some(0));
}

/// A reboot undoes what the kernel knew. What has the same name since then is somebody else's, and
/// the file on disk is still to be put back.
#[test]
fn after_a_reboot_only_the_file_is_put_back() {
    let host = Host::new();
    host.with_killed_client();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let another = "00000000-0000-0000-0000-000000000000";
    for file in [host.runtime_dir().join(&host.journals()[0]), host.etc.join("resolv.conf")] {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(boot.trim()));
        fs::write(&file, text.replace(boot.trim(), another)).unwrap();
    }
    let network = host.ns.settled_snapshot();
    let report = host.cleanup();
    assert_eq!(report["processes"][0]["undone"].as_array().unwrap().len(), 1, "{report}");
    assert!(report["processes"][0]["gone"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(host.resolv_conf(), RESOLV_CONF);
    assert_eq!(names(&host.etc), ["resolv.conf"]);
    assert_eq!(host.journals(), [""; 0]);
    network.assert_same(&host.ns.settled_snapshot());
}

/// The same when `/run` was emptied by the reboot, as it is.
#[test]
fn after_a_reboot_the_file_is_put_back_without_a_journal() {
    let host = Host::new();
    host.with_killed_client();
    fs::remove_dir_all(host.runtime_dir()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let path = host.etc.join("resolv.conf");
    fs::write(&path, host.resolv_conf().replace(boot.trim(), "another")).unwrap();
    let told = String::from_utf8(host.ovpn_client(&["doctor"]).stdout).unwrap();
    assert!(told.contains("left behind          resolv.conf of a tunnel"), "{told}");
    assert_eq!(host.cleanup()["resolv_conf_restored"], true);
    assert_eq!(host.resolv_conf(), RESOLV_CONF);
}

/// `resolv.conf` of the netcfg service of OpenVPN 3 Linux, which was killed.
const OF_NETCFG: &str = "#
# Generated by OpenVPN 3 Linux (NetCfg::DNS::ResolvConfFile)
# Last updated: 2026-11-29 06:00:00
#
search rs.example

# OpenVPN defined name servers
nameserver 10.99.0.1

# System defined name servers
nameserver 192.0.2.53

# Other system settings
options edns0
";

/// While the service runs its file is in use. Afterwards the host's own is put back, or what is left
/// of it.
#[tokio::test(flavor = "multi_thread")]
async fn cleanup_puts_back_what_a_killed_netcfg_service_has_left() {
    let host = Host::new();
    let (file, backup) = (host.etc.join("resolv.conf"), host.etc.join("resolv.conf.ovpn3bak"));
    let bus = bus::Bus::start();
    let run = |command: &str| {
        let mut run = host.ns.command(program());
        run.env("DBUS_SYSTEM_BUS_ADDRESS", bus.address());
        run.args([command, "--output", "json", "--runtime-dir"]).arg(host.runtime_dir());
        serde_json::from_slice::<Value>(&run.output().unwrap().stdout).unwrap()
    };
    let expect = |leftover: bool, content: &str| {
        assert_eq!(run("doctor")["leftovers"]["resolv_conf"], leftover);
        assert_eq!(run("cleanup")["resolv_conf_restored"], leftover);
        assert_eq!(host.resolv_conf(), content);
    };
    fs::write(&file, OF_NETCFG).unwrap();
    fs::write(&backup, RESOLV_CONF).unwrap();
    let service = bus.serve("net.openvpn.v3.netcfg", |_| bus::Answer::Nothing).await;
    expect(false, OF_NETCFG);
    drop(service);
    expect(true, RESOLV_CONF);
    assert_eq!(names(&host.etc), ["resolv.conf"]);
    expect(false, RESOLV_CONF);

    // A service that was started after it has taken the file for the host's own.
    fs::write(&file, OF_NETCFG).unwrap();
    fs::write(&backup, OF_NETCFG).unwrap();
    let own = OF_NETCFG.replace("# OpenVPN defined name servers\nnameserver 10.99.0.1\n", "");
    expect(true, &own);
    expect(false, &own);
}

#[test]
fn cleanup_goes_to_the_namespace_where_something_was_left() {
    let (host, elsewhere) = (Host::new(), NetNs::new("end"));
    let before = host.state();
    host.with_killed_client();
    let mut command = elsewhere.command(program());
    command.args(["cleanup", "--runtime-dir"]).arg(host.runtime_dir());
    let output = command.output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("undone      route 203.0.113.0/24"));
    host.assert_is(&before);

    // One that has gone took its routes along.
    host.with_killed_client();
    let kept = TempDir::new().unwrap();
    let journals = kept.path().join("run");
    fs::rename(host.runtime_dir(), &journals).unwrap();
    let inode = host.ns.run(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    drop(host);
    let mut command = elsewhere.command(program());
    command.args(["cleanup", "--output", "json", "--runtime-dir"]).arg(&journals);
    let report: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert!(report["processes"][0]["gone"].as_u64().unwrap() > 0, "{inode:?} {report}");
    assert_eq!(names(&journals), [""; 0]);
}

/// What stands in a journal is done by root. One that somebody else can write is not even looked at.
#[test]
fn a_runtime_directory_that_others_can_write_to_is_refused() {
    let host = Host::new();
    let before = host.state();
    let directory = host.runtime_dir();
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    // As an attacker would put it there, once in the old form that named a program.
    let program = host.directory.path().join("program");
    let trace = host.directory.path().join("trace");
    fs::write(&program, format!("#!/bin/sh\ntouch {}\n", trace.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let namespace = host.ns.run(|| {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata("/proc/thread-self/ns/net").unwrap();
        format!("{{\"device\":{},\"inode\":{}}}", metadata.dev(), metadata.ino())
    });
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot = boot.trim();
    let dns = format!("{{\"resolvconf\":{{\"program\":{program:?},\"record\":\"r\"}}}}");
    for version in [1, 2] {
        let journal = format!(
            "{{\"process\":{{\"version\":{version},\"pid\":1,\"start_time\":1,\"boot\":\"{boot}\",\
             \"namespace\":{namespace}}}}}\n{{\"undo\":{{\"id\":0,\"what\":{{\"dns\":{dns}}}}}}}\n"
        );
        fs::write(directory.join(format!("{version}-0-0.journal")), journal).unwrap();
    }
    let server = RunningServer::pushing(&host.ns, PUSH);
    let (code, said, _) = Client::start(&host, &server).end();
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains("can be written to by others") && said.contains("--runtime-dir"),
        "{said}"
    );
    for command in ["cleanup", "doctor"] {
        let output = host.ovpn_client(&[command]);
        let said = [output.stdout, output.stderr].concat();
        assert!(String::from_utf8(said).unwrap().contains("can be written to by others"));
    }
    // Even in a safe directory no program is taken from a journal.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    host.ovpn_client(&["cleanup"]);
    assert!(!trace.exists(), "the program of a journal was executed");
    fs::remove_dir_all(&directory).unwrap();
    host.assert_is(&before);
}

#[test]
fn every_signal_that_would_end_it_ends_it_in_order() {
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGALRM,
        Signal::SIGPWR,
        Signal::SIGXCPU,
    ] {
        let host = Host::new();
        let before = host.state();
        let server = RunningServer::pushing(&host.ns, PUSH);
        let client = Client::connected(&host, &server);
        client.signal(signal);
        let (code, said, _) = client.end();
        assert_eq!(code, Some(0), "{signal}: {said}");
        host.assert_is(&before);
    }
}

/// `nohup ovpn-client connect`
#[test]
fn a_client_that_is_to_survive_its_terminal_does() {
    let host = Host::new();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let program = Client::command(&host, &server);
    let mut command = host.ns.command("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(program.get_program()).args(program.get_args());
    let mut client = Client::spawn(&mut command);
    client.expect("\"code_minor\":7,");
    client.signal(Signal::SIGHUP);
    client.signal(Signal::SIGUSR2);
    client.expect("\"Statistics\"");
    client.signal(Signal::SIGTERM);
    assert_eq!(client.end().0, Some(0));
}

/// The terminal is closed, or the connection to it lost: it gets SIGHUP, and cannot write any more.
#[test]
fn a_client_whose_terminal_goes_leaves_nothing() {
    use std::os::unix::process::CommandExt as _;
    let host = Host::new();
    let before = host.state();
    let server = RunningServer::pushing(&host.ns, PUSH);
    // No process that another test starts meanwhile may have the terminal's other end.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::pty::posix_openpt(flags).unwrap();
    nix::pty::grantpt(&master).unwrap();
    nix::pty::unlockpt(&master).unwrap();
    let name = nix::pty::ptsname_r(&master).unwrap();
    let slave = || fs::File::options().read(true).write(true).open(&name).unwrap();
    let program = Client::command(&host, &server);
    let mut command = host.ns.command(program.get_program());
    // In words, so that there is a live line.
    command.args(program.get_args().filter(|word| *word != "--output" && *word != "json"));
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let own_terminal = || {
        nix::unistd::setsid()?;
        // SAFETY: the terminal is the standard input by now; the request takes no pointer.
        nix::errno::Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls, both async-signal-safe.
    unsafe { command.pre_exec(own_terminal) };
    let process = command.spawn().unwrap();
    drop(command);
    let (_, lines) = channel();
    let client = Client { process, lines, seen: Vec::new() };
    wait_for("not connected", || host.resolv_conf().contains("nameserver 10.8.0.1"));
    drop(master);
    let (code, said, _) = client.end();
    assert_eq!(code, Some(0), "{said}");
    host.assert_is(&before);
}

/// A program that reacts to a change of DNS and takes longer for it than anybody waits.
#[test]
fn a_slow_subscriber_of_resolvconf_is_waited_for() {
    let host = Host::new();
    let before = host.ns.settled_snapshot();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let path = |name: &str| host.directory.path().join(name);
    let (resolv_conf, program) = (path("resolv.conf"), path("resolvconf"));
    let original = "# Generated by resolvconf\nnameserver 192.0.2.53\n";
    fs::write(&resolv_conf, original).unwrap();
    // As Debian's: the record changes at once, the file when the subscribers have run.
    let script = format!(
        "#!/bin/sh\ncase $1 in\n-a) {{ echo '# Generated by resolvconf'; cat; }} >{file} ;;\n\
         -d) [ -e {record} ] && exit; touch {record}; sleep 6; printf '{original}' >{file} ;;\nesac\n",
        file = resolv_conf.display(),
        record = path("deleted").display(),
        original = original.replace('\n', "\\n"),
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let client = Client::command(&host, &server);
    let mut command = host.ns.command("unshare");
    let prepare = "mount --bind \"$1\" /etc/resolv.conf
        mount -t tmpfs none /usr/local/sbin
        touch /usr/local/sbin/resolvconf
        for place in /usr/sbin /usr/bin /usr/local/sbin; do
            [ ! -e $place/resolvconf ] || mount --bind \"$2\" $place/resolvconf
        done
        shift 2
        exec \"$@\"";
    command.args(["--mount", "sh", "-ec", prepare, "sh"]).arg(&resolv_conf).arg(&program);
    command.arg(client.get_program()).args(client.get_args());
    let mut client = Client::spawn(&mut command);
    client.expect("\"code_minor\":7,");
    let now = || fs::read_to_string(&resolv_conf).unwrap();
    assert!(now().contains("nameserver 10.8.0.1"), "{}", client.seen.join("\n"));
    client.signal(Signal::SIGTERM);
    let (code, said, took) = client.end();
    assert_eq!(now(), original, "{said}");
    assert_eq!(code, Some(0), "{said}");
    before.assert_same(&host.ns.settled_snapshot());
    assert!(took < Duration::from_secs(25), "{took:?}");
}

/// A pipe that has no room left.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(&writer, b"x").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

/// Pipes that nobody reads (a stopped pager), that nobody will ever read, and a full disk.
#[test]
fn output_that_goes_nowhere_keeps_nothing_waiting() {
    type Sink = fn() -> (Stdio, Option<fs::File>);
    let stuck: Sink = || {
        let (reader, writer) = full_pipe();
        (writer.into(), Some(reader.into()))
    };
    let closed: Sink = || (nix::unistd::pipe().unwrap().1.into(), None);
    let full: Sink = || (fs::File::options().write(true).open("/dev/full").unwrap().into(), None);
    for (name, sink) in [("stuck", stuck), ("closed", closed), ("full", full)] {
        for output in [["--output", "json"], ["--output", "text"]] {
            let host = Host::new();
            let before = host.state();
            let server = RunningServer::pushing(&host.ns, PUSH);
            let mut command = Client::command(&host, &server);
            let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            let words = words.iter().filter(|word| *word != "--output" && *word != "json");
            command = host.ns.command(program());
            command.args(words).args(output);
            let ((out, _out), (err, _err)) = (sink(), sink());
            let client = Client::spawn_with(&mut command, out, err);
            drop(command);
            wait_for(name, || host.resolv_conf().contains("nameserver 10.8.0.1"));
            client.signal(Signal::SIGTERM);
            let (code, ..) = client.end();
            assert_eq!(code, Some(0), "{name} {output:?}");
            host.assert_is(&before);
        }
    }
}

/// Not even the last complaint.
#[test]
fn a_complaint_that_nobody_reads_keeps_nothing_waiting() {
    let host = Host::new();
    fs::create_dir(host.runtime_dir()).unwrap();
    fs::set_permissions(host.runtime_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let (_reader, writer) = full_pipe();
    let mut command = Client::command(&host, &server);
    let client = Client::spawn_with(&mut command, Stdio::null(), writer.into());
    assert_eq!(client.end().0, Some(4));
}

#[test]
fn a_connected_client_can_do_little_and_shows_nobody_its_memory() {
    let host = Host::new();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let client = Client::connected(&host, &server);
    let pid = client.process.id().cast_signed();
    confined::assert_confined(pid, &[CAP_NET_ADMIN]);
    confined::assert_without_files(pid);
    let helper = client.helper().as_raw();
    confined::assert_confined(helper, &[CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE]);
    assert_eq!(confined::users(helper), "0 0 0 0");
}

/// As service managers do it: a user without rights, and one capability.
#[test]
fn a_client_that_is_nobody_from_the_start_connects() {
    let host = Host::new();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let program = Client::command(&host, &server);
    fs::set_permissions(host.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(host.runtime_dir()).unwrap();
    std::os::unix::fs::chown(host.runtime_dir(), Some(65_534), Some(65_534)).unwrap();
    let mut command = host.ns.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin"]);
    command.args(["--bounding-set=-all,+net_admin"]);
    command.arg(program.get_program()).args(program.get_args());
    let mut client = Client::spawn(&mut command);
    client.expect("\"code_minor\":7,");
    let pid = client.process.id().cast_signed();
    confined::assert_confined(pid, &[CAP_NET_ADMIN]);
    assert!(!host.ns.snapshot().lines_with("203.0.113.0").is_empty());
    // Only root may change it.
    assert_eq!(host.resolv_conf(), RESOLV_CONF);
    client.signal(Signal::SIGTERM);
    let (code, said, _) = client.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("DNS"), "{said}");
    assert!(host.ns.settled_snapshot().lines_with("203.0.113.0").is_empty());
}

/// `/proc` with `hidepid`: a user sees no process but its own, and the helper none at all.
#[test]
fn where_proc_hides_processes_nothing_is_left_either() {
    let host = Host::new();
    let before = host.state();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let program = Client::command(&host, &server);
    let mut command = host.ns.command("unshare");
    command.args([
        "--mount",
        "sh",
        "-ec",
        "mount -t proc -o hidepid=2 none /proc; exec \"$@\"",
        "sh",
    ]);
    command.arg(program.get_program()).args(program.get_args());
    let mut client = Client::spawn(&mut command);
    client.expect("\"code_minor\":7,");
    confined::assert_without_files(client.process.id().cast_signed());
    client.signal(Signal::SIGKILL);
    let (_, said, _) = client.end();
    assert!(said.contains("changes of process"), "{said}");
    server.end();
    host.assert_is(&before);
}

/// Containers take the right to change users from root.
#[test]
fn a_client_that_cannot_become_another_user_says_so_and_connects() {
    let host = Host::new();
    let before = host.state();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let program = Client::command(&host, &server);
    let mut command = host.ns.command("setpriv");
    command.args(["--bounding-set=-setuid", "--inh-caps=-setuid"]);
    command.arg(program.get_program()).args(program.get_args());
    let mut client = Client::spawn(&mut command);
    client.expect("this process stays root's");
    client.expect("\"code_minor\":7,");
    client.signal(Signal::SIGTERM);
    let (code, said, _) = client.end();
    assert_eq!(code, Some(0), "{said}");
    host.assert_is(&before);
}

#[test]
fn a_client_without_a_sandbox_stays_root_and_has_no_helper() {
    let host = Host::new();
    let before = host.state();
    let server = RunningServer::pushing(&host.ns, PUSH);
    let mut client = Client::spawn(Client::command(&host, &server).args(["--sandbox", "off"]));
    client.expect("\"code_minor\":7,");
    let pid = client.process.id().cast_signed();
    confined::assert_confined(pid, &[CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE]);
    assert_eq!(confined::users(pid), "0 0 0 0");
    client.signal(Signal::SIGTERM);
    let (code, said, _) = client.end();
    assert_eq!(code, Some(0), "{said}");
    host.assert_is(&before);
}
