//! A server that talks without end: memory and processor time stay bounded, and commands go on.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::host::{Host, SERVER, Usage};
use crate::server::{Peer, Scenario};

/// How long each flood is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// How much more memory a client may take than one that is left in peace, in KiB.
const MEMORY: u64 = 12 * 1024;
/// Text that waits at the server, at most.
const BACKLOG: usize = 64 * 1024;

/// As many messages as the client takes.
fn flood(text: &'static str) -> impl FnMut(&mut Peer) + Send {
    move |peer| {
        while peer.is_keyed() && peer.server.backlog() < BACKLOG {
            peer.say(text);
        }
    }
}

/// What has become of a client that had `before` while it was left in peace.
fn assert_bounded(what: &str, before: Usage, after: Usage) {
    let (grown, worked) = (after.peak - before.peak, after.time - before.time);
    assert!(grown < MEMORY, "{what}: {grown} KiB more");
    assert!(worked < WATCHED / 3, "{what}: {worked:?} of processors in {WATCHED:?}");
}

/// Texts, messages that mean nothing, addresses to open, and what is of no use by now.
const TEXTS: [&str; 8] = [
    "INFO,x",
    "INFO_PRE,CR_TEXT:E:Nothing to answer",
    "INFO_PRE,OPEN_URL:https://x.example/",
    "nothing that a client knows",
    "control\u{1}character",
    "AUTH_PENDING,timeout 60",
    "ACC,x,1,A,x",
    "PUSH_REPLY,route 10.0.0.0 255.0.0.0,auth-token x",
];

#[test]
fn texts_without_end() {
    let long: &'static str = Box::leak(format!("INFO,{}", "x".repeat(16_000)).into_boxed_str());
    for text in TEXTS.into_iter().chain([long]) {
        let host = Host::new();
        let shown = text.get(..40).unwrap_or(text);
        let mut flood = flood(text);
        let scenario = Scenario::new("route 10.77.0.0 255.255.0.0,").tick(move |peer| {
            if peer.since_push().is_some_and(|since| since > Duration::from_secs(1)) {
                flood(peer);
            }
        });
        let (_server, run) = host.connected(scenario, "");
        let before = run.usage();
        std::thread::sleep(WATCHED);
        assert_bounded(shown, before, run.usage());
        let ending = run.end(Signal::SIGTERM);
        let lines = ending.transcript.lines().count();
        assert!(lines < 500, "{shown}: {lines} lines of output");
    }
}

/// The same before there is a configuration.
#[test]
fn texts_without_end_and_no_push() {
    let host = Host::new();
    let scenario = Scenario::new("").without_push().tick(flood("INFO_PRE,WEB_AUTH::https://x/"));
    let server = host.serve(SERVER, scenario);
    let mut run = host.start("");
    run.client.wait((3, 22), Duration::from_secs(20)).unwrap();
    let before = run.usage();
    std::thread::sleep(WATCHED);
    assert_bounded("addresses to open", before, run.usage());
    run.end(Signal::SIGTERM);
    drop(server);
}

/// Nobody reads the output: what waits to be written does not grow with it.
#[test]
fn output_that_nobody_reads() {
    let host = Host::new();
    let text: &'static str = Box::leak(format!("INFO,{}", "x".repeat(16_000)).into_boxed_str());
    let _server = host.serve(SERVER, Scenario::new("").tick(flood(text)));
    let client = host.start_unread("");
    std::thread::sleep(Duration::from_secs(2));
    let before = client.usage();
    std::thread::sleep(WATCHED);
    assert_bounded("unread output", before, client.usage());
}

/// New keys as fast as the client makes them.
#[test]
fn renegotiations_without_end() {
    let host = Host::new();
    let scenario =
        Scenario::new("").tick(|peer| peer.server.renegotiate(std::time::Instant::now()));
    let (server, run) = host.connected(scenario, "");
    let before = run.usage();
    std::thread::sleep(WATCHED);
    assert_bounded("renegotiations", before, run.usage());
    run.end(Signal::SIGTERM);
    let keys = server.logins().len();
    assert!((2..60).contains(&keys), "{keys} keys");
}
