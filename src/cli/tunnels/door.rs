//! The door of a running tunnel: lets in who may ask, and passes on what they ask to the backend.
//!
//! Each of them has a task, which asks one thing at a time: who hangs, or floods, keeps only that
//! waiting. What is asked goes the same way as what the front end asks, over the private connection.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, broadcast};
use zbus::message::{Flags, Type};
use zbus::wire::DynamicDeserialize;
use zbus::{Connection, DBusError as _, DynamicType, Guid, Message, MessageStream, OwnedVariant};

use super::place::Access;
use super::wire::Wire;
use crate::cli::connect::News;
use crate::dbus::{INTERFACE, OBJECT, TUNNEL_INTERFACE};
use crate::text::printable;

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
const PEER: &str = "org.freedesktop.DBus.Peer";
const FAILED: &str = "org.freedesktop.DBus.Error.Failed";

/// Who may be inside at a time.
const VISITORS: usize = 32;
/// Until somebody has said who they are, and for whatever they are sent.
const LIMIT: Duration = Duration::from_secs(5);
/// Until the backend has answered. It has limits of its own.
const ANSWER: Duration = Duration::from_secs(10);
/// Before the next one is let in, when that has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What the door leads to.
#[derive(Clone)]
pub(in crate::cli) struct Door {
    /// The private connection.
    pub(in crate::cli) backend: Connection,
    /// Rung by who wants the tunnel to end.
    pub(in crate::cli) leave: Arc<Notify>,
    pub(in crate::cli) access: Access,
}

impl Door {
    /// Lets in, until this is dropped.
    pub(in crate::cli) async fn keep(
        self,
        listener: UnixListener,
        news: broadcast::Receiver<News>,
    ) {
        let listener = match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::warn!("the tunnel cannot be asked: {error}"),
        };
        let room = Arc::new(Semaphore::new(VISITORS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!("somebody who asks could not be let in: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
            match self.access.admit(&stream) {
                Ok(Some(uid)) => {
                    let (door, news) = (self.clone(), news.resubscribe());
                    tokio::spawn(async move {
                        // Whoever goes, or breaks the rules, does so without a word.
                        let _ = door.visit(stream, uid, news).await;
                        drop(place);
                    });
                }
                Ok(None) => {}
                Err(error) => tracing::debug!("who asks cannot be told: {error}"),
            }
        }
    }

    async fn visit(
        &self,
        stream: UnixStream,
        uid: Uid,
        mut news: broadcast::Receiver<News>,
    ) -> zbus::Result<()> {
        let greeted = zbus::connection::Builder::socket(Wire { stream, uid: uid.as_raw() })
            .server(Guid::generate())
            .p2p()
            .build_message_stream();
        let mut messages: MessageStream = in_time(greeted).await?;
        let visitor = Connection::from(&messages);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hear(&visitor, &message?).await?,
                    None => return Ok(()),
                },
                told = news.recv() => match told {
                    Ok(told) => if let Some(signal) = signal(&told)? {
                        in_time(visitor.send(&signal)).await?;
                    },
                    // The newest are there.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
    }

    async fn hear(&self, visitor: &Connection, call: &Message) -> zbus::Result<()> {
        if call.message_type() != Type::MethodCall {
            return Ok(());
        }
        let header = call.header();
        let interface = header.interface().map_or(INTERFACE, |name| name.as_str());
        let member = header.member().map_or("", |name| name.as_str());
        let asked = Asked { door: self, visitor, call, interface, member };
        match (interface, member) {
            (PROPERTIES, "Get") => asked.pass::<(String, String), OwnedVariant>().await,
            (PROPERTIES, "GetAll") => asked.pass::<String, HashMap<String, OwnedVariant>>().await,
            (PROPERTIES, "Set") => asked.pass::<(String, String, OwnedVariant), ()>().await,
            (INTROSPECTABLE, "Introspect") | (TUNNEL_INTERFACE, "Report") => {
                asked.pass::<(), String>().await
            }
            (PEER, "Ping") | (INTERFACE, "Resume" | "Restart") => asked.pass::<(), ()>().await,
            (INTERFACE, "Ping") => asked.pass::<(), bool>().await,
            (INTERFACE, "Pause") => asked.pass::<String, ()>().await,
            (INTERFACE, "Disconnect") => {
                // What it leads to ends this connection, too: the last thing that it does.
                let replied = asked.reply(&()).await;
                self.leave.notify_one();
                replied
            }
            _ => {
                let text = format!("{interface}.{member} is for this tunnel's front end alone");
                asked.refuse("org.freedesktop.DBus.Error.AccessDenied", &printable(&text)).await
            }
        }
    }
}

/// A method call of a visitor.
struct Asked<'a> {
    door: &'a Door,
    visitor: &'a Connection,
    call: &'a Message,
    interface: &'a str,
    member: &'a str,
}

impl Asked<'_> {
    /// Asks the backend the same.
    async fn pass<Q, A>(&self) -> zbus::Result<()>
    where
        Q: Serialize + DynamicType + for<'d> DynamicDeserialize<'d>,
        A: Serialize + DynamicType + for<'d> DynamicDeserialize<'d>,
    {
        let body = self.call.body();
        let Ok(question) = body.deserialize::<Q>() else {
            let text = format!("{} has other arguments", self.member);
            return self.refuse("org.freedesktop.DBus.Error.InvalidArgs", &text).await;
        };
        let header = self.call.header();
        let path = header.path().map_or(OBJECT, |path| path.as_str());
        let interface = Some(self.interface);
        let backend = &self.door.backend;
        let asked = backend.call_method(None::<&str>, path, interface, self.member, &question);
        let answer = match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return self.pass_on(error).await,
            Err(_) => return self.refuse(FAILED, "the tunnel does not answer").await,
        };
        self.reply(&answer.body().deserialize::<A>()?).await
    }

    async fn pass_on(&self, error: zbus::Error) -> zbus::Result<()> {
        match error {
            zbus::Error::MethodError(name, text, _) => {
                self.refuse(name.as_str(), &text.unwrap_or_default()).await
            }
            zbus::Error::FDO(error) => {
                self.refuse(error.name().as_str(), error.description().unwrap_or_default()).await
            }
            error => self.refuse(FAILED, &error.to_string()).await,
        }
    }

    async fn reply<A: Serialize + DynamicType>(&self, answer: &A) -> zbus::Result<()> {
        if !self.wants_reply() {
            return Ok(());
        }
        in_time(self.visitor.reply(&self.call.header(), answer)).await
    }

    async fn refuse(&self, name: &str, text: &str) -> zbus::Result<()> {
        if !self.wants_reply() {
            return Ok(());
        }
        in_time(self.visitor.reply_error(&self.call.header(), name, &text)).await
    }

    fn wants_reply(&self) -> bool {
        !self.call.primary_header().flags().contains(Flags::NO_REPLY_EXPECTED)
    }
}

/// What the front end was told, as it was told.
fn signal(news: &News) -> zbus::Result<Option<Message>> {
    let signal = |member| Message::signal(OBJECT, INTERFACE, member);
    Ok(Some(match news {
        News::RegistrationRequest { .. } => return Ok(None),
        News::Status { major, minor, message } => {
            signal("StatusChange").build(&(major, minor, message))?
        }
        News::Attention { kind, group, message } => {
            signal("AttentionRequired").build(&(kind, group, message))?
        }
        // The token is the front end's.
        News::Log { group, level, message } => signal("Log").build(&(group, level, "", message))?,
    }))
}

/// Somebody who does not read, or says nothing, is left.
async fn in_time<T>(work: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    let late = || zbus::Error::Failure("it takes too long".to_owned());
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(late()))
}

impl Access {
    /// The user at the other end, if they may ask: root, the owner, and who is in the group.
    fn admit(&self, stream: &UnixStream) -> io::Result<Option<Uid>> {
        let peer = getsockopt(stream, sockopt::PeerCredentials)?;
        let uid = Uid::from_raw(peer.uid());
        if uid.is_root() || uid == self.owner {
            return Ok(Some(uid));
        }
        let Some(group) = self.group else { return Ok(None) };
        let inside = peer.gid() == group.as_raw() || groups(stream)?.contains(&group.as_raw());
        Ok(inside.then_some(uid))
    }
}

/// Supplementary groups of whoever is at the other end, as they were when they connected.
fn groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    /// As many as a process can have (`NGROUPS_MAX` of `linux/limits.h`).
    const MOST: usize = 65_536;
    let mut groups = vec![0; MOST];
    let mut size = libc::socklen_t::try_from(size_of_val(&*groups)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes no more than `size` bytes into the list, which is as long, and says in
    // `size` how many there are.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    nix::errno::Errno::result(result)?;
    groups.truncate(size as usize / size_of::<libc::gid_t>());
    Ok(groups)
}
