//! `ovpn-client connect` under a service manager: what it tells it (the socket is the test's own), and what
//! it is given without a terminal. Under systemd itself: `ci/packaging/service`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ovpn_test_support::lab::client::{CONNECTED, Client, RECONNECTING, program};
use ovpn_test_support::netns::NetNs;
use ovpn_test_support::sim;
use ovpn_test_support::sim::running::{RunningServer, silent};
use serde_json::Value;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
/// What the service manager waits for a sign of life.
const WATCHDOG: Duration = Duration::from_millis(900);
/// Longer than the backend waits for a session before it says that it does not answer.
const HANGS: Duration = Duration::from_secs(6);

fn directory() -> TempDir {
    let open = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(open).tempdir().unwrap()
}

fn profile(port: u16, extra: &str) -> String {
    let identity = sim::real_tls::identity();
    format!("client\ndev tun\nremote 127.0.0.1 {port} udp\nconnect-retry 1 2\n{identity}{extra}\n")
}

/// The service manager's socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    /// All that it was told.
    told: Vec<String>,
}

impl Manager {
    fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // As systemd's own.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self { socket, path, told: Vec::new() }
    }

    /// The next thing that it is told by then.
    fn next(&mut self, end: Instant) -> Option<String> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        self.told.push(text.clone());
        Some(text)
    }

    /// Waits until it is told something that contains `text`.
    fn wait(&mut self, text: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            match self.next(end) {
                Some(told) if told.contains(text) => return told,
                Some(_) => {}
                None => panic!("no {text} in {:?}", self.told),
            }
        }
    }

    fn start(&self, ns: &NetNs, directory: &Path, profile: &str, arguments: &[&str]) -> Client {
        let watchdog = WATCHDOG.as_micros().to_string();
        let environment =
            [("NOTIFY_SOCKET", self.path.to_str().unwrap()), ("WATCHDOG_USEC", &watchdog)];
        Client::start_in(&environment, ns, directory, profile, arguments)
    }
}

#[test]
fn the_service_manager_knows_when_the_tunnel_is_there_and_how_it_stands() {
    let ns = NetNs::new("service");
    for sandbox in ["on", "off"] {
        let (directory, server) = (directory(), RunningServer::start(&ns));
        let mut manager = Manager::new(directory.path());
        let text = profile(server.address.port(), "");
        let arguments = ["--dco", "off", "--sandbox", sandbox];
        let mut client = manager.start(&ns, directory.path(), &text, &arguments);
        client.wait(CONNECTED, SOON).unwrap();
        manager.wait("READY=1");
        let status = manager.told.iter().rfind(|told| told.starts_with("STATUS=")).unwrap();
        for part in ["connected to 127.0.0.1", "udp", "tun0", "data path userspace", "10.8.0.6"] {
            assert!(status.contains(part), "{part}: {status}");
        }
        manager.wait("WATCHDOG=1");
        client.signal(Signal::SIGUSR1);
        client.wait(RECONNECTING, SOON).unwrap();
        manager.wait("STATUS=reconnecting");
        client.wait(CONNECTED, SOON).unwrap();
        manager.wait("STATUS=connected");
        assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
        manager.wait("STOPPING=1");
        let ready = manager.told.iter().filter(|told| told.contains("READY=1")).count();
        assert_eq!(ready, 1, "{:?}", manager.told);
    }
}

#[test]
fn it_is_not_ready_before_it_is_connected_and_the_reason_of_its_end_stays() {
    let ns = NetNs::new("service");
    let directory = directory();
    let mut manager = Manager::new(directory.path());
    let (_socket, address) = silent(&ns);
    let text = profile(address.port(), "");
    let mut client = manager.start(&ns, directory.path(), &text, &["--dco", "off"]);
    manager.wait("STATUS=connecting");
    // It waits for the server, and lives.
    manager.wait("WATCHDOG=1");
    manager.wait("WATCHDOG=1");
    client.stop(Signal::SIGTERM);
    assert!(!manager.told.iter().any(|told| told.contains("READY=1")), "{:?}", manager.told);

    let mut client = manager.start(&ns, directory.path(), "client\nno-such-option\n", &[]);
    assert_eq!(client.finish(SOON).code, Some(2));
    manager.wait("no-such-option");
    let mut client = manager.start(&ns, directory.path(), &profile(1, "auth-user-pass"), &[]);
    assert_eq!(client.finish(SOON).code, Some(2));
    manager.wait("--auth-user-pass FILE, or as the credential login");
}

/// As while it hangs itself, or is loaded anew.
#[test]
fn a_service_manager_that_reads_nothing_keeps_nothing_waiting() {
    let ns = NetNs::new("service");
    let (directory, server) = (directory(), RunningServer::start(&ns));
    let mut manager = Manager::new(directory.path());
    let text = profile(server.address.port(), "");
    let mut client = manager.start(&ns, directory.path(), &text, &["--dco", "off"]);
    client.wait(CONNECTED, SOON).unwrap();
    // Its socket holds eleven (net.unix.max_dgram_qlen); twice as many are for it within this.
    std::thread::sleep(8 * WATCHDOG);
    client.signal(Signal::SIGUSR1);
    client.wait(RECONNECTING, SOON).unwrap();
    client.wait(CONNECTED, SOON).unwrap();
    // Now it reads. No sign of life waited behind those that its socket holds.
    manager.wait("READY=1");
    while manager.next(Instant::now() + WATCHDOG / 20).is_some() {}
    let signs = manager.told.iter().filter(|told| told.contains("WATCHDOG=1")).count();
    assert!((1..18).contains(&signs), "{:?}", manager.told);
    // And not any more.
    std::thread::sleep(5 * WATCHDOG);
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// The other threads go on, as they would with a session that waits for itself.
#[test]
fn a_session_that_hangs_shows_no_sign_of_life() {
    let ns = NetNs::new("service");
    let (directory, server) = (directory(), RunningServer::start(&ns));
    let mut manager = Manager::new(directory.path());
    let text = profile(server.address.port(), "");
    let mut client = manager.start(&ns, directory.path(), &text, &["--dco", "off"]);
    client.wait(CONNECTED, SOON).unwrap();
    manager.wait("READY=1");
    for name in ["session", "ovpn-client"] {
        manager.wait("WATCHDOG=1");
        let held = Held::new(client.id(), name);
        let begin = Instant::now();
        // What was on its way.
        while manager.next(begin + WATCHDOG).is_some() {}
        let heard = manager.next(Instant::now() + HANGS);
        assert_eq!(heard, None, "while the thread {name} hangs");
        drop(held);
    }
    manager.wait("WATCHDOG=1");
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// A thread that a debugger has stopped.
struct Held(libc::pid_t);

impl Held {
    fn new(process: u32, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let mut tasks = tasks.map(|task| task.unwrap().path());
        let is_it = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap().trim() == name;
        let task = tasks.find(is_it).unwrap();
        let id: libc::pid_t = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
        // SAFETY: numbers only; the thread is the test's own client's.
        unsafe {
            let (none, seize, interrupt) = (0_usize, libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT);
            assert_eq!(libc::ptrace(seize, id, none, none), 0, "{name}");
            assert_eq!(libc::ptrace(interrupt, id, none, none), 0, "{name}");
            assert_eq!(libc::waitpid(id, std::ptr::null_mut(), libc::__WALL), id, "{name}");
        }
        Self(id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: numbers only.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0_usize, 0_usize) };
    }
}

#[test]
fn what_is_given_as_credentials_is_not_asked_for() {
    let ns = NetNs::new("service");
    let given = |credentials: &[(&str, &str)], arguments: &[&str]| {
        let (directory, server) = (directory(), RunningServer::start(&ns));
        let place = directory.path().join("credentials");
        fs::create_dir(&place).unwrap();
        for (name, content) in credentials {
            fs::write(place.join(name), content).unwrap();
            // Nobody else may read them, and the process has become somebody else by then.
            let only_root = fs::Permissions::from_mode(0o400);
            fs::set_permissions(place.join(name), only_root).unwrap();
        }
        let environment = [("CREDENTIALS_DIRECTORY", place.to_str().unwrap())];
        let extra = "auth-user-pass\nstatic-challenge Code 1 concat\n";
        let text = profile(server.address.port(), extra);
        let mut arguments = arguments.to_vec();
        arguments.extend(["--dco", "off"]);
        let mut client = Client::start_in(&environment, &ns, directory.path(), &text, &arguments);
        let connected = client.wait(CONNECTED, Duration::from_secs(10)).is_ok();
        let ending = if connected { client.stop(Signal::SIGTERM) } else { client.finish(SOON) };
        (server.end(), ending)
    };
    // What a shell, a unit or a format would take for its own is the password's.
    let (logins, _) = given(&[("login", "joe\n$HOME %i \\\"' \nno")], &[]);
    assert_eq!(logins.first().unwrap().1, "$HOME %i \\\"' no");
    let login = ("login", "joe\nsecret\n");
    for credentials in [&[login, ("otp", "123456\n")][..], &[("login", "joe\nsecret\n123456\n")]] {
        let (logins, ending) = given(credentials, &[]);
        let joe = ("joe".to_owned(), "secret123456".to_owned());
        assert_eq!(logins.first(), Some(&joe), "{}", ending.transcript);
        assert!(!ending.transcript.contains("123456"), "{}", ending.transcript);
    }
    let (_, ending) = given(&[login], &[]);
    assert_eq!(ending.code, Some(2), "{}", ending.transcript);
    assert!(ending.transcript.contains("credential otp"), "{}", ending.transcript);
    let (_, ending) = given(&[("login", "\n")], &[]);
    assert_eq!(ending.code, Some(2), "{}", ending.transcript);
    for part in ["credential login", "LoadCredential=", "in the first line"] {
        assert!(ending.transcript.contains(part), "{part}: {}", ending.transcript);
    }
    // What the command line names comes before.
    let directory = directory();
    let code = directory.path().join("code");
    fs::write(&code, "654321").unwrap();
    let (logins, ending) = given(&[login, ("otp", "123456")], &["--otp", code.to_str().unwrap()]);
    let joe = ("joe".to_owned(), "secret654321".to_owned());
    assert_eq!(logins.first(), Some(&joe), "{}", ending.transcript);
}

/// Every line as an object.
fn events(transcript: &str) -> Vec<Value> {
    let lines = transcript.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn programs_are_told_what_happens_and_how_it_ended() {
    let ns = NetNs::new("service");
    let (directory, server) = (directory(), RunningServer::pushing(&ns, ",route-gateway 10.8.0.1"));
    let (program, heard) = (directory.path().join("hook"), directory.path().join("heard"));
    // It takes its time, fails, and hears of the end nevertheless.
    let script =
        format!("#!/bin/sh\ncat >>{}\necho \"$#\" >&2\nsleep 0.1\nexit 3\n", heard.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let text = profile(server.address.port(), "");
    let arguments = ["--dco", "off", "--on-event", program.to_str().unwrap()];
    let mut client = Client::start(&ns, directory.path(), &text, &arguments);
    client.wait(CONNECTED, SOON).unwrap();
    let ending = client.stop(Signal::SIGTERM);
    assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    let printed = events(&ending.transcript);
    assert!(printed.iter().all(|event| event["time"].as_f64() > Some(1.7e9)), "{printed:?}");
    let named = |event: &Value| event["name"] == "CONN_CONNECTED" && event["code_minor"] == 7;
    let at = printed.iter().position(named).unwrap();
    let connection = &printed[at + 1..]
        .iter()
        .find(|event| event["signal"] == "Connected")
        .unwrap()["connection"];
    assert_eq!(connection["data_path"]["name"], "userspace", "{connection}");
    assert_eq!(connection["gateways"].as_array().unwrap().len(), 1, "{connection}");
    let last = printed.last().unwrap();
    assert_eq!((&last["signal"], &last["exit_status"]), (&"Ended".into(), &0.into()));
    assert!(last["reason"].is_null(), "{last}");

    // The program has heard the same, but for the log.
    let heard = events(&fs::read_to_string(&heard).unwrap());
    let without_log: Vec<_> = printed
        .iter()
        .filter(|event| event["signal"] != "Log")
        .map(|event| &event["signal"])
        .collect();
    assert_eq!(heard.iter().map(|event| &event["signal"]).collect::<Vec<_>>(), without_log);
    assert!(ending.transcript.contains("exit status: 3"), "{}", ending.transcript);

    // What cannot be begun ends, too.
    for (text, arguments, status) in [
        ("client\nno-such-option\n", &[][..], 2),
        ("client\n", &["--no-such-option"], 2),
        (&text, &["--on-event", "/nowhere/hook"], 2),
    ] {
        let mut client = Client::start(&ns, directory.path(), text, arguments);
        let ending = client.finish(SOON);
        assert_eq!(ending.code, Some(status), "{}", ending.transcript);
        let printed = events(&ending.transcript);
        let last = printed.last().unwrap();
        assert_eq!((&last["signal"], &last["exit_status"]), (&"Ended".into(), &status.into()));
        assert!(last["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{last}");
    }
}

/// Under sudo a program is run with the rights of whoever called it.
#[test]
fn a_program_has_no_more_rights_than_whoever_asked_for_it() {
    let ns = NetNs::new("service");
    let directory = directory();
    let (program, heard) = (directory.path().join("hook"), directory.path().join("heard"));
    fs::write(&program, format!("#!/bin/sh\nid -u >>{}\n", heard.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&heard, "").unwrap();
    fs::set_permissions(&heard, fs::Permissions::from_mode(0o666)).unwrap();
    let (_socket, address) = silent(&ns);
    let text = profile(address.port(), "");
    let arguments = ["--dco", "off", "--on-event", program.to_str().unwrap()];
    for (environment, user) in [(&[("SUDO_UID", "65534")][..], "65534\n"), (&[], "0\n")] {
        let mut client = Client::start_in(environment, &ns, directory.path(), &text, &arguments);
        client.wait((2, 6), SOON).unwrap();
        client.stop(Signal::SIGTERM);
        let said = fs::read_to_string(&heard).unwrap();
        assert!(said.ends_with(user), "{said}");
    }
}

#[test]
fn the_passphrase_of_a_key_may_be_in_a_file() {
    let ns = NetNs::new("service");
    let (directory, server) = (directory(), RunningServer::start(&ns));
    let text = profile(server.address.port(), "");
    let (before, rest) = text.split_once("<key>").unwrap();
    let (key, after) = rest.split_once("</key>").unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("plain"), key.trim_start()).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["pkcs8", "-topk8", "-passout", "pass:phrase"]);
    let made = openssl.arg("-in").arg(path("plain")).arg("-out").arg(path("key")).status().unwrap();
    assert!(made.success());
    let text = format!("{before}key key\n{after}");
    let start = |passphrase: &str| {
        fs::write(path("passphrase"), passphrase).unwrap();
        let file = path("passphrase");
        let arguments = ["--dco", "off", "--askpass", file.to_str().unwrap()];
        Client::start(&ns, directory.path(), &text, &arguments)
    };
    let mut client = start("phrase\n");
    client.wait(CONNECTED, SOON).unwrap();
    client.stop(Signal::SIGTERM);
    let ending = start("another\n").finish(SOON);
    assert_eq!(ending.code, Some(3), "{}", ending.transcript);
    let ending = start("\n").finish(SOON);
    assert_eq!(ending.code, Some(2), "{}", ending.transcript);
    assert!(ending.transcript.contains("the passphrase is expected"), "{}", ending.transcript);
}

#[test]
fn standard_input_may_be_the_profile_or_the_login() {
    let ns = NetNs::new("service");
    let (directory, server) = (directory(), RunningServer::start(&ns));
    let text = profile(server.address.port(), "auth-user-pass");
    let file = directory.path().join("login");
    fs::write(&file, "joe\nsecret\n").unwrap();
    let with_input = |profile: &str, login: &str, input: &str| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(input.as_bytes()).unwrap();
        drop(writer);
        let command = ns.command(program());
        let arguments = ["--dco", "off", "--auth-user-pass", login];
        let (stdin, path) = (Stdio::from(reader), Path::new(profile));
        Client::spawn_with_file(command, stdin, directory.path(), path, &arguments)
    };
    let mut client = with_input("-", file.to_str().unwrap(), &text);
    client.wait(CONNECTED, SOON).unwrap();
    client.stop(Signal::SIGTERM);
    let path = directory.path().join("site.ovpn");
    fs::write(&path, &text).unwrap();
    let mut client = with_input(path.to_str().unwrap(), "-", "jim\nsecret\n");
    client.wait(CONNECTED, SOON).unwrap();
    client.stop(Signal::SIGTERM);
    let both = with_input("-", "-", &text).finish(SOON);
    assert_eq!(both.code, Some(2));
    assert!(both.transcript.contains("can be only one of"), "{}", both.transcript);
    let names: Vec<_> = server.end().into_iter().map(|(user, _)| user).collect();
    assert_eq!(names, ["joe", "jim"]);
}
