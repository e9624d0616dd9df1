//! `pull-filter` and `route-nopull`: which pushed options are taken at all.

use crate::profile::lexer::{Escapes, tokenize};
use crate::profile::options::{PullFilter, PullFilterAction, PullOptions};

/// What becomes of a pushed option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    Accept,
    Ignore(&'static str),
    Reject,
}

/// What `route-nopull` drops: routes and DNS.
const ROUTE_NOPULL: [&str; 18] = [
    "block-ipv4",
    "block-ipv6",
    "client-nat",
    "dhcp-option",
    "dhcp-pre-release",
    "dhcp-release",
    "dhcp-renew",
    "dns",
    "ip-win32",
    "redirect-gateway",
    "redirect-private",
    "register-dns",
    "route",
    "route-delay",
    "route-ipv6",
    "route-method",
    "route-metric",
    "tap-sleep",
];

/// The first filter that matches decides; a matching `accept` also overrides `route-nopull`.
pub(super) fn decide(pull: &PullOptions, words: &[String]) -> Decision {
    match pull.filters.iter().find(|filter| matches(filter, words)).map(|filter| filter.action) {
        Some(PullFilterAction::Accept) => return Decision::Accept,
        Some(PullFilterAction::Ignore) => return Decision::Ignore("pull-filter ignore"),
        Some(PullFilterAction::Reject) => return Decision::Reject,
        None => {}
    }
    let name = words.first().map(String::as_str).unwrap_or_default();
    if pull.route_nopull && ROUTE_NOPULL.contains(&name) {
        return Decision::Ignore("route-nopull");
    }
    Decision::Accept
}

/// All words of the filter's text but the last must be equal, the last is a prefix.
fn matches(filter: &PullFilter, words: &[String]) -> bool {
    // The profile's parser has seen that the text can be split.
    let Ok(text) = tokenize(&filter.text, Escapes::Any) else { return false };
    let Some((last, exact)) = text.split_last() else { return true };
    words.get(..exact.len()) == Some(exact)
        && words.get(exact.len()).is_some_and(|word| word.starts_with(last.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(lines: &[(&str, &str)]) -> PullOptions {
        let filters = lines
            .iter()
            .map(|&(action, text)| PullFilter {
                action: match action {
                    "accept" => PullFilterAction::Accept,
                    "ignore" => PullFilterAction::Ignore,
                    _ => PullFilterAction::Reject,
                },
                text: text.to_owned(),
            })
            .collect();
        PullOptions { filters, ..PullOptions::default() }
    }

    fn decision(pull: &PullOptions, option: &str) -> Decision {
        decide(pull, &tokenize(option, Escapes::Any).unwrap())
    }

    const IGNORED: Decision = Decision::Ignore("pull-filter ignore");

    // Known vectors of the protocol reference, 16.12.

    #[test]
    fn prefixes() {
        let pull = filters(&[("accept", "option")]);
        assert_eq!(decision(&pull, "option1 arg"), Decision::Accept);
        let pull = filters(&[("ignore", "route 1.2.3.4")]);
        assert_eq!(decision(&pull, "route   1.2.3.4 255.255.255.255"), IGNORED);
        assert_eq!(decision(&pull, "route 1.2.3.5"), Decision::Accept);
        assert_eq!(decision(&pull, "route"), Decision::Accept);
        let pull = filters(&[("reject", "option10")]);
        assert_eq!(decision(&pull, "option10 x"), Decision::Reject);
        assert_eq!(decision(&pull, "option1"), Decision::Accept);
    }

    #[test]
    fn spacing_does_not_matter() {
        let pull = filters(&[("accept", "option3 arg1 arg2"), ("ignore", "option")]);
        assert_eq!(decision(&pull, "option3 arg1 arg2"), Decision::Accept);
        assert_eq!(decision(&pull, "option3  arg1\targ2"), Decision::Accept);
        assert_eq!(decision(&pull, "option3 arg arg2"), IGNORED);
    }

    #[test]
    fn accept_overrides_route_nopull() {
        let mut pull =
            filters(&[("ignore", "route 1.2.3.4"), ("ignore", "route-"), ("accept", "route")]);
        pull.route_nopull = true;
        let options = [
            "route 1.2.3.4",
            "route 5.6.7.8 255.255.255.0",
            "route-ipv6 ::/0",
            "route 9.9.9.9 255.255.255.255",
            "dhcp-option DNS 1.1.1.1",
        ];
        let taken: Vec<_> =
            options.iter().filter(|o| decision(&pull, o) == Decision::Accept).collect();
        assert_eq!(taken, [&options[1], &options[3]]);
        assert_eq!(decision(&pull, "ifconfig 1.1.1.1 2.2.2.2"), Decision::Accept);
    }
}
