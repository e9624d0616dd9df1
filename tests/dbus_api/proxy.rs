//! HTTP proxies that want credentials: the questions, and the way through.

use std::collections::HashMap;

use base64::Engine as _;
use md5::{Digest as _, Md5};
use ovpn_test_support::memory::{expect_none, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::bus::*;

const USER: &str = "joe-the-user";
const PASSWORD: &str = "Proxy-Secret-71";
const WRONG: &str = "Wrong-Secret-17";
const NONCE: &str = "dcd98b7102dd2f0e8b11d0f600bfb0c0";

/// First byte of an OpenVPN client's first packet: P_CONTROL_HARD_RESET_CLIENT_V2, key 0.
const HARD_RESET: u8 = 7 << 3;

#[derive(Clone, Copy)]
enum Method {
    Basic,
    Digest,
}

impl Method {
    fn challenge(self) -> String {
        match self {
            Self::Basic => "Basic realm=\"test\"".to_owned(),
            Self::Digest => {
                format!("Digest realm=\"test\", nonce=\"{NONCE}\", qop=\"auth\", algorithm=MD5")
            }
        }
    }

    fn accepts(self, authorization: &str) -> bool {
        match self {
            Self::Basic => authorization == format!("Basic {}", basic(PASSWORD)),
            Self::Digest => authorization.strip_prefix("Digest ").is_some_and(digest_is_right),
        }
    }
}

/// RFC 7617, section 2.
fn basic(password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"))
}

/// RFC 7616, section 3.4.1.
fn digest_is_right(fields: &str) -> bool {
    let fields: HashMap<&str, &str> = fields
        .split(',')
        .filter_map(|field| field.trim().split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let hash = |text: String| hex::encode(Md5::digest(text));
    let secret = hash(format!("{USER}:test:{PASSWORD}"));
    let request = hash(format!("CONNECT:{}", field("uri")));
    let (count, client_nonce) = (field("nc"), field("cnonce"));
    let expected = hash(format!("{secret}:{NONCE}:{count}:{client_nonce}:auth:{request}"));
    field("username") == USER && field("response") == expected
}

/// Serves CONNECT on a port of its own.
async fn proxy(method: Method) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, method));
        }
    });
    port
}

async fn serve(mut client: TcpStream, method: Method) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
    let authorization = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    if !authorization.is_some_and(|given| method.accepts(given)) {
        let refusal = format!(
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: {}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n",
            method.challenge()
        );
        client.write_all(refusal.as_bytes()).await.unwrap();
        return;
    }
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    // Ends with either side.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

async fn credentials(backend: &Backend, manager: &mut StandIn, password: &str) {
    manager.expect(&["A 1,2", "S 2,4 HTTP proxy credentials"]).await;
    let ids = backend.call(manager, "UserInputQueueCheck", &(1_u32, 2_u32)).await.unwrap();
    assert_eq!(ids.body().deserialize::<Vec<u32>>().unwrap(), [0, 1]);
    for (id, value) in [(0_u32, USER), (1, password)] {
        let answer = (1_u32, 2_u32, id, value);
        backend.call(manager, "UserInputProvide", &answer).await.unwrap();
    }
    backend.call(manager, "Ready", &()).await.unwrap();
    backend.call(manager, "Connect", &()).await.unwrap();
    manager.expect(&[&format!("S 2,2 config_path={CONFIG_PATH}"), "S 2,6"]).await;
}

/// Asked for, asked for again when wrong, and then the server hears from the client.
async fn through(profile: &str, overrides: Vec<(&'static str, &'static str)>) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let profile = format!(
        "client\ndev tun\nremote 127.0.0.1 {port} tcp\nsetenv CLIENT_CERT 0\n\
         peer-fingerprint {}\n{profile}\n",
        ["00"; 32].join(":")
    );
    let _configuration = StandIn::configuration_with(&bus, profile, overrides).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    backend.call(&manager, "Connect", &()).await.unwrap();
    let ok = format!("S 2,2 config_path={CONFIG_PATH}");
    manager.expect(&[&ok, &ok, "S 2,6"]).await;
    credentials(&backend, &mut manager, WRONG).await;
    credentials(&backend, &mut manager, PASSWORD).await;
    let (mut connection, _) = timeout(LIMIT, server.accept()).await.unwrap().unwrap();
    let mut start = [0; 3];
    timeout(LIMIT, connection.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(start[2], HARD_RESET, "behind the length comes an OpenVPN packet");
    // The right ones are kept for the next connection, but not as they went over the wire.
    let used = [
        text("wrong password", WRONG),
        text("wrong login", &basic(WRONG)),
        text("login", &basic(PASSWORD)),
    ];
    expect_none(backend.pid.cast_unsigned(), USER, &used);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_profile_that_wants_basic_authentication() {
    let port = proxy(Method::Basic).await;
    through(&format!("http-proxy 127.0.0.1 {port}"), Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_overrides_that_wants_digest_authentication() {
    let port = proxy(Method::Digest).await.to_string().leak();
    through("", vec![("proxy-host", "127.0.0.1"), ("proxy-port", port)]).await;
}
