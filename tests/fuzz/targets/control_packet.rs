//! A whole control channel against a hostile peer. TLS is taken away, so that the input reaches
//! key exchange, messages and push directly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ovpn_client::control::packet::{Body, HEADER_LEN, Header, SessionId};
use ovpn_client::control::{
    ControlChannel, ControlConfig, Event, NegotiatedParameters, Output, TransportKind,
};
use ovpn_client::profile::{ControlOptions, WrapOptions};
use ovpn_client::secret::{Credentials, Secret};
use ovpn_client::tls::{PeerCertificate, TlsError, TlsFactory, TlsSession};
use ovpn_dco::Cipher;

const PEER: [u8; 8] = [7; 8];

/// Packets that one step may cause: one full send window of each session, and acknowledgements.
const MAX_BURST: usize = 40;

/// Input: one byte of configuration, then steps: an opcode byte and its arguments.
pub fn run(data: &[u8]) {
    round_trip(data);
    let Some((flags, mut input)) = data.split_first() else {
        return;
    };
    let mut now = Instant::now();
    // How often somebody is there who answers.
    let mut logins = if flags & 2 != 0 { 1 } else { u32::MAX };
    let mut channel =
        ControlChannel::new(config(flags & 1 != 0), now).expect("no wrapping key is involved");
    let mut hello = Vec::new();
    let first = channel.poll_output(now, Some(&mut hello));
    assert!(matches!(first, Output::Transmit), "{first:?} in place of the first packet");
    let local = Header::parse(&hello).expect("our own packet").session_id;
    while let Some((step, rest)) = input.split_first() {
        input = rest;
        match step % 8 {
            0..=3 => {
                let Some((len, rest)) = input.split_first() else {
                    return;
                };
                let len = usize::from(*len).min(rest.len());
                let (bytes, rest) = rest.split_at(len);
                input = rest;
                let mut packet = bytes.to_vec();
                fix(&mut packet, local, step % 8);
                channel.handle_packet(&mut packet, now);
            }
            4 => {
                let (ms, rest) = input.split_first().map_or((0, input), |(ms, rest)| (*ms, rest));
                input = rest;
                now += Duration::from_millis(u64::from(ms) * u64::from(ms) * 2);
            }
            5 => channel.renegotiate(now),
            6 => channel.respond("answer", now),
            _ => {
                channel.send_exit(now);
            }
        }
        channel.handle_timeout(now);
        settle(&mut channel, &mut logins, now);
    }
}

/// Takes everything out; afterwards the next deadline must lie ahead.
fn settle(channel: &mut ControlChannel, logins: &mut u32, now: Instant) {
    let mut packets = 0;
    let mut packet = Vec::new();
    loop {
        match channel.poll_output(now, Some(&mut packet)) {
            Output::Transmit => {
                Header::parse(&packet).expect("our own packet");
                packets += 1;
                assert!(packets <= MAX_BURST, "endless packets");
            }
            Output::Event(Event::Pushed { .. }) => {
                channel.accept_push(parameters(), now).expect("a push was waiting");
            }
            Output::Event(Event::LoginNeeded) if *logins > 0 => {
                *logins -= 1;
                let password = Secret::from("password");
                let login = Credentials { username: "user".to_owned(), password };
                assert!(channel.log_in(&login, now), "it was asked for");
            }
            Output::Event(_) => {}
            Output::Wait(until) => return assert!(until.is_none_or(|at| at > now), "busy loop"),
        }
    }
}

/// Makes a packet come from the peer, and acknowledge our session, as far as asked for.
fn fix(packet: &mut [u8], local: SessionId, how: u8) {
    if how & 1 != 0
        && let Some(id) = packet.get_mut(1..HEADER_LEN)
    {
        id.copy_from_slice(&PEER);
    }
    if how & 2 != 0
        && let Some(count) = packet.get(HEADER_LEN)
    {
        let at = HEADER_LEN + 1 + 4 * usize::from(*count);
        if let Some(id) = packet.get_mut(at..at + 8) {
            id.copy_from_slice(local.bytes());
        }
    }
}

/// What parses is written the same way again.
fn round_trip(data: &[u8]) {
    let Ok(header) = Header::parse(data) else {
        return;
    };
    let Some(bytes) = data.get(HEADER_LEN..) else {
        return;
    };
    assert_eq!(header.encode()[..], data[..HEADER_LEN]);
    if let Ok(body) = Body::parse(header.opcode, bytes) {
        let mut again = Vec::new();
        body.encode(&mut again);
        assert_eq!(again, bytes);
    }
}

fn parameters() -> NegotiatedParameters {
    NegotiatedParameters {
        cipher: Cipher::Aes256Gcm,
        tls_ekm: true,
        dynamic_tls_crypt: false,
        cc_exit: true,
        app_control: None,
        reneg: Some(Duration::from_secs(30)),
    }
}

fn config(tcp: bool) -> ControlConfig {
    ControlConfig {
        transport: if tcp { TransportKind::Tcp } else { TransportKind::Udp },
        ipv6: false,
        options: ControlOptions {
            retransmit: Duration::from_secs(2),
            hand_window: Duration::from_secs(60),
            tran_window: Duration::from_secs(3600),
            reneg: Some(Duration::from_secs(30)),
            max_packet_size: 1250,
            replay_window: (64, Duration::from_secs(15)),
            ping: None,
            ping_timeout: None,
            inactive: None,
            session_timeout: None,
        },
        wrap: WrapOptions::None,
        tls: Arc::new(NoTls),
        occ: "V4".to_owned(),
        peer_info: String::new(),
        unix_time: 1_700_000_000,
        seed: [1; 32],
    }
}

/// Plaintext is ciphertext.
struct NoTls;

#[derive(Default)]
struct Clear {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl TlsFactory for NoTls {
    fn start(&self) -> Result<Box<dyn TlsSession>, TlsError> {
        Ok(Box::new(Clear::default()))
    }
}

impl TlsSession for Clear {
    fn read_ciphertext(&mut self, ciphertext: &[u8]) -> Result<(), TlsError> {
        self.input.extend_from_slice(ciphertext);
        Ok(())
    }

    fn take_ciphertext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        out.append(&mut self.output);
        Ok(())
    }

    fn write_plaintext(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.output.extend_from_slice(plaintext);
        Ok(())
    }

    fn read_plaintext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        out.append(&mut self.input);
        Ok(())
    }

    fn is_handshaking(&self) -> bool {
        false
    }

    fn export(&self, label: &str, out: &mut [u8]) -> Result<(), TlsError> {
        for (byte, value) in out.iter_mut().zip(label.bytes().cycle()) {
            *byte = value;
        }
        Ok(())
    }

    fn description(&self) -> String {
        String::new()
    }

    fn peer_certificate(&self) -> Option<PeerCertificate> {
        None
    }
}
