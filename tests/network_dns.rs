//! The tunnel's DNS given to each kind of resolver, and taken back.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ovpn_client::network::dns::{DnsScope, HostResolver};
use ovpn_client::network::{DirectNetwork, NetcfgConfig, NetworkPlan, PlanInput, RouteQuery};
use ovpn_client::profile::{DnsOptions, DnsSec, DnsServer, DnsTransport, NetworkOptions, Protocol};
use ovpn_dco::Interface;
use ovpn_test_support::bus::{Answer, Bus};
use ovpn_test_support::netns::NetNs;
use ovpn_test_support::{bus, netns};
use tempfile::TempDir;
use zbus::Message;

const RESOLVED: &str = "org.freedesktop.resolve1";

/// A resolver that touches nothing outside `directory`.
fn resolver(directory: &Path) -> HostResolver {
    HostResolver {
        bus: Some(format!("unix:path={}/no-bus", directory.display())),
        program_directories: vec![directory.to_owned()],
        resolv_conf: directory.join("resolv.conf"),
        namespaces: directory.to_owned(),
    }
}

struct Host {
    ns: NetNs,
    _tun: netns::Tun,
    /// The namespace's `resolv.conf`.
    path: PathBuf,
    directory: TempDir,
    resolver: HostResolver,
}

impl Host {
    fn new(resolv_conf: &str) -> Self {
        let ns = NetNs::new("nwn");
        let tun = ns.add_tun("tun7");
        let directory = TempDir::new().unwrap();
        let own = directory.path().join(ns.name());
        fs::create_dir(&own).unwrap();
        let path = own.join("resolv.conf");
        fs::write(&path, resolv_conf).unwrap();
        let resolver = resolver(directory.path());
        Self { ns, _tun: tun, path, directory, resolver }
    }

    fn resolv_conf(&self) -> String {
        let text = fs::read_to_string(&self.path).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    }

    async fn open(&self) -> DirectNetwork {
        DirectNetwork::open_with(&self.directory.path().join("run"), self.resolver.clone())
            .await
            .unwrap()
    }

    fn interface(&self) -> Interface {
        Interface { name: "tun7".to_owned(), index: self.ns.link_index("tun7").unwrap() }
    }

    /// Applies a plan with these DNS options; the warnings.
    async fn apply(
        &self,
        network: &mut DirectNetwork,
        dns: &DnsOptions,
        scope: DnsScope,
    ) -> Vec<String> {
        let query = RouteQuery { remote: Ipv4Addr::LOCALHOST.into(), mark: None, bind_dev: None };
        let gateways = network.lookup(&query).await.unwrap();
        let options = NetworkOptions {
            ifconfig: Some((Ipv4Addr::new(10, 8, 0, 2), Ipv4Addr::new(255, 255, 255, 0))),
            dns: dns.clone(),
            ..NetworkOptions::default()
        };
        let plan = NetworkPlan::build(&PlanInput {
            options: &options,
            tun_mtu: 1500,
            tx_queue_len: None,
            remote: query.remote,
            protocol: Protocol::Udp,
            gateways: &gateways,
            dns_scope: scope,
        })
        .unwrap();
        network.apply(&self.interface(), &plan).await.unwrap().warnings
    }
}

fn old_form() -> DnsOptions {
    DnsOptions {
        dhcp_servers: vec!["10.8.0.1".parse().unwrap(), "fd00::53".parse().unwrap()],
        dhcp_domains: vec!["corp.example".parse().unwrap()],
        ..DnsOptions::default()
    }
}

fn split() -> DnsOptions {
    let server = DnsServer {
        addresses: vec![("10.8.0.1".parse().unwrap(), 5353)],
        resolve_domains: vec!["corp.example".parse().unwrap()],
        dnssec: Some(DnsSec::Optional),
        transport: Some(DnsTransport::DoT),
        sni: Some("dns.example".parse().unwrap()),
    };
    DnsOptions {
        servers: [(0, server)].into(),
        search_domains: vec!["office.example".parse().unwrap()],
        ..DnsOptions::default()
    }
}

/// A systemd-resolved in a process of its own (its network namespace is that of its process), on a
/// private bus, and the file in which it notes what it is told, one line a call.
struct Resolved {
    process: Child,
    bus: Bus,
    log: PathBuf,
}

impl Resolved {
    /// `manner`: `normal`, `old`, `refuse` or `hang`. `place`: the namespace, or none.
    fn start(host: &mut Host, manner: &str, inside: bool) -> Self {
        let bus = Bus::start();
        host.resolver.bus = Some(bus.address().to_owned());
        let log = host.directory.path().join("resolved.log");
        let resolved = Self { process: Self::launch(host, &bus, &log, manner, inside), bus, log };
        for _ in 0..1000 {
            if resolved.log.exists() {
                return resolved;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the service does not start");
    }

    fn launch(host: &Host, bus: &Bus, log: &Path, manner: &str, inside: bool) -> Child {
        let program = std::env::current_exe().unwrap();
        let mut command =
            if inside { host.ns.command(program) } else { std::process::Command::new(program) };
        command
            .args(["--ignored", "--exact", "resolved_process", "--nocapture"])
            .env("TEST_BUS", bus.address())
            .env("TEST_LOG", log)
            .env("TEST_MANNER", manner)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// As `systemctl restart` does.
    fn restart(&mut self, host: &Host) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::launch(host, &self.bus, &self.log, "normal", true);
    }

    /// Somebody has set these servers of the tunnel, four bytes each.
    fn changed(&self, servers: &[u8]) {
        let whole = self.log.with_extension("part");
        fs::write(&whole, servers).unwrap();
        fs::rename(whole, self.log.with_extension("servers")).unwrap();
    }

    fn noted(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The calls since the last time.
    fn take(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap();
        fs::write(&self.log, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Resolved {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "runs as a child of the tests with systemd-resolved"]
fn resolved_process() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (log, manner) = (PathBuf::from(variable("TEST_LOG")), variable("TEST_MANNER"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let file = log.clone();
        let service = bus::serve(&variable("TEST_BUS"), RESOLVED, move |call| {
            let line = describe(call);
            let new = line.starts_with("SetLinkDNSEx") || line.contains("DefaultRoute");
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&file).unwrap();
            writeln!(file, "{line}").unwrap();
            match manner.as_str() {
                "hang" => Answer::Nothing,
                "refuse" => Answer::Error(
                    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
                    "Interactive authentication required.".to_owned(),
                ),
                "old" if new => Answer::Error(
                    "org.freedesktop.DBus.Error.UnknownMethod",
                    "Unknown method".to_owned(),
                ),
                _ => Answer::Done,
            }
        })
        .await;
        // Calls may have come already.
        fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
        let orders = log.with_extension("servers");
        loop {
            if let Ok(servers) = fs::read(&orders) {
                fs::remove_file(&orders).unwrap();
                // As systemd 257 does, of all links: number, family, address.
                let index = nix::net::if_::if_nametoindex("tun7").unwrap() as i32;
                let servers: Vec<_> =
                    servers.chunks(4).map(|address| (index, 2, address.to_vec())).collect();
                let changed: HashMap<_, _> = [("DNS", zbus::Variant::from(servers))].into();
                let body = ("org.freedesktop.resolve1.Manager", changed, Vec::<&str>::new());
                let properties = "org.freedesktop.DBus.Properties";
                let path = "/org/freedesktop/resolve1";
                let signal = "PropertiesChanged";
                let sent =
                    service.connection.emit_signal(None::<&str>, path, properties, signal, &body);
                sent.await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

fn describe(call: &Message) -> String {
    let header = call.header();
    assert_eq!(header.path().unwrap().as_str(), "/org/freedesktop/resolve1");
    assert_eq!(header.interface().unwrap().as_str(), "org.freedesktop.resolve1.Manager");
    let body = call.body();
    let arguments = match header.signature().to_string_no_parens().as_str() {
        "ia(iayqs)" => {
            type Server = (i32, Vec<u8>, u16, String);
            let (_, servers): (i32, Vec<Server>) = body.deserialize().unwrap();
            format!("{servers:?}")
        }
        "ia(iay)" => {
            let (_, servers): (i32, Vec<(i32, Vec<u8>)>) = body.deserialize().unwrap();
            format!("{servers:?}")
        }
        "ia(sb)" => {
            let (_, domains): (i32, Vec<(String, bool)>) = body.deserialize().unwrap();
            format!("{domains:?}")
        }
        "ib" => format!("{}", body.deserialize::<(i32, bool)>().unwrap().1),
        "is" => body.deserialize::<(i32, String)>().unwrap().1,
        "i" | "" => String::new(),
        other => panic!("signature {other}"),
    };
    format!("{} {arguments}", header.member().unwrap()).trim().to_owned()
}

#[test]
fn resolved_gets_everything_and_is_reverted() {
    let mut host = Host::new("nameserver 127.0.0.53\noptions edns0 trust-ad\n");
    let mut resolved = Resolved::start(&mut host, "normal", true);
    host.ns.block_on(async || {
        let mut network = host.open().await;
        let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            resolved.take(),
            [
                "SetLinkDNSEx [(2, [10, 8, 0, 1], 0, \"\"), \
                 (10, [253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 83], 0, \"\")]",
                "SetLinkDomains [(\"corp.example\", false), (\".\", true)]",
                "SetLinkDefaultRoute true",
                "FlushCaches",
            ]
        );
        // The same again, in case somebody has taken it away unnoticed.
        host.apply(&mut network, &old_form(), DnsScope::Global).await;
        assert_eq!(resolved.take().len(), 4);

        // It is told again when it has started anew.
        resolved.restart(&host);
        wait_for("the service to be told again", || resolved.noted().contains("FlushCaches")).await;
        assert_eq!(resolved.take().len(), 4);

        let warnings = host.apply(&mut network, &split(), DnsScope::Global).await;
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            resolved.take(),
            [
                "RevertLink",
                "FlushCaches",
                "SetLinkDNSEx [(2, [10, 8, 0, 1], 5353, \"dns.example\")]",
                "SetLinkDomains [(\"office.example\", false), (\"corp.example\", true)]",
                "SetLinkDefaultRoute false",
                "SetLinkDNSSEC allow-downgrade",
                "SetLinkDNSOverTLS yes",
                "FlushCaches",
            ]
        );
        network.undo().await.unwrap();
        assert_eq!(resolved.take(), ["RevertLink", "FlushCaches"]);

        host.apply(&mut network, &old_form(), DnsScope::Tunnel).await;
        let tunnel = resolved.take();
        assert_eq!(tunnel[1], "SetLinkDomains [(\"corp.example\", false)]");
        assert_eq!(tunnel[2], "SetLinkDefaultRoute false");
        network.undo().await.unwrap();
    });
    assert_eq!(host.resolv_conf(), "nameserver 127.0.0.53\noptions edns0 trust-ad");
}

/// `resolvectl revert tun7`, and the like. Whoever insists has it.
#[test]
fn servers_that_somebody_takes_away_are_set_again() {
    let mut host = Host::new("nameserver 127.0.0.53\n");
    let resolved = Resolved::start(&mut host, "normal", true);
    let dns =
        DnsOptions { dhcp_servers: vec!["10.8.0.1".parse().unwrap()], ..DnsOptions::default() };
    host.ns.block_on(async || {
        let mut network = host.open().await;
        host.apply(&mut network, &dns, DnsScope::Global).await;
        assert_eq!(resolved.take().len(), 4);
        // What is as it should be is left alone; that this was seen, the next one shows.
        for servers in [&[10, 8, 0, 1][..], &[10, 9, 0, 1, 10, 8, 0, 1]] {
            resolved.changed(servers);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for servers in [&[][..], &[10, 9, 0, 1], &[], &[], &[]] {
            resolved.changed(servers);
            wait_for("the servers", || resolved.noted().contains("FlushCaches")).await;
            assert_eq!(resolved.take().len(), 4);
        }
        resolved.changed(&[]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(resolved.take(), [""; 0], "a fight");
        network.undo().await.unwrap();
    });
}

#[test]
fn an_old_resolved_gets_what_it_understands() {
    let mut host = Host::new("nameserver 127.0.0.53\n");
    let resolved = Resolved::start(&mut host, "old", true);
    host.ns.block_on(async || {
        let mut network = host.open().await;
        let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
        assert_eq!(warnings, [""; 0]);
        let plain = "SetLinkDNS [(2, [10, 8, 0, 1]), \
                     (10, [253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 83])]";
        assert!(resolved.take().contains(&plain.to_owned()));
        // Ports it cannot do: a warning, and nothing half done.
        let warnings = host.apply(&mut network, &split(), DnsScope::Global).await;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(resolved.take().last().unwrap(), "FlushCaches");
        network.undo().await.unwrap();
    });
}

#[test]
fn a_resolved_that_refuses_or_hangs_is_a_warning() {
    for manner in ["refuse", "hang"] {
        let mut host = Host::new("nameserver 127.0.0.53\n");
        let _resolved = Resolved::start(&mut host, manner, true);
        host.ns.block_on(async || {
            let start = Instant::now();
            let mut network = host.open().await;
            let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
            assert!(warnings[0].contains("SetLinkDNS"), "{warnings:?}");
            assert!(host.ns.sh("ip address show tun7").contains("10.8.0.2"));
            network.undo().await.unwrap_err();
            assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        });
    }
}

#[test]
fn a_resolved_of_another_namespace_is_not_asked() {
    let mut host = Host::new("nameserver 127.0.0.53\n");
    let resolved = Resolved::start(&mut host, "normal", false);
    let warnings = host.ns.block_on(async || {
        let mut network = host.open().await;
        let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
        network.undo().await.unwrap();
        warnings
    });
    assert!(warnings[0].contains("another network namespace"), "{warnings:?}");
    assert_eq!(resolved.take(), [""; 0]);
}

/// Waits for what another task does; it looks every few seconds.
async fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..1500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for {what}");
}

#[test]
fn tunnels_come_and_go_in_any_order_and_others_write_meanwhile() {
    let host = Host::new("nameserver 192.0.2.53\n");
    let second = DnsOptions {
        dhcp_servers: vec!["10.9.0.1".parse().unwrap()],
        dhcp_domains: vec!["lab.example".parse().unwrap()],
        ..DnsOptions::default()
    };
    host.ns.block_on(async || {
        let (mut a, mut b) = (host.open().await, host.open().await);
        host.apply(&mut a, &old_form(), DnsScope::Global).await;
        let warnings = host.apply(&mut b, &second, DnsScope::Global).await;
        assert_eq!(warnings, [""; 0]);
        assert_eq!(host.resolv_conf(), "nameserver 10.9.0.1\nsearch lab.example corp.example");
        a.undo().await.unwrap();
        assert_eq!(host.resolv_conf(), "nameserver 10.9.0.1\nsearch lab.example");
        // DHCP: another network, another server.
        fs::write(&host.path, "nameserver 192.0.2.99\nsearch cafe.example\n").unwrap();
        let taken_up = "nameserver 10.9.0.1\nsearch lab.example cafe.example";
        wait_for("the tunnel's servers in front", || host.resolv_conf() == taken_up).await;
        b.undo().await.unwrap();
        assert_eq!(host.resolv_conf(), "nameserver 192.0.2.99\nsearch cafe.example");
    });
}

#[test]
fn without_a_manager_the_file_is_rewritten_and_restored() {
    let host = Host::new("nameserver 192.0.2.53\nsearch home.example\noptions edns0\n");
    host.ns.block_on(async || {
        let mut network = host.open().await;
        let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            host.resolv_conf(),
            "nameserver 10.8.0.1\nnameserver fd00::53\nsearch corp.example home.example\n\
             options edns0"
        );
        network.undo().await.unwrap();
        assert_eq!(host.resolv_conf(), "nameserver 192.0.2.53\nsearch home.example\noptions edns0");
        // Split DNS would break the other names.
        let warnings = host.apply(&mut network, &split(), DnsScope::Global).await;
        assert!(warnings[0].contains("split DNS"), "{warnings:?}");
        assert!(host.resolv_conf().contains("192.0.2.53"));
        network.undo().await.unwrap();
    });
}

#[test]
fn a_killed_process_leaves_the_file_to_the_next_start() {
    let host = Host::new("nameserver 192.0.2.53\n");
    let mut child = host
        .ns
        .command(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "process_to_be_killed", "--nocapture"])
        .env("TEST_DIRECTORY", host.directory.path())
        .env("TEST_INDEX", host.interface().index.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ready = host.directory.path().join("ready");
    for _ in 0..1000 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(ready.exists(), "the child has not applied its plan");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(host.resolv_conf(), "nameserver 10.8.0.1\nnameserver fd00::53\nsearch corp.example");
    host.ns.block_on(async || drop(host.open().await));
    assert_eq!(host.resolv_conf(), "nameserver 192.0.2.53");
    assert!(!host.path.with_extension("conf.before-ovpn-client").exists());
}

#[test]
#[ignore = "runs as a child of a_killed_process_leaves_the_file_to_the_next_start"]
fn process_to_be_killed() {
    let directory = PathBuf::from(std::env::var("TEST_DIRECTORY").unwrap());
    let index = std::env::var("TEST_INDEX").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut network =
            DirectNetwork::open_with(&directory.join("run"), resolver(&directory)).await.unwrap();
        let query = RouteQuery { remote: Ipv4Addr::LOCALHOST.into(), mark: None, bind_dev: None };
        let gateways = network.lookup(&query).await.unwrap();
        let options = NetworkOptions {
            ifconfig: Some((Ipv4Addr::new(10, 8, 0, 2), Ipv4Addr::new(255, 255, 255, 0))),
            dns: old_form(),
            ..NetworkOptions::default()
        };
        let plan = NetworkPlan::build(&PlanInput {
            options: &options,
            tun_mtu: 1500,
            tx_queue_len: None,
            remote: query.remote,
            protocol: Protocol::Udp,
            gateways: &gateways,
            dns_scope: DnsScope::Global,
        })
        .unwrap();
        let interface = Interface { name: "tun7".to_owned(), index };
        network.apply(&interface, &plan).await.unwrap();
        fs::write(directory.join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

/// A stand-in that notes its arguments and input.
fn install_resolvconf(directory: &Path, exit: i32) {
    let program = directory.join("resolvconf");
    let log = directory.join("log");
    fs::write(
        &program,
        format!("#!/bin/sh\necho \"$@\" >>{0}\ncat >>{0}\nexit {exit}\n", log.display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn resolvconf_gets_a_record_of_its_own() {
    let host = Host::new("# Generated by resolvconf\nnameserver 192.0.2.53\n");
    install_resolvconf(host.directory.path(), 0);
    host.ns.block_on(async || {
        let mut network = host.open().await;
        let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
        assert_eq!(warnings, [""; 0]);
        network.undo().await.unwrap();
    });
    let log = fs::read_to_string(host.directory.path().join("log")).unwrap();
    assert_eq!(
        log,
        "-a tun.tun7.ovpn-client -m 0 -x\nnameserver 10.8.0.1\nnameserver fd00::53\n\
         search corp.example\n-d tun.tun7.ovpn-client -f\n"
    );
    assert_eq!(host.resolv_conf(), "nameserver 192.0.2.53");

    install_resolvconf(host.directory.path(), 3);
    host.ns.block_on(async || {
        let mut network = host.open().await;
        let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
        assert!(warnings[0].contains("exit status: 3"), "{warnings:?}");
    });
}

#[test]
fn a_shared_resolv_conf_is_not_touched_from_a_nested_namespace() {
    let host = Host::new("");
    fs::remove_dir_all(host.path.parent().unwrap()).unwrap();
    let shared = &host.resolver.resolv_conf;
    fs::write(shared, "nameserver 192.0.2.53\n").unwrap();
    let warnings = host.ns.block_on(async || {
        let mut network = host.open().await;
        let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
        network.undo().await.unwrap();
        warnings
    });
    assert!(warnings[0].contains(host.ns.name()), "{warnings:?}");
    assert_eq!(fs::read_to_string(shared).unwrap(), "nameserver 192.0.2.53\n");

    // With a directory of its own the namespace has a file of its own, for the time of the tunnel.
    fs::create_dir(host.path.parent().unwrap()).unwrap();
    host.ns.block_on(async || {
        let mut network = host.open().await;
        host.apply(&mut network, &old_form(), DnsScope::Global).await;
        assert!(host.resolv_conf().contains("nameserver 10.8.0.1"));
        network.undo().await.unwrap();
    });
    assert!(!host.path.exists());
    assert_eq!(fs::read_to_string(shared).unwrap(), "nameserver 192.0.2.53\n");
}

#[test]
fn a_bind_mounted_resolv_conf_is_rewritten_in_place() {
    for locked in [false, true] {
        bind_mounted(locked);
    }
}

fn bind_mounted(locked: bool) {
    let host = Host::new("");
    let run = host.directory.path().join("run");
    fs::create_dir(&run).unwrap();
    // Where it can be written: a bind mount of a read-only file system is read-only, too.
    let (source, target) = (run.join("source"), host.resolver.resolv_conf.clone());
    for file in [&source, &target] {
        fs::write(file, "nameserver 192.0.2.53\n").unwrap();
    }
    // What `ip netns exec` does, in a mount namespace of this thread alone.
    host.ns.run(|| {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        // In a directory that cannot be written, too.
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let directory = target.parent().unwrap();
        if locked {
            mount(Some(directory), directory, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .unwrap();
            mount(Some(&run), &run, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            mount(None::<&str>, directory, None::<&str>, read_only, None::<&str>).unwrap();
        }
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut network = host.open().await;
            let warnings = host.apply(&mut network, &old_form(), DnsScope::Global).await;
            assert_eq!(warnings, [""; 0]);
            assert!(fs::read_to_string(&source).unwrap().contains("nameserver 10.8.0.1"));
            network.undo().await.unwrap();
        });
        // Nothing is kept for another try.
        assert_eq!(fs::read_dir(&run).unwrap().filter(is_journal).count(), 0);
    });
    for file in [&source, &target] {
        assert_eq!(fs::read_to_string(file).unwrap(), "nameserver 192.0.2.53\n");
    }
}

fn is_journal(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "journal")
}

/// Answers as the netcfg service does.
fn netcfg(call: &Message) -> Answer {
    let path = "/net/openvpn/v3/netcfg/4711_token";
    match call.header().member().unwrap().as_str() {
        "CreateVirtualInterface" => {
            Answer::value(call, &(zbus::ObjectPath::try_from(path).unwrap(),))
        }
        "Establish" => Answer::Descriptors(vec![fs::File::open("/dev/null").unwrap().into()]),
        _ => Answer::Done,
    }
}

#[test]
fn what_this_process_may_not_set_the_netcfg_service_sets_with_every_connection() {
    const SERVICE: &str = "net.openvpn.v3.netcfg";
    const SET: [&str; 8] = [
        "CreateVirtualInterface",
        "Set",
        "AddDNSSearch",
        "AddDNS",
        "SetRemoteAddress",
        "Set",
        "Set",
        "Establish",
    ];
    let mut host = Host::new("");
    // A namespace without a resolv.conf of its own.
    fs::remove_dir_all(host.path.parent().unwrap()).unwrap();
    let bus = Bus::start();
    host.resolver.bus = Some(bus.address().to_owned());
    host.ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = NetcfgConfig {
                connection: bus.connect().await,
                token: "token".to_owned(),
                without_socket: false,
            };
            let service = bus.serve(SERVICE, netcfg).await;
            let called = |service: &bus::Service| {
                service.take().iter().map(bus::Call::member).collect::<Vec<_>>()
            };
            let mut network = host.open().await.with_dns_service(config);
            let none = [""; 0];
            let mut apply = async || host.apply(&mut network, &old_form(), DnsScope::Global).await;

            assert_eq!(apply().await, none);
            assert_eq!(called(&service), SET);
            // The next connection.
            assert_eq!(apply().await, none);
            assert_eq!(called(&service), [&["Destroy"][..], &SET].concat());

            // Without it the tunnel works, and it is asked again with the next connection.
            drop(service);
            let warnings = apply().await;
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(SERVICE), "{warnings:?}");
            let service = bus.serve(SERVICE, netcfg).await;
            assert_eq!(apply().await, none);
            assert_eq!(called(&service), SET);

            // One without a resolver.
            let resolverless = |call: &Message| match call.header().member().unwrap().as_str() {
                "Set" => Answer::Error(
                    "org.freedesktop.DBus.Error.Failed",
                    "No DNS resolver configured".to_owned(),
                ),
                _ => netcfg(call),
            };
            drop(service);
            let service = bus.serve(SERVICE, resolverless).await;
            let warnings = apply().await;
            assert!(warnings[0].contains("No DNS resolver configured"), "{warnings:?}");
            assert_eq!(called(&service), ["Destroy", "CreateVirtualInterface", "Set", "Destroy"]);

            drop(service);
            let service = bus.serve(SERVICE, netcfg).await;
            assert_eq!(apply().await, none);
            called(&service);
            network.undo().await.unwrap();
            assert_eq!(called(&service), ["Destroy"]);
        });
    });
    let run = host.directory.path().join("run");
    assert_eq!(fs::read_dir(run).unwrap().filter(is_journal).count(), 0);
}

#[test]
fn a_hanging_netcfg_service_keeps_no_connection_up() {
    let mut host = Host::new("");
    fs::remove_dir_all(host.path.parent().unwrap()).unwrap();
    let bus = Bus::start();
    host.resolver.bus = Some(bus.address().to_owned());
    host.ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = NetcfgConfig {
                connection: bus.connect().await,
                token: "token".to_owned(),
                without_socket: false,
            };
            let _service = bus.serve("net.openvpn.v3.netcfg", |_| Answer::Nothing).await;
            let mut network = host.open().await.with_dns_service(config);
            let options = old_form();
            let apply = host.apply(&mut network, &options, DnsScope::Global);
            let warnings = tokio::time::timeout(Duration::from_secs(20), apply).await.unwrap();
            assert!(warnings[0].contains("no answer within 6 s"), "{warnings:?}");
            network.undo().await.unwrap();
        });
    });
}
