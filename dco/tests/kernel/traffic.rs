//! Packets through the tunnel.

use std::time::Duration;

use ovpn_dco::kernel::{Api, Device, Family, LinkName};
use ovpn_dco::{Cipher, DataChannel, Error, Keepalive, KeyId, KeySlot};

use crate::support::{
    Pair, SECOND, Transport, create, guest, inside, keys, namespaces, sh, silence,
};

/// Kernel against kernel: both transports, both families outside and inside, every cipher.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn every_transport_family_and_cipher() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        for transport in [Transport::Udp, Transport::Tcp] {
            for v6 in [false, true] {
                for cipher in Cipher::AEAD {
                    let sockets = pair.sockets(transport, v6);
                    pair.up(&sockets, cipher).await;
                    pair.ping();
                    let stats = pair.client.channel.stats().await.unwrap();
                    assert!(
                        stats.vpn_tx_packets >= 6 && stats.vpn_rx_packets >= 6,
                        "{transport:?} v6={v6} {cipher}: {stats:?}"
                    );
                    // Sent packets are counted before there is a key; received ones are not.
                    let overhead = stats.link_rx_bytes - stats.vpn_rx_bytes;
                    assert_eq!(overhead, 24 * stats.link_rx_packets, "{stats:?}");
                    pair.client.channel.del_peer().await.unwrap();
                    pair.server.channel.del_peer().await.unwrap();
                }
            }
        }
        silence(&mut pair.client.channel, SECOND).await;
        pair.close().await;
    });
}

/// Another key every 100 ms under flood ping; nothing is lost.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn promoting_keys_loses_nothing() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        let [server, _] = pair.server.inner;
        let mut ping = pair
            .client
            .ns
            .command("ping")
            // Counted, not timed: it waits for the last answer.
            .args(["-q", "-i", "0.002", "-c", "5000", "-s", "1000", "-W", "3"])
            .arg(server.to_string())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (mut changes, mut old) = (0, KeyId::FIRST);
        while ping.try_wait().unwrap().is_none() {
            changes += 1;
            let id = old.next();
            // As a renegotiation does it: both sides can decrypt with the new key before either
            // encrypts with it.
            pair.key(Cipher::Aes256Gcm, id.get()).await;
            pair.client.channel.promote(id).await.unwrap();
            pair.server.channel.promote(id).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            pair.client.channel.retire(old).await.unwrap();
            pair.server.channel.retire(old).await.unwrap();
            old = id;
        }
        let output = ping.wait_with_output().unwrap();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.contains(" 0% packet loss"), "{changes} changes: {output}");
        assert!(changes > 20, "only {changes} changes");
        pair.close().await;
    });
}

/// What the kernel counts per peer, per interface, and what we say.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn counters_agree() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes128Gcm).await;
        let [server, _] = pair.server.inner;
        pair.client.ns.sh(&format!("ping -q -c 50 -i 0.01 -s 1000 -W 2 {server}"));
        let ours = pair.client.channel.stats().await.unwrap();
        let theirs = pair.server.channel.stats().await.unwrap();
        let kernel = pair.client.channel.peer_info().await.unwrap().stats;
        assert_eq!(ours, kernel);
        // What one side sends the other receives.
        assert_eq!(ours.link_tx_packets, theirs.link_rx_packets);
        assert_eq!(ours.link_tx_bytes, theirs.link_rx_bytes);
        assert!(ours.vpn_tx_bytes >= 50 * 1028 && ours.vpn_tx_bytes < 53 * 1028, "{ours:?}");
        let name = &pair.client.channel.interface().name;
        let statistics = format!("cat /sys/class/net/{name}/statistics/rx_packets");
        // sysfs shows the namespace it was mounted in.
        let rx = pair.client.ns.sh(&format!("mount -t sysfs sys /sys; {statistics}"));
        let rx: u64 = rx.trim().parse().unwrap();
        assert_eq!(rx, ours.vpn_rx_packets);
        pair.close().await;
    });
}

/// Sent at the promised time, not delivered, and what keeps a silent tunnel alive.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn keepalive_keeps_alive() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.peers(&sockets, Keepalive { interval: 1, timeout: 3 }).await;
        pair.key(Cipher::Aes256Gcm, 0).await;
        silence(&mut pair.client.channel, 6 * SECOND).await;
        let stats = pair.client.channel.stats().await.unwrap();
        let delivered = match api {
            Api::Ovpn => stats.vpn_rx_packets,
            // This one counts them as delivered.
            Api::OvpnDcoV2 => 0,
        };
        assert!(stats.link_rx_packets >= delivered + 3, "{stats:?}");
        pair.close().await;
    });
}

/// The contract with and without keys.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn slots() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        let [server, _] = pair.server.inner;
        pair.peers(&sockets, Keepalive::default()).await;
        let ping = format!("ping -q -c 1 -W 1 {server}");
        assert!(!pair.client.ns.succeeds(&ping), "nothing is sent without a key");
        let id = |n| KeyId::new(n).unwrap();
        pair.client.channel.retire(id(0)).await.unwrap();

        // A key that waits decrypts but does not encrypt.
        let (other, _) = keys(Cipher::Aes256Gcm, 5);
        pair.server.channel.install(other).await.unwrap();
        pair.key(Cipher::Aes256Gcm, 1).await;
        assert!(!pair.client.ns.succeeds(&ping));
        let stats = pair.server.channel.stats().await.unwrap();
        assert!(stats.vpn_rx_packets >= 1, "{stats:?}");
        pair.server.channel.promote(id(1)).await.unwrap();
        pair.client.ns.sh(&ping);
        let there = pair.server.channel.keys().await.unwrap();
        assert_eq!([there.sending(), there.opening()], [Some(id(1)), Some(id(5))]);

        // A key in place of its namesake starts over at packet id 1.
        pair.key(Cipher::ChaCha20Poly1305, 1).await;
        pair.client.ns.sh(&ping);
        // To exchange an empty slot would leave nothing to send with.
        let missing = pair.client.channel.promote(id(2)).await.unwrap_err();
        assert!(matches!(missing, Error::NoSuchKey(key) if key == id(2)), "{missing}");
        pair.client.ns.sh(&ping);
        // Not even when somebody else has emptied it: where the slot can be looked at.
        let (waiting, _) = keys(Cipher::Aes256Gcm, 2);
        pair.client.channel.install(waiting).await.unwrap();
        let index = pair.client.channel.interface().index;
        let open = async { Device::open(Family::resolve(api).unwrap(), index).unwrap() };
        let mut device = inside(&pair.client.ns, open).await;
        device.del_key(crate::support::PEER, KeySlot::Secondary).unwrap();
        let promoted = pair.client.channel.promote(id(2)).await;
        match api {
            Api::Ovpn => {
                let missing = promoted.unwrap_err();
                assert!(matches!(missing, Error::NoSuchKey(key) if key == id(2)), "{missing}");
                pair.client.ns.sh(&ping);
                // Where nothing sends, a waiting key's successor of the same id is alone.
                for retired in [None, Some(id(1))] {
                    if let Some(retired) = retired {
                        pair.client.channel.retire(retired).await.unwrap();
                    }
                    let (key, _) = keys(Cipher::Aes256Gcm, 2);
                    pair.client.channel.install(key).await.unwrap();
                }
                let there = |slot| device.key(crate::support::PEER, slot).unwrap();
                let there = [KeySlot::Primary, KeySlot::Secondary].map(there);
                assert_eq!(there.map(|key| key.map(|key| key.key_id)), [Some(id(2)), None]);
            }
            Api::OvpnDcoV2 => {
                promoted.unwrap();
                assert!(!pair.client.ns.succeeds(&ping));
            }
        }
        pair.close().await;
    });
}

/// The example of the crate's documentation.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn the_example_works() {
    guest(|_| async {
        let output = sh("./two_peers 2>&1");
        assert!(output.contains(" 0% packet loss"), "{output}");
    });
}

/// What the commands of the lower level answer, with the kernel's words.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn refusals_are_explained() {
    guest(|api| async move {
        let (client, _server) = namespaces();
        let channel = create(&client, api, LinkName::from_dev("tun")).await;
        let index = channel.interface().index;
        let socket = client.run(|| std::net::UdpSocket::bind("10.99.0.2:1194").unwrap());
        let open =
            |index| async move { Device::open(Family::resolve(api).unwrap(), index).unwrap() };
        let mut device = inside(&client, open(index)).await;
        let new = ovpn_dco::kernel::NewPeer {
            id: crate::support::PEER,
            socket: std::os::fd::AsFd::as_fd(&socket),
            remote: None,
            local: None,
            vpn_ipv4: None,
            vpn_ipv6: None,
            tx_id: None,
        };
        let error = device.new_peer(&new).unwrap_err();
        match (&error, api) {
            (Error::Kernel { errno: libc::EINVAL, message: Some(text), .. }, Api::Ovpn) => {
                assert!(text.contains("ovpn:"), "{text}");
            }
            (Error::Kernel { errno: libc::EINVAL, .. }, Api::OvpnDcoV2) => {}
            (other, _) => panic!("{other}"),
        }
        // A socket of the wrong kind.
        let file = std::fs::File::open("/dev/null").unwrap();
        let remote = Some("10.99.0.1:1194".parse().unwrap());
        let wrong =
            ovpn_dco::kernel::NewPeer { socket: std::os::fd::AsFd::as_fd(&file), remote, ..new };
        let error = device.new_peer(&wrong).unwrap_err();
        assert!(matches!(error, Error::Kernel { errno: libc::ENOTSOCK, .. }), "{error}");
        // No such link here: it is in the other namespace.
        let mut elsewhere = open(index).await;
        let error = elsewhere.new_peer(&ovpn_dco::kernel::NewPeer { remote, ..new }).unwrap_err();
        assert!(
            matches!(error, Error::Kernel { errno: libc::ENODEV | libc::EINVAL, .. }),
            "{error}"
        );

        device.new_peer(&ovpn_dco::kernel::NewPeer { remote, ..new }).unwrap();
        let peers = device.peers().unwrap();
        let info = device.peer(crate::support::PEER).unwrap();
        assert_eq!(info.remote, remote);
        assert_eq!(info.local_port, Some(1194));
        let (key, _) = keys(Cipher::Aes192Gcm, 3);
        device.new_key(crate::support::PEER, KeySlot::Secondary, &key).unwrap();
        match api {
            Api::Ovpn => {
                assert_eq!(peers, [info]);
                let key = device.key(crate::support::PEER, KeySlot::Secondary).unwrap().unwrap();
                assert_eq!(key.key_id.get(), 3);
                assert_eq!(device.key(crate::support::PEER, KeySlot::Primary).unwrap(), None);
            }
            Api::OvpnDcoV2 => {
                assert_eq!(peers, [], "this module lists nothing in point-to-point mode");
                let error = device.key(crate::support::PEER, KeySlot::Secondary).unwrap_err();
                assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            }
        }
        device.del_peer(crate::support::PEER).unwrap();
        let error = device.del_peer(crate::support::PEER).unwrap_err();
        assert!(matches!(error, Error::NoSuchPeer), "{error}");
        channel.close().await.unwrap();
    });
}

/// What the machine is said to offer is what it offers.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn the_probe_is_right() {
    guest(|api| async move {
        let report = ovpn_dco::kernel::probe();
        assert_eq!(report.ready(), Some(api), "{report:?}");
        assert_eq!(report.kernel, sh("uname -r").trim());
        let report = report.apis.into_iter().find(|r| r.api == api).unwrap();
        assert!(report.loaded);
        match api {
            // The guest's kernel is newer than 7.1.
            Api::Ovpn => assert!(matches!(
                report.status,
                ovpn_dco::kernel::Status::Ready(features) if features.tx_id_and_float
            )),
            Api::OvpnDcoV2 => assert!(report.version.is_some()),
        }
    });
}
