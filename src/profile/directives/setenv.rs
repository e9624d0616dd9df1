//! `setenv` and Access Server meta directives: settings that hide in variables.

use super::{Call, Entry};
use crate::profile::draft::Draft;
use crate::profile::lexer::Directive;
use crate::profile::meta::Meta;
use crate::profile::values::{MAX_DURATION, seconds};
use crate::profile::verdict::{Done, Outcome, Problem};

/// Longest user name (OpenVPN 3).
const MAX_USERNAME: usize = 256;

/// `setenv opt DIRECTIVE` is taken apart before the table is asked.
pub(super) const TABLE: &[Entry] = &[
    Entry::apply("setenv", 1, 2, setenv),
    // Its names are collected before anything else.
    Entry::apply("ignore-unknown-option", 1, 15, |_, _| Ok(Done::Taken)),
    Entry::apply("push-peer-info", 0, 0, |d, _| {
        d.options.push_peer_info = true;
        Ok(Done::Taken)
    }),
];

/// Whether the profile says `setenv FORWARD_COMPATIBLE 1`.
pub(in crate::profile) fn forward_compatible(directive: &Directive) -> bool {
    directive.name == "setenv"
        && matches!(directive.args.as_slice(), [name, value] if name == "FORWARD_COMPATIBLE" && value == "1")
}

fn setenv(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let name = call.word(0)?;
    let value = call.get(1).unwrap_or_default();
    let options = &mut draft.options;
    match name {
        "FORWARD_COMPATIBLE" => {}
        "CLIENT_CERT" => draft.no_client_cert = value == "0",
        "SERVER_POLL_TIMEOUT" => {
            let timeout = seconds(value, MAX_DURATION)?;
            if timeout.is_zero() {
                return Err(Problem::new("0 seconds leave no time to connect"));
            }
            options.retry.server_poll_timeout = timeout;
        }
        "REMOTE_RANDOM_HOSTNAME" => options.remote_random_hostname = true,
        "PUSH_PEER_INFO" => options.push_peer_info = true,
        "USERNAME" => lock_username(draft, value)?,
        "FRIENDLY_NAME" => options.friendly_name = Some(value.to_owned()),
        "GENERIC_CONFIG" => {
            return Err(Problem::with_hint(
                "a server-locked profile needs Access Server's own login protocol, which is not \
                 supported",
                "download a user-locked or autologin profile instead",
            ));
        }
        "ALLOW_PASSWORD_SAVE" => {
            return Ok(Done::Ignored("passwords are never saved here".to_owned()));
        }
        "SERVER" => return Ok(Done::Ignored("names servers for a menu".to_owned())),
        _ if name.starts_with("UV_") || matches!(name, "IV_SSO" | "IV_GUI_VER" | "IV_HWADDR") => {
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                || value.chars().any(char::is_control)
            {
                return Err(Problem::new("the name or value cannot be sent to the server"));
            }
            options.peer_info.retain(|(known, _)| known != name);
            options.peer_info.push((name.to_owned(), value.to_owned()));
            if name.starts_with("UV_") && !options.push_peer_info {
                return Ok(Done::Noted("sent to the server only with push-peer-info".to_owned()));
            }
        }
        _ if name.starts_with("IV_") => {
            return Ok(Done::Ignored("what the client can do is told by itself".to_owned()));
        }
        _ => return Ok(Done::Ignored("an environment variable of scripts".to_owned())),
    }
    Ok(Done::Taken)
}

fn lock_username(draft: &mut Draft, name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.len() > MAX_USERNAME || name.chars().any(char::is_control) {
        return Err(Problem::new(format!("not a user name of 1 to {MAX_USERNAME} characters")));
    }
    draft.options.auth.locked_username = Some(name.to_owned());
    Ok(())
}

/// Applies one Access Server meta directive.
pub(in crate::profile) fn meta(draft: &mut Draft, meta: &Meta) -> Outcome {
    let value = meta.value.as_str();
    match meta.key.as_str() {
        "USERNAME" => lock_username(draft, value)?,
        // PROFILE is `user@host/TYPE`; FRIENDLY_NAME is the better name where both are there.
        "PROFILE" => {
            let name = value.split('/').next().unwrap_or_default().to_owned();
            draft.options.friendly_name.get_or_insert(name);
        }
        "FRIENDLY_NAME" => draft.options.friendly_name = Some(value.to_owned()),
        "AUTOLOGIN" => draft.meta_autologin = Some(value != "0"),
        "EXTERNAL_PKI" => draft.external_pki = value != "0",
        "HOST_LIST" => return Ok(Done::Ignored("names servers for a menu".to_owned())),
        "CLI_PREF_ALLOW_WEB_IMPORT"
        | "CLI_PREF_BASIC_CLIENT"
        | "CLI_PREF_ENABLE_CONNECT"
        | "CLI_PREF_ENABLE_XD_PROXY"
        | "WSHOST"
        | "WEB_CA_BUNDLE"
        | "IS_OPENVPN_WEB_CA"
        | "NO_WEB"
        | "ORGANIZATION" => {
            return Ok(Done::Ignored("for Access Server's own clients".to_owned()));
        }
        _ => return Ok(Done::Warned("not a known meta directive".to_owned())),
    }
    Ok(Done::Taken)
}
