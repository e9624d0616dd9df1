//! App control: messages of applications inside the control channel, as client and server agree on
//! them.
//!
//! Facts: OpenVPN 3 `ssl/customcontrolchannel.hpp`, `ssl/proto.hpp`.

use super::values::number;
use super::verdict::Problem;

/// `IV_ACC` before the protocols: the longest message taken in bytes, and its encodings.
pub(super) const OFFER: &str = "2048,6:A";

/// What the server agreed to: `custom-control MAX FLAGS PROTOCOLS` in a push, or the same behind
/// `INFO,ACC:`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppControl {
    /// Longest message that the server takes, with its header, in bytes.
    pub max_message: usize,
    /// Flag `A`: printable text as it is.
    pub text: bool,
    /// Flag `6`: base64.
    pub base64: bool,
    /// Names, in the server's order.
    pub protocols: Vec<String>,
}

/// An `INFO,ACC:` that cannot be used, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("INFO,ACC: {0}")]
pub struct MalformedAgreement(String);

impl AppControl {
    /// Reads the words behind `custom-control`. Unknown flags are left out.
    pub(super) fn from_words(words: &[impl AsRef<str>]) -> Result<Self, Problem> {
        let [max, flags, protocols, ..] = words else {
            return Err(Problem::new("needs the longest message, flags and protocols"));
        };
        let has = |flag| flags.as_ref().split(':').any(|f| f == flag);
        Ok(Self {
            max_message: number(max.as_ref(), 1, i32::MAX)?.unsigned_abs() as usize,
            text: has("A"),
            base64: has("6"),
            protocols: names(protocols.as_ref()).map(str::to_owned).collect(),
        })
    }

    /// Reads what stands behind `INFO,ACC:`.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn from_info(text: &str) -> Result<Self, MalformedAgreement> {
        let words: Vec<_> = text.split_whitespace().collect();
        Self::from_words(&words).map_err(|problem| MalformedAgreement(problem.reason))
    }

    /// Messages of this protocol may be exchanged.
    pub fn allows(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|allowed| allowed == protocol)
    }
}

/// The names in a list `a:b`.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(':').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_agrees_to() {
        let granted = AppControl::from_info("1000 A:6:B fortune:dpc1").unwrap();
        assert_eq!((granted.max_message, granted.text, granted.base64), (1000, true, true));
        assert!(granted.allows("fortune") && granted.allows("dpc1") && !granted.allows("dpc"));
        let granted = AppControl::from_words(&["2048", "6", "x"]).unwrap();
        assert!(granted.base64 && !granted.text);
        for bad in ["", "1000 A", "0 A x", "-5 A x", "many A x"] {
            AppControl::from_info(bad).unwrap_err();
        }
    }
}
