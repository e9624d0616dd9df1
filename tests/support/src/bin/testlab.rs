//! Certificates, and two machines with a wire between them, for scripts.

#![allow(clippy::panic, reason = "what cannot be made is told by a panic, as in the library")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use ovpn_test_support::netns::{NetNs, connect, remove};
use ovpn_test_support::pki::{Authority, Validity};

/// Certificates, and two machines with a wire between them, for scripts
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes ca.crt, server.crt, server.key, client.crt and client.key into a directory,
    /// server-revoked.crl and client-revoked.crl, and other.crt of an authority that has signed none
    /// of it
    Pki {
        /// Made if it is not there
        directory: PathBuf,
    },
    /// Makes two network namespaces, joined by a veth pair, that stay until they are removed
    Wire(Wire),
    /// Removes network namespaces; those that are not there are passed over
    Remove {
        /// As in `ip netns`
        names: Vec<String>,
    },
}

#[derive(Args)]
struct Wire {
    /// Name of the client's namespace
    client: String,
    /// Name of the server's namespace
    server: String,
    /// Name of both ends of the wire
    #[arg(long, default_value = "eth0")]
    link: String,
    /// Address of the client's end
    #[arg(long, value_name = "ADDRESS/BITS")]
    at_client: Vec<String>,
    /// Address of the server's end
    #[arg(long, value_name = "ADDRESS/BITS")]
    at_server: Vec<String>,
    /// Address on the server's loopback
    #[arg(long, value_name = "ADDRESS/BITS")]
    behind_server: Vec<String>,
    /// The client's default route goes to this address
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// Neither end gets an IPv6 link-local address
    #[arg(long)]
    no_link_local: bool,
}

fn main() {
    // Where in the source it was helps nobody here.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("testlab: {}", info.payload_as_str().unwrap_or("failed"));
    }));
    match Arguments::parse().command {
        Command::Pki { directory } => pki(&directory),
        Command::Wire(wire) => wire.make(),
        Command::Remove { names } => names.iter().for_each(|name| remove(name)),
    }
}

fn pki(directory: &Path) {
    std::fs::create_dir_all(directory)
        .unwrap_or_else(|e| panic!("directory {}: {e}", directory.display()));
    let authority = Authority::new("Test CA");
    let server = authority.server("server", Validity::Now);
    let client = authority.client("client", Validity::Now);
    for (name, text, mode) in [
        ("ca.crt", &authority.certificate(), 0o644),
        ("other.crt", &Authority::new("Test other").certificate(), 0o644),
        ("server-revoked.crl", &authority.revocation_list(&[server.serial]), 0o644),
        ("client-revoked.crl", &authority.revocation_list(&[client.serial]), 0o644),
        ("server.crt", &server.certificate, 0o644),
        ("server.key", &server.key, 0o600),
        ("client.crt", &client.certificate, 0o644),
        ("client.key", &client.key, 0o600),
    ] {
        let path = directory.join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

impl Wire {
    fn make(&self) {
        let (client, server) = (NetNs::named(&self.client), NetNs::named(&self.server));
        if self.no_link_local {
            for namespace in [&client, &server] {
                // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
                namespace.sysctl("net/ipv6/conf/default/addr_gen_mode", "1");
            }
        }
        connect(&client, &self.link, &server, &self.link);
        for address in &self.at_client {
            client.add_address(&self.link, address);
        }
        for address in &self.at_server {
            server.add_address(&self.link, address);
        }
        for address in &self.behind_server {
            server.add_address("lo", address);
        }
        if let Some(gateway) = &self.gateway {
            client.add_route("default", Some(gateway), Some(&self.link));
        }
        client.keep();
        server.keep();
    }
}
