//! An HTTP proxy that answers anything: at most two requests reach it, the password never leaves
//! readably where that is forbidden, and the bytes behind its answer are OpenVPN's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use base64::Engine;
use ovpn_client::profile::{HttpProxy, Proxy, ProxyAuth, ProxyKind};
use ovpn_client::secret::{Credentials, Secret};
use ovpn_client::transport::{Protect, SocketOptions, Transport, TransportError};
use ovpn_dco::TransportSocket;

const END: &[u8] = b"\r\n\r\n";
/// Between the answers of an input.
const NEXT: &[u8] = b"\0\0ANSWER\0\0";
const PASSWORD: &str = "Circle0fLife";
/// Longer inputs would not fit the socket's buffer.
const MAX: usize = 64 * 1024;

/// Input: what the profile says about authentication (one byte), then one or two answers with
/// whatever follows them.
pub fn run(data: &[u8]) {
    let Some((&auth, input)) = data.split_first() else { return };
    let input = &input[..input.len().min(MAX)];
    let answers = match input.windows(NEXT.len()).position(|part| part == NEXT) {
        Some(at) => vec![&input[..at], &input[at + NEXT.len()..]],
        None => vec![input],
    };
    let auth = [ProxyAuth::NoCleartext, ProxyAuth::Any, ProxyAuth::None][usize::from(auth % 3)];
    let proxy = Proxy {
        host: "127.0.0.1".to_owned(),
        port: 3128,
        credentials: None,
        kind: ProxyKind::Http(HttpProxy::new(auth)),
    };
    let (result, requests) = connect(&proxy, &answers);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{PASSWORD}"));
    for (number, request) in requests.iter().enumerate() {
        assert!(request.starts_with("CONNECT vpn.example:443 HTTP/1.0\r\n"), "{request:?}");
        assert!(request.ends_with("\r\n\r\n"));
        assert_eq!(request.matches("\r\n\r\n").count(), 1, "a header that the proxy put there");
        assert!(!request.contains(PASSWORD), "{request:?}");
        assert!(number > 0 || !request.contains("Authorization"), "unasked: {request:?}");
        if auth == ProxyAuth::NoCleartext {
            assert!(!request.contains(&basic), "readably: {request:?}");
        }
    }
    match result {
        Ok(packets) => {
            let last = answers[requests.len() - 1];
            let head = last.windows(END.len()).position(|part| part == END).expect("a head");
            assert_eq!(packets, cut(&last[head + END.len()..]));
        }
        Err(text) => {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(!text.contains(PASSWORD) && !text.contains(&basic));
        }
    }
}

/// The packets that came through, or why none can; and the requests.
fn connect(proxy: &Proxy, answers: &[&[u8]]) -> (Result<Vec<Vec<u8>>, String>, Vec<String>) {
    thread_local! {
        static LISTENER: TcpListener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    }
    let listener = LISTENER.with(|listener| listener.try_clone().expect("a descriptor"));
    let remote = listener.local_addr().expect("an address");
    let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
    let server = std::thread::spawn(move || serve(&listener, &answers));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let credentials = Credentials { username: "user".to_owned(), password: Secret::from(PASSWORD) };
    let result = runtime.expect("a runtime").block_on(async {
        let (options, protect) = (SocketOptions::default(), Unprotected);
        let mut transport = Transport::tcp_via_proxy(
            remote,
            proxy,
            Some(&credentials),
            "vpn.example",
            443,
            &options,
            &protect,
        )
        .await
        .map_err(|error| error.to_string())?;
        if let Ok(TransportSocket::Tcp(socket)) = transport.share() {
            // Leaves no port behind that waits for late packets.
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
        }
        let (mut packets, mut packet) = (Vec::new(), Vec::new());
        while transport.recv(&mut packet).await.is_ok() {
            packets.push(packet.clone());
        }
        Ok(packets)
    });
    // Whatever the client made of it: the server waits for no further request.
    let bye = TcpStream::connect(remote).expect("a listener");
    drop(bye);
    let requests = server.join().expect("a server without a fault of its own");
    // One, and another with credentials.
    assert!(requests.len() <= 2, "{requests:?}");
    (result, requests)
}

/// Answers one request on each connection, until a connection has none. A client that comes once
/// more than there are answers gets an empty one.
fn serve(listener: &TcpListener, answers: &[Vec<u8>]) -> Vec<String> {
    let mut requests = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        let mut byte = [0; 512];
        while !request.ends_with(END) {
            match stream.read(&mut byte) {
                Ok(0) => break,
                Ok(n) => request.extend_from_slice(&byte[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if request.is_empty() {
            return requests;
        }
        let answer = answers.get(requests.len()).map_or(&[][..], Vec::as_slice);
        requests.push(String::from_utf8_lossy(&request).into_owned());
        let (first, second) = answer.split_at(answer.len() / 2);
        // A client that has read enough closes.
        let _ = stream.write_all(first).and_then(|()| stream.write_all(second));
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut byte);
    }
}

fn cut(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some((&[high, low], rest)) = bytes.split_first_chunk() {
        let len = usize::from(high) << 8 | usize::from(low);
        let Some((packet, rest)) = rest.split_at_checked(len).filter(|_| len > 0) else { break };
        packets.push(packet.to_vec());
        bytes = rest;
    }
    packets
}

struct Unprotected;

impl Protect for Unprotected {
    async fn protect(&self, _: &socket2::Socket, _: SocketAddr) -> Result<(), TransportError> {
        Ok(())
    }
}
