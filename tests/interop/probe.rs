//! A stream of small UDP packets through the tunnel and back, numbered and timed; and what of it
//! shows up outside.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Lab;
use crate::netns::NetNs;

const PORT: u16 = 5005;
/// Behind the server, and in its routes.
const TARGET: &str = "192.0.2.1";

/// Runs until it is dropped from the scope that [`Probe::run`] makes.
pub(crate) struct Probe {
    /// In the server's namespace, for what comes out of the tunnel.
    echo: UdpSocket,
    /// There, for what comes over the wire in the clear.
    wire: Vec<UdpSocket>,
    client: UdpSocket,
    interval: Duration,
    stop: AtomicBool,
    sent: AtomicU64,
    outside: AtomicUsize,
    /// When each echo came, and its number.
    echoes: Mutex<Vec<(Instant, u64)>>,
}

impl Probe {
    /// `wires`: the server's devices towards the client.
    pub(crate) fn new(lab: &Lab, wires: &[&str]) -> Self {
        let bound = |ns: &NetNs, device: Option<&str>, port: u16| {
            ns.run(|| -> std::io::Result<UdpSocket> {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
                socket.set_reuse_address(true)?;
                socket.bind_device(device.map(str::as_bytes))?;
                socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
                socket.set_read_timeout(Some(Duration::from_millis(20)))?;
                Ok(socket.into())
            })
            .expect("a socket of the probe")
        };
        Self {
            echo: bound(&lab.server_ns, None, PORT),
            wire: wires.iter().map(|wire| bound(&lab.server_ns, Some(wire), PORT)).collect(),
            client: bound(&lab.client_ns, None, 0),
            interval: interval(),
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            outside: AtomicUsize::new(0),
            echoes: Mutex::default(),
        }
    }

    /// Runs `body` while the stream runs.
    pub(crate) fn run(&self, body: impl FnOnce()) {
        std::thread::scope(|scope| {
            scope.spawn(|| self.send());
            scope.spawn(|| self.answer());
            scope.spawn(|| self.listen());
            for wire in &self.wire {
                scope.spawn(move || self.watch(wire));
            }
            let _stop = StopOnDrop(&self.stop);
            body();
        });
    }

    fn going_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn send(&self) {
        while self.going_on() {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            // Unreachable is an answer like another.
            let _ = self.client.send_to(&number.to_be_bytes(), (TARGET, PORT));
            std::thread::sleep(self.interval);
        }
    }

    fn answer(&self) {
        let mut buffer = [0; 16];
        while self.going_on() {
            if let Ok((length, from)) = self.echo.recv_from(&mut buffer) {
                let _ = self.echo.send_to(&buffer[..length], from);
            }
        }
    }

    fn watch(&self, wire: &UdpSocket) {
        let mut buffer = [0; 16];
        while self.going_on() {
            if wire.recv(&mut buffer).is_ok() {
                self.outside.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn listen(&self) {
        let mut buffer = [0; 8];
        while self.going_on() {
            if let Ok(8) = self.client.recv(&mut buffer) {
                let echo = (Instant::now(), u64::from_be_bytes(buffer));
                self.echoes.lock().unwrap().push(echo);
            }
        }
    }

    /// Waits until packets sent from now on come back: how long after `since` the first of them was
    /// sent or came, whichever took longer, and how many were lost meanwhile. Longer than the limit
    /// fails.
    pub(crate) fn recovers(&self, since: Instant, limit: Duration) -> Result<Duration, String> {
        let from = self.sent.load(Ordering::Relaxed);
        loop {
            let found = {
                let echoes = self.echoes.lock().unwrap();
                echoes.iter().rev().take_while(|(_, n)| *n >= from).last().copied()
            };
            if let Some((at, _)) = found {
                return Ok(self.longest_gap(since, at));
            }
            if since.elapsed() > limit {
                return Err(format!("nothing comes back for {limit:?}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The longest time without an echo between the last one before `since` and the one at `until`.
    fn longest_gap(&self, since: Instant, until: Instant) -> Duration {
        let echoes = self.echoes.lock().unwrap();
        let before = echoes.iter().rev().map(|(at, _)| *at).find(|at| *at < since);
        let within = echoes.iter().map(|(at, _)| *at).filter(|at| (since..=until).contains(at));
        let times: Vec<Instant> = before.into_iter().chain(within).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// How many of the packets between the first echo and the last one have none.
    pub(crate) fn missing(&self) -> u64 {
        let echoes = self.echoes.lock().unwrap();
        let numbers = || echoes.iter().map(|(_, number)| *number);
        let span = numbers().max().zip(numbers().min()).map_or(0, |(last, first)| last - first + 1);
        span.saturating_sub(echoes.len() as u64)
    }

    /// How many packets have shown up outside the tunnel since this was asked last.
    pub(crate) fn outside(&self) -> usize {
        self.outside.swap(0, Ordering::Relaxed)
    }
}

/// Between two packets: 2 ms, unless `OVPN_TEST_PROBE_INTERVAL` says another number of milliseconds. Where
/// all is emulated, a server in user space cannot read as many, and would drop what is counted as lost.
fn interval() -> Duration {
    let other = std::env::var("OVPN_TEST_PROBE_INTERVAL").ok();
    Duration::from_millis(other.map_or(2, |text| text.parse().expect("milliseconds")))
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
