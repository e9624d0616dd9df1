//! The tunnel's DNS in the host's resolver, kept there while others change it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ovpn_dco::Interface;
use tokio::task::JoinHandle;

use super::plan::DnsPlan;
use super::{Change, DnsUndo, HostResolver, Prepared};
use crate::ending;

/// For everything that setting DNS asks of other programs. What is not done by then is told, and
/// taken back.
const LIMIT: Duration = Duration::from_secs(6);

/// The host's resolver, and what is set in it.
#[derive(Debug)]
pub(in crate::network) struct Resolver {
    host: HostResolver,
    kept: Mutex<Option<Kept>>,
}

/// What is set, and the task that looks after it.
#[derive(Debug)]
struct Kept {
    prepared: Prepared,
    plan: DnsPlan,
    interface: Interface,
    task: Option<JoinHandle<()>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Resolver {
    pub(in crate::network) fn new(host: HostResolver) -> Self {
        Self { host, kept: Mutex::new(None) }
    }

    /// As [`HostResolver::prepare`].
    pub(in crate::network) async fn prepare(
        &self,
        plan: &DnsPlan,
        interface: &Interface,
        notes: &mut Vec<String>,
    ) -> Result<Prepared, String> {
        bounded(LIMIT, self.host.prepare(plan, interface, notes)).await
    }

    /// Makes a prepared change, and has it looked after.
    pub(in crate::network) async fn apply(
        &self,
        prepared: Prepared,
        plan: &DnsPlan,
        interface: &Interface,
    ) -> Result<(), String> {
        bounded(LIMIT, make(&prepared.change, plan, interface)).await?;
        let task = watch(&prepared.change, plan, interface);
        let kept = Kept { prepared, plan: plan.clone(), interface: interface.clone(), task };
        self.put(Some(kept));
        Ok(())
    }

    /// Sets again what is set, in case somebody has changed it unnoticed. The problem, if any.
    pub(in crate::network) async fn renew(&self) -> Option<String> {
        let mut kept = self.put(None)?;
        stop(&mut kept).await;
        let change = &mut kept.prepared.change;
        let renewed = bounded(LIMIT, async {
            if let Change::Resolved(service) = change {
                // The bus may be another one by now.
                *service = self.host.connect().await?;
            }
            make(change, &kept.plan, &kept.interface).await
        });
        let problem = renewed.await.err();
        kept.task = watch(&kept.prepared.change, &kept.plan, &kept.interface);
        self.put(Some(kept));
        problem.map(|reason| format!("the tunnel's DNS may not be in use: {reason}"))
    }

    /// Takes a change back. What somebody else has changed since is left alone.
    pub(in crate::network) async fn revert(&self, undo: &DnsUndo) -> Result<(), String> {
        match self.put(None) {
            Some(mut kept) if kept.prepared.undo == *undo => stop(&mut kept).await,
            other => drop(self.put(other)),
        }
        bounded(ending::DNS, self.host.revert(undo))
            .await
            .map_err(|reason| format!("{undo}: {reason}"))
    }

    /// As [`HostResolver::restore_after_reboot`].
    pub(in crate::network) fn restore_after_reboot(&self) -> Result<bool, String> {
        self.host.restore_after_reboot()
    }

    fn put(&self, kept: Option<Kept>) -> Option<Kept> {
        std::mem::replace(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner), kept)
    }
}

async fn bounded<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = |_| Err(format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, step).await.unwrap_or_else(late)
}

async fn make(change: &Change, plan: &DnsPlan, interface: &Interface) -> Result<(), String> {
    match change {
        Change::Resolved(service) => service.set(plan, interface.index).await,
        Change::Resolvconf(input) => input.run().await,
        Change::File(placed) => placed.place().map(drop),
    }
}

/// `resolvconf` keeps its records itself.
fn watch(change: &Change, plan: &DnsPlan, interface: &Interface) -> Option<JoinHandle<()>> {
    match change {
        Change::Resolved(service) => {
            Some(tokio::spawn(service.clone().keep(plan.clone(), interface.index)))
        }
        Change::Resolvconf(_) => None,
        Change::File(placed) => Some(tokio::spawn(placed.clone().keep())),
    }
}

/// Afterwards it does nothing any more.
async fn stop(kept: &mut Kept) {
    if let Some(task) = kept.task.take() {
        task.abort();
        // How it ended does not matter.
        let _ = task.await;
    }
}
