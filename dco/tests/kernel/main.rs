//! Tests of the kernel data channel against the module itself.
//!
//! They need a kernel with `ovpn` or `ovpn-dco-v2` and unload and reload modules: run them in a
//! guest (`ci/vm/run`), one by one. `DCO_API` says which module is meant.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panicking"
)]

mod channel;
mod failure;
mod ovpn_cli;
mod sockets;
mod support;
mod traffic;

use ovpn_test_support::netns;
