//! One end of a tunnel with fixed keys and no control channel: the data path and nothing else.
//!
//! For benchmarks only. The keys are in the source, so this protects nothing. Run it once with and
//! once without `--mirrored`, configure the two TUN devices, and measure. Ends on SIGTERM or SIGINT
//! and prints its counters.
#![allow(clippy::print_stdout, reason = "a program for people and scripts")]

use std::error::Error;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use clap::Parser;
use ovpn_dco::{
    Cipher, DataChannel, DirectionKey, Keepalive, KeyConfig, KeyId, PeerConfig, PeerId,
    TransportSocket,
};
use ovpn_userspace::{Options, TunDevice, TunOptions, UserspaceDataChannel};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Arguments {
    /// Name of the TUN device.
    device: String,
    /// Address to bind to.
    local: SocketAddr,
    /// Address to connect to.
    remote: SocketAddr,
    /// Be the other end: keys exchanged, and with `--tcp` the one that listens.
    #[arg(long)]
    mirrored: bool,
    /// TCP in place of UDP.
    #[arg(long)]
    tcp: bool,
    #[arg(long, default_value = "AES-256-GCM")]
    cipher: String,
    /// Handle one packet at a time, as OpenVPN servers do.
    #[arg(long)]
    plain: bool,
    #[arg(long)]
    no_vnet_header: bool,
    #[arg(long)]
    no_uso: bool,
    #[arg(long)]
    no_gso: bool,
    #[arg(long)]
    no_gro: bool,
    #[arg(long)]
    no_coalesce: bool,
}

fn key(cipher: Cipher, mirrored: bool) -> Option<KeyConfig> {
    let direction = |n: u8| DirectionKey::new(cipher, &[n; 32], [n; 8]);
    let (encrypt, decrypt) = if mirrored { (2, 1) } else { (1, 2) };
    Some(KeyConfig {
        key_id: KeyId::FIRST,
        cipher,
        encrypt: direction(encrypt)?,
        decrypt: direction(decrypt)?,
    })
}

fn socket(arguments: &Arguments) -> std::io::Result<TransportSocket> {
    if !arguments.tcp {
        let socket = UdpSocket::bind(arguments.local)?;
        socket.connect(arguments.remote)?;
        return Ok(TransportSocket::Udp(socket.into()));
    }
    if arguments.mirrored {
        let (stream, _) = TcpListener::bind(arguments.local)?.accept()?;
        return Ok(TransportSocket::Tcp(stream.into()));
    }
    for _ in 0..50 {
        if let Ok(stream) = TcpStream::connect(arguments.remote) {
            return Ok(TransportSocket::Tcp(stream.into()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(std::io::ErrorKind::TimedOut.into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let cipher = Cipher::from_name(&arguments.cipher).ok_or("unknown cipher")?;
    let (tun_options, options) = if arguments.plain {
        (TunOptions { vnet_header: false, tcp: false, udp: false }, Options::PLAIN)
    } else {
        let tun = TunOptions {
            vnet_header: !arguments.no_vnet_header,
            tcp: true,
            udp: !arguments.no_uso,
        };
        let options = Options {
            gso: !arguments.no_gso,
            gro: !arguments.no_gro,
            coalesce_tcp: !arguments.no_coalesce,
            coalesce_udp: !arguments.no_coalesce,
            supersede_acknowledgements: !arguments.no_coalesce,
        };
        (tun, options)
    };
    let tun = TunDevice::create(&arguments.device, tun_options)?;
    let peer = PeerConfig {
        id: PeerId::new(1),
        socket: socket(&arguments)?,
        remote: arguments.remote,
        local: None,
        keepalive: Keepalive::default(),
    };
    let mut channel = UserspaceDataChannel::new(tun, options)?;
    let _control = channel.new_peer(peer).await?;
    let key = key(cipher, arguments.mirrored).ok_or("no key")?;
    channel.install(key).await?;
    println!("ready");

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        event = channel.next_event() => println!("{event:?}"),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    println!("{:?}", channel.counters());
    println!("{:?}", channel.stats().await);
    channel.close().await?;
    Ok(())
}
