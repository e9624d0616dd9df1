//! Overrides of the configuration manager, any names and values: a refused password is told without
//! its value, applying the same twice is applying it once, and nothing that says where packets go is
//! passed over in silence.

use ovpn_client::profile::{NoFiles, Options, OverrideValue, Overrides, Profile, Protocol};

const NAMES: [&str; 24] = [
    "server-override",
    "port-override",
    "proto-override",
    "ipv6",
    "log-level",
    "dns-scope",
    "allow-compression",
    "tls-version-min",
    "tls-cert-profile",
    "proxy-host",
    "proxy-port",
    "proxy-username",
    "proxy-password",
    "enterprise-profile",
    "automatic-restart",
    "dns-fallback-google",
    "dns-setup-disabled",
    "auth-fail-retry",
    "persist-tun",
    "proxy-auth-cleartext",
    "dns-sync-lookup",
    "enable-legacy-algorithms",
    "auth-token",
    "",
];
/// Without a usable value of these no connection may be made.
const WAYS: [&str; 6] =
    ["server-override", "port-override", "proto-override", "ipv6", "proxy-host", "proxy-port"];

/// Ends every password.
const SECRET: &str = "hunter2";

/// Input: lines, each a byte that picks the name (or, from 0xc0, one that starts the text), and the
/// value; `+` and `-` alone are yes and no.
pub fn run(data: &[u8]) {
    let values: Vec<(String, OverrideValue)> =
        data.split(|byte| *byte == b'\n').filter_map(value).collect();
    let (overrides, refused) = Overrides::collect(values.clone());
    for error in &refused {
        let text = error.to_string();
        assert!(text.starts_with("Unsupported override: "), "{text}");
        assert!(error.name != "proxy-password" || !text.contains(SECRET), "{text}");
        assert_eq!(error.misdirects, WAYS.contains(&error.name.as_str()), "{text}");
    }
    assert!(refused.len() <= values.len());
    let (again, refused_again) = Overrides::collect(values.clone());
    assert!(again == overrides && refused_again == refused);

    let mut once = profile();
    let unusable = overrides.apply(&mut once);
    assert!(!once.remotes.is_empty());
    assert!(once.remotes.iter().all(|r| r.port > 0 && !r.host.is_empty()));
    assert!(once.tls.version_min <= once.tls.version_max);
    let mut twice = once.clone();
    let _ = overrides.apply(&mut twice);
    assert_eq!(format!("{:?}", twice.remotes), format!("{:?}", once.remotes));
    if refused.iter().chain(&unusable).any(|error| error.misdirects) {
        return;
    }
    // The last of a name holds.
    let text = |wanted: &str| {
        values.iter().rev().find_map(|(name, value)| match value {
            OverrideValue::Text(text) if name == wanted => Some(text.as_str()),
            _ => None,
        })
    };
    for remote in &once.remotes {
        if let Some(port) = text("port-override") {
            assert_eq!(Ok(remote.port), port.parse());
        }
        match text("proto-override") {
            Some("udp") => assert_eq!(remote.protocol, Protocol::Udp),
            Some("tcp") => assert_eq!(remote.protocol, Protocol::Tcp),
            _ => {}
        }
        if text("proxy-host").is_some() {
            assert!(remote.proxy.is_some() && remote.protocol == Protocol::Tcp, "past it");
        }
    }
}

fn value(line: &[u8]) -> Option<(String, OverrideValue)> {
    let (&first, rest) = line.split_first()?;
    let text = String::from_utf8_lossy(rest).into_owned();
    let (name, text) = match first {
        0xc0.. => {
            let (name, value) = text.split_once('=')?;
            (name.to_owned(), value.to_owned())
        }
        _ => (NAMES[usize::from(first) % NAMES.len()].to_owned(), text),
    };
    let value = match &*text {
        "+" => OverrideValue::Flag(true),
        "-" => OverrideValue::Flag(false),
        _ if name == "proxy-password" => OverrideValue::Text(text + SECRET),
        _ => OverrideValue::Text(text),
    };
    Some((name, value))
}

fn profile() -> Options {
    let fingerprint = ["00"; 32].join(":");
    let text = format!(
        "client\nremote a 1194 udp\nremote b 443 tcp\nremote c 80 tcp6\nauth-user-pass\n\
         peer-fingerprint {fingerprint}\n"
    );
    Profile::parse(&text, "fuzz.ovpn", &NoFiles).expect("complete").options
}
