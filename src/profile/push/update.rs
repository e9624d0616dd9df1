//! PUSH_UPDATE: what a server changes of what it has pushed (protocol reference 8.8). Pure.

use super::filter::{Decision, decide};
use super::{PushError, SessionOptions, shown_name};
use crate::profile::lexer::{Escapes, tokenize};
use crate::profile::limits::MAX_REMARKS;
use crate::profile::options::Options;

/// What a server may change: OpenVPN 2 (`push_util.c`) and 3 (`continuation.hpp`) agree on these but for
/// `block-ipv4`, which is OpenVPN 3's.
const UPDATABLE: [&str; 15] = [
    "block-ipv4",
    "block-ipv6",
    "block-outside-dns",
    "dhcp-option",
    "dns",
    "ifconfig",
    "ifconfig-ipv6",
    "redirect-gateway",
    "redirect-private",
    "route",
    "route-gateway",
    "route-ipv6",
    "route-metric",
    "topology",
    "tun-mtu",
];

/// What a server has pushed, and has changed since: raw options in their order, without tokens, which
/// are whose login they are.
#[derive(Clone, Debug)]
pub struct PushedState {
    options: Vec<String>,
    server_occ: String,
}

/// What an update comes to.
#[derive(Debug)]
pub struct Updated {
    /// What a connection would run with that begins now.
    pub session: SessionOptions,
    /// Items that were ignored, each with the reason, for the log.
    pub ignored: Vec<String>,
}

/// One item of an update.
struct Item<'a> {
    /// `?`: who does not know it may go on without.
    optional: bool,
    /// `-`: every such option goes.
    remove: bool,
    option: &'a str,
}

impl<'a> Item<'a> {
    /// `None`: malformed.
    fn parse(raw: &'a str) -> Option<Self> {
        let raw = raw.trim();
        let (remove, rest) = raw.strip_prefix('-').map_or((false, raw), |rest| (true, rest));
        let (optional, option) = rest.strip_prefix('?').map_or((false, rest), |rest| (true, rest));
        let begins = option.starts_with(|first: char| first.is_ascii_alphanumeric());
        begins.then_some(Self { optional, remove, option })
    }
}

impl PushedState {
    /// After a push reply; `server_occ` as for [`SessionOptions::from_push`].
    pub fn new(pushed: &[String], server_occ: &str) -> Self {
        let secret = |raw: &&String| super::loggable(raw) != raw.as_str();
        let options = pushed.iter().filter(|raw| !secret(raw)).cloned().collect();
        Self { options, server_occ: server_occ.to_owned() }
    }

    /// Applies an update: the first item of an option takes all earlier ones of that option away, each
    /// is added, `-option` only takes away, and the rest stays. The profile's filters hold for it as for
    /// the push reply, without `-` and `?`; what they ignore takes nothing away.
    ///
    /// # Errors
    /// The update cannot be followed, and nothing has changed: an item is malformed, or names what may
    /// not be updated without being optional (`?`), a `pull-filter reject` matched, or the result is
    /// no configuration. Whoever goes on would have another one than the server thinks.
    pub fn update(&mut self, profile: &Options, update: &[String]) -> Result<Updated, PushError> {
        let mut ignored = Vec::new();
        let mut remark = |name: &str, reason: &str| {
            if ignored.len() < MAX_REMARKS {
                ignored.push(format!("{}: {reason}", shown_name(name)));
            }
        };
        // Of each option: what came before these of the items does not count any more.
        let mut counts_from: [Option<usize>; UPDATABLE.len()] = [None; UPDATABLE.len()];
        let mut added: Vec<(usize, &str)> = Vec::new();
        for raw in update.iter().filter(|raw| !raw.trim().is_empty()) {
            let malformed =
                || PushError::MalformedUpdate { item: shown_name(raw.trim()).to_owned() };
            let item = Item::parse(raw).ok_or_else(malformed)?;
            let words = tokenize(item.option, Escapes::Any).map_err(|_| malformed())?;
            let name = words.first().ok_or_else(malformed)?;
            let Some(known) = position(name) else {
                if item.optional {
                    remark(name, "not for an update to change");
                    continue;
                }
                return Err(PushError::NotUpdatable { option: shown_name(name).to_owned() });
            };
            match decide(&profile.pull, &words) {
                Decision::Accept => {}
                Decision::Ignore(reason) => {
                    remark(name, reason);
                    continue;
                }
                Decision::Reject => return Err(PushError::Rejected { option: name.clone() }),
            }
            let from = counts_from[known].get_or_insert(added.len());
            if item.remove {
                // What the same update added before goes, too.
                *from = added.len();
            } else {
                added.push((known, item.option));
            }
        }
        let stays = |option: &&String| {
            // Quotes may stand around a name.
            let name =
                tokenize(option, Escapes::Any).ok().and_then(|words| words.into_iter().next());
            let known = name.and_then(|name| position(&name));
            known.is_none_or(|known| counts_from[known].is_none())
        };
        let counts = |(at, (known, _)): &(usize, (usize, &str))| counts_from[*known] <= Some(*at);
        let new =
            added.into_iter().enumerate().filter(counts).map(|(_, (_, item))| item.to_owned());
        let options: Vec<String> = self.options.iter().filter(stays).cloned().chain(new).collect();
        let session = SessionOptions::from_push(profile, &options, &self.server_occ)?;
        self.options = options;
        Ok(Updated { session, ignored })
    }
}

/// Where an option stands among those that may be updated.
fn position(name: &str) -> Option<usize> {
    UPDATABLE.iter().position(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{NoFiles, Profile};

    fn profile(extra: &str) -> Options {
        let fingerprint = ["00"; 32].join(":");
        let text =
            format!("client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n{extra}\n");
        Profile::parse(&text, "test", &NoFiles).unwrap().options
    }

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|&option| option.to_owned()).collect()
    }

    fn items(text: &str) -> Vec<String> {
        super::super::split_push(text)
    }

    const BASE: [&str; 6] = [
        "cipher AES-256-GCM",
        "peer-id 3",
        "topology subnet",
        "ifconfig 10.8.0.2 255.255.255.0",
        "route 192.0.2.0 255.255.255.0",
        "dhcp-option DNS 10.8.0.1",
    ];

    fn base() -> PushedState {
        PushedState::new(&strings(&BASE), "")
    }

    fn routes(session: &SessionOptions) -> Vec<String> {
        session.network.routes.iter().map(|route| format!("{:?}", route.destination)).collect()
    }

    #[test]
    fn the_first_of_an_option_takes_the_earlier_ones_away() {
        let (mut state, profile) = (base(), profile(""));
        let update = items(" route 198.51.100.0 255.255.255.0, route 203.0.113.0 255.255.255.0");
        let updated = state.update(&profile, &update).unwrap();
        assert_eq!(routes(&updated.session).len(), 2);
        assert_eq!(updated.session.network.dns.dhcp_servers.len(), 1);
        let updated = state.update(&profile, &items("-route,-?dhcp-option")).unwrap();
        assert!(routes(&updated.session).is_empty());
        assert!(updated.session.network.dns.dhcp_servers.is_empty());
        assert_eq!(updated.session.network.ifconfig.unwrap().0.to_string(), "10.8.0.2");
    }

    /// What runs after any sequence of updates is what a connection begun with their result runs with.
    #[test]
    fn an_update_is_a_push_reply_of_its_result() {
        let (mut state, profile) = (base(), profile(""));
        let updated = state
            .update(
                &profile,
                &items("ifconfig 10.8.0.9 255.255.255.0,redirect-gateway def1,tun-mtu 1400"),
            )
            .unwrap();
        let mut fresh = strings(&BASE);
        fresh.retain(|option| !option.starts_with("ifconfig"));
        fresh.extend(strings(&[
            "ifconfig 10.8.0.9 255.255.255.0",
            "redirect-gateway def1",
            "tun-mtu 1400",
        ]));
        let fresh = SessionOptions::from_push(&profile, &fresh, "").unwrap();
        assert_eq!(updated.session.network, fresh.network);
        assert_eq!(updated.session.tun_mtu, fresh.tun_mtu);
    }

    // Known vectors of the protocol reference, 16.12.
    #[test]
    fn malformed_and_mandatory() {
        let profile = profile("");
        for bad in
            ["-dhcp-option, ?-dns", "dev tun", "my_unsupported_option", "-cipher", "--route", "?"]
        {
            let mut state = base();
            assert!(state.update(&profile, &items(bad)).is_err(), "{bad}");
            assert_eq!(state.options, BASE, "{bad}");
        }
        let mut state = base();
        let updated =
            state.update(&profile, &items("-?unheard-of,?bla 1,?auth-token SECRET")).unwrap();
        assert_eq!(updated.ignored.len(), 3);
        assert!(!updated.ignored.concat().contains("SECRET"));
        assert_eq!(state.options, BASE);
    }

    #[test]
    fn what_an_update_adds_and_takes_away_again_is_gone() {
        let (mut state, profile) = (base(), profile(""));
        state.options.push("\"route\" 192.0.2.128 255.255.255.128".to_owned());
        let update = items("route 198.51.100.0,-route,route 203.0.113.0 255.255.255.0,-?dns");
        let updated = state.update(&profile, &update).unwrap();
        assert_eq!(routes(&updated.session).len(), 1);
        assert_eq!(state.options.last().unwrap(), "route 203.0.113.0 255.255.255.0");
    }

    /// Quadratic steps would take minutes.
    #[test]
    fn removals_cost_no_more_than_their_number() {
        let (mut state, profile) = (base(), profile(""));
        state.options.extend((0..60_000).map(|n| format!("dhcp-option DOMAIN d{n}.example")));
        let update: Vec<String> =
            (0..30_000).flat_map(|_| strings(&["route 198.51.100.0", "-route"])).collect();
        let updated = state.update(&profile, &update).unwrap();
        assert!(updated.session.network.routes.is_empty());
    }

    #[test]
    fn filters_hold() {
        let mut state = base();
        let nopull = profile("route-nopull");
        let updated = state.update(&nopull, &items("route 198.51.100.0,-dhcp-option")).unwrap();
        assert_eq!(updated.ignored.len(), 2);
        assert_eq!(state.options, BASE);
        let reject = profile("pull-filter reject redirect-gateway");
        for item in ["redirect-gateway def1", "?redirect-gateway def1", "-redirect-gateway"] {
            let refused = state.update(&reject, &items(item));
            assert!(matches!(refused, Err(PushError::Rejected { .. })), "{item}");
        }
    }

    #[test]
    fn tokens_are_not_kept() {
        let pushed =
            strings(&["auth-token SESS_ID", "auth-token-user Y3Ix", "ping 10", "echo \"x"]);
        assert_eq!(PushedState::new(&pushed, "").options, ["ping 10"]);
    }
}
