//! The machine under test: `ovpn-client connect` in a namespace of its own, and what it must leave
//! behind (nothing) and may use (little), whatever the server does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::{CONNECTED, Client, Ending, program};
use crate::netns::{NetNs, Snapshot, connect};
use crate::server::{Hostile, Scenario};
use crate::sim::real_tls;

/// Where the server is.
pub(crate) const SERVER: &str = "198.51.100.1:1194";
/// What programs of the client's namespace resolve with, before and after.
const RESOLV_CONF: &str = "# by hand\nnameserver 198.51.100.1\n";
/// An orderly end, on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(5);
/// A connection, on a busy machine. A handshake that was led astray takes a minute.
const CONNECT_LIMIT: Duration = Duration::from_secs(25);

/// Client and server with a wire between them: 198.51.100.2 and .1.
pub(crate) struct Host {
    pub(crate) client_ns: NetNs,
    pub(crate) server_ns: NetNs,
    directory: TempDir,
    resolv_conf: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (client_ns, server_ns) = (NetNs::new("hostile"), NetNs::new("hostile"));
        connect(&client_ns, "eth0", &server_ns, "eth0");
        // Link-local addresses come into use in their own time.
        for ns in [&client_ns, &server_ns] {
            ns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
        }
        client_ns.add_address("eth0", "198.51.100.2/24");
        client_ns.add_route("default", Some("198.51.100.1"), Some("eth0"));
        server_ns.add_address("eth0", "198.51.100.1/24");
        let own = PathBuf::from("/etc/netns").join(client_ns.name());
        fs::create_dir_all(&own).expect("directory of the namespace");
        let resolv_conf = own.join("resolv.conf");
        fs::write(&resolv_conf, RESOLV_CONF).expect("resolv.conf");
        let directory = TempDir::new().expect("temporary directory");
        Self { client_ns, server_ns, directory, resolv_conf }
    }

    /// Brings the wire up again, with the default route that went with it.
    pub(crate) fn restore_uplink(&self) {
        self.client_ns.sh(
            "ip link set eth0 up; ip route add default via 198.51.100.1 dev eth0 proto static; \
             until ip link show eth0 | grep -q 'state UP'; do sleep 0.05; done",
        );
    }

    pub(crate) fn serve(&self, address: &str, scenario: Scenario) -> Hostile {
        Hostile::start(&self.server_ns, address, scenario)
    }

    /// A profile for a server at [`SERVER`].
    pub(crate) fn profile(&self, extra: &str) -> String {
        let identity = real_tls::identity();
        format!(
            "client\ndev tun\nremote 198.51.100.1 1194\nnobind\nconnect-retry 1 2\n{identity}{extra}"
        )
    }

    /// Starts a client with the profile and these lines.
    pub(crate) fn start(&self, extra: &str) -> Run<'_> {
        self.start_with(&self.profile(extra), &[])
    }

    pub(crate) fn start_with(&self, profile: &str, arguments: &[&str]) -> Run<'_> {
        let before = self.client_ns.snapshot();
        let client = Client::start(&self.client_ns, self.directory.path(), profile, arguments);
        Run { host: self, before, resolv_conf: self.resolv_conf(), client }
    }

    /// The same with environment variables.
    pub(crate) fn start_in(&self, environment: &[(&str, &str)]) -> Run<'_> {
        let before = self.client_ns.snapshot();
        let (ns, profile) = (&self.client_ns, self.profile(""));
        let client = Client::start_in(environment, ns, self.directory.path(), &profile, &[]);
        Run { host: self, before, resolv_conf: self.resolv_conf(), client }
    }

    /// Starts a client by this command, which ends with the program's name, with this standard input.
    pub(crate) fn spawn(&self, command: Command, stdin: Stdio, profile: &str) -> Run<'_> {
        let before = self.client_ns.snapshot();
        let (resolv_conf, directory) = (self.resolv_conf(), self.directory.path());
        let client = Client::spawn(command, stdin, directory, profile, &[]);
        Run { host: self, before, resolv_conf, client }
    }

    /// The same with a profile that is there.
    pub(crate) fn spawn_with_file(
        &self,
        command: Command,
        stdin: Stdio,
        profile: &Path,
    ) -> Run<'_> {
        let before = self.client_ns.snapshot();
        let (resolv_conf, directory) = (self.resolv_conf(), self.directory.path());
        let client = Client::spawn_with_file(command, stdin, directory, profile, &[]);
        Run { host: self, before, resolv_conf, client }
    }

    /// Starts a client whose output nobody reads. It is killed when dropped.
    pub(crate) fn start_unread(&self, extra: &str) -> Unread<'_> {
        let path = self.directory.path().join("unread.ovpn");
        fs::write(&path, self.profile(extra)).expect("profile");
        let mut command = self.client_ns.command(program());
        command.arg("connect").arg(&path).args(["--dco", "off", "--output", "json", "--verb", "6"]);
        command.arg("--runtime-dir").arg(self.directory.path().join("run"));
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start ovpn-client");
        Unread { process, _host: self }
    }

    /// Scenario, client, connection: what most tests begin with.
    pub(crate) fn connected(&self, scenario: Scenario, extra: &str) -> (Hostile, Run<'_>) {
        let server = self.serve(SERVER, scenario);
        let mut run = self.start(extra);
        run.connected();
        (server, run)
    }

    /// Of this machine, for a test's own files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where clients note what is to be undone.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub(crate) fn resolv_conf_path(&self) -> &Path {
        &self.resolv_conf
    }

    pub(crate) fn resolv_conf(&self) -> String {
        fs::read_to_string(&self.resolv_conf).unwrap_or_default()
    }

    /// Ids of processes in the client's namespace.
    fn processes(&self) -> Vec<u32> {
        let namespace = fs::metadata(self.client_ns.path()).expect("namespace");
        let inside = |id: &u32| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(format!("/proc/{id}/ns/net"))
                .is_ok_and(|m| (m.dev(), m.ino()) == (namespace.dev(), namespace.ino()))
        };
        let names = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).filter(inside).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(own) = self.resolv_conf.parent() {
            let _ = fs::remove_dir_all(own);
        }
    }
}

/// A client under test.
pub(crate) struct Run<'a> {
    host: &'a Host,
    before: Snapshot,
    resolv_conf: String,
    pub(crate) client: Client,
}

impl Run<'_> {
    /// Waits for the next time that it is connected.
    pub(crate) fn connected(&mut self) {
        self.client.wait(CONNECTED, CONNECT_LIMIT).unwrap_or_else(|e| panic!("{e}"));
    }

    pub(crate) fn usage(&self) -> Usage {
        usage(self.client.id())
    }

    /// Asks it to end, which it must do in time, with everything put back.
    pub(crate) fn end(mut self, signal: Signal) -> Ending {
        let ending = self.client.stop(signal);
        assert_eq!(ending.code, Some(0), "{}", ending.transcript);
        assert!(
            ending.took < END_LIMIT,
            "it took {:?} to end:\n{}",
            ending.took,
            ending.transcript
        );
        self.assert_nothing_left();
        ending
    }

    /// It ends by itself.
    pub(crate) fn ends(mut self, limit: Duration) -> Ending {
        let ending = self.client.finish(limit);
        self.assert_nothing_left();
        ending
    }

    /// After its end.
    pub(crate) fn assert_nothing_left(&self) {
        self.before.assert_same(&self.host.client_ns.snapshot());
        assert_eq!(self.host.resolv_conf(), self.resolv_conf);
        assert_eq!(self.host.processes(), [0; 0], "processes left in the namespace");
        let runtime_dir = fs::read_dir(self.host.runtime_dir()).expect("runtime directory");
        assert_eq!(runtime_dir.count(), 0, "journals");
    }

    /// What it has started may outlive it for a moment.
    pub(crate) fn wait_for_processes(&self) {
        let end = Instant::now() + CONNECT_LIMIT;
        while !self.host.processes().is_empty() {
            assert!(Instant::now() < end, "{:?} do not end", self.host.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a signal does not wait for the process any more.
    pub(crate) fn wait_until_taken(&self, signal: Signal) {
        let waits = || {
            let mask = self.status("ShdPnd:");
            u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
        };
        let end = Instant::now() + CONNECT_LIMIT;
        while waits() {
            assert!(Instant::now() < end, "{signal} is not taken");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It waits for something.
    pub(crate) fn is_asleep(&self) -> bool {
        self.status("State:").starts_with('S')
    }

    /// A line of the process's status; empty if it has ended.
    fn status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.client.id());
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    }
}

/// See [`Host::start_unread`].
pub(crate) struct Unread<'a> {
    process: Child,
    _host: &'a Host,
}

impl Unread<'_> {
    pub(crate) fn usage(&self) -> Usage {
        usage(self.process.id())
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// The most memory it ever had, in KiB.
    pub(crate) peak: u64,
    /// Of processors.
    pub(crate) time: Duration,
}

fn usage(process: u32) -> Usage {
    let read = |what: &str| fs::read_to_string(format!("/proc/{process}/{what}")).expect("process");
    let status = read("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let peak = peak.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    let stat = read("stat");
    // Behind the name, which may hold anything: state is the first field, times the 12th and 13th.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok());
    // A hundred a second: USER_HZ, the same everywhere.
    let time = Duration::from_millis(ticks.sum::<u64>() * 10);
    Usage { peak, time }
}
