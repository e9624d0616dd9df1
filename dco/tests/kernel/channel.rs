//! Life of a channel: peers come, are replaced, expire, move; links are created and removed.

use std::process::{Command, Stdio};
use std::time::Duration;

use ovpn_dco::kernel::{Api, Device, Family, KernelDataChannel, LinkName, Links, Mode};
use ovpn_dco::{
    Cipher, DataChannel, DataEvent, Error, Keepalive, KeyId, PeerDeletedReason, PeerId,
    TransportSocket,
};

use crate::netns::NetNs;
use crate::support::{
    PEER, Pair, SECOND, Transport, create, event, guest, inside, keys, namespaces, sh, silence,
};

/// Without a peer every command says so, and nothing reaches the kernel.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn commands_without_a_peer() {
    guest(|api| async move {
        let (ns, _other) = namespaces();
        let mut channel = create(&ns, api, LinkName::from_dev("tun")).await;
        assert_eq!(channel.interface().name, "tun0");
        assert_eq!(channel.interface().index, ns.link_index("tun0").unwrap());
        let (key, _) = keys(Cipher::Aes256Gcm, 0);
        for error in [
            channel.install(key).await.unwrap_err().into(),
            channel.promote(KeyId::FIRST).await.unwrap_err(),
            channel.retire(KeyId::FIRST).await.unwrap_err(),
            channel.keys().await.unwrap_err(),
            channel.stats().await.unwrap_err(),
            channel.del_peer().await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::NoSuchPeer), "{error}");
        }
        let error = channel.notify_exit().await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        channel.close().await.unwrap();
        assert_eq!(ns.link_index("tun0"), None);
    });
}

/// What the kernel cannot do is refused before it is asked.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn what_the_kernel_cannot_do() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        let config = || sockets.config(false, Keepalive::default());
        let channel = &mut pair.client.channel;
        let mut v1 = config();
        v1.id = None;
        let error = channel.new_peer(v1).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { by, .. } if by == api.name()), "{error}");
        // An unbound socket would send from port 0.
        if api == Api::Ovpn {
            let mut unbound = config();
            let socket = pair.client.ns.run(|| {
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap()
            });
            unbound.socket = TransportSocket::Udp(socket.into());
            let error = channel.new_peer(unbound).await.unwrap_err();
            assert!(error.to_string().contains("not bound"), "{error}");
        }
        pair.close().await;
    });
}

/// Replacing and deleting a peer yourself tells nothing; the replaced one's keys are gone.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn own_deletions_are_silent() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        pair.ping();
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tcp, Transport::Udp] {
            let sockets = pair.sockets(transport, true);
            pair.up(&sockets, Cipher::Aes128Gcm).await;
            let stats = pair.client.channel.stats().await.unwrap();
            assert!(stats.vpn_tx_packets < 20, "counters start anew: {stats:?}");
            pair.ping();
        }
        silence(&mut pair.client.channel, SECOND).await;
        pair.client.channel.del_peer().await.unwrap();
        let error = pair.client.channel.promote(KeyId::FIRST).await.unwrap_err();
        assert!(matches!(error, Error::NoSuchPeer), "{error}");
        silence(&mut pair.client.channel, SECOND).await;
        pair.close().await;
    });
}

/// A peer of the same socket, over and over: what is told late about an old one is not taken for
/// the new one.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn quick_replacement() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        for _ in 0..100 {
            pair.client.new_peer(&sockets, Keepalive { interval: 10, timeout: 60 }).await;
        }
        silence(&mut pair.client.channel, SECOND).await;
        pair.client.channel.stats().await.unwrap();
        pair.close().await;
    });
}

/// Nobody answers: the peer expires, once, and commands know it.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn expiry() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        // Once with both timers, once with the timeout alone, which the in-tree module would
        // ignore if it were sent as it is.
        for interval in [1, 0] {
            let keepalive = Keepalive { interval, timeout: 2 };
            pair.client.new_peer(&sockets, keepalive).await;
            let (key, _) = keys(Cipher::Aes256Gcm, 0);
            pair.client.channel.install(key).await.unwrap();
            let told = event(&mut pair.client.channel, 10 * SECOND).await;
            assert_eq!(told, DataEvent::PeerDeleted(PeerDeletedReason::Expired));
            let error = pair.client.channel.stats().await.unwrap_err();
            assert!(matches!(error, Error::NoSuchPeer), "{error}");
            silence(&mut pair.client.channel, SECOND).await;
        }
        pair.close().await;
    });
}

/// Deleted by another process.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn deleted_by_somebody_else() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        let index = pair.client.channel.interface().index;
        let open = async { Device::open(Family::resolve(api).unwrap(), index).unwrap() };
        let mut device = inside(&pair.client.ns, open).await;
        device.del_peer(PEER).unwrap();
        // A command before the event is read: no such peer, and the event still comes.
        let error = pair.client.channel.stats().await.unwrap_err();
        assert!(matches!(error, Error::NoSuchPeer), "{error}");
        let told = event(&mut pair.client.channel, 5 * SECOND).await;
        assert_eq!(told, DataEvent::PeerDeleted(PeerDeletedReason::Userspace));
        pair.close().await;
    });
}

/// Somebody uses a link that bears no mark of its owner, as other programs' links do: its peer is
/// not replaced.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn a_link_in_use_is_left_alone() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        let name = pair.client.channel.interface().name.clone();
        pair.client.ns.sh(&format!("ip link set {name} alias office"));
        let create = KernelDataChannel::create(api, LinkName::Exact(name));
        let error = inside(&pair.client.ns, create).await.unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        pair.ping();
        pair.close().await;
    });
}

/// More events than the queue holds: what counts is still told.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn lost_events() {
    guest(|api| async move {
        let mut pair = Pair::new(api).await;
        let sockets = pair.sockets(Transport::Udp, false);
        pair.up(&sockets, Cipher::Aes256Gcm).await;
        // Another link's peers come and go, and their events fill our queue too.
        let noise = inside(&pair.client.ns, async {
            let mut links = Links::open().unwrap();
            let (other, _) = links
                .create(api, &LinkName::Exact("noise".to_owned()), Default::default())
                .unwrap();
            let mut device = Device::open(Family::resolve(api).unwrap(), other.index).unwrap();
            let socket = std::net::UdpSocket::bind("10.99.0.2:9999").unwrap();
            for id in 0..6000 {
                device
                    .new_peer(&ovpn_dco::kernel::NewPeer {
                        id: PeerId::new(100 + id).unwrap(),
                        socket: std::os::fd::AsFd::as_fd(&socket),
                        remote: Some("10.99.0.1:9999".parse().unwrap()),
                        local: None,
                        vpn_ipv4: None,
                        vpn_ipv6: None,
                        tx_id: None,
                    })
                    .unwrap();
            }
            let index = pair.client.channel.interface().index;
            let mut ours = Device::open(Family::resolve(api).unwrap(), index).unwrap();
            ours.del_peer(PEER).unwrap();
            links.delete(other.index).unwrap();
        });
        noise.await;
        // Column `Drops` of the generic netlink sockets.
        let drops = "awk '$2 == 16 { n += $9 } END { print n + 0 }' /proc/net/netlink";
        let lost: u64 = pair.client.ns.sh(drops).trim().parse().unwrap();
        assert!(lost > 0, "the queue held all events");
        let told = event(&mut pair.client.channel, 10 * SECOND).await;
        assert!(matches!(told, DataEvent::PeerDeleted(_)), "{told:?}");
        silence(&mut pair.client.channel, SECOND).await;
        pair.close().await;
    });
}

/// A link under an exact name that is there already is used and kept, if it is of the right kind;
/// a link of another kind is not touched.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn names() {
    guest(|api| async move {
        let ns = NetNs::new("dcon");
        let kind = api.link_kind();
        let exact = |name: &str| LinkName::Exact(name.to_owned());
        ns.sh("ip tuntap add dev tun0 mode tun; ip tuntap add dev office mode tun");
        let error = inside(&ns, KernelDataChannel::create(api, exact("office"))).await.unwrap_err();
        assert!(error.to_string().contains("not a link of kind"), "{error}");
        assert!(ns.link_index("office").is_some());

        // tun0 is taken: the next number.
        let channel = create(&ns, api, LinkName::from_dev("tun")).await;
        assert_eq!(channel.interface().name, "tun1");
        channel.close().await.unwrap();

        ns.sh(&format!("ip link add name kept type {kind}"));
        let index = ns.link_index("kept");
        let channel = create(&ns, api, exact("kept")).await;
        assert_eq!(Some(channel.interface().index), index);
        channel.close().await.unwrap();
        assert_eq!(ns.link_index("kept"), index, "it was not ours to delete");

        // A channel of this process has it.
        let owner = create(&ns, api, exact("mine")).await;
        let error = inside(&ns, KernelDataChannel::create(api, exact("mine"))).await.unwrap_err();
        assert!(error.to_string().contains("mine is in use"), "{error}");
        owner.close().await.unwrap();

        // A server's; the other module does not tell them apart.
        if api == Api::Ovpn {
            let name = exact("hub");
            let links = ns.run(|| Links::open().unwrap().create(api, &name, Mode::MultiPeer));
            links.unwrap();
            let error = inside(&ns, KernelDataChannel::create(api, name)).await.unwrap_err();
            assert!(error.to_string().contains("a link for many peers"), "{error}");
            ns.delete_link("hub");
        }

        let error = inside(&ns, KernelDataChannel::create(api, exact("a/b"))).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        ns.delete_link("kept");

        // Dropping without closing removes the link too.
        drop(create(&ns, api, LinkName::from_dev("tun")).await);
        assert_eq!(ns.link_index("tun1"), None);
    });
}

/// A killed client leaves its link behind; the next one removes it.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn leftovers() {
    guest(|api| async move {
        let ns = NetNs::new("dcol");
        let mut child = ns
            .command(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "channel::child_that_is_killed"])
            .env("DCO_CHILD", "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if ns.succeeds("ip -d link show tun0 | grep -q alias") {
                break;
            }
        }
        // While the owner lives the link is its own.
        let channel = create(&ns, api, LinkName::from_dev("tun")).await;
        assert_eq!(channel.interface().name, "tun1");
        channel.close().await.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ns.link_index("tun0").is_some(), "links outlive their process");
        let channel = create(&ns, api, LinkName::from_dev("tun")).await;
        assert_eq!(channel.interface().name, "tun0");
        channel.close().await.unwrap();
    });
}

/// Not a test of its own: see [`leftovers`].
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn child_that_is_killed() {
    if std::env::var_os("DCO_CHILD").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let name = LinkName::from_dev("tun");
        let _channel = KernelDataChannel::create(crate::support::api(), name).await.unwrap();
        std::future::pending::<()>().await;
    });
}

/// Two hundred times the whole life of a tunnel; nothing accumulates.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn two_hundred_cycles() {
    guest(|api| async move {
        let (client, server) = namespaces();
        let count = || {
            let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
            let sockets = client.sh("ss -Hlnuap | wc -l; ip -o link | wc -l");
            (descriptors, sockets)
        };
        let mut before = None;
        let mut memory = 0;
        for cycle in 0..200 {
            let mut channel = create(&client, api, LinkName::from_dev("tun")).await;
            let socket = client.run(|| {
                let socket = std::net::UdpSocket::bind("10.99.0.2:1194").unwrap();
                socket.connect("10.99.0.1:1194").unwrap();
                socket
            });
            let config = ovpn_dco::PeerConfig {
                id: Some(PEER),
                socket: TransportSocket::Udp(socket.into()),
                remote: "10.99.0.1:1194".parse().unwrap(),
                local: None,
                keepalive: Keepalive { interval: 10, timeout: 60 },
            };
            channel.new_peer(config).await.unwrap();
            let (key, _) = keys(Cipher::Aes256Gcm, 0);
            channel.install(key).await.unwrap();
            channel.close().await.unwrap();
            if cycle == 20 {
                before = Some(count());
                memory = resident();
            }
        }
        assert_eq!(before, Some(count()));
        let grown = resident().saturating_sub(memory);
        assert!(grown < 1024, "{grown} KiB more");
        drop(server);
    });
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// An ordinary user learns what is there, and why it is not for him.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn without_privilege() {
    guest(|_| async {
        use std::os::unix::process::CommandExt;
        // Into a place that everybody can read.
        let program = "/tmp/unprivileged-test";
        std::fs::copy(std::env::current_exe().unwrap(), program).unwrap();
        sh(&format!("chmod 755 {program}"));
        let output = Command::new(program)
            .args(["--ignored", "--exact", "channel::child_without_privilege"])
            .env("DCO_CHILD", "1")
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        std::fs::remove_file(program).unwrap();
    });
}

/// Not a test of its own: see [`without_privilege`].
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn child_without_privilege() {
    if std::env::var_os("DCO_CHILD").is_none() {
        return;
    }
    let api = crate::support::api();
    let report = ovpn_dco::kernel::probe();
    let status = &report.apis.iter().find(|r| r.api == api).unwrap().status;
    assert_eq!(*status, ovpn_dco::kernel::Status::NotPermitted);
    assert_eq!(report.ready(), None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error =
        runtime.block_on(KernelDataChannel::create(api, LinkName::from_dev("tun"))).unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
}
