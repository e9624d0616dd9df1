//! `ovpn-client connect` as a user starts it: its process, and what it says as JSON.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::netns::NetNs;

/// (major, minor) of a StatusChange, numbered as on D-Bus.
pub type Status = (u64, u64);

/// The tunnel is up.
pub const CONNECTED: Status = (2, 7);
/// Ended as asked.
pub const DISCONNECTED: Status = (2, 9);
/// The connection failed.
pub const FAILED: Status = (2, 10);
/// The server refused the login.
pub const AUTH_FAILED: Status = (2, 11);
/// The connection is made again.
pub const RECONNECTING: Status = (2, 12);

/// A running client. Killed on drop.
pub struct Client {
    process: Child,
    lines: Receiver<String>,
    errors: Option<std::thread::JoinHandle<String>>,
    /// Every line so far, for messages.
    transcript: Vec<String>,
    /// Every StatusChange so far.
    pub statuses: Vec<(Status, String)>,
}

/// How a client ended.
#[derive(Debug)]
pub struct Ending {
    /// Its exit status; `None`: a signal ended it.
    pub code: Option<i32>,
    /// Every StatusChange, oldest first.
    pub statuses: Vec<(Status, String)>,
    /// Everything it printed, for messages.
    pub transcript: String,
    /// From the signal to the end.
    pub took: Duration,
}

impl Ending {
    /// The message of the last status with this code.
    pub fn message(&self, status: Status) -> &str {
        let found = self.statuses.iter().rev().find(|(code, _)| *code == status);
        found.map_or_else(
            || panic!("no StatusChange {status:?}:\n{}", self.transcript),
            |(_, message)| message,
        )
    }

    /// Ended with this exit code, this status, and a message that has one of the words.
    pub fn assert_failure(&self, code: i32, status: Status, words: &[&str]) {
        assert_eq!(self.code, Some(code), "exit code:\n{}", self.transcript);
        let message = self.message(status).to_lowercase();
        assert!(
            words.iter().any(|word| message.contains(&word.to_lowercase())),
            "message {message:?} names none of {words:?}:\n{}",
            self.transcript
        );
    }
}

impl Client {
    /// Starts `ovpn-client connect` in `ns` with a profile of this text.
    pub fn start(ns: &NetNs, directory: &Path, profile: &str, arguments: &[&str]) -> Self {
        Self::start_in(&[], ns, directory, profile, arguments)
    }

    /// The same with these environment variables.
    pub fn start_in(
        environment: &[(&str, &str)],
        ns: &NetNs,
        directory: &Path,
        profile: &str,
        arguments: &[&str],
    ) -> Self {
        let mut command = ns.command(program());
        command.envs(environment.iter().copied());
        Self::spawn(command, Stdio::null(), directory, profile, arguments)
    }

    /// The same where `/dev/net/tun` is missing.
    pub fn start_without_tun(
        ns: &NetNs,
        directory: &Path,
        profile: &str,
        arguments: &[&str],
    ) -> Self {
        let mut command = ns.command("unshare");
        let hide = "mount -t tmpfs none /dev/net && exec \"$@\"";
        command.args(["--mount", "sh", "-c", hide, "sh"]).arg(program());
        Self::spawn(command, Stdio::null(), directory, profile, arguments)
    }

    /// The same where `/etc/resolv.conf` is this file.
    pub fn start_with_resolv_conf(
        ns: &NetNs,
        directory: &Path,
        profile: &str,
        resolv_conf: &str,
        arguments: &[&str],
    ) -> Self {
        let mut command = ns.command("unshare");
        let replace = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--mount", "sh", "-c", replace, resolv_conf]).arg(program());
        Self::spawn(command, Stdio::null(), directory, profile, arguments)
    }

    /// The same by this command, which ends with the program's name, and with this standard input.
    pub fn spawn(
        command: Command,
        stdin: Stdio,
        directory: &Path,
        profile: &str,
        arguments: &[&str],
    ) -> Self {
        let path = directory.join("client.ovpn");
        std::fs::write(&path, profile).expect("profile");
        Self::spawn_with_file(command, stdin, directory, &path, arguments)
    }

    /// The same with a profile that is there.
    pub fn spawn_with_file(
        mut command: Command,
        stdin: Stdio,
        directory: &Path,
        profile: &Path,
        arguments: &[&str],
    ) -> Self {
        let default = (!arguments.contains(&"--dco")).then(|| ["--dco", dco()]);
        let mut process = command
            .arg("connect")
            .arg(profile)
            .args(["--output", "json"])
            .args(default.iter().flatten())
            .args(arguments)
            .arg("--runtime-dir")
            .arg(runtime_directory(directory))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start ovpn-client");
        let (sender, lines) = channel();
        let output = process.stdout.take().expect("its output");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens any more once the test is over.
                let _ = sender.send(line);
            }
        });
        let mut output = process.stderr.take().expect("its error output");
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = output.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { process, lines, errors: Some(errors), transcript: Vec::new(), statuses: Vec::new() }
    }

    /// Takes one line of output within the limit. False: none came, or the output has ended.
    fn step(&mut self, deadline: Instant) -> Result<(), RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(left)?;
        let value: Value = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {line}\n{}", self.transcript()));
        if value["signal"] == "StatusChange" {
            let code = |name: &str| value[name].as_u64().expect("a number");
            let message = value["message"].as_str().expect("a text").to_owned();
            self.statuses.push(((code("code_major"), code("code_minor")), message));
        }
        self.transcript.push(line);
        Ok(())
    }

    /// Takes what it says until then.
    pub fn listen(&mut self, duration: Duration) {
        let deadline = Instant::now() + duration;
        while self.step(deadline).is_ok() {}
    }

    /// Waits until it has said `number` lines that contain `text`.
    pub fn wait_lines(&mut self, text: &str, number: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.count(text) < number {
            if let Err(error) = self.step(deadline) {
                panic!("no {text} ({error}):\n{}", self.transcript());
            }
        }
    }

    /// All that it has said so far.
    pub fn transcript(&self) -> String {
        self.transcript.join("\n")
    }

    /// How many lines so far contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.transcript.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for the next StatusChange with this code and gives its message.
    pub fn wait(&mut self, status: Status, limit: Duration) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        let mut seen = self.statuses.len();
        loop {
            match self.step(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no {status:?} in {limit:?}:\n{}", self.transcript()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.finish(Duration::from_secs(1));
                    return Err(format!("no {status:?} before its end: {ended:?}"));
                }
            }
            if self.statuses.len() > seen {
                seen = self.statuses.len();
                let (code, message) = &self.statuses[seen - 1];
                if *code == status {
                    return Ok(message.clone());
                }
            }
        }
    }

    /// Has it print its counters.
    pub fn statistics(&mut self) -> Value {
        self.signal(Signal::SIGUSR2);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            self.step(deadline)
                .unwrap_or_else(|e| panic!("no counters: {e}\n{}", self.transcript()));
            let line = self.transcript.last().expect("a line");
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            if line["signal"] == "Statistics" {
                return line["counters"].take();
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).expect("signal the client");
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: Signal) -> Ending {
        self.signal(signal);
        self.finish(Duration::from_secs(10))
    }

    /// Waits for the end.
    pub fn finish(&mut self, limit: Duration) -> Ending {
        let start = Instant::now();
        let deadline = start + limit;
        while self.step(deadline).is_ok() {}
        let code = loop {
            if let Some(status) = self.process.try_wait().expect("wait for the client") {
                break status.code();
            }
            assert!(
                Instant::now() < deadline,
                "the client has not ended in {limit:?}:\n{}",
                self.transcript()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = start.elapsed();
        if let Some(errors) = self.errors.take() {
            self.transcript.push(format!("stderr: {}", errors.join().expect("its errors")));
        }
        Ending { code, statuses: self.statuses.clone(), transcript: self.transcript(), took }
    }
}

/// The program under test: where cargo puts it for the tests of its package, unless
/// `OVPN_TEST_CLIENT` says something else. In a guest it does.
pub fn program() -> PathBuf {
    if let Some(other) = std::env::var_os("OVPN_TEST_CLIENT") {
        return other.into();
    }
    let test = std::env::current_exe().expect("this program's path");
    let program = test.ancestors().nth(2).expect("target directory").join("ovpn-client");
    let missing = program.display();
    assert!(program.exists(), "{missing} is missing: build it, or name it in OVPN_TEST_CLIENT");
    program
}

/// `off` here, where the data path is under test; `ci/vm/run` has the same tests run with `on`.
pub fn dco() -> &'static str {
    if std::env::var_os("OVPN_TEST_DCO").is_some() { "on" } else { "off" }
}

/// Where this client keeps its undo journal: apart from other tests, the same after a kill.
fn runtime_directory(directory: &Path) -> PathBuf {
    let path = directory.join("run");
    std::fs::create_dir_all(&path).expect("runtime directory");
    path
}

impl Drop for Client {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
