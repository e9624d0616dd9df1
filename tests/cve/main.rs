//! Faults that OpenVPN clients, and libraries used here, were told of in public from 2023 on: one test
//! for each kind that a client can have, under the number by which it became known.
//!
//! Not here, because a client of this kind cannot have them:
//!
//! - servers only: CVE-2024-28882 (sessions kept after an exit), CVE-2026-35058, CVE-2026-12932 and
//!   CVE-2026-13698 (tls-crypt-v2 keys of clients);
//! - Windows only: CVE-2023-7235, CVE-2024-1305, CVE-2024-4877, CVE-2024-24974, CVE-2024-27459,
//!   CVE-2024-27903, CVE-2025-13751, CVE-2025-50054, CVE-2026-13379, CVE-2026-63649, CVE-2026-78221,
//!   CVE-2026-82312, CVE-2026-84226, CVE-2026-84256;
//! - scripts and plug-ins, which are never run: CVE-2024-5198.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod control;
mod network;
mod proxy;
mod push;
mod tls;

use ovpn_client::profile::{NoFiles, Options, Profile, SessionOptions, split_push};
use ovpn_test_support::sim;

pub(crate) const PUSH: &str = "topology subnet,ifconfig 10.8.0.2 255.255.255.0,route-gateway 10.8.0.1,\
                    cipher AES-256-GCM";

pub(crate) fn profile_text(extra: &str) -> String {
    let fingerprint = ["00"; 32].join(":");
    format!("client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n{extra}\n")
}

pub(crate) fn options(extra: &str) -> Options {
    let parsed = Profile::parse(&profile_text(extra), "cve.ovpn", &NoFiles);
    parsed.unwrap_or_else(|errors| panic!("{errors}")).options
}

/// What the profile with this line is refused for.
pub(crate) fn refused(extra: &str) -> String {
    let parsed = Profile::parse(&profile_text(extra), "cve.ovpn", &NoFiles);
    parsed.err().unwrap_or_else(|| panic!("accepted: {extra}")).to_string()
}

/// What a push reply with these options, before the usual ones, comes to.
pub(crate) fn pushed(options: &str) -> Result<SessionOptions, String> {
    let raw = split_push(&format!("{options},{PUSH}")).to_vec();
    SessionOptions::from_push(&self::options(""), &raw, "").map_err(|error| format!("{error:?}"))
}
