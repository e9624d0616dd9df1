//! Any text as the body of a push reply, on top of profiles that differ in what they accept. The
//! first byte picks the profile; a NUL ends the push, and the server's options string follows.

use ovpn_client::profile::{NoFiles, Options, Profile, SessionOptions, split_push};

const PROFILES: [&str; 4] = [
    "",
    "route-nopull\npull-filter accept \"route 10.\"\npull-filter ignore dhcp-option\n",
    "pull-filter reject \"redirect-gateway\"\ncomp-lzo no\ntun-mtu 1400\n",
    "dns server 1 address 10.0.0.1\ndhcp-option DOMAIN a.example\nredirect-gateway def1\n\
     topology subnet\ncipher AES-192-GCM\n",
];

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let (body, occ) = text.split_once('\0').unwrap_or((&text, ""));
    let raw = split_push(body);
    assert_eq!(raw.join(","), body, "splitting must lose nothing");
    let Some(profile) = profile(usize::from(choice)) else { return };
    let Ok(session) = SessionOptions::from_push(&profile, &raw, occ) else { return };
    assert!(session.network.topology.is_some());
    assert!(session.tun_mtu <= profile.data.tun_mtu_max.max(profile.data.tun_mtu));
    let allowed = |c| profile.data.ciphers.contains(&c) || profile.data.fallback == Some(c);
    assert!(allowed(session.cipher), "a cipher that the profile does not allow");
    assert!(session.network.dns.servers.values().all(|s| !s.addresses.is_empty()));
    if profile.pull.route_nopull {
        assert!(session.network.redirect.is_none());
    }
}

fn profile(choice: usize) -> Option<Options> {
    let fingerprint = ["00"; 32].join(":");
    let text = format!(
        "client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n{}",
        PROFILES.get(choice % PROFILES.len()).copied().unwrap_or_default()
    );
    let parsed = Profile::parse(&text, "fuzz.ovpn", &NoFiles).map(|profile| profile.options);
    assert!(parsed.is_ok(), "{parsed:?}");
    parsed.ok()
}
