//! What goes wrong between a process and its helper.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why the helper process did not do its part.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HelperError {
    /// It was killed, or has failed.
    #[error("the helper process has ended")]
    Ended,
    /// It takes no more questions.
    #[error("the helper process does not answer")]
    Hangs,
    /// It hangs, or has too much to do.
    #[error("the helper process has not answered within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// It cannot be asked, or what it says cannot be read.
    #[error("the line to the helper process: {0}")]
    Line(#[source] Arc<io::Error>),
    /// It answers, but not with what was asked for.
    #[error("the helper process sent no {0}")]
    Missing(&'static str),
    /// It says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What the helper answers in place of what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{reason}")]
pub struct Refusal {
    /// Why, complete.
    pub reason: String,
    /// The system's number for it, where it is the system that says no.
    pub errno: Option<i32>,
}

impl Refusal {
    /// Whatever the reason is.
    pub(super) fn new(error: impl std::fmt::Display) -> Self {
        Self { reason: error.to_string(), errno: None }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Self::new(reason)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { reason: error.to_string(), errno: error.raw_os_error() }
    }
}

impl From<HelperError> for io::Error {
    fn from(error: HelperError) -> Self {
        match error {
            HelperError::Refused(Refusal { errno: Some(number), .. }) => {
                Self::from_raw_os_error(number)
            }
            error => Self::other(error),
        }
    }
}
