//! Real traffic through two data channels in two network namespaces.

mod common;

use common::{Setup, Tunnel};

const MEGABYTE: usize = 1_000_000;

#[tokio::test]
async fn udp() {
    let tunnel = Tunnel::new(Setup::default()).await;
    tunnel.ping(false, 20, 56);
    tunnel.ping(true, 20, 1300);
    for v6 in [false, true] {
        tunnel.stream(true, v6, 20 * MEGABYTE);
        tunnel.stream(false, v6, 20 * MEGABYTE);
    }
    println!("{:?}", tunnel.a.counters());
}

#[tokio::test]
async fn tcp() {
    let tunnel = Tunnel::new(Setup { tcp: true, ..Setup::default() }).await;
    tunnel.ping(false, 20, 56);
    for v6 in [false, true] {
        tunnel.stream(true, v6, 20 * MEGABYTE);
        tunnel.stream(false, v6, 20 * MEGABYTE);
    }
    println!("{:?}", tunnel.a.counters());
}
