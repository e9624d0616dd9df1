//! Profiles and pushed options: text in, complete and valid options out. Pure: files are read
//! through [`FileSource`] only.

mod options;
mod push;

pub use options::*;
pub use push::*;
