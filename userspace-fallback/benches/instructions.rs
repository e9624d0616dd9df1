//! The data path's own work, for a tool that counts instructions: `ci/bench --instructions` runs it
//! under callgrind with two numbers of batches, and the difference is free of start-up and noise.
//!
//!     instructions up|down BATCHES
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

mod pipeline;

use ovpn_dco::Cipher;
use ovpn_userspace::offload::coalesce::{Coalescer, Config};
use ovpn_userspace::offload::split::Plan;
use pipeline::{SEGMENTS, peer, receive, send, super_packet};

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (Some(direction), Some(batches)) = (arguments.next(), arguments.next()) else {
        println!("instructions: run by ci/bench --instructions");
        return;
    };
    let batches: usize = batches.parse().unwrap();
    let (header, packet) = super_packet();
    let plan = Plan::new(&header, &packet).unwrap();
    let (mut sender, mut receiver) = (peer(Cipher::Aes256Gcm), peer(Cipher::Aes256Gcm));
    let config = Config { tcp: true, udp: true, acknowledgements: true };
    let mut coalescer = Coalescer::new(config);
    let mut out = vec![0; 70_000];
    let mut writes = 0;
    for _ in 0..batches {
        let (stride, len) = send(&mut sender, plan, &packet, &mut out);
        if direction == "down" {
            writes += receive(&mut receiver, &mut out[..len], stride, &mut coalescer);
        }
    }
    println!("{direction}: {} packets, {writes} writes", batches * SEGMENTS);
}
