//! What tests of an OpenVPN client need around them. Each part is a feature, so that whoever wants
//! only one compiles only that:
//!
//! | Feature | Module | |
//! |---|---|---|
//! | (always) | [`netns`] | network namespaces, links between them that lose and delay packets, snapshots |
//! | `pki` | `pki` | certificates and keys |
//! | `bus` | `bus` | a private D-Bus daemon and services that record what they are asked |
//! | `process` | `memory`, `confined` | what another process holds in memory, and what it may do |
//! | `sim` | `sim` | the control channel over a simulated network, with a simulated server |
//! | `lab` | `lab` | real OpenVPN servers, and the client as a process, in two namespaces |
//!
//! Everything here ends a test by panicking, and says what is missing: a test that cannot run must
//! fail, not pass. What is made is removed on drop, also when a test panics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests end by panicking"
)]

#[cfg(feature = "bus")]
pub mod bus;
#[cfg(feature = "process")]
pub mod confined;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "process")]
pub mod memory;
pub mod netns;
#[cfg(feature = "pki")]
pub mod pki;
#[cfg(feature = "sim")]
pub mod sim;
