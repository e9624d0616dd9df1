//! What the object shows of a working connection, with a session that the test plays.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use ovpn_client::backend::Settings;
use ovpn_client::data_path::DataPath;
use ovpn_client::dbus::{Answer, OwnProfile, PrivateService, serve_private};
use ovpn_client::logging::{Category, Group, LogLevel, LogLine};
use ovpn_client::profile::{NoFiles, Profile, Protocol};
use ovpn_client::session::{
    Command, ConnectionInfo, NetworkMode, Outcome, Running, SessionEvent, SessionState, Teller,
    Wish, events,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zbus::{Guid, ObjectPath, OwnedVariant, Variant};

use crate::bus::*;

const DEVICE_PATH: &str = "/net/openvpn/v3/netcfg/17_token";

type Script = (mpsc::Receiver<Command>, Teller);

fn info() -> ConnectionInfo {
    ConnectionInfo {
        protocol: Protocol::Tcp,
        host: "vpn.example".to_owned(),
        address: SocketAddr::from(([192, 0, 2, 1], 443)),
        username: String::new(),
        device: "tun7".to_owned(),
        data_path: DataPath::Userspace,
        data_path_reasons: Vec::new(),
        tunnel: vec!["10.8.0.2/24".to_owned()],
        gateways: vec!["10.8.0.1".to_owned()],
        mtu: 1500,
        cipher: ovpn_dco::Cipher::Aes256Gcm,
        device_path: Some(DEVICE_PATH.to_owned()),
        tls: None,
        network: Box::default(),
    }
}

async fn get(peer: &StandIn, name: &str) -> OwnedVariant {
    let body = (INTERFACE, name);
    let call = peer.connection.call_method(None::<&str>, OBJECT, Some(PROPERTIES), "Get", &body);
    call.await.unwrap().body().deserialize().unwrap()
}

async fn call<B>(peer: &StandIn, method: &str, body: &B)
where
    B: serde::Serialize + zbus::DynamicType,
{
    let call = peer.connection.call_method(None::<&str>, OBJECT, Some(INTERFACE), method, body);
    call.await.unwrap();
}

/// `device_path`, `device_name`, `session_name`, `connection`.
async fn shown(peer: &StandIn) -> (String, String, String, (String, String, String, u32)) {
    let path = Variant::from(get(peer, "device_path").await);
    (
        ObjectPath::try_from(path).unwrap().to_string(),
        get(peer, "device_name").await.try_into().unwrap(),
        get(peer, "session_name").await.try_into().unwrap(),
        get(peer, "connection").await.try_into().unwrap(),
    )
}

/// A backend at the other end of a private connection.
struct Private {
    peer: StandIn,
    /// A handle on this end of it.
    socket: UnixStream,
    scripts: Arc<Mutex<Vec<Script>>>,
    lines: mpsc::Sender<LogLine>,
    service: JoinHandle<zbus::Result<()>>,
    _answers: mpsc::Sender<Answer>,
    _server: std::net::UdpSocket,
}

impl Private {
    /// Registered.
    async fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = ours.try_clone().unwrap();
        let guid = Guid::generate();
        let scripts: Arc<Mutex<Vec<Script>>> = Arc::default();
        let started = scripts.clone();
        let (lines, line_receiver) = mpsc::channel(1);
        let (keep_answers, answers) = mpsc::channel(1);
        let (server, profile) = silent_server("");
        let service = PrivateService {
            name: "test".to_owned(),
            settings: Settings {
                network: NetworkMode::Direct,
                runtime_dir: "/nowhere".into(),
                gui_version: "test".to_owned(),
                sso: String::new(),
                posture: None,
            },
            start: Box::new(move |_| {
                let (commands, command_receiver) = mpsc::channel(8);
                let (teller, events) = events();
                started.lock().unwrap().push((command_receiver, teller));
                Running { commands, events }
            }),
            profile: OwnProfile {
                name: "test".to_owned(),
                dco: false,
                profile: Profile::parse(&profile, "test", &NoFiles).unwrap(),
            },
            answers,
            log_level: LogLevel::new(3),
            lines: line_receiver,
        };
        let service =
            tokio::spawn(
                async move { serve_private(theirs, &guid, TOKEN.to_owned(), service).await },
            );
        let messages = zbus::connection::Builder::unix_stream(ours).p2p().build_message_stream();
        let configuration = StandIn::profile(profile, Vec::new());
        let peer = StandIn::serve(messages.await.unwrap(), configuration);
        let paths = (TOKEN, path(SESSION_PATH), path(CONFIG_PATH));
        call(&peer, "RegistrationConfirmation", &paths).await;
        Self { peer, socket, scripts, lines, service, _answers: keep_answers, _server: server }
    }

    async fn connect(&self) -> Script {
        call(&self.peer, "Connect", &()).await;
        self.scripts.lock().unwrap().remove(0)
    }
}

/// Whatever ends a connection, the session is told to end and waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_winds_up_without_its_connection() {
    for with_lines in [false, true] {
        let private = Private::start().await;
        let (mut commands, teller) = private.connect().await;
        private.socket.shutdown(std::net::Shutdown::Both).unwrap();
        if with_lines {
            // They cannot be sent any more.
            let text = "told to nobody".to_owned();
            let line = LogLine { group: Group::Client, category: Category::Info, text };
            let _ = private.lines.send(line).await;
        }
        let command = timeout(LIMIT, commands.recv()).await.unwrap();
        assert!(matches!(command, Some(Command::Wish(Wish::Disconnect))), "{command:?}");
        assert!(!private.service.is_finished(), "the session has not ended yet");
        teller.tell(SessionEvent::Ended(Outcome::Disconnected));
        let _ = timeout(LIMIT, private.service).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn device_session_and_connection_are_shown_once_there_are_any() {
    let mut private = Private::start().await;

    let nothing = || ("/".to_owned(), String::new(), String::new(), Default::default());
    assert_eq!(shown(&private.peer).await, nothing());
    let (mut commands, teller) = private.connect().await;
    let peer = &mut private.peer;
    assert_eq!(shown(peer).await, nothing());
    teller.tell(SessionEvent::State(SessionState::Connected(info())));
    let ok = format!("S 2,2 config_path={CONFIG_PATH}");
    peer.signal_named("RegistrationRequest").await;
    peer.expect(&[&ok, &ok, "S 2,6", "S 2,7"]).await;
    let connection = ("tcp".to_owned(), "vpn.example".to_owned(), "192.0.2.1".to_owned(), 443_u32);
    let all = || {
        let host = "vpn.example".to_owned();
        (DEVICE_PATH.to_owned(), "tun7".to_owned(), host, connection.clone())
    };
    assert_eq!(shown(peer).await, all());

    // A pause leaves them as they are.
    call(peer, "Pause", &("lunch",)).await;
    assert!(matches!(commands.recv().await, Some(Command::Wish(Wish::Pause))));
    teller.tell(SessionEvent::State(SessionState::Paused));
    peer.expect(&["S 2,13 Reason: lunch", "S 2,14"]).await;
    assert_eq!(shown(peer).await, all());
}
