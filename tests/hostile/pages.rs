//! Pages that a server wants to be opened, before anybody has said that it may.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::User;
use tempfile::TempDir;

use crate::client::AUTH_FAILED;
use crate::host::{Host, SERVER};
use crate::server::Scenario;

const LIMIT: Duration = Duration::from_secs(20);
/// A page is to be opened.
const PAGE: (u64, u64) = (3, 22);

/// A desktop with an `xdg-open` that notes who runs it, with what.
struct Desktop {
    directory: TempDir,
    path: String,
}

impl Desktop {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let noted = directory.path().join("noted");
        fs::write(&noted, "").unwrap();
        let program = directory.path().join("xdg-open");
        let note = "$(id -u) $(id -g) $(id -G), $HOME, $*";
        fs::write(&program, format!("#!/bin/sh\necho \"{note}\" >>{}\n", noted.display())).unwrap();
        for (path, mode) in [(directory.path(), 0o755), (&program, 0o755), (&noted, 0o666)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        Self { directory, path }
    }

    fn noted(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("noted")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// Root opens none, and nobody opens hundreds.
#[test]
fn a_page_is_opened_by_the_user_who_called_sudo_or_by_nobody() {
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let uid = nobody.uid.to_string();
    for sudo in ["0", &uid] {
        let host = Host::new();
        let desktop = Desktop::new();
        let scenario = Scenario::new("").without_push().keyed(|peer| {
            for n in 0..300 {
                peer.say(&format!("INFO_PRE,WEB_AUTH::https://sso.example/?a=1&n='{n}'"));
            }
        });
        let server = host.serve(SERVER, scenario);
        let mut run =
            host.start_in(&[("DISPLAY", ":99"), ("PATH", &desktop.path), ("SUDO_UID", sudo)]);
        assert_eq!(run.client.wait(PAGE, LIMIT).unwrap(), "https://sso.example/?a=1&n='0'");
        let begin = Instant::now();
        while sudo != "0" && desktop.noted().is_empty() {
            assert!(begin.elapsed() < LIMIT, "no page is opened");
            std::thread::sleep(Duration::from_millis(10));
        }
        run.client.wait(PAGE, LIMIT).unwrap();
        run.end(Signal::SIGTERM);
        let noted = desktop.noted();
        if sudo == "0" {
            assert_eq!(noted, [""; 0]);
        } else {
            let (gid, home) = (nobody.gid, nobody.dir.display());
            let expected = format!("{uid} {gid} {gid}, {home}, https://sso.example/?a=1&n='0'");
            assert_eq!(noted[0], expected);
            assert!(noted.len() < 10, "{noted:?}");
        }
        drop(server);
    }
}

/// Whatever else a desktop would make of it.
#[test]
fn what_is_no_address_of_the_web_is_not_opened() {
    let nobody = User::from_name("nobody").unwrap().unwrap().uid.to_string();
    for message in [
        "OPEN_URL:--version; file:///root/x.desktop",
        "WEB_AUTH::javascript:alert(1)",
        "OPEN_URL:smb://attacker.example/share",
        "OPEN_URL:https://bank.example@attacker.example/",
        "WEB_AUTH:hidden:https://a.example/\u{202e}moc",
    ] {
        let host = Host::new();
        let desktop = Desktop::new();
        let scenario = Scenario::new("").without_push();
        let server = host
            .serve(SERVER, scenario.keyed(move |peer| peer.say(&format!("INFO_PRE,{message}"))));
        let run =
            host.start_in(&[("DISPLAY", ":99"), ("PATH", &desktop.path), ("SUDO_UID", &nobody)]);
        let ending = run.ends(LIMIT);
        ending.assert_failure(3, AUTH_FAILED, &["decode authentication request"]);
        assert!(ending.statuses.iter().all(|(code, _)| *code != PAGE), "{}", ending.transcript);
        assert_eq!(desktop.noted(), [""; 0], "{message}");
        drop(server);
    }
}
