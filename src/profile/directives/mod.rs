//! The table of directives, by topic. Every directive of OpenVPN 2 and 3 that may stand in a client
//! profile (or that people put there by mistake) has an entry.

mod auth;
mod connection;
mod control;
mod data;
mod device;
mod left_out;
mod network;
mod proxy;
mod refused;
mod setenv;
mod tls;
mod wrap;

use super::draft::Draft;
use super::source::FileSource;
use super::verdict::{Outcome, Problem};
use crate::secret::Secret;

pub(super) use data::digest;
pub(super) use device::tap;
pub(super) use left_out::ECHO;
pub(super) use proxy::ProxyDraft;
pub(super) use setenv::{forward_compatible, meta};
pub(super) use tls::cert_profile;
pub(super) use wrap::unsupported_digest;

/// Stands where a file name would, in profiles whose block of the same name has the content
/// (before OpenVPN 2.4).
pub(super) const INLINE: &str = "[inline]";

/// What is known about one directive.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Fewest words that must follow (an inline block counts as one).
    pub min: usize,
    /// Most words that may follow.
    pub max: usize,
    /// May stand in a `<connection>` block.
    pub per_connection: bool,
    /// What to do with it.
    pub action: Action,
}

/// What to do with a directive.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// Understand it.
    Apply(fn(&mut Draft, &Call<'_>) -> Outcome),
    /// Leave it out: nothing changes by that.
    Ignore(&'static str),
    /// Leave it out: somebody may miss it.
    Warn(&'static str),
    /// Do not accept the profile.
    Refuse(&'static str, &'static str),
}

impl Entry {
    const fn new(name: &'static str, min: usize, max: usize, action: Action) -> Self {
        Self { name, min, max, per_connection: false, action }
    }

    /// An entry with a handler that wants `min` to `max` words.
    const fn apply(
        name: &'static str,
        min: usize,
        max: usize,
        handler: fn(&mut Draft, &Call<'_>) -> Outcome,
    ) -> Self {
        Self::new(name, min, max, Action::Apply(handler))
    }

    const fn ignore(name: &'static str, reason: &'static str) -> Self {
        Self::new(name, 0, usize::MAX, Action::Ignore(reason))
    }

    const fn warn(name: &'static str, reason: &'static str) -> Self {
        Self::new(name, 0, usize::MAX, Action::Warn(reason))
    }

    const fn refuse(name: &'static str, reason: &'static str, hint: &'static str) -> Self {
        Self::new(name, 0, usize::MAX, Action::Refuse(reason, hint))
    }

    /// Allows it in a `<connection>` block too.
    const fn in_connection(mut self) -> Self {
        self.per_connection = true;
        self
    }
}

const TABLES: [&[Entry]; 12] = [
    auth::TABLE,
    connection::TABLE,
    control::TABLE,
    data::TABLE,
    device::TABLE,
    left_out::TABLE,
    network::TABLE,
    proxy::TABLE,
    refused::TABLE,
    setenv::TABLE,
    tls::TABLE,
    wrap::TABLE,
];

/// Every entry.
fn all() -> impl Iterator<Item = &'static Entry> {
    TABLES.iter().flat_map(|table| table.iter())
}

/// Names of all directives.
#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    all().map(|entry| entry.name).collect()
}

/// Looks a directive up. Everything that is named like the management interface belongs to it, as
/// for OpenVPN 3.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    let exact = |name: &str| all().find(|entry| entry.name == name);
    exact(name).or_else(|| name.starts_with("management-").then(|| exact("management"))?)
}

/// The known name nearest to a misspelled one, if any is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    all()
        .map(|entry| {
            let other_start = !entry.name.starts_with(&name);
            (strsim::damerau_levenshtein(&name, entry.name), other_start, entry.name)
        })
        .min()
        .filter(|&(distance, _, known)| distance <= 1 + known.len() / 6)
        .map(|(.., known)| known)
}

/// One use of a directive, as its handler sees it.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    /// Line in the profile.
    pub line: usize,
    /// Its name.
    pub name: &'a str,
    /// Words behind it.
    pub args: &'a [String],
    /// Its inline block.
    pub inline: Option<&'a str>,
    /// The `<connection>` block it stands in.
    pub block: Option<usize>,
    /// Files that it may name.
    pub files: &'a dyn FileSource,
}

impl<'a> Call<'a> {
    /// A word, if it was written.
    fn get(&self, n: usize) -> Option<&'a str> {
        self.args.get(n).map(String::as_str)
    }

    /// A word that must be there (the table's `min` makes sure, except for inline blocks).
    fn word(&self, n: usize) -> Result<&'a str, Problem> {
        self.get(n).ok_or_else(|| {
            if self.inline.is_some() {
                Problem::with_hint(
                    "it has no inline form",
                    format!("write '{} VALUE' on one line", self.name),
                )
            } else {
                Problem::new("a value is missing")
            }
        })
    }

    /// The inline block, or the bytes of the file that the first word names.
    fn bytes(&self) -> Result<Secret<Vec<u8>>, Problem> {
        if let Some(inline) = self.inline {
            return Ok(Secret::new(inline.as_bytes().to_vec()));
        }
        let path = self.word(0)?;
        self.files.read(path).map_err(|why| {
            let here = "put the file next to the profile";
            let hint = match self.name {
                "socks-proxy" => here.to_owned(),
                // Its block has another name.
                "http-proxy" => format!(
                    "{here}, or remove its name and put its content between \
                     <http-proxy-user-pass> and </http-proxy-user-pass>"
                ),
                "pkcs12" => {
                    format!("{here}, or what 'base64 {path}' prints between <pkcs12> and </pkcs12>")
                }
                name => format!("{here}, or its content between <{name}> and </{name}>"),
            };
            Problem::with_hint(format!("cannot read '{path}': {why}"), hint)
        })
    }

    /// Like [`Self::bytes`], as text.
    fn text(&self) -> Result<Secret<String>, Problem> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes.expose())
            .map(|text| Secret::new(text.trim_start_matches('\u{feff}').to_owned()))
            .map_err(|_| Problem::new("the content is not text (is it in binary form?)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_entry() {
        let mut names: Vec<_> = all().map(|e| e.name).collect();
        names.sort_unstable();
        let unique = names.len();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        assert!(unique > 250, "{unique}");
        for entry in all() {
            assert!(entry.name.len() <= 31, "{}", entry.name);
        }
    }

    #[test]
    fn management_is_a_prefix() {
        assert_eq!(find("management-of-tomorrow").unwrap().name, "management");
        assert_eq!(find("management-hold").unwrap().name, "management-hold");
        assert!(find("managemen").is_none() && find("managements").is_none());
    }

    #[test]
    fn misspelled_names_find_their_neighbour() {
        assert_eq!(nearest("remot"), Some("remote"));
        assert_eq!(nearest("prot"), Some("proto"));
        assert_eq!(nearest("Data_Ciphers"), Some("data-ciphers"));
        assert_eq!(nearest("verify-x509-nmae"), Some("verify-x509-name"));
        assert_eq!(nearest("frobnicate"), None);
    }
}
