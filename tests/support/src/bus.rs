//! A private D-Bus daemon, and services that record what they are asked.
//!
//! Needs the program `dbus-daemon`.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tempfile::TempDir;
use zbus::message::Type;
use zbus::{Connection, Message};

const CONFIGURATION: &str = r#"<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=DIRECTORY</listen>
  <servicedir>DIRECTORY</servicedir>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>"#;

/// A running `dbus-daemon`. Ends with the value.
#[derive(Debug)]
pub struct Bus {
    daemon: Child,
    address: String,
    directory: TempDir,
}

impl Bus {
    /// Starts a daemon and waits until it listens.
    pub fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("bus.conf");
        let directory_name = directory.path().to_str().unwrap();
        std::fs::write(&file, CONFIGURATION.replace("DIRECTORY", directory_name)).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", file.display()))
            .args(["--nofork", "--nopidfile", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start dbus-daemon (package dbus-daemon)");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().to_owned(), directory }
    }

    /// From now on the bus starts `program` when somebody calls the service `name`.
    pub fn activate(&self, name: &str, program: &str) {
        let text = format!("[D-BUS Service]\nName={name}\nExec={program}\n");
        std::fs::write(self.directory.path().join(format!("{name}.service")), text).unwrap();
    }

    /// What a client connects to, as in `DBUS_SYSTEM_BUS_ADDRESS`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> Connection {
        zbus::connection::Builder::address(self.address.as_str()).build().await.unwrap()
    }

    /// Starts a service on this bus; see [`serve`].
    pub async fn serve(
        &self,
        name: &str,
        answer: impl Fn(&Message) -> Answer + Send + 'static,
    ) -> Service {
        serve(&self.address, name, answer).await
    }
}

/// Starts a service that records every method call and answers what `answer` says.
pub async fn serve(
    address: &str,
    name: &str,
    answer: impl Fn(&Message) -> Answer + Send + 'static,
) -> Service {
    let mut calls =
        zbus::connection::Builder::address(address).build_message_stream().await.unwrap();
    let connection = Connection::from(&calls);
    connection.request_name(name.to_owned()).await.unwrap();
    let served = connection.clone();
    let log: Arc<Mutex<Vec<Call>>> = Arc::default();
    let record = log.clone();
    let task = tokio::spawn(async move {
        while let Some(Ok(message)) = calls.next().await {
            if message.message_type() != Type::MethodCall {
                continue;
            }
            record.lock().unwrap().push(Call(message.clone()));
            if let Some(reply) = answer(&message).message(&message) {
                connection.send(&reply).await.unwrap();
            }
        }
    });
    Service { log, task, connection: served }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What a service answers.
pub enum Answer {
    /// An empty reply.
    Done,
    /// A prepared reply.
    Reply(Message),
    /// An error with name and text.
    Error(&'static str, String),
    /// An empty body with descriptors, without `h` in the signature.
    Descriptors(Vec<OwnedFd>),
    /// Never answer.
    Nothing,
}

impl Answer {
    /// A reply with this body.
    pub fn value<B>(call: &Message, value: &B) -> Self
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        Self::Reply(Message::method_return(&call.header()).build(value).unwrap())
    }

    fn message(self, call: &Message) -> Option<Message> {
        let header = call.header();
        match self {
            Self::Done => Some(Message::method_return(&header).build(&()).unwrap()),
            Self::Reply(message) => Some(message),
            Self::Error(name, text) => Some(Message::error(&header, name).build(&text).unwrap()),
            Self::Descriptors(descriptors) => {
                let descriptors = descriptors.into_iter().map(Into::into).collect();
                // SAFETY: an empty body is the right one for an empty signature.
                let built =
                    unsafe { Message::method_return(&header).build_raw_body(&[], "", descriptors) };
                Some(built.unwrap())
            }
            Self::Nothing => None,
        }
    }
}

/// A running service.
pub struct Service {
    log: Arc<Mutex<Vec<Call>>>,
    task: tokio::task::JoinHandle<()>,
    /// The service's own, for signals.
    pub connection: Connection,
}

impl Service {
    /// The calls since the last time.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// The calls since the last time as `Member(signature) body`.
    pub fn take_lines(&self) -> Vec<String> {
        self.take().iter().map(Call::line).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A recorded call.
pub struct Call(pub Message);

impl Call {
    /// The method that was called.
    pub fn member(&self) -> String {
        self.0.header().member().unwrap().to_string()
    }

    /// `Member(signature)`
    pub fn line(&self) -> String {
        let header = self.0.header();
        format!("{}({})", header.member().unwrap(), header.signature().to_string_no_parens())
    }
}
