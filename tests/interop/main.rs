//! `ovpn-client connect` against real OpenVPN servers, 2.6 and 2.7, in network namespaces.
//!
//! Needs root, `/dev/net/tun`, and the Debian roots of `ci/lib/roots.sh` (built on first use).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod certificates;
mod cleanup;
mod embed;
mod epochs;
mod failures;
mod features;
mod kernel;
mod matrix;
mod not_kept;
mod old_ciphers;
mod outage;
mod path_mtu;
mod probe;
mod profiles;
mod proxies;
mod push_update;
mod readdressed;
mod recursion;
mod resilience;
mod roaming;
mod sandbox;
mod tokens;

use ovpn_test_support::lab::{client, server};
use ovpn_test_support::{lab, netns, pki};
