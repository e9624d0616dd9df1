//! The transport socket while the kernel uses it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ovpn_dco::kernel::Api;
use ovpn_dco::{
    Cipher, ControlPort, DataChannel, DataEvent, Error, Keepalive, PeerDeletedReason,
    TransportSocket,
};

use crate::support::{Pair, SECOND, Sockets, Transport, bind, event, guest, silence};

fn tcp(sockets: &Sockets) -> (TcpStream, TcpStream) {
    let clone = |fd: &std::os::fd::OwnedFd| TcpStream::from(fd.try_clone().unwrap());
    (clone(&sockets.client), clone(&sockets.server))
}

/// What comes within five seconds. Does not wait in the kernel: see `TransportSocket::Tcp`.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let start = Instant::now();
    loop {
        match stream.read(buffer) {
            Err(e) if e.kind() == ErrorKind::WouldBlock && start.elapsed() < 5 * SECOND => {
                std::thread::sleep(Duration::from_millis(1));
            }
            len => return len.unwrap(),
        }
    }
}

/// So many bytes of the stream.
fn read_exact(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let (mut bytes, mut done) = (vec![0; len], 0);
    while done < len {
        match read(stream, &mut bytes[done..]) {
            0 => panic!("the stream ended after {done} of {len} bytes"),
            more => done += more,
        }
    }
    bytes
}

fn udp(sockets: &Sockets) -> (UdpSocket, UdpSocket) {
    let clone = |fd: &std::os::fd::OwnedFd| {
        let socket = UdpSocket::from(fd.try_clone().unwrap());
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(2 * SECOND)).unwrap();
        socket
    };
    (clone(&sockets.client), clone(&sockets.server))
}

/// A control packet (opcode 4, P_CONTROL_V1) of some length, as it is on the wire of TCP.
fn control(len: usize, fill: u8) -> Vec<u8> {
    let mut packet = ((len + 1) as u16).to_be_bytes().to_vec();
    packet.push(4 << 3);
    packet.resize(len + 3, fill);
    packet
}

/// Control packets pass in both directions beside the data; data packets never come up.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn control_packets_over_udp() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        for v6 in [false, true] {
            let sockets = pair.sockets(Transport::Udp, v6);
            pair.up(&sockets, Cipher::Aes256Gcm).await;
            let (client, server) = udp(&sockets);
            let mut buffer = [0; 2000];
            for round in 0..5 {
                pair.ping();
                client.send(&[4 << 3, 1, 2, round]).unwrap();
                server.send(&[5 << 3, 3, 4, round]).unwrap();
                assert_eq!(server.recv(&mut buffer).unwrap(), 4);
                assert_eq!(buffer[..4], [4 << 3, 1, 2, round]);
                assert_eq!(client.recv(&mut buffer).unwrap(), 4);
                assert_eq!(buffer[..4], [5 << 3, 3, 4, round]);
            }
            // After the peer is gone the socket is an ordinary one.
            pair.client.channel.del_peer().await.unwrap();
            server.send(&[9 << 3, 0, 0, 5, 0, 0, 0, 1]).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 8);
            pair.server.channel.del_peer().await.unwrap();
        }
        pair.close().await;
    });
}

/// The same over TCP, where the two modules differ in what one `recv` gives.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn control_packets_over_tcp() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Tcp, false);
        let keepalive = Keepalive { interval: 10, timeout: 60 };
        for side in [&mut pair.client, &mut pair.server] {
            match side.new_peer(&sockets, keepalive).await {
                ControlPort::Socket { tcp_packets } => assert_eq!(tcp_packets, api == Api::Ovpn),
                other => panic!("{other:?}"),
            }
        }
        pair.key(Cipher::Aes256Gcm, 0).await;
        let (mut client, mut server) = tcp(&sockets);
        for round in 0..5 {
            pair.ping();
            let (one, two) = (control(20, round), control(1200, round));
            server.write_all(&one).unwrap();
            server.write_all(&two).unwrap();
            let mut buffer = vec![0; 65_537];
            if api == Api::Ovpn {
                let mut packets = Vec::new();
                for _ in 0..2 {
                    let len = read(&mut client, &mut buffer);
                    packets.push(buffer[..len].to_vec());
                }
                assert_eq!(packets, [one, two]);
            } else {
                let stream = read_exact(&mut client, one.len() + two.len());
                assert_eq!(stream, [one, two].concat());
            }
            let back = control(300, round);
            client.write_all(&back).unwrap();
            assert_eq!(read_exact(&mut server, back.len()), back);
        }
        silence(&mut pair.client.channel, SECOND).await;
        pair.client.channel.del_peer().await.unwrap();
        // The stream is ours again, at a packet boundary.
        let last = control(50, 9);
        server.write_all(&last).unwrap();
        assert_eq!(read_exact(&mut client, last.len()), last);
        pair.close().await;
    });
}

/// What waits in the receive queue at the hand-over is not lost (in-tree module).
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn queued_at_the_hand_over() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Tcp, false);
        let (mut client, mut server) = tcp(&sockets);
        let packet = control(100, 7);
        // A packet and a half.
        server.write_all(&packet).unwrap();
        server.write_all(&packet[..50]).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        pair.client.new_peer(&sockets, Keepalive::default()).await;
        // ovpn-dco-v2 does not look at what was queued before more arrives.
        server.write_all(&packet[50..]).unwrap();
        for _ in 0..2 {
            assert_eq!(read_exact(&mut client, packet.len()), packet, "{api:?}");
        }
        pair.close().await;
    });
}

/// FIN is for the socket's owner to notice: the peer stays until it is deleted.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn fin() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Tcp, false);
        pair.client.new_peer(&sockets, Keepalive { interval: 10, timeout: 60 }).await;
        let (mut client, server) = tcp(&sockets);
        server.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(read(&mut client, &mut [0; 100]), 0);
        silence(&mut pair.client.channel, 2 * SECOND).await;
        pair.client.channel.stats().await.unwrap();
        pair.client.channel.del_peer().await.unwrap();
        pair.close().await;
    });
}

/// Nonsense in the stream.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn broken_stream() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        // Shorter than any packet; a data packet of the old format.
        for nonsense in [&[0, 2, 4 << 3, 0][..], &[0, 6, 6 << 3, 1, 2, 3, 4, 5]] {
            let sockets = pair.sockets(Transport::Tcp, false);
            pair.client.new_peer(&sockets, Keepalive::default()).await;
            let (_, mut server) = tcp(&sockets);
            server.write_all(nonsense).unwrap();
            if api == Api::OvpnDcoV2 {
                // Looks at neither.
                silence(&mut pair.client.channel, SECOND).await;
                pair.client.channel.del_peer().await.unwrap();
                continue;
            }
            let told = event(&mut pair.client.channel, 5 * SECOND).await;
            assert_eq!(told, DataEvent::PeerDeleted(PeerDeletedReason::TransportError));
        }
        pair.close().await;
    });
}

/// The channel has a duplicate of its own: the caller closing the socket does not end the peer.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn callers_descriptor_closed() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        for transport in [Transport::Udp, Transport::Tcp] {
            let sockets = pair.sockets(transport, false);
            pair.up(&sockets, Cipher::Aes256Gcm).await;
            drop(sockets);
            pair.ping();
            silence(&mut pair.client.channel, SECOND).await;
            pair.client.channel.del_peer().await.unwrap();
            pair.server.channel.del_peer().await.unwrap();
            // The port is free again: nobody has the socket any more.
            drop(pair.sockets(Transport::Udp, false));
        }
        pair.close().await;
    });
}

/// The socket is in use by another link.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn socket_of_another_link() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.client.new_peer(&sockets, Keepalive::default()).await;
        let name = ovpn_dco::kernel::LinkName::from_dev("tun");
        let mut second = crate::support::create(&pair.client.ns, api, name).await;
        let config = sockets.config(false, Keepalive::default());
        let error = second.new_peer(config).await.unwrap_err();
        assert!(
            matches!(error, Error::Kernel { errno: libc::ENOTSOCK | libc::EBUSY, .. }),
            "{error}"
        );
        if api == Api::Ovpn {
            assert!(error.to_string().contains("ovpn:"), "{error}");
        }
        // A refused peer is no peer.
        assert!(matches!(second.stats().await, Err(Error::NoSuchPeer)));
        second.close().await.unwrap();
        pair.close().await;
    });
}

/// One forged packet must not take the tunnel's traffic away: the older module moves a peer before
/// it authenticates, unless its socket is connected.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn forged_packets_move_nothing() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let mut sockets = pair.sockets(Transport::Udp, false);
        // A client that forgot to connect its socket; the channel must see to it.
        let client_addr = sockets.client_addr;
        drop(std::mem::replace(
            &mut sockets.client,
            std::fs::File::open("/dev/null").unwrap().into(),
        ));
        sockets.client = pair.client.ns.run(|| bind(client_addr)).into();
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        pair.ping();
        pair.server.ns.sh("ip address add 10.99.0.66/24 dev eth0");
        let attacker = pair.server.ns.run(|| UdpSocket::bind("10.99.0.66:6666").unwrap());
        let mut forged = vec![9 << 3, 0, 0, 5, 0, 0, 0, 99];
        forged.resize(100, 0xaa);
        attacker.send_to(&forged, client_addr).unwrap();
        attacker.set_read_timeout(Some(SECOND)).unwrap();
        pair.ping();
        let stolen = attacker.recv(&mut [0; 2000]);
        assert!(stolen.is_err(), "a packet of the tunnel went to the attacker");
        silence(&mut pair.client.channel, SECOND).await;
        let info = pair.client.channel.peer_info().await.unwrap();
        assert_eq!(info.remote, Some(sockets.server_addr));
        pair.close().await;
    });
}

/// A peer that authenticates from another address is followed (in-tree module, unconnected
/// socket).
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn floating() {
    guest(|api| async move {
        if api != Api::Ovpn {
            return;
        }
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.client.new_peer(&sockets, Keepalive { interval: 1, timeout: 60 }).await;
        // The server's socket takes packets from anywhere.
        let mut config = sockets.config(true, Keepalive { interval: 1, timeout: 60 });
        let any: SocketAddr = "0.0.0.0:1195".parse().unwrap();
        let socket = pair.server.ns.run(|| UdpSocket::bind(any).unwrap());
        config.socket = TransportSocket::Udp(socket.into());
        pair.server.channel.new_peer(config).await.unwrap();
        // The client reaches it there, from a socket that is not tied to an address.
        let mut config = sockets.config(false, Keepalive { interval: 1, timeout: 60 });
        let socket = pair.client.ns.run(|| UdpSocket::bind("0.0.0.0:40001").unwrap());
        config.socket = TransportSocket::Udp(socket.into());
        config.remote = "10.99.0.1:1195".parse().unwrap();
        pair.client.channel.new_peer(config).await.unwrap();
        pair.key(Cipher::Aes256Gcm, 0).await;

        // 10.99.0.2:40000 was what the server was told; the first packet comes from :40001.
        let told = event(&mut pair.server.channel, 10 * SECOND).await;
        assert_eq!(told, DataEvent::Floated("10.99.0.2:40001".parse().unwrap()));
        pair.client
            .ns
            .sh("ip address del 10.99.0.2/24 dev eth0; ip address add 10.99.0.22/24 dev eth0");
        let told = event(&mut pair.server.channel, 10 * SECOND).await;
        assert_eq!(told, DataEvent::Floated("10.99.0.22:40001".parse().unwrap()));
        pair.ping();
        pair.close().await;
    });
}
