//! The front end's end of the private connection: it is session manager to the backend. Secrets do
//! not go over it, where they would stay in messages and buffers: profile and answers are handed
//! over.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use serde::Serialize;
use std::os::unix::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use zbus::message::Type;
use zbus::{Connection, Guid, Message, MessageStream, ObjectPath, OwnedVariant, Variant};

use crate::backend::Error;
use crate::dbus::{Answer, INTERFACE, OBJECT, Report, TUNNEL_INTERFACE};
use crate::secret::Secret;

const SESSION_PATH: &str = "/net/openvpn/v3/sessions/private";
const CONFIG_PATH: &str = "/net/openvpn/v3/configuration/private";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// News that wait for the front end: somebody may take days to answer a question. The newest are
/// kept.
const MAX_NEWS: usize = 2048;

/// What the backend says. Serialized, it is a line of the JSON output.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "signal")]
pub(in crate::cli) enum News {
    RegistrationRequest {
        #[serde(skip)]
        token: String,
    },
    #[serde(rename = "StatusChange")]
    Status {
        #[serde(rename = "code_major")]
        major: u32,
        #[serde(rename = "code_minor")]
        minor: u32,
        message: String,
    },
    #[serde(rename = "AttentionRequired")]
    Attention {
        #[serde(rename = "type")]
        kind: u32,
        group: u32,
        message: String,
    },
    Log {
        group: u32,
        level: u32,
        message: String,
    },
}

/// One question of the user-input queue.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) numbers: (u32, u32),
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) hidden: bool,
}

/// The backend, as seen from the front end.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    connection: Connection,
    answers: mpsc::Sender<Answer>,
}

impl Backend {
    /// Connects. The news end when the backend does.
    pub(super) async fn connect(
        socket: UnixStream,
        answers: mpsc::Sender<Answer>,
    ) -> zbus::Result<(Self, broadcast::Receiver<News>)> {
        let messages =
            zbus::connection::Builder::unix_stream(socket).p2p().build_message_stream().await?;
        let connection = Connection::from(&messages);
        let (sender, news) = broadcast::channel(MAX_NEWS);
        tokio::spawn(listen(messages, sender));
        Ok((Self { connection, answers }, news))
    }

    /// The private connection itself.
    pub(super) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    pub(super) async fn register(&self, token: &str) -> zbus::Result<()> {
        let session = ObjectPath::try_from(SESSION_PATH)?;
        let config = ObjectPath::try_from(CONFIG_PATH)?;
        self.call("RegistrationConfirmation", &(token, session, config)).await?;
        Ok(())
    }

    /// A method without arguments or answer.
    pub(super) async fn request(&self, method: &'static str) -> zbus::Result<()> {
        self.call(method, &()).await?;
        Ok(())
    }

    /// Every open question.
    pub(super) async fn questions(&self) -> zbus::Result<Vec<Question>> {
        let mut questions = Vec::new();
        let pairs = self.call("UserInputQueueGetTypeGroup", &()).await?;
        for numbers in pairs.body().deserialize::<Vec<(u32, u32)>>()? {
            let ids = self.call("UserInputQueueCheck", &numbers).await?;
            for id in ids.body().deserialize::<Vec<u32>>()? {
                let slot = self.call("UserInputQueueFetch", &(numbers.0, numbers.1, id)).await?;
                let (_, _, _, name, description, hidden): (u32, u32, u32, String, String, bool) =
                    slot.body().deserialize()?;
                questions.push(Question { numbers, id, name, description, hidden });
            }
        }
        Ok(questions)
    }

    /// Answers a question.
    pub(super) async fn provide(
        &self,
        question: &Question,
        value: Secret<String>,
    ) -> Result<(), Error> {
        let (reply, taken) = oneshot::channel();
        let answer = Answer { numbers: question.numbers, id: question.id, value, reply };
        // A backend that is gone has said so, or its connection ends.
        let _ = self.answers.send(answer).await;
        taken.await.unwrap_or(Ok(()))
    }

    /// Whether the session's own loop answers; without a session that of the backend.
    pub(super) async fn is_alive(&self) -> zbus::Result<bool> {
        self.call("Ping", &()).await?.body().deserialize()
    }

    /// Everything that it tells of itself.
    pub(super) async fn report(&self) -> zbus::Result<Report> {
        let reply = self
            .connection
            .call_method(None::<&str>, OBJECT, Some(TUNNEL_INTERFACE), "Report", &())
            .await?;
        let json: String = reply.body().deserialize()?;
        serde_json::from_str(&json).map_err(|error| zbus::Error::Failure(error.to_string()))
    }

    pub(super) async fn statistics(&self) -> zbus::Result<HashMap<String, i64>> {
        self.property("statistics").await?.try_into()
    }

    pub(super) async fn device_name(&self) -> zbus::Result<String> {
        self.property("device_name").await?.try_into()
    }

    pub(super) async fn dco(&self) -> zbus::Result<bool> {
        self.property("dco").await?.try_into()
    }

    pub(super) async fn set_log_level(&self, level: u32) -> zbus::Result<()> {
        let body = (INTERFACE, "log_level", Variant::from(level));
        self.connection.call_method(None::<&str>, OBJECT, Some(PROPERTIES), "Set", &body).await?;
        Ok(())
    }

    async fn property(&self, name: &str) -> zbus::Result<OwnedVariant> {
        let reply = self
            .connection
            .call_method(None::<&str>, OBJECT, Some(PROPERTIES), "Get", &(INTERFACE, name))
            .await?;
        reply.body().deserialize()
    }

    async fn call<B>(&self, method: &'static str, body: &B) -> zbus::Result<Message>
    where
        B: Serialize + zbus::DynamicType,
    {
        self.connection.call_method(None::<&str>, OBJECT, Some(INTERFACE), method, body).await
    }
}

async fn listen(mut messages: MessageStream, news: broadcast::Sender<News>) {
    while let Some(Ok(message)) = messages.next().await {
        if message.message_type() == Type::Signal
            && let Ok(Some(item)) = read_signal(&message)
        {
            // A front end that has gone needs none.
            let _ = news.send(item);
        }
    }
}

pub(in crate::cli) fn read_signal(message: &Message) -> zbus::Result<Option<News>> {
    let header = message.header();
    let body = message.body();
    Ok(Some(match header.member().map_or("", |name| name.as_str()) {
        "RegistrationRequest" => {
            let (_, token, _): (String, String, i32) = body.deserialize()?;
            News::RegistrationRequest { token }
        }
        "StatusChange" => {
            let (major, minor, message) = body.deserialize()?;
            News::Status { major, minor, message }
        }
        "AttentionRequired" => {
            let (kind, group, message) = body.deserialize()?;
            News::Attention { kind, group, message }
        }
        "Log" => {
            let (group, level, _, message): (u32, u32, String, String) = body.deserialize()?;
            News::Log { group, level, message }
        }
        _ => return Ok(None),
    }))
}

/// A connection's identity; means nothing on a private one.
pub(super) fn guid() -> Guid<'static> {
    Guid::generate()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: usize) -> Message {
        let body = (6_u32, 4_u32, "token", format!("{number}"));
        Message::signal(OBJECT, INTERFACE, "Log").build(&body).unwrap()
    }

    #[tokio::test]
    async fn news_that_nobody_takes_are_bounded_and_the_newest_are_kept() {
        const SENT: usize = 3 * MAX_NEWS;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let backend = zbus::connection::Builder::unix_stream(theirs).server(guid()).p2p().build();
        let front = zbus::connection::Builder::unix_stream(ours).p2p().build_message_stream();
        let (backend, messages) = tokio::join!(backend, front);
        let backend = backend.unwrap();
        let talk = async {
            for number in 0..SENT {
                backend.send(&log(number)).await.unwrap();
            }
            backend.close().await.unwrap();
        };
        let (sender, mut news) = broadcast::channel(MAX_NEWS);
        tokio::join!(talk, listen(messages.unwrap(), sender));
        let missing = match news.recv().await {
            Err(broadcast::error::RecvError::Lagged(missing)) => missing,
            other => panic!("{other:?}"),
        };
        let mut last = None;
        while let Ok(item) = news.recv().await {
            last = Some(item);
        }
        assert_eq!(missing, u64::try_from(SENT - MAX_NEWS).unwrap());
        let Some(News::Log { message, .. }) = last else { panic!("{last:?}") };
        assert_eq!(message, (SENT - 1).to_string());
    }
}
