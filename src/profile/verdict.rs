//! What became of each directive, and errors that name file, line, directive, reason and hint.

use std::fmt;

use serde::Serialize;

/// What became of one directive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// Line in the profile, from 1.
    pub line: usize,
    /// Its name as written; a placeholder where the text is no directive name (it may be a piece of
    /// a key).
    pub directive: String,
    /// The file that it names and that is read for it, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Taken, left out or refused.
    #[serde(flatten)]
    pub kind: VerdictKind,
}

/// Taken, left out or refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum VerdictKind {
    /// It does what OpenVPN documents.
    Supported {
        /// What differs or is worth knowing.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// It has no effect.
    Ignored {
        /// Why that is right.
        reason: String,
        /// The user may miss something.
        warning: bool,
    },
    /// The profile cannot be used with it.
    Refused {
        /// Why.
        reason: String,
        /// What to do.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// One reason why a profile cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ProfileError {
    /// The profile's name, usually its file name.
    pub file: String,
    /// Line, where one line is to blame.
    pub line: Option<usize>,
    /// Directive, where one is to blame.
    pub directive: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(directive) = &self.directive {
            write!(f, ": {directive}")?;
        }
        write!(f, ": {}", self.reason)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ProfileError {}

/// Everything that is wrong with a profile, and what became of the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProfileErrors {
    /// At least one, in the order of the profile; those of no particular line come last.
    pub errors: Vec<ProfileError>,
    /// As in [`crate::profile::Profile::verdicts`].
    pub verdicts: Vec<Verdict>,
}

impl fmt::Display for ProfileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.errors.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ProfileErrors {}

/// Why a directive cannot be taken: what its handler knows (the position is added by the caller).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    pub reason: String,
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    pub(super) fn with_hint(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: Some(hint.into()) }
    }
}

/// What a directive's handler did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Done {
    /// Taken.
    Taken,
    /// Taken, with something to know.
    Noted(String),
    /// Left out without consequence.
    Ignored(String),
    /// Left out; the user may miss something.
    Warned(String),
}

/// Result of a directive's handler.
pub(super) type Outcome = Result<Done, Problem>;
