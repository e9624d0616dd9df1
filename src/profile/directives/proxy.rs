//! Proxies.

use super::auth::user_pass;
use super::{Call, Entry};
use crate::profile::draft::Draft;
use crate::profile::options::{HttpProxy, Proxy, ProxyAuth, ProxyKind};
use crate::profile::values::{host, one_of, port};
use crate::profile::verdict::{Done, Outcome, Problem};
use crate::secret::Credentials;

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("http-proxy", 2, 4, http_proxy).in_connection(),
    Entry::apply("http-proxy-user-pass", 1, 1, |d, c| {
        let credentials = credentials(c)?;
        d.endpoint(c).proxy.credentials = credentials;
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("http-proxy-option", 1, 3, option).in_connection(),
    // Another connection than meant.
    Entry::refuse(
        "socks-proxy",
        "SOCKS proxies are not supported, and going around the proxy is not what was asked for",
        "use http-proxy with a TCP server, or OpenVPN 2",
    )
    .in_connection(),
];

/// What was read of an endpoint's proxy.
#[derive(Clone, Default)]
pub(in crate::profile) struct ProxyDraft {
    named: Option<Named>,
    credentials: Option<Credentials>,
    version: Option<String>,
    agent: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

/// The directive that names the proxy, as written.
#[derive(Clone)]
struct Named {
    host: String,
    port: u16,
    auth: ProxyAuth,
}

impl ProxyDraft {
    /// A block's settings, the rest from `global`.
    pub(in crate::profile) fn over(&self, global: &Self) -> Self {
        Self {
            named: self.named.clone().or_else(|| global.named.clone()),
            credentials: self.credentials.clone().or_else(|| global.credentials.clone()),
            version: self.version.clone().or_else(|| global.version.clone()),
            agent: self.agent.clone().or_else(|| global.agent.clone()),
            headers: if self.headers.is_empty() { &global.headers } else { &self.headers }.clone(),
        }
    }

    /// The proxy, if one was named.
    pub(in crate::profile) fn finish(self) -> Option<Proxy> {
        let Named { host, port, auth } = self.named?;
        let auth = match auth {
            // Credentials without a method mean: whatever the proxy asks for.
            ProxyAuth::None if self.credentials.is_some() => ProxyAuth::Any,
            auth => auth,
        };
        let http = HttpProxy {
            auth,
            version: self.version.unwrap_or_else(|| "1.0".to_owned()),
            user_agent: self.agent,
            custom_headers: self.headers,
        };
        Some(Proxy { host, port, credentials: self.credentials, kind: ProxyKind::Http(http) })
    }
}

fn http_proxy(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let mut auth = match call.get(2) {
        None => ProxyAuth::None,
        Some("none") => ProxyAuth::None,
        Some("auto-nct") => ProxyAuth::NoCleartext,
        Some(_) => ProxyAuth::Any,
    };
    let mut file = None;
    let mut method = call.get(3);
    match call.get(2) {
        None | Some("auto" | "auto-nct") => {}
        Some(word @ ("none" | "basic" | "digest" | "ntlm" | "ntlm2")) => method = Some(word),
        Some("stdin") => {}
        Some(path) => file = Some(path),
    }
    match method {
        None | Some("basic") => {}
        Some("none") => auth = ProxyAuth::None,
        Some("digest" | "ntlm" | "ntlm2") => auth = ProxyAuth::NoCleartext,
        Some(other) => return Err(one_of(other, "none, basic, digest")),
    }
    let proxy = Named { host: host(call.word(0)?)?, port: port(call.word(1)?)?, auth };
    let credentials = match file {
        Some(path) => {
            let args = [path.to_owned()];
            Some(credentials(&Call { args: &args, inline: None, ..*call })?)
        }
        None => None,
    };
    let endpoint = draft.endpoint(call);
    endpoint.proxy.named = Some(proxy);
    if let Some(credentials) = credentials {
        endpoint.proxy.credentials = credentials;
    }
    Ok(match method {
        Some("ntlm" | "ntlm2") => {
            Done::Warned("NTLM is not available; the proxy must offer Digest too".to_owned())
        }
        _ => Done::Taken,
    })
}

fn credentials(call: &Call<'_>) -> Result<Option<Credentials>, Problem> {
    let text = call.text()?;
    let (username, password) = user_pass(text.expose())?;
    Ok(username.map(|username| Credentials { username, password: password.unwrap_or_default() }))
}

fn option(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let kind = call.word(0)?.to_ascii_uppercase();
    let value = || call.get(1).map(str::to_owned).ok_or_else(|| Problem::new("a value is missing"));
    let printable = |text: &str| !text.chars().any(char::is_control);
    if !call.args.iter().all(|word| printable(word)) {
        return Err(Problem::new("control characters would break the proxy's protocol"));
    }
    match kind.as_str() {
        "VERSION" => {
            let version = value()?;
            if !matches!(version.as_str(), "1.0" | "1.1") {
                return Err(one_of(&version, "1.0, 1.1"));
            }
            draft.endpoint(call).proxy.version = Some(version);
        }
        "AGENT" => draft.endpoint(call).proxy.agent = Some(value()?),
        "CUSTOM-HEADER" => {
            let header = (value()?, call.get(2).map(str::to_owned));
            draft.endpoint(call).proxy.headers.push(header);
        }
        kind if kind.starts_with("EXT") => {
            return Ok(Done::Ignored("an extension of OpenVPN Connect".to_owned()));
        }
        other => return Err(one_of(other, "VERSION, AGENT, CUSTOM-HEADER")),
    }
    Ok(Done::Taken)
}
