//! The tunnel's DNS in the host's resolver, kept there while others change it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ovpn_dco::Interface;
use tokio::task::JoinHandle;

use super::error::DnsError;
use super::plan::DnsPlan;
use super::{Change, DnsUndo, HostResolver, Prepared};
use crate::ending;
use crate::network::helper::Desk;
use crate::network::netcfg::{DnsDevice, NetcfgConfig};

/// For everything that setting DNS asks of other programs. What is not done by then is told, and
/// taken back.
const LIMIT: Duration = Duration::from_secs(6);

/// The host's resolver, and what is set in it.
#[derive(Debug)]
pub(in crate::network) struct Resolver {
    changes: Changes,
    /// Sets DNS where this process cannot.
    service: Option<NetcfgConfig>,
    kept: Mutex<Option<Kept>>,
}

/// Who changes it.
#[derive(Debug)]
enum Changes {
    Here(HostResolver),
    Helper(Arc<Desk>),
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
        Self { changes: Changes::Here(host), service: None, kept: Mutex::new(None) }
    }

    /// The helper process changes it, and looks after it.
    pub(in crate::network) fn through(desk: Arc<Desk>) -> Self {
        Self { changes: Changes::Helper(desk), service: None, kept: Mutex::new(None) }
    }

    /// Has the netcfg service set DNS where this process cannot.
    pub(in crate::network) fn set_service(&mut self, service: NetcfgConfig) {
        self.service = Some(service);
    }

    /// As [`HostResolver::prepare`], and by the service where that fails.
    pub(in crate::network) async fn prepare(
        &self,
        plan: &DnsPlan,
        interface: &Interface,
        notes: &mut Vec<String>,
    ) -> Result<Prepared, DnsError> {
        let prepared = match &self.changes {
            Changes::Here(host) => bounded(LIMIT, host.prepare(plan, interface, notes)).await,
            Changes::Helper(desk) => {
                match desk.prepare_dns(plan, &interface.name, interface.index).await {
                    Ok(prepared) => {
                        notes.extend(prepared.notes);
                        Ok(Prepared { undo: prepared.undo, change: Change::Helper })
                    }
                    Err(error) => Err(error.into()),
                }
            }
        };
        match prepared {
            Err(error) => self.prepare_service(error).await,
            prepared => prepared,
        }
    }

    /// A change that the service makes, because this process cannot for that reason. `Err`: that
    /// and why the service cannot either.
    pub(in crate::network) async fn prepare_service(
        &self,
        reason: DnsError,
    ) -> Result<Prepared, DnsError> {
        let Some(service) = &self.service else { return Err(reason) };
        let create = async { Ok(DnsDevice::create(service).await?) };
        match bounded(LIMIT, create).await {
            Ok(device) => {
                let undo = DnsUndo::Netcfg { device: device.path().to_owned() };
                Ok(Prepared { undo, change: Change::Netcfg(Box::new(device)) })
            }
            Err(second) => Err(reason.and(second)),
        }
    }

    /// Whether it is the service that has set what is set.
    pub(in crate::network) fn is_set_by_service(&self) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().is_some_and(|kept| matches!(kept.prepared.change, Change::Netcfg(_)))
    }

    /// Makes a prepared change, and has it looked after.
    pub(in crate::network) async fn apply(
        &self,
        mut prepared: Prepared,
        plan: &DnsPlan,
        interface: &Interface,
        notes: &mut Vec<String>,
    ) -> Result<(), DnsError> {
        if let Changes::Helper(desk) = &self.changes {
            notes.extend(desk.apply_dns().await?);
            return Ok(());
        }
        bounded(LIMIT, make(&mut prepared.change, plan, interface, notes)).await?;
        let task = watch(&prepared.change, plan, interface);
        let kept = Kept { prepared, plan: plan.clone(), interface: interface.clone(), task };
        self.put(Some(kept));
        Ok(())
    }

    /// Sets again what is set, in case somebody has changed it unnoticed. What there is to say.
    pub(in crate::network) async fn renew(&self) -> Vec<String> {
        let host = match &self.changes {
            Changes::Here(host) => host,
            Changes::Helper(desk) => return desk.renew_dns().await,
        };
        let mut notes = Vec::new();
        let Some(mut kept) = self.put(None) else { return notes };
        stop(&mut kept).await;
        let change = &mut kept.prepared.change;
        let renewed = bounded(LIMIT, async {
            if let Change::Resolved(service) = change {
                // The bus may be another one by now.
                *service = host.connect().await?;
            }
            make(change, &kept.plan, &kept.interface, &mut notes).await
        });
        if let Err(error) = renewed.await {
            notes.push(format!("the tunnel's DNS may not be in use: {error}"));
        }
        kept.task = watch(&kept.prepared.change, &kept.plan, &kept.interface);
        self.put(Some(kept));
        notes
    }

    /// Takes a change back. What somebody else has changed since is left alone.
    pub(in crate::network) async fn revert(&self, undo: &DnsUndo) -> Result<(), DnsError> {
        let host = match &self.changes {
            Changes::Here(host) => host,
            Changes::Helper(desk) => return Ok(desk.revert_dns(undo).await?),
        };
        let mut kept = self.put(None);
        match &mut kept {
            Some(kept) if kept.prepared.undo == *undo => stop(kept).await,
            _ => drop(self.put(kept.take())),
        }
        let reverted = bounded(ending::DNS, host.revert(undo)).await;
        // The service looks for its device by a name, which another one could have otherwise.
        drop(kept);
        reverted.map_err(|error| DnsError::still_set(undo, error))
    }

    /// As [`HostResolver::restore_after_reboot`].
    pub(in crate::network) fn restore_after_reboot(&self) -> Result<bool, DnsError> {
        match &self.changes {
            Changes::Here(host) => host.restore_after_reboot(),
            // It does so by itself.
            Changes::Helper(_) => Ok(false),
        }
    }

    fn put(&self, kept: Option<Kept>) -> Option<Kept> {
        std::mem::replace(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner), kept)
    }
}

async fn bounded<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, DnsError>>,
) -> Result<T, DnsError> {
    let late = |_| Err(DnsError::NoAnswer(limit));
    tokio::time::timeout(limit, step).await.unwrap_or_else(late)
}

async fn make(
    change: &mut Change,
    plan: &DnsPlan,
    interface: &Interface,
    notes: &mut Vec<String>,
) -> Result<(), DnsError> {
    match change {
        Change::Resolved(service) => Ok(service.set(plan, interface.index).await?),
        Change::Resolvconf(input) => input.run().await,
        Change::File(placed) => placed.place().map(drop),
        Change::Netcfg(device) => Ok(device.set(plan, notes).await?),
        Change::Helper => Ok(()),
    }
}

/// `resolvconf` keeps its records itself, and the service what it has set.
fn watch(change: &Change, plan: &DnsPlan, interface: &Interface) -> Option<JoinHandle<()>> {
    match change {
        Change::Resolved(service) => {
            Some(tokio::spawn(service.clone().keep(plan.clone(), interface.index)))
        }
        Change::Resolvconf(_) | Change::Netcfg(_) | Change::Helper => None,
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
