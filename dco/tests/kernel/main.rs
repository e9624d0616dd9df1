//! Tests of the kernel data channel against the module itself.
//!
//! They need a kernel with `ovpn` or `ovpn-dco-v2`, unload and reload modules, and look for
//! warnings in the kernel log after each test: run them in a guest (`ci/vm/run`), where they are
//! started with `--ignored --test-threads=1`. `DCO_API` says which module is meant.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panicking"
)]

#[path = "../../../tests/netns/mod.rs"]
mod netns;

mod channel;
mod failure;
mod sockets;
mod support;
mod traffic;
