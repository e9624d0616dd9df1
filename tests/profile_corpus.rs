//! Profiles as they are found in the field, and what `ovpn-client check` says about each.
//!
//! `tests/profiles/NAME.ovpn` is checked against `NAME.txt`. Names, addresses and keys in them are
//! invented. After a change that is meant, write the expectations anew and read the difference:
//! `UPDATE_EXPECTED=1 cargo test --test profile_corpus`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails fails its test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ovpn_client::profile::{
    Family, KeyDirection, KeySource, MssFix, Options, Profile, ProfileErrors, ProfileFile,
    Protocol, ProxyAuth, ProxyKind, WrapOptions, X509Name,
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profiles")
}

fn parse(name: &str) -> Result<Profile, ProfileErrors> {
    let file = ProfileFile::read(&directory().join(format!("{name}.ovpn"))).unwrap();
    Profile::parse(file.text.expose(), &file.name, &file.files)
}

fn options(name: &str) -> Options {
    parse(name).unwrap_or_else(|errors| panic!("{errors}")).options
}

fn check(profile: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ovpn-client"))
        .arg("check")
        .args(arguments)
        .arg(profile)
        .output()
        .unwrap()
}

#[test]
fn reports_are_as_expected() {
    let mut seen = 0;
    for entry in fs::read_dir(directory()).unwrap() {
        let profile = entry.unwrap().path();
        if profile.extension().is_none_or(|e| e != "ovpn") {
            continue;
        }
        seen += 1;
        let output = check(&profile, &[]);
        let report = String::from_utf8(output.stdout).unwrap();
        let report = report.replace(directory().to_str().unwrap(), "DIRECTORY");
        let expected = profile.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &report).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap();
        assert_eq!(report, expected, "{}", profile.display());
        let status = if report.ends_with("The profile can be used.\n") { 0 } else { 2 };
        assert_eq!(output.status.code(), Some(status), "{}", profile.display());
    }
    assert!(seen >= 60, "only {seen} profiles found");
}

/// Those that cannot be used. Of them OpenVPN 2.7 starts the one that asks for fragments.
#[test]
fn only_these_are_refused() {
    const REFUSED: [&str; 3] = ["provider-fragment", "refused-everything", "refused-static-key"];
    let mut refused: Vec<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ovpn"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| parse(name).is_err())
        .collect();
    refused.sort();
    assert_eq!(refused, REFUSED);
}

#[test]
fn reports_hold_no_secrets() {
    let secrets = ["routerpassword", "vpnpassword", "proxypassword", "PRIVATE KEY", "MIGH"];
    for name in ["router-tcp", "http-proxy-blocks", "refused-everything"] {
        for format in ["text", "json"] {
            let profile = directory().join(format!("{name}.ovpn"));
            let output = check(&profile, &["--output", format]);
            let report = String::from_utf8(output.stdout).unwrap();
            assert!(report.contains("remote"), "{name} {format}");
            for secret in secrets {
                assert!(!report.contains(secret), "{name} {format}: {secret}");
            }
        }
    }
}

#[test]
fn access_server() {
    let o = options("access-server-autologin");
    assert!(o.auth.autologin && !o.auth.user_pass);
    assert_eq!(o.friendly_name.as_deref(), Some("robot@as.example.net"));
    assert!(o.push_peer_info);
    assert_eq!(o.remotes.len(), 4);
    assert_eq!(o.retry.server_poll_timeout.as_secs(), 4);
    assert_eq!(o.device.sndbuf, None);
    assert_eq!(o.data.dco_incompatible, ["comp-lzo"]);

    let o = options("access-server-userlocked");
    assert!(!o.auth.autologin && o.auth.user_pass);
    assert_eq!(o.auth.locked_username.as_deref(), Some("erika"));
    assert_eq!(o.friendly_name.as_deref(), Some("Head office"));
    assert!(o.auth.static_challenge.unwrap().echo);
    assert_eq!(o.peer_info, [("UV_ASSET_TAG".to_owned(), "A-1234".to_owned())]);
    let WrapOptions::TlsCryptV2 { key, wrapped } = o.wrap else { panic!("wrapping") };
    assert_eq!(key.expose().len(), 256);
    assert!((256..1024).contains(&wrapped.len()));
}

#[test]
fn inline_keys() {
    let o = options("easy-rsa-inline");
    let WrapOptions::TlsAuth { key, direction, .. } = o.wrap else { panic!("wrapping") };
    assert_eq!((key.expose().len(), direction), (256, Some(KeyDirection::Inverse)));
    assert!(matches!(o.tls.key, Some(KeySource::Pem(_))));
    assert!(o.tls.cert.unwrap().starts_with("Certificate:\n"));

    let o = options("install-script");
    assert!(matches!(o.wrap, WrapOptions::TlsCrypt { .. }));
    assert_eq!(o.tls.verify_x509_name, Some(X509Name::Name("server_Xk29aQ".to_owned())));
    assert_eq!(o.data.fallback.map(|c| c.name()), Some("AES-128-GCM"));
    assert_eq!(o.remotes[0].explicit_exit_notify, 1);
}

#[test]
fn files_next_to_the_profile() {
    let o = options("firewall-archive");
    assert!(matches!(o.tls.key, Some(KeySource::Pkcs12(_))));
    assert!(o.tls.ca.is_none());
    assert_eq!(o.remotes[0].family, Family::V4);

    let o = options("router-tcp");
    assert_eq!(o.auth.username.as_deref(), Some("routeruser"));
    assert_eq!(o.auth.password.unwrap().expose(), "routerpassword");
    assert_eq!((o.remotes[0].port, o.remotes[0].protocol), (1194, Protocol::Tcp));
    assert!(o.pull.route_nopull);
    assert!(!o.auth.nocache, "the profile holds user name and password");
}

#[test]
fn many_servers() {
    let o = options("commercial-provider");
    assert_eq!(o.remotes.len(), 20);
    assert!(o.remote_random);
    assert_eq!((o.control.reneg, o.control.ping_timeout), (None, None));
    assert_eq!(o.data.mssfix, MssFix::Payload(1450));
    assert!(o.tls.cert.is_none() && o.tls.key.is_none());

    let o = options("cloud-connector");
    let notify: Vec<_> = o.remotes.iter().map(|r| (r.port, r.explicit_exit_notify)).collect();
    assert_eq!(notify, [(1194, 1), (1194, 0), (443, 0)]);
    assert_eq!(o.network.routes.len(), 2);
    assert!(o.data.dco_incompatible.is_empty());
}

#[test]
fn proxies_and_fingerprints() {
    let o = options("http-proxy-blocks");
    assert_eq!(o.remotes.len(), 2, "UDP servers cannot be reached through an HTTP proxy");
    let proxy = o.remotes[1].proxy.as_ref().unwrap();
    let ProxyKind::Http(http) = &proxy.kind else { panic!("{proxy:?}") };
    assert_eq!((http.version.as_str(), http.auth), ("1.1", ProxyAuth::NoCleartext));
    assert_eq!(http.user_agent.as_deref(), Some("Mozilla/5.0"));
    assert_eq!(http.custom_headers, [("X-Site".to_owned(), Some("12".to_owned()))]);
    assert_eq!(proxy.credentials.as_ref().unwrap().username, "proxyuser");
    assert!(o.auth.autologin, "the profile holds user name and password");

    let o = options("fingerprint-small-office");
    assert_eq!(o.tls.peer_fingerprints.len(), 2);
    assert_eq!(o.tls.peer_fingerprints[0], o.tls.peer_fingerprints[1]);
    assert!(o.tls.ca.is_none());
    let redirect = o.network.redirect.unwrap();
    assert!(redirect.def1 && redirect.ipv4 && redirect.ipv6 && redirect.bypass_dhcp);
}

#[test]
fn every_error_is_told_at_once() {
    let errors = parse("refused-everything").unwrap_err();
    assert!(errors.errors.len() > 20);
    let lines: Vec<_> = errors.errors.iter().map(|e| e.line.unwrap_or(usize::MAX)).collect();
    assert!(lines.is_sorted());
    assert!(errors.to_string().starts_with("refused-everything.ovpn:2: dev: TAP mode"));
}
