//! Overrides of the configuration manager: settings that win over the profile's text.
//!
//! Names, types and effects: D-Bus contract of OpenVPN 3 Linux, configuration service.

use ovpn_dco::Cipher;

use super::compression::AllowCompression;
use super::directives::cert_profile;
use super::options::*;
use super::values;
use super::verdict::Problem;
use crate::secret::{Credentials, Secret};
use crate::text::excerpt;

/// A value as the configuration manager stores it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OverrideValue {
    /// D-Bus type `s`.
    Text(String),
    /// D-Bus type `b`.
    Flag(bool),
    /// Another D-Bus type, by its signature. No override has one.
    Other(String),
}

/// Longest text, in bytes: a user name or password of a profile has as much.
const MAX_TEXT: usize = 1024;
/// Longest name that is shown, in bytes.
const MAX_NAME: usize = 64;

/// An override that cannot be used. Its text is the log line that OpenVPN 3 Linux writes, with the
/// reason.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Unsupported override: {name} ({reason})")]
pub struct OverrideError {
    /// As stored.
    pub name: String,
    /// What is wrong with it. Never holds the value.
    pub reason: String,
    /// Without it packets would go where they are not meant to go (past a proxy, to another
    /// server, around the tunnel): no connection may be made. Otherwise it is only to be logged.
    pub misdirects: bool,
}

impl OverrideError {
    fn new(name: &str, reason: impl Into<String>) -> Self {
        Self {
            name: excerpt(name, MAX_NAME).into_owned(),
            reason: reason.into(),
            misdirects: MISDIRECTING.contains(&name),
        }
    }
}

/// Overrides that say where packets go.
const MISDIRECTING: [&str; 6] =
    ["server-override", "port-override", "proto-override", "ipv6", "proxy-host", "proxy-port"];

/// `dns-scope`
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Debug,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum DnsScope {
    /// The tunnel's servers answer for every name.
    #[default]
    Global,
    /// Only for names of the tunnel's domains.
    Tunnel,
}

/// HTTP proxy overrides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct ProxyOverrides {
    host: Option<String>,
    port: Option<u16>,
    username: Option<String>,
    password: Option<Secret<String>>,
    cleartext: Option<bool>,
}

/// A set of valid overrides. Fields are those that others than the profile need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// `dns-scope`
    pub dns_scope: DnsScope,
    /// `dns-setup-disabled`
    pub dns_setup_disabled: bool,
    /// `auth-fail-retry`: keep trying after AUTH_FAILED.
    pub auth_fail_retry: bool,
    /// CBC data ciphers are offered to the server whatever the profile says.
    legacy_algorithms: bool,
    /// `log-level`, 1..=6.
    pub log_level: Option<u8>,
    server: Option<String>,
    port: Option<u16>,
    protocol: Option<Protocol>,
    unpushed_ipv6: Option<UnpushedFamily>,
    dns_fallback: bool,
    allow_compression: Option<AllowCompression>,
    tls_version_min: Option<TlsVersion>,
    cert_profile: Option<CertProfile>,
    persist_tun: Option<bool>,
    enterprise_profile: Option<String>,
    proxy: ProxyOverrides,
}

impl Overrides {
    /// Takes all overrides of a profile; those that cannot be used are returned and have no effect.
    pub fn collect(
        values: impl IntoIterator<Item = (String, OverrideValue)>,
    ) -> (Self, Vec<OverrideError>) {
        let mut overrides = Self::default();
        let errors = values
            .into_iter()
            .filter_map(|(name, value)| overrides.set(&name, &value).err())
            .collect();
        (overrides, errors)
    }

    /// Takes one override.
    ///
    /// # Errors
    /// Unknown name, wrong type, unusable or too long value. Nothing has changed then.
    pub fn set(&mut self, name: &str, value: &OverrideValue) -> Result<(), OverrideError> {
        let result = match value {
            OverrideValue::Text(text) if text.len() > MAX_TEXT => Err(Problem::new(format!(
                "it has {} bytes, at most {MAX_TEXT} are taken",
                text.len()
            ))),
            OverrideValue::Text(text) => self.set_text(name, text),
            OverrideValue::Flag(flag) => self.set_flag(name, *flag),
            OverrideValue::Other(signature) => Err(Problem::new(format!(
                "its D-Bus type is {signature}, overrides are texts (s) or yes/no (b)"
            ))),
        };
        result.map_err(|problem| OverrideError::new(name, problem.reason))
    }

    fn set_flag(&mut self, name: &str, flag: bool) -> Result<(), Problem> {
        match name {
            "dns-fallback-google" => self.dns_fallback = flag,
            "dns-setup-disabled" => self.dns_setup_disabled = flag,
            "auth-fail-retry" => self.auth_fail_retry = flag,
            "persist-tun" => self.persist_tun = Some(flag),
            "proxy-auth-cleartext" => self.proxy.cleartext = Some(flag),
            // Names are always looked up without blocking anything else.
            "dns-sync-lookup" => {}
            "enable-legacy-algorithms" => self.legacy_algorithms = flag,
            _ => return Err(Problem::new("not a yes/no override")),
        }
        Ok(())
    }

    fn set_text(&mut self, name: &str, text: &str) -> Result<(), Problem> {
        let choice = |allowed: &str| Problem::new(format!("not one of {allowed}"));
        match name {
            "server-override" => self.server = Some(values::host(text)?),
            "port-override" => self.port = Some(values::port(text)?),
            "proto-override" => {
                self.protocol = Some(match text {
                    "udp" => Protocol::Udp,
                    "tcp" => Protocol::Tcp,
                    _ => return Err(choice("udp, tcp")),
                });
            }
            "ipv6" => {
                self.unpushed_ipv6 = match text {
                    "yes" => Some(UnpushedFamily::Allow),
                    "no" => Some(UnpushedFamily::Block),
                    "default" => None,
                    _ => return Err(choice("yes, no, default")),
                };
            }
            "log-level" => {
                self.log_level = Some(values::number(text, 1, 6)?);
            }
            "dns-scope" => {
                self.dns_scope = match text {
                    "global" => DnsScope::Global,
                    "tunnel" => DnsScope::Tunnel,
                    _ => return Err(choice("global, tunnel")),
                };
            }
            "allow-compression" => {
                self.allow_compression = Some(AllowCompression::parse(text)?);
            }
            "tls-version-min" => {
                self.tls_version_min = match text {
                    "tls_1_0" => Some(TlsVersion::V1_0),
                    "tls_1_1" => Some(TlsVersion::V1_1),
                    "tls_1_2" => Some(TlsVersion::V1_2),
                    "tls_1_3" => Some(TlsVersion::V1_3),
                    "default" => None,
                    // Whatever the profile says, only the lowest version in use counts.
                    "disabled" => Some(TlsVersion::V1_2),
                    _ => return Err(choice("tls_1_0, tls_1_1, tls_1_2, tls_1_3")),
                };
            }
            "tls-cert-profile" => {
                self.cert_profile = match text {
                    "default" => None,
                    text => Some(cert_profile(text)?),
                };
            }
            "proxy-host" => self.proxy.host = Some(values::host(text)?),
            "proxy-port" => self.proxy.port = Some(values::port(text)?),
            "proxy-username" => self.proxy.username = Some(text.to_owned()),
            "proxy-password" => self.proxy.password = Some(text.into()),
            "enterprise-profile" => {
                self.enterprise_profile = Some(text.to_owned()).filter(|name| !name.is_empty());
            }
            // The session manager acts on it.
            "automatic-restart" if matches!(text, "no" | "on-failure") => {}
            "automatic-restart" => return Err(choice("no, on-failure")),
            _ => return Err(Problem::new("not a text override")),
        }
        Ok(())
    }

    /// Applies the overrides to a parsed profile. Those that do not fit it, or each other, are
    /// returned and have no effect; all others have.
    #[must_use]
    pub fn apply(&self, options: &mut Options) -> Vec<OverrideError> {
        let mut unusable = Vec::new();
        match self.remotes(&options.remotes) {
            Ok(remotes) => {
                if let Some(directive) =
                    remotes.iter().find_map(|r| r.proxy.as_ref()).map(Proxy::directive)
                    && !options.data.dco_incompatible.iter().any(|reason| reason == directive)
                {
                    options.data.dco_incompatible.push(directive.to_owned());
                }
                if remotes.iter().all(|r| r.proxy.is_none()) {
                    unusable.extend(self.proxy.without_proxy());
                }
                options.remotes = remotes;
            }
            Err(error) => unusable.push(error),
        }
        options.pull.unpushed_ipv6 = self.unpushed_ipv6.unwrap_or(options.pull.unpushed_ipv6);
        options.pull.dns_fallback |= self.dns_fallback;
        options.pull.dns_disabled |= self.dns_setup_disabled;
        options.verb = self.log_level.or(options.verb);
        let tls = &mut options.tls;
        tls.version_min = self.tls_version_min.unwrap_or(tls.version_min);
        tls.version_max = tls.version_max.max(tls.version_min);
        tls.cert_profile = self.cert_profile.unwrap_or(tls.cert_profile);
        let data = &mut options.data;
        if let Some(digest) = data.cbc_digest.filter(|_| self.legacy_algorithms) {
            // Behind those of the profile; a server chooses by its own order.
            for cipher in Cipher::CBC.map(|cipher| cipher.with_digest(digest)) {
                if !data.ciphers.contains(&cipher) {
                    data.ciphers.push(cipher);
                }
            }
        }
        data.allow_compression = self.allow_compression.unwrap_or(data.allow_compression);
        options.device.persist = self.persist_tun.unwrap_or(options.device.persist);
        options.enterprise_profile.clone_from(&self.enterprise_profile);
        unusable
    }

    fn remotes(&self, remotes: &[Remote]) -> Result<Vec<Remote>, OverrideError> {
        let mut changed: Vec<Remote> = Vec::new();
        for remote in remotes {
            let mut remote = remote.clone();
            if let Some(host) = &self.server {
                remote.host.clone_from(host);
            }
            remote.port = self.port.unwrap_or(remote.port);
            remote.protocol = self.protocol.unwrap_or(remote.protocol);
            if remote.protocol == Protocol::Tcp {
                remote.explicit_exit_notify = 0;
            }
            self.proxy.apply(&mut remote)?;
            if remote.proxy.is_some() && remote.protocol == Protocol::Udp {
                continue;
            }
            let same = |other: &Remote| {
                (&other.host, other.port, other.protocol, other.family)
                    == (&remote.host, remote.port, remote.protocol, remote.family)
            };
            if !changed.iter().any(same) {
                changed.push(remote);
            }
        }
        if changed.is_empty() {
            let name = if self.proxy.host.is_some() { "proxy-host" } else { "proto-override" };
            let reason = "a proxy needs a server that is reached over TCP";
            return Err(OverrideError::new(name, reason));
        }
        Ok(changed)
    }
}

impl ProxyOverrides {
    /// What has no effect because there is no proxy. Harmless: nobody asked for one.
    fn without_proxy(&self) -> impl Iterator<Item = OverrideError> {
        let given = [
            ("proxy-port", self.port.is_some()),
            ("proxy-username", self.username.is_some()),
            ("proxy-password", self.password.is_some()),
            ("proxy-auth-cleartext", self.cleartext.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| OverrideError {
            misdirects: false,
            ..OverrideError::new(name, "there is no proxy")
        })
    }

    fn apply(&self, remote: &mut Remote) -> Result<(), OverrideError> {
        let credentials = self.username.as_ref().map(|username| Credentials {
            username: username.clone(),
            password: self.password.clone().unwrap_or_default(),
        });
        if let Some(host) = &self.host {
            let port = self
                .port
                .ok_or_else(|| OverrideError::new("proxy-host", "proxy-port is missing"))?;
            let kind = ProxyKind::Http(HttpProxy::new(ProxyAuth::NoCleartext));
            remote.proxy = Some(Proxy { host: host.clone(), port, credentials: None, kind });
        }
        let Some(proxy) = &mut remote.proxy else { return Ok(()) };
        proxy.port = self.port.unwrap_or(proxy.port);
        if credentials.is_some() {
            proxy.credentials = credentials;
        }
        if let Some(allowed) = self.cleartext {
            proxy.allow_cleartext(allowed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{NoFiles, Profile};

    fn options(extra: &str) -> Options {
        let fingerprint = ["00"; 32].join(":");
        let text = format!("client\nauth-user-pass\npeer-fingerprint {fingerprint}\n{extra}\n");
        Profile::parse(&text, "test", &NoFiles).unwrap().options
    }

    fn text(name: &str, value: &str) -> (String, OverrideValue) {
        (name.to_owned(), OverrideValue::Text(value.to_owned()))
    }

    fn flag(name: &str, value: bool) -> (String, OverrideValue) {
        (name.to_owned(), OverrideValue::Flag(value))
    }

    fn collect<const N: usize>(values: [(String, OverrideValue); N]) -> Overrides {
        let (overrides, errors) = Overrides::collect(values);
        assert_eq!(errors, []);
        overrides
    }

    #[test]
    fn unusable_ones_are_told_and_skipped() {
        let (overrides, errors) = Overrides::collect([
            text("server-override", "other"),
            text("proto-override", "sctp"),
            flag("proto-override", true),
            text("port-override", "0"),
            text("log-level", "7"),
            text("dns-scope", "local"),
            text("frobnicate", "1"),
            text("enable-legacy-algorithms", "yes"),
            text("proxy-password", "hidden"),
            flag("proxy-password", true),
            text("allow-compression", "maybe"),
            ("ipv6".to_owned(), OverrideValue::Other("i".to_owned())),
            text("proxy-username", &"u".repeat(MAX_TEXT + 1)),
            text(&"n".repeat(1 << 20), ""),
        ]);
        assert_eq!(errors.len(), 12);
        assert!(errors.iter().all(|e| e.to_string().len() < 300));
        assert_eq!(
            errors[0].to_string(),
            "Unsupported override: proto-override (not one of udp, tcp)"
        );
        assert!(errors.iter().all(|e| e.to_string().starts_with("Unsupported override: ")));
        assert!(!format!("{overrides:?}").contains("hidden"));
        let misdirect: Vec<_> =
            errors.iter().filter(|e| e.misdirects).map(|e| e.name.as_str()).collect();
        assert_eq!(misdirect, ["proto-override", "proto-override", "port-override", "ipv6"]);
        let mut o = options("remote a");
        let harmless = overrides.apply(&mut o);
        assert_eq!(harmless.len(), 1);
        assert!(harmless[0].name == "proxy-password" && !harmless[0].misdirects);
        assert_eq!((o.remotes[0].host.as_str(), o.remotes[0].port), ("other", 1194));
    }

    #[test]
    fn servers_change_and_duplicates_go() {
        let overrides = collect([
            text("server-override", "x.example"),
            text("port-override", "443"),
            text("proto-override", "tcp"),
        ]);
        let mut o = options("explicit-exit-notify\nremote a\nremote b 1195\nremote c 1 udp6");
        assert_eq!(overrides.apply(&mut o), []);
        let left: Vec<_> = o.remotes.iter().map(|r| (r.host.as_str(), r.port, r.family)).collect();
        assert_eq!(left, [("x.example", 443, Family::Any), ("x.example", 443, Family::V6)]);
        assert_eq!(o.remotes[0].protocol, Protocol::Tcp);
        assert_eq!(o.remotes[0].explicit_exit_notify, 0);
    }

    #[test]
    fn proxies() {
        let overrides = collect([
            text("proxy-host", "proxy"),
            text("proxy-port", "3128"),
            text("proxy-username", "u"),
            text("proxy-password", "p"),
            flag("proxy-auth-cleartext", true),
        ]);
        let mut o = options("remote a 443 tcp\nremote b");
        assert_eq!(overrides.apply(&mut o), []);
        assert_eq!(o.remotes.len(), 1);
        let proxy = o.remotes[0].proxy.as_ref().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy", 3128));
        let ProxyKind::Http(http) = &proxy.kind else { panic!("{proxy:?}") };
        assert_eq!(http.auth, ProxyAuth::Any);
        assert_eq!(proxy.credentials.as_ref().unwrap().username, "u");
        assert_eq!(o.data.dco_incompatible, ["http-proxy"]);

        let errors = overrides.apply(&mut options("remote b"));
        assert!(errors[0].to_string().contains("TCP") && errors[0].misdirects);
        let no_port = collect([text("proxy-host", "proxy")]);
        let errors = no_port.apply(&mut options("remote a 1 tcp"));
        assert!(errors[0].to_string().contains("proxy-port") && errors[0].misdirects);
        let udp = collect([text("proto-override", "udp")]);
        let errors = udp.apply(&mut options("remote a 1 tcp\nhttp-proxy p 3128"));
        assert!(errors[0].name == "proto-override" && errors[0].misdirects);
    }

    #[test]
    fn a_password_goes_readably_to_a_proxy_of_the_overrides_only_if_they_say_so() {
        let auth = |overrides: Overrides, extra: &str| {
            let mut o = options(&format!("remote a 1 tcp\n{extra}"));
            assert_eq!(overrides.apply(&mut o), []);
            let proxy = o.remotes[0].proxy.as_ref().unwrap();
            let ProxyKind::Http(http) = &proxy.kind else { panic!("{proxy:?}") };
            http.auth
        };
        let host = || [text("proxy-host", "proxy"), text("proxy-port", "1")];
        let [a, b] = host();
        assert_eq!(auth(collect([a, b]), ""), ProxyAuth::NoCleartext);
        let [a, b] = host();
        assert_eq!(auth(collect([a, b, flag("proxy-auth-cleartext", true)]), ""), ProxyAuth::Any);
        let forbidden = collect([flag("proxy-auth-cleartext", false)]);
        assert_eq!(auth(forbidden, "http-proxy p 1"), ProxyAuth::NoCleartext);
    }

    #[test]
    fn one_that_does_not_fit_keeps_no_other_from_having_effect() {
        let overrides = collect([
            text("proxy-host", "proxy"),
            text("proxy-port", "3128"),
            flag("persist-tun", true),
            flag("dns-setup-disabled", true),
            text("tls-version-min", "tls_1_3"),
        ]);
        let mut o = options("remote only-udp");
        assert_eq!(overrides.apply(&mut o).len(), 1);
        assert!(o.device.persist && o.pull.dns_disabled);
        assert_eq!(o.tls.version_min, TlsVersion::V1_3);
    }

    #[test]
    fn the_rest() {
        let overrides = collect([
            text("ipv6", "no"),
            text("log-level", "5"),
            flag("dns-fallback-google", true),
            flag("dns-setup-disabled", true),
            flag("dns-sync-lookup", true),
            text("dns-scope", "tunnel"),
            flag("auth-fail-retry", true),
            text("allow-compression", "no"),
            flag("enable-legacy-algorithms", true),
            text("tls-version-min", "tls_1_3"),
            text("tls-cert-profile", "preferred"),
            flag("persist-tun", true),
            text("automatic-restart", "on-failure"),
            text("enterprise-profile", "corp"),
        ]);
        let mut o = options(
            "remote a\nverb 1\ntls-version-max 1.2\nauth SHA256\ndata-ciphers AES-256-CBC:AES-256-GCM",
        );
        assert_eq!(overrides.apply(&mut o), []);
        assert_eq!(o.pull.unpushed_ipv6, UnpushedFamily::Block);
        assert_eq!(o.verb, Some(5));
        // Each once, the profile's own first.
        let names: Vec<_> = o.data.ciphers.iter().map(|c| c.name()).collect();
        assert_eq!(names, ["AES-256-CBC", "AES-256-GCM", "AES-128-CBC", "AES-192-CBC"]);
        assert!(o.pull.dns_fallback && o.pull.dns_disabled && o.device.persist);
        assert_eq!(o.tls.version_min, TlsVersion::V1_3);
        assert!(o.tls.version_max >= o.tls.version_min);
        assert_eq!(o.tls.cert_profile, CertProfile::Preferred);
        assert_eq!(overrides.dns_scope, DnsScope::Tunnel);
        assert!(overrides.auth_fail_retry);
        assert_eq!(o.enterprise_profile.as_deref(), Some("corp"));
        let none = collect([text("enterprise-profile", "")]);
        assert_eq!(none.apply(&mut o), []);
        assert_eq!(o.enterprise_profile, None);
    }
}
