//! The tunnel's DNS: what is wanted ([`DnsPlan`]).

mod plan;

pub use self::plan::{DnsPlan, DnsScope, NameServer};
