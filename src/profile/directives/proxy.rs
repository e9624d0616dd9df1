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
    Entry::apply("socks-proxy", 1, 3, socks_proxy).in_connection(),
];

/// What was read of an endpoint's proxy.
#[derive(Clone, Default)]
pub(in crate::profile) struct ProxyDraft {
    named: Option<Named>,
    /// For HTTP.
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
    kind: NamedKind,
}

#[derive(Clone)]
enum NamedKind {
    Http(ProxyAuth),
    Socks5(Option<Credentials>),
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
        let Named { host, port, kind } = self.named?;
        let auth = match kind {
            NamedKind::Http(auth) => auth,
            NamedKind::Socks5(credentials) => {
                return Some(Proxy { host, port, credentials, kind: ProxyKind::Socks5 });
            }
        };
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
    let kind = NamedKind::Http(auth);
    let proxy = Named { host: host(call.word(0)?)?, port: port(call.word(1)?)?, kind };
    let credentials = match file {
        Some(path) => {
            let args = [path.to_owned()];
            Some(credentials(&Call { args: &args, inline: None, ..*call })?)
        }
        None => None,
    };
    let endpoint = draft.endpoint(call);
    name(&mut endpoint.proxy, proxy)?;
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

/// `socks-proxy HOST [PORT [FILE]]`
fn socks_proxy(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    const DEFAULT_PORT: u16 = 1080;
    let credentials = match call.get(2) {
        None | Some("stdin") => None,
        Some(path) => {
            let args = [path.to_owned()];
            credentials(&Call { args: &args, inline: None, ..*call })?
        }
    };
    let port = call.get(1).map_or(Ok(DEFAULT_PORT), port)?;
    let kind = NamedKind::Socks5(credentials);
    name(&mut draft.endpoint(call).proxy, Named { host: host(call.word(0)?)?, port, kind })?;
    Ok(Done::Taken)
}

/// The last line counts, but only among proxies of one kind.
fn name(draft: &mut ProxyDraft, proxy: Named) -> Result<(), Problem> {
    let is_socks = |named: &Named| matches!(named.kind, NamedKind::Socks5(_));
    if draft.named.as_ref().is_some_and(|other| is_socks(other) != is_socks(&proxy)) {
        return Err(Problem::with_hint(
            "http-proxy and socks-proxy are both there",
            "keep the one that is to be used",
        ));
    }
    draft.named = Some(proxy);
    Ok(())
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
