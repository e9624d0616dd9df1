//! `ovpn-client connect` against servers, and people on the way to servers, that mean harm.
//!
//! To add a scenario: a server that does something besides serving ([`server::Scenario`]), and a
//! test that says what the client must do about it. [`host::Run::end`] checks that it ends in time
//! and leaves nothing behind.
//!
//! Needs root and `/dev/net/tun`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod host;
mod server;

mod floods;
mod forged;
mod pages;
mod panics;
mod reports;
mod signals;
mod streams;
mod stress;
mod tokens;

use ovpn_test_support::lab::client;
use ovpn_test_support::{netns, sim};
