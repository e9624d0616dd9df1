//! Asking a running tunnel.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Serialize;
use zbus::message::Type;
use zbus::{Connection, DynamicType, Message, MessageStream};

use super::name::TunnelName;
use crate::cli::connect::{News, read_signal};
use crate::dbus::{INTERFACE, OBJECT, Report, TUNNEL_INTERFACE};

/// For an answer. The tunnel has shorter limits of its own.
const LIMIT: Duration = Duration::from_secs(15);

/// Why it gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("the tunnel {name} does not answer: {why}")]
    Silent { name: TunnelName, why: String },
    #[error("the tunnel {name}: {why}")]
    Refused { name: TunnelName, why: String },
}

/// A running tunnel.
pub(super) struct Tunnel {
    name: TunnelName,
    connection: Connection,
    messages: MessageStream,
}

impl Tunnel {
    pub(super) async fn open(name: TunnelName, stream: UnixStream) -> Result<Self, NoAnswer> {
        let built = zbus::connection::Builder::unix_stream(stream).p2p().build_message_stream();
        match in_time(built).await {
            Ok(messages) => Ok(Self { name, connection: Connection::from(&messages), messages }),
            Err(why) => Err(NoAnswer::Silent { name, why }),
        }
    }

    pub(super) async fn report(&self) -> Result<Report, NoAnswer> {
        let reply = self.call(TUNNEL_INTERFACE, "Report", &()).await?;
        let read = || {
            let json: String = reply.body().deserialize().map_err(|error| error.to_string())?;
            serde_json::from_str(&json).map_err(|error| error.to_string())
        };
        read().map_err(|why| NoAnswer::Silent { name: self.name.clone(), why })
    }

    /// A method of the backend without answer.
    pub(super) async fn request<B>(&self, method: &str, body: &B) -> Result<(), NoAnswer>
    where
        B: Serialize + DynamicType,
    {
        self.call(INTERFACE, method, body).await.map(drop)
    }

    async fn call<B>(&self, interface: &str, method: &str, body: &B) -> Result<Message, NoAnswer>
    where
        B: Serialize + DynamicType,
    {
        let name = self.name.clone();
        let called =
            self.connection.call_method(None::<&str>, OBJECT, Some(interface), method, body);
        match tokio::time::timeout(LIMIT, called).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(zbus::Error::MethodError(_, Some(why), _))) => {
                Err(NoAnswer::Refused { name, why })
            }
            Ok(Err(error)) => Err(NoAnswer::Silent { name, why: error.to_string() }),
            Err(_) => Err(NoAnswer::Silent { name, why: silence() }),
        }
    }

    /// What it tells next; `None`: it has ended.
    pub(super) async fn news(&mut self) -> Option<News> {
        while let Some(Ok(message)) = self.messages.next().await {
            if message.message_type() == Type::Signal
                && let Ok(Some(news)) = read_signal(&message)
            {
                return Some(news);
            }
        }
        None
    }
}

async fn in_time<T>(work: impl Future<Output = zbus::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(silence()),
    }
}

fn silence() -> String {
    format!("nothing heard for {} s", LIMIT.as_secs())
}
