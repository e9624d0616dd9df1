//! Both readers of a TCP stream, of the control channel and of the data path, against a cut that is
//! too simple to be wrong: the same packets, in the same order, whatever pieces the bytes come in.

use std::future::poll_fn;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use ovpn_client::transport::{Protect, SocketOptions, Transport, TransportError};
use ovpn_dco::{PeerDeletedReason, TransportSocket};
use ovpn_userspace::transport::Stream;

/// Longer inputs would not fit the socket's buffer.
const MAX: usize = 64 * 1024;

/// Input: how many bytes are handed over unread and the length of the pieces (one byte each), then
/// the stream.
pub fn run(data: &[u8]) {
    let Some((&[residue, piece], bytes)) = data.split_first_chunk() else { return };
    let bytes = &bytes[..bytes.len().min(MAX)];
    let pieces: Vec<&[u8]> = bytes.chunks(1 + 16 * usize::from(piece)).collect();
    let expected = cut(bytes);
    assert_eq!(control(&pieces), expected.packets);
    let residue = usize::from(residue).min(bytes.len());
    let (packets, broken) = data_path(&bytes[..residue], &bytes[residue..], &pieces);
    assert_eq!(broken, expected.broken);
    if broken {
        // What came with the break is lost along with the connection.
        assert_eq!(packets, expected.packets[..packets.len()]);
    } else {
        assert_eq!(packets, expected.packets);
    }
}

/// What a stream holds.
struct Cut {
    packets: Vec<Vec<u8>>,
    /// By a packet of length 0.
    broken: bool,
}

fn cut(mut bytes: &[u8]) -> Cut {
    let mut packets = Vec::new();
    while let Some((&[high, low], rest)) = bytes.split_first_chunk() {
        let len = usize::from(high) << 8 | usize::from(low);
        if len == 0 {
            return Cut { packets, broken: true };
        }
        let Some((packet, rest)) = rest.split_at_checked(len) else { break };
        packets.push(packet.to_vec());
        bytes = rest;
    }
    Cut { packets, broken: false }
}

/// The control channel's reader. Its waiting is broken off after each piece, which loses nothing.
fn control(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    thread_local! {
        static LISTENER: TcpListener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    }
    let listener = LISTENER.with(|listener| listener.try_clone().expect("a descriptor"));
    let remote = listener.local_addr().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.expect("a runtime").block_on(async {
        let (options, protect) = (SocketOptions::default(), Unprotected);
        let mut transport = Transport::tcp(remote, &options, &protect).await.expect("connected");
        // Leaves no port behind that waits for late packets.
        let Ok(TransportSocket::Tcp(socket)) = transport.share() else { panic!("no socket") };
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
        let (mut server, _) = listener.accept().expect("a connection");
        let (mut packets, mut packet) = (Vec::new(), Vec::new());
        for piece in pieces {
            server.write_all(piece).expect("room in the buffer");
            let ready = {
                let mut receive = pin!(transport.recv(&mut packet));
                poll_fn(|context| match receive.as_mut().poll(context) {
                    Poll::Ready(result) => Poll::Ready(Some(result.is_ok())),
                    Poll::Pending => Poll::Ready(None),
                })
                .await
            };
            match ready {
                Some(true) => packets.push(packet.clone()),
                Some(false) => return packets,
                None => {}
            }
        }
        server.shutdown(Shutdown::Write).expect("open");
        while transport.recv(&mut packet).await.is_ok() {
            packets.push(packet.clone());
        }
        packets
    })
}

/// The data path's reader: the packets, and whether the stream broke before its end.
fn data_path(residue: &[u8], mut bytes: &[u8], pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut server, client) = UnixStream::pair().expect("sockets");
    let mut stream = Stream::new(client.into(), residue).expect("a stream");
    let mut packets = Vec::new();
    let mut pieces = pieces.iter();
    loop {
        let len = pieces.next().map_or(0, |piece| piece.len()).min(bytes.len());
        if len == 0 {
            server.shutdown(Shutdown::Write).expect("open");
        }
        let (now, later) = bytes.split_at(len);
        server.write_all(now).expect("room in the buffer");
        bytes = later;
        match stream.receive() {
            Ok(received) => packets.extend(received),
            Err(reason) => return (packets, reason == PeerDeletedReason::TransportError),
        }
    }
}

struct Unprotected;

impl Protect for Unprotected {
    async fn protect(&self, _: &socket2::Socket, _: SocketAddr) -> Result<(), TransportError> {
        Ok(())
    }
}
