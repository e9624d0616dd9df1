use ovpn_dco::Digest;

use super::*;
use crate::profile::options::{DnsServer, RouteGateway};
use crate::profile::{NoFiles, Profile};

fn profile(extra: &str) -> Options {
    let fingerprint = ["00"; 32].join(":");
    let text =
        format!("client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n{extra}\n");
    Profile::parse(&text, "test", &NoFiles).unwrap().options
}

const BASE: &str = "ifconfig 10.8.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM";

fn push_to(profile: &Options, body: &str) -> Result<SessionOptions, PushError> {
    SessionOptions::from_push(profile, &split_push(body), "")
}

/// A push on top of [`BASE`].
fn push(extra_profile: &str, extra_push: &str) -> Result<SessionOptions, PushError> {
    push_to(&profile(extra_profile), &format!("{BASE},{extra_push}"))
}

#[test]
fn a_usual_push() {
    let session = push_to(
        &profile("ping 5\nping-restart 20"),
        "dhcp-option DNS 10.8.0.1,redirect-gateway def1,route 192.168.0.0 255.255.255.0,\
         route-gateway 10.8.0.1,topology subnet,ping 10,ping-restart 60,\
         ifconfig 10.8.0.2 255.255.255.0,ifconfig-ipv6 fd00::2/64 fd00::1,tun-mtu 1400,peer-id 7,\
         cipher AES-128-GCM,protocol-flags cc-exit tls-ekm dyn-tls-crypt,\
         auth-token SESS_ID_x,auth-token-user dXNlcg==,explicit-exit-notify 2,reneg-sec 0,\
         inactive 600 1000,session-timeout 3600,echo hello world,block-outside-dns,\
         custom-control 2048 A:6 cxa1:dpc1",
    )
    .unwrap();
    assert_eq!(session.peer_id, PeerId::new(7));
    assert_eq!(session.cipher, Cipher::Aes128Gcm);
    assert_eq!(session.framing, Framing::None);
    assert!(session.tls_ekm && session.cc_exit && session.dynamic_tls_crypt);
    assert_eq!(session.network.routes.len(), 1);
    assert_eq!(session.network.topology, Some(Topology::Subnet));
    assert_eq!(session.network.dns.dhcp_servers, ["10.8.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(session.network.redirect.unwrap().def1);
    assert_eq!((session.tun_mtu, session.network.tun_mtu), (1400, Some(1400)));
    assert_eq!(session.ping, Some(Duration::from_secs(10)));
    assert_eq!(session.ping_timeout.unwrap().after, Duration::from_secs(60));
    assert_eq!(session.auth_token.unwrap().expose(), "SESS_ID_x");
    assert_eq!(session.auth_token_user.as_deref(), Some("user"));
    assert_eq!(session.exit_notices, 2);
    assert_eq!(session.reneg, Some(None));
    assert_eq!(session.inactive.unwrap().bytes, 1000);
    assert!(session.app_control.unwrap().allows("dpc1"));
    assert_eq!(session.session_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(
        session.ignored,
        ["echo: a text for a management interface", "block-outside-dns: for Windows clients"]
    );
}

#[test]
fn an_empty_push_keeps_the_profile() {
    let session = push_to(
        &profile("cipher AES-128-GCM\ncomp-lzo no\nping 7\nexplicit-exit-notify 3\ntun-mtu 1300"),
        "",
    )
    .unwrap();
    assert_eq!(session.peer_id, None);
    assert_eq!(session.cipher, Cipher::Aes128Gcm);
    assert_eq!(session.framing, Framing::LzoStub);
    assert_eq!(session.ping, Some(Duration::from_secs(7)));
    assert_eq!((session.exit_notices, session.tun_mtu), (3, 1300));
    assert_eq!(session.network.topology, Some(Topology::Net30));
    assert_eq!((session.reneg, session.network.tun_mtu), (None, None));
}

#[test]
fn ciphers() {
    let with_occ = |p: &str, body: &str, occ: &str| {
        SessionOptions::from_push(&profile(p), &split_push(body), occ).map(|s| s.cipher)
    };
    let occ = |name: &str| format!("V4,dev-type tun,link-mtu 1549,cipher {name},auth SHA1");
    assert_eq!(with_occ("", "cipher chacha20-poly1305", ""), Ok(Cipher::ChaCha20Poly1305));
    // Pushed wins over OCC.
    assert_eq!(with_occ("", "cipher AES-128-GCM", &occ("AES-256-GCM")), Ok(Cipher::Aes128Gcm));
    // Nothing pushed: the OCC cipher, if allowed.
    assert_eq!(with_occ("", "", &occ("AES-128-GCM")), Ok(Cipher::Aes128Gcm));
    // OCC names one that is not allowed: no fallback.
    let only = "data-ciphers AES-256-GCM\ndata-ciphers-fallback AES-128-GCM";
    assert!(with_occ(only, "", &occ("CHACHA20-POLY1305")).is_err());
    assert!(with_occ(only, "", &occ("BF-CBC")).is_err());
    // No OCC cipher either: the fallback, which may be pushed too.
    assert_eq!(with_occ(only, "", "V4,dev-type tun"), Ok(Cipher::Aes128Gcm));
    assert_eq!(with_occ(only, "cipher AES-128-GCM", ""), Ok(Cipher::Aes128Gcm));
    assert!(with_occ("", "", "").is_err());
    // Pushed but not allowed, not known, not authenticated.
    let text = with_occ(only, "cipher AES-192-GCM", "").unwrap_err().to_string();
    assert!(text.contains("AES-192-GCM") && text.contains("add it to data-ciphers"), "{text}");
    for name in ["AES-256-CBC", "BF-CBC", "none", "vollbit"] {
        assert!(with_occ("", &format!("cipher {name}"), "").is_err(), "{name}");
    }
    // `cipher` of an authenticated cipher is what servers without negotiation use; it adds nothing
    // to the list.
    let list = "data-ciphers AES-256-GCM:AES-192-GCM\ncipher AES-192-GCM";
    assert_eq!(with_occ(list, "", ""), Ok(Cipher::Aes192Gcm));
    assert!(with_occ("data-ciphers AES-256-GCM\ncipher AES-192-GCM", "", "").is_err());
}

#[test]
fn cbc_with_its_digest() {
    let of = |p: &str, body: &str, occ: &str| {
        SessionOptions::from_push(&profile(p), &split_push(body), occ)
    };
    let cipher = |p: &str, body: &str, occ: &str| of(p, body, occ).map(|s| s.cipher);
    let occ = "V4,cipher AES-256-CBC,auth SHA1";
    for (text, digest) in [
        ("data-ciphers AES-256-GCM:AES-256-CBC", Digest::Sha1),
        ("auth SHA512\ndata-ciphers aes256", Digest::Sha512),
        ("data-ciphers AES-256-CBC\nauth SHA224", Digest::Sha224),
        ("data-ciphers-fallback AES-256-CBC\nauth SHA384", Digest::Sha384),
        // A profile from before data-ciphers.
        ("cipher AES-256-CBC\nauth SHA256", Digest::Sha256),
    ] {
        let expected = Ok(Cipher::Aes256Cbc(digest));
        assert_eq!(cipher(text, "cipher AES-256-CBC", ""), expected, "{text}");
        assert_eq!(cipher(text, "", occ), expected, "{text}");
        // OpenVPN 3 takes the digest from the server.
        let pushed = cipher(text, "cipher AES-256-CBC,auth SHA512", occ);
        assert_eq!(pushed, Ok(Cipher::Aes256Cbc(Digest::Sha512)), "{text}");
        assert!(cipher(text, "cipher AES-128-CBC", "").is_err(), "{text}");
    }
    assert_eq!(cipher("cipher AES-128-CBC", "", ""), Ok(Cipher::Aes128Cbc(Digest::Sha1)));
    // Not with a list that leaves it out.
    let left_out = "data-ciphers AES-256-GCM\ncipher AES-256-CBC";
    let text = cipher(left_out, "", occ).unwrap_err().to_string();
    assert!(text.contains("add it to data-ciphers"), "{text}");
    // The remedy is one.
    assert!(cipher("data-ciphers AES-256-GCM:AES-256-CBC", "", occ).is_ok());
    let text = cipher("auth MD5\ncipher AES-256-CBC", "", occ).unwrap_err().to_string();
    assert!(text.contains("SHA256"), "{text}");
    // Different digests are a silent end of everything, so that they are told.
    let ignored = |p: &str| of(p, "", occ).unwrap().ignored;
    assert_eq!(ignored("cipher AES-256-CBC"), [""; 0]);
    let told = ignored("cipher AES-256-CBC\nauth SHA256");
    assert!(told.len() == 1 && told[0].contains("set 'auth SHA1'"), "{told:?}");
}

#[test]
fn compression_framing() {
    for (option, framing) in [
        ("comp-lzo no", Framing::LzoStub),
        ("compress", Framing::Swap),
        ("compress stub", Framing::Swap),
        ("compress stub-v2", Framing::StubV2),
        ("compress migrate", Framing::None),
    ] {
        assert_eq!(push("", option).unwrap().framing, framing, "{option}");
    }
    // What is pushed replaces what the profile says.
    assert_eq!(push("comp-lzo no", "compress stub-v2").unwrap().framing, Framing::StubV2);
    assert!(matches!(push("", "compress snappy"), Err(PushError::Malformed { .. })));
}

/// As OpenVPN 2.7 decides: what the profile itself asks for is allowed with it.
#[test]
fn compressed_packets_are_read_where_that_is_allowed() {
    let pushed = [
        ("comp-lzo", Framing::Lzo),
        ("comp-lzo yes", Framing::Lzo),
        ("comp-lzo adaptive", Framing::Lzo),
        ("compress lzo", Framing::Lzo),
        ("compress lz4", Framing::Lz4),
        ("compress lz4-v2", Framing::Lz4V2),
    ];
    for (option, framing) in pushed {
        let profiles = [
            ("", false),
            ("allow-compression no", false),
            ("comp-lzo no", false),
            ("compress stub-v2", false),
            ("comp-lzo\nallow-compression no", false),
            ("allow-compression asym", true),
            ("allow-compression yes", true),
            ("comp-lzo", true),
            ("compress lz4-v2", true),
        ];
        for (profile, allowed) in profiles {
            match push(profile, option) {
                Ok(session) => assert!(allowed && session.framing == framing, "{profile} {option}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(!allowed && text.starts_with("Compression is not available"), "{text}");
                    assert!(text.contains(option) && text.contains("allow-compression asym"));
                }
            }
        }
        // A server that pushes nothing says the same as the profile, or so the profile says.
        for (more, expected) in [("", framing), ("allow-compression no", framing.stub())] {
            assert_eq!(push(&format!("{option}\n{more}"), "").unwrap().framing, expected);
        }
    }
}

#[test]
fn sizes_are_bounded() {
    let session = push("", "tun-mtu 9000").unwrap();
    assert_eq!(session.tun_mtu, 1600);
    assert!(session.ignored[0].contains("above tun-mtu-max"));
    assert_eq!(push("tun-mtu-max 9000", "tun-mtu 9000").unwrap().tun_mtu, 9000);
    assert!(push("", "tun-mtu 60").is_err());
    assert!(push("", "peer-id 16777216").is_err());
    assert!(push("", "peer-id -2").is_err());
    for undefined in ["peer-id 16777215", "peer-id -1"] {
        assert_eq!(push("", undefined).unwrap().peer_id, Some(PeerId::UNDEFINED), "{undefined}");
    }
}

#[test]
fn epoch_keys() {
    let flags = "protocol-flags cc-exit aead-epoch";
    let pushed = |extra: &str, more: &str| {
        push_to(&profile(extra), &format!("ifconfig 10.8.0.2 10.8.0.1,{flags}{more}"))
    };
    let session = pushed("", ",peer-id 0,cipher AES-128-GCM").unwrap();
    assert_eq!(session.cipher, Cipher::Aes128GcmEpoch);
    assert_eq!(push("", "cipher AES-128-GCM").unwrap().cipher, Cipher::Aes128Gcm);
    for (profile, more, reason) in [
        ("", ",cipher AES-256-GCM", "need a peer-id"),
        ("", ",cipher AES-256-GCM,peer-id -1", "need a peer-id"),
        ("data-ciphers AES-256-CBC", ",peer-id 1,cipher AES-256-CBC", "AES-256-CBC cannot have"),
    ] {
        let text = pushed(profile, more).unwrap_err().to_string();
        assert!(text.contains("aead-epoch") && text.contains(reason), "{text}");
    }
}

#[test]
fn unsupported_formats_are_errors() {
    assert!(push("", "key-derivation foo").is_err());
    let session = push("", "protocol-flags new-flag,key-derivation tls-ekm").unwrap();
    assert!(session.tls_ekm);
    assert_eq!(session.ignored, ["protocol-flags: unknown flag 'new-flag'"]);
}

#[test]
fn malformed_options_break_only_what_matters() {
    let session = push(
        "",
        "route 10.0.0.0 255.0.255.0,dhcp-option DNS nowhere,ping x,reneg-sec,frobnicate 1 2",
    );
    // reneg-sec without a value is malformed; the rest would only be ignored.
    assert!(matches!(session, Err(PushError::Malformed { option, .. }) if option == "reneg-sec"));
    let session =
        push("", "route 10.0.0.0 255.0.255.0,dhcp-option DNS nowhere,ping x,frobnicate 1 2,\"x")
            .unwrap();
    assert_eq!(session.ignored.len(), 5);
    assert!(session.ignored[3].starts_with("frobnicate: unknown"));
    let session = push("", "redirect-gateway def1 new-flag").unwrap();
    assert!(session.network.redirect.unwrap().def1);
    assert!(session.ignored[0].starts_with("redirect-gateway: only the unknown flag 'new-flag'"));
    assert!(push("", "ifconfig 10.0.0.300 255.255.255.0").is_err());
    assert!(push("", "ifconfig 10.0.0.3 10.0.0.1").is_err(), "no netmask in subnet topology");
    assert!(push("", "topology p2p,ifconfig 10.0.0.3 10.0.0.1").is_ok());
}

#[test]
fn how_often_the_exit_is_told() {
    let notices = |profile: &str, option: &str| push(profile, option).unwrap().exit_notices;
    assert_eq!(notices("", "ping 1"), 1, "always");
    assert_eq!(notices("explicit-exit-notify 2", "ping 1"), 2);
    assert_eq!(notices("explicit-exit-notify 2", "explicit-exit-notify"), 1);
    assert_eq!(notices("", "explicit-exit-notify 0"), 1);
    assert_eq!(notices("", "explicit-exit-notify 60"), 3);
}

#[test]
fn tokens_are_never_shown() {
    let session = push("", "auth-token \"secret").unwrap();
    assert!(!format!("{session:?}").contains("secret"));
    let session = push("", "auth-token secret").unwrap();
    assert!(!format!("{session:?}").contains("secret"));
}

#[test]
fn a_server_can_have_typed_credentials_forgotten() {
    assert!(push("", "auth-nocache").unwrap().auth_nocache);
    assert!(!push("", "ping 1").unwrap().auth_nocache);
    let inline = "<auth-user-pass>\njoe\nsecret\n</auth-user-pass>";
    assert!(!push(inline, "auth-nocache").unwrap().auth_nocache);
}

#[test]
fn filters_and_route_nopull() {
    let session = push(
        "route-nopull\npull-filter accept \"route 10.1.\"\nroute 10.9.0.0 255.255.0.0 net_gateway",
        "route 10.1.0.0 255.255.0.0,route 10.2.0.0 255.255.0.0,redirect-gateway def1,\
         dns server 1 address 1.1.1.1,dhcp-option DNS 1.1.1.1,block-ipv6",
    )
    .unwrap();
    let gateways: Vec<_> = session.network.routes.iter().map(|r| r.gateway).collect();
    assert_eq!(gateways, [RouteGateway::Net, RouteGateway::Vpn]);
    assert!(session.network.redirect.is_none() && !session.network.block_ipv6);
    assert!(session.network.dns.servers.is_empty() && session.network.dns.dhcp_servers.is_empty());
    assert_eq!(session.ignored.len(), 5);

    let rejected = push("pull-filter reject \"redirect-\"", "redirect-gateway def1").unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "rejected pushed option: redirect-gateway (the profile has pull-filter reject)"
    );
    let left_alone =
        push("route-noexec", "route 10.1.0.0 255.255.0.0,redirect-gateway def1").unwrap();
    assert!(left_alone.network.routes.is_empty() && left_alone.network.redirect.is_none());
}

// Known vector of the protocol reference, 16.16.
#[test]
fn dns_servers_merge_by_priority() {
    let local = "dns server 1 address 10.0.0.1\ndns server -2 address 10.0.0.2\n\
                 dns search-domains local.example\ndhcp-option DNS 10.0.0.3";
    let session = push(local, "dns server 1 address 1.1.1.1,dns search-domains x.example").unwrap();
    let dns = session.network.dns;
    let server = |address: &str| DnsServer {
        addresses: vec![(address.parse().unwrap(), 0)],
        ..DnsServer::default()
    };
    assert_eq!(dns.servers[&1], server("1.1.1.1"));
    assert_eq!(dns.servers[&-2], server("10.0.0.2"));
    assert_eq!(dns.search_domains, ["local.example", "x.example"]);
    assert!(dns.dhcp_servers.is_empty(), "dns server overrides dhcp-option");
    assert!(push("", "dns server -1 address 1.1.1.1").is_err());
    assert!(push("", "dns server 1 dnssec yes").is_err(), "no address");
    assert!(push("", "dns server 1 transport avian-carrier").is_err());
}

/// CVE-2025-10680: they would reach a shell.
#[test]
fn what_is_no_domain_is_refused_and_the_connection_stays() {
    for (option, named) in [
        ("dhcp-option DOMAIN $(id>/run/pwned)", "dhcp-option: DOMAIN: '$(id>/run/pwned)' is not a"),
        ("dhcp-option DOMAIN good.example $(id)", "dhcp-option: DOMAIN: '$(id)' is not a domain"),
        ("dhcp-option DOMAIN-SEARCH `id`", "dhcp-option: DOMAIN-SEARCH: '`id`' is not a domain"),
        ("dhcp-option ADAPTER_DOMAIN_SUFFIX a;id", "dhcp-option: ADAPTER_DOMAIN_SUFFIX: 'a;id' is"),
        ("dns search-domains a.example `id`", "dns: search-domains: '`id`' is not a domain"),
        ("dns server 1 resolve-domains a|id", "dns: server 1, resolve-domains: 'a|id' is not a"),
        ("dns server 1 sni -x", "dns: server 1, sni: '-x' is not a domain"),
    ] {
        let session = push("", &format!("dns server 1 address 10.8.0.1,{option}")).unwrap();
        assert!(session.ignored.iter().any(|i| i.starts_with(named)), "{:?}", session.ignored);
        let dns = session.network.dns;
        assert!(dns.dhcp_domains.is_empty() && dns.search_domains.is_empty(), "{option}");
        // For all names it would not be the server that was meant.
        assert_eq!(dns.servers.is_empty(), option.starts_with("dns server"), "{option}");
    }
    let text = "client\nremote a\ndhcp-option DOMAIN $(id)\n";
    let errors = Profile::parse(text, "test", &NoFiles).unwrap_err().errors;
    assert!(errors.iter().any(|e| e.line == Some(3) && e.reason.contains("'$(id)' is not")));
}

#[test]
fn counts_have_limits() {
    let names = |n: usize| (0..n).map(|i| format!("d{i}")).collect::<Vec<_>>().join(" ");
    let session = push("", &format!("dhcp-option DNS 10.8.0.1,dhcp-option DOMAIN {}", names(500)));
    assert_eq!(session.unwrap().network.dns.dhcp_domains.len(), 500);
    for (option, what) in [
        (
            format!("dhcp-option DOMAIN {}", names(501)),
            "dhcp-option: DOMAIN: more than 500 domains",
        ),
        (
            format!("dns search-domains {}", names(501)),
            "dns: search-domains: more than 500 domains",
        ),
        ("dhcp-option DNS 10.8.0.1,".repeat(300), "dhcp-option: more than 256 DNS servers"),
        ("unknown,".repeat(9999), "and others"),
        (format!("unknown,dhcp-option DOMAIN {}", "x".repeat(9999)), "dhcp-option: DOMAIN: 'xxx"),
    ] {
        let ignored = push("", &option).unwrap().ignored;
        assert!(ignored.iter().any(|remark| remark.starts_with(what)), "{ignored:?}");
        assert!(ignored.len() <= 51 && ignored.iter().all(|remark| remark.len() <= 300));
    }
    let routes: String =
        (0..16_385).map(|i| format!("route 10.{}.{}.0,", i >> 8, i & 255)).collect();
    let refused = push("", &routes).unwrap_err().to_string();
    assert_eq!(refused, "the server pushed an unusable 'route': more than 16384 routes");
}

#[test]
fn overridden_dns_and_ipv6() {
    let mut profile = profile("");
    profile.pull.dns_fallback = true;
    profile.pull.unpushed_ipv6 = UnpushedFamily::Block;
    let with = |profile: &Options, body: &str| push_to(profile, &format!("{BASE},{body}")).unwrap();
    let session = with(&profile, "redirect-gateway def1");
    assert_eq!(session.network.dns.dhcp_servers.len(), 2);
    assert!(session.network.block_ipv6);
    let session = with(&profile, "redirect-private,ifconfig-ipv6 fd00::2/64 fd00::1");
    assert!(session.network.dns.dhcp_servers.is_empty() && !session.network.block_ipv6);
    profile.pull.dns_disabled = true;
    let session =
        with(&profile, "dns server 1 address 1.1.1.1,dhcp-option DOMAIN x,redirect-gateway");
    assert_eq!(session.network.dns, crate::profile::DnsOptions::default());
}

proptest::proptest! {
    #[test]
    fn never_panics(options in proptest::collection::vec("[ -~]{0,40}", 0..20), occ in "[ -~]{0,60}") {
        let _ = SessionOptions::from_push(&profile(""), &options, &occ);
    }

    #[test]
    fn never_panics_on_known_names(
        name in "route|route-ipv6|ifconfig|ifconfig-ipv6|dns|dhcp-option|redirect-gateway|tun-mtu|peer-id|cipher|ping|inactive|compress|auth-token-user",
        words in "([0-9./:]{0,12}|server|address|[ -~]){0,8}",
    ) {
        let _ = push("", &format!("{name} {words}"));
    }
}
