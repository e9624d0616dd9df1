//! The machine changes under a running tunnel.

use ovpn_dco::kernel::{Api, Family, KernelDataChannel, LinkName, Status, probe};
use ovpn_dco::{Cipher, DataChannel, DataEvent, Error, Keepalive};

use crate::support::{
    Pair, SECOND, Transport, create, event, guest, keys, namespaces, sh, silence,
};

fn module(api: Api) -> &'static str {
    match api {
        Api::Ovpn => "ovpn",
        Api::OvpnDcoV2 => "ovpn-dco-v2",
    }
}

/// Somebody deletes the link.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn link_pulled() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        pair.ping();
        let name = pair.client.channel.interface().name.clone();
        pair.client.ns.delete_link(&name);
        // The peer goes with its link; that the link went is what counts.
        let told = event(&mut pair.client.channel, 5 * SECOND).await;
        assert!(matches!(&told, DataEvent::Failed(why) if why.contains(&name)), "{told:?}");
        let error = pair.client.channel.stats().await.unwrap_err();
        assert!(matches!(error, Error::Closed), "{error}");
        silence(&mut pair.client.channel, SECOND).await;
        pair.close().await;
    });
}

/// The module is removed under traffic: the kernel says nothing but that the link is gone. Loaded
/// again, it has other numbers, and a new channel works.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn module_unloaded() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        let [server, _] = pair.server.inner;
        let mut ping = pair
            .client
            .ns
            .command("ping")
            .args(["-q", "-f", "-w", "3"])
            .arg(server.to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(SECOND).await;
        sh(&format!("rmmod {}", module(api)));
        for side in [&mut pair.client, &mut pair.server] {
            let told = event(&mut side.channel, 5 * SECOND).await;
            assert!(matches!(told, DataEvent::Failed(_)), "{told:?}");
        }
        ping.wait().unwrap();
        pair.close().await;
        drop(sockets);

        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        pair.ping();
        pair.close().await;
    });
}

/// Runs something while the kernel cannot load modules.
async fn without_modprobe<T>(body: impl Future<Output = T>) -> T {
    let path = "/proc/sys/kernel/modprobe";
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, "/bin/false").unwrap();
    let result = body.await;
    std::fs::write(path, before.trim()).unwrap();
    result
}

/// No module: a clear error, and no link.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn module_absent() {
    guest(|api| async move {
        sh(&format!("rmmod {} || true", module(api)));
        without_modprobe(async {
            let error =
                KernelDataChannel::create(api, LinkName::from_dev("tun")).await.unwrap_err();
            assert!(matches!(error, Error::NoSuchFamily { family } if family == api.name()));
            let report = probe();
            assert!(report.apis.iter().all(|api| api.status == Status::NoModule && !api.loaded));
        })
        .await;
        // And with it the module is loaded on demand.
        Family::resolve(api).unwrap();
    });
}

/// The cipher's module is missing: told apart from a missing peer.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn cipher_absent() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.peers(&sockets, Keepalive::default()).await;
        sh("rmmod chacha20poly1305 2>/dev/null || true");
        let (key, _) = keys(Cipher::ChaCha20Poly1305, 0);
        let channel = &mut pair.client.channel;
        let refused = without_modprobe(channel.install(key)).await.unwrap_err();
        let error = refused.error;
        assert!(
            matches!(&error, Error::Unsupported { what, by }
                if what.contains("CHACHA20-POLY1305") && *by == api.name()),
            "{error}"
        );
        // The peer is as it was, and with the module there it works.
        channel.install(*refused.key.unwrap()).await.unwrap();
        pair.close().await;
    });
}

/// A channel that failed is closed without complaint, and its place is free.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn closing_what_is_gone() {
    guest(|api| async move {
        let (ns, _other) = namespaces();
        let channel = create(&ns, api, LinkName::from_dev("tun")).await;
        ns.delete_link("tun0");
        channel.close().await.unwrap();
        let channel = create(&ns, api, LinkName::from_dev("tun")).await;
        assert_eq!(channel.interface().name, "tun0");
        channel.close().await.unwrap();
    });
}
