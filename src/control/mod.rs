//! The control channel: reliable, wrapped, TLS inside; key exchange, push, renegotiation, messages.
//!
//! Sans-I/O: no socket, no clock, no randomness but what is passed in. Feed it packets and time,
//! then drain [`ControlChannel::poll_transmit`] and [`ControlChannel::poll_event`], then sleep until
//! [`ControlChannel::poll_timeout`].
#![forbid(unsafe_code)]

mod event;

pub use event::{
    Advance, AuthFailed, ControlConfig, ControlError, Event, NegotiatedParameters, PendingAuth,
    RestartFlags, TransportKind,
};
