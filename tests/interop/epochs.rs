//! Epoch keys with a real server, which goes on to another epoch only after a terabyte by itself, but
//! follows whoever begins one: a client in this process does so, over and over.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ovpn_client::control::{
    ControlChannel, ControlConfig, Event, NegotiatedParameters, Output, TransportKind,
};
use ovpn_client::profile::{
    NoFiles, PeerInfoExtra, Profile, Protocol, SessionOptions, occ_string, peer_info,
};
use ovpn_client::secret::Credentials;
use ovpn_client::tls::TlsConfig;
use ovpn_dco::Framing;
use ovpn_userspace::peer::{Opened, Peer};

use crate::client::CONNECTED;
use crate::lab::{Lab, plain};
use crate::server::{Transport, Version};

const LIMIT: Duration = Duration::from_secs(15);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// Where data packets have their epoch.
const EPOCH: std::ops::Range<usize> = 4..6;

#[test]
fn the_server_follows_into_every_epoch() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let server = lab.start_server(&config);
    let profile = lab.profile(&config, "");
    let mut client = lab.client_ns.run(|| Handmade::connect(&profile));
    let mut pings = 0;
    for step in 0..60_u16 {
        let overtaken = client.ping(pings);
        // Up to as many at a time as the server has keys ready.
        for _ in 0..=step % 4 {
            client.peer.begin_epoch().unwrap();
        }
        let ahead = client.ping(pings + 1);
        let epoch = ahead[EPOCH].to_vec();
        for packet in [ahead, overtaken] {
            client.socket.send(&packet).unwrap();
            assert_eq!(client.answer(), Some(epoch.clone()), "{step}: {}", server.log());
        }
        pings += 2;
    }
    assert_eq!(client.peer.faults().decrypt_errors, 0);
    assert_eq!(server.log_count("Received data packet with new epoch"), 60, "{}", server.log());
    assert_eq!(server.log_count("Authenticate/Decrypt packet error"), 0, "{}", server.log());
}

/// What is offered is what is had, and a server that cannot have epoch keys is spoken to without.
#[test]
fn epoch_keys_where_both_sides_have_them() {
    for (version, said) in [(Version::V26, false), (Version::V27, true)] {
        let lab = Lab::new();
        let config = plain(version, Transport::Udp6);
        let server = lab.start_server(&config);
        let mut client = lab.start_client(&lab.profile(&config, ""), &["--dco", "off"]);
        client.wait(CONNECTED, LIMIT).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        lab.transfer("10.8.0.1", 3_000_000).unwrap();
        let epochs = server.log_count("Outgoing Epoch Data key");
        assert_eq!(epochs, usize::from(said), "{}", server.log());
        let ending = client.stop(Signal::SIGTERM);
        assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    }
}

/// Control channel and data format without anything around them.
struct Handmade {
    socket: UdpSocket,
    peer: Peer,
    address: Ipv4Addr,
}

impl Handmade {
    fn connect(profile: &str) -> Self {
        let options = Profile::parse(profile, "test", &NoFiles).unwrap().options;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((Transport::Udp4.address(), 1194)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let wrap = options.wrap_for(&options.remotes[0]).clone();
        let extra = PeerInfoExtra { userspace: true, ..PeerInfoExtra::default() };
        let config = ControlConfig {
            transport: TransportKind::Udp,
            ipv6: false,
            options: options.control.clone(),
            tls: Arc::new(TlsConfig::new(&options.tls, None).unwrap()),
            occ: occ_string(&options, &wrap, Protocol::Udp),
            wrap,
            peer_info: peer_info(&options, &extra),
            unix_time: 1_700_000_000,
            seed: [7; 32],
        };
        let mut control = ControlChannel::new(config, Instant::now()).unwrap();
        let (mut session, deadline) = (None, Instant::now() + LIMIT);
        loop {
            let (mut packet, now) = (Vec::new(), Instant::now());
            assert!(now < deadline, "no key");
            match control.poll_output(now, Some(&mut packet)) {
                Output::Transmit => _ = socket.send(&packet).unwrap(),
                Output::Event(Event::LoginNeeded) => {
                    assert!(control.log_in(&Credentials::default(), now));
                }
                Output::Event(Event::Pushed { options: pushed, server_occ }) => {
                    let pushed = SessionOptions::from_push(&options, &pushed, &server_occ).unwrap();
                    let parameters = NegotiatedParameters {
                        cipher: pushed.cipher,
                        tls_ekm: pushed.tls_ekm,
                        dynamic_tls_crypt: pushed.dynamic_tls_crypt,
                        cc_exit: pushed.cc_exit,
                        app_control: None,
                        reneg: None,
                    };
                    control.accept_push(parameters, now).unwrap();
                    session = Some(pushed);
                }
                Output::Event(Event::Keys(key)) => {
                    let session = session.unwrap();
                    let mut peer = Peer::new(session.peer_id, Framing::None, None);
                    peer.install(key).unwrap();
                    // The acknowledgement that has the server take it.
                    while let Output::Transmit = control.poll_output(now, Some(&mut packet)) {
                        socket.send(&packet).unwrap();
                    }
                    let (address, _) = session.network.ifconfig.unwrap();
                    return Self { socket, peer, address };
                }
                Output::Event(Event::Closed(error)) => panic!("{error}"),
                Output::Event(_) => {}
                Output::Wait(_) => {
                    let mut packet = [0; 2048];
                    match socket.recv(&mut packet) {
                        Ok(len) => _ = control.handle_packet(&mut packet[..len], Instant::now()),
                        Err(_) => control.handle_timeout(Instant::now()),
                    }
                }
            }
        }
    }

    /// An echo request to the server, sealed.
    fn ping(&mut self, number: u16) -> Vec<u8> {
        let mut icmp = [&[8, 0, 0, 0, 0x12, 0x34][..], &number.to_be_bytes(), &[0x55; 56]].concat();
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum);
        let length = (20 + icmp.len() as u16).to_be_bytes();
        let mut ip = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 1, 0, 0].to_vec();
        ip.extend(self.address.octets());
        ip.extend(SERVER.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        let inner = [ip, icmp].concat();
        let envelope = self.peer.envelope(inner[0]);
        let mut packet = vec![0; envelope.sealed_len(inner.len())];
        packet[envelope.inner(inner.len())].copy_from_slice(&inner);
        self.peer.seal(envelope, &mut packet, inner.len()).unwrap();
        packet
    }

    /// The epoch of the next echo reply.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let mut buffer = [0; 2048];
            let Ok(len) = self.socket.recv(&mut buffer) else { continue };
            let epoch = buffer[EPOCH].to_vec();
            if let Opened::Packet(inner) = self.peer.open(&mut buffer[..len], Instant::now())
                && buffer[inner.start + 9] == 1
                && buffer[inner.start + 20] == 0
            {
                return Some(epoch);
            }
        }
        None
    }
}

/// Of the Internet (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
