//! The D-Bus interface of the backend process, member by member, on a private bus with stand-ins
//! for the other services.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod bus;
mod connected;
mod forgotten;
mod lifecycle;
mod process;
mod proxy;
mod registration;
mod specification;
mod user_input;

use ovpn_test_support::confined;
