//! Undoing what dead processes have left, wherever they left it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::direct::HostAccess;
use super::dns::HostResolver;
use super::error::NetworkError;
use super::journal::{Journal, Leftover};
use super::namespace::{NamespaceId, enter};

/// What a dead process left, and what became of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Undone {
    /// Its number, when it lived.
    pub pid: u32,
    /// What was undone, one text for each change.
    pub undone: Vec<String>,
    /// What was not; kept for another try.
    pub failed: Vec<StillThere>,
    /// Changes that had gone by themselves, with the kernel or the network namespace they were in.
    pub gone: usize,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.undone.len();
        write!(f, "undid {number} changes of process {}", self.pid)?;
        for StillThere { what, why } in &self.failed {
            write!(f, "; still there: {what}: {why}")?;
        }
        Ok(())
    }
}

/// A change that could not be undone.
#[derive(Debug, Serialize, Deserialize)]
pub struct StillThere {
    /// What was changed.
    pub what: String,
    /// Why it is still so.
    pub why: String,
}

/// A file that is not used, because somebody else could have written it or it cannot be read.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// Where it is.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// What [`clean_up`] did.
#[derive(Debug, Default, Serialize)]
pub struct CleanUp {
    /// For each process that had left something.
    pub processes: Vec<Undone>,
    /// A `resolv.conf` from before the last boot was put back, or one that a killed netcfg service
    /// had left.
    pub resolv_conf_restored: bool,
    /// Files that were left alone.
    pub refused: Vec<Refused>,
}

/// What dead processes have left; nothing is changed.
#[derive(Debug, Default, Serialize)]
pub struct Leftovers {
    /// For each of them its number, and its changes.
    pub processes: Vec<(u32, Vec<String>)>,
    /// `resolv.conf` is still as a tunnel before the last boot needed it, or one of a netcfg service
    /// that was killed.
    pub resolv_conf: bool,
    /// Files that would not be used.
    pub refused: Vec<Refused>,
}

impl Leftovers {
    /// Looks into a directory of journals. A directory that is not there holds nothing. Blocks; must
    /// not be called inside a runtime.
    ///
    /// # Errors
    /// When the directory cannot be read, or is not safe from others.
    pub fn find(runtime_dir: &Path) -> Result<Self, NetworkError> {
        let survey = Journal::survey(runtime_dir)?;
        let resolver = HostResolver::default();
        let texts = |leftover: &Leftover| leftover.undo.iter().map(ToString::to_string).collect();
        Ok(Self {
            processes: survey
                .leftovers
                .iter()
                .filter(|leftover| !leftover.undo.is_empty())
                .map(|leftover| (leftover.pid(), texts(leftover)))
                .collect(),
            resolv_conf: resolver.is_from_before_boot() || wait_for(resolver.is_left_by_service())?,
            refused: survey.refused.into_iter().map(Refused::from).collect(),
        })
    }
}

impl From<(PathBuf, String)> for Refused {
    fn from((path, why): (PathBuf, String)) -> Self {
        Self { path, why }
    }
}

impl CleanUp {
    /// What was done in another directory.
    pub fn add(&mut self, other: Self) {
        self.processes.extend(other.processes);
        self.resolv_conf_restored |= other.resolv_conf_restored;
        self.refused.extend(other.refused);
    }

    /// Whether nothing is left to be undone.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.processes.iter().all(|process| process.failed.is_empty())
    }
}

/// Undoes what dead processes have left in any network namespace that still exists, and what a
/// reboot has not undone. Who is not root cannot see every namespace, and leaves alone what was left
/// in others. Blocks; must not be called inside a runtime.
///
/// # Errors
/// When the directory of journals cannot be read or is not safe from others, or netlink cannot be
/// opened. What cannot be undone is no error: it is in the result, and kept for another try.
pub fn clean_up(runtime_dir: &Path) -> Result<CleanUp, NetworkError> {
    let survey = Journal::survey(runtime_dir)?;
    let here = NamespaceId::current().ok();
    let mut places: BTreeMap<Option<NamespaceId>, Vec<Leftover>> = BTreeMap::new();
    for leftover in survey.leftovers {
        let place = leftover.namespace.filter(|place| Some(*place) != here);
        places.entry(place).or_default().push(leftover);
    }
    let mut done = CleanUp {
        refused: survey.refused.into_iter().map(Refused::from).collect(),
        ..CleanUp::default()
    };
    for (place, mut leftovers) in places {
        if place.is_some() && !geteuid().is_root() {
            continue;
        }
        let namespace = place.and_then(NamespaceId::find);
        if place.is_some() && namespace.is_none() {
            leftovers.iter_mut().for_each(Leftover::forget_kernel);
        }
        done.processes.extend(undo_in(namespace, leftovers)?);
    }
    let resolver = HostResolver::default();
    match resolver.restore_after_reboot() {
        Ok(restored) => done.resolv_conf_restored = restored,
        Err(error) => tracing::debug!("{error}"),
    }
    match wait_for(resolver.put_right_after_service())? {
        Ok(put_right) => done.resolv_conf_restored |= put_right,
        Err((path, error)) => done.refused.push(Refused { path, why: error.to_string() }),
    }
    Ok(done)
}

fn wait_for<T>(work: impl Future<Output = T>) -> Result<T, NetworkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|e| NetworkError::netlink("start", e))?.block_on(work))
}

/// Undoes everything in a namespace, or in this one, on a thread that goes there.
fn undo_in(namespace: Option<File>, leftovers: Vec<Leftover>) -> Result<Vec<Undone>, NetworkError> {
    let fail = |operation: &str, e| NetworkError::netlink(operation, e);
    let work = move || {
        if let Some(namespace) = namespace {
            enter(namespace).map_err(|e| fail("enter the network namespace", e))?;
        }
        wait_for(async {
            let host = HostAccess::open(HostResolver::default())?;
            undo_all(&host, leftovers).await
        })?
    };
    match std::thread::spawn(work).join() {
        Ok(done) => done,
        Err(_) => Err(fail("clean up", io::Error::other("internal error"))),
    }
}

/// Undoes what processes have left in this network namespace.
pub(super) async fn undo_all(
    host: &HostAccess,
    leftovers: Vec<Leftover>,
) -> Result<Vec<Undone>, NetworkError> {
    let mut done = Vec::new();
    for leftover in leftovers {
        let mut process = Undone {
            pid: leftover.pid(),
            undone: Vec::new(),
            failed: Vec::new(),
            gone: leftover.gone,
        };
        for (undo, result) in leftover.undo.iter().zip(host.revert_all(&leftover.undo).await) {
            match result {
                Ok(()) => process.undone.push(undo.to_string()),
                Err(error) => process
                    .failed
                    .push(StillThere { what: undo.to_string(), why: error.to_string() }),
            }
        }
        if process.failed.is_empty() {
            leftover.finish()?;
        }
        done.push(process);
    }
    Ok(done)
}
