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
