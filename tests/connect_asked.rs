//! A running `ovpn-client connect` answers `status` and its kind, does what it is told, and minds
//! nobody who means harm at its door.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ovpn_test_support::lab::client::{CONNECTED, Client, Ending, RECONNECTING, program};
use ovpn_test_support::netns::NetNs;
use ovpn_test_support::sim;
use ovpn_test_support::sim::running::RunningServer;
use serde_json::Value;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
const PUSH: &str =
    ",route 192.0.2.0 255.255.255.0,dhcp-option DNS 10.8.0.1,dhcp-option DOMAIN corp.example";
const PAUSED: (u64, u64) = (2, 14);

/// A machine with a server on it.
struct Host {
    ns: NetNs,
    server: RunningServer,
    directory: TempDir,
    resolv_conf: String,
}

impl Host {
    fn new() -> Self {
        let ns = NetNs::new("asked");
        let server = RunningServer::pushing(&ns, PUSH);
        let directory = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let resolv_conf = directory.path().join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 192.0.2.53\n").unwrap();
        let resolv_conf = resolv_conf.to_str().unwrap().to_owned();
        Self { ns, server, directory, resolv_conf }
    }

    fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    fn start(&self, arguments: &[&str]) -> Client {
        let text = format!(
            "client\ndev tun\nremote {} {} udp\nconnect-retry 1 2\n{}",
            self.server.address.ip(),
            self.server.address.port(),
            sim::real_tls::identity()
        );
        let (ns, directory) = (&self.ns, self.directory.path());
        let arguments = [&["--dco", "off"], arguments].concat();
        Client::start_with_resolv_conf(ns, directory, &text, &self.resolv_conf, &arguments)
    }

    fn connected(&self, arguments: &[&str]) -> Client {
        let mut client = self.start(arguments);
        client.wait(CONNECTED, SOON).unwrap();
        client
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(arguments).arg("--runtime-dir").arg(self.runtime_dir());
        command.output().unwrap()
    }

    /// Standard output of a question that is answered.
    fn answer(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As the schema in the package says, and without a member that it does not know.
    fn report(&self) -> Value {
        let report = serde_json::from_str(&self.answer(&["status", "--json"])).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/packaging/client/status.schema.json");
        let mut schema = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        close(&mut schema);
        let schema = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = schema.iter_errors(&report).map(|error| error.to_string()).collect();
        assert_eq!(errors, [""; 0], "{report:#}");
        report
    }

    /// Standard error of a question that is not.
    fn refusal(&self, arguments: &[&str], code: i32) -> String {
        let output = self.ask(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.runtime_dir()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// No object may have more members than those that are named.
fn close(schema: &mut Value) {
    if let Value::Object(members) = schema {
        if members.contains_key("properties") {
            members.insert("additionalProperties".to_owned(), false.into());
        }
        members.values_mut().for_each(close);
    } else if let Value::Array(elements) = schema {
        elements.iter_mut().for_each(close);
    }
}

fn ended(client: &mut Client) -> Ending {
    client.finish(SOON)
}

#[test]
fn it_says_what_it_is_and_does_what_it_is_told() {
    let host = Host::new();
    assert_eq!(host.answer(&["status"]), "no tunnel is running\n");
    assert!(host.refusal(&["disconnect"], 1).contains("no tunnel is running"));
    for sandbox in ["on", "off"] {
        let mut client = host.connected(&["--sandbox", sandbox]);
        let report = host.report();
        let connection = &report["connection"];
        assert_eq!((&report["name"], &report["state"]), (&"client".into(), &"connected".into()));
        assert_eq!(report["process"]["pid"], client.id(), "{report}");
        assert_eq!(connection["server"]["port"], host.server.address.port(), "{report}");
        assert_eq!(connection["data_path"]["name"], "userspace");
        assert_eq!(connection["data_path"]["reasons"][0]["id"], "switched-off", "{report}");
        assert_eq!(connection["cipher"], "AES-256-GCM");
        assert_eq!(connection["tls"]["version"], "TLSv1.3", "{report}");
        assert!(connection["tls"]["key_exchange"].as_str().unwrap().contains("25519"), "{report}");
        let routes = connection["routes"].as_array().unwrap();
        assert!(routes.iter().any(|route| route["destination"] == "192.0.2.0/24"), "{report}");
        assert_eq!(connection["dns"]["search_domains"][0], "corp.example", "{report}");
        assert_eq!(report["renegotiations"], 0);

        let text = host.answer(&["status", "client"]);
        for part in
            ["client: connected for 00:00:", "TLSv1.3", "192.0.2.0/24", "10.8.0.1", "switched off"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let list = host.answer(&["list"]);
        assert!(list.lines().count() == 2 && list.contains("connected"), "{list}");

        host.server.renegotiate();
        let end = Instant::now() + SOON;
        while host.report()["renegotiations"] != 1 {
            assert!(Instant::now() < end, "{}", host.report());
            std::thread::sleep(Duration::from_millis(50));
        }

        host.answer(&["pause", "client"]);
        client.wait(PAUSED, SOON).unwrap();
        assert_eq!(host.report()["state"], "paused");
        assert!(host.refusal(&["pause"], 1).contains("already paused"));
        host.answer(&["resume"]);
        client.wait(CONNECTED, SOON).unwrap();
        host.answer(&["reconnect"]);
        client.wait(RECONNECTING, SOON).unwrap();
        client.wait(CONNECTED, SOON).unwrap();
        assert!(host.report()["reconnects"].as_u64() > Some(0), "{}", host.report());

        host.answer(&["disconnect", "client"]);
        // It is over by then, and nothing is left.
        assert_eq!(host.sockets(), [""; 0]);
        assert_eq!(ended(&mut client).code, Some(0), "as asked");
        assert!(host.refusal(&["status", "client"], 1).contains("no tunnel named client"));
    }
}

#[test]
fn what_it_says_can_be_followed_from_elsewhere() {
    let host = Host::new();
    let mut client = host.connected(&[]);
    let mut command = Command::new(program());
    command.args(["logs", "--json", "--runtime-dir"]).arg(host.runtime_dir());
    let logs = command.stdout(Stdio::piped()).spawn().unwrap();
    // It has come in once it is answered, and another question is not before it.
    std::thread::sleep(Duration::from_millis(500));
    host.answer(&["reconnect"]);
    client.wait(RECONNECTING, SOON).unwrap();
    client.wait(CONNECTED, SOON).unwrap();
    host.answer(&["disconnect"]);
    let said = String::from_utf8(logs.wait_with_output().unwrap().stdout).unwrap();
    for part in ["\"signal\":\"Log\"", "Restarting connection", "\"code_minor\":7,"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    ended(&mut client);
}

#[test]
fn what_it_counts_is_there_for_programs() {
    let host = Host::new();
    assert!(host.answer(&["metrics"]).ends_with("# EOF\n"));
    let mut client = host.connected(&[]);
    let text = host.answer(&["metrics"]);
    let counted = host.report()["counters"]["BYTES_IN"].as_u64().unwrap();
    for part in [
        "ovpn_client_up{tunnel=\"client\"} 1\n",
        "ovpn_client_state{tunnel=\"client\",state=\"connected\"} 1\n",
        "ovpn_client_state{tunnel=\"client\",state=\"paused\"} 0\n",
        "data_path=\"userspace\"",
        "# UNIT ovpn_client_link_receive_bytes bytes\n",
        "ovpn_client_errors_total{tunnel=\"client\",cause=\"decrypt_error\"} 0\n",
        "ovpn_client_userspace_events_total{tunnel=\"client\",event=\"link_receives\"} ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    let received = value(&text, "ovpn_client_link_receive_bytes_total{");
    assert!((1..=counted).contains(&received), "{received}, and then {counted}");
    assert_eq!(value(&text, "ovpn_client_reconnects_total{"), 0);
    host.answer(&["reconnect"]);
    client.wait(RECONNECTING, SOON).unwrap();
    client.wait(CONNECTED, SOON).unwrap();
    assert_eq!(value(&host.answer(&["metrics"]), "ovpn_client_reconnects_total{"), 1);

    // One that is named and is not there is not up.
    let file = host.directory.path().join("ovpn.prom");
    host.answer(&["metrics", "client", "other", "--textfile", file.to_str().unwrap()]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("ovpn_client_up{tunnel=\"other\"} 0\n"), "{text}");
    assert!(text.contains("# TYPE ovpn_client_reconnects_total counter\n"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let nowhere = host.refusal(&["metrics", "--textfile", "/nowhere/ovpn.prom"], 1);
    assert!(nowhere.contains("/nowhere/ovpn.prom"), "{nowhere}");

    // Over HTTP, and who says nothing keeps nobody else waiting.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(program());
    command
        .args(["metrics", "--listen", &port.to_string(), "--runtime-dir"])
        .arg(host.runtime_dir());
    let mut server = command.spawn().unwrap();
    let end = Instant::now() + SOON;
    let silent = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let get = |request: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{answer}"
    );
    assert!(answer.contains("ovpn_client_up{tunnel=\"client\"} 1\n"), "{answer}");
    let accept = "Accept: application/openmetrics-text; version=1.0.0, text/plain;q=0.5";
    let answer = get(&format!("GET /metrics HTTP/1.1\r\n{accept}\r\n\r\n"));
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    assert!(get("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(get("\0\r\n\r\n").starts_with("HTTP/1.1 400 "));
    drop(silent);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

#[test]
fn a_name_is_one_tunnels() {
    let host = Host::new();
    let mut client = host.connected(&[]);
    let second = host.start(&[]).finish(SOON);
    assert_eq!(second.code, Some(2), "{}", second.transcript);
    assert!(second.transcript.contains("--name"), "{}", second.transcript);
    // The server takes the newest for the only one; the first comes back when this one has gone.
    let mut other = host.start(&["--name", "second"]);
    other.wait(CONNECTED, SOON).unwrap();
    let which = host.refusal(&["disconnect"], 2);
    assert!(which.contains("client, second"), "{which}");
    assert_eq!(host.answer(&["status", "--json"]).lines().count(), 2);
    host.answer(&["disconnect", "second"]);
    assert_eq!(ended(&mut other).code, Some(0));
    host.answer(&["disconnect"]);
    assert_eq!(ended(&mut client).code, Some(0));
}

#[test]
fn what_a_killed_one_has_left_is_no_tunnel_and_is_taken_away() {
    let host = Host::new();
    let mut client = host.connected(&["--sandbox", "off"]);
    client.signal(Signal::SIGKILL);
    ended(&mut client);
    assert!(host.sockets().contains(&"client.sock".to_owned()), "{:?}", host.sockets());
    assert_eq!(host.answer(&["status"]), "no tunnel is running\n");
    let mut again = host.connected(&["--sandbox", "off"]);
    again.signal(Signal::SIGKILL);
    ended(&mut again);
    let mut cleanup = host.ns.command(program());
    cleanup.args(["cleanup", "--runtime-dir"]).arg(host.runtime_dir());
    let said = String::from_utf8(cleanup.output().unwrap().stdout).unwrap();
    assert!(said.contains("socket of tunnel client: removed"), "{said}");
    assert_eq!(host.sockets(), [""; 0]);
}

/// Whoever may ask can hang, flood and lie as much as they like.
#[test]
fn visitors_who_mean_harm_harm_nothing() {
    let host = Host::new();
    let mut client = host.connected(&[]);
    let path = host.runtime_dir().join("client.sock");
    let connect = || UnixStream::connect(&path).unwrap();
    let status = format!("/proc/{}/status", client.id());
    let memory = || {
        let status = fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = memory();
    // What is no greeting, and a message of 100 MiB that only its beginning comes of.
    let mut liar = connect();
    liar.write_all(&[b'x'; 100_000]).unwrap_or_default();
    let mut huge = greeted(&path);
    let mut message = vec![b'l', 1, 0, 1];
    for number in [100 << 20, 1, 8_u32] {
        message.extend(number.to_le_bytes());
    }
    huge.write_all(&message).unwrap();
    huge.set_read_timeout(Some(SOON)).unwrap();
    assert!(matches!(huge.read(&mut [0]), Ok(0) | Err(_)), "it is shown the door");
    // Says nothing; asks without ever reading an answer; takes every place.
    let silent = connect();
    let mut deaf = greeted(&path);
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let ping = ping();
    while deaf.write_all(&ping).is_ok() {}
    let crowd: Vec<_> = (0..200).map_while(|_| UnixStream::connect(&path).ok()).collect();
    client.signal(Signal::SIGUSR1);
    client.wait(CONNECTED, Duration::from_secs(10)).unwrap();
    assert!(memory() < before + 20_000, "{before} kB, then {} kB", memory());
    drop((crowd, silent));
    // They have had their time by then.
    let end = Instant::now() + SOON;
    while host.ask(&["status"]).status.code() != Some(0) {
        assert!(Instant::now() < end, "nobody else is let in any more");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(deaf);
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// A connection that has said who it is.
fn greeted(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // "0" in hexadecimal: root.
    stream.write_all(b"\0AUTH EXTERNAL 30\r\n").unwrap();
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"OK "), "{:?}", &answer[..length]);
    stream.write_all(b"BEGIN\r\n").unwrap();
    stream
}

/// A call of `Report`, byte by byte.
fn ping() -> Vec<u8> {
    let mut fields = Vec::new();
    for (code, kind, text) in [
        (1_u8, b'o', "/net/openvpn/v3/backends/session"),
        (2, b's', "ovpn_client.Tunnel1"),
        (3, b's', "Report"),
    ] {
        while fields.len() % 8 != 0 {
            fields.push(0);
        }
        fields.extend([code, 1, kind, 0]);
        fields.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        fields.extend(text.bytes().chain([0]));
    }
    let mut message = vec![b'l', 1, 0, 1];
    for number in [0, 1, u32::try_from(fields.len()).unwrap()] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    while message.len() % 8 != 0 {
        message.push(0);
    }
    message
}

#[test]
fn only_root_the_owner_and_the_group_are_let_in() {
    let host = Host::new();
    let copy = host.directory.path().join("ovpn-client");
    fs::copy(program(), &copy).unwrap();
    let asked_by = |user: &str, groups: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", "65534"]);
        command.args(if groups.is_empty() {
            vec!["--clear-groups"]
        } else {
            vec!["--groups", groups]
        });
        command.arg(&copy).args(["status", "--runtime-dir"]).arg(host.runtime_dir());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let mut client = host.connected(&[]);
    let (code, said) = asked_by("65534", "");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("client cannot be asked: Permission denied"), "{said}");
    client.stop(Signal::SIGTERM);

    let mut client = host.connected(&["--control-group", "adm"]);
    let adm = nix::unistd::Group::from_name("adm").unwrap().unwrap().gid.to_string();
    let (code, said) = asked_by("65534", &adm);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(asked_by("65534", "").0, Some(1));
    // A socket that everybody may write to lets nobody else in either.
    let path = host.runtime_dir().join("client.sock");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, said) = asked_by("65534", "");
    assert_eq!(code, Some(1), "{said}");
    client.stop(Signal::SIGTERM);
}
