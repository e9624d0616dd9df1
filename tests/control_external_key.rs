//! A client key elsewhere: the control channel goes on when the signature comes, and says why if
//! it does not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ovpn_client::control::{ControlError, Event};
use ovpn_client::tls::{ExternalSigner, SignReply, SignRequest, TlsErrorKind};
use ovpn_test_support::sim;
use ovpn_test_support::sim::{Mode, Setup, Sim};
use rustls::SupportedProtocolVersion;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

type Request = (SignRequest, SignReply);

struct Forward(Mutex<std::sync::mpsc::Sender<Request>>);

impl ExternalSigner for Forward {
    fn sign(&self, request: SignRequest, reply: SignReply) {
        // The test may have ended.
        drop(self.0.lock().unwrap().send((request, reply)));
    }
}

struct Bench {
    sim: Sim,
    requests: Receiver<Request>,
    woken: Receiver<()>,
    key: &'static str,
}

fn bench(version: &'static SupportedProtocolVersion) -> Bench {
    let (sender, requests) = channel();
    let (wake, woken) = channel();
    let wake = Mutex::new(wake);
    let waker = Arc::new(move || wake.lock().unwrap().send(()).unwrap_or(()));
    let signer = Arc::new(Forward(Mutex::new(sender)));
    let (pair, key) = sim::real_tls::external_pair(version, signer, waker);
    let mut setup = Setup::new(Mode::TlsCrypt, 1);
    setup.tls = Some(pair);
    Bench { sim: setup.start(), requests, woken, key }
}

impl Bench {
    /// A millisecond at a time, looking at TLS only when it says so.
    fn run_until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.sim.run_for(Duration::from_millis(1));
            if let Some(value) = done(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "stuck");
            if self.woken.recv_timeout(Duration::from_millis(1)).is_ok() {
                self.sim.client.handle_tls_ready(self.sim.now);
                self.sim.drain();
            }
        }
    }

    fn request(&mut self) -> Request {
        self.run_until(|bench| bench.requests.try_recv().ok())
    }
}

#[test]
fn connects_when_the_signature_comes() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut bench = bench(version);
        let (request, reply) = bench.request();
        assert!(bench.sim.client_key().is_none());
        let key = PrivateKeyDer::from_pem_slice(bench.key.as_bytes()).unwrap();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
            let scheme = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
            let signer = key.choose_scheme(&[scheme]).unwrap();
            reply.answer(signer.sign(&request.message).unwrap());
        });
        bench.run_until(|bench| bench.sim.client_key());
        later.join().unwrap();
        bench.sim.assert_equal_keys();
    }
}

#[test]
fn a_refusal_ends_the_connection_with_its_reason() {
    let mut bench = bench(&rustls::version::TLS13);
    bench.request().1.refuse("no card in the reader");
    let error = bench.run_until(|bench| {
        bench.sim.events.iter().find_map(|(_, event)| match event {
            Event::Closed(error) => Some(error.clone()),
            _ => None,
        })
    });
    let ControlError::Tls(error) = error else { panic!("{error}") };
    assert_eq!(error.kind, TlsErrorKind::ExternalSign);
    assert!(error.to_string().contains("no card in the reader"), "{error}");
}
