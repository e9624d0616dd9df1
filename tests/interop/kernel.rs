//! The client with kernel offload, and what becomes of it when the kernel takes it away. In guests
//! only (`ci/vm/run`), which also run the other tests of this program with offload.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ovpn_dco::PeerId;
use ovpn_dco::kernel::{Api, Device, Family, Links};

use crate::client::{CONNECTED, Client, RECONNECTING, program};
use crate::lab::{Lab, plain};
use crate::server::{Server, ServerConfig, Transport, Version};

const SOON: Duration = Duration::from_secs(20);

/// The module of this guest.
fn api() -> Api {
    let name = std::env::var("DCO_API").expect("run ci/vm/run");
    Api::ALL.into_iter().find(|api| api.name() == name).expect("an interface")
}

/// The server series that knows this guest's module.
fn version() -> Version {
    match api() {
        Api::Ovpn => Version::V27,
        Api::OvpnDcoV2 => Version::V26,
    }
}

fn sh(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().expect("run sh");
    assert!(status.success(), "{line}: {status}");
}

/// A connection that is known to use the kernel, with `--dco auto`: it may do without later.
fn connected(transport: Transport) -> (Lab, ServerConfig, Server, Client) {
    let lab = Lab::new();
    let config = plain(version(), transport);
    let server = lab.start_server(&config);
    let mut client = lab.start_client(&lab.profile(&config, ""), &["--dco", "auto"]);
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    assert_eq!(links(&lab), ["tun0"]);
    (lab, config, server, client)
}

/// The links of our kinds in the client's namespace.
fn links(lab: &Lab) -> Vec<String> {
    let links = lab.client_ns.run(|| Links::open().unwrap().list().unwrap());
    links.into_iter().filter(|link| link.api == api()).map(|link| link.interface.name).collect()
}

fn ping_until_it_works(lab: &Lab, client: &Client, server: &Server) {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        if lab.ping_with("-n -q -c 1 -W 1 10.8.0.1").is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the tunnel does not work again: {:?}\n{}", client.statuses, server.log());
}

/// `ovpn-client doctor` says what a connection would find.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn doctor() {
    let report = |expected: i32| -> serde_json::Value {
        let output = Command::new(program()).args(["doctor", "--output", "json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(expected), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let interface = |report: &serde_json::Value| {
        let all = report["interfaces"].as_array().unwrap();
        all.iter().find(|one| one["name"] == api().name()).unwrap().clone()
    };
    // Asking loads the module, if the kernel may.
    let ready = report(0);
    assert_eq!(ready["data_path"], api().name());
    assert_eq!(interface(&ready)["status"], "ready");
    assert!(interface(&ready)["family_version"].as_u64() >= Some(1), "{ready}");
    let without = without_module(|| report(1));
    assert_eq!(without["data_path"], "userspace");
    assert_eq!(without["reasons"][0]["id"], "no-module");
    assert_eq!(interface(&without)["status"], "no-module");
    assert_eq!(interface(&without)["installed"], true);
}

/// While the module is neither loaded nor can be.
fn without_module<T>(body: impl FnOnce() -> T) -> T {
    sh(&format!("rmmod {} || true; echo /bin/false >/proc/sys/kernel/modprobe", api().module()));
    let result = body();
    sh("echo /sbin/modprobe >/proc/sys/kernel/modprobe");
    result
}

/// The tunnel is a link of the module, and its packets are not ours.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn data_stays_in_the_kernel() {
    let (lab, _, _server, mut client) = connected(Transport::Udp4);
    assert_eq!(links(&lab), ["tun0"]);
    lab.transfer("10.8.0.1", 2_000_000).unwrap();
    let busy = cpu_time(client.id());
    lab.transfer("10.8.0.1", 20_000_000).unwrap();
    let busy = cpu_time(client.id()) - busy;
    // In user space these are seconds, in a guest that is interpreted.
    assert!(busy <= Duration::from_millis(300), "{busy:?} for 40 MB that are not its business");
    let ending = client.stop(Signal::SIGTERM);
    assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    assert_eq!(links(&lab), [""; 0]);
}

/// User and system time of a process so far.
fn cpu_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|f| f.parse::<u64>().unwrap()).sum();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

/// Somebody deletes the peer under traffic: the client connects again.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn peer_deleted() {
    let (lab, _, server, mut client) = connected(Transport::Udp4);
    lab.ping("10.8.0.1").unwrap();
    let index = lab.client_ns.link_index("tun0").unwrap();
    lab.client_ns.run(|| {
        let mut device = Device::open(Family::resolve(api()).unwrap(), index).unwrap();
        // The server counts from 0.
        device.del_peer(PeerId::new(0).unwrap()).unwrap();
    });
    client.wait(RECONNECTING, SOON).unwrap();
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    lab.ping("10.8.0.1").unwrap();
    assert_eq!(links(&lab).len(), 1);
}

/// The server dies and comes back.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn server_killed() {
    for transport in [Transport::Udp4, Transport::Tcp4] {
        let (lab, config, server, mut client) = connected(transport);
        drop(server);
        client.wait(RECONNECTING, SOON).unwrap();
        let server = lab.start_server(&config);
        client.wait(CONNECTED, 3 * SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        ping_until_it_works(&lab, &client, &server);
        assert_eq!(links(&lab).len(), 1);
    }
}

/// The link is pulled under a connection: userspace takes over, without a new login.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn link_pulled() {
    let (lab, _, server, mut client) = connected(Transport::Udp4);
    lab.ping("10.8.0.1").unwrap();
    lab.client_ns.delete_link("tun0");
    ping_until_it_works(&lab, &client, &server);
    assert_eq!(links(&lab), [""; 0], "no module serves it any more");
    assert_eq!(server.log_count("Peer Connection Initiated"), 1, "{}", server.log());
    let ending = client.stop(Signal::SIGTERM);
    assert!(!ending.statuses.iter().any(|(code, _)| *code == RECONNECTING), "{ending:?}");
    assert_eq!(ending.code, Some(0), "{}", ending.transcript);
}

/// The module is unloaded under a connection.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn module_unloaded() {
    for transport in [Transport::Udp4, Transport::Tcp4] {
        let (lab, _, server, client) = connected(transport);
        lab.ping("10.8.0.1").unwrap();
        sh(&format!("rmmod {}", api().module()));
        ping_until_it_works(&lab, &client, &server);
        if transport == Transport::Udp4 {
            let logins = server.log_count("Peer Connection Initiated");
            assert_eq!(logins, 1, "{}", server.log());
        }
        drop(client);
        // Loaded again by the next one.
        drop((lab, server));
    }
}

/// No module: the connection works all the same and says why it is not offloaded; insisting on
/// offload fails.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn module_absent() {
    let (auto, on, attempts) = without_module(|| {
        let lab = Lab::new();
        let config = plain(version(), Transport::Udp4);
        let server = lab.start_server(&config);
        let profile = lab.profile(&config, "");
        let mut client = lab.start_client(&profile, &["--dco", "auto"]);
        client.wait(CONNECTED, SOON).unwrap();
        lab.ping("10.8.0.1").unwrap();
        let auto = client.stop(Signal::SIGTERM);
        let on = lab.start_client(&profile, &["--dco", "on"]).finish(SOON);
        (auto, on, server.log_count("Peer Connection Initiated"))
    });
    assert!(auto.transcript.contains("neither the module"), "{}", auto.transcript);
    assert_eq!(on.code, Some(4));
    assert!(on.transcript.contains("--dco on: kernel "), "{}", on.transcript);
    assert!(on.transcript.contains("modprobe"), "the remedy: {}", on.transcript);
    assert_eq!(attempts, 1, "insisting on offload asks no server");
}

/// A server with CBC alone: user space carries it and says what would be better. Insisting on the
/// kernel fails, before a packet leaves where the profile alone tells.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn cbc_alone() {
    const WHY: &str = "the kernel has no AES-256-CBC; AES-256-GCM, set on the server, would be";
    let lab = Lab::new();
    let config = ServerConfig { cipher: "AES-256-CBC", ..plain(version(), Transport::Udp4) };
    let server = lab.start_server(&config);
    let alone = lab.profile(&config, "");
    let either = alone.replace("data-ciphers ", "data-ciphers AES-256-GCM:");
    for (profile, attempts, remedy) in
        [(&alone, 0, "set on the server"), (&either, 1, "--dco auto")]
    {
        let on = lab.start_client(profile, &["--dco", "on"]).finish(SOON);
        assert_eq!(on.code, Some(4), "{}", on.transcript);
        assert!(on.transcript.contains(WHY), "{}", on.transcript);
        assert!(on.transcript.contains(remedy), "{}", on.transcript);
        assert_eq!(server.log_count("Peer Connection Initiated"), attempts, "{}", server.log());
    }
    for profile in [&alone, &either] {
        let mut client = lab.start_client(profile, &["--dco", "auto"]);
        client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        assert_eq!(links(&lab), [""; 0]);
        lab.ping("10.8.0.1").unwrap();
        lab.transfer("10.8.0.1", 1_000_000).unwrap();
        let auto = client.stop(Signal::SIGTERM);
        assert_eq!(auto.code, Some(0), "{}", auto.transcript);
        assert!(auto.transcript.contains(WHY), "{}", auto.transcript);
    }
}

/// Half of the time that a test has in a guest.
const ENOUGH: Duration = Duration::from_secs(150);

/// Connect and disconnect, again and again: no link, socket, or memory of the kernel stays.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn many_connections() {
    let lab = Lab::new();
    let config = plain(version(), Transport::Udp4);
    let server = lab.start_server(&config);
    let profile = lab.profile(&config, "");
    let cycle = |number: usize| {
        let mut client = lab.start_client(&profile, &[]);
        client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{number}: {e}\n{}", server.log()));
        let ending = client.stop(Signal::SIGTERM);
        assert_eq!(ending.code, Some(0), "{number}: {}", ending.transcript);
    };
    let before = lab.client_ns.snapshot();
    // What the kernel allocates once, it has then.
    (0..20).for_each(cycle);
    let (memory, sockets) = (unreclaimable(), sockets(&lab));
    // All of them, unless this is a slow machine's emulation.
    let begin = Instant::now();
    let more = |done: usize| done < 80 || (done < 180 && begin.elapsed() < ENOUGH);
    let cycles =
        (0_usize..).take_while(|done| more(*done)).inspect(|done| cycle(20 + done)).count();
    println!("FIGURE {cycles} cycles in {:?}", begin.elapsed());
    before.assert_same(&lab.client_ns.snapshot());
    assert_eq!(self::sockets(&lab), sockets);
    // A link with its queues and per-CPU counters is about 30 KiB, a peer with its keys 10 KiB.
    let grown = unreclaimable().saturating_sub(memory);
    let allowed = u64::try_from(cycles).unwrap() * 8;
    assert!(grown < allowed, "{grown} KiB more in use after {cycles} cycles");
}

/// The kernel's own memory that it cannot give back on demand, KiB. Freed only after a grace
/// period, so the smallest of some readings counts.
fn unreclaimable() -> u64 {
    let read = || -> u64 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        ["SUnreclaim:", "Percpu:", "VmallocUsed:"]
            .iter()
            .map(|name| {
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
            })
            .sum()
    };
    let readings = (0..30).map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        read()
    });
    readings.min().unwrap()
}

/// Sockets in use in the client's namespace.
fn sockets(lab: &Lab) -> String {
    let output = lab.client_ns.command("cat").arg("/proc/net/sockstat").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|l| l.starts_with("UDP:") || l.starts_with("TCP:")).map(in_use).collect()
}

/// `UDP: inuse 1 mem 2`: what is behind `mem` is the whole machine's.
fn in_use(line: &str) -> String {
    line.split(" mem ").next().unwrap_or_default().to_owned() + "\n"
}

/// One process that connects again and again keeps its memory and descriptors.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn many_restarts() {
    let (_lab, _, server, mut client) = connected(Transport::Udp4);
    let process = client.id();
    let descriptors = || std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    let resident = || -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut restart = |number: usize| {
        client.signal(Signal::SIGUSR1);
        client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{number}: {e}\n{}", server.log()));
    };
    (0..10).for_each(&mut restart);
    let before = (descriptors(), resident());
    (10..60).for_each(restart);
    let after = (descriptors(), resident());
    assert_eq!(before.0, after.0, "descriptors");
    assert!(after.1 < before.1 + 512, "{} KiB, then {} KiB", before.1, after.1);
}

/// What the client process spends on data, in this program and in OpenVPN's, with offload and
/// without: the figures of the README.
#[test]
#[ignore = "runs in a guest: ci/vm/run"]
fn figures() {
    let lab = Lab::new();
    let config = plain(version(), Transport::Udp4);
    let server = lab.start_server(&config);
    let profile = lab.profile(&config, "");
    let mut spent = Vec::new();
    for dco in ["on", "off"] {
        let mut client = lab.start_client(&profile, &["--dco", dco]);
        client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        spent.push((format!("ovpn-client --dco {dco}"), cost(&lab, client.id(), dco == "on")));
        client.stop(Signal::SIGTERM);
    }
    let path = lab.file("peer.ovpn", &profile);
    for arguments in [&[][..], &["--disable-dco"]] {
        let log = lab.directory().join("peer.log");
        let mut process = version()
            .command(&lab.client_ns)
            .args(["--config", &path, "--verb", "3"])
            .args(arguments)
            .stdout(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + SOON;
        let log = loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if text.contains("Initialization Sequence Completed") {
                break text;
            }
            assert!(Instant::now() < deadline, "OpenVPN did not connect:\n{text}");
            std::thread::sleep(Duration::from_millis(100));
        };
        assert_eq!(links(&lab).len(), usize::from(arguments.is_empty()), "{arguments:?}: {log}");
        let name = format!("openvpn {}", arguments.join(" "));
        spent.push((name, cost(&lab, process.id(), arguments.is_empty())));
        // Killed, it would leave its link behind.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.id() as i32), Signal::SIGTERM)
            .unwrap();
        process.wait().unwrap();
    }
    for (name, seconds) in &spent {
        println!("FIGURE {name}: {seconds:.2} CPU-seconds per GB, both directions together");
    }
    let (kernel, userspace) = (spent[0].1, spent[1].1);
    assert!(kernel * 10.0 < userspace, "{kernel} s/GB with offload, {userspace} without");
}

/// CPU-seconds of a process per GB moved through the tunnel. Emulated, userspace takes minutes for
/// what the kernel does in seconds, and the kernel needs much to be seen to cost anything.
fn cost(lab: &Lab, process: u32, kernel: bool) -> f64 {
    let megabytes = if kernel { 40 } else { 5 };
    lab.transfer("10.8.0.1", 1_000_000).unwrap();
    let before = cpu_time(process);
    lab.transfer("10.8.0.1", megabytes * 1_000_000).unwrap();
    // There and back.
    (cpu_time(process) - before).as_secs_f64() / (2.0 * megabytes as f64 / 1000.0)
}
