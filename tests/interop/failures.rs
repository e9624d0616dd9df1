//! What a user sees when it cannot work: exit code, status, and a message that names the cause.

use std::time::Duration;

use crate::client::{AUTH_FAILED, CONNECTED, Client, Ending, FAILED};
use crate::lab::{Lab, plain};
use crate::pki::{Authority, StaticKeys, Validity};
use crate::server::{ServerConfig, Transport, Version, Wrapping};

/// The client gives up after the first failure, so that a test ends.
const ONCE: &str = "connect-retry-max 1\nserver-poll-timeout 4\n";

/// Runs a client that cannot connect to its end, and checks that it leaves nothing.
fn run(lab: &Lab, config: &ServerConfig, profile: &str, arguments: &[&str]) -> Ending {
    let _server = lab.start_server(config);
    let before = lab.client_ns.snapshot();
    let ending = lab.start_client(profile, arguments).finish(Duration::from_secs(30));
    before.assert_same(&lab.client_ns.snapshot());
    ending
}

#[test]
fn server_of_another_ca() {
    for transport in [Transport::Udp4, Transport::Tcp4] {
        let mut lab = Lab::new();
        let config = plain(Version::V27, transport);
        let profile = lab.profile(&config, ONCE);
        lab.authority = Authority::new("Other CA");
        lab.server_identity = lab.authority.server("server.example", Validity::Now);
        let ending = run(&lab, &config, &profile, &[]);
        ending.assert_failure(1, FAILED, &["issuer", "certification authority", " ca "]);
    }
}

#[test]
fn expired_server_certificate() {
    let mut lab = Lab::new();
    lab.server_identity = lab.authority.server("server.example", Validity::Expired);
    let config = plain(Version::V26, Transport::Udp4);
    let ending = run(&lab, &config, &lab.profile(&config, ONCE), &[]);
    ending.assert_failure(1, FAILED, &["expired"]);
}

#[test]
fn expired_client_certificate() {
    for version in Version::ALL {
        let mut lab = Lab::new();
        lab.client_identity = lab.authority.client("client.example", Validity::Expired);
        let config = plain(version, Transport::Udp4);
        // 2.6 refuses it without a word.
        let profile = lab.profile(&config, &format!("{ONCE}hand-window 5\n"));
        let ending = run(&lab, &config, &profile, &[]);
        ending.assert_failure(1, FAILED, &["expired"]);
    }
}

/// What a server says of it, if anything, is not always what is wrong.
#[test]
fn client_with_a_server_certificate() {
    for version in Version::ALL {
        let mut lab = Lab::new();
        lab.client_identity = lab.authority.server("client.example", Validity::Now);
        let config = plain(version, Transport::Udp4);
        let profile = lab.profile(&config, &format!("{ONCE}hand-window 5\n"));
        let ending = run(&lab, &config, &profile, &[]);
        ending.assert_failure(1, FAILED, &["not meant for TLS clients"]);
    }
}

#[test]
fn server_with_a_client_certificate() {
    let mut lab = Lab::new();
    lab.server_identity = lab.authority.client("server.example", Validity::Now);
    // The server itself does not mind.
    let config = plain(Version::V27, Transport::Udp4);
    let ending = run(&lab, &config, &lab.profile(&config, ONCE), &[]);
    ending.assert_failure(1, FAILED, &["remote-cert-tls", "remote-cert-eku", "key usage"]);
}

/// By a list in the profile, by one in a file in DER, and by a directory of serial numbers.
#[test]
fn revoked_server() {
    use x509_parser::pem::parse_x509_pem;
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let serial = lab.server_identity.serial;
    let list = lab.authority.revocation_list(&[serial]);
    let (_, pem) = parse_x509_pem(list.as_bytes()).expect("PEM");
    std::fs::write(lab.directory().join("list.crl"), &pem.contents).expect("list");
    let revoked = lab.directory().join("revoked");
    std::fs::create_dir(&revoked).expect("directory");
    std::fs::write(revoked.join(serial.to_string()), "").expect("file");
    let inline = format!("<crl-verify>\n{list}</crl-verify>");
    for lines in [&*inline, "crl-verify list.crl", "crl-verify revoked dir"] {
        let profile = lab.profile(&config, &format!("{ONCE}{lines}\n"));
        let ending = run(&lab, &config, &profile, &[]);
        ending.assert_failure(1, FAILED, &["crl-verify: the server's certificate"]);
        assert!(ending.message(FAILED).contains("is revoked"), "{}", ending.transcript);
    }
    // Of somebody else.
    let _server = lab.start_server(&config);
    let list = lab.authority.revocation_list(&[lab.client_identity.serial]);
    let lines = format!("<crl-verify>\n{list}</crl-verify>\n");
    let mut running = lab.start_client(&lab.profile(&config, &lines), &[]);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
}

#[test]
fn server_of_another_name() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let profile = lab.profile(&config, &format!("{ONCE}verify-x509-name other.example name\n"));
    let ending = run(&lab, &config, &profile, &[]);
    ending.assert_failure(1, FAILED, &["verify-x509-name"]);
}

#[test]
fn wrong_control_channel_key() {
    let other = tempfile::TempDir::new().expect("temporary directory");
    let other = StaticKeys::generate(other.path());
    let cases = Wrapping::ALL.into_iter().flat_map(|wrapping| {
        [Transport::Udp4, Transport::Tcp4].map(|transport| (wrapping, transport))
    });
    for (wrapping, transport) in cases {
        if wrapping == Wrapping::None {
            continue;
        }
        let mut lab = Lab::new();
        let config = ServerConfig { wrapping, ..plain(Version::V27, transport) };
        let server = lab.start_server(&config);
        lab.keys = StaticKeys {
            shared: other.shared.clone(),
            v2_server: other.v2_server.clone(),
            v2_client: other.v2_client.clone(),
        };
        let before = lab.client_ns.snapshot();
        let profile = lab.profile(&config, ONCE);
        let ending = lab.start_client(&profile, &[]).finish(Duration::from_secs(30));
        before.assert_same(&lab.client_ns.snapshot());
        // Such a server answers nothing, or closes the connection, so all the client can do is to
        // name what may be wrong.
        let option = match wrapping {
            Wrapping::TlsAuth(_) => "tls-auth",
            Wrapping::TlsCrypt => "tls-crypt",
            _ => "tls-crypt-v2",
        };
        ending.assert_failure(1, FAILED, &[option]);
        drop(server);
    }
}

#[test]
fn nobody_answers() {
    for (transport, words) in [
        (Transport::Udp4, &["no answer", "timeout", "timed out", "refused"][..]),
        (Transport::Tcp4, &["refused"]),
    ] {
        let lab = Lab::new();
        let profile = lab.profile(&plain(Version::V27, transport), ONCE);
        let ending = lab.start_client(&profile, &[]).finish(Duration::from_secs(30));
        ending.assert_failure(1, FAILED, words);
    }
}

/// A server that asks for user name and password, and takes one pair.
fn with_password(lab: &Lab, version: Version) -> ServerConfig {
    let script = lab.script(
        "verify",
        "#!/bin/sh\n[ \"$username\" = ada ] && [ \"$password\" = 'right one' ]\n",
    );
    ServerConfig {
        extra: format!("script-security 3\nauth-user-pass-verify {script} via-env\n"),
        ..plain(version, Transport::Udp4)
    }
}

#[test]
fn wrong_password() {
    for version in Version::ALL {
        let lab = Lab::new();
        let config = with_password(&lab, version);
        let file = lab.file("login", "ada\nwrong one\n");
        let profile = lab.profile(&config, "auth-user-pass\n");
        let ending = run(&lab, &config, &profile, &["--auth-user-pass", &file]);
        ending.assert_failure(3, AUTH_FAILED, &["auth", "password", "credentials"]);
        assert!(!ending.transcript.contains("wrong one"), "the password is in its output");
    }
}

/// A server that always puts the client off is not asked for ever.
#[test]
fn put_off_again_and_again() {
    let lab = Lab::new();
    let asked = lab.directory().join("asked");
    let script = lab.script(
        "verify",
        &format!(
            "#!/bin/sh\necho x >> {}\necho 'TEMP[backoff 1]:come later' > \"$auth_failed_reason_file\"\n\
             exit 1\n",
            asked.display()
        ),
    );
    let config = ServerConfig {
        extra: format!("script-security 3\nauth-user-pass-verify {script} via-env\n"),
        ..plain(Version::V27, Transport::Udp4)
    };
    let file = lab.file("login", "ada\nright one\n");
    let profile = lab.profile(&config, "auth-user-pass\nconnect-retry-max 3\n");
    let ending = run(&lab, &config, &profile, &["--auth-user-pass", &file]);
    ending.assert_failure(1, FAILED, &["come later"]);
    assert_eq!(std::fs::read_to_string(asked).expect("the script ran").lines().count(), 3);
}

/// What the machine lacks has an exit code of its own.
#[test]
fn missing_tun_device() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let before = lab.client_ns.snapshot();
    // In the kernel's data path no such device is needed.
    let ending = Client::start_without_tun(
        &lab.client_ns,
        lab.directory(),
        &lab.profile(&config, ONCE),
        &["--dco", "off"],
    )
    .finish(Duration::from_secs(30));
    before.assert_same(&lab.client_ns.snapshot());
    ending.assert_failure(4, FAILED, &["/dev/net/tun"]);
}

#[test]
fn right_password() {
    use crate::client::CONNECTED;
    for version in Version::ALL {
        let lab = Lab::new();
        let config = with_password(&lab, version);
        let _server = lab.start_server(&config);
        let file = lab.file("login", "ada\nright one\n");
        let profile = lab.profile(&config, "auth-user-pass\n");
        let mut client = lab.start_client(&profile, &["--auth-user-pass", &file]);
        client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
        lab.ping("10.8.0.1").unwrap();
    }
}

/// A profile that cannot be used never reaches the network.
#[test]
fn unusable_profile() {
    let lab = Lab::new();
    let profile = lab.profile(&plain(Version::V27, Transport::Udp4), "dev tap\nno-such-option 1\n");
    let ending = lab.start_client(&profile, &[]).finish(Duration::from_secs(10));
    assert_eq!(ending.code, Some(2), "{}", ending.transcript);
    assert!(
        ending.transcript.contains("client.ovpn") && ending.transcript.contains("dev: "),
        "neither file nor directive: {}",
        ending.transcript
    );
}
