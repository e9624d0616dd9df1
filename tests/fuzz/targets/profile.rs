//! Any text as a profile: parsing must end without a panic, and what it accepts must be usable.

use ovpn_client::profile::{
    NoFiles, OverrideValue, Overrides, PeerInfoExtra, Profile, Protocol, VerdictKind, occ_string,
    peer_info,
};

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Profile::parse(&text, "fuzz.ovpn", &NoFiles) {
        Ok(profile) => usable(profile),
        Err(failed) => {
            assert!(!failed.errors.is_empty(), "refused without a reason");
            assert!(!failed.to_string().is_empty());
            assert!(failed.errors.iter().all(|e| !e.reason.contains(char::is_control)));
        }
    }
}

/// What holds for every accepted profile.
fn usable(profile: Profile) {
    let refused = |kind: &VerdictKind| matches!(kind, VerdictKind::Refused { .. });
    assert!(!profile.verdicts.iter().any(|v| refused(&v.kind)), "accepted with a refusal");
    let mut options = profile.options;
    assert!(!options.remotes.is_empty());
    assert!(options.remotes.iter().all(|r| r.port > 0 && !r.host.is_empty()));
    assert!(!options.data.ciphers.is_empty());
    assert!(options.data.tun_mtu <= options.data.tun_mtu_max);
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        assert!(occ_string(&options, &options.wrap, protocol).starts_with("V4,dev-type tun,"));
    }
    let info = peer_info(&options, &PeerInfoExtra::default());
    assert!(info.ends_with('\n') && info.len() < 1536);
    assert!(info.lines().all(|line| line.contains('=')));
    let (overrides, unusable) = Overrides::collect([
        ("server-override".to_owned(), OverrideValue::Text("other.example".to_owned())),
        ("persist-tun".to_owned(), OverrideValue::Flag(true)),
    ]);
    assert!(unusable.is_empty());
    if !overrides.apply(&mut options).iter().any(|error| error.misdirects) {
        assert!(options.remotes.iter().all(|r| r.host == "other.example"));
    }
}
