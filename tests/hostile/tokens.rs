//! Tokens that a server pushes in unusual ways.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::RECONNECTING;
use crate::host::{Host, SERVER};
use crate::server::Scenario;

const LOGIN: &str = "<auth-user-pass>\nada\nright one\n</auth-user-pass>\n";
const TOKEN: &str = "SESS_ID_AT_TOKENTOKEN";

/// Each spelling means the option `auth-token`, to a filter as well as to the log.
const SPELLINGS: [&str; 5] =
    ["auth-token ", "\"auth-token\" ", "'auth-token'  ", "auth\\-token ", "  auth-token  "];

/// `pull-filter ignore "auth-token"` holds for every push reply, however late.
#[test]
fn a_token_that_is_filtered_out_is_never_used() {
    for spelling in SPELLINGS.map(str::trim) {
        let host = Host::new();
        let late = format!("PUSH_REPLY,{spelling} {TOKEN}");
        let scenario = Scenario::new("").tick(move |peer| {
            if peer.once("token", Duration::from_millis(300)) {
                peer.say(&late);
            }
            if peer.once("exit", Duration::from_millis(600)) {
                peer.say("EXIT");
            }
        });
        let filter = format!("{LOGIN}pull-filter ignore \"auth-token\"\n");
        let (server, mut run) = host.connected(scenario, &filter);
        run.client.wait(RECONNECTING, Duration::from_secs(10)).unwrap();
        run.connected();
        run.end(Signal::SIGTERM);
        let passwords: Vec<_> = server.logins().into_iter().map(|login| login.password).collect();
        assert!(passwords.len() >= 2, "{passwords:?}");
        assert!(passwords.iter().all(|password| password == "right one"), "{passwords:?}");
    }
}

/// The token stands in no line at the highest verbosity, and is used.
#[test]
fn a_token_is_not_logged() {
    for spelling in SPELLINGS {
        let host = Host::new();
        let scenario = Scenario::new(&format!("{spelling}{TOKEN},")).tick(|peer| {
            if peer.once("restart", Duration::from_millis(300)) {
                peer.say("RESTART,[P]");
            }
        });
        let server = host.serve(SERVER, scenario);
        let mut run = host.start_with(&host.profile(LOGIN), &["--verb", "6"]);
        run.connected();
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.logins().len() < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let ending = run.end(Signal::SIGTERM);
        let logged: Vec<_> = ending.transcript.lines().filter(|l| l.contains(TOKEN)).collect();
        assert!(logged.is_empty(), "{spelling}: {logged:?}");
        let last = server.logins().pop().map(|login| login.password);
        assert_eq!(last.as_deref(), Some(TOKEN), "{spelling}");
    }
}

/// Nobody has typed anything, and the server gives a token all the same (a login by web page): it is
/// what the next key, and the next connection, are negotiated with. OpenVPN issue #296.
#[test]
fn a_token_for_a_session_by_certificate_alone() {
    // "ada"
    for (user, expected) in [("auth-token-user YWRh,", "ada"), ("", "")] {
        let host = Host::new();
        let push = format!("auth-token {TOKEN},{user}");
        let scenario = Scenario::new(&push).tick(|peer| {
            if peer.once("renegotiate", Duration::from_millis(300)) {
                peer.server.renegotiate(Instant::now());
            }
            if peer.once("restart", Duration::from_millis(900)) {
                peer.say("RESTART,[P]");
            }
        });
        let (server, mut run) = host.connected(scenario, "");
        run.client.wait(RECONNECTING, Duration::from_secs(10)).unwrap();
        run.connected();
        run.end(Signal::SIGTERM);
        let logins: Vec<_> = server
            .logins()
            .into_iter()
            .take(3)
            .map(|login| (login.username, login.password))
            .collect();
        let token = (expected.to_owned(), TOKEN.to_owned());
        assert_eq!(logins, [<(String, String)>::default(), token.clone(), token]);
    }
}

/// The server has passwords forgotten: the next key asks for it, and it is read again.
#[test]
fn a_pushed_auth_nocache_forgets_the_password() {
    let host = Host::new();
    let scenario = Scenario::new("auth-nocache,").tick(|peer| {
        if peer.once("renegotiate", Duration::from_millis(300)) {
            peer.server.renegotiate(Instant::now());
        }
    });
    let server = host.serve(SERVER, scenario);
    let login = host.directory().join("login.txt");
    std::fs::write(&login, "ada\nright one\n").unwrap();
    let login = login.to_str().unwrap();
    let mut run = host
        .start_with(&host.profile("auth-user-pass\n"), &["--verb", "5", "--auth-user-pass", login]);
    run.connected();
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.logins().len() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ending = run.end(Signal::SIGTERM);
    let passwords: Vec<_> = server.logins().into_iter().map(|login| login.password).collect();
    assert_eq!(passwords, ["right one", "right one"]);
    assert!(ending.transcript.contains("needs user name and password again"), "{ending:?}");
}
