//! Proxies on the way to a server.

mod http;

pub use http::ProxyError;
pub(super) use http::{Connect, Step};
