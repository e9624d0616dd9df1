//! The helper's side: what it does when it is asked, and when nobody can ask any more.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use ovpn_dco::Interface;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use super::error::Refusal;
use super::line::AsyncLine;
use super::request::{CHANGES, NOTED, PreparedDns, Request, interface};
use crate::network::clean_up::{self, Undone};
use crate::network::direct::HostAccess;
use crate::network::dns::{DnsPlan, HostResolver, Prepared};
use crate::network::error::NetworkError;
use crate::network::journal::{Journal, Owner, Undo};

/// Lines at a time, at most.
const LINES: usize = 32;

/// A log line of the helper, for the log of the process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// `LogCategory` of OpenVPN 3 Linux.
    pub category: u32,
    /// What.
    pub text: String,
}

/// Starts a journal, and undoes what dead processes have left in this network namespace.
pub(in crate::network) async fn open_here(
    runtime_dir: &Path,
    owner: Owner,
    resolver: HostResolver,
) -> Result<(HostAccess, Journal), NetworkError> {
    let host = HostAccess::open(resolver)?;
    let (journal, leftovers) = Journal::open(runtime_dir, owner)?;
    for process in clean_up::undo_all(&host, leftovers).await? {
        if process.failed.is_empty() {
            info!("{process}");
        } else {
            warn!("{process}");
        }
    }
    match host.resolver.restore_after_reboot() {
        Ok(true) => info!("restored resolv.conf as it was before the last boot"),
        Ok(false) => {}
        Err(error) => debug!("{error}"),
    }
    Ok((host, journal))
}

/// Serves the process at the other end of the lifeline until that process is gone, and undoes then
/// what it has left. `said`: log lines, for the process. What was undone, for whoever is still there
/// to read it. Inside a runtime of one thread.
///
/// # Errors
/// When the lifeline is none.
pub async fn serve(
    lifeline: OwnedFd,
    runtime_dir: PathBuf,
    mut said: mpsc::Receiver<Said>,
) -> std::io::Result<Vec<Undone>> {
    let owner = Owner::parent();
    let lifeline = AsyncLine::new(lifeline)?;
    let mut lines = JoinSet::new();
    let mut handles: Vec<AbortHandle> = Vec::new();
    loop {
        tokio::select! {
            biased;
            line = lifeline.receive::<()>() => match line {
                Ok(Some(((), Some(line)))) => {
                    handles.retain(|line| !line.is_finished());
                    if handles.len() < LINES && let Ok(line) = AsyncLine::new(line) {
                        let office = Office::new(runtime_dir.clone(), owner);
                        handles.push(lines.spawn(office.work(line)));
                    }
                }
                Ok(Some(((), None))) => {}
                Ok(None) => break,
                Err(error) => {
                    debug!("the helper process does not understand: {error}");
                    break;
                }
            },
            Some(undo) = lines.join_next() => {
                // One that asks to undo all: nobody else may change anything meanwhile.
                if let Ok(Some(line)) = undo {
                    lines.abort_all();
                    while lines.join_next().await.is_some() {}
                    let undone =
                        undo_abandoned(&runtime_dir, owner).await.map_err(Refusal::new);
                    // A process that has gone needs no answer.
                    let _ = line.send(&undone, None).await;
                }
            }
            Some(line) = said.recv() => {
                // Full: nobody reads, and there is no better place to say so.
                let _ = super::line::send(lifeline.as_fd(), &line, None);
            }
        }
    }
    lines.abort_all();
    while lines.join_next().await.is_some() {}
    let left = Journal::left_by(&runtime_dir, owner).map_err(std::io::Error::other)?;
    let host = HostAccess::open(HostResolver::default()).map_err(std::io::Error::other)?;
    clean_up::undo_all(&host, left.leftovers).await.map_err(std::io::Error::other)
}

async fn undo_abandoned(runtime_dir: &Path, owner: Owner) -> Result<Vec<Undone>, NetworkError> {
    let own = Journal::of(runtime_dir, owner)?;
    let host = HostAccess::open(HostResolver::default())?;
    clean_up::undo_all(&host, own).await
}

/// What one line has to do with.
struct Office {
    runtime_dir: PathBuf,
    owner: Owner,
    open: Option<(HostAccess, Journal)>,
    prepared: Option<(Prepared, DnsPlan, Interface)>,
}

type Answer = Result<(Value, Option<OwnedFd>), Refusal>;

impl Office {
    fn new(runtime_dir: PathBuf, owner: Owner) -> Self {
        Self { runtime_dir, owner, open: None, prepared: None }
    }

    /// Answers until the line ends, or until everything is to be undone: the line then.
    async fn work(mut self, line: AsyncLine) -> Option<AsyncLine> {
        while let Ok(Some((request, _))) = line.receive().await {
            if matches!(request, Request::UndoAbandoned) {
                return Some(line);
            }
            let (answer, passed) = match self.answer(request).await {
                Ok((value, passed)) => (Ok(value), passed),
                Err(refusal) => (Err(refusal), None),
            };
            let sent = line.send(&answer, passed.as_ref().map(OwnedFd::as_fd)).await;
            if sent.is_err() {
                break;
            }
        }
        None
    }

    async fn answer(&mut self, request: Request) -> Answer {
        const CLOSED: &str = "there is no journal yet";
        match request {
            Request::Open => {
                if self.open.is_some() {
                    return Err("there is a journal already".into());
                }
                let opened =
                    open_here(&self.runtime_dir, self.owner, HostResolver::default()).await;
                let (host, mut journal) = opened.map_err(Refusal::new)?;
                let lock = journal.hand_over_lock().map(OwnedFd::from);
                self.open = Some((host, journal));
                Ok((Value::Null, lock))
            }
            Request::OpenTun => {
                let file = File::options().read(true).write(true).open("/dev/net/tun")?;
                Ok((Value::Null, Some(file.into())))
            }
            Request::Record(changes) => {
                let (_, journal) = self.open.as_mut().ok_or(CLOSED)?;
                if changes.len() > CHANGES || journal.len() + changes.len() > NOTED {
                    return Err("too many changes".into());
                }
                let prepared = self.prepared.as_ref().map(|(prepared, ..)| &prepared.undo);
                let allowed = changes.iter().all(|change| match change {
                    Undo::Dns(undo) => Some(undo) == prepared,
                    _ => true,
                });
                if !allowed {
                    return Err("this change to DNS was not prepared here".into());
                }
                value(journal.record_all(changes).map_err(Refusal::new)?)
            }
            Request::Done(ids) => {
                let (_, journal) = self.open.as_mut().ok_or(CLOSED)?;
                value(journal.done_all(&ids).map_err(Refusal::new)?)
            }
            Request::PrepareDns { plan, name, index } => {
                let interface = interface(name, index)?;
                let (host, _) = self.open.as_ref().ok_or(CLOSED)?;
                let mut notes = Vec::new();
                let prepared = host.resolver.prepare(&plan, &interface, &mut notes).await;
                let prepared = prepared.map_err(Refusal::new)?;
                let undo = prepared.undo.clone();
                self.prepared = Some((prepared, plan, interface));
                value(PreparedDns { undo, notes })
            }
            Request::ApplyDns => {
                let (host, journal) = self.open.as_ref().ok_or(CLOSED)?;
                let (prepared, plan, interface) =
                    self.prepared.take().ok_or("nothing is prepared")?;
                if !journal.has(&Undo::Dns(prepared.undo.clone())) {
                    return Err("this change is not noted".into());
                }
                let mut notes = Vec::new();
                let applied = host.resolver.apply(prepared, &plan, &interface, &mut notes).await;
                applied.map_err(Refusal::new)?;
                value(notes)
            }
            Request::RenewDns => {
                let (host, _) = self.open.as_ref().ok_or(CLOSED)?;
                value(host.resolver.renew().await)
            }
            Request::RevertDns(undo) => {
                let (host, journal) = self.open.as_ref().ok_or(CLOSED)?;
                if !journal.has(&Undo::Dns(undo.clone())) {
                    return Err("this change is not noted".into());
                }
                value(host.resolver.revert(&undo).await.map_err(Refusal::new)?)
            }
            Request::UndoAbandoned => Err("not on this line".into()),
        }
    }
}

fn value(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map(|value| (value, None)).map_err(Refusal::new)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::Arc;

    use nix::sys::socket::{MsgFlags, send};

    use super::super::desk::Desk;
    use super::super::line;
    use super::*;
    use crate::network::dns::DnsUndo;

    /// A line to an office, and who works there.
    fn open_line(directory: &Path) -> (OwnedFd, tokio::task::JoinHandle<bool>) {
        let (ours, theirs) = line::pair().unwrap();
        let office = Office::new(directory.to_owned(), Owner::this());
        let line = AsyncLine::new(theirs).unwrap();
        (ours, tokio::spawn(async move { office.work(line).await.is_some() }))
    }

    fn link(index: u32) -> Undo {
        Undo::DeleteLink { name: "none0".to_owned(), kind: "ovpn".to_owned(), index }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_are_noted_until_they_are_undone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let (socket, work) = open_line(&path);
        let desk = Arc::new(Desk::new(socket));
        let mut notes = desk.open().await.unwrap();
        let ids = notes.record_all((0..1000).map(link)).await.unwrap();
        assert_eq!(notes.get(ids[999]), Some(&link(999)));
        let noted = || Journal::of(&path, Owner::this()).unwrap();
        assert_eq!(noted()[0].undo.len(), 1000);
        notes.done_all(&ids).await.unwrap();
        assert!(noted().is_empty() && notes.get(ids[0]).is_none());
        drop((notes, desk));
        assert!(!work.await.unwrap());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    /// Whoever has taken the process over asks for what it never would.
    #[tokio::test(flavor = "multi_thread")]
    async fn dns_is_changed_only_as_it_was_prepared_here() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, _work) = open_line(&directory.path().join("run"));
        let desk = Arc::new(Desk::new(socket));
        let mut notes = desk.open().await.unwrap();
        let invented = DnsUndo::Resolvconf { record: "x;reboot".to_owned() };
        let error = notes.record(Undo::Dns(invented.clone())).await.unwrap_err().to_string();
        assert!(error.contains("was not prepared here"), "{error}");
        let error = desk.revert_dns(&invented).await.unwrap_err().to_string();
        assert!(error.contains("is not noted"), "{error}");
        let error = desk.apply_dns().await.unwrap_err().to_string();
        assert!(error.contains("nothing is prepared"), "{error}");
        let plan = serde_json::json!({
            "servers": [], "search_domains": ["x;reboot"], "route_domains": [],
            "scope": "Global", "dnssec": null, "over_tls": false,
        });
        assert!(serde_json::from_value::<DnsPlan>(plan.clone()).is_err(), "{plan}");
        for name in ["", "tun0;reboot", "-x", "../x", "0123456789abcdef", "tun\n0"] {
            assert!(interface(name.to_owned(), 1).is_err(), "{name}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_noted_has_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, _work) = open_line(&directory.path().join("run"));
        let desk = Arc::new(Desk::new(socket));
        let mut notes = desk.open().await.unwrap();
        let changes = (0..=u32::try_from(NOTED).unwrap()).map(link);
        let error = notes.record_all(changes).await.unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_line_on_which_something_else_comes_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let long = vec![b' '; 128 * 1024 + 1];
        let sent: [&[u8]; 5] = [b"{", b"\xff", b"\"open\" 1", b"{\"run\":\"reboot\"}", &long];
        for bytes in sent {
            let (socket, work) = open_line(directory.path());
            send(socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
            assert!(!work.await.unwrap());
            assert!(line::receive::<Value>(&socket).unwrap().is_none());
        }
    }
}
