//! From answers of the user to what goes to the server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::attention::{AttentionGroup, Dialect};
use super::queue::{Question, Queue};
use crate::profile::{AuthOptions, Options};
use crate::secret::{Credentials, Secret};

/// An open `CRV1` challenge.
#[derive(Clone, Debug)]
pub(super) struct DynamicChallenge {
    pub(super) state_id: String,
    pub(super) username: String,
}

/// What one connection attempt logs in with.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) credentials: Credentials,
    /// The password is good for one login only.
    pub(super) one_time: bool,
}

/// Asks for user name and password and the profile's challenge, as far as the profile lacks them.
pub(super) fn ask_login(queue: &mut Queue, auth: &AuthOptions, dialect: Dialect) {
    if !auth.user_pass || auth.autologin {
        return;
    }
    if !auth.is_complete() {
        renew_login(queue, auth, dialect);
    }
    ask_static_challenge(queue, auth, dialect);
}

/// Asks again: what was given was refused or is gone.
pub(super) fn ask_login_again(queue: &mut Queue, auth: &AuthOptions, dialect: Dialect) -> bool {
    queue.remove(AttentionGroup::ChallengeDynamic);
    if !auth.user_pass || auth.autologin {
        return false;
    }
    renew_login(queue, auth, dialect);
    ask_static_challenge(queue, auth, dialect);
    true
}

/// Asks for what the profile lacks, and for a password where that is nothing.
fn renew_login(queue: &mut Queue, auth: &AuthOptions, dialect: Dialect) {
    let username = (auth.locked_username.is_none() && auth.username.is_none())
        .then(|| Question::new("username", "Auth User name", false));
    let password = (auth.password.is_none() || username.is_none())
        .then(|| Question::new("password", "Auth Password", true));
    queue.renew(AttentionGroup::UserPassword, dialect, username.into_iter().chain(password));
}

/// Asks for the answer to the profile's challenge, if it has one.
pub(super) fn ask_static_challenge(queue: &mut Queue, auth: &AuthOptions, dialect: Dialect) {
    if let Some(challenge) = &auth.static_challenge {
        let question = Question::new("static_challenge", &*challenge.text, !challenge.echo);
        queue.renew(AttentionGroup::ChallengeStatic, dialect, [question]);
    }
}

/// Asks for the passphrase of the private key.
pub(super) fn ask_passphrase(queue: &mut Queue, dialect: Dialect) {
    let question = Question::new("pk_passphrase", "Private key passphrase", true);
    queue.renew(AttentionGroup::PkPassphrase, dialect, [question]);
}

/// Asks for the credentials of the HTTP proxy.
pub(super) fn ask_proxy(queue: &mut Queue, dialect: Dialect) {
    let questions = [
        Question::new("http_proxy_user", "HTTP proxy username", false),
        Question::new("http_proxy_pass", "HTTP proxy password", true),
    ];
    queue.renew(AttentionGroup::HttpProxyCreds, dialect, questions);
}

/// Takes the answers for one attempt. Answers to challenges are used up by it, and with `auth-nocache`
/// every answer is.
pub(super) fn login(
    queue: &mut Queue,
    options: &Options,
    challenge: Option<DynamicChallenge>,
) -> Login {
    let auth = &options.auth;
    if let Some(challenge) = challenge {
        let response = queue
            .value(AttentionGroup::ChallengeDynamic, "dynamic_challenge")
            .map_or("", |value| value.expose());
        let password = format!("CRV1::{}::{response}", challenge.state_id);
        queue.remove(AttentionGroup::ChallengeDynamic);
        let credentials =
            Credentials { username: challenge.username, password: Secret::new(password) };
        return Login { credentials, one_time: true };
    }

    let answer = |name| queue.value(AttentionGroup::UserPassword, name);
    let username = auth
        .locked_username
        .clone()
        .or_else(|| answer("username").map(|value| value.expose().clone()))
        .or_else(|| auth.username.clone())
        .unwrap_or_default();
    let password = answer("password").or(auth.password.as_ref()).cloned().unwrap_or_default();
    let response = queue.value(AttentionGroup::ChallengeStatic, "static_challenge");
    let (password, one_time) = match (response, &auth.static_challenge) {
        (Some(response), Some(challenge)) if challenge.concat => {
            (Secret::new(format!("{}{}", password.expose(), response.expose())), true)
        }
        (Some(response), Some(_)) => (
            Secret::new(format!(
                "SCRV1:{}:{}",
                BASE64.encode(password.expose()),
                BASE64.encode(response.expose())
            )),
            true,
        ),
        _ => (password, false),
    };
    if auth.nocache {
        queue.spend(AttentionGroup::UserPassword);
    }
    queue.spend(AttentionGroup::ChallengeStatic);
    Login { credentials: Credentials { username, password }, one_time }
}

/// The passphrase of the private key: the user's, or else the profile's.
pub(super) fn passphrase(queue: &Queue, options: &Options) -> Option<Secret<String>> {
    let answer = queue.value(AttentionGroup::PkPassphrase, "pk_passphrase");
    answer.or(options.tls.key_passphrase.as_ref()).cloned()
}

/// The proxy credentials the user gave, if any.
pub(super) fn proxy(queue: &Queue) -> Option<Credentials> {
    let group = AttentionGroup::HttpProxyCreds;
    Some(Credentials {
        username: queue.value(group, "http_proxy_user")?.expose().clone(),
        password: queue.value(group, "http_proxy_pass")?.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{NoFiles, Profile};

    fn options(extra: &str) -> Options {
        let fingerprint = ["00"; 32].join(":");
        let profile = format!("client\nremote a\npeer-fingerprint {fingerprint}\n{extra}\n");
        Profile::parse(&profile, "test", &NoFiles).unwrap().options
    }

    /// What goes to the server as the password, and whether it may go there only once.
    fn sent(extra: &str, answers: &[(AttentionGroup, &str)]) -> (String, bool) {
        let options = options(&format!("auth-user-pass\n{extra}"));
        let mut queue = Queue::default();
        ask_login(&mut queue, &options.auth, Dialect::Deployed);
        let challenge = DynamicChallenge {
            state_id: "Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l".to_owned(),
            username: "cr1".to_owned(),
        };
        let question = Question::new("dynamic_challenge", "PIN", false);
        queue.renew(AttentionGroup::ChallengeDynamic, Dialect::Deployed, [question]);
        for (group, answer) in answers {
            let numbers = group.numbers(Dialect::Deployed);
            let id = *queue.check(numbers).last().unwrap();
            queue.provide(numbers, id, answer).unwrap();
        }
        let dynamic = answers.iter().any(|(group, _)| *group == AttentionGroup::ChallengeDynamic);
        let login = login(&mut queue, &options, dynamic.then_some(challenge));
        (login.credentials.password.expose().clone(), login.one_time)
    }

    #[test]
    fn only_what_the_profile_lacks_is_asked_for() {
        let asked = |lines: &str| {
            let options = options(lines);
            let mut queue = Queue::default();
            let numbers = AttentionGroup::UserPassword.numbers(Dialect::Deployed);
            let names = |queue: &Queue| {
                let slot = |id| queue.fetch(numbers, id).unwrap().name();
                queue.check(numbers).into_iter().map(slot).collect::<Vec<_>>().join(" ")
            };
            ask_login(&mut queue, &options.auth, Dialect::Deployed);
            let first = names(&queue);
            ask_login_again(&mut queue, &options.auth, Dialect::Deployed);
            (first, names(&queue))
        };
        let inline = |text: &str| format!("<auth-user-pass>\n{text}\n</auth-user-pass>");
        for (lines, first, again) in [
            ("auth-user-pass".to_owned(), "username password", "username password"),
            (inline("joe"), "password", "password"),
            ("auth-user-pass username-only".to_owned(), "username", "username"),
            (inline("joe\nsecret"), "", ""),
        ] {
            assert_eq!(asked(&lines), (first.to_owned(), again.to_owned()), "{lines}");
        }
    }

    // Known vectors of the protocol reference, 16.14.
    #[test]
    fn challenge_vectors() {
        use AttentionGroup::{ChallengeDynamic, ChallengeStatic, UserPassword};
        let scrv1 = "static-challenge PIN 1";
        for (extra, answers, password) in [
            (
                scrv1,
                &[(UserPassword, "cpassword"), (ChallengeStatic, "challenge_response")][..],
                "SCRV1:Y3Bhc3N3b3Jk:Y2hhbGxlbmdlX3Jlc3BvbnNl",
            ),
            (
                scrv1,
                &[(UserPassword, "bar"), (ChallengeStatic, "8675309")],
                "SCRV1:YmFy:ODY3NTMwOQ==",
            ),
            (
                "static-challenge PIN 1 concat",
                &[(UserPassword, "c1password"), (ChallengeStatic, "0123456")],
                "c1password0123456",
            ),
            (
                "",
                &[(ChallengeDynamic, "8675309")],
                "CRV1::Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l::8675309",
            ),
        ] {
            assert_eq!(sent(extra, answers), (password.to_owned(), true));
        }
        assert_eq!(sent("", &[(UserPassword, "bar")]), ("bar".to_owned(), false));
    }
}
