//! Addresses, routes, DNS of the profile itself, and what of a push is accepted.

use super::{Call, Entry};
use crate::profile::draft::Draft;
use crate::profile::lexer::{Escapes, tokenize};
use crate::profile::network::{Origin, apply};
use crate::profile::options::{PullFilter, PullFilterAction};
use crate::profile::values::one_of;
use crate::profile::verdict::{Done, Outcome, Problem};

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("topology", 1, 1, network),
    Entry::apply("ifconfig", 2, 2, network),
    Entry::apply("ifconfig-ipv6", 1, 2, network),
    Entry::apply("route", 1, 4, network),
    Entry::apply("route-ipv6", 1, 3, network),
    Entry::apply("route-gateway", 1, 1, network),
    Entry::apply("route-ipv6-gateway", 1, 1, network),
    Entry::apply("route-metric", 1, 1, network),
    Entry::apply("redirect-gateway", 0, 15, network),
    Entry::apply("redirect-private", 0, 15, network),
    Entry::apply("block-ipv6", 0, 0, network),
    Entry::apply("block-ipv4", 0, 0, network),
    Entry::apply("dhcp-option", 1, 15, network),
    Entry::apply("dns", 2, 15, network),
    Entry::apply("route-nopull", 0, 0, |d, _| {
        d.options.pull.route_nopull = true;
        Ok(Done::Taken)
    }),
    Entry::apply("route-noexec", 0, 0, |d, _| {
        d.options.pull.route_noexec = true;
        Ok(Done::Taken)
    }),
    Entry::apply("pull-filter", 2, 2, |d, c| {
        let action = match c.word(0)? {
            "accept" => PullFilterAction::Accept,
            "ignore" => PullFilterAction::Ignore,
            "reject" => PullFilterAction::Reject,
            other => return Err(one_of(other, "accept, ignore, reject")),
        };
        if c.args.len() > 2 {
            return Err(Problem::with_hint("more than one text", "put the text into quotes"));
        }
        let text = c.word(1)?.to_owned();
        tokenize(&text, Escapes::Any).map_err(|e| Problem::new(e.to_string()))?;
        d.options.pull.filters.push(PullFilter { action, text });
        Ok(Done::Taken)
    }),
];

fn network(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    apply(&mut draft.options.network, call.name, call.args, Origin::Profile)
        .unwrap_or_else(|| Err(Problem::new("not a network option")))
}
