//! The sequences of `dbus-contract` 3.3, and the table at the top of the machine.

use std::net::SocketAddr;

use ovpn_dco::kernel::Api;

use super::*;
use crate::control::{AuthFailed, PendingAuth};
use crate::data_path::DataPath;
use crate::profile::{NoFiles, Profile, Protocol, PushError};
use crate::session::{Ending, Outcome, SessionEvent, SessionState};
use crate::tls::{TlsError, TlsErrorKind};

const PLAIN: &str = "client\nsetenv CLIENT_CERT 0\ndev tun\nremote vpn.example 1194 udp\n\
    peer-fingerprint 00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff\n";

fn options(extra: &str) -> Arc<Options> {
    let profile = Profile::parse(&format!("{PLAIN}{extra}"), "test", &NoFiles).unwrap();
    Arc::new(profile.options)
}

fn registration(profile: Result<Arc<Options>, UnusableProfile>, dialect: Dialect) -> Registration {
    Registration {
        dialect,
        session_path: Some("/s".to_owned()),
        config_path: "/c".to_owned(),
        profile,
        passphrase_needed: false,
        dco: true,
        auth_fail_retry: false,
        dns_scope: DnsScope::Global,
    }
}

fn registered(extra: &str) -> Machine {
    let mut machine = Machine::new(true);
    machine.register(registration(Ok(options(extra)), Dialect::Deployed)).unwrap();
    machine
}

/// Registered, connected, effects taken.
fn connected() -> Machine {
    let mut machine = registered("");
    machine.request(Request::Connect).unwrap();
    machine.event(SessionEvent::State(SessionState::Authenticating));
    machine.event(SessionEvent::State(SessionState::Connected(info())));
    machine.take_effects();
    machine
}

fn info() -> ConnectionInfo {
    ConnectionInfo {
        protocol: Protocol::Udp,
        host: "vpn.example".to_owned(),
        address: SocketAddr::from(([192, 0, 2, 1], 1194)),
        username: "joe".to_owned(),
        device: "tun0".to_owned(),
        data_path: DataPath::Userspace,
        data_path_reasons: Vec::new(),
        tunnel: vec!["10.8.0.2/24".to_owned()],
        gateways: vec!["10.8.0.1".to_owned()],
        mtu: 1500,
        cipher: ovpn_dco::Cipher::Aes256Gcm,
        device_path: None,
        tls: None,
        network: Box::default(),
    }
}

/// What has to be done, in short: `S 2,6`, `A 1,1 text`, `start user:password`, `pause`, ...
fn said(machine: &mut Machine) -> Vec<String> {
    machine
        .take_effects()
        .into_iter()
        .map(|effect| match effect {
            Effect::Signal(Signal::Status(status)) => {
                let (major, minor) = status.codes();
                format!("S {major},{minor} {}", status.message)
            }
            Effect::Signal(Signal::Attention { numbers: (kind, group), message }) => {
                format!("A {kind},{group} {message}")
            }
            Effect::Start(attempt) => format!(
                "start {}:{}{}",
                attempt.credentials.username,
                attempt.credentials.password.expose(),
                if attempt.one_time_password { " once" } else { "" }
            ),
            Effect::Session(command) => shown(command),
            Effect::Timer(after) => format!("timer {}", after.as_secs()),
        })
        .map(|text| text.trim_end().to_owned())
        .collect()
}

fn shown(command: Command) -> String {
    match command {
        Command::Wish(wish) => format!("{wish:?}").to_lowercase(),
        Command::Sign { id, signature } => {
            format!("sign {id} {:?}", signature.map_err(|no| no.to_string()))
        }
        Command::LogIn { credentials, one_time } => format!(
            "log in {}:{}{}",
            credentials.username,
            credentials.password.expose(),
            if one_time { " once" } else { "" }
        ),
        Command::Respond(answer) => format!("respond {}", answer.expose()),
        Command::Statistics(_) | Command::Ping(_) => panic!("the driver asks, not the machine"),
    }
}

/// An end whose text is this.
fn because(text: &str) -> Ending {
    PushError::Cipher(text.to_owned()).into()
}

fn ended(machine: &mut Machine, outcome: Outcome) -> Vec<String> {
    machine.event(SessionEvent::Ended(outcome));
    said(machine)
}

fn state(machine: &mut Machine, state: SessionState) -> Vec<String> {
    machine.event(SessionEvent::State(state));
    said(machine)
}

fn request(machine: &mut Machine, what: Request) -> Vec<String> {
    machine.request(what).unwrap();
    said(machine)
}

fn refused(machine: &mut Machine, what: Request) -> String {
    machine.request(what).unwrap_err().text
}

fn pause() -> Request {
    Request::Pause { reason: "lid\nclosed".to_owned() }
}

const CFG: &str = "S 2,2 config_path=/c";
const LOGIN: &str = "Username/password credentials needed";

#[test]
fn a_connection_from_registration_to_the_end() {
    let mut machine = registered("");
    assert_eq!(said(&mut machine), [CFG]);
    assert_eq!(request(&mut machine, Request::Ready), [""; 0]);
    assert_eq!(request(&mut machine, Request::Connect), [CFG, "S 2,6", "start :"]);
    let waiting = SessionState::Waiting {
        host: "vpn.example".to_owned(),
        address: SocketAddr::from(([192, 0, 2, 1], 1194)),
        protocol: Protocol::Udp,
    };
    assert_eq!(state(&mut machine, waiting), [""; 0]);
    assert_eq!(machine.session_name(), "");
    assert_eq!(state(&mut machine, SessionState::Authenticating), ["S 2,6"]);
    assert_eq!(state(&mut machine, SessionState::GetConfig), [""; 0]);
    assert_eq!(state(&mut machine, SessionState::Configuring), [""; 0]);
    assert_eq!(machine.session_name(), "vpn.example");
    assert!(machine.connection().is_none());
    assert_eq!(state(&mut machine, SessionState::Connected(info())), ["S 2,7"]);
    assert_eq!(machine.connection(), Some(&info()));
    assert_eq!(machine.device(), Some(("tun0", None)));
    assert_eq!(request(&mut machine, Request::Disconnect), ["S 2,8", "disconnect", "timer 4"]);
    assert!(!machine.is_done());
    assert_eq!(ended(&mut machine, Outcome::Disconnected), ["S 2,9", "S 2,16"]);
    assert!(machine.is_done());
    // The session manager asks again when it sees (2,16).
    assert_eq!(request(&mut machine, Request::Disconnect), [""; 0]);
}

#[test]
fn login_is_asked_for_before_the_status_says_so() {
    let mut machine = registered("auth-user-pass\nstatic-challenge \"PIN?\" 1\n");
    assert_eq!(said(&mut machine), [CFG, &format!("A 1,1 {LOGIN}"), &format!("S 2,4 {LOGIN}")]);
    assert_eq!(machine.type_groups(), [(1, 1), (1, 4)]);
    assert_eq!(refused(&mut machine, Request::Ready), "Missing user credentials");
    assert_eq!(refused(&mut machine, Request::Connect), "Required user input not provided");
    assert_eq!(said(&mut machine), [CFG]);
    assert!(!machine.fetch_input((1, 4), 0).unwrap().hidden());
    for (group, id, value) in [(1, 0, "joe"), (1, 1, "pw"), (4, 0, "42")] {
        machine.provide_input((1, group), id, value).unwrap();
    }
    assert_eq!(request(&mut machine, Request::Ready), [""; 0]);
    // base64 of pw and 42
    assert_eq!(
        request(&mut machine, Request::Connect),
        [CFG, "S 2,6", "start joe:SCRV1:cHc=:NDI= once"]
    );
}

#[test]
fn a_static_challenge_can_be_appended_to_the_password() {
    let mut machine = registered("auth-user-pass\nstatic-challenge \"PIN?\" 0 concat\n");
    assert!(machine.fetch_input((1, 4), 0).unwrap().hidden());
    for (group, id, value) in [(1, 0, "joe"), (1, 1, "pw"), (4, 0, "42")] {
        machine.provide_input((1, group), id, value).unwrap();
    }
    machine.take_effects();
    assert_eq!(request(&mut machine, Request::Connect), [CFG, "S 2,6", "start joe:pw42 once"]);
}

#[test]
fn an_encrypted_key_asks_for_its_passphrase() {
    let mut machine = Machine::new(true);
    let registration = Registration {
        passphrase_needed: true,
        ..registration(Ok(options("")), Dialect::Deployed)
    };
    machine.register(registration).unwrap();
    assert_eq!(
        said(&mut machine),
        [
            CFG,
            "A 1,3 Private key passphrase needed",
            "S 2,4 Private key passphrase needed to connect"
        ]
    );
    machine.provide_input((1, 3), 0, "secret").unwrap();
    request(&mut machine, Request::Connect);
    let wrong = Outcome::Tls(TlsError::new(TlsErrorKind::WrongPassphrase, "wrong passphrase"));
    assert_eq!(
        ended(&mut machine, wrong),
        ["S 2,9 wrong passphrase {PEM_PASSWORD_FAIL}", "timer 3"]
    );
    assert_eq!(machine.check_input((1, 3)), [0]);
}

#[test]
fn wrong_credentials_can_be_given_again() {
    let mut machine = registered("auth-user-pass\n");
    machine.provide_input((1, 1), 0, "joe").unwrap();
    machine.provide_input((1, 1), 1, "bad").unwrap();
    request(&mut machine, Request::Connect);
    let failed = AuthFailed::Permanent { reason: String::new() };
    assert_eq!(ended(&mut machine, Outcome::AuthFailed(failed)), ["S 2,11 Authentication failed"]);
    assert_eq!(machine.check_input((1, 1)), [0, 1]);
    assert_eq!(request(&mut machine, Request::Connect), [""; 0]);
    machine.provide_input((1, 1), 0, "joe").unwrap();
    machine.provide_input((1, 1), 1, "good").unwrap();
    assert_eq!(request(&mut machine, Request::Connect), [CFG, "S 2,6", "start joe:good"]);
    let failed = AuthFailed::Permanent { reason: "locked".to_owned() };
    assert_eq!(
        ended(&mut machine, Outcome::AuthFailed(failed)),
        ["S 2,11 Authentication failed: locked"]
    );
    assert_eq!(request(&mut machine, Request::Disconnect), ["S 2,8", "S 2,16"]);
}

#[test]
fn a_dynamic_challenge_is_answered_by_the_next_attempt() {
    let mut machine = registered("auth-user-pass\n");
    machine.provide_input((1, 1), 0, "joe").unwrap();
    machine.provide_input((1, 1), 1, "pw").unwrap();
    request(&mut machine, Request::Connect);
    let challenge = |text: &str| {
        Outcome::AuthFailed(AuthFailed::Challenge {
            echo: true,
            response_required: true,
            state_id: "id7".to_owned(),
            username: "joe".to_owned(),
            text: text.to_owned(),
        })
    };
    assert_eq!(ended(&mut machine, challenge("Code?")), ["A 1,5 Code?", "S 2,4 Dynamic Challenge"]);
    assert_eq!(machine.check_input((1, 5)), [0]);
    let slot = machine.fetch_input((1, 5), 0).unwrap();
    assert_eq!(
        (slot.name(), slot.description(), slot.hidden()),
        ("dynamic_challenge", "Code?", false)
    );
    machine.provide_input((1, 5), 0, "first").unwrap();
    assert_eq!(
        request(&mut machine, Request::Connect),
        [CFG, "S 2,6", "start joe:CRV1::id7::first once"]
    );
    // Asked twice: the first answer is not sent again.
    ended(&mut machine, challenge("Again?"));
    assert_eq!(machine.check_input((1, 5)), [0]);
    machine.provide_input((1, 5), 0, "second").unwrap();
    assert_eq!(
        request(&mut machine, Request::Connect),
        [CFG, "S 2,6", "start joe:CRV1::id7::second once"]
    );
}

#[test]
fn a_challenge_within_the_connection_is_answered_at_once() {
    for (dialect, group) in [(Dialect::Deployed, 6), (Dialect::Documented, 5)] {
        let mut machine = Machine::new(true);
        machine.register(registration(Ok(options("")), dialect)).unwrap();
        request(&mut machine, Request::Connect);
        let text = "Code: 6 digits".to_owned();
        machine.event(SessionEvent::PendingAuth(PendingAuth::Challenge {
            echo: false,
            response_required: true,
            text,
        }));
        assert_eq!(
            said(&mut machine),
            [format!("A 1,{group} Code: 6 digits"), "S 2,4 Code: 6 digits".to_owned()]
        );
        assert!(machine.fetch_input((1, group), 0).unwrap().hidden());
        machine.provide_input((1, group), 0, "123").unwrap();
        assert_eq!(said(&mut machine), ["respond 123"]);
        // The command line client calls Connect after every answer.
        assert_eq!(request(&mut machine, Request::Connect), [""; 0]);
        assert_eq!(state(&mut machine, SessionState::Connected(info())), ["S 2,7"]);
    }
}

#[test]
fn a_refused_answer_is_a_failure_and_not_a_new_question() {
    let mut machine = registered("auth-user-pass\n");
    machine.provide_input((1, 1), 0, "joe").unwrap();
    machine.provide_input((1, 1), 1, "pw").unwrap();
    request(&mut machine, Request::Connect);
    machine.event(SessionEvent::PendingAuth(PendingAuth::Challenge {
        echo: false,
        response_required: true,
        text: "Code?".to_owned(),
    }));
    machine.provide_input((1, 6), 0, "wrong").unwrap();
    let failed = AuthFailed::Permanent { reason: String::new() };
    ended(&mut machine, Outcome::AuthFailed(failed));
    // The command line client goes on as after every answer, more than once, until it looks at the
    // status.
    for _ in 0..2 {
        assert_eq!(machine.type_groups(), []);
        assert_eq!(request(&mut machine, Request::Ready), [""; 0]);
        assert_eq!(request(&mut machine, Request::Connect), [""; 0]);
        assert_eq!(machine.status().codes(), (2, 11));
    }
    // Whoever asks later is told what is needed for another try.
    machine.timeout();
    assert_eq!(machine.type_groups(), [(1, 1)]);
    assert_eq!(refused(&mut machine, Request::Ready), "Missing user credentials");
}

#[test]
fn web_authentication_is_pending_until_connected() {
    let mut machine = registered("");
    request(&mut machine, Request::Connect);
    machine.event(SessionEvent::PendingAuth(PendingAuth::OpenUrl {
        url: "https://sso.example/?x".parse().unwrap(),
        flags: Vec::new(),
    }));
    let url = "https://sso.example/?x";
    assert_eq!(said(&mut machine), [format!("A 1,9 {url}"), format!("S 3,22 {url}")]);
    assert_eq!(refused(&mut machine, Request::Ready), "Pending web authentication");
    assert_eq!(machine.type_groups(), []);
    assert_eq!(request(&mut machine, Request::Connect), [""; 0]);
    state(&mut machine, SessionState::Connected(info()));
    assert_eq!(request(&mut machine, Request::Ready), [""; 0]);
}

#[test]
fn an_authentication_request_that_cannot_be_read_ends_in_auth_failed() {
    let mut machine = registered("");
    request(&mut machine, Request::Connect);
    machine.event(SessionEvent::PendingAuth(PendingAuth::Malformed("?".to_owned())));
    assert_eq!(said(&mut machine), ["disconnect"]);
    assert_eq!(
        ended(&mut machine, Outcome::Disconnected),
        ["S 2,11 Failed to decode authentication request from server"]
    );
}

#[test]
fn proxy_credentials_are_asked_for_again_when_wrong() {
    let mut machine = registered("");
    request(&mut machine, Request::Connect);
    for _ in 0..2 {
        assert_eq!(
            ended(&mut machine, Outcome::NeedProxyCredentials),
            ["A 1,2", "S 2,4 HTTP proxy credentials"]
        );
        assert_eq!(machine.check_input((1, 2)), [0, 1]);
        machine.provide_input((1, 2), 0, "p").unwrap();
        machine.provide_input((1, 2), 1, "q").unwrap();
        machine.request(Request::Connect).unwrap();
        let started = machine.take_effects().into_iter().find_map(|effect| match effect {
            Effect::Start(attempt) => attempt.proxy_credentials,
            _ => None,
        });
        assert_eq!(started.unwrap().username, "p");
    }
}

#[test]
fn credentials_that_are_gone_are_asked_for_again() {
    let mut machine = registered("auth-user-pass\n");
    machine.provide_input((1, 1), 0, "joe").unwrap();
    machine.provide_input((1, 1), 1, "pw").unwrap();
    request(&mut machine, Request::Connect);
    state(&mut machine, SessionState::Connected(info()));
    assert_eq!(
        ended(&mut machine, Outcome::NeedCredentials),
        [format!("A 1,1 {LOGIN}"), format!("S 2,4 {LOGIN}")]
    );
    assert_eq!(machine.check_input((1, 1)), [0, 1]);
    assert!(machine.connection().is_none());
}

#[test]
fn pause_resume_restart() {
    let mut machine = connected();
    assert_eq!(request(&mut machine, pause()), ["S 2,13 Reason: lidclosed", "pause"]);
    assert_eq!(refused(&mut machine, pause()), "Connection is already paused");
    assert_eq!(state(&mut machine, SessionState::Paused), ["S 2,14"]);
    assert!(machine.connection().is_some());
    assert_eq!(request(&mut machine, Request::Connect), [""; 0]);
    assert_eq!(request(&mut machine, Request::Resume), ["S 2,15", "resume"]);
    assert_eq!(refused(&mut machine, Request::Resume), "Connection is not paused");
    let resolving = SessionState::Resolving { host: "x".to_owned() };
    assert_eq!(state(&mut machine, resolving.clone()), ["S 2,12"]);
    assert_eq!(state(&mut machine, SessionState::Authenticating), [""; 0]);
    assert_eq!(state(&mut machine, SessionState::Connected(info())), ["S 2,7"]);

    let reconnecting = SessionState::Reconnecting { reason: "restart".to_owned() };
    assert_eq!(request(&mut machine, Request::Restart), ["S 2,12", "restart"]);
    assert_eq!(state(&mut machine, reconnecting.clone()), ["S 2,12"]);
    assert!(machine.connection().is_none());
    assert_eq!(state(&mut machine, SessionState::Connected(info())), ["S 2,7"]);

    request(&mut machine, pause());
    assert_eq!(state(&mut machine, SessionState::Paused), ["S 2,14"]);
    assert_eq!(request(&mut machine, Request::Restart), ["S 2,12", "restart"]);
    assert_eq!(state(&mut machine, reconnecting), ["S 2,12"]);
    assert_eq!(state(&mut machine, resolving), [""; 0]);
    assert_eq!(state(&mut machine, SessionState::Connected(info())), ["S 2,7"]);
}

/// `auth-nocache` and a renegotiation: the tunnel works on, so the status stays.
#[test]
fn a_renegotiation_asks_for_the_login_again() {
    let mut machine = registered("auth-user-pass\nauth-nocache\nstatic-challenge PIN 1\n");
    let answers = [(1, 0, "joe"), (1, 1, "pw"), (4, 0, "42")];
    for (group, id, value) in answers {
        machine.provide_input((1, group), id, value).unwrap();
    }
    machine.request(Request::Connect).unwrap();
    state(&mut machine, SessionState::Connected(info()));
    for _ in 0..2 {
        machine.event(SessionEvent::CredentialsNeeded);
        assert_eq!(said(&mut machine), [format!("A 1,1 {LOGIN}")]);
        assert_eq!(machine.type_groups(), [(1, 1), (1, 4)]);
        machine.provide_input((1, 1), 0, "joe").unwrap();
        // The next attempt keeps what has been answered.
        machine.event(SessionEvent::CredentialsNeeded);
        machine.provide_input((1, 1), 1, "pw").unwrap();
        assert_eq!(said(&mut machine), [""; 0]);
        machine.provide_input((1, 4), 0, "43").unwrap();
        assert_eq!(said(&mut machine), ["log in joe:SCRV1:cHc=:NDM= once"]);
        assert_eq!(machine.status().codes(), (2, 7));
    }
}

/// The next connection asks by itself, unless it has a token; then nobody waits for the answers.
#[test]
fn questions_of_a_renegotiation_go_with_its_connection() {
    for end in [SessionState::Reconnecting { reason: "lost".to_owned() }, SessionState::Paused] {
        let mut machine = registered("auth-user-pass\nauth-nocache\nstatic-challenge PIN 1\n");
        let answers = [(1, 0, "joe"), (1, 1, "pw"), (4, 0, "42")];
        for (group, id, value) in answers {
            machine.provide_input((1, group), id, value).unwrap();
        }
        machine.request(Request::Connect).unwrap();
        state(&mut machine, SessionState::Connected(info()));
        machine.event(SessionEvent::CredentialsNeeded);
        machine.provide_input((1, 1), 1, "half").unwrap();
        state(&mut machine, end);
        assert_eq!(machine.type_groups(), []);
        for (group, id, value) in answers {
            machine.provide_input((1, group), id, value).unwrap_err();
        }
        state(&mut machine, SessionState::Connected(info()));
        machine.request(Request::Ready).unwrap();
        machine.event(SessionEvent::CredentialsNeeded);
        assert_eq!(machine.type_groups(), [(1, 1), (1, 4)]);
    }
}

/// `auth-nocache`: an attempt uses the answers up, and the next one asks; a challenge that the server
/// answers with in between needs none of them.
#[test]
fn the_next_attempt_asks_for_what_was_not_kept() {
    let mut machine = registered("auth-user-pass\nauth-nocache\n");
    let answer = |machine: &mut Machine| {
        machine.provide_input((1, 1), 0, "joe").unwrap();
        machine.provide_input((1, 1), 1, "pw").unwrap();
    };
    said(&mut machine);
    answer(&mut machine);
    assert_eq!(request(&mut machine, Request::Connect), [CFG, "S 2,6", "start joe:pw"]);
    assert_eq!(machine.type_groups(), []);
    let challenge = AuthFailed::Challenge {
        echo: true,
        response_required: true,
        state_id: "id7".to_owned(),
        username: "joe".to_owned(),
        text: "Code?".to_owned(),
    };
    ended(&mut machine, Outcome::AuthFailed(challenge));
    machine.provide_input((1, 5), 0, "42").unwrap();
    let connected = request(&mut machine, Request::Connect);
    assert_eq!(connected, [CFG, "S 2,6", "start joe:CRV1::id7::42 once"]);
    ended(&mut machine, Outcome::Unreachable(because("no answer")));
    assert_eq!(refused(&mut machine, Request::Connect), "Required user input not provided");
    let asked = [CFG.to_owned(), format!("A 1,1 {LOGIN}"), format!("S 2,4 {LOGIN}")];
    assert_eq!(said(&mut machine), asked);
    answer(&mut machine);
    assert_eq!(request(&mut machine, Request::Connect), [CFG, "S 2,6", "start joe:pw"]);
}

/// The answer to a challenge is good for one login; the password next to it is kept.
#[test]
fn the_next_attempt_asks_for_another_answer_to_the_challenge() {
    let mut machine = registered("auth-user-pass\nstatic-challenge PIN 1\n");
    for (group, id, value) in [(1, 0, "joe"), (1, 1, "pw"), (4, 0, "42")] {
        machine.provide_input((1, group), id, value).unwrap();
    }
    said(&mut machine);
    let started = request(&mut machine, Request::Connect);
    assert_eq!(started, [CFG, "S 2,6", "start joe:SCRV1:cHc=:NDI= once"]);
    ended(&mut machine, Outcome::Unreachable(because("no answer")));
    assert_eq!(refused(&mut machine, Request::Connect), "Required user input not provided");
    assert_eq!(machine.type_groups(), [(1, 4)]);
    machine.provide_input((1, 4), 0, "43").unwrap();
    said(&mut machine);
    let started = request(&mut machine, Request::Connect);
    assert_eq!(started, [CFG, "S 2,6", "start joe:SCRV1:cHc=:NDM= once"]);
}

/// A renegotiation that takes a second factor: the tunnel works on, so the status stays.
#[test]
fn a_renegotiation_asks_for_a_second_factor() {
    let mut machine = connected();
    let text = "Code?".to_owned();
    let code = PendingAuth::Challenge { echo: true, response_required: true, text };
    machine.event(SessionEvent::PendingAuth(code));
    assert_eq!(said(&mut machine), ["A 1,6 Code?"]);
    machine.provide_input((1, 6), 0, "42").unwrap();
    assert_eq!(said(&mut machine), ["respond 42"]);
    assert_eq!(machine.status().codes(), (2, 7));
    let url = "https://login.example/".parse().unwrap();
    machine.event(SessionEvent::PendingAuth(PendingAuth::OpenUrl { url, flags: Vec::new() }));
    said(&mut machine);
    // Nothing tells when that is done.
    machine.request(Request::Ready).unwrap();
}

#[test]
fn a_passphrase_is_kept_unless_auth_nocache_says_otherwise() {
    for (nocache, asked) in [("", false), ("auth-nocache", true)] {
        let mut machine = Machine::new(true);
        let registration = Registration {
            passphrase_needed: true,
            ..registration(Ok(options(nocache)), Dialect::Deployed)
        };
        machine.register(registration).unwrap();
        machine.provide_input((1, 3), 0, "secret").unwrap();
        request(&mut machine, Request::Connect);
        ended(&mut machine, Outcome::Unreachable(because("no answer")));
        machine.request(Request::Connect).unwrap();
        machine.event(SessionEvent::State(SessionState::Connected(info())));
        ended(&mut machine, Outcome::Unreachable(because("no answer")));
        assert_eq!(machine.request(Request::Connect).is_err(), asked, "{nocache}");
        assert_eq!(machine.check_input((1, 3)).is_empty(), !asked, "{nocache}");
    }
}

/// A session that is configuring the network pauses only when that is done.
#[test]
fn a_pause_outlasts_the_connection_that_was_being_made() {
    let mut machine = registered("");
    request(&mut machine, Request::Connect);
    request(&mut machine, pause());
    assert_eq!(state(&mut machine, SessionState::Connected(info())), [""; 0]);
    assert_eq!(machine.status().codes(), (2, 13));
    assert_eq!(state(&mut machine, SessionState::Paused), ["S 2,14"]);
    assert_eq!(machine.connection(), Some(&info()));
    assert_eq!(refused(&mut machine, pause()), "Connection is already paused");
    assert_eq!(request(&mut machine, Request::Resume), ["S 2,15", "resume"]);
    let resolving = SessionState::Resolving { host: "x".to_owned() };
    assert_eq!(state(&mut machine, resolving), ["S 2,12"]);
    assert_eq!(state(&mut machine, SessionState::Connected(info())), ["S 2,7"]);
}

/// Both wishes wait for the session; it comes to them one after the other.
#[test]
fn a_resumption_begins_after_the_pause_and_not_with_older_news() {
    let mut machine = connected();
    request(&mut machine, pause());
    request(&mut machine, Request::Resume);
    let lost = SessionState::Reconnecting { reason: "timeout".to_owned() };
    assert_eq!(state(&mut machine, lost), [""; 0]);
    assert_eq!(state(&mut machine, SessionState::Connected(info())), [""; 0]);
    assert_eq!(state(&mut machine, SessionState::Paused), [""; 0]);
    let resolving = SessionState::Resolving { host: "x".to_owned() };
    assert_eq!(state(&mut machine, resolving), ["S 2,12"]);
    assert_eq!(state(&mut machine, SessionState::Connected(info())), ["S 2,7"]);
}

#[test]
fn a_lost_connection_is_told_at_once_and_retries_before_the_first_one_are_not() {
    let mut machine = registered("");
    request(&mut machine, Request::Connect);
    let reconnecting = SessionState::Reconnecting { reason: "timeout".to_owned() };
    assert_eq!(state(&mut machine, reconnecting.clone()), [""; 0]);
    state(&mut machine, SessionState::Connected(info()));
    assert_eq!(state(&mut machine, reconnecting), ["S 2,12"]);
}

#[test]
fn a_failure_before_the_first_connection_is_told_twice() {
    let mut machine = registered("");
    request(&mut machine, Request::Connect);
    let failed = || Outcome::Unreachable(because("nobody\nthere"));
    assert_eq!(ended(&mut machine, failed()), ["S 2,9 nobodythere", "timer 3"]);
    // A Connect in between starts anew.
    assert_eq!(request(&mut machine, Request::Connect), [CFG, "S 2,6", "start :"]);
    machine.timeout();
    assert_eq!(said(&mut machine), [""; 0]);
    ended(&mut machine, failed());
    machine.timeout();
    assert_eq!(said(&mut machine), ["S 2,10 nobodythere"]);
    assert_eq!(request(&mut machine, Request::Disconnect), ["S 2,16"]);
}

#[test]
fn a_patient_session_manager_gets_the_failure_at_once() {
    let mut machine = registered("");
    machine.set_delayed_failure(false);
    request(&mut machine, Request::Connect);
    let failed = Outcome::Tls(TlsError::new(TlsErrorKind::CertVerify, "expired"));
    assert_eq!(ended(&mut machine, failed), ["S 2,10 Certificate verification failed: expired"]);
}

#[test]
fn ends_after_a_connection() {
    let cases: [(Outcome, &[&str]); 5] = [
        (
            Outcome::Halted { reason: "maintenance".to_owned() },
            &["S 2,10 Client disconnected by server: maintenance", "S 2,9"],
        ),
        (
            Outcome::Halted { reason: String::new() },
            &["S 2,10 Client disconnected by server", "S 2,9"],
        ),
        (Outcome::Inactive, &["S 2,16 Inactive tunnel, disconnected"]),
        (
            Outcome::Failed(because("Compression is not available")),
            &["S 2,10 Compression is not available"],
        ),
        (Outcome::Privilege(because("no tun")), &["S 2,10 no tun {TUN_SETUP_FAILED}"]),
    ];
    for (outcome, expected) in cases {
        assert_eq!(ended(&mut connected(), outcome), expected);
    }
}

#[test]
fn an_unusable_profile_registers_and_fails_when_connecting() {
    let mut machine = Machine::new(true);
    let text = format!("{PLAIN}dev tap\n");
    let errors = Profile::parse(&text, "test", &NoFiles).unwrap_err();
    let reason = errors.to_string();
    assert!(reason.contains("TAP mode") && !reason.contains('\n'), "{reason}");
    let profile = Err(UnusableProfile::Profile(errors));
    machine.register(registration(profile, Dialect::Deployed)).unwrap();
    assert_eq!(said(&mut machine), [CFG]);
    assert_eq!(request(&mut machine, Request::Ready), [""; 0]);
    assert_eq!(
        request(&mut machine, Request::Connect),
        [CFG, "S 2,6", &format!("S 2,9 Configuration parsing failed: {reason}"), "timer 3"]
    );
}

#[test]
fn a_connection_that_does_not_wind_up_is_given_up() {
    let mut machine = connected();
    request(&mut machine, Request::Disconnect);
    machine.timeout();
    assert_eq!(said(&mut machine), ["S 2,9", "S 2,16"]);
    assert!(machine.is_done());
}

#[test]
fn force_shutdown_and_termination() {
    let mut machine = connected();
    assert_eq!(request(&mut machine, Request::ForceShutdown), ["S 2,16", "disconnect", "timer 4"]);
    assert_eq!(ended(&mut machine, Outcome::Disconnected), [""; 0]);
    assert!(machine.is_done());

    let mut machine = connected();
    assert_eq!(request(&mut machine, Request::Terminate), ["disconnect", "timer 4"]);
    assert_eq!(ended(&mut machine, Outcome::Disconnected), ["S 2,9"]);
    assert!(machine.is_done());

    let mut machine = Machine::new(true);
    assert_eq!(request(&mut machine, Request::ForceShutdown), ["S 2,16"]);
    assert!(machine.is_done());
}

#[test]
fn dco_is_a_wish_first_and_a_fact_later() {
    let mut machine = registered("");
    assert!(machine.dco());
    assert!(machine.set_dco(false));
    assert!(!machine.dco());
    assert!(machine.set_dco(true));
    request(&mut machine, Request::Connect);
    assert!(!machine.set_dco(false));
    state(&mut machine, SessionState::Connected(info()));
    assert!(!machine.dco());
    let kernel = ConnectionInfo { data_path: DataPath::Kernel(Api::Ovpn), ..info() };
    state(&mut machine, SessionState::Connected(kernel));
    assert!(machine.dco());
}

#[test]
fn registration_happens_once() {
    let mut machine = registered("");
    let again = machine.register(registration(Ok(options("")), Dialect::Deployed)).unwrap_err();
    assert_eq!(again.text, "Backend service is already registered");
}

/// The table at the top of the module, row by row.
#[test]
fn every_state_answers_every_request_as_the_table_says() {
    const NOT_INITIALIZED: &str = "Backend service is not initialized";
    const CHANGING: &str = "Session is changing connection state, but times out";
    const NOT_PAUSED: &str = "Connection is not paused";
    const PAUSED: &str = "Connection is already paused";

    fn after(outcome: Outcome) -> Machine {
        let mut machine = registered("");
        request(&mut machine, Request::Connect);
        ended(&mut machine, outcome);
        machine
    }
    fn ending() -> Machine {
        let mut machine = connected();
        request(&mut machine, Request::Disconnect);
        machine
    }
    fn connecting() -> Machine {
        let mut machine = registered("");
        request(&mut machine, Request::Connect);
        machine
    }
    fn reconnecting() -> Machine {
        let mut machine = connected();
        state(&mut machine, SessionState::Reconnecting { reason: String::new() });
        machine
    }
    fn paused() -> Machine {
        let mut machine = connected();
        request(&mut machine, pause());
        machine
    }
    fn idle() -> Machine {
        let mut machine = registered("");
        machine.take_effects();
        machine
    }
    fn unregistered() -> Machine {
        Machine::new(true)
    }
    fn auth_failed() -> Machine {
        after(Outcome::AuthFailed(AuthFailed::Permanent { reason: String::new() }))
    }
    fn needs_input() -> Machine {
        let mut machine = after(Outcome::NeedProxyCredentials);
        machine.provide_input((1, 2), 0, "a").unwrap();
        machine.provide_input((1, 2), 1, "b").unwrap();
        machine
    }
    fn failed() -> Machine {
        after(Outcome::Unreachable(because("x")))
    }

    type Answer = Result<&'static [&'static str], &'static str>;
    let starts: Answer = Ok(&[CFG, "S 2,6", "start :"]);
    let pauses: Answer = Ok(&["S 2,13 Reason: lidclosed", "pause"]);
    let restarts: Answer = Ok(&["S 2,12", "restart"]);
    let winds_up: Answer = Ok(&["S 2,8", "disconnect", "timer 4"]);
    let none: Answer = Ok(&[]);
    let no: Answer = Err(NOT_INITIALIZED);
    type Row = (fn() -> Machine, [Answer; 5]);
    let table: [Row; 10] = [
        (unregistered, [no, no, no, no, Ok(&["S 2,16"])]),
        (idle, [starts, no, no, no, Ok(&["S 2,8", "S 2,16"])]),
        (connecting, [none, pauses, Err(NOT_PAUSED), restarts, winds_up]),
        (connected, [none, pauses, Err(NOT_PAUSED), restarts, winds_up]),
        (reconnecting, [none, pauses, Err(NOT_PAUSED), restarts, winds_up]),
        (paused, [none, Err(PAUSED), Ok(&["S 2,15", "resume"]), restarts, winds_up]),
        (auth_failed, [starts, no, no, no, Ok(&["S 2,8", "S 2,16"])]),
        (needs_input, [starts, no, no, no, Ok(&["S 2,16"])]),
        (failed, [starts, no, no, no, Ok(&["S 2,16"])]),
        (ending, [Err(CHANGING), no, no, no, none]),
    ];
    let requests =
        [Request::Connect, pause(), Request::Resume, Request::Restart, Request::Disconnect];
    for (row, (make, answers)) in table.iter().enumerate() {
        for (what, answer) in requests.iter().zip(answers) {
            let mut machine = make();
            let result = machine.request(what.clone());
            match answer {
                Ok(expected) => {
                    assert_eq!(result, Ok(()), "row {row}, {what:?}");
                    assert_eq!(said(&mut machine), *expected, "row {row}, {what:?}");
                }
                Err(text) => assert_eq!(result.unwrap_err().text, *text, "row {row}, {what:?}"),
            }
        }
    }
}

#[test]
fn in_the_documented_dialect_there_must_be_a_connection_to_disconnect() {
    let mut machine = Machine::new(true);
    machine.register(registration(Ok(options("")), Dialect::Documented)).unwrap();
    machine.take_effects();
    assert_eq!(refused(&mut machine, Request::Disconnect), "Connection is not active");
    assert!(!machine.is_done());
    request(&mut machine, Request::Connect);
    assert_eq!(request(&mut machine, Request::Disconnect), ["S 2,8", "disconnect", "timer 4"]);
}
