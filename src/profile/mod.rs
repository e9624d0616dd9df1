//! Profiles and pushed options: text in, complete and valid options out. Pure: files are read
//! through [`FileSource`] only.

mod app_control;
mod ciphers;
mod compression;
mod directives;
mod dns;
mod domain;
mod draft;
mod exported;
mod keyfile;
mod lexer;
mod limits;
mod meta;
mod network;
mod occ;
mod options;
mod overrides;
mod parse;
mod peer_info;
mod push;
mod source;
#[cfg(test)]
mod tests;
mod timers;
mod values;
mod verdict;

pub use app_control::{AppControl, MalformedAgreement};
pub use compression::AllowCompression;
pub use domain::{DomainName, InvalidDomain};
pub use exported::restore_blocks;
pub use lexer::MAX_PROFILE_SIZE;
pub use occ::occ_string;
pub use options::*;
pub use overrides::{DnsScope, OverrideError, OverrideValue, Overrides};
pub use parse::Profile;
pub use peer_info::{PeerInfoExtra, peer_info};
pub use push::*;
pub use source::{DirFiles, FileSource, NoFiles, Opener, OwnRights, ProfileFile};
pub(crate) use values::pem_damage;
pub use verdict::{ProfileError, ProfileErrors, Verdict, VerdictKind};
