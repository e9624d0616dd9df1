//! How many of each a connection may have, from the profile and the server together. A server that
//! sends more is mistaken or hostile, and every one costs work in this process and on the host.

/// Longest domain name, in bytes (RFC 1035, written with dots).
pub(super) const MAX_DOMAIN: usize = 253;
/// Longest label of a domain name, in bytes (RFC 1035).
pub(super) const MAX_LABEL: usize = 63;
/// Most search and resolve domains each (systemd-resolved takes 1024 of a link).
pub(super) const MAX_DOMAINS: usize = 500;
/// Most addresses of DNS servers (as systemd-resolved takes of a link).
pub(super) const MAX_DNS_ADDRESSES: usize = 256;
/// Most addresses of one `dns server` (OpenVPN).
pub(super) const MAX_SERVER_ADDRESSES: usize = 8;
/// Most routes: lists of a whole country's networks have ten thousand.
pub(super) const MAX_ROUTES: usize = 16_384;
/// Most remarks on one push.
pub(super) const MAX_REMARKS: usize = 50;
/// Longest remark on a pushed option, in characters.
pub(super) const MAX_REMARK: usize = 300;
