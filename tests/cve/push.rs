//! Options of profiles and pushes.

use crate::{pushed, refused};

/// `fragment` whose size came back as 0 and was divided by. Fragments are not supported at all, and
/// nobody may think that they are.
#[test]
fn cve_2023_46849_fragment() {
    for size in ["", " 1", " 1200", " 1200 mtu"] {
        assert!(refused(&format!("fragment{size}")).contains("fragment"), "{size}");
    }
    for size in ["", " 0", " 1", " 1200"] {
        assert!(
            pushed(&format!("fragment{size}")).is_ok(),
            "there is nothing to divide by: {size}"
        );
    }
}

/// Addresses that end in the middle were read past their end.
#[test]
fn cve_2025_12106_addresses_cut_off() {
    for address in
        ["[", "[]", "[:", "[::", "[::1", "[::1]:", "::1]", ":", "1.2.3", "1.2.3.4:", "[1.2.3.4"]
    {
        let profile = refused(&format!("dns server 1 address {address}"));
        assert!(profile.contains("dns"), "{address}: {profile}");
        for option in ["dns server 1 address", "dhcp-option DNS", "dhcp-option DNS6"] {
            let Ok(session) = pushed(&format!("{option} {address}")) else { continue };
            let dns = &session.network.dns;
            assert!(dns.servers.is_empty() && dns.dhcp_servers.is_empty(), "{option} {address}");
        }
        for option in ["ifconfig-ipv6", "route-ipv6", "route"] {
            let Ok(session) = pushed(&format!("{option} {address}/64 {address}")) else { continue };
            let network = &session.network;
            assert!(
                network.routes.is_empty() && network.ifconfig_ipv6.is_none(),
                "{option} {address}"
            );
        }
    }
}

/// Tokens with the right beginning and nothing, or too much, behind it.
#[test]
fn cve_2026_13122_tokens_of_any_length() {
    for len in [0, 1, 10, 4000, 4096, 100_000] {
        let token = format!("SESS_ID_AT_{}", "A".repeat(len));
        match pushed(&format!("auth-token {token},auth-token-user !!")) {
            Ok(session) => {
                assert!(session.auth_token.is_none_or(|held| *held.expose() == token), "{len}");
            }
            Err(error) => assert!(!error.contains(&token), "{error}"),
        }
    }
}

/// With an unknown certificate field, `verify-x509-name` compared the common name after all.
#[test]
fn cve_2026_63650_certificate_fields() {
    let error = refused("x509-username-field serialNumber\nverify-x509-name 0x05 name");
    assert!(error.contains("x509-username-field"), "{error}");
}

/// A tiny pushed MTU met `block-ipv6`, and there was no room for an answer (fixed in OpenVPN 2.7.5;
/// it has no number).
#[test]
fn tiny_pushed_mtu() {
    for mtu in ["0", "1", "67", "-1", "4294967295"] {
        if let Ok(session) = pushed(&format!("tun-mtu {mtu},block-ipv6,redirect-gateway ipv6")) {
            assert!(session.tun_mtu >= 68, "{mtu}");
        }
    }
}
