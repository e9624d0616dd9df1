//! Whole profiles: rules that need more than one directive.

use super::*;

/// Enough for a usable profile, but without a server.
fn base() -> String {
    format!("client\nauth-user-pass\npeer-fingerprint {}\n", ["00"; 32].join(":"))
}

fn parse(text: &str) -> Result<Profile, ProfileErrors> {
    Profile::parse(text, "test.ovpn", &NoFiles)
}

/// A usable profile with `extra` in it.
fn with(extra: &str) -> Profile {
    parse(&format!("{}remote a\n{extra}\n", base())).unwrap_or_else(|e| panic!("{extra}: {e}"))
}

/// The only error of a profile with `extra` in it.
fn error(extra: &str) -> ProfileError {
    let errors = parse(&format!("{}remote a\n{extra}\n", base())).expect_err(extra).errors;
    assert_eq!(errors.len(), 1, "{extra}: {errors:?}");
    errors.into_iter().next().unwrap()
}

fn last(extra: &str) -> VerdictKind {
    with(extra).verdicts.pop().unwrap().kind
}

fn ignored(kind: &VerdictKind) -> bool {
    matches!(kind, VerdictKind::Ignored { .. })
}

// Known vectors of the protocol reference, 16.11.

#[test]
fn what_openvpn_3_refuses_too() {
    for line in ["mode server", "mode", "key-method 1", "fragment", "frobnicate", "secret x"] {
        let error = error(line);
        assert_eq!((error.line, error.file.as_str()), (Some(5), "test.ovpn"), "{line}");
        assert_eq!(error.directive.as_deref(), line.split(' ').next());
    }
}

#[test]
fn what_openvpn_3_accepts_too() {
    with("cipher AES-128-GCM\ncipher AES-256-GCM");
    with("ignore-unknown-option a b\na\nb 1");
    assert!(ignored(&last("setenv opt unknown x")));
    assert!(ignored(&last("setenv opt fragment 1300")));
    assert!(ignored(&last("tun-ipv6")));
    assert!(ignored(&last("opt-verify")));
    assert!(ignored(&last("setenv FORWARD_COMPATIBLE 1\nfrobnicate")));
    assert_eq!(with("setenv opt verb 4").options.verb, Some(4));
}

#[test]
fn recursive_routing_is_allowed_only_where_it_is_asked_for() {
    assert!(!with("").options.device.allow_recursive_routing);
    assert!(with("allow-recursive-routing").options.device.allow_recursive_routing);
}

#[test]
fn client_may_be_written_as_its_parts() {
    let parts = base().replace("client\n", "tls-client\npull\n");
    assert!(parse(&format!("{parts}remote a\n")).is_ok());
    let error = parse(&format!("{}remote a\n", base().replace("client\n", ""))).unwrap_err();
    assert!(
        error.to_string().contains("neither 'client' nor both 'tls-client' and 'pull' are there")
    );
}

#[test]
fn remote_list() {
    let profile = parse(&format!(
        "{}proto tcp6\nremote 0.default.invalid\nport 9999\nremote 1.domain.invalid 1111 udp\n\
         <connection>\nremote 2.domain.invalid\nport 8888\n</connection>\n\
         <connection>\nproto udp6\nremote 3:f00d:4::1\n</connection>\n",
        base()
    ))
    .unwrap();
    let found: Vec<_> = profile
        .options
        .remotes
        .iter()
        .map(|r| (r.host.as_str(), r.protocol, r.family, r.port))
        .collect();
    assert_eq!(
        found,
        [
            ("0.default.invalid", Protocol::Tcp, Family::V6, 9999),
            ("1.domain.invalid", Protocol::Udp, Family::Any, 1111),
            ("2.domain.invalid", Protocol::Tcp, Family::V6, 8888),
            ("3:f00d:4::1", Protocol::Udp, Family::V6, 9999),
        ]
    );
}

// Profile forms of the protocol reference, 13.1 and 16.17.
#[test]
fn proxy_methods() {
    for (arguments, auth) in [
        ("", ProxyAuth::None),
        ("none", ProxyAuth::None),
        ("auto", ProxyAuth::Any),
        ("basic", ProxyAuth::Any),
        ("auto-nct", ProxyAuth::NoCleartext),
        ("digest", ProxyAuth::NoCleartext),
        ("ntlm", ProxyAuth::NoCleartext),
    ] {
        let profile = with(&format!("proto tcp\nhttp-proxy proxyhost 3128 {arguments}"));
        let proxy = profile.options.remotes[0].proxy.clone().unwrap();
        let ProxyKind::Http(http) = proxy.kind else { panic!("{proxy:?}") };
        assert_eq!(http.auth, auth, "{arguments}");
        assert_eq!(profile.options.data.dco_incompatible, ["http-proxy"]);
    }
    assert!(error("http-proxy p 1").reason.contains("TCP"));
    let socks = |line: &str| with(&format!("proto tcp\n{line}")).options.remotes[0].proxy.clone();
    let proxy = socks("socks-proxy s").unwrap();
    assert_eq!((&*proxy.host, proxy.port, proxy.directive()), ("s", 1080, "socks-proxy"));
    assert_eq!(socks("socks-proxy s 1081 stdin").unwrap().port, 1081);
    assert!(error("socks-proxy s").reason.contains("socks-proxy needs a server"));
    let both = error("proto tcp\nhttp-proxy p 1\nsocks-proxy s");
    assert_eq!(both.directive.as_deref(), Some("socks-proxy"));
    let forced = "remote b 1 tcp\nproto-force tcp";
    assert_eq!(with(forced).options.remotes.len(), 1);
    assert!(error("proto-force tcp").reason.contains("proto-force leaves none of 1"));
}

#[test]
fn local_ports() {
    let port = |extra: &str| with(extra).options.remotes[0].local_port;
    assert_eq!(port(""), None);
    assert_eq!(port("port 1200"), None);
    assert_eq!(port("bind"), Some(1194));
    assert_eq!(port("bind\nport 1200"), Some(1200));
    assert_eq!(port("lport 1300"), Some(1300));
    assert_eq!(port("lport 1300\nnobind"), None);
    assert_eq!(port("lport 0"), None);
}

#[test]
fn one_wrapping_only() {
    let key = format!(
        "-----BEGIN OpenVPN Static key V1-----\n{}\n-----END OpenVPN Static key V1-----\n",
        "0f".repeat(256)
    );
    let block = |tag: &str| format!("<{tag}>\n{key}</{tag}>\n");
    let both = error(&format!("{}{}", block("tls-auth"), block("tls-crypt")));
    assert!(both.reason.contains("line 5 has 'tls-auth' already"), "{both}");
    let old_form = format!("tls-auth [inline] 1\n{}ca [inline]\n", block("tls-auth"));
    let WrapOptions::TlsAuth { direction, digest, .. } = with(&old_form).options.wrap else {
        panic!("wrapping")
    };
    assert_eq!((direction, digest), (Some(KeyDirection::Inverse), Digest::Sha1));
    let auth = |extra: &str| with(&format!("{}{extra}", block("tls-auth"))).options.wrap;
    assert!(matches!(auth("auth SHA384"), WrapOptions::TlsAuth { digest: Digest::Sha384, .. }));
    let split = auth("auth SHA384\ntls-auth-digest SHA512");
    assert!(matches!(split, WrapOptions::TlsAuth { digest: Digest::Sha512, .. }));
    assert_eq!(error(&format!("{}auth MD5", block("tls-auth"))).directive.unwrap(), "auth");
    assert!(ignored(&last("auth MD5")), "without tls-auth the digest does not matter");
}

/// A `<connection>` block's wrapping is that of its server, and otherwise the profile's is.
#[test]
fn wrapping_in_a_connection_block() {
    let key = |digits: &str| {
        let digits = digits.repeat(256);
        format!(
            "-----BEGIN OpenVPN Static key V1-----\n{digits}\n-----END OpenVPN Static key V1-----\n"
        )
    };
    let block = |tag: &str| format!("<{tag}>\n{}</{tag}>\n", key("0f"));
    let text = format!(
        "{}<connection>\nremote b\n{}</connection>\n<connection>\nremote c\n</connection>\n\
         <connection>\nremote d\nkey-direction 0\n</connection>\n{}key-direction 1\n",
        base(),
        block("tls-crypt"),
        block("tls-auth"),
    );
    let options = parse(&text).unwrap().options;
    let [b, c, d] = &*options.remotes else { panic!("{:?}", options.remotes) };
    let direction = |wrap: &WrapOptions| match wrap {
        WrapOptions::TlsAuth { direction, .. } => *direction,
        other => panic!("{other:?}"),
    };
    assert!(matches!(options.wrap_for(b), WrapOptions::TlsCrypt { .. }));
    assert_eq!(direction(options.wrap_for(c)), Some(KeyDirection::Inverse));
    assert_eq!(direction(options.wrap_for(d)), Some(KeyDirection::Normal));
    let both = format!(
        "{}<connection>\nremote b\n{}{}</connection>\n",
        base(),
        block("tls-crypt"),
        block("tls-auth"),
    );
    assert!(parse(&both).unwrap_err().to_string().contains("has 'tls-crypt' already"));
}

/// Both real clients go on with these.
#[test]
fn what_is_no_reason_to_refuse_a_profile() {
    let port = |line: &str| with(&format!("port 1\n{line}")).options.remotes[0].port;
    assert_eq!(port("port openvpn"), 1194);
    assert_eq!(port("rport https"), 443);
    assert!(error("port telnet").to_string().contains("the service's number"));
    assert_eq!(with("verb 99").options.verb, Some(11));
    let warned = |line: &str| match last(line) {
        VerdictKind::Ignored { reason, warning: true } => reason,
        other => panic!("{line}: {other:?}"),
    };
    warned("push \"route 10.0.0.0 255.0.0.0\"");
    assert!(warned("route intranet.example.com").contains("write the address"));
    let route = |line: &str| with(line).options.network.routes.pop().unwrap();
    assert_eq!(route("route 10.1.0.0/16"), route("route 10.1.0.0 255.255.0.0"));
    assert!(error("route 10.1.0.0/16 255.0.0.0").reason.contains("and a netmask"));
    for wrong in ["route 10.1.0.0/33", "route 10.1.0.300", "route 10.1.0.0/"] {
        error(wrong);
    }
}

#[test]
fn who_the_client_is() {
    let fingerprint = format!("peer-fingerprint {}\n", ["00"; 32].join(":"));
    let nobody = parse(&format!("client\nremote a\n{fingerprint}")).unwrap_err();
    assert!(nobody.to_string().contains("nothing says who this client is"), "{nobody}");
    for extra in ["setenv CLIENT_CERT 0", "# OVPN_ACCESS_SERVER_EXTERNAL_PKI=1"] {
        let text = format!("client\nremote a\n{fingerprint}{extra}\n");
        let key = parse(&text).unwrap().options.tls.key;
        assert_eq!(key.is_some(), extra.starts_with('#'), "{extra}");
    }
    let nothing = parse("client\nremote a\nauth-user-pass\n").unwrap_err();
    assert!(nothing.to_string().contains("which server to trust"));
}

// Known vectors of the protocol reference, 16.15.
#[test]
fn verified_names() {
    let name = |line: &str| with(line).options.tls.verify_x509_name.unwrap();
    assert_eq!(
        name("verify-x509-name Server- name-prefix"),
        X509Name::NamePrefix("Server-".into())
    );
    assert_eq!(
        name("verify-x509-name 'server.example.org'"),
        X509Name::Subject("server.example.org".into())
    );
    assert!(error("verify-x509-name").reason.contains("needs"));
    assert!(error("verify-x509-name server nonsense-arg").reason.contains("nonsense-arg"));
}

#[test]
fn only_typed_credentials_can_be_forgotten() {
    let inline = "<auth-user-pass>\njoe\nsecret\n</auth-user-pass>\n";
    let typed = with("auth-nocache");
    assert!(typed.options.auth.nocache);
    assert_eq!(typed.verdicts.last().unwrap().kind, VerdictKind::Supported { note: None });
    for text in [format!("auth-nocache\n{inline}"), format!("{inline}auth-nocache")] {
        let kept = with(&text);
        assert!(!kept.options.auth.nocache);
        let verdict = kept.verdicts.iter().find(|v| v.directive == "auth-nocache").unwrap();
        assert!(matches!(verdict.kind, VerdictKind::Ignored { warning: false, .. }));
    }
    assert!(with("auth-nocache\n<auth-user-pass>\njoe\n</auth-user-pass>").options.auth.nocache);
}

#[test]
fn what_has_no_effect_is_not_called_supported() {
    for line in [
        "reneg-bytes 0",
        "float",
        "resolv-retry 60",
        "auth-retry interact",
        "echo hello",
        "management-of-tomorrow",
        "reneg-bytes 64000000",
        "reneg-pkts 1000",
    ] {
        assert!(ignored(&last(line)), "{line}");
    }
    for line in [
        "allow-compression yes",
        "comp-lzo",
        "explicit-exit-notify 4",
        "explicit-exit-notify 0",
        "replay-window 128 30",
    ] {
        assert!(matches!(last(line), VerdictKind::Supported { note: Some(_) }), "{line}");
    }
    for line in [
        "resolv-retry infinite",
        "explicit-exit-notify 3",
        "allow-compression no",
        "allow-compression asym",
        "auth-retry nointeract",
    ] {
        assert_eq!(last(line), VerdictKind::Supported { note: None }, "{line}");
    }
    assert!(error("reneg-bytes x").reason.contains("not a number"));
}

#[test]
fn cipher_takes_no_part_in_negotiation() {
    use ovpn_dco::Cipher;
    for text in [
        "data-ciphers AES-256-GCM\ncipher AES-128-GCM",
        "cipher AES-128-GCM\ndata-ciphers AES-256-GCM",
    ] {
        let profile = with(text);
        let data = &profile.options.data;
        assert_eq!((&*data.ciphers, data.fallback), (&[Cipher::Aes256Gcm][..], None));
        let verdict = profile.verdicts.iter().find(|v| v.directive == "cipher").unwrap();
        assert!(matches!(&verdict.kind, VerdictKind::Supported { note: Some(note) }
            if note.contains("not in data-ciphers")));
        let pushed = ["cipher AES-128-GCM".to_owned()];
        assert!(SessionOptions::from_push(&profile.options, &pushed, "").is_err());
    }
    // A server that says nothing of ciphers uses the one that both sides were given.
    let old = with("cipher AES-128-GCM").options;
    assert_eq!(SessionOptions::from_push(&old, &[], "").unwrap().cipher, Cipher::Aes128Gcm);
}

#[test]
fn names_that_only_openvpn_3_has() {
    let control = with("tls-timeout-ms 250\nmssfix-ctrl 1400").options.control;
    assert_eq!((control.retransmit.as_millis(), control.max_packet_size), (250, 1400));
    assert_eq!(with("mssfix-ctrl 9000").options.control.max_packet_size, 2048);
    assert!(error("tls-timeout-ms 50").reason.contains("100"));
    assert!(error("mssfix-ctrl 100").reason.contains("256"));
}

#[test]
fn stray_key_lines_are_not_shown() {
    let lines = [
        "37268ea8f95d7f71f9fb8fc03770c460",
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg",
        "c2VjcmV0IGtleSBieXRlcw==",
    ];
    for line in lines {
        let error = error(line);
        assert_eq!(error.reason, "this line is no directive");
        assert!(!error.to_string().contains(line));
    }
    assert_eq!(error("Remote b").hint.unwrap(), "write 'remote'");
}

#[test]
fn extra_and_missing_words() {
    assert_eq!(
        last("verb 3 4"),
        VerdictKind::Supported { note: Some("the last words of the line are not used".to_owned()) }
    );
    assert_eq!(error("keepalive 10").reason, "needs 2 values, has 1");
    assert!(error("<verb>\n3\n</verb>").reason.contains("no inline form"));
    assert!(error("<connection>\nremote b\nca x\n</connection>").reason.contains("<connection>"));
}

#[test]
fn files_need_a_source() {
    let error = error("cert client.crt");
    assert!(error.reason.starts_with("cannot read 'client.crt': files are not read"));
    assert!(error.hint.unwrap().contains("<cert>"));
}

#[test]
fn every_error_comes_at_once_in_order() {
    let errors = parse("verb x\nremote\n\"open\nport 0\n").unwrap_err().errors;
    let lines: Vec<_> = errors.iter().map(|e| e.line).collect();
    assert_eq!(lines[..4], [Some(1), Some(2), Some(3), Some(4)]);
    assert!(lines[4..].iter().all(Option::is_none));
    assert_eq!(errors[0].to_string(), "test.ovpn:1: verb: 'x' is not a number from 0 to 11");
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn never_panics_on_known_names(
        name in proptest::sample::select(directives::names()),
        words in "( [-a-z0-9.:/!\"']{0,12}){0,5}",
        inline in "[ -~\n]{0,80}",
    ) {
        let _ = parse(&format!("{}remote a\n{name}{words}\n<{name}>\n{inline}\n</{name}>\n", base()));
    }
}

/// `crl-verify`: a list as text or as DER, or a directory with a file for each serial number.
#[test]
fn revocation_as_list_and_as_directory() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        std::fs::write(directory.path().join(name), content).unwrap();
    };
    let text = "-----BEGIN X509 CRL-----\nMIICWDCC\n-----END X509 CRL-----\n";
    put("list.pem", text.as_bytes());
    put("list.crl", &pem::parse(text).unwrap().into_contents());
    std::fs::create_dir(directory.path().join("revoked")).unwrap();
    for name in ["revoked/17", "revoked/20240001", "revoked/README", "revoked/0x11"] {
        put(name, b"");
    }
    let files = DirFiles::new(directory.path().to_owned(), std::sync::Arc::new(OwnRights));
    let parsed = |line: &str| {
        let fingerprint = ["00"; 32].join(":");
        let text =
            format!("client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n{line}\n");
        Profile::parse(&text, "test", &files)
    };
    for line in ["crl-verify list.pem", "crl-verify list.crl"] {
        let list = parsed(line).unwrap().options.tls.crl.unwrap();
        assert_eq!(list.replace('\r', ""), text, "{line}");
    }
    let tls = parsed("crl-verify list.pem\ncrl-verify revoked dir").unwrap().options.tls;
    assert_eq!(tls.crl, None, "the last one counts");
    assert_eq!(tls.revoked_serials.into_iter().collect::<Vec<_>>(), ["17", "20240001"]);
    for (line, words) in [
        ("crl-verify none dir", "cannot read the directory 'none': No such file"),
        ("crl-verify list.pem dir", "Not a directory"),
        ("crl-verify list.pem folder", "'folder' is not one of dir"),
    ] {
        let error = parsed(line).unwrap_err().to_string();
        assert!(error.contains("crl-verify") && error.contains(words), "{error}");
    }
}

const CA: &str = concat!("<ca>\n", include_str!("../../tests/profiles/ca.crt"), "</ca>\n");
const CERT: &str =
    concat!("<cert>\n", include_str!("../../tests/profiles/client.crt"), "</cert>\n");
const KEY: &str = concat!("<key>\n", include_str!("../../tests/profiles/client.key"), "</key>\n");
const STATIC_KEY: &str = include_str!("../../tests/profiles/ta.key");
const CRL: &str =
    concat!("<crl-verify>\n", include_str!("../../tests/profiles/crl.pem"), "</crl-verify>\n");

/// The message about `faulty` names each remedy in `words`, and with any of `mended` in its place the
/// profile can be used.
#[track_caller]
fn remedied(base: &str, faulty: &str, words: &[&str], mended: &[&str]) {
    let errors = parse(&format!("{base}{faulty}\n")).expect_err(faulty).to_string();
    for word in words {
        assert!(errors.contains(word), "{faulty}: {word}: {errors}");
    }
    for text in mended {
        if let Err(errors) = parse(&format!("{base}{text}\n")) {
            panic!("{faulty}: what should have helped: {text}: {errors}");
        }
    }
}

#[test]
fn what_the_errors_of_one_line_advise_helps() {
    let both =
        format!("<tls-auth>\n{STATIC_KEY}</tls-auth>\n<tls-crypt>\n{STATIC_KEY}</tls-crypt>");
    let auth = format!("<tls-auth>\n{STATIC_KEY}</tls-auth>\n");
    let crypt = format!("<tls-crypt>\n{STATIC_KEY}</tls-crypt>\n");
    let digests = ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512"];
    let digests = digests.map(|name| format!("{auth}auth {name}"));
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("mode server", &["remove the line"], &[""]),
        ("local my-host", &["this host's addresses"], &["local 192.0.2.1", "local fd00::1"]),
        ("proto tcp-server", &["write 'tcp'"], &["proto tcp"]),
        ("port telnet", &["the service's number"], &["port 23"]),
        (
            "data-ciphers BF-CBC",
            &["AES-256-GCM, AES-128-GCM, AES-192-GCM and CHACHA20-POLY1305", "AES-256-CBC"],
            &[
                "data-ciphers AES-256-GCM",
                "data-ciphers AES-128-GCM",
                "data-ciphers AES-192-GCM",
                "data-ciphers CHACHA20-POLY1305",
                "data-ciphers AES-256-CBC",
            ],
        ),
        ("fragment 1300", &["remove it", "mssfix and tun-mtu"], &["mssfix 1300\ntun-mtu 1400"]),
        ("dev tap0", &["use 'dev tun'"], &["dev tun"]),
        ("dev-type tap", &["use 'dev tun'"], &["dev tun"]),
        ("dev office", &["add 'dev-type tun'"], &["dev office\ndev-type tun"]),
        (
            "pull-filter ignore route 10.",
            &["into quotes"],
            &["pull-filter ignore \"route 10.\"", "pull-filter ignore 'route 10.'"],
        ),
        ("tls-version-max 1.1", &["remove the line"], &["", "tls-version-max 1.2"]),
        ("remote-cert-ku zz", &["for example a0 or 88"], &["remote-cert-ku a0 88"]),
        (&both, &["keep the one"], &[&auth, &crypt]),
        ("auth-token-user ?", &["base64", "auth-user-pass"], &["auth-token-user am9l", ""]),
        (
            "http-proxy p 1\nsocks-proxy s",
            &["keep the one"],
            &["proto tcp\nhttp-proxy p 1", "proto tcp\nsocks-proxy s"],
        ),
        (
            "http-proxy p 1",
            &["add 'proto tcp'", "remove http-proxy"],
            &["proto tcp\nhttp-proxy p 1"],
        ),
        (
            "tls-remote x",
            &["'verify-x509-name NAME name'", "'verify-x509-name \"C=.., CN=..\"'"],
            &["verify-x509-name NAME name", "verify-x509-name \"C=.., CN=..\""],
        ),
        (
            "tls-verify x",
            &["verify-x509-name, peer-fingerprint or remote-cert-tls", "'setenv opt tls-verify'"],
            &["verify-x509-name x name", "remote-cert-tls server", "setenv opt tls-verify x"],
        ),
        ("x509-username-field CN", &["verify-x509-name"], &["verify-x509-name x name"]),
        ("capath certs", &["use 'ca'"], &[CA]),
        ("secret x", &["certificates", "peer-fingerprint"], &[CA, ""]),
        ("cryptoapicert x", &["'key'"], &[&format!("{CERT}{KEY}")]),
        ("frobnicate x", &["remove it", "'setenv opt'"], &["", "setenv opt frobnicate x"]),
        ("prot udp", &["did you mean 'proto'?"], &["proto udp"]),
        ("Remote b", &["write 'remote'"], &["remote b"]),
        ("<verb>\n3\n</verb>", &["'verb VALUE' on one line"], &["verb 3"]),
        ("<connection>\nremote b\nverb 3\n</connection>", &["outside of the block"], &["verb 3"]),
        (
            "setenv V \"a",
            &["close the quote", "as \\\""],
            &["setenv V \"a\"", "setenv V \"a \\\" b\""],
        ),
        (
            "setenv V 'a",
            &["close the quote", "between double quotes"],
            &["setenv V 'a'", "setenv V \"'a\""],
        ),
        (r"log C:\dir", &[r"\\ for one", "single quotes"], &[r"log C:\\dir", r"log 'C:\dir'"]),
        (r"log C:\", &[r"\\ for one", "single quotes"], &[r"log C:\\", r"log 'C:\'"]),
        ("<ca>\nx", &["its end tag on a line of its own"], &[CA]),
        (STATIC_KEY.trim_start_matches('#'), &["between its tags"], &[&auth]),
        ("<key>\nx\n</key>", &["must be in PEM form"], &[&format!("{CERT}{KEY}")]),
        ("<tls-crypt>\nx\n</tls-crypt>", &["an OpenVPN static key"], &[&crypt]),
        (
            "dns server 1 dnssec yes",
            &["add 'dns server 1 address ...'"],
            &["dns server 1 dnssec yes\ndns server 1 address 10.8.0.1"],
        ),
        (
            "dns something else",
            &["'dns search-domains NAME...'", "'dns server N address|resolve-domains|"],
            &["dns search-domains example.com", "dns server 1 address 10.8.0.1"],
        ),
        ("peer-id 4", &["remove the line"], &[""]),
        ("server 10.8.0.0 255.255.255.0", &["client profile"], &[""]),
        ("no-replay", &["remove the line"], &[""]),
        ("show-tls", &["remove the line"], &[""]),
        ("client-nat snat 10.0.0.0 255.0.0.0 10.1.0.0", &["remove it"], &[""]),
        ("config other.ovpn", &["everything into one profile"], &[""]),
        ("route-table 7", &["remove the line", "route-nopull"], &["", "route-nopull"]),
    ];
    let base = format!("{}remote a\n", base());
    for (faulty, words, mended) in rows {
        remedied(&base, faulty, words, mended);
    }
    let digests: Vec<_> = digests.iter().map(String::as_str).collect();
    remedied(
        &base,
        &format!("{auth}auth MD5"),
        &["SHA1, SHA224, SHA256, SHA384 and SHA512"],
        &digests,
    );
}

#[test]
fn what_the_errors_of_the_whole_advise_helps() {
    let fingerprint = format!("peer-fingerprint {}\n", ["00"; 32].join(":"));
    let login = "auth-user-pass\n";
    let server = "client\nremote a\n";
    let (cert, key) = (CERT, KEY);
    let external = format!("{cert}# OVPN_ACCESS_SERVER_EXTERNAL_PKI=1");
    remedied(
        &format!("client\n{login}{fingerprint}"),
        "",
        &["add 'remote HOST [PORT] [PROTO]'"],
        &["remote HOST", "remote HOST 1194", "remote HOST 443 tcp"],
    );
    remedied(
        &format!("remote a\n{login}{fingerprint}"),
        "",
        &["add the line 'client'"],
        &["client"],
    );
    remedied(&format!("{server}{login}"), "", &["<ca>", "'peer-fingerprint'"], &[CA, &fingerprint]);
    remedied(
        &format!("{server}{fingerprint}"),
        "",
        &["add <cert> and <key>", "auth-user-pass", "'setenv CLIENT_CERT 0'"],
        &[&format!("{cert}{key}"), login, "setenv CLIENT_CERT 0"],
    );
    remedied(
        &format!("{server}{fingerprint}"),
        cert,
        &["add the private key", "'# OVPN_ACCESS_SERVER_EXTERNAL_PKI=1'"],
        &[&format!("{cert}{key}"), &external],
    );
    remedied(
        &format!("{server}{fingerprint}"),
        key,
        &["add the certificate"],
        &[&format!("{cert}{key}")],
    );
    // `proto tcp` would not change what the server's own line says.
    let proxy = "http-proxy p 1\n";
    remedied(
        &format!("client\n{login}{fingerprint}{proxy}"),
        "remote a 1194 udp",
        &["write 'tcp' instead of 'udp' with the server"],
        &["remote a 1194 tcp"],
    );
    remedied(
        &format!("client\n{login}{fingerprint}"),
        &format!("remote a 1194 udp\n{proxy}"),
        &["remove http-proxy"],
        &["remote a 1194 udp"],
    );
}

/// A file that is not there may be put into the profile, where that has a form for it.
#[test]
fn what_is_advised_for_a_missing_file_helps() {
    let base = format!("{}remote a\nproto tcp\n", base());
    let block = |name: &str, content: &str| format!("<{name}>\n{content}</{name}>\n");
    for (name, content) in [
        ("tls-auth", STATIC_KEY),
        ("tls-crypt", STATIC_KEY),
        ("auth-user-pass", "joe\nsecret\n"),
        ("askpass", "secret\n"),
        ("extra-certs", include_str!("../../tests/profiles/ca.crt")),
    ] {
        let words = [format!("between <{name}> and </{name}>")];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        remedied(&base, &format!("{name} none"), &words, &[&block(name, content)]);
    }
    remedied(&base, "ca none", &["between <ca> and </ca>"], &[CA]);
    remedied(&base, "crl-verify none", &["between <crl-verify>"], &[CRL]);
    remedied(&base, "crl-verify none dir", &["use a list"], &[CRL]);
    remedied(&base, &format!("{KEY}cert none"), &["between <cert>"], &[&format!("{CERT}{KEY}")]);
    remedied(&base, &format!("{CERT}key none"), &["between <key>"], &[&format!("{CERT}{KEY}")]);
    let login = block("http-proxy-user-pass", "joe\nsecret\n");
    remedied(
        &base,
        "http-proxy p 1 absent",
        &["remove its name", "<http-proxy-user-pass>"],
        &[&format!("http-proxy p 1\n{login}")],
    );
    let socks = error("proto tcp\nsocks-proxy p 1 absent").hint.unwrap();
    assert!(!socks.contains('<'), "there is no block for it: {socks}");
    let pkcs12 = include_bytes!("../../tests/profiles/gw-udp-1194.p12");
    let packed = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pkcs12);
    let packed = block("pkcs12", &format!("{packed}\n"));
    remedied(&base, "pkcs12 none", &["what 'base64 none' prints"], &[&packed]);
    remedied(&base, "<pkcs12>\n?\n</pkcs12>", &["'base64 FILE'"], &[&packed]);
}

/// As some firewalls write it: the server refuses this login with a challenge.
#[test]
fn a_token_in_the_profile_is_the_first_login() {
    let auth = with("auth-token-user am9l\nauth-token TOTP").options.auth;
    assert_eq!(auth.username.as_deref(), Some("joe"));
    assert_eq!(auth.password.unwrap().expose(), "TOTP");
    let own = with("<auth-user-pass>\njoe\nsecret\n</auth-user-pass>\nauth-token T").options.auth;
    assert_eq!(
        (own.username.as_deref(), own.password.unwrap().expose().as_str()),
        (Some("joe"), "T")
    );
}

/// As some editors and some tools leave a file.
#[test]
fn ends_of_lines_and_of_the_text() {
    let text = format!("{}remote a\n", base());
    assert!(parse(&format!("{text}\0\0\0")).is_ok());
    assert!(parse(&format!("{text}\0verb 3\n")).unwrap_err().to_string().contains("binary file"));
    let error = parse(&text.replace('\n', "\r")).unwrap_err().to_string();
    assert!(error.contains("carriage return") && error.contains(r#"tr "\r" "\n""#), "{error}");
    assert!(parse(&text.replace('\n', "\r\n")).is_ok());
}
