//! Text messages of the server inside TLS: bytes in, meaning out. Pure.
//!
//! Facts: OpenVPN 2 `forward.c`, `push.c`; OpenVPN 3 `client/cliproto.hpp`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::event::{Advance, AuthFailed, PendingAuth, RestartFlags};

/// Longest text that is shown to people, in bytes. Servers of OpenVPN 2 send up to 1 kB.
const MAX_SHOWN: usize = 2048;

/// What the server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerMessage {
    /// `PUSH_REPLY`: the options, still joined by commas.
    PushReply(String),
    /// `PUSH_UPDATE`: changes of what was pushed, still joined by commas.
    PushUpdate(String),
    /// `AUTH_FAILED`
    AuthFailed(AuthFailed),
    /// `AUTH_PENDING`
    AuthPending {
        /// `timeout N`
        timeout: Option<Duration>,
    },
    /// `INFO` or `INFO_PRE` that wants something from the user.
    PendingAuth(PendingAuth),
    /// Any other `INFO` or `INFO_PRE`.
    Info(String),
    /// `ACC`: a part of a message of an application, behind `ACC,`.
    AppControl(String),
    /// `ACC:` in `INFO` or `INFO_PRE`: what the server agrees to, behind the colon.
    AppControlAgreed(String),
    /// `RESTART`
    Restart {
        /// Text.
        reason: String,
        /// Bracketed flags.
        flags: RestartFlags,
    },
    /// `HALT`
    Halt {
        /// Text.
        reason: String,
    },
    /// `EXIT`
    Exit,
    /// Nothing for a client.
    Unknown,
}

/// The text of one message without its NUL: trailing line ends removed. `None` if it holds
/// control characters, which no honest server sends.
pub fn clean(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

impl ServerMessage {
    /// Reads a cleaned message.
    pub fn parse(text: &str) -> Self {
        if let Some(rest) = text.strip_prefix("AUTH_FAILED") {
            let mut reason = rest.chars();
            reason.next();
            Self::AuthFailed(auth_failed(reason.as_str().trim_start()))
        } else if let Some(rest) = argument(text, "PUSH_REPLY") {
            Self::PushReply(rest.to_owned())
        } else if let Some(rest) = text.strip_prefix("PUSH_UPDATE,") {
            Self::PushUpdate(rest.to_owned())
        } else if let Some(rest) = argument(text, "RESTART") {
            let (flags, reason) = restart_flags(rest);
            Self::Restart { reason: shown(&reason), flags }
        } else if let Some(rest) = argument(text, "HALT") {
            Self::Halt { reason: shown(&restart_flags(rest).1) }
        } else if let Some(rest) = argument(text, "INFO_PRE").or_else(|| argument(text, "INFO")) {
            info(rest)
        } else if let Some(rest) = argument(text, "AUTH_PENDING") {
            let timeout = rest
                .split(',')
                .find_map(|keyword| keyword.trim().strip_prefix("timeout "))
                .and_then(|n| n.trim().parse().ok())
                .map(Duration::from_secs);
            Self::AuthPending { timeout }
        } else if let Some(rest) = text.strip_prefix("ACC,") {
            Self::AppControl(rest.to_owned())
        } else if text == "EXIT" {
            Self::Exit
        } else {
            Self::Unknown
        }
    }
}

/// A text for people, who need not read a novel.
fn shown(text: &str) -> String {
    if text.len() <= MAX_SHOWN {
        return text.to_owned();
    }
    format!("{}...", text.get(..text.floor_char_boundary(MAX_SHOWN)).unwrap_or_default())
}

/// What follows `NAME,`; empty for `NAME` alone.
fn argument<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(name)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix(',') }
}

fn restart_flags(text: &str) -> (RestartFlags, String) {
    let Some((flags, reason)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) else {
        return (RestartFlags::default(), text.to_owned());
    };
    let flags = RestartFlags { preserve: flags.contains('P'), next_remote: flags.contains('N') };
    (flags, reason.strip_prefix(':').unwrap_or(reason).to_owned())
}

fn info(text: &str) -> ServerMessage {
    let malformed = || ServerMessage::PendingAuth(PendingAuth::Malformed(shown(text)));
    let list = |flags: &str| -> Vec<String> {
        flags.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect()
    };
    if let Some(rest) = text.strip_prefix("WEB_AUTH:") {
        // Flags may hold `proxy=host;port;...`, but no colon.
        match rest.split_once(':').map(|(flags, url)| (flags, url.parse())) {
            Some((flags, Ok(url))) => {
                ServerMessage::PendingAuth(PendingAuth::OpenUrl { url, flags: list(flags) })
            }
            _ => malformed(),
        }
    } else if let Some(url) = text.strip_prefix("OPEN_URL:") {
        let Ok(url) = url.parse() else { return malformed() };
        ServerMessage::PendingAuth(PendingAuth::OpenUrl { url, flags: Vec::new() })
    } else if let Some(rest) = text.strip_prefix("CR_TEXT:") {
        let Some((flags, prompt)) = rest.split_once(':') else {
            return malformed();
        };
        let flags = list(flags);
        ServerMessage::PendingAuth(PendingAuth::Challenge {
            echo: flags.iter().any(|f| f == "E"),
            response_required: flags.iter().any(|f| f == "R"),
            text: shown(prompt),
        })
    } else if let Some(agreed) = text.strip_prefix("ACC:") {
        ServerMessage::AppControlAgreed(agreed.to_owned())
    } else {
        ServerMessage::Info(shown(text))
    }
}

fn auth_failed(reason: &str) -> AuthFailed {
    temporary(reason)
        .or_else(|| challenge(reason))
        .unwrap_or_else(|| AuthFailed::Permanent { reason: shown(reason) })
}

/// `TEMP`, `TEMP:message`, `TEMP[flags]:message`.
fn temporary(reason: &str) -> Option<AuthFailed> {
    let rest = reason.strip_prefix("TEMP")?;
    let (flags, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let message = if rest.is_empty() { "" } else { rest.strip_prefix(':')? };
    let (mut backoff, mut advance) = (None, None);
    for flag in flags.split(',') {
        match flag.trim().split_once(' ') {
            Some(("backoff", n)) => backoff = n.trim().parse().ok().map(Duration::from_secs),
            Some(("advance", to)) => {
                advance = match to.trim() {
                    "no" => Some(Advance::No),
                    "addr" => Some(Advance::Address),
                    "remote" => Some(Advance::Remote),
                    _ => advance,
                }
            }
            _ => {}
        }
    }
    Some(AuthFailed::Temporary { backoff, advance, message: shown(message) })
}

/// `CRV1:flags:state:base64 user name:text`
fn challenge(reason: &str) -> Option<AuthFailed> {
    let mut parts = reason.strip_prefix("CRV1:")?.splitn(4, ':');
    let flags = parts.next()?;
    let state_id = parts.next()?.to_owned();
    let username = String::from_utf8(BASE64.decode(parts.next()?).ok()?).ok()?;
    let text = shown(parts.next()?);
    let has = |flag| flags.split(',').any(|f| f == flag);
    Some(AuthFailed::Challenge {
        echo: has("E"),
        response_required: has("R"),
        state_id,
        username,
        text,
    })
}

/// The answer to a `CR_TEXT` challenge.
pub fn challenge_response(response: &str) -> String {
    format!("CR_RESPONSE,{}", BASE64.encode(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        assert_eq!(clean(b"valid control message\r\n").as_deref(), Some("valid control message"));
        assert_eq!(clean(b"").as_deref(), Some(""));
        assert_eq!(clean(b"Invalid\r\none"), None);
        assert_eq!(clean(b"valid one again").as_deref(), Some("valid one again"));
        assert_eq!(clean(b"AUTH_FAILED: go away\n").as_deref(), Some("AUTH_FAILED: go away"));
        assert_eq!(clean(b"AUTH_FAILED: go\naway"), None);
        assert_eq!(clean(b"\n\r\n").as_deref(), Some(""));
        assert_eq!(clean(b"tab\there"), None);
    }

    fn failed(text: &str) -> AuthFailed {
        match ServerMessage::parse(text) {
            ServerMessage::AuthFailed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    fn permanent(reason: &str) -> AuthFailed {
        AuthFailed::Permanent { reason: reason.to_owned() }
    }

    #[test]
    fn auth_failures() {
        assert_eq!(failed("AUTH_FAILED"), permanent(""));
        assert_eq!(failed("AUTH_FAILED: go away"), permanent("go away"));
        assert_eq!(failed("AUTH_FAILED,no such user"), permanent("no such user"));
        assert_eq!(failed("AUTH_FAILED,TEMPORARY"), permanent("TEMPORARY"));
        assert_eq!(failed("AUTH_FAILED,CRV1:R"), permanent("CRV1:R"));
        let temporary = |backoff, advance, message: &str| AuthFailed::Temporary {
            backoff: Option::map(backoff, Duration::from_secs),
            advance,
            message: message.to_owned(),
        };
        assert_eq!(failed("AUTH_FAILED,TEMP"), temporary(None, None, ""));
        assert_eq!(
            failed("AUTH_FAILED,TEMP:There are no flags here [really not]"),
            temporary(None, None, "There are no flags here [really not]")
        );
        assert_eq!(
            failed("AUTH_FAILED,TEMP[backoff 42,advance no]"),
            temporary(Some(42), Some(Advance::No), "")
        );
        assert_eq!(
            failed("AUTH_FAILED,TEMP[advance remote,backoff 77]:go round and round"),
            temporary(Some(77), Some(Advance::Remote), "go round and round")
        );
        assert_eq!(
            failed(
                "AUTH_FAILED,CRV1:R,E:Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l:Y3Ix:Please enter token: PIN"
            ),
            AuthFailed::Challenge {
                echo: true,
                response_required: true,
                state_id: "Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l".to_owned(),
                username: "cr1".to_owned(),
                text: "Please enter token: PIN".to_owned(),
            }
        );
    }

    #[test]
    fn a_novel_is_not_shown() {
        let long = "é".repeat(9000);
        for start in ["INFO,", "AUTH_FAILED,", "HALT,", "RESTART,[P]", "INFO_PRE,CR_TEXT:R:"] {
            let message = ServerMessage::parse(&format!("{start}{long}"));
            assert!(format!("{message:?}").len() < MAX_SHOWN + 200, "{start}");
        }
    }

    #[test]
    fn restart_and_halt() {
        let restart = |preserve, next_remote, reason: &str| ServerMessage::Restart {
            reason: reason.to_owned(),
            flags: RestartFlags { preserve, next_remote },
        };
        assert_eq!(ServerMessage::parse("RESTART"), restart(false, false, ""));
        assert_eq!(ServerMessage::parse("RESTART,[P]:why"), restart(true, false, "why"));
        assert_eq!(ServerMessage::parse("RESTART,[PN]why"), restart(true, true, "why"));
        assert_eq!(ServerMessage::parse("RESTART,[open"), restart(false, false, "[open"));
        assert_eq!(
            ServerMessage::parse("HALT,[N]bye"),
            ServerMessage::Halt { reason: "bye".to_owned() }
        );
        assert_eq!(ServerMessage::parse("HALTED"), ServerMessage::Unknown);
    }

    // Known vectors of the protocol reference, 16.12.
    #[test]
    fn push_updates() {
        let update = ServerMessage::parse("PUSH_UPDATE, -?dns, route something");
        assert_eq!(update, ServerMessage::PushUpdate(" -?dns, route something".to_owned()));
        for other in ["PUSH_UPDATEerr,route 1.2.3.4", "PUSH_UPDATE ,route 1.2.3.4", "PUSH_UPDATE"] {
            assert_eq!(ServerMessage::parse(other), ServerMessage::Unknown, "{other}");
        }
    }

    #[test]
    fn pending_authentication() {
        let url = |url: &str, flags: &[&str]| {
            ServerMessage::PendingAuth(PendingAuth::OpenUrl {
                url: url.parse().unwrap(),
                flags: flags.iter().map(|&f| f.to_owned()).collect(),
            })
        };
        assert_eq!(
            ServerMessage::parse("INFO_PRE,WEB_AUTH::https://a:1/?b"),
            url("https://a:1/?b", &[])
        );
        assert_eq!(
            ServerMessage::parse("INFO_PRE,WEB_AUTH:hidden,external:https://a"),
            url("https://a", &["hidden", "external"])
        );
        assert_eq!(ServerMessage::parse("INFO,OPEN_URL:https://a"), url("https://a", &[]));
        assert_eq!(
            ServerMessage::parse("INFO_PRE,CR_TEXT:R,E:Code: ?"),
            ServerMessage::PendingAuth(PendingAuth::Challenge {
                echo: true,
                response_required: true,
                text: "Code: ?".to_owned(),
            })
        );
        for bad in [
            "WEB_AUTH:",
            "WEB_AUTH:x",
            "WEB_AUTH::",
            "WEB_AUTH::javascript:alert(1)",
            "OPEN_URL:",
            "OPEN_URL:--version; file:///root/x.desktop",
            "OPEN_URL:smb://attacker.example/share",
            "CR_TEXT:x",
        ] {
            assert_eq!(
                ServerMessage::parse(&format!("INFO_PRE,{bad}")),
                ServerMessage::PendingAuth(PendingAuth::Malformed(bad.to_owned()))
            );
        }
        assert_eq!(ServerMessage::parse("INFO,hello"), ServerMessage::Info("hello".to_owned()));
        assert_eq!(challenge_response("8675309"), "CR_RESPONSE,ODY3NTMwOQ==");
    }

    #[test]
    fn auth_pending() {
        let pending = |timeout: Option<u64>| ServerMessage::AuthPending {
            timeout: timeout.map(Duration::from_secs),
        };
        assert_eq!(ServerMessage::parse("AUTH_PENDING"), pending(None));
        assert_eq!(ServerMessage::parse("AUTH_PENDING,timeout 30"), pending(Some(30)));
        assert_eq!(ServerMessage::parse("AUTH_PENDING,x y,timeout 5,z"), pending(Some(5)));
        assert_eq!(ServerMessage::parse("AUTH_PENDING,timeout x"), pending(None));
    }
}
