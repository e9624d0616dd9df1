//! What is configured stays while the host's network changes.

use std::collections::BTreeSet;
use std::time::Instant;

use ovpn_dco::Interface;
use tracing::{debug, warn};

use super::super::error::NetworkError;
use super::super::journal::{EntryId, Undo};
use super::super::plan::{Item, NetworkPlan, RouteTarget, Step, TunnelAddress, diff, disturbs};
use super::super::types::Network;
use super::DirectNetwork;
use super::apply::ROUNDS;
use super::fights::Verdict;
use super::held::Held;

/// What [`DirectNetwork::keep`] has found and done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// The changes made, in order. Empty when everything was in place.
    pub steps: Vec<Step>,
}

/// The host's way to the server, and the plan for it.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// There is none at present, or nobody needs one: the last plan stands, but for what went with
    /// the way.
    Gone,
    /// The host's own network is as it was at the last look: whatever is missing was taken away.
    AsBefore(&'a NetworkPlan),
    /// It is not: routes around the tunnel may have gone with it.
    New(&'a NetworkPlan),
}

impl DirectNetwork {
    /// After a change of the network: puts back what has gone of what is planned. What somebody takes
    /// away again as soon as it is put back, several times in a row, is left alone.
    ///
    /// `Ok(None)`: the interface is gone. Nothing is applied: nothing is done.
    ///
    /// # Errors
    /// The first step that fails. What is in place stays so; the next call goes on.
    pub async fn keep(&mut self, way: Way<'_>, now: Instant) -> Result<Option<Kept>, NetworkError> {
        let mut kept = Kept::default();
        let Some(old) = self.interface.clone() else { return Ok(Some(kept)) };
        let fail = |e| NetworkError::netlink(format!("look at {}", old.name), e);
        let Some(link) = self.host.netlink.link(old.index).await.map_err(fail)? else {
            return Ok(None);
        };
        if link.name != old.name {
            let interface = Interface { name: link.name, index: old.index };
            self.rename(&interface).await?;
        }
        if let Way::AsBefore(plan) | Way::New(plan) = way {
            // Said when it was applied.
            let mut notes = Vec::new();
            self.wanted = self.with_paths(plan, &mut notes).await?;
        }
        let interface = self.interface.clone().unwrap_or(old);
        let result = self.restore(&interface, way, now, &mut kept).await;
        self.unguard().await?;
        if kept.steps.iter().any(|step| matches!(step.item(), Item::Link(_) | Item::Address(_))) {
            self.host.resolver.renew().await.iter().for_each(|warning| warn!("{warning}"));
        }
        result.map(|()| Some(kept))
    }

    async fn restore(
        &mut self,
        interface: &Interface,
        way: Way<'_>,
        now: Instant,
        kept: &mut Kept,
    ) -> Result<(), NetworkError> {
        let reachable = !matches!(way, Way::Gone);
        for round in 0..ROUNDS {
            let before: BTreeSet<Item> = self.entries.keys().cloned().collect();
            let damaged = self.forget_vanished().await?;
            let missing = |item: &&Item| !self.entries.contains_key(*item);
            let gone = before.iter().filter(missing).chain(&damaged);
            let blamed =
                |item: &&Item| round == 0 && (matches!(way, Way::AsBefore(_)) || !is_outside(item));
            for item in gone.filter(blamed) {
                if self.fights.gone(item, now) == Verdict::GiveUp {
                    warn!(
                        "{item} does not stay: something else on this host takes it away as often \
                         as it is put back, so it is left alone"
                    );
                }
            }
            let wanted: Vec<Item> = self
                .wanted
                .iter()
                .filter(|item| !self.fights.is_left_alone(item, now))
                .filter(|item| reachable || !is_outside(item) || self.entries.contains_key(*item))
                .cloned()
                .collect();
            let whole: Vec<Item> =
                self.entries.keys().filter(|item| !damaged.contains(item)).cloned().collect();
            // What is left alone is not taken away either; and without a new plan nothing is.
            let steps = diff(&whole, &wanted).into_iter().filter(|step| {
                matches!(step, Step::Add(_))
                    || reachable && !self.fights.is_left_alone(step.item(), now)
            });
            let steps: Vec<Step> = damaged.iter().cloned().map(Step::Remove).chain(steps).collect();
            if steps.is_empty() {
                return Ok(());
            }
            if disturbs(self.link_settings(), &steps) {
                self.guard_networks(wanted.iter().filter_map(inside).collect()).await?;
            }
            let mut warnings = Vec::new();
            let taken = self.take(&steps, interface, &mut warnings).await;
            warnings.iter().for_each(|warning| warn!("{warning}"));
            if let Err(error) = taken {
                for step in &steps {
                    let item = step.item();
                    let failed = matches!(step, Step::Add(_)) && !self.entries.contains_key(item);
                    if failed && self.fights.gone(item, now) == Verdict::GiveUp {
                        warn!("{item} cannot be put back, so it is left out: {error}");
                    }
                }
                return Err(error);
            }
            kept.steps.extend(steps);
        }
        Ok(())
    }

    /// The interface has another name: what was noted under the old one would not be undone.
    async fn rename(&mut self, interface: &Interface) -> Result<(), NetworkError> {
        debug!("the interface is called {} now", interface.name);
        self.interface = Some(interface.clone());
        let of_entries = self.entries.values().filter_map(|entry| match entry.held {
            Held::Ours(id) => Some(id),
            _ => None,
        });
        let before = self.before.as_ref().map(|(id, _)| *id);
        let noted: Vec<EntryId> = of_entries.chain(before).chain(self.link).collect();
        for old in noted {
            let Some(undo) = self.journal.get(old).and_then(|undo| renamed(undo, interface)) else {
                continue;
            };
            let new = self.journal.record(undo).await?;
            for entry in self.entries.values_mut() {
                if entry.held == Held::Ours(old) {
                    entry.held = Held::Ours(new);
                }
            }
            if let Some((id, _)) = self.before.as_mut().filter(|(id, _)| *id == old) {
                *id = new;
            }
            if self.link == Some(old) {
                self.link = Some(new);
            }
            self.journal.done(old).await?;
        }
        Ok(())
    }
}

/// The same for an interface that has this name now; `None`: it does not say a name.
fn renamed(undo: &Undo, interface: &Interface) -> Option<Undo> {
    let mut undo = undo.clone();
    match &mut undo {
        Undo::DeleteAddress { name, .. }
        | Undo::RestoreLink { name, .. }
        | Undo::DeleteLink { name, .. } => name.clone_from(&interface.name),
        Undo::DeleteRoute { .. } | Undo::Dns(_) => return None,
    }
    Some(undo)
}

fn is_outside(item: &Item) -> bool {
    matches!(item, Item::Route(route) if matches!(route.target, RouteTarget::Outside(_)))
}

/// The network that has no place but the tunnel because of a part of a plan.
pub(super) fn inside(item: &Item) -> Option<Network> {
    match item {
        Item::Address(address) => TunnelAddress::network(address),
        Item::Route(route) if route.is_inside() => Some(route.destination),
        _ => None,
    }
}
