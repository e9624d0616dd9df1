//! The kernel's own test tool (`tools/testing/selftests/net/ovpn/ovpn-cli.c`) at the other end:
//! what it makes of keys, ids and packets was written by others.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ovpn_dco::{
    Cipher, DataChannel, DirectionKey, Keepalive, KeyConfig, KeyId, PeerConfig, TransportSocket,
};

use crate::netns::NetNs;
use crate::support::{PEER, Side, bind, guest, namespaces};

/// Two keys of 32 bytes, up and down, and 8 bytes for the nonces of both; another set for the
/// second slot. The tool wants them in base64.
const KEYS: [&[u8; 72]; 2] = [
    b"0123456789abcdefghijklmnopqrstuvABCDEFGHIJKLMNOPQRSTUVWXYZ012345nonce--1",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123450123456789abcdefghijklmnopqrstuvnonce--2",
];

fn program() -> String {
    std::env::var("OVPN_CLI").expect("run ci/vm/run")
}

struct Tool {
    ns: NetNs,
}

impl Tool {
    fn new(ns: NetNs, mode: &str) -> Self {
        let tool = Self { ns };
        tool.run(&format!("new_iface tun0 {mode}"));
        tool.ns.sh("ip link set tun0 up mtu 1400
             ip address add 10.8.0.1/24 dev tun0
             ip address add fd08::1/64 dev tun0 nodad");
        tool
    }

    /// Commands that open sockets stay behind in the background, with our end of a pipe in hand.
    fn run(&self, arguments: &str) {
        let program = program();
        self.ns.sh(&format!("exec >/tmp/ovpn-cli.log 2>&1; {program} {arguments}"));
    }

    fn key(&self, slot: u8, cipher: Cipher) {
        let name = if cipher == Cipher::ChaCha20Poly1305 { "chachapoly" } else { "aes" };
        let id = slot - 1;
        let text = std::str::from_utf8(KEYS[usize::from(id)]).unwrap();
        self.ns.sh(&format!("printf %s {text} | base64 -w 0 >/tmp/ovpn-cli.key"));
        self.run(&format!("new_key tun0 5 {slot} {id} {name} 1 /tmp/ovpn-cli.key"));
    }

    fn end(self) -> NetNs {
        self.ns.sh("killall ovpn-cli");
        self.run("del_iface tun0");
        self.ns
    }
}

/// Our half of the tool's key for this slot.
fn key(slot: u8, cipher: Cipher) -> KeyConfig {
    let id = slot - 1;
    let bytes = KEYS[usize::from(id)];
    let nonce = &bytes[64..];
    let direction = |key: &[u8]| DirectionKey::new(cipher, key, nonce).unwrap();
    KeyConfig {
        key_id: KeyId::new(id).unwrap(),
        cipher,
        encrypt: direction(&bytes[..32]),
        decrypt: direction(&bytes[32..64]),
    }
}

fn peer(socket: TransportSocket, remote: SocketAddr) -> PeerConfig {
    PeerConfig {
        id: Some(PEER),
        socket,
        remote,
        local: None,
        keepalive: Keepalive { interval: 10, timeout: 60 },
    }
}

/// Tries for ten seconds.
fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..100 {
        if let Some(result) = attempt() {
            return result;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the tool does not do its part")
}

fn ping(ns: &NetNs, address: &str) {
    ns.sh(&format!("ping -q -c 3 -i 0.2 -W 2 {address}"));
}

#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn over_udp() {
    guest(|api| async move {
        let (client, mut server) = namespaces();
        let mut client = Side::new(client, api, 2).await;
        for (number, (v6, cipher)) in [
            (false, Cipher::Aes256Gcm),
            (false, Cipher::ChaCha20Poly1305),
            (true, Cipher::Aes256Gcm),
            (true, Cipher::ChaCha20Poly1305),
        ]
        .into_iter()
        .enumerate()
        {
            let tool = Tool::new(server, "P2P");
            // A socket that the kernel had is a moment late to give up its port.
            let port = 40_000 + number as u16;
            let own = SocketAddr::new(client.outer[usize::from(v6)], port);
            let remote: SocketAddr =
                if v6 { "[fd99::1]:1194" } else { "10.99.0.1:1194" }.parse().unwrap();
            tool.run(&format!("new_peer tun0 5 none 1194 {} {port}", own.ip()));
            tool.key(1, cipher);
            let socket = client.ns.run(|| {
                let socket = bind(own);
                socket.connect(remote).unwrap();
                socket.set_nonblocking(true).unwrap();
                TransportSocket::Udp(OwnedFd::from(socket))
            });
            client.channel.new_peer(peer(socket, remote)).await.unwrap();
            client.channel.install(key(1, cipher)).await.unwrap();
            ping(&client.ns, "10.8.0.1");
            ping(&client.ns, "fd08::1");
            // The tool sends with its new key before we do: both slots must open.
            tool.key(2, cipher);
            client.channel.install(key(2, cipher)).await.unwrap();
            tool.run("swap_keys tun0 5");
            ping(&client.ns, "10.8.0.1");
            client.channel.promote(key(2, cipher).key_id).await.unwrap();
            ping(&client.ns, "10.8.0.1");
            let stats = client.channel.stats().await.unwrap();
            assert!(stats.vpn_rx_packets >= 12, "{stats:?}");
            client.channel.del_peer().await.unwrap();
            server = tool.end();
        }
        client.channel.close().await.unwrap();
    });
}

#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn over_tcp() {
    guest(|api| async move {
        let (client, server) = namespaces();
        let mut client = Side::new(client, api, 2).await;
        let tool = Tool::new(server, "MP");
        fs::write("/tmp/ovpn-cli.peers", "5 5 10.8.0.2\n").unwrap();
        let program = program();
        tool.ns.sh(&format!(
            "(exec >/tmp/ovpn-cli.listen 2>&1
              {program} listen tun0 1194 SYMM /tmp/ovpn-cli.peers
              echo listened: $?) &"
        ));
        let remote: SocketAddr = "10.99.0.1:1194".parse().unwrap();
        let stream = until(|| client.ns.run(|| TcpStream::connect(remote)).ok());
        stream.set_nonblocking(true).unwrap();
        let socket = TransportSocket::Tcp(OwnedFd::from(stream.try_clone().unwrap()));
        client.channel.new_peer(peer(socket, remote)).await.unwrap();
        // It goes on when it has got a packet that is no data.
        let mut control = 1000_u16.to_be_bytes().to_vec();
        control.resize(1002, 0x86);
        (&stream).write_all(&control).unwrap();
        until(|| {
            let told = fs::read_to_string("/tmp/ovpn-cli.listen").unwrap();
            told.contains("listened: 0").then_some(())
        });
        tool.key(1, Cipher::Aes256Gcm);
        client.channel.install(key(1, Cipher::Aes256Gcm)).await.unwrap();
        ping(&client.ns, "10.8.0.1");
        let stats = client.channel.stats().await.unwrap();
        assert!(stats.vpn_rx_packets >= 3, "{stats:?}");
        client.channel.del_peer().await.unwrap();
        client.channel.close().await.unwrap();
        tool.end();
    });
}
