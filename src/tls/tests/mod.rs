//! TLS against an in-memory rustls server.

mod causes;
mod chain;
mod crl;
mod easyrsa;
mod external;
mod keys;
mod offer;
mod openssl;
mod rules;
mod session;
mod support;
