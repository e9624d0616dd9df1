//! Errors as the deployed services encode them: session managers look for the domain in the text.

use crate::backend;

/// The name GLib gives to an error of a domain that has no D-Bus names of its own: letters and
/// digits stay, every other byte becomes `_` and two hex digits.
pub fn encoded_name(domain: &str) -> String {
    let mut name = "org.gtk.GDBus.UnmappedGError.Quark._".to_owned();
    for byte in domain.bytes() {
        if byte.is_ascii_alphanumeric() {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("_{byte:02x}"));
        }
    }
    name.push_str(".Code36");
    name
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    name: String,
    text: String,
}

impl Failure {
    fn standard(name: &str, text: String) -> Self {
        Self { name: format!("org.freedesktop.DBus.Error.{name}"), text }
    }

    pub(super) fn invalid_args(text: impl Into<String>) -> Self {
        Self::standard("InvalidArgs", text.into())
    }

    pub(super) fn access_denied(text: impl Into<String>) -> Self {
        Self::standard("AccessDenied", text.into())
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::standard("Failed", text.into())
    }

    pub(super) fn limit(text: impl Into<String>) -> Self {
        Self::standard("LimitsExceeded", text.into())
    }

    pub(super) fn unknown_method(text: impl Into<String>) -> Self {
        Self::standard("UnknownMethod", text.into())
    }

    pub(super) fn wrong_type(got: &str, expected: &str) -> Self {
        Self::invalid_args(format!(
            "Type of message, “({got})”, does not match expected type “({expected})”"
        ))
    }
}

impl From<backend::Error> for Failure {
    fn from(error: backend::Error) -> Self {
        let domain = error.domain.name();
        Self { name: encoded_name(domain), text: format!("GDBus.Error:{domain}: {}", error.text) }
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        Self::invalid_args(error.to_string())
    }
}

impl Failure {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Domain, Error};

    #[test]
    fn domains_are_encoded_as_glib_does() {
        assert_eq!(
            encoded_name("net.openvpn.v3.error.ready"),
            "org.gtk.GDBus.UnmappedGError.Quark._net_2eopenvpn_2ev3_2eerror_2eready.Code36"
        );
        assert_eq!(
            encoded_name("net.openvpn.v3.error.be-registration"),
            "org.gtk.GDBus.UnmappedGError.Quark.\
             _net_2eopenvpn_2ev3_2eerror_2ebe_2dregistration.Code36"
        );
    }

    #[test]
    fn the_text_repeats_the_domain() {
        let failure = Failure::from(Error {
            domain: Domain::Ready,
            text: "Missing user credentials".to_owned(),
        });
        assert_eq!(
            failure.text(),
            "GDBus.Error:net.openvpn.v3.error.ready: Missing user credentials"
        );
    }
}
