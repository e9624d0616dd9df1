use ovpn_dco::kernel::{ApiReport, Features};

use super::*;
use crate::profile::{NoFiles, Profile};

/// Enough to be a profile; the parser does not look into certificates.
const BASE: &str = "client\nremote vpn.example.com 1194\nauth-user-pass\n\
    <ca>\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n</ca>\n";

fn profile(extra: &str) -> Options {
    match Profile::parse(&format!("{BASE}{extra}\n"), "test.ovpn", &NoFiles) {
        Ok(profile) => profile.options,
        Err(errors) => panic!("{extra}: {errors:?}"),
    }
}

fn machine(ovpn: Status, v2: Status) -> Report {
    let api =
        |api, status| ApiReport { api, status, loaded: true, family_version: None, version: None };
    Report { kernel: "6.1.0".to_owned(), apis: vec![api(Api::Ovpn, ovpn), api(Api::OvpnDcoV2, v2)] }
}

fn ready() -> Status {
    Status::Ready(Features::default())
}

fn ids(decision: &Decision) -> Vec<String> {
    match decision {
        Decision::Kernel(api) => vec![format!("kernel {}", api.name())],
        Decision::Userspace { reasons } => reasons
            .iter()
            .map(|reason| match serde_json::to_value(reason).unwrap() {
                serde_json::Value::Object(map) => {
                    assert_eq!(map["id"], reason.id());
                    map["id"].as_str().unwrap().to_owned()
                }
                other => panic!("{other}"),
            })
            .collect(),
    }
}

#[test]
fn before_connecting() {
    let new = machine(ready(), Status::NoModule);
    let old = machine(Status::NoModule, ready());
    let both = machine(ready(), ready());
    let none = machine(Status::NoModule, Status::NoModule);
    let unprivileged = machine(Status::NotPermitted, Status::NoModule);
    let strange = machine(Status::Failed("EIO".to_owned()), Status::NotPermitted);
    for (wanted, extra, kernel, expected) in [
        (true, "", &new, &["kernel ovpn"][..]),
        (true, "", &old, &["kernel ovpn-dco-v2"]),
        (true, "", &both, &["kernel ovpn"]),
        (true, "", &none, &["no-module"]),
        (true, "", &unprivileged, &["not-permitted"]),
        (true, "", &strange, &["unusable", "not-permitted"]),
        (false, "", &new, &["switched-off"]),
        (true, "disable-dco", &new, &["disable-dco"]),
        (true, "comp-lzo no", &new, &["directive"]),
        (true, "compress stub-v2", &new, &["directive"]),
        (true, "compress", &new, &["directive"]),
        (true, "allow-compression no", &new, &["kernel ovpn"]),
        // Only what the server then pushes may need user space.
        (true, "allow-compression asym", &new, &["kernel ovpn"]),
        (true, "comp-lzo", &new, &["directive"]),
        (true, "proto tcp\nhttp-proxy proxy.example.com 3128", &new, &["http-proxy"]),
        (true, "proto tcp", &new, &["kernel ovpn"]),
        (true, "bind-dev eth0", &new, &["bind-dev"]),
        (true, "mssfix 1300\nreplay-window 128\nfloat", &new, &["kernel ovpn"]),
        // Everything that is in the way is told.
        (
            false,
            "disable-dco\ncomp-lzo",
            &none,
            &["switched-off", "disable-dco", "directive", "no-module"],
        ),
    ] {
        let options = profile(extra);
        let decision = decide(&Inputs {
            wanted,
            options: &options,
            remote: options.remotes.first(),
            session: None,
            kernel,
            netcfg: false,
            kernel_failure: None,
        });
        assert_eq!(ids(&decision), expected, "{extra:?} {kernel:?}");
        assert_eq!(decision.why_not_kernel().is_none(), decision.path().is_kernel());
    }
}

#[test]
fn after_the_push_reply() {
    let kernel = machine(ready(), Status::NoModule);
    for (extra, pushed, failure, expected) in [
        ("", &["peer-id 3", "cipher AES-128-GCM"][..], None, &["kernel ovpn"][..]),
        ("", &["peer-id 0"], None, &["kernel ovpn"]),
        ("", &["cipher AES-256-GCM"], None, &["no-peer-id"]),
        ("", &["peer-id -1"], None, &["no-peer-id"]),
        ("", &["peer-id 3", "compress stub-v2"], None, &["compression-framing"]),
        ("", &["peer-id 3", "protocol-flags aead-epoch"], None, &["epoch-keys"]),
        ("", &["peer-id 3", "protocol-flags aead-epoch"], Some("no"), &["kernel-failure"]),
        ("", &["comp-lzo no"], None, &["no-peer-id", "compression-framing"]),
        ("", &["peer-id 3"], Some("PEER_NEW: no"), &["kernel-failure"]),
        ("", &["peer-id 3", "tun-mtu 1400", "ping 10"], None, &["kernel ovpn"]),
    ] {
        let options = profile(extra);
        let cipher = ["cipher AES-256-GCM"];
        let pushed: Vec<String> = pushed.iter().chain(&cipher).map(|&p| p.to_owned()).collect();
        let session = SessionOptions::from_push(&options, &pushed, "").unwrap();
        let decision = decide(&Inputs {
            wanted: true,
            options: &options,
            remote: options.remotes.first(),
            session: Some(&session),
            kernel: &kernel,
            netcfg: false,
            kernel_failure: failure,
        });
        assert_eq!(ids(&decision), expected, "{pushed:?}");
    }
}

/// Before it is negotiated only a cipher that is the only one is a reason.
#[test]
fn cbc_is_not_for_the_kernel() {
    let kernel = machine(ready(), Status::NoModule);
    let push = |cipher: &str| Some(["peer-id 3".to_owned(), format!("cipher {cipher}")]);
    for (extra, pushed, expected) in [
        ("data-ciphers AES-128-CBC:AES-256-CBC", None, "cipher"),
        ("data-ciphers AES-256-CBC:AES-256-GCM", None, "kernel ovpn"),
        ("data-ciphers AES-256-CBC\ndata-ciphers-fallback AES-256-GCM", None, "kernel ovpn"),
        ("cipher AES-256-CBC", None, "kernel ovpn"),
        ("cipher AES-256-CBC", push("AES-256-GCM"), "kernel ovpn"),
        ("cipher AES-256-CBC", push("AES-256-CBC"), "cipher"),
        ("data-ciphers AES-256-CBC", push("AES-256-CBC"), "cipher"),
    ] {
        let options = profile(extra);
        let session =
            pushed.map(|pushed| SessionOptions::from_push(&options, &pushed, "").unwrap());
        let decision = decide(&Inputs {
            wanted: true,
            options: &options,
            remote: options.remotes.first(),
            session: session.as_ref(),
            kernel: &kernel,
            netcfg: false,
            kernel_failure: None,
        });
        assert_eq!(ids(&decision), [expected], "{extra:?}");
        let why = decision.why_not_kernel();
        let better = "AES-256-GCM, set on the server";
        assert!(why.is_none_or(|why| why.contains("-CBC") && why.contains(better)));
    }
}

#[test]
fn a_proxy_concerns_its_remote_only() {
    let options = profile("remote other.example.com 443 tcp\nhttp-proxy proxy.example.com 3128");
    let kernel = machine(ready(), Status::NoModule);
    for remote in options.remotes.iter().map(Some).chain([None]) {
        let inputs = Inputs {
            wanted: true,
            options: &options,
            remote,
            session: None,
            kernel: &kernel,
            netcfg: false,
            kernel_failure: None,
        };
        let proxied = match remote {
            Some(remote) => remote.proxy.is_some(),
            None => options.remotes.iter().all(|remote| remote.proxy.is_some()),
        };
        let expected = if proxied { "http-proxy" } else { "kernel ovpn" };
        assert_eq!(ids(&decide(&inputs)), [expected], "{remote:?}");
    }
}

#[test]
fn netcfg_keeps_the_data_path_out_of_the_kernel() {
    let options = profile("comp-lzo no");
    for kernel in [machine(ready(), ready()), machine(Status::NoModule, Status::NoModule)] {
        let decision = decide(&Inputs {
            wanted: true,
            options: &options,
            remote: options.remotes.first(),
            session: None,
            kernel: &kernel,
            netcfg: true,
            kernel_failure: None,
        });
        assert_eq!(ids(&decision)[..2], ["directive", "netcfg"]);
    }
}

#[test]
fn reasons_for_people_and_programs() {
    let reason = Reason::NoModule { kernel: "6.1.0".to_owned() };
    assert!(reason.to_string().contains("6.1.0"));
    assert!(reason.is_about_machine() && !Reason::NoPeerId.is_about_machine());
    assert_eq!(
        serde_json::to_string(&[reason, Reason::NoPeerId, Reason::Directive("comp-lzo".into())])
            .unwrap(),
        r#"[{"id":"no-module","detail":{"kernel":"6.1.0"}},{"id":"no-peer-id"},{"id":"directive","detail":"comp-lzo"}]"#
    );
}
