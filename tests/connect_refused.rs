//! What `ovpn-client connect` and `check` refuse before anything leaves the machine, and in how many
//! words. As root, like everything that connects.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::net::UdpSocket;
use std::process::{Command, Output};

/// Runs a command with a profile that has these bytes.
fn ovpn_client(arguments: &[&str], profile: &[u8]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("site.ovpn");
    std::fs::write(&path, profile).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovpn-client"));
    command.args(arguments).arg(path);
    if arguments[0] == "connect" {
        command.arg("--runtime-dir").arg(directory.path().join("run"));
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The server must not see a client that would go away again.
#[test]
fn offload_that_cannot_be_had_is_refused_before_a_packet_leaves() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let profile = format!(
        "client\ndev tun\ndisable-dco\nauth-user-pass\nremote 127.0.0.1 {} udp\npeer-fingerprint {}\n",
        server.local_addr().unwrap().port(),
        ["00"; 32].join(":"),
    );
    // What the profile forbids is forbidden whatever the kernel of this machine can.
    let output = ovpn_client(&["connect", "--dco", "on"], profile.as_bytes());
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(errors.contains("--dco on: ") && errors.contains("disable-dco"), "{errors}");
    let received = server.recv(&mut [0; 2048]).unwrap_err();
    assert_eq!(received.kind(), std::io::ErrorKind::WouldBlock);
}

/// Nobody waits for the end of an attempt to learn why it cannot succeed; which it does all the same if
/// the server comes later, since anybody on the way can say such a thing.
#[test]
fn a_server_that_is_not_there_is_named_with_the_hosts_own_reason() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let profile = format!(
        "client\ndev tun\nremote localhost {} udp4\nserver-poll-timeout 3\nconnect-retry-max 1\nsetenv CLIENT_CERT 0\n\
         peer-fingerprint {}\n",
        closed.port(),
        ["00"; 32].join(":"),
    );
    let output = ovpn_client(&["connect", "--output", "json"], profile.as_bytes());
    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    let position = |words: &str| {
        let position = lines.find(words);
        position.unwrap_or_else(|| panic!("{words:?} is not in: {lines}"))
    };
    let begun = position(&format!("Contacting localhost at {closed} over UDP"));
    let told = position(&format!("a packet did not reach {closed}: Connection refused"));
    let ended = position("attempt failed: no answer within 3 s: Connection refused");
    assert!(begun < told && told < ended, "{lines}");
    assert_eq!(lines.matches("did not reach").count(), 1, "{lines}");
}

#[test]
fn what_is_no_profile_is_told_in_one_line() {
    let utf16: Vec<u8> = [0xfeff_u16]
        .into_iter()
        .chain("client\r\nremote vpn.example\r\n".repeat(200).encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let without_mark = utf16[2..].to_vec();
    let binary: Vec<u8> =
        (0..40_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let page = "<!DOCTYPE html>\n<html>\n<body>\n<p>Sign in</p>\n</body>\n</html>\n".repeat(100);
    let cases: [(&[u8], &str); 4] = [
        (&utf16, "iconv -f UTF-16"),
        (&without_mark, "UTF-16"),
        (&binary, "binary"),
        (page.as_bytes(), "no line of this is a directive"),
    ];
    for (profile, words) in cases {
        for command in ["connect", "check"] {
            let output = ovpn_client(&[command], profile);
            let all = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command}: {all}");
            assert!(all.contains(words), "{command}: {words:?} is not in: {all}");
            assert!(all.lines().count() <= 4, "{command}: {all}");
        }
    }
}
