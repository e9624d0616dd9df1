//! The process's end of a line: where it asks the helper.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::de::DeserializeOwned;

use super::error::{HelperError, Refusal};
use super::line;
use super::request::{CHANGES, PreparedDns, Request};
use crate::ending;
use crate::network::clean_up::Undone;
use crate::network::dns::{DnsPlan, DnsUndo};
use crate::network::error::NetworkError;
use crate::network::journal::{EntryId, Journal, Undo};

/// The helper has its own limits, for each thing it does. This is for a helper that hangs: a session
/// still sees it when it ends.
const LIMIT: Duration = Duration::from_secs(11);
/// The same where the helper undoes what others have left: as much as there is.
const LONG_LIMIT: Duration = Duration::from_secs(20);

const _: () = assert!(
    ending::DNS.as_secs() < LIMIT.as_secs()
        && LIMIT.as_secs() < ending::SESSION.as_secs()
        && ending::LAST_RESORT.as_secs() < LONG_LIMIT.as_secs()
);

/// One request at a time; each waits for its answer, and nothing else does.
#[derive(Debug)]
pub(in crate::network) struct Desk(Mutex<Line>);

#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// What to say once no answer is to be had any more.
    broken: Option<HelperError>,
}

impl Desk {
    /// `socket`: the other end is the helper's.
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(Line { socket, broken: None }))
    }

    /// Waits for the answer.
    fn ask<T: DeserializeOwned>(
        &self,
        request: &Request,
    ) -> Result<(T, Option<OwnedFd>), HelperError> {
        // Whoever panicked here has left the line as it was, or broken.
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.ask(request)
    }

    async fn ask_elsewhere<T: DeserializeOwned + Send + 'static>(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<(T, Option<OwnedFd>), HelperError> {
        let desk = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || desk.ask(&request));
        asked.await.unwrap_or_else(|error| Err(HelperError::Line(Arc::new(error.into()))))
    }

    /// Starts a journal.
    pub(in crate::network) async fn open(self: &Arc<Self>) -> Result<Notes, NetworkError> {
        let ((), lock) = self.ask_elsewhere(Request::Open).await?;
        Ok(Notes::There { desk: Arc::clone(self), open: BTreeMap::new(), _lock: lock })
    }

    /// As `HostResolver::prepare`.
    pub(in crate::network) async fn prepare_dns(
        self: &Arc<Self>,
        plan: &DnsPlan,
        name: &str,
        index: u32,
    ) -> Result<PreparedDns, HelperError> {
        let request = Request::PrepareDns { plan: plan.clone(), name: name.to_owned(), index };
        self.ask_elsewhere(request).await.map(|(prepared, _)| prepared)
    }

    /// As `Resolver::apply`.
    pub(in crate::network) async fn apply_dns(
        self: &Arc<Self>,
    ) -> Result<Vec<String>, HelperError> {
        self.ask_elsewhere(Request::ApplyDns).await.map(|(notes, _)| notes)
    }

    /// As `Resolver::renew`.
    pub(in crate::network) async fn renew_dns(self: &Arc<Self>) -> Vec<String> {
        let renewed = self.ask_elsewhere(Request::RenewDns).await;
        renewed.map_or_else(|error| vec![error.to_string()], |(notes, _)| notes)
    }

    /// As `Resolver::revert`.
    pub(in crate::network) async fn revert_dns(
        self: &Arc<Self>,
        undo: &DnsUndo,
    ) -> Result<(), HelperError> {
        self.ask_elsewhere(Request::RevertDns(undo.clone())).await.map(|((), _)| ())
    }

    /// As `DirectNetwork::undo_abandoned`. Blocks.
    pub(in crate::network) fn undo_abandoned(&self) -> Result<Vec<Undone>, HelperError> {
        self.ask(&Request::UndoAbandoned).map(|(undone, _)| undone)
    }

    /// An open `/dev/net/tun`.
    pub(super) async fn open_tun(self: &Arc<Self>) -> Result<OwnedFd, HelperError> {
        let ((), passed) = self.ask_elsewhere(Request::OpenTun).await?;
        passed.ok_or(HelperError::Missing("descriptor"))
    }
}

impl Line {
    fn ask<T: DeserializeOwned>(
        &mut self,
        request: &Request,
    ) -> Result<(T, Option<OwnedFd>), HelperError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let limit = match request {
            Request::Open | Request::UndoAbandoned => LONG_LIMIT,
            _ => LIMIT,
        };
        let answer = self
            .set_limit(limit)
            .and_then(|()| line::send(&self.socket, request, None))
            .and_then(|()| line::receive(&self.socket));
        let broken = match answer {
            Ok(Some((Ok(value), passed))) => return Ok((value, passed)),
            Ok(Some((Err(refusal), _))) => return Err(Refusal::into(refusal)),
            Ok(None) => HelperError::Ended,
            Err(error) => match error.kind() {
                io::ErrorKind::BrokenPipe => HelperError::Ended,
                io::ErrorKind::WouldBlock => HelperError::NoAnswer(limit),
                _ => HelperError::Line(Arc::new(error)),
            },
        };
        // An answer to this that comes late must not be taken for that to the next.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        self.broken = Some(broken.clone());
        Err(broken)
    }

    fn set_limit(&self, limit: Duration) -> io::Result<()> {
        let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &limit)?;
        setsockopt(&self.socket, sockopt::SendTimeout, &limit)?;
        Ok(())
    }
}

/// What is to be undone, in a journal of this process or of the helper.
#[derive(Debug)]
pub(in crate::network) enum Notes {
    Here(Journal),
    There {
        desk: Arc<Desk>,
        open: BTreeMap<EntryId, Undo>,
        /// Free as soon as this process is dead.
        _lock: Option<OwnedFd>,
    },
}

impl Notes {
    /// As [`Journal::record`].
    pub(in crate::network) async fn record(&mut self, what: Undo) -> Result<EntryId, NetworkError> {
        match self {
            Self::Here(journal) => journal.record(what),
            Self::There { .. } => {
                let number = self.record_all([what]).await?.pop();
                Ok(number.ok_or(HelperError::Missing("number of the note"))?)
            }
        }
    }

    /// As [`Journal::record_all`].
    pub(in crate::network) async fn record_all(
        &mut self,
        what: impl IntoIterator<Item = Undo>,
    ) -> Result<Vec<EntryId>, NetworkError> {
        match self {
            Self::Here(journal) => journal.record_all(what),
            Self::There { desk, open, .. } => {
                let mut all = Vec::new();
                let what: Vec<Undo> = what.into_iter().collect();
                for some in what.chunks(CHANGES) {
                    let asked = desk.ask_elsewhere(Request::Record(some.to_vec())).await;
                    let (ids, _): (Vec<EntryId>, _) = asked?;
                    open.extend(ids.iter().copied().zip(some.iter().cloned()));
                    all.extend(ids);
                }
                Ok(all)
            }
        }
    }

    /// As [`Journal::get`].
    pub(in crate::network) fn get(&self, id: EntryId) -> Option<&Undo> {
        match self {
            Self::Here(journal) => journal.get(id),
            Self::There { open, .. } => open.get(&id),
        }
    }

    /// As [`Journal::done`].
    pub(in crate::network) async fn done(&mut self, id: EntryId) -> Result<(), NetworkError> {
        match self {
            Self::Here(journal) => journal.done(id),
            Self::There { .. } => self.done_all(&[id]).await,
        }
    }

    /// As [`Journal::done_all`].
    pub(in crate::network) async fn done_all(
        &mut self,
        ids: &[EntryId],
    ) -> Result<(), NetworkError> {
        match self {
            Self::Here(journal) => journal.done_all(ids),
            Self::There { desk, open, .. } => {
                for some in ids.chunks(CHANGES) {
                    some.iter().for_each(|id| drop(open.remove(id)));
                    let asked = desk.ask_elsewhere(Request::Done(some.to_vec())).await;
                    asked.map(|((), _)| ())?;
                }
                Ok(())
            }
        }
    }
}
