//! `ovpn-client connect` on a terminal: its questions, Ctrl-C, the live line. In a network
//! namespace, because it makes a tunnel there; the server is the simulated one behind a real socket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use ovpn_test_support::memory::{Memory, expect_none, key_pieces, text, wait_until};
use ovpn_test_support::netns::NetNs;
use ovpn_test_support::sim;
use ovpn_test_support::sim::running::{RunningServer, silent};

const LIMIT: Duration = Duration::from_secs(20);
const CTRL_C: &str = "\x03";
const USER: &str = "User name: ";
const PASSWORD: &str = "Password: ";

/// The program with a terminal of its own, and who sits in front of it.
struct Terminal {
    master: File,
    program: Child,
    screen: Receiver<Vec<u8>>,
    /// Not yet expected.
    unread: String,
    _directory: tempfile::TempDir,
}

impl Terminal {
    fn connect(namespace: &NetNs, server: SocketAddr, extra: &str) -> Self {
        Self::connect_as(namespace, server, &sim::real_tls::identity(), extra)
    }

    fn connect_as(namespace: &NetNs, server: SocketAddr, identity: &str, extra: &str) -> Self {
        Self::connect_with(namespace, server, identity, extra, None)
    }

    /// `login`: the text of a file with the login.
    fn connect_with(
        namespace: &NetNs,
        server: SocketAddr,
        identity: &str,
        extra: &str,
        login: Option<&str>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let profile = directory.path().join("test.ovpn");
        let text = format!(
            "client\ndev tun\nremote {} {} udp\nauth-user-pass\n{identity}{extra}\n",
            server.ip(),
            server.port(),
        );
        std::fs::write(&profile, text).unwrap();
        let pty = openpty(None, None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = namespace.command(env!("CARGO_BIN_EXE_ovpn-client"));
        command.args(["connect", "--dco", "off", "--runtime-dir"]).arg(directory.path());
        command.arg(&profile).stdin(slave()).stdout(slave()).stderr(slave());
        if let Some(login) = login {
            let path = directory.path().join("login");
            std::fs::write(&path, login).unwrap();
            command.arg("--auth-user-pass").arg(path);
        }
        let own_terminal = || {
            nix::unistd::setsid()?;
            // SAFETY: the terminal is the standard input by now; the request takes no pointer.
            nix::errno::Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: the closure makes two system calls, both async-signal-safe.
        unsafe { command.pre_exec(own_terminal) };
        let program = command.spawn().unwrap();
        let master = File::from(pty.master);
        let (sender, screen) = channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with an error when nobody has the other end open any more.
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                let _ = sender.send(buffer[..len].to_vec());
            }
        });
        Self { master, program, screen, unread: String::new(), _directory: directory }
    }

    fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for `text` and returns what was shown before it.
    fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some((before, after)) = self.unread.split_once(text) {
                let before = before.to_owned();
                self.unread = after.to_owned();
                return before;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(shown) => self.unread += &String::from_utf8(shown).unwrap(),
                Err(_) => panic!("no {text:?} in {:?}", self.unread),
            }
        }
    }

    /// Waits until the terminal shows what is typed, or does not.
    fn expect_echo(&self, wanted: bool) {
        let end = Instant::now() + LIMIT;
        let echo = || tcgetattr(&self.master).unwrap().local_flags.contains(LocalFlags::ECHO);
        while echo() != wanted {
            assert!(Instant::now() < end, "echo is {}", echo());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn answer(&mut self, user: &str, password: &str) {
        self.type_login(user, password);
        self.expect_echo(true);
    }

    fn type_login(&mut self, user: &str, password: &str) {
        self.expect(USER);
        self.type_text(&format!("{user}\n"));
        let shown = self.expect(PASSWORD);
        assert_eq!(shown.trim_end(), user, "what is typed is shown");
        self.expect_echo(false);
        self.type_text(&format!("{password}\n"));
    }

    fn interrupt(&mut self) {
        self.type_text(CTRL_C);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.program.id().cast_signed()), signal).unwrap();
    }

    /// Waits for the end and returns its status and what was still shown.
    fn end(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.program.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "does not end; {:?}", self.unread);
            std::thread::sleep(Duration::from_millis(10));
        };
        self.expect_echo(true);
        let mut shown = std::mem::take(&mut self.unread);
        while let Ok(more) = self.screen.recv_timeout(Duration::from_millis(200)) {
            shown += &String::from_utf8(more).unwrap();
        }
        (status, shown)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn the_user_name_is_shown_and_the_password_is_not() {
    let namespace = NetNs::new("term");
    let (_socket, server) = silent(&namespace);
    let mut terminal = Terminal::connect(&namespace, server, "");
    terminal.answer("joe", "hunter2");
    let shown = terminal.expect("Starting connection");
    assert!(!shown.contains("hunter2"), "{shown}");
    terminal.interrupt();
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn ctrl_c_ends_a_question() {
    let namespace = NetNs::new("term");
    let (_socket, server) = silent(&namespace);
    for at_the_password in [false, true] {
        let mut terminal = Terminal::connect(&namespace, server, "");
        terminal.expect(USER);
        if at_the_password {
            terminal.type_text("joe\n");
            terminal.expect(PASSWORD);
            terminal.expect_echo(false);
        }
        terminal.interrupt();
        let (status, shown) = terminal.end();
        assert_eq!(status.code(), Some(0), "{shown}");
        assert!(!shown.contains("no answer"), "{shown}");
    }
}

#[test]
fn the_live_line_shows_rates() {
    let namespace = NetNs::new("term");
    let server = RunningServer::start(&namespace);
    let mut terminal = Terminal::connect(&namespace, server.address, "");
    terminal.answer("joe", "secret");
    terminal.expect("Connected: joe@127.0.0.1");
    let traffic = namespace.run(|| UdpSocket::bind("10.8.0.6:0").unwrap());
    let end = Instant::now() + LIMIT;
    // Rates are those since the line before.
    loop {
        for _ in 0..20 {
            traffic.send_to(&[0; 1000], "10.8.0.1:9").unwrap();
        }
        terminal.expect("\r\x1b[2K");
        let line = terminal.expect("  up ");
        let (device, rest) = line.split_once("  ").unwrap();
        let (time, _) = rest.split_once("  down ").unwrap();
        assert!(device.starts_with("tun") && time.starts_with("00:00:"), "{line}");
        let up = terminal.expect(")");
        let (rate, total) = up.split_once(" (").unwrap();
        if rate.ends_with(" kbit/s") && total.ends_with(" kB") {
            break;
        }
        assert!(Instant::now() < end, "{line}  up {up}");
    }
    terminal.interrupt();
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0), "{shown}");
    assert_eq!(server.end(), [("joe".to_owned(), "secret".to_owned())]);
}

/// `auth-nocache`: the tunnel works on while the question stands.
#[test]
fn a_renegotiation_asks_again() {
    let namespace = NetNs::new("term");
    let server = RunningServer::start(&namespace);
    let mut terminal = Terminal::connect(&namespace, server.address, "auth-nocache");
    terminal.answer("joe", "first");
    terminal.expect("Connected: joe@127.0.0.1");
    server.renegotiate();
    terminal.answer("joe", "second");
    terminal.expect("TLS for key 1");
    terminal.interrupt();
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0), "{shown}");
    let sent = [("joe", "first"), ("joe", "second")].map(|(u, p)| (u.to_owned(), p.to_owned()));
    assert_eq!(server.end(), sent);
}

/// SIGUSR2 is answered at once, also while the user is asked something.
#[test]
fn counters_are_shown_above_a_question() {
    let namespace = NetNs::new("term");
    let server = RunningServer::start(&namespace);
    let mut terminal = Terminal::connect(&namespace, server.address, "auth-nocache");
    terminal.expect(USER);
    terminal.signal(Signal::SIGUSR2);
    terminal.expect("Nothing has been counted yet");
    terminal.answer("joe", "first");
    terminal.expect("Connected: joe@127.0.0.1");
    server.renegotiate();
    terminal.expect(USER);
    terminal.type_text("joe\n");
    terminal.expect(PASSWORD);
    terminal.expect_echo(false);
    terminal.signal(Signal::SIGUSR2);
    terminal.expect("BYTES_IN");
    terminal.expect(PASSWORD);
    terminal.type_text("second\n");
    terminal.expect("TLS for key 1");
    terminal.interrupt();
    assert_eq!(terminal.end().0.code(), Some(0));
    let sent = [("joe", "first"), ("joe", "second")].map(|(u, p)| (u.to_owned(), p.to_owned()));
    assert_eq!(server.end(), sent);
}

/// SIGUSR1 does not wait for an answer either. What is still to be answered is asked anew.
#[test]
fn a_restart_takes_a_question_back() {
    let namespace = NetNs::new("term");
    let server = RunningServer::start(&namespace);
    let mut terminal = Terminal::connect(&namespace, server.address, "auth-nocache");
    terminal.expect(USER);
    // There is nothing to restart yet.
    terminal.signal(Signal::SIGUSR1);
    terminal.expect("Restart: ");
    terminal.answer("joe", "first");
    terminal.expect("Connected: joe@127.0.0.1");
    server.renegotiate();
    terminal.expect(USER);
    terminal.type_text("joe\n");
    terminal.expect(PASSWORD);
    terminal.expect_echo(false);
    terminal.signal(Signal::SIGUSR1);
    terminal.expect("Restarting connection");
    // The password is forgotten, so a new connection asks as well, from the start.
    terminal.answer("joe", "second");
    terminal.expect("Connected: joe@127.0.0.1");
    terminal.interrupt();
    assert_eq!(terminal.end().0.code(), Some(0));
    let sent = [("joe", "first"), ("joe", "second")].map(|(u, p)| (u.to_owned(), p.to_owned()));
    assert_eq!(server.end(), sent);
}

/// What was typed, what the profile holds, and the data keys of a key exchange that is over.
#[test]
fn with_auth_nocache_no_secret_stays_in_memory() {
    let identity = sim::real_tls::identity();
    let (key, encrypted) = sim::real_tls::encrypted_identity("Sesame-Open-77");
    for (identity, passphrase) in [(&identity, None), (&encrypted, Some("Sesame-Open-77"))] {
        let namespace = NetNs::new("term");
        let server = RunningServer::start(&namespace);
        let extra = "auth-nocache\ntran-window 2";
        let mut terminal = Terminal::connect_as(&namespace, server.address, identity, extra);
        let mut secrets = key_pieces(&key);
        terminal.type_login("joe-the-user", "First-Secret-31");
        secrets.push(text("first password", "First-Secret-31"));
        if let Some(passphrase) = passphrase {
            terminal.expect("Private key passphrase: ");
            terminal.expect_echo(false);
            terminal.type_text(&format!("{passphrase}\n"));
            secrets.push(text("passphrase", passphrase));
        }
        terminal.expect("Connected: joe-the-user@127.0.0.1");
        expect_none(terminal.program.id(), "joe-the-user", &secrets);

        let keys = |number: usize| {
            let [one, other] = &server.keys()[number];
            [
                (format!("data key {number}"), one.clone()),
                (format!("data key {number} back"), other.clone()),
            ]
        };
        secrets.extend(keys(0));
        server.renegotiate();
        terminal.answer("joe-the-user", "Second-Secret-59");
        secrets.push(text("second password", "Second-Secret-59"));
        terminal.expect("TLS for key 1");
        // What is in use can be seen.
        wait_until(|| {
            let memory = Memory::of(terminal.program.id());
            let missing = keys(1).into_iter().filter(|(_, key)| memory.find(key).is_empty());
            missing.map(|(name, _)| name).collect()
        });
        expect_none(terminal.program.id(), "joe-the-user", &secrets);
        terminal.interrupt();
        assert_eq!(terminal.end().0.code(), Some(0));
    }
}

/// A file with the login is read for each login anew, and none of it is kept while connected.
#[test]
fn with_auth_nocache_a_login_from_a_file_stays_in_the_file() {
    let identity = sim::real_tls::identity();
    let namespace = NetNs::new("term");
    let server = RunningServer::start(&namespace);
    let login = "joe-the-user\nFiled-Secret-43\n";
    let extra = "auth-nocache\ntran-window 2";
    let mut terminal =
        Terminal::connect_with(&namespace, server.address, &identity, extra, Some(login));
    let secrets = [text("password", "Filed-Secret-43")];
    terminal.expect("Connected: joe-the-user@127.0.0.1");
    expect_none(terminal.program.id(), "joe-the-user", &secrets);
    server.renegotiate();
    terminal.expect("TLS for key 1");
    expect_none(terminal.program.id(), "joe-the-user", &secrets);
    terminal.interrupt();
    assert_eq!(terminal.end().0.code(), Some(0));
    assert_eq!(server.end().len(), 2, "it was given twice");
}

/// A password that is not kept, or the answer to a challenge, which is good for one login: once the
/// token has expired, only the user can help.
#[test]
fn what_an_expired_token_stood_for_is_asked_for_again() {
    const CODE: &str = "Your PIN: ";
    for (extra, code) in [("auth-nocache", false), ("static-challenge \"Your PIN\" 1", true)] {
        let namespace = NetNs::new("term");
        let server = RunningServer::pushing(&namespace, ",auth-token SESS_ID_1");
        let mut terminal = Terminal::connect(&namespace, server.address, extra);
        let log_in = |terminal: &mut Terminal, password: &str, answer: &str| {
            terminal.type_login("joe", password);
            if code {
                terminal.expect(CODE);
                terminal.type_text(&format!("{answer}\n"));
            }
            terminal.expect("Connected: joe@127.0.0.1");
        };
        log_in(&mut terminal, "first", "11");
        server.renegotiate();
        terminal.expect("TLS for key 1");
        server.say("AUTH_FAILED,SESSION: token expired");
        terminal.expect("takes the session token no longer");
        log_in(&mut terminal, "second", "22");
        terminal.interrupt();
        let (status, shown) = terminal.end();
        assert_eq!(status.code(), Some(0), "{shown}");
        // "first" and "11", "second" and "22"
        let expected = if code {
            ["SCRV1:Zmlyc3Q=:MTE=", "SESS_ID_1", "SCRV1:c2Vjb25k:MjI="]
        } else {
            ["first", "SESS_ID_1", "second"]
        };
        assert_eq!(server.end(), expected.map(|sent| ("joe".to_owned(), sent.to_owned())));
    }
}

/// A server that gives no token: the answer to a challenge is not sent for a second key.
#[test]
fn a_challenge_is_answered_anew_for_each_key() {
    const CODE: &str = "Your PIN: ";
    let namespace = NetNs::new("term");
    let server = RunningServer::start(&namespace);
    let challenge = "static-challenge \"Your PIN\" 1 concat";
    let mut terminal = Terminal::connect(&namespace, server.address, challenge);
    for (answer, done) in [("11", "Connected: joe@127.0.0.1"), ("22", "TLS for key 1")] {
        terminal.type_login("joe", "word");
        terminal.expect(CODE);
        terminal.type_text(&format!("{answer}\n"));
        terminal.expect(done);
        if answer == "11" {
            server.renegotiate();
        }
    }
    terminal.interrupt();
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0), "{shown}");
    assert_eq!(server.end(), ["word11", "word22"].map(|sent| ("joe".to_owned(), sent.to_owned())));
}

/// The token outlives a restart of the server where it is all that there is. OpenVPN issue #1099.
#[test]
fn a_restart_asks_nobody_while_there_is_a_token() {
    let namespace = NetNs::new("term");
    let server = RunningServer::pushing(&namespace, ",auth-token SESS_ID_1");
    let mut terminal = Terminal::connect(&namespace, server.address, "auth-nocache");
    terminal.answer("joe", "first");
    terminal.expect("Connected: joe@127.0.0.1");
    server.say("RESTART");
    terminal.expect("Connected: joe@127.0.0.1");
    terminal.interrupt();
    assert_eq!(terminal.end().0.code(), Some(0));
    let sent = [("joe", "first"), ("joe", "SESS_ID_1")];
    assert_eq!(server.end(), sent.map(|(u, p)| (u.to_owned(), p.to_owned())));
}
