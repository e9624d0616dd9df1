//! Tokens in the place of the password, from real servers, up to their end and beyond it. Seconds
//! stand for the hours that they last elsewhere.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{AUTH_FAILED, CONNECTED, Client, RECONNECTING, Status};
use crate::lab::{Lab, plain};
use crate::server::{Server, ServerConfig, Transport, Version};

const LIMIT: Duration = Duration::from_secs(30);
/// An address to open.
const AUTH_URL: Status = (3, 22);

/// A server that asks a script about each login, and a client that has one.
struct Story {
    lab: Lab,
    server: Server,
    client: Client,
}

impl Story {
    /// `verify` goes on from a line that has noted the call in `calls`, in a shell, in the lab's
    /// directory. `login`: the profile wants a login, and the client has a file with one.
    fn begin(version: Version, verify: &str, server: &str, client: &str, login: bool) -> Self {
        let lab = Lab::new();
        let note = "echo \"$username ${session_state:-none}\" >>calls";
        let directory = lab.directory().display();
        let text = format!("#!/bin/sh\ncd {directory}\n{note}\n{verify}\n");
        let script = lab.script("verify", &text);
        let extra = format!("script-security 3\nauth-user-pass-verify {script} via-env\n{server}");
        let config = ServerConfig { extra, ..plain(version, Transport::Udp4) };
        let server = lab.start_server(&config);
        let file = lab.file("login", "ada\nonce\n");
        let mut profile = lab.profile(&config, client);
        let mut arguments = Vec::new();
        if login {
            profile += "auth-user-pass\n";
            arguments = vec!["--auth-user-pass", &*file];
        }
        let mut client = lab.start_client(&profile, &arguments);
        let connected = client.wait(CONNECTED, LIMIT);
        connected.unwrap_or_else(|e| panic!("{version:?}: {e}\n{}", server.log()));
        Self { lab, server, client }
    }

    fn wait(&mut self, status: Status) -> String {
        let found = self.client.wait(status, LIMIT);
        found.unwrap_or_else(|e| panic!("{e}\n{}", self.server.log()))
    }

    /// How often the script has been asked.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.lab.directory().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// How many of so many pings, ten a second, come back.
    fn pings(&self, count: usize) -> usize {
        let arguments = format!("-n -q -i 0.1 -W 1 -c {count} 10.8.0.1");
        let output = self.lab.client_ns.command("ping").args(arguments.split(' ')).output();
        let text = String::from_utf8(output.expect("ping").stdout).expect("text");
        let (before, _) = text.split_once(" received").unwrap_or_else(|| panic!("{text}"));
        let received = before.rsplit(' ').next().and_then(|number| number.parse().ok());
        received.unwrap_or_else(|| panic!("{text}"))
    }

    /// What has become of the client so far.
    fn statuses(&mut self) -> Vec<Status> {
        self.client.listen(Duration::from_millis(100));
        self.client.statuses.iter().map(|(status, _)| *status).collect()
    }

    fn count(&mut self, status: Status) -> usize {
        self.statuses().into_iter().filter(|found| *found == status).count()
    }

    fn end(mut self) {
        let ending = self.client.stop(Signal::SIGTERM);
        assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    }
}

/// Side by side, since all of it is waiting.
fn each<T: Copy + Send>(cases: impl IntoIterator<Item = T>, story: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            let story = &story;
            scope.spawn(move || story(case));
        }
    });
}

/// During a renegotiation. With `auth-nocache` the file is read again.
#[test]
fn an_expired_token_gives_way_to_the_login() {
    let forms = ["", "auth-nocache\n"];
    let cases = Version::ALL.into_iter().flat_map(|version| forms.map(|form| (version, form)));
    each(cases, |(version, form)| {
        let server = "auth-gen-token 8 120\nreneg-sec 4\n";
        let mut story = Story::begin(version, "[ \"$password\" = once ]", server, form, true);
        let received = story.pings(180);
        let (calls, connections) = (story.calls(), story.count(CONNECTED));
        println!("{version:?} {form:?}: {received} of 180 pings, {calls:?}");
        assert!(received > 120, "{received} of 180 pings:\n{}", story.client.transcript());
        assert!(connections >= 2 && calls.len() >= 2, "{calls:?}:\n{}", story.server.log());
        assert_eq!(story.count(AUTH_FAILED), 0, "{}", story.client.transcript());
        story.end();
    });
}

/// When a new connection begins with it.
#[test]
fn a_token_that_expired_meanwhile_gives_way_to_the_login() {
    each(Version::ALL, |version| {
        let server = "auth-gen-token 3 120\nreneg-sec 3600\n";
        let mut story = Story::begin(version, "[ \"$password\" = once ]", server, "", true);
        std::thread::sleep(Duration::from_secs(5));
        story.client.signal(Signal::SIGUSR1);
        story.wait(CONNECTED);
        assert_eq!(story.pings(5), 5);
        assert_eq!(story.calls().len(), 2);
        assert!(story.server.log().contains("SESSION: token expired"), "{}", story.server.log());
        story.end();
    });
}

/// What is refused then is a real refusal.
#[test]
fn a_login_that_is_refused_after_the_token_ends_it() {
    each(Version::ALL, |version| {
        let verify = "[ \"$password\" = once ] && [ ! -e closed ]";
        let server = "auth-gen-token 4 120\nreneg-sec 3\n";
        let mut story = Story::begin(version, verify, server, "", true);
        story.lab.file("closed", "");
        let ending = story.client.finish(LIMIT);
        ending.assert_failure(3, AUTH_FAILED, &["authentication failed"]);
        let reconnecting = ending.statuses.iter().any(|(status, _)| *status == RECONNECTING);
        assert!(reconnecting, "not at once: {}", ending.transcript);
        assert_eq!(story.calls().len(), 2);
    });
}

/// The script has the last word about tokens (`external-auth`): it refuses them without calling them
/// expired.
#[test]
fn a_token_that_a_script_refuses_gives_way_to_the_login() {
    each(Version::ALL, |version| {
        let verify = "case $session_state in Authenticated) exit 0 ;; Initial) ;; *) exit 1 ;; esac\n\
                      [ \"$password\" = once ]";
        let server = "auth-gen-token 8 120 external-auth\nreneg-sec 4\n";
        let mut story = Story::begin(version, verify, server, "", true);
        let received = story.pings(180);
        let calls = story.calls();
        println!("{version:?}: {received} of 180 pings, {calls:?}");
        assert!(received > 120, "{received} of 180 pings:\n{}", story.client.transcript());
        assert!(calls.contains(&"ada Authenticated".to_owned()), "{calls:?}");
        assert!(calls.contains(&"ada Expired".to_owned()), "{calls:?}");
        assert!(story.count(RECONNECTING) >= 1);
        assert_eq!(story.count(AUTH_FAILED), 0, "{}", story.client.transcript());
        story.end();
    });
}

/// A certificate alone: the server says for whom its token is, and nobody is asked for anything when
/// that expires.
#[test]
fn a_token_for_a_user_whom_the_server_names() {
    each(Version::ALL, |version| {
        let server = "auth-gen-token 8 120\nreneg-sec 4\nauth-user-pass-optional\n\
                      push \"auth-token-user YWRh\"\n";
        let mut story = Story::begin(version, "true", server, "", false);
        let received = story.pings(180);
        println!("{version:?}: {received} of 180 pings, {:?}", story.calls());
        assert!(received > 120, "{received} of 180 pings:\n{}", story.client.transcript());
        assert!(story.count(RECONNECTING) >= 1, "{}", story.server.log());
        assert_eq!(story.count(AUTH_FAILED), 0, "{}", story.client.transcript());
        story.end();
    });
}

/// The server cannot tell just now: the same login again, when it says.
#[test]
fn a_renegotiation_that_fails_for_the_time_being_is_made_up_for() {
    each(Version::ALL, |version| {
        let verify = "[ $(wc -l <calls) = 2 ] || exit 0\n\
                      echo 'TEMP[backoff 2]:busy' >\"$auth_failed_reason_file\"\nexit 1";
        let mut story = Story::begin(version, verify, "reneg-sec 5\n", "", true);
        story.wait(RECONNECTING);
        story.wait(CONNECTED);
        assert_eq!(story.pings(5), 5);
        let told = story.client.transcript();
        assert!(told.contains("cannot authenticate now: busy"), "{told}");
        story.end();
    });
}

/// A renegotiation takes a second factor, which takes longer than half of the key's life: the key
/// before goes on sending, since the server takes nothing else.
#[test]
fn a_renegotiation_that_waits_for_the_user_loses_nothing() {
    each(Version::ALL, |version| {
        let verify = "[ $(wc -l <calls) = 1 ] && exit 0\n\
                      printf '60\\nwebauth\\nWEB_AUTH::https://login.example/web\\n' >\"$auth_pending_file\"\n\
                      (sleep 8; printf 1 >\"$auth_control_file\") >/dev/null 2>&1 </dev/null &\nexit 2";
        let mut story = Story::begin(version, verify, "reneg-sec 10\n", "", true);
        let received = story.pings(190);
        println!("{version:?}: {received} of 190 pings, {:?}", story.calls());
        assert!(story.count(AUTH_URL) >= 1, "{}", story.client.transcript());
        assert!(received >= 188, "{received} of 190 pings:\n{}", story.server.log());
        assert_eq!(story.count(RECONNECTING), 0);
        story.end();
    });
}
