//! From what is configured to what is planned: steps, and a look at the kernel afterwards, until it
//! has what the plan says.
//!
//! What is configured then is what a fresh start with the same plan gives, whatever was configured
//! before, and what the kernel or another program has dropped since.

use std::collections::HashMap;
use std::net::IpAddr;

use ovpn_dco::Interface;
use tracing::{debug, warn};

use super::super::error::NetworkError;
use super::super::fib::{RouteKind, Selectors, Target};
use super::super::plan::{
    Item, LinkSettings, NetworkPlan, PlannedRoute, RouteTarget, Step, diff, disturbs,
};
use super::super::types::Path;
use super::DirectNetwork;
use super::held::{Held, is_on_tunnel};
use super::host::Host;

/// How often steps are taken before it is given up. Once is enough for a first plan, twice when the
/// kernel has dropped something with what went.
pub(super) const ROUNDS: usize = 3;

/// Warnings that are told one by one.
const WARNINGS: usize = 20;

/// What [`DirectNetwork::apply`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The changes made, in order. Empty when everything was in place.
    pub steps: Vec<Step>,
    /// What could not be done although the tunnel works without it, and why. Many are summed up.
    pub warnings: Vec<String>,
}

impl DirectNetwork {
    /// Changes the host from what is applied to what is planned. The same plan again changes
    /// nothing (but brings back what the kernel has dropped since). While packets have no place but
    /// the tunnel before and after, they never leave outside it in between.
    ///
    /// # Errors
    /// The first step that fails and that the tunnel needs, or a part that does not stay. Everything
    /// is undone then.
    pub async fn apply(
        &mut self,
        interface: &Interface,
        plan: &NetworkPlan,
    ) -> Result<Applied, NetworkError> {
        match self.try_apply(interface, plan).await {
            Ok(applied) => Ok(applied),
            Err(error) => {
                if let Err(second) = self.undo().await {
                    warn!("undoing after a failure: {second}");
                }
                Err(error)
            }
        }
    }

    /// The interface is about to go, and another will follow, see [`Self::apply`]: what is on it goes
    /// first. What would have gone into the tunnel goes nowhere until then.
    ///
    /// # Errors
    /// The first failure; what follows is not done.
    pub async fn leave_interface(&mut self) -> Result<(), NetworkError> {
        self.guard().await?;
        self.remove_where(|item, _| is_on_tunnel(item)).await?;
        let before = self.before.take().map(|(id, _)| id);
        self.revert(before.into_iter().collect()).await?;
        self.interface = None;
        Ok(())
    }

    async fn try_apply(
        &mut self,
        interface: &Interface,
        plan: &NetworkPlan,
    ) -> Result<Applied, NetworkError> {
        let mut applied = Applied { steps: Vec::new(), warnings: plan.notes().to_vec() };
        let wanted = self.with_paths(plan, &mut applied.warnings).await?;
        if self.interface.as_ref().is_some_and(|old| old != interface) {
            self.leave_interface().await?;
        }
        self.interface = Some(interface.clone());
        self.forget_refused();
        self.fights.forget();
        self.wanted.clone_from(&wanted);
        if self.host.resolver.is_set_by_service() {
            // Which may be another one by now; what it has set cannot be looked at.
            let taken_back = self.remove_where(|item, _| matches!(item, Item::Dns(_))).await;
            applied.warnings.extend(taken_back.err().map(|error| error.to_string()));
        }
        self.converge(interface, &wanted, &mut applied).await?;
        self.unguard().await?;
        if !applied.steps.iter().any(|step| matches!(step, Step::Add(Item::Dns(_)))) {
            applied.warnings.extend(self.host.resolver.renew().await);
        }
        for entry in self.entries.values_mut() {
            entry.provisional = false;
            if let Held::Refused(why) = &entry.held {
                applied.warnings.push(why.clone());
            }
        }
        let more = applied.warnings.len().saturating_sub(WARNINGS);
        if more > 0 {
            applied.warnings.truncate(WARNINGS);
            applied.warnings.push(format!("and {more} more of this kind"));
        }
        Ok(applied)
    }

    /// Takes steps until the kernel has what is wanted.
    async fn converge(
        &mut self,
        interface: &Interface,
        wanted: &[Item],
        applied: &mut Applied,
    ) -> Result<(), NetworkError> {
        for _ in 0..ROUNDS {
            let steps = self.steps_to(wanted).await?;
            if steps.is_empty() {
                return Ok(());
            }
            if disturbs(self.link_settings(), &steps) {
                self.guard().await?;
            }
            self.take(&steps, interface, &mut applied.warnings).await?;
            if steps.iter().any(|step| matches!(step, Step::Remove(_))) {
                // What was in its way may be gone.
                self.forget_refused();
            }
            applied.steps.extend(steps);
        }
        match self.steps_to(wanted).await?.first() {
            None => Ok(()),
            Some(step) => Err(NetworkError::NotKept { what: step.item().to_string() }),
        }
    }

    /// From what the kernel has.
    /// The interface's settings in place, as far as is known.
    pub(super) fn link_settings(&self) -> Option<&LinkSettings> {
        self.entries.keys().find_map(|item| match item {
            Item::Link(settings) => Some(settings),
            _ => None,
        })
    }

    async fn steps_to(&mut self, wanted: &[Item]) -> Result<Vec<Step>, NetworkError> {
        let damaged = self.forget_vanished().await?;
        let whole = self.entries.keys().filter(|item| !damaged.contains(item));
        let to_wanted = diff(&whole.cloned().collect::<Vec<_>>(), wanted);
        Ok(damaged.into_iter().map(Step::Remove).chain(to_wanted).collect())
    }

    pub(super) async fn take(
        &mut self,
        steps: &[Step],
        interface: &Interface,
        warnings: &mut Vec<String>,
    ) -> Result<(), NetworkError> {
        for run in steps.chunk_by(at_once) {
            for step in run {
                debug!("{step}");
            }
            let items = run.iter().map(Step::item);
            match run.first() {
                Some(Step::Remove(_)) => self.remove(&items.cloned().collect::<Vec<_>>()).await?,
                Some(Step::Add(Item::Route(_))) => {
                    let routes = items.filter_map(|item| match item {
                        Item::Route(route) => Some(route.clone()),
                        _ => None,
                    });
                    self.add_routes(routes.collect(), interface.index).await?;
                }
                Some(Step::Add(item)) => self.add(item, interface, warnings).await?,
                None => {}
            }
        }
        Ok(())
    }

    /// What was not made here, because the host had it or refused it, is tried again.
    fn forget_refused(&mut self) {
        self.entries.retain(|_, entry| entry.held.is_ours());
    }

    /// A plan's items, where a gateway that is not in the tunnel has the device on which the host
    /// reaches it. The kernel's own choice would depend on the tunnel's routes of that moment.
    pub(super) async fn with_paths(
        &self,
        plan: &NetworkPlan,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Item>, NetworkError> {
        if !plan.routes().any(|route| matches!(route.target, RouteTarget::Gateway(_))) {
            return Ok(plan.items().to_vec());
        }
        let host = Host::read(&self.host.netlink).await?;
        let own = self.own_routes();
        let fibs = [false, true].map(|ipv6| host.fib(ipv6).without(|route| own.contains(route)));
        let all = Selectors::default();
        let find = |gateway: IpAddr| {
            let fib = &fibs[usize::from(gateway.is_ipv6())];
            let route = fib.resolve(Target::Address(gateway), all, |_| false)?;
            let path = route.path(all, |index| host.name(index))?;
            (route.kind == RouteKind::Unicast && path.gateway.is_none()).then_some(Path {
                gateway: Some(gateway),
                source: None,
                mtu: None,
                ..path
            })
        };
        let mut paths: HashMap<IpAddr, Option<Path>> = HashMap::new();
        let mut items = Vec::with_capacity(plan.items().len());
        for item in plan.items() {
            let Item::Route(route) = item else {
                items.push(item.clone());
                continue;
            };
            let RouteTarget::Gateway(gateway) = route.target else {
                items.push(item.clone());
                continue;
            };
            match paths.entry(gateway).or_insert_with(|| find(gateway)) {
                Some(path) => items.push(Item::Route(PlannedRoute {
                    target: RouteTarget::Outside(path.clone()),
                    ..route.clone()
                })),
                None => warnings.push(format!(
                    "{route}: left out, this host has no network with {gateway} in it"
                )),
            }
        }
        Ok(items)
    }
}

/// Whether steps that follow each other can be taken together.
fn at_once(first: &Step, second: &Step) -> bool {
    matches!(
        (first, second),
        (Step::Remove(_), Step::Remove(_)) | (Step::Add(Item::Route(_)), Step::Add(Item::Route(_)))
    )
}
