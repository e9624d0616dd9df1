//! The server behind a real socket, for a real client.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ovpn_dco::KeyConfig;

use super::Mode;
use super::server::{KeyMessage, Server, ServerConfig};

enum Order {
    Renegotiate,
    Keys(Sender<Vec<[Vec<u8>; 2]>>),
    End,
}

/// A server with one client, on a thread.
pub struct RunningServer {
    pub address: SocketAddr,
    orders: Sender<Order>,
    thread: JoinHandle<Vec<(String, String)>>,
}

impl RunningServer {
    pub fn start(socket: UdpSocket) -> Self {
        let address = socket.local_addr().unwrap();
        let (orders, inbox) = channel();
        let thread = std::thread::spawn(move || serve(&socket, &inbox));
        Self { address, orders, thread }
    }

    pub fn renegotiate(&self) {
        self.orders.send(Order::Renegotiate).unwrap();
    }

    /// The cipher keys of each key exchange.
    pub fn keys(&self) -> Vec<[Vec<u8>; 2]> {
        let (reply, keys) = channel();
        self.orders.send(Order::Keys(reply)).unwrap();
        keys.recv().unwrap()
    }

    /// User names and passwords of each key exchange.
    pub fn end(self) -> Vec<(String, String)> {
        self.orders.send(Order::End).unwrap();
        self.thread.join().unwrap()
    }
}

fn serve(socket: &UdpSocket, inbox: &Receiver<Order>) -> Vec<(String, String)> {
    let mut config = ServerConfig::new(Mode::None);
    // As long as it pushes nothing else.
    config.tls_ekm = false;
    config.push = vec![
        "PUSH_REPLY,ifconfig 10.8.0.6 255.255.255.0,topology subnet,peer-id 7,cipher AES-256-GCM"
            .to_owned(),
    ];
    let (_, make_tls) = super::real_tls::pair(&rustls::version::TLS13);
    let mut server = Server::new(config, 1, make_tls);
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut client = None;
    let mut buffer = [0; 2048];
    loop {
        match inbox.try_recv() {
            Ok(Order::Renegotiate) => server.renegotiate(Instant::now()),
            Ok(Order::Keys(reply)) => {
                let both = |key: &KeyConfig| {
                    [&key.encrypt, &key.decrypt].map(|direction| direction.cipher_key().to_vec())
                };
                reply.send(server.keys.iter().map(both).collect()).unwrap();
            }
            Ok(Order::End) => break,
            Err(_) => {}
        }
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            client = Some(from);
            // Data packets (6, 9) end here.
            if !matches!(buffer[0] >> 3, 6 | 9) {
                server.handle_packet(buffer[..len].to_vec(), Instant::now());
            }
        }
        while let Some(packet) = server.poll_transmit(Instant::now()) {
            socket.send_to(&packet, client.unwrap()).unwrap();
        }
    }
    let message = |m: &KeyMessage| (m.username.clone(), m.password.clone());
    server.key_messages.iter().map(message).collect()
}
