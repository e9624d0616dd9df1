//! HTTP proxies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use ovpn_client::profile::{HttpProxy, Proxy, ProxyAuth, ProxyKind};
use ovpn_client::secret::{Credentials, Secret};
use ovpn_client::transport::{Protect, SocketOptions, Transport, TransportError};

/// A proxy's NTLM answer was copied past the end of its buffer. NTLM is not spoken here: the answer
/// is not read, and nothing is sent in return.
#[tokio::test]
async fn cve_2026_11771_ntlm_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let challenge = "TlRMTVNTUAACAAAA".to_owned() + &"/".repeat(4096);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        write!(stream, "HTTP/1.1 407 A\r\nProxy-Authenticate: NTLM {challenge}\r\n\r\n").unwrap();
        drop(stream);
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let proxy = Proxy {
        host: "127.0.0.1".to_owned(),
        port: address.port(),
        credentials: None,
        kind: ProxyKind::Http(HttpProxy::new(ProxyAuth::Any)),
    };
    let credentials = Credentials { username: "joe".to_owned(), password: Secret::from("secret") };
    let options = SocketOptions::default();
    let open = Transport::tcp_via_proxy(
        address,
        &proxy,
        Some(&credentials),
        "vpn.example",
        443,
        &options,
        &Unprotected,
    );
    let error = open.await.unwrap_err().to_string();
    assert!(error.contains("only Basic and Digest"), "{error}");
    assert!(server.join().unwrap().accept().is_err(), "another try");
}

struct Unprotected;

impl Protect for Unprotected {
    async fn protect(&self, _: &socket2::Socket, _: SocketAddr) -> Result<(), TransportError> {
        Ok(())
    }
}
