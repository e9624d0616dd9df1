//! How a method call to a service on the bus can fail, told apart.

use zbus::fdo;

use crate::text::excerpt;

/// Longest reason of a service that is told on, in bytes.
const MAX_REASON: usize = 1024;

/// Why a call brought no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CallFailure {
    /// The service is not installed, or cannot be started.
    #[error("not available ({reason})")]
    Unavailable {
        /// What the bus says.
        reason: String,
        /// The bus knows how to start it: another try may succeed.
        startable: bool,
    },
    /// It said no.
    #[error("{message}")]
    Refused {
        /// D-Bus name of the error.
        name: String,
        /// Its text, without the name of the error that GLib puts in front.
        message: String,
    },
    /// It says nothing.
    #[error("no answer")]
    NoAnswer,
    /// The connection failed, or the answer cannot be read.
    #[error("{reason}")]
    Bus {
        /// Why.
        reason: String,
    },
}

impl CallFailure {
    /// The service has no such object or method; just started, it may have it in a moment.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if means_unknown(name))
    }
}

/// True for the names of errors that say: there is no such object, or not with this method.
pub(crate) fn means_unknown(name: &str) -> bool {
    const NAMES: [&str; 3] = [
        "org.freedesktop.DBus.Error.UnknownObject",
        "org.freedesktop.DBus.Error.UnknownInterface",
        "org.freedesktop.DBus.Error.UnknownMethod",
    ];
    NAMES.contains(&name)
}

impl From<zbus::Error> for CallFailure {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => Self::Refused {
                name: name.to_string(),
                message: readable(&message.unwrap_or_default()),
            },
            zbus::Error::FDO(error) => {
                let name = zbus::DBusError::name(&*error).to_string();
                let message = zbus::DBusError::description(&*error).unwrap_or_default();
                match *error {
                    fdo::Error::ServiceUnknown(_)
                    | fdo::Error::NameHasNoOwner(_)
                    | fdo::Error::SpawnServiceNotFound(_) => {
                        Self::Unavailable { reason: readable(message), startable: false }
                    }
                    fdo::Error::SpawnExecFailed(_)
                    | fdo::Error::SpawnForkFailed(_)
                    | fdo::Error::SpawnChildExited(_)
                    | fdo::Error::SpawnFailed(_) => {
                        Self::Unavailable { reason: readable(message), startable: true }
                    }
                    fdo::Error::NoReply(_) | fdo::Error::Timeout(_) => Self::NoAnswer,
                    _ => Self::Refused { name, message: readable(message) },
                }
            }
            other => Self::Bus { reason: readable(&other.to_string()) },
        }
    }
}

/// `GDBus.Error:net.openvpn.v3.netcfg.error: text` is how GLib transports errors of its own.
fn readable(message: &str) -> String {
    let text = message
        .strip_prefix("GDBus.Error:")
        .and_then(|rest| rest.split_once(": "))
        .map_or(message, |(_, text)| text);
    excerpt(text, MAX_REASON).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glib_errors_become_readable() {
        let text = "GDBus.Error:net.openvpn.v3.netcfg.error: Failed: no such device";
        assert_eq!(readable(text), "Failed: no such device");
        assert_eq!(readable("plain: text"), "plain: text");
        assert_eq!(
            readable(&"x".repeat(MAX_REASON + 1)).len(),
            MAX_REASON + "… (1025 bytes)".len()
        );
    }

    #[test]
    fn services_that_are_not_there() {
        let failure = |error| CallFailure::from(zbus::Error::FDO(Box::new(error)));
        let missing = failure(fdo::Error::ServiceUnknown("gone".to_owned()));
        assert_eq!(missing.to_string(), "not available (gone)");
        let broken = failure(fdo::Error::SpawnChildExited("status 1".to_owned()));
        assert!(matches!(broken, CallFailure::Unavailable { startable: true, .. }));
        assert!(failure(fdo::Error::UnknownObject("not yet".to_owned())).is_unknown());
        assert!(!failure(fdo::Error::AccessDenied("no".to_owned())).is_unknown());
    }
}
