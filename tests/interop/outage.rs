//! A server by name, everything redirected, `persist-tun`: the resolver is behind the tunnel, and the
//! tunnel leads nowhere. The outage ends with the server's return, wherever it comes back.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, Client, RECONNECTING};
use crate::lab::{Lab, plain};
use crate::netns::NetNs;
use crate::server::{ServerConfig, Transport, Version};

const NAME: &str = "vpn.test";
/// Behind the client's gateway: reached through the tunnel once everything is redirected.
const NAME_SERVER: &str = "203.0.113.53";
const HOME: &str = "198.51.100.1";
const ELSEWHERE: &str = "198.51.100.3";

/// A name server for one name with one address, which may change. Ends on drop.
struct NameServer {
    address: Arc<Mutex<Ipv4Addr>>,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    fn start(ns: &NetNs, address: &str) -> Self {
        let socket = ns.run(|| UdpSocket::bind((NAME_SERVER, 53))).expect("name server");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("name server");
        let address = Arc::new(Mutex::new(address.parse().expect("address")));
        let (asked, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let shared = (Arc::clone(&address), Arc::clone(&asked), Arc::clone(&stop));
        let serve = move || {
            let (address, asked, stop) = shared;
            let mut buffer = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let (name, answer) = answer(&buffer[..len], *address.lock().unwrap());
                asked.lock().unwrap().push(name);
                let _ = socket.send_to(&answer, from);
            }
        };
        Self { address, asked, stop, thread: Some(std::thread::spawn(serve)) }
    }

    fn moved_to(&self, address: &str) {
        *self.address.lock().unwrap() = address.parse().expect("address");
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The name asked for, and the answer: an address if it is [`NAME`] and A is asked for.
fn answer(question: &[u8], address: Ipv4Addr) -> (String, Vec<u8>) {
    let mut labels = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).into_owned());
        at = end;
    }
    let end = at + 5;
    let name = labels.join(".");
    let known = name == NAME;
    let found = known && question[at + 2] == 1;
    let code = if known { 0 } else { 3 };
    let mut answer = question[..2].to_vec();
    answer.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::from(found), 0, 0, 0, 0]);
    answer.extend_from_slice(&question[12..end]);
    if found {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    (name, answer)
}

struct Outage {
    lab: Lab,
    names: NameServer,
    resolv_conf: String,
    client: Client,
}

impl Outage {
    /// Connected, redirected, and then alone: several attempts have failed.
    fn begin(config: &ServerConfig) -> Self {
        let lab = Lab::new();
        lab.server_ns.add_address("lo", &format!("{NAME_SERVER}/32"));
        lab.server_ns.add_address("eth0", &format!("{ELSEWHERE}/24"));
        let names = NameServer::start(&lab.server_ns, HOME);
        let resolv_conf = lab.file("resolv.conf", &format!("nameserver {NAME_SERVER}\n"));
        let server = lab.start_server(config);
        let profile = lab.profile(config, "persist-tun\nserver-poll-timeout 3\n");
        let by_name = profile.replace(&format!("remote {HOME} "), &format!("remote {NAME} "));
        assert_ne!(profile, by_name);
        let mut client = Client::start_with_resolv_conf(
            &lab.client_ns,
            lab.directory(),
            &by_name,
            &resolv_conf,
            &[],
        );
        client.wait(CONNECTED, Duration::from_secs(20)).unwrap();
        lab.ping("192.0.2.1").unwrap();
        let redirected = std::fs::read_to_string(&resolv_conf).unwrap();
        assert!(redirected.contains("nameserver 10.8.0.1"), "{redirected}");
        server.signal(Signal::SIGKILL);
        drop(server);
        client.wait(RECONNECTING, Duration::from_secs(15)).unwrap();
        names.asked.lock().unwrap().clear();
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.count("connection attempt failed") < 2 {
            assert!(Instant::now() < deadline, "no attempts:\n{:?}", client.statuses);
            client.listen(Duration::from_millis(200));
        }
        Self { lab, names, resolv_conf, client }
    }

    /// The server is back: so is the tunnel, soon, and all is put back in the end.
    fn end(mut self, config: &ServerConfig) {
        let server = self.lab.start_server(config);
        self.client
            .wait(CONNECTED, Duration::from_secs(30))
            .unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        self.lab.ping("192.0.2.1").unwrap();
        // Past the tunnel nothing was asked for but the server.
        let asked = self.names.asked.lock().unwrap().clone();
        assert!(asked.iter().all(|name| name == NAME), "{asked:?}");
        let ending = self.client.stop(Signal::SIGTERM);
        assert_eq!(ending.code, Some(0), "{}", ending.transcript);
        let put_back = std::fs::read_to_string(&self.resolv_conf).unwrap();
        assert_eq!(put_back, format!("nameserver {NAME_SERVER}\n"));
    }
}

fn redirecting(address: &str) -> ServerConfig {
    // The last `local` counts.
    let extra = format!(
        "local {address}\npush \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\n"
    );
    ServerConfig { extra, ..plain(Version::V26, Transport::Udp4) }
}

#[test]
fn a_server_that_comes_back() {
    let config = redirecting(HOME);
    Outage::begin(&config).end(&config);
}

#[test]
fn a_server_that_comes_back_elsewhere() {
    let outage = Outage::begin(&redirecting(HOME));
    outage.names.moved_to(ELSEWHERE);
    outage.end(&redirecting(ELSEWHERE));
}

/// Nobody can be asked: the address from before is tried.
#[test]
fn a_server_that_comes_back_before_its_name_server_does() {
    let config = redirecting(HOME);
    let outage = Outage::begin(&config);
    outage.names.stop.store(true, Ordering::Relaxed);
    outage.end(&config);
}
