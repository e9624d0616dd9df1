//! A private bus, stand-ins for the services of OpenVPN 3 Linux on it, and a backend process.

use std::collections::HashMap;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zbus::DBusError as _;
use zbus::message::Type;
use zbus::names::BusName;
use zbus::{Connection, Message, MessageStream, ObjectPath, OwnedVariant, Variant};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_openvpn3-service-client");
pub(crate) const INTERFACE: &str = "net.openvpn.v3.backends";
pub(crate) const OBJECT: &str = "/net/openvpn/v3/backends/session";
pub(crate) const SESSIONS: &str = "net.openvpn.v3.sessions";
pub(crate) const CONFIGURATION: &str = "net.openvpn.v3.configuration";
pub(crate) const NETCFG: &str = "net.openvpn.v3.netcfg";
pub(crate) const LOG: &str = "net.openvpn.v3.log";
pub(crate) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub(crate) const SESSION_PATH: &str = "/net/openvpn/v3/sessions/test";
pub(crate) const CONFIG_PATH: &str = "/net/openvpn/v3/configuration/test";
pub(crate) const TOKEN: &str = "0c93fe8dt61cbt4338t8a31t51d6a71d0a8d";

/// Everything here happens on one machine; what takes longer than this has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A `dbus-daemon` of its own.
pub(crate) struct Bus {
    daemon: Child,
    address: String,
    directory: TempDir,
}

impl Bus {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let address = format!("unix:path={}", socket.display());
        let config = directory.path().join("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<busconfig><listen>{address}</listen><auth>EXTERNAL</auth>\
                 <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>\
                 <allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>"
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg("--nopidfile")
            .arg("--print-address=1")
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is needed for these tests (package dbus)");
        // It listens once it has said where.
        let mut line = String::new();
        let output = daemon.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        Self { daemon, address, directory }
    }

    pub(crate) async fn connect(&self) -> MessageStream {
        zbus::connection::Builder::address(self.address.as_str())
            .build_message_stream()
            .await
            .unwrap()
    }

    /// The backend program with this bus as its system bus and no other environment.
    pub(crate) fn program(&self) -> Command {
        self.on_this_bus(Command::new(PROGRAM))
    }

    /// A command that runs [`PROGRAM`], with this bus as its system bus and no other environment.
    pub(crate) fn on_this_bus(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
            .arg("--runtime-dir")
            .arg(self.directory.path().join("run"))
            .stdin(Stdio::null());
        command
    }

    /// [`Self::program`] as it runs where nobody gave it `CAP_NET_ADMIN`.
    pub(crate) fn unprivileged(&self) -> Command {
        let mut command = self.program();
        let drop = || {
            // Whoever may not give it up has not got it.
            let _ = caps::drop(None, caps::CapSet::Bounding, caps::Capability::CAP_NET_ADMIN);
            Ok(())
        };
        // SAFETY: between fork and exec this makes one system call.
        unsafe { command.pre_exec(drop) };
        command
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// How a stand-in answers method calls.
pub(crate) type Answer = Box<dyn Fn(&Message) -> Option<OwnedVariant> + Send>;

/// Some service on the bus.
pub(crate) struct StandIn {
    pub(crate) connection: Connection,
    signals: mpsc::UnboundedReceiver<Message>,
    /// Member names of the calls received, with their first argument where it is a string.
    calls: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    /// Takes a name (none if empty) and answers calls: `answer` gives the one value of a reply, and
    /// `None` leaves the call without any.
    pub(crate) async fn start(bus: &Bus, name: &str, answer: Answer) -> Self {
        let messages = bus.connect().await;
        if !name.is_empty() {
            Connection::from(&messages).request_name(name).await.unwrap();
        }
        Self::serve(messages, answer)
    }

    /// The one at this end of a connection.
    pub(crate) fn serve(mut messages: MessageStream, answer: Answer) -> Self {
        let connection = Connection::from(&messages);
        let (sender, signals) = mpsc::unbounded_channel();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (seen, replier) = (calls.clone(), connection.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                match message.message_type() {
                    Type::Signal => {
                        let _ = sender.send(message);
                    }
                    Type::MethodCall => {
                        seen.lock().unwrap().push(call_text(&message));
                        match answer(&message) {
                            Some(value) => reply(&replier, &message, value).await,
                            None => continue,
                        }
                    }
                    _ => {}
                }
            }
        });
        Self { connection, signals, calls }
    }

    /// The session manager: calls nobody, hears everything.
    pub(crate) async fn session_manager(bus: &Bus) -> Self {
        Self::start(bus, SESSIONS, Box::new(|_| Some(Variant::from("v27").try_into().unwrap())))
            .await
    }

    pub(crate) async fn log(bus: &Bus) -> Self {
        Self::start(bus, LOG, Box::new(|_| Some(OwnedVariant::from(0_u32)))).await
    }

    pub(crate) async fn configuration(bus: &Bus, profile: String) -> Self {
        Self::configuration_with(bus, profile, Vec::new()).await
    }

    pub(crate) async fn configuration_with(
        bus: &Bus,
        profile: String,
        overrides: Vec<(&'static str, &'static str)>,
    ) -> Self {
        Self::start(bus, CONFIGURATION, Self::profile(profile, overrides)).await
    }

    /// What a configuration manager answers.
    pub(crate) fn profile(profile: String, overrides: Vec<(&'static str, &'static str)>) -> Answer {
        let overrides = overrides
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Variant::from(value).try_to_owned().unwrap()));
        Self::profile_named("my profile".to_owned(), profile, overrides.collect())
    }

    /// The same with another name and overrides of any type.
    pub(crate) fn profile_named(
        name: String,
        profile: String,
        overrides: HashMap<String, OwnedVariant>,
    ) -> Answer {
        Box::new(move |call: &Message| {
            let header = call.header();
            let body = call.body();
            let value = match header.member().unwrap().as_str() {
                "Fetch" => Variant::from(profile.as_str()).try_to_owned(),
                "Get" => match body.deserialize::<(&str, &str)>().unwrap().1 {
                    "name" => Variant::from(name.as_str()).try_to_owned(),
                    "dco" => Variant::from(false).try_to_owned(),
                    "overrides" => {
                        let value = |(name, value): (&String, &OwnedVariant)| {
                            (name.clone(), Variant::from(value.try_clone().unwrap()))
                        };
                        let dict: HashMap<String, Variant<'_>> =
                            overrides.iter().map(value).collect();
                        Variant::from(dict).try_to_owned()
                    }
                    other => panic!("{other} is not needed"),
                },
                other => panic!("{other} is not needed"),
            };
            Some(value.unwrap())
        })
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until a call has been received.
    pub(crate) async fn called(&self, call: &str) {
        let wait = async {
            while !self.calls().iter().any(|seen| seen == call) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{call}; got {:?}", self.calls()));
    }

    /// The next signal of the backend interface that is not a `Log`.
    pub(crate) async fn signal(&mut self) -> Message {
        self.matching(|member| member != "Log").await
    }

    /// The next signal with this member.
    pub(crate) async fn signal_named(&mut self, name: &str) -> Message {
        self.matching(|member| member == name).await
    }

    /// The next signal with this member, of any interface.
    pub(crate) async fn any_signal(&mut self, name: &str) -> Message {
        let wait = async {
            loop {
                let message = self.signals.recv().await.expect("the stand-in's connection broke");
                if message.header().member().unwrap() == name {
                    return message;
                }
            }
        };
        timeout(LIMIT, wait).await.expect("a signal was expected")
    }

    async fn matching(&mut self, wanted: impl Fn(&str) -> bool) -> Message {
        let wait = async {
            loop {
                let message = self.signals.recv().await.expect("the stand-in's connection broke");
                let header = message.header();
                let ours = header.interface().is_some_and(|name| name == INTERFACE);
                if ours && wanted(header.member().unwrap().as_str()) {
                    return message.clone();
                }
            }
        };
        timeout(LIMIT, wait).await.expect("a signal was expected")
    }

    /// The next status or request for attention: `S 2,6 text`, `A 1,1 text`.
    pub(crate) async fn said(&mut self) -> String {
        let message = self.signal().await;
        let kind = match message.header().member().unwrap().as_str() {
            "StatusChange" => "S",
            "AttentionRequired" => "A",
            other => panic!("{other} was not expected"),
        };
        let body = message.body();
        let (major, minor, text): (u32, u32, &str) = body.deserialize().unwrap();
        format!("{kind} {major},{minor} {text}").trim_end().to_owned()
    }

    pub(crate) async fn expect(&mut self, sequence: &[&str]) {
        for expected in sequence {
            assert_eq!(self.said().await, *expected, "of {sequence:?}");
        }
    }
}

fn call_text(message: &Message) -> String {
    let member = message.header().member().unwrap().to_string();
    let body = message.body();
    if member == "Get" {
        return format!("Get {}", body.deserialize::<(&str, &str)>().unwrap().1);
    }
    match body.deserialize::<&str>() {
        Ok(argument) => format!("{member} {argument}"),
        Err(_) => match body.deserialize::<(ObjectPath<'_>, &str)>() {
            Ok((path, interface)) => format!("{member} {path} {interface}"),
            Err(_) => member,
        },
    }
}

async fn reply(connection: &Connection, call: &Message, value: OwnedVariant) {
    let header = call.header();
    let result = match header.member().unwrap().as_str() {
        "Get" => connection.reply(&header, &Variant::from(value)).await,
        "Fetch" => {
            connection.reply(&header, &Variant::from(value).downcast::<String>().unwrap()).await
        }
        _ => connection.reply(&header, &()).await,
    };
    result.unwrap();
}

/// A backend process that has asked for its registration.
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) pid: i32,
}

impl Backend {
    /// Runs the program and waits for its signal.
    pub(crate) async fn start(bus: &Bus, manager: &mut StandIn) -> Self {
        Self::run(bus.program(), manager).await
    }

    /// Runs this form of the program.
    pub(crate) async fn run(mut program: Command, manager: &mut StandIn) -> Self {
        let status = program.arg(TOKEN).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
        Self::registering(manager).await
    }

    pub(crate) async fn registering(manager: &mut StandIn) -> Self {
        let request = manager.signal_named("RegistrationRequest").await;
        let body = request.body();
        let (name, token, pid): (&str, &str, i32) = body.deserialize().unwrap();
        assert_eq!(token, TOKEN);
        Self { name: name.to_owned(), pid }
    }

    /// Registers in the dialect of the deployed session managers.
    pub(crate) async fn register(&self, manager: &StandIn) -> zbus::Result<String> {
        let paths = (TOKEN, path(SESSION_PATH), path(CONFIG_PATH));
        let reply = self.call(manager, "RegistrationConfirmation", &paths).await?;
        reply.body().deserialize()
    }

    pub(crate) async fn call<B>(
        &self,
        caller: &StandIn,
        method: &str,
        body: &B,
    ) -> zbus::Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.call_on(caller, INTERFACE, method, body).await
    }

    pub(crate) async fn call_on<B>(
        &self,
        caller: &StandIn,
        interface: &str,
        method: &str,
        body: &B,
    ) -> zbus::Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let name = BusName::try_from(self.name.as_str()).unwrap();
        let call = caller.connection.call_method(Some(name), OBJECT, Some(interface), method, body);
        timeout(LIMIT, call).await.unwrap_or_else(|_| panic!("{method} was not answered"))
    }

    pub(crate) async fn get(&self, caller: &StandIn, name: &str) -> zbus::Result<OwnedVariant> {
        self.call_on(caller, PROPERTIES, "Get", &(INTERFACE, name)).await?.body().deserialize()
    }

    pub(crate) async fn set(
        &self,
        caller: &StandIn,
        name: &str,
        value: Variant<'_>,
    ) -> zbus::Result<()> {
        self.call_on(caller, PROPERTIES, "Set", &(INTERFACE, name, value)).await.map(|_| ())
    }

    pub(crate) fn is_running(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
    }

    /// Waits for the process to end.
    pub(crate) async fn gone(&self, limit: Duration) {
        let wait = async {
            while self.is_running() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(limit, wait).await.expect("the process should have ended");
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if self.is_running() {
            let pid = nix::unistd::Pid::from_raw(self.pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

pub(crate) fn path(text: &str) -> ObjectPath<'_> {
    ObjectPath::try_from(text).unwrap()
}

/// Name and text of an error reply.
pub(crate) fn error<T: std::fmt::Debug>(result: zbus::Result<T>) -> (String, String) {
    match result.unwrap_err() {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.unwrap_or_default()),
        zbus::Error::FDO(error) => {
            (error.name().to_string(), error.description().unwrap_or_default().to_owned())
        }
        other => panic!("{other}"),
    }
}

/// The name and text that an error of a domain has on the wire.
pub(crate) fn glib(domain: &str, text: &str) -> (String, String) {
    (ovpn_client::dbus::encoded_name(domain), format!("GDBus.Error:{domain}: {text}"))
}

/// A profile for a server that never answers.
pub(crate) fn silent_server(extra: &str) -> (std::net::UdpSocket, String) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let profile = format!(
        "client\ndev tun\nremote 127.0.0.1 {port} udp\nsetenv CLIENT_CERT 0\n\
         peer-fingerprint {}\n{extra}\n",
        ["00"; 32].join(":")
    );
    (socket, profile)
}
