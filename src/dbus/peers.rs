//! Who is at the other end: the session manager and the log service on a bus, or one private peer.

use zbus::names::{OwnedUniqueName, UniqueName};
use zbus::{Connection, Message};

use super::{INTERFACE, LOG, OBJECT, SESSIONS, in_time};
use crate::backend::Signal;
use crate::logging::LogLine;
use crate::text::printable;

/// Signals kept for a log service that is still starting.
const BACKLOG: usize = 256;

/// A signal on its way out.
#[derive(Clone, Debug)]
pub(super) enum Outgoing {
    Backend(Signal),
    Log(LogLine),
}

/// The other end.
#[derive(Debug)]
pub(super) enum Peers {
    /// The one at the other end of a private connection may do everything and hears everything.
    Private,
    /// A message bus.
    Bus {
        /// Present owner of the session manager's name.
        manager: Option<OwnedUniqueName>,
        /// The log service.
        log: LogPeer,
    },
}

/// How far the log service is.
#[derive(Debug)]
pub(super) enum LogPeer {
    /// `Attach` is under way.
    Attaching {
        /// What it would miss.
        backlog: Vec<Outgoing>,
        /// The newest news of its name since then: who has it, or that nobody has.
        news: Option<Option<OwnedUniqueName>>,
    },
    /// It listens.
    Attached(OwnedUniqueName),
    /// There is none.
    Absent,
}

impl LogPeer {
    /// `Attach` is about to be called.
    pub(super) const fn attaching() -> Self {
        Self::Attaching { backlog: Vec::new(), news: None }
    }
}

impl Peers {
    /// True if the sender of a message may act as the session manager.
    pub(super) fn is_manager(&self, sender: Option<&UniqueName<'_>>) -> bool {
        match self {
            Self::Private => true,
            Self::Bus { manager, .. } => match (manager, sender) {
                (Some(manager), Some(sender)) => manager.as_str() == sender.as_str(),
                _ => false,
            },
        }
    }

    /// A name on the bus changed hands. Only to be called with the bus's own news.
    pub(super) fn owner_changed(&mut self, name: &str, owner: Option<OwnedUniqueName>) -> Change {
        let Self::Bus { manager, log } = self else { return Change::None };
        match name {
            SESSIONS => {
                let gone = owner.is_none();
                *manager = owner;
                if gone { Change::ManagerGone } else { Change::None }
            }
            LOG => match (&mut *log, owner) {
                (LogPeer::Attaching { news, .. }, owner) => {
                    *news = Some(owner);
                    Change::None
                }
                // The bus tells of the one that `Attach` has started, maybe after its answer.
                (LogPeer::Attached(name), Some(owner)) if *name == owner => Change::None,
                (_, Some(_)) => {
                    *log = LogPeer::attaching();
                    Change::AttachLog
                }
                (_, None) => {
                    *log = LogPeer::Absent;
                    Change::None
                }
            },
            _ => Change::None,
        }
    }

    /// Sends a signal to everybody who listens: one message each.
    pub(super) async fn send(
        &mut self,
        connection: &Connection,
        token: &str,
        signal: Outgoing,
    ) -> zbus::Result<()> {
        match self {
            Self::Private => {
                in_time(connection.send(&signal.message(connection, None, token)?)).await
            }
            Self::Bus { manager, log } => {
                let mut messages = Vec::new();
                if let Some(manager) = manager {
                    messages.push(signal.message(connection, Some(manager), token)?);
                }
                match log {
                    LogPeer::Attached(name) => {
                        messages.push(signal.message(connection, Some(name), token)?);
                    }
                    LogPeer::Attaching { backlog, .. } if backlog.len() < BACKLOG => {
                        backlog.push(signal);
                    }
                    LogPeer::Attaching { .. } | LogPeer::Absent => {}
                }
                in_time(connection.send_all(&messages)).await
            }
        }
    }

    /// `Attach` has come to an end. A log service that listens now gets what it has missed; one
    /// that has come since has to be attached, too.
    pub(super) async fn log_attached(
        &mut self,
        connection: &Connection,
        token: &str,
        name: Option<OwnedUniqueName>,
    ) -> zbus::Result<Change> {
        let Self::Bus { log: log @ LogPeer::Attaching { .. }, .. } = self else {
            return Ok(Change::None);
        };
        let LogPeer::Attaching { backlog, news } = std::mem::replace(log, LogPeer::Absent) else {
            return Ok(Change::None);
        };
        match (name, news) {
            (name, Some(Some(owner))) if name.as_ref() != Some(&owner) => {
                *log = LogPeer::Attaching { backlog, news: None };
                Ok(Change::AttachLog)
            }
            (Some(name), None | Some(Some(_))) => {
                let messages = backlog
                    .iter()
                    .map(|signal| signal.message(connection, Some(&name), token))
                    .collect::<zbus::Result<Vec<_>>>()?;
                *log = LogPeer::Attached(name);
                in_time(connection.send_all(&messages)).await?;
                Ok(Change::None)
            }
            (_, Some(None)) | (None, _) => Ok(Change::None),
        }
    }

    /// True while the log service listens.
    pub(super) fn has_log(&self) -> bool {
        matches!(self, Self::Bus { log: LogPeer::Attached(_), .. })
    }
}

/// What a change of owner asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    None,
    /// The session manager is gone: so is everybody's handle on this process.
    ManagerGone,
    /// A new log service: it has to be attached.
    AttachLog,
}

impl Outgoing {
    fn message(
        &self,
        connection: &Connection,
        destination: Option<&OwnedUniqueName>,
        token: &str,
    ) -> zbus::Result<Message> {
        let member = match self {
            Self::Backend(Signal::Status(_)) => "StatusChange",
            Self::Backend(Signal::Attention { .. }) => "AttentionRequired",
            Self::Log(_) => "Log",
        };
        let mut builder = Message::signal(OBJECT, INTERFACE, member);
        if let Some(sender) = connection.unique_name() {
            builder = builder.sender(sender);
        }
        if let Some(destination) = destination {
            builder = builder.destination(destination);
        }
        match self {
            Self::Backend(Signal::Status(status)) => {
                let (major, minor) = status.codes();
                builder.build(&(major, minor, &*status.message))
            }
            Self::Backend(Signal::Attention { numbers: (kind, group), message }) => {
                builder.build(&(*kind, *group, &**message))
            }
            Self::Log(line) => builder.build(&(
                line.group as u32,
                line.category as u32,
                token,
                printable(&line.text),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(name: &str) -> OwnedUniqueName {
        OwnedUniqueName::try_from(name).unwrap()
    }

    #[test]
    fn only_the_present_owner_is_the_manager() {
        let mut peers = Peers::Bus { manager: Some(unique(":1.5")), log: LogPeer::Absent };
        let is = |peers: &Peers, name| peers.is_manager(Some(&UniqueName::try_from(name).unwrap()));
        assert!(is(&peers, ":1.5"));
        assert!(!is(&peers, ":1.50"));
        assert!(!peers.is_manager(None));
        assert_eq!(peers.owner_changed(SESSIONS, Some(unique(":1.9"))), Change::None);
        assert!(is(&peers, ":1.9") && !is(&peers, ":1.5"));
        assert_eq!(peers.owner_changed(SESSIONS, None), Change::ManagerGone);
        assert!(!is(&peers, ":1.9"));
    }

    #[test]
    fn a_log_service_that_comes_back_is_attached_once() {
        let mut peers = Peers::Bus { manager: None, log: LogPeer::Attached(unique(":1.2")) };
        assert_eq!(peers.owner_changed(LOG, None), Change::None);
        assert!(!peers.has_log());
        assert_eq!(peers.owner_changed(LOG, Some(unique(":1.3"))), Change::AttachLog);
        assert_eq!(peers.owner_changed(LOG, Some(unique(":1.3"))), Change::None);
    }
}
