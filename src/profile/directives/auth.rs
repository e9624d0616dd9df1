//! User name, password and challenges.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Call, Entry};
use crate::profile::draft::Draft;
use crate::profile::options::StaticChallenge;
use crate::profile::values::one_of;
use crate::profile::verdict::{Done, Outcome, Problem};
use crate::secret::Secret;
use crate::text::decoded;

/// Longest user name or password line (OpenVPN 3).
const MAX_LINE: usize = 1024;
/// The password that stands for "none" (OpenVPN 2.7).
const BLANK_PASSWORD: &str = "[[BLANK]]";

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("auth-user-pass", 0, 1, auth_user_pass),
    // In a profile they spare the first question, where the server answers with a challenge.
    Entry::apply("auth-token", 1, 1, |d, c| {
        d.token = Some(c.word(0)?.into());
        Ok(Done::Noted("sent as the password".to_owned()))
    }),
    Entry::apply("auth-token-user", 1, 1, |d, c| {
        let decoded =
            STANDARD.decode(c.word(0)?).ok().and_then(|name| String::from_utf8(name).ok());
        d.token_user = Some(decoded.ok_or_else(|| {
            Problem::with_hint(
                "not a user name in base64",
                "write what 'printf %s NAME | base64' prints, or use auth-user-pass",
            )
        })?);
        Ok(Done::Noted("the user name for auth-token".to_owned()))
    }),
    Entry::apply("auth-nocache", 0, 0, |d, c| {
        d.options.auth.nocache = true;
        d.nocache = Some(c.line);
        Ok(Done::Taken)
    }),
    Entry::apply("static-challenge", 2, 3, |d, c| {
        let echo = match c.word(1)? {
            "0" => false,
            "1" => true,
            other => return Err(one_of(other, "0, 1")),
        };
        let concat = match c.get(2) {
            None | Some("scrv1") => false,
            Some("concat") => true,
            Some(other) => return Err(one_of(other, "scrv1, concat")),
        };
        let text = c.word(0)?.to_owned();
        d.options.auth.static_challenge = Some(StaticChallenge { text, echo, concat });
        Ok(Done::Taken)
    }),
];

fn auth_user_pass(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    if call.get(0) == Some("username-only") {
        draft.options.auth.user_pass = true;
        draft.options.auth.password = Some(BLANK_PASSWORD.into());
        return Ok(Done::Taken);
    }
    if call.inline.is_none() && call.args.is_empty() {
        draft.options.auth.user_pass = true;
        return Ok(Done::Taken);
    }
    let bytes = call.bytes()?;
    if bytes.expose().contains(&0) {
        return Err(Problem::new("the content is not text (is it in binary form, or UTF-16?)"));
    }
    let (text, latin1) = decoded(bytes.expose());
    let (username, password) = user_pass(text.expose().trim_start_matches('\u{feff}'))?;
    draft.options.auth.user_pass = true;
    let missing = match (&username, &password) {
        (None, _) => Some("user name"),
        (_, None) => Some("password"),
        _ => None,
    };
    draft.options.auth.username = username;
    draft.options.auth.password = password;
    Ok(match missing {
        Some(what) => Done::Noted(format!("the {what} is asked for")),
        None if latin1 => Done::Noted("read as Latin-1, and sent as UTF-8".to_owned()),
        None => Done::Taken,
    })
}

/// The first two lines of a credentials file: user name and password, control characters removed;
/// `None` where a line is missing or empty.
pub(super) fn user_pass(text: &str) -> Result<(Option<String>, Option<Secret<String>>), Problem> {
    let mut lines = text.lines();
    let mut line = || -> Result<Option<Secret<String>>, Problem> {
        let Some(line) = lines.next() else { return Ok(None) };
        if line.len() > MAX_LINE {
            return Err(Problem::new(format!("a line is longer than {MAX_LINE} bytes")));
        }
        let clean: String = line.chars().filter(|c| !c.is_control()).collect();
        Ok((!clean.is_empty()).then(|| Secret::new(clean)))
    };
    Ok((line()?.map(|name| name.expose().clone()), line()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_file_is_read_as_it_was_written() {
        use crate::profile::{Profile, ProfileFile};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old.ovpn");
        let fingerprint = ["00"; 32].join(":");
        let profile = |login: &[u8]| -> Result<Profile, String> {
            let text = format!("client\nremote a\npeer-fingerprint {fingerprint}\n");
            std::fs::write(&path, [text.as_bytes(), b"# M\xfcnchen\n", login].concat()).unwrap();
            let file = ProfileFile::read(&path).unwrap();
            Profile::parse(file.text.expose(), &file.name, &file.files).map_err(|e| e.to_string())
        };
        let auth = |profile: Profile| profile.options.auth;
        let inline = b"<auth-user-pass>\njos\xe9\nm\xfcller\n</auth-user-pass>\n";
        std::fs::write(directory.path().join("login"), b"jos\xe9\nm\xfcller\n").unwrap();
        for login in [&inline[..], b"auth-user-pass login\n"] {
            let auth = auth(profile(login).unwrap());
            assert_eq!(auth.username.as_deref(), Some("jos\u{e9}"));
            assert_eq!(auth.password.unwrap().expose(), "m\u{fc}ller");
        }
        std::fs::write(directory.path().join("login"), b"j\0o\0e\0\n\0").unwrap();
        assert!(profile(b"auth-user-pass login\n").unwrap_err().contains("not text"));
    }

    // Known vectors of the protocol reference, 16.14.
    #[test]
    fn credentials_are_the_first_two_lines() {
        let (name, password) = user_pass("\tiuser\r\npass word\r\nmore\n").unwrap();
        assert_eq!(name.as_deref(), Some("iuser"));
        assert_eq!(password.unwrap().expose(), "pass word");
        let (name, password) = user_pass("iuser\n\n").unwrap();
        assert_eq!((name.as_deref(), password), (Some("iuser"), None));
        assert!(user_pass(&"x".repeat(1025)).is_err());
    }
}
