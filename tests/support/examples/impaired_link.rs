//! Two machines with a bad wire between them, and what it does to packets. As root:
//!
//!     cargo run -p ovpn-test-support --example impaired_link

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use ovpn_test_support::netns::{Impairment, NetNs, connect_impaired};

const PACKETS: u32 = 500;

fn main() {
    let (near, far) = (NetNs::new("example"), NetNs::new("example"));
    let impairment = Impairment {
        loss: 0.05,
        delay: Duration::from_millis(10),
        seed: 1,
        ..Impairment::default()
    };
    // The wire works as long as this lives.
    let wire = connect_impaired(&near, "eth0", &far, "eth0", impairment);
    near.add_address("eth0", "192.0.2.1/24");
    far.add_address("eth0", "192.0.2.2/24");

    let echo = far.run(|| UdpSocket::bind("192.0.2.2:7").unwrap());
    echo.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], from);
        }
    });

    let socket = near.run(|| UdpSocket::bind("192.0.2.1:0").unwrap());
    socket.connect("192.0.2.2:7").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut round_trips = Vec::new();
    for number in 0..PACKETS {
        let sent = Instant::now();
        socket.send(&number.to_be_bytes()).unwrap();
        let mut answer = [0; 4];
        if socket.recv(&mut answer).is_ok() && answer == number.to_be_bytes() {
            round_trips.push(sent.elapsed());
        }
    }
    round_trips.sort_unstable();
    let lost = PACKETS - u32::try_from(round_trips.len()).unwrap();
    let by = if wire.is_netem() { "netem" } else { "two TAP devices and a thread" };
    println!("wire: {by}, {impairment:?}");
    println!("{lost} of {PACKETS} echoes lost; 5 % each way make about {}", PACKETS / 10);
    if let Some(median) = round_trips.get(round_trips.len() / 2) {
        println!("median round trip {median:?}; 10 ms each way make a little more than 20 ms");
    }
}
