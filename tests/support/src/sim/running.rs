//! The simulated server behind a real socket, in a thread: for the program itself.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ovpn_dco::KeyConfig;

use super::server::{KeyMessage, Server, ServerConfig};
use super::{Mode, real_tls};
use crate::netns::NetNs;

const BASIC_PUSH: &str =
    "ifconfig 10.8.0.6 255.255.255.0,topology subnet,peer-id 7,cipher AES-256-GCM";

/// A server that nobody hears from.
pub fn silent(namespace: &NetNs) -> (UdpSocket, SocketAddr) {
    let socket = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = socket.local_addr().unwrap();
    (socket, address)
}

enum Order {
    Renegotiate,
    Say(String),
    Keys(Sender<Vec<[Vec<u8>; 2]>>),
    End,
}

/// A server with one client, on a thread. A client that comes from another port takes the place of
/// the one before.
pub struct RunningServer {
    /// Where it listens, in its namespace.
    pub address: SocketAddr,
    orders: Sender<Order>,
    thread: JoinHandle<Vec<(String, String)>>,
}

impl RunningServer {
    /// On a port of 127.0.0.1.
    pub fn start(namespace: &NetNs) -> Self {
        Self::pushing(namespace, "")
    }

    /// `push`: further options, each after a comma.
    pub fn pushing(namespace: &NetNs, push: &str) -> Self {
        let (socket, address) = silent(namespace);
        let (orders, inbox) = channel();
        let push = format!("PUSH_REPLY,{BASIC_PUSH}{push}");
        let thread = std::thread::spawn(move || serve(&socket, &inbox, &push));
        Self { address, orders, thread }
    }

    /// Has it start a key exchange.
    pub fn renegotiate(&self) {
        self.orders.send(Order::Renegotiate).unwrap();
    }

    /// Sends a text on the control channel.
    pub fn say(&self, text: &str) {
        self.orders.send(Order::Say(text.to_owned())).unwrap();
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

fn serve(socket: &UdpSocket, inbox: &Receiver<Order>, push: &str) -> Vec<(String, String)> {
    let new_server = || {
        let mut config = ServerConfig::new(Mode::None);
        // As long as nothing else is pushed.
        config.tls_ekm = false;
        config.push = vec![push.to_owned()];
        let (_, make_tls) = real_tls::pair(&rustls::version::TLS13);
        Server::new(config, 1, make_tls)
    };
    let mut server = new_server();
    let mut before = Vec::new();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut client = None;
    let mut buffer = [0; 2048];
    loop {
        match inbox.try_recv() {
            Ok(Order::Renegotiate) => server.renegotiate(Instant::now()),
            Ok(Order::Say(text)) => server.send_text(&text),
            Ok(Order::Keys(reply)) => {
                let both = |key: &KeyConfig| {
                    [&key.encrypt, &key.decrypt].map(|direction| direction.cipher_key().to_vec())
                };
                reply.send(server.keys.iter().map(both).collect()).unwrap();
            }
            Ok(Order::End) | Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {}
        }
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            if client.replace(from).is_some_and(|client| client != from) {
                before.append(&mut server.key_messages);
                server = new_server();
            }
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
    before.iter().chain(&server.key_messages).map(message).collect()
}
