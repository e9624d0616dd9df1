//! TLS against an in-memory rustls server.

mod session;
mod support;
