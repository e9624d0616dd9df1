//! A stand-in for TLS with flights of fixed size: deterministic to the byte, and fast. Both ends
//! implement the client's own seam. No security at all; corruption is noticed, as in TLS.

use std::sync::Mutex;

use aws_lc_rs::digest;
use ovpn_client::tls::{PeerCertificate, TlsError, TlsErrorKind, TlsFactory, TlsSession};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Sizes of the flights: a post-quantum ClientHello, a server's flight with a certificate chain, a
/// client's with its own.
const HELLO: usize = 1500;
const SERVER_FLIGHT: usize = 4200;
const FINISHED: usize = 2300;

const CHECKSUM: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Record {
    Hello = 1,
    ServerFlight = 2,
    Finished = 3,
    Data = 4,
    Alert = 5,
}

/// One end of it.
pub struct FakeTls {
    server: bool,
    certificate: PeerCertificate,
    own_random: [u8; 32],
    peer_random: Option<[u8; 32]>,
    complete: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    plaintext: Vec<u8>,
}

impl FakeTls {
    fn new(server: bool, random: [u8; 32], subject: &str) -> Self {
        let mut new = Self {
            server,
            certificate: certificate(subject),
            own_random: random,
            peer_random: None,
            complete: false,
            input: Vec::new(),
            output: Vec::new(),
            plaintext: Vec::new(),
        };
        if !server {
            new.flight(Record::Hello, HELLO);
        }
        new
    }

    /// The server's end. `subject` is who the client will think it is.
    pub fn server(random: [u8; 32], subject: &str) -> Self {
        Self::new(true, random, subject)
    }

    fn flight(&mut self, kind: Record, len: usize) {
        let mut body = vec![kind as u8; len];
        body[..32].copy_from_slice(&self.own_random);
        let name = self.certificate.subject.as_bytes();
        body[32] = name.len() as u8;
        body[33..33 + name.len()].copy_from_slice(name);
        self.record(kind, &body);
    }

    fn record(&mut self, kind: Record, body: &[u8]) {
        self.output.push(kind as u8);
        self.output.extend_from_slice(&(body.len() as u16).to_be_bytes());
        self.output.extend_from_slice(&checksum(body));
        self.output.extend_from_slice(body);
    }

    fn fail(&mut self, kind: TlsErrorKind, message: &str) -> TlsError {
        if kind != TlsErrorKind::Alert {
            self.record(Record::Alert, message.as_bytes());
        }
        TlsError::new(kind, message)
    }

    fn handle(&mut self, kind: u8, body: &[u8]) -> Result<(), TlsError> {
        let random = || body.first_chunk().copied();
        match (kind, self.server, self.complete) {
            (1, true, false) if self.peer_random.is_none() => {
                self.peer_random = random();
                self.flight(Record::ServerFlight, SERVER_FLIGHT);
            }
            (2, false, false) => {
                self.peer_random = random();
                let name = &body[33..33 + usize::from(body[32])];
                self.certificate = certificate(std::str::from_utf8(name).unwrap());
                self.flight(Record::Finished, FINISHED);
                self.complete = true;
            }
            (3, true, false) => self.complete = true,
            (4, _, true) => self.plaintext.extend_from_slice(body),
            (5, ..) => {
                let text = String::from_utf8_lossy(body).into_owned();
                return Err(self.fail(TlsErrorKind::Alert, &text));
            }
            _ => return Err(self.fail(TlsErrorKind::Protocol, "unexpected record")),
        }
        Ok(())
    }
}

impl TlsSession for FakeTls {
    fn read_ciphertext(&mut self, ciphertext: &[u8]) -> Result<(), TlsError> {
        self.input.extend_from_slice(ciphertext);
        while self.input.len() >= 3 + CHECKSUM {
            let len = usize::from(u16::from_be_bytes([self.input[1], self.input[2]]));
            if self.input.len() < 3 + CHECKSUM + len {
                break;
            }
            let record: Vec<u8> = self.input.drain(..3 + CHECKSUM + len).collect();
            let (header, body) = record.split_at(3 + CHECKSUM);
            if header[3..] != checksum(body) {
                return Err(self.fail(TlsErrorKind::Protocol, "bad record mac"));
            }
            self.handle(header[0], body)?;
        }
        Ok(())
    }

    fn take_ciphertext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        out.append(&mut self.output);
        Ok(())
    }

    fn write_plaintext(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.record(Record::Data, plaintext);
        Ok(())
    }

    fn read_plaintext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        out.append(&mut self.plaintext);
        Ok(())
    }

    fn is_handshaking(&self) -> bool {
        !self.complete
    }

    fn export(&self, label: &str, out: &mut [u8]) -> Result<(), TlsError> {
        let peer =
            self.peer_random.ok_or_else(|| TlsError::new(TlsErrorKind::Protocol, "early"))?;
        let (client, server) =
            if self.server { (peer, self.own_random) } else { (self.own_random, peer) };
        for (index, chunk) in out.chunks_mut(32).enumerate() {
            let input = [label.as_bytes(), &client, &server, &index.to_be_bytes()].concat();
            let digest = digest::digest(&digest::SHA256, &input);
            chunk.copy_from_slice(&digest.as_ref()[..chunk.len()]);
        }
        Ok(())
    }

    fn description(&self) -> String {
        "fake TLS".to_owned()
    }

    fn peer_certificate(&self) -> Option<PeerCertificate> {
        self.complete.then(|| self.certificate.clone())
    }
}

/// Makes client sessions; the n-th is always the same for the same seed.
pub struct FakeTlsFactory(Mutex<StdRng>);

impl FakeTlsFactory {
    /// All that its sessions send follows from the seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl TlsFactory for FakeTlsFactory {
    fn start(&self) -> Result<Box<dyn TlsSession>, TlsError> {
        let mut random = [0; 32];
        self.0.lock().unwrap().fill_bytes(&mut random);
        Ok(Box::new(FakeTls::new(false, random, "CN=client")))
    }
}

fn certificate(subject: &str) -> PeerCertificate {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, subject.as_bytes()).as_ref());
    PeerCertificate { subject: subject.to_owned(), fingerprint, common_name: None }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let digest = digest::digest(&digest::SHA256, body);
    *digest.as_ref().first_chunk().unwrap()
}
