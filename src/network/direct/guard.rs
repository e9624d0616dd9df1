//! Nothing leaves outside the tunnel while its routes change.
//!
//! The kernel drops all routes of a device with its last address, and some with its settings. So
//! before such a change the halves of every network that leads into the tunnel become unreachable:
//! they win against everything that the host itself has for that network, and lose against what the
//! plan leads around the tunnel. They go when the new routes are in place.

use std::collections::BTreeSet;

use super::super::error::NetworkError;
use super::super::journal::Undo;
use super::super::plan::{PlannedRoute, RouteTarget};
use super::super::types::Network;
use super::DirectNetwork;
use super::keep::inside;

/// Of routes that lose against every other one of the same destination.
const LAST_METRIC: u32 = u32::MAX;

impl DirectNetwork {
    /// Guards every network that does not lead outside now.
    pub(super) async fn guard(&mut self) -> Result<(), NetworkError> {
        let ours = self.entries.iter().filter(|(_, entry)| entry.held.is_ours());
        self.guard_networks(ours.filter_map(|(item, _)| inside(item)).collect()).await
    }

    /// Guards these networks.
    pub(super) async fn guard_networks(
        &mut self,
        inside: BTreeSet<Network>,
    ) -> Result<(), NetworkError> {
        let guards: Vec<PlannedRoute> = inside
            .into_iter()
            .flat_map(|network| network.halves().map_or_else(|| vec![network], Vec::from))
            .map(|destination| PlannedRoute {
                target: RouteTarget::Unreachable,
                destination,
                metric: Some(LAST_METRIC),
                source: None,
            })
            .filter(|guard| !self.guards.contains_key(guard))
            .collect();
        let undo = guards.iter().map(|route| Undo::DeleteRoute { tunnel: 0, route: route.clone() });
        let ids = self.journal.record_all(undo).await?;
        let answers = self.host.netlink.add_routes(&guards, 0).await;
        let (mut not_made, mut first) = (Vec::new(), None);
        for ((guard, id), answer) in guards.into_iter().zip(ids).zip(answers) {
            match answer {
                Ok(()) => {
                    self.guards.insert(guard, id);
                    continue;
                }
                // One that loses as well is there already.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => {
                    first.get_or_insert_with(|| {
                        NetworkError::netlink(format!("add {guard}"), error)
                    });
                }
            }
            not_made.push(id);
        }
        self.journal.done_all(&not_made).await?;
        first.map_or(Ok(()), Err)
    }

    /// The new routes are in place.
    pub(super) async fn unguard(&mut self) -> Result<(), NetworkError> {
        let guards = std::mem::take(&mut self.guards).into_values().collect();
        self.revert(guards).await
    }
}
