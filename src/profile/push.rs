//! Options that the server pushes, applied to the profile's own.

mod filter;
mod split;
#[cfg(test)]
mod tests;
mod update;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ovpn_dco::{Cipher, DataFormat, Digest, Framing, PeerId};

use super::app_control::AppControl;
use super::compression;
use super::directives::{self, ECHO};
use super::dns;
use super::lexer::{Escapes, tokenize};
use super::limits::{MAX_REMARK, MAX_REMARKS, MAX_ROUTES};
use super::network::{self, Origin};
use super::options::{
    Inactive, MAX_EXIT_NOTICES, NetworkOptions, Options, PingTimeout, Topology, UnpushedFamily,
};
use super::timers::{self, Timers};
use super::values::{number, seconds_or_never};
use super::verdict::{Done, Outcome, Problem};
use crate::secret::Secret;
use filter::{Decision, decide};

pub use split::split_push;
pub use update::{PushedState, Updated};

/// Longest `auth-token` (OpenVPN 2: its password buffer).
const MAX_TOKEN: usize = 4095;
/// Smallest MTU that a server may push (OpenVPN 3).
const MIN_PUSHED_MTU: u16 = 68;

/// What a connection runs with: the profile and one complete push reply, combined.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Pushed `peer-id`; `None`: DATA_V1. [`PeerId::UNDEFINED`] (-1 or 16777215) is DATA_V2 too.
    pub peer_id: Option<PeerId>,
    /// The negotiated data cipher.
    pub cipher: Cipher,
    /// Compression framing in use.
    pub framing: Framing,
    /// Data keys from the TLS exporter instead of the PRF (`tls-ekm`).
    pub tls_ekm: bool,
    /// `dyn-tls-crypt`
    pub dynamic_tls_crypt: bool,
    /// `cc-exit`: exit notification as control message.
    pub cc_exit: bool,
    /// `custom-control`: messages of applications.
    pub app_control: Option<AppControl>,
    /// Profile's network options with the pushed ones applied and merged. The topology is always
    /// set.
    pub network: NetworkOptions,
    /// Interface MTU after negotiation.
    pub tun_mtu: u16,
    /// `ping`
    pub ping: Option<Duration>,
    /// `ping-restart`/`ping-exit`
    pub ping_timeout: Option<PingTimeout>,
    /// `inactive`
    pub inactive: Option<Inactive>,
    /// `session-timeout`
    pub session_timeout: Option<Duration>,
    /// `explicit-exit-notify`, pushed or configured (for any server of the profile).
    /// A server is told always, and no more than [`MAX_EXIT_NOTICES`] times.
    pub exit_notices: u32,
    /// `auth-token`
    pub auth_token: Option<Secret<String>>,
    /// `auth-token-user`, decoded.
    pub auth_token_user: Option<String>,
    /// `auth-nocache`, pushed or configured; false where there is nothing typed to forget, see
    /// [`super::AuthOptions::nocache`].
    pub auth_nocache: bool,
    /// `reneg-sec` pushed; `Some(None)`: never.
    pub reneg: Option<Option<Duration>>,
    /// Options that were ignored, each with the reason, for the log.
    pub ignored: Vec<String>,
}

/// Why a push cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PushError {
    /// A `pull-filter reject` of the profile matched: connect again.
    #[error("rejected pushed option: {option} (the profile has pull-filter reject)")]
    Rejected {
        /// The option's name.
        option: String,
    },
    /// An update that holds something else than options, `-option`, `?option` and `-?option`.
    #[error("the server's update of what it pushed has a malformed item '{item}'")]
    MalformedUpdate {
        /// As much of the item as may be shown.
        item: String,
    },
    /// An update of what only a new connection can change.
    #[error("the server updates '{option}', which only a new connection can change")]
    NotUpdatable {
        /// The option's name.
        option: String,
    },
    /// No data cipher both sides accept.
    #[error("{0}")]
    Cipher(String),
    /// The server compresses, and that is not allowed.
    #[error(
        "Compression is not available unless it is allowed, and the server pushed '{option}'; set \
         'allow-compression asym', or remove compression on the server"
    )]
    Compression {
        /// The option as pushed.
        option: String,
    },
    /// Something this client does not have and the server now relies on.
    #[error("the server pushed '{option}', which is not supported")]
    Unsupported {
        /// The option as pushed.
        option: String,
    },
    /// An option without which the connection cannot work is malformed.
    #[error("the server pushed an unusable '{option}': {reason}")]
    Malformed {
        /// The option's name.
        option: String,
        /// What is wrong.
        reason: String,
    },
}

/// A pushed `auth-token`, and the user name to use with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushedToken {
    /// Takes the password's place.
    pub token: Secret<String>,
    /// `auth-token-user`, decoded.
    pub username: Option<String>,
}

/// What may be logged of a raw pushed option: all of it, unless it holds a secret or cannot be read.
pub fn loggable(raw: &str) -> &str {
    // In an update there may be signs in front of the name.
    let is_secret = |name: &str| name.trim_start_matches(['-', '?']).starts_with("auth-token");
    match tokenize(raw, Escapes::Any) {
        Ok(words) if words.first().is_none_or(|name| !is_secret(name)) => raw,
        Ok(_) => "auth-token ...",
        Err(_) => "(an option that cannot be read)",
    }
}

impl SessionOptions {
    /// The token, and the user name to use with it, that a push reply to a working connection
    /// brings. The profile's filters hold for it as for the first reply.
    ///
    /// # Errors
    /// A `pull-filter reject` matched, or the token is unusable.
    pub fn token_from_push(
        profile: &Options,
        pushed: &[String],
    ) -> Result<Option<PushedToken>, PushError> {
        const TOKEN: [&str; 2] = ["auth-token", "auth-token-user"];
        let mut push = Push::new(profile);
        push.options(pushed, |name| TOKEN.contains(&name))?;
        let username = push.session.auth_token_user;
        Ok(push.session.auth_token.map(|token| PushedToken { token, username }))
    }

    /// Combines a profile with the raw options of one complete push reply.
    ///
    /// `server_occ` is the server's OCC string, for its cipher. Options that are unknown, not
    /// allowed or harmlessly wrong are collected in [`Self::ignored`].
    ///
    /// # Errors
    /// Options that the connection cannot do without being unusable or unsupported.
    pub fn from_push(
        profile: &Options,
        pushed: &[String],
        server_occ: &str,
    ) -> Result<Self, PushError> {
        let mut push = Push::new(profile);
        push.options(pushed, |_| true)?;
        push.finish(server_occ)
    }
}

/// What is shown of an option's name: as much as a name can hold. Values are not shown, and badly
/// quoted ones look like names: one of them may be a token.
fn shown_name(name: &str) -> &str {
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'));
    end.and_then(|end| name.get(..end)).unwrap_or(name)
}

struct Push<'a> {
    profile: &'a Options,
    session: SessionOptions,
    timers: Timers,
    cipher: Option<String>,
    /// `auth`, as OpenVPN 3 takes it from a server.
    digest: Option<Digest>,
    /// `protocol-flags aead-epoch`
    epochs: bool,
    framing: Option<Framing>,
    exit_notify: Option<u32>,
    /// How many options were ignored.
    remarks: usize,
    /// Local `dns server` entries: a pushed one of the same priority replaces them.
    local_dns: std::collections::BTreeMap<i8, super::options::DnsServer>,
}

impl<'a> Push<'a> {
    fn new(profile: &'a Options) -> Self {
        let control = &profile.control;
        let timers = Timers {
            ping: control.ping,
            ping_timeout: control.ping_timeout,
            inactive: control.inactive,
            session_timeout: control.session_timeout,
        };
        let mut network = profile.network.clone();
        let local_dns = std::mem::take(&mut network.dns.servers);
        let session = SessionOptions {
            peer_id: None,
            cipher: Cipher::Aes256Gcm,
            framing: Framing::None,
            tls_ekm: false,
            dynamic_tls_crypt: false,
            cc_exit: false,
            app_control: None,
            network,
            tun_mtu: profile.data.tun_mtu,
            ping: None,
            ping_timeout: None,
            inactive: None,
            session_timeout: None,
            exit_notices: 1,
            auth_token: None,
            auth_token_user: None,
            auth_nocache: profile.auth.nocache,
            reneg: None,
            ignored: Vec::new(),
        };
        Self {
            profile,
            session,
            timers,
            cipher: None,
            digest: None,
            epochs: false,
            framing: None,
            exit_notify: None,
            remarks: 0,
            local_dns,
        }
    }

    /// Takes the options whose names are wanted, as far as the profile's filters let them pass.
    fn options(
        &mut self,
        pushed: &[String],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), PushError> {
        for raw in pushed.iter().map(|raw| raw.trim()).filter(|raw| !raw.is_empty()) {
            let words = match tokenize(raw, Escapes::Any) {
                Ok(words) => words,
                Err(error) => {
                    let name = raw.split_whitespace().next().unwrap_or_default();
                    self.ignore(name, &error.to_string());
                    continue;
                }
            };
            let Some((name, args)) = words.split_first().filter(|(name, _)| wanted(name)) else {
                continue;
            };
            match decide(&self.profile.pull, &words) {
                Decision::Accept => self.option(name, args)?,
                Decision::Ignore(reason) => self.ignore(name, reason),
                Decision::Reject => {
                    return Err(PushError::Rejected { option: shown_name(name).to_owned() });
                }
            }
        }
        Ok(())
    }

    fn ignore(&mut self, name: &str, reason: &str) {
        match self.remarks {
            0..MAX_REMARKS => {
                let remark = format!("{}: {reason}", shown_name(name));
                self.session.ignored.push(remark.chars().take(MAX_REMARK).collect());
            }
            MAX_REMARKS => self.session.ignored.push("and others".to_owned()),
            _ => {}
        }
        self.remarks += 1;
    }

    /// Takes an outcome that cannot break the connection: problems end up in the log.
    fn note(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Ok(Done::Taken | Done::Noted(_)) => {}
            Ok(Done::Ignored(reason) | Done::Warned(reason)) => self.ignore(name, &reason),
            Err(problem) => self.ignore(name, &problem.reason),
        }
    }

    fn option(&mut self, name: &str, args: &[String]) -> Result<(), PushError> {
        let malformed = |problem: Problem| PushError::Malformed {
            option: name.to_owned(),
            reason: problem.reason,
        };
        let first = args.first().map(String::as_str);
        let word = || {
            first.ok_or_else(|| PushError::Malformed {
                option: name.to_owned(),
                reason: "a value is missing".to_owned(),
            })
        };
        let network = &mut self.session.network;
        if matches!(name, "route" | "route-ipv6") && network::is_full(network) {
            // Without the rest, traffic would go outside of the tunnel.
            return Err(malformed(Problem::new(format!("more than {MAX_ROUTES} routes"))));
        }
        if let Some(outcome) = network::apply(network, name, args, Origin::Push) {
            // Without these there is no working tunnel, or names go to the wrong place.
            if matches!(name, "ifconfig" | "ifconfig-ipv6" | "topology" | "dns") {
                outcome.as_ref().map_err(|problem| malformed(problem.clone()))?;
            }
            self.note(name, outcome);
            return Ok(());
        }
        if let Some(outcome) = timers::apply(&mut self.timers, name, args) {
            self.note(name, outcome);
            return Ok(());
        }
        match name {
            "cipher" => self.cipher = Some(word()?.to_owned()),
            "peer-id" => {
                // -1 asks for DATA_V2 packets too, only without a number that names this client.
                self.session.peer_id = match word()? {
                    "-1" => Some(PeerId::UNDEFINED),
                    text => {
                        let most = PeerId::UNDEFINED.get();
                        PeerId::new(number(text, 0, most).map_err(malformed)?)
                    }
                };
            }
            "protocol-flags" => self.protocol_flags(args)?,
            "key-derivation" => match word()? {
                "tls-ekm" => self.session.tls_ekm = true,
                other => {
                    return Err(PushError::Unsupported { option: format!("{name} {other}") });
                }
            },
            "comp-lzo" => {
                let framing = compression::comp_lzo(first).map_err(malformed)?;
                self.framing(name, first, framing)?;
            }
            "compress" => {
                if let Some(framing) = compression::compress(first).map_err(malformed)? {
                    self.framing(name, first, framing)?;
                }
            }
            "tun-mtu" => {
                let mtu = number(word()?, MIN_PUSHED_MTU, u16::MAX).map_err(malformed)?;
                self.tun_mtu(mtu);
            }
            "explicit-exit-notify" => match number(first.unwrap_or("1"), 0, 100) {
                Ok(times) => self.exit_notify = Some(times),
                Err(problem) => self.ignore(name, &problem.reason),
            },
            "reneg-sec" => match seconds_or_never(word()?) {
                Ok(reneg) => self.session.reneg = Some(reneg),
                Err(problem) => self.ignore(name, &problem.reason),
            },
            "auth-token" => {
                let token = word()?;
                if token.len() > MAX_TOKEN {
                    return Err(malformed(Problem::new("the token is too long")));
                }
                self.session.auth_token = Some(token.into());
            }
            "auth-token-user" => {
                let decoded =
                    STANDARD.decode(word()?).ok().and_then(|user| String::from_utf8(user).ok());
                match decoded {
                    Some(user) => self.session.auth_token_user = Some(user),
                    None => self.ignore(name, "not base64 of a text"),
                }
            }
            "auth-nocache" => {
                self.session.auth_nocache = !self.profile.auth.is_complete();
            }
            "custom-control" => match AppControl::from_words(args) {
                Ok(agreed) => self.session.app_control = Some(agreed),
                Err(problem) => self.ignore(name, &problem.reason),
            },
            "auth" => match directives::digest(word()?) {
                Some(digest) => self.digest = Some(digest),
                None => self.ignore(name, "no digest that is known here"),
            },
            "push-continuation" => {}
            _ if is_always_so(name) => {}
            _ => match without_effect(name) {
                Some(reason) => self.ignore(name, reason),
                None => self.ignore(name, "unknown, or not for a server to set"),
            },
        }
        Ok(())
    }

    fn protocol_flags(&mut self, flags: &[String]) -> Result<(), PushError> {
        for flag in flags {
            match flag.as_str() {
                "tls-ekm" => self.session.tls_ekm = true,
                "cc-exit" => self.session.cc_exit = true,
                "dyn-tls-crypt" => self.session.dynamic_tls_crypt = true,
                "aead-epoch" => self.epochs = true,
                _ => self.ignore("protocol-flags", &format!("unknown flag '{flag}'")),
            }
        }
        Ok(())
    }

    fn framing(
        &mut self,
        name: &str,
        argument: Option<&str>,
        framing: Framing,
    ) -> Result<(), PushError> {
        if framing.compresses() && !compression::is_read(&self.profile.data) {
            let option = argument.map_or_else(|| name.to_owned(), |a| format!("{name} {a}"));
            return Err(PushError::Compression { option });
        }
        self.framing = Some(framing);
        Ok(())
    }

    fn tun_mtu(&mut self, mtu: u16) {
        let max = self.profile.data.tun_mtu_max;
        if mtu > max {
            self.ignore("tun-mtu", &format!("{mtu} is above tun-mtu-max, {max} is used"));
        }
        self.session.tun_mtu = mtu.min(max);
        self.session.network.tun_mtu = Some(self.session.tun_mtu);
    }

    fn finish(mut self, server_occ: &str) -> Result<SessionOptions, PushError> {
        let malformed = |option: &str| {
            let option = option.to_owned();
            move |problem: Problem| PushError::Malformed { option, reason: problem.reason }
        };
        let cipher = negotiate(self.profile, self.cipher.as_deref(), server_occ)?;
        self.session.cipher = self.digest.map_or(cipher, |digest| cipher.with_digest(digest));
        if self.epochs {
            self.session.cipher = self.with_epochs()?;
        }
        self.compare_digest(server_occ);
        let data = &self.profile.data;
        let framing = self.framing.or(data.framing).unwrap_or(Framing::None);
        self.session.framing = if compression::is_read(data) { framing } else { framing.stub() };
        self.session.ping = self.timers.ping;
        self.session.ping_timeout = self.timers.ping_timeout;
        self.session.inactive = self.timers.inactive;
        self.session.session_timeout = self.timers.session_timeout;
        let configured = self.profile.remotes.iter().map(|r| r.explicit_exit_notify).max();
        self.session.exit_notices =
            self.exit_notify.or(configured).unwrap_or(0).clamp(1, MAX_EXIT_NOTICES);
        self.settle_network().map_err(malformed("dns"))?;
        network::check_topology(&self.session.network).map_err(malformed("ifconfig"))?;
        Ok(self.session)
    }

    /// Epoch keys go with AEAD ciphers and DATA_V2 packets; the server counts on them.
    fn with_epochs(&self) -> Result<Cipher, PushError> {
        let malformed = |reason: String| {
            let option = "protocol-flags aead-epoch".to_owned();
            PushError::Malformed { option, reason }
        };
        if self.session.peer_id.is_none_or(|id| id == PeerId::UNDEFINED) {
            return Err(malformed("epoch keys need a peer-id".to_owned()));
        }
        let cipher = self.session.cipher;
        cipher.with_epochs().ok_or_else(|| malformed(format!("{cipher} cannot have epoch keys")))
    }

    /// Nothing gets through where the two sides authenticate with different digests, and neither is
    /// told so.
    fn compare_digest(&mut self, server_occ: &str) {
        let DataFormat::Cbc(digest) = self.session.cipher.format() else { return };
        let theirs = server_occ.split(',').find_map(|item| item.strip_prefix("auth "));
        let Some(theirs) = theirs.and_then(directives::digest).filter(|theirs| *theirs != digest)
        else {
            return;
        };
        let (own, theirs) = (digest.name(), theirs.name());
        let reason = format!(
            "the server says {theirs}, {own} is used: if nothing gets through, set 'auth {theirs}'"
        );
        self.ignore("auth", &reason);
    }

    fn settle_network(&mut self) -> Result<(), Problem> {
        let pull = &self.profile.pull;
        let network = &mut self.session.network;
        // OpenVPN 2 clients assume net30 where neither side says anything.
        network.topology.get_or_insert(Topology::Net30);
        dns::check(&mut network.dns)?;
        for (priority, server) in std::mem::take(&mut self.local_dns) {
            network.dns.servers.entry(priority).or_insert(server);
        }
        dns::settle(&mut network.dns);
        let default_route = network.redirect.is_some_and(|r| !r.private && (r.ipv4 || r.ipv6));
        let no_servers = network.dns.servers.is_empty() && network.dns.dhcp_servers.is_empty();
        if pull.dns_fallback && default_route && no_servers {
            network.dns.dhcp_servers = FALLBACK_DNS.map(Into::into).to_vec();
        }
        if pull.dns_disabled {
            network.dns = Default::default();
        }
        if pull.route_noexec {
            network.routes.clear();
            network.redirect = None;
        }
        if pull.unpushed_ipv6 == UnpushedFamily::Block && network.ifconfig_ipv6.is_none() {
            network.block_ipv6 = true;
        }
        Ok(())
    }
}

/// Google Public DNS, which the override `dns-fallback-google` is named after.
const FALLBACK_DNS: [[u8; 4]; 2] = [[8, 8, 8, 8], [8, 8, 4, 4]];

/// Options that ask for what is always so here, or has no meaning here: nobody needs to hear of them.
fn is_always_so(name: &str) -> bool {
    matches!(
        name,
        "route-delay"
            | "persist-key"
            | "persist-tun"
            | "socket-flags"
            | "tun-ipv6"
            | "ifconfig-nowarn"
            | "ping-timer-rem"
            | "mute"
            | "errors-to-stderr"
    )
}

/// Other options a server may push that change nothing here.
fn without_effect(name: &str) -> Option<&'static str> {
    Some(match name {
        "route-method" | "block-outside-dns" | "register-dns" | "tap-sleep" | "dhcp-renew"
        | "dhcp-release" | "dhcp-pre-release" | "ip-win32" | "show-net-up" => "for Windows clients",
        "rcvbuf" | "sndbuf" | "bind-dev" | "verb" | "ifconfig-noexec" | "lladdr" => {
            "set in the profile only"
        }
        "shaper" | "client-nat" | "redirect-dns" | "client-ip" | "remote-cache-lifetime" => {
            "not supported"
        }
        "echo" => ECHO,
        "setenv-safe" | "parameter" => "scripts and plugins are not run",
        _ => return None,
    })
}

/// Which data cipher to use: the pushed one, else the one of the server's options string, else the
/// fallback; and only if the profile allows it.
fn negotiate(
    profile: &Options,
    pushed: Option<&str>,
    server_occ: &str,
) -> Result<Cipher, PushError> {
    let data = &profile.data;
    let occ = server_occ.split(',').find_map(|item| item.strip_prefix("cipher "));
    let (name, source) = match (pushed, occ) {
        (Some(name), _) => (name, "the server pushed"),
        (None, Some(name)) => (name, "the server does not negotiate and uses"),
        (None, None) => {
            return data.fallback.ok_or_else(|| {
                PushError::Cipher(
                    "the server names no data cipher; set data-ciphers-fallback to the one it uses"
                        .to_owned(),
                )
            });
        }
    };
    let ours = Cipher::from_name(name);
    let mut allowed = data.ciphers.iter().chain(&data.fallback);
    // The one of the profile has the profile's digest.
    if let Some(cipher) = allowed.find(|c| ours.is_some_and(|ours| ours.name() == c.name())) {
        return Ok(*cipher);
    }
    let list = data.ciphers.iter().map(|c| c.name()).collect::<Vec<_>>().join(":");
    let advice = match ours {
        Some(cipher) if cipher.is_aead() || data.cbc_digest.is_some() => "add it to data-ciphers",
        Some(_) => "with it, 'auth' must be one of SHA1, SHA224, SHA256, SHA384, SHA512",
        None => "it is not supported here; enable one of these on the server",
    };
    Err(PushError::Cipher(format!(
        "{source} the data cipher {}, allowed here: {list}; {advice}",
        name.escape_default()
    )))
}
