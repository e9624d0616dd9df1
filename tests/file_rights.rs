//! Whose files `sudo ovpn-client` reads: the caller's, although root gives up the right to them, and
//! not root's, whatever a profile names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

/// A certificate to trust.
fn authority() -> String {
    rcgen::generate_simple_self_signed(["vpn.test".to_owned()]).unwrap().cert.pem()
}

fn write(path: &Path, text: &str, owner: u32, mode: u32) {
    fs::write(path, text).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A second user, with a home that nobody else may enter.
struct Home {
    directory: tempfile::TempDir,
    user: u32,
}

impl Home {
    fn new() -> Self {
        let user = User::from_name("nobody").unwrap().unwrap().uid.as_raw();
        let directory = tempfile::tempdir().unwrap();
        chown(directory.path(), Some(user), Some(user)).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        Self { directory, user }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        write(&path, text, self.user, 0o600);
        path
    }

    /// `ovpn-client` as that user's sudo starts it.
    fn sudo(&self, arguments: &[&str], profile: &Path) -> Command {
        let mut command = program(arguments, profile);
        let user = self.user.to_string();
        command.env("SUDO_UID", &user).env("SUDO_GID", &user).env("SUDO_USER", "nobody");
        command
    }
}

fn program(arguments: &[&str], profile: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovpn-client"));
    command.args(arguments).arg(profile).stdin(Stdio::null());
    for variable in ["SUDO_UID", "SUDO_GID", "PKEXEC_UID", "DOAS_USER"] {
        command.env_remove(variable);
    }
    command
}

/// Everything it says.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// Runs `connect` until the server, which never answers, hears of it, and ends it.
fn connects(server: &UdpSocket, mut command: Command) {
    let runtime = tempfile::tempdir().unwrap();
    command.args(["--output", "json", "--dco", "off", "--runtime-dir"]).arg(runtime.path());
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let heard = server.recv(&mut [0; 2048]);
    // A process that has ended already says why.
    let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM);
    let output = process.wait_with_output().unwrap();
    // What it had sent meanwhile is not the next one's.
    server.set_nonblocking(true).unwrap();
    while server.recv(&mut [0; 2048]).is_ok() {}
    server.set_nonblocking(false).unwrap();
    assert!(heard.is_ok() && output.status.success(), "{}: {}", output.status, said(&output));
}

fn silent_server() -> (UdpSocket, u16) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

#[test]
fn the_callers_own_files_are_read_before_the_right_to_them_goes() {
    let (server, port) = silent_server();
    let home = Home::new();
    home.file("ca.crt", &authority());
    home.file("login.txt", "joe\nsecret\n");
    let text = format!("client\ndev tun\nremote 127.0.0.1 {port} udp\nca ca.crt\n");
    let whole = home.file("whole.ovpn", &format!("{text}auth-user-pass login.txt\n"));
    let short = home.file("short.ovpn", &format!("{text}auth-user-pass\n"));
    let login = home.directory.path().join("login.txt");
    let login = ["connect", "--auth-user-pass", login.to_str().unwrap()];
    connects(&server, home.sudo(&["connect"], &whole));
    connects(&server, home.sudo(&login, &short));
    // Root without sudo.
    connects(&server, program(&["connect"], &whole));
    connects(&server, program(&login, &short));
}

const DIRECTIVES: [&str; 13] = [
    "askpass",
    "auth-user-pass",
    "ca",
    "cert",
    "crl-verify",
    "extra-certs",
    "http-proxy 127.0.0.1 3128",
    "http-proxy-user-pass",
    "key",
    "pkcs12",
    "tls-auth",
    "tls-crypt",
    "tls-crypt-v2",
];

#[test]
fn a_profile_does_not_get_at_roots_files() {
    let home = Home::new();
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), Permissions::from_mode(0o755)).unwrap();
    let secret = outside.path().join("shadow");
    write(&secret, "root-hash\nmore\n", 0, 0o600);
    symlink(&secret, home.directory.path().join("innocent.txt")).unwrap();
    let names = [secret.to_str().unwrap(), "innocent.txt"];
    for (directive, name) in DIRECTIVES.iter().flat_map(|d| names.map(|name| (d, name))) {
        let text = format!("client\nremote 127.0.0.1\n{directive} {name}\n");
        let profile = home.file("x.ovpn", &text);
        for command in ["check", "connect"] {
            let output = home.sudo(&[command], &profile).output().unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {text}: {said}");
            assert!(said.contains("nobody, who had root run"), "{command} {text}: {said}");
            assert!(!said.contains("root-hash"), "{said}");
        }
    }
    // Nor does the command line.
    let profile = home.file("x.ovpn", "client\nremote 127.0.0.1\n");
    for (arguments, profile) in [
        (vec!["connect", "--auth-user-pass", names[0]], &profile),
        (vec!["connect"], &secret),
        (vec!["check"], &secret),
    ] {
        let output = home.sudo(&arguments, profile).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = said(&output);
        assert!(said.contains("nobody, who had root run"), "{said}");
        assert!(!said.contains("root-hash"), "{said}");
    }
}

/// What the administrator has put up, with keys that only root reads.
#[test]
fn roots_own_profile_has_its_keys_beside_it_and_no_others() {
    let (server, port) = silent_server();
    let home = Home::new();
    let place = tempfile::tempdir_in("/run").unwrap();
    let (own, other) = (place.path().join("vpn"), place.path().join("other.txt"));
    fs::create_dir(&own).unwrap();
    let profile = own.join("site.ovpn");
    write(&own.join("login.txt"), "joe\nsecret\n", 0, 0o600);
    write(&own.join("ca.crt"), &authority(), 0, 0o600);
    write(&other, "joe\nsecret\n", 0, 0o600);
    let text = |login: &str| {
        format!("client\ndev tun\nremote 127.0.0.1 {port} udp\nca ca.crt\nauth-user-pass {login}\n")
    };
    write(&profile, &text("login.txt"), 0, 0o600);
    connects(&server, home.sudo(&["connect"], &profile));
    symlink(&other, own.join("link.txt")).unwrap();
    for login in ["../other.txt", "link.txt", other.to_str().unwrap()] {
        write(&profile, &text(login), 0, 0o600);
        let output = home.sudo(&["check"], &profile).output().unwrap();
        assert!(said(&output).contains("nobody, who had root run"), "{}", said(&output));
    }
    // Somebody else could have written it.
    for (owner, mode) in [(0, 0o664), (home.user, 0o600)] {
        write(&profile, &text("login.txt"), owner, mode);
        let output = home.sudo(&["check"], &profile).output().unwrap();
        assert!(said(&output).contains("nobody, who had root run"), "{}", said(&output));
    }
}

#[test]
fn check_shows_every_file() {
    let home = Home::new();
    let place = home.directory.path().canonicalize().unwrap();
    home.file("ca.crt", &authority());
    symlink("/etc/hostname", place.join("login.txt")).unwrap();
    let text = "client\nremote a\nca ca.crt\nauth-user-pass login.txt\ntls-crypt ../gone.key\n";
    let profile = home.file("x.ovpn", text);
    let shown = said(&home.sudo(&["check"], &profile).output().unwrap());
    let (_, files) = shown.split_once("\nFiles read\n").unwrap();
    let gone = place.parent().unwrap().join("gone.key");
    let wanted = [
        ("3  ca", place.join("ca.crt")),
        ("4  auth-user-pass", fs::canonicalize("/etc/hostname").unwrap()),
        ("5  tls-crypt", place.join("../gone.key")),
    ];
    assert!(!gone.exists());
    for (line, (start, path)) in files.lines().zip(&wanted) {
        assert!(line.trim().starts_with(start), "{shown}");
        assert!(line.ends_with(&format!(" {}", path.display())), "{shown}");
    }
    let json = home.sudo(&["check", "--output", "json"], &profile).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["files"].as_array().unwrap().len(), wanted.len());
    assert_eq!(json["files"][1]["directive"], "auth-user-pass");
    assert_eq!(json["files"][1]["path"], "/etc/hostname");
}
