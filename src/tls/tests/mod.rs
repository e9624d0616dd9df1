//! TLS against an in-memory rustls server.

mod chain;
mod crl;
mod rules;
mod session;
mod support;
