//! The errors of the interface: domains and texts that front ends compare.

/// Error domain. Session managers and front ends search for these names in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// `Ready`: input is missing.
    Ready,
    /// Connection methods.
    Client,
    /// `RegistrationConfirmation`.
    Registration,
    /// The user-input queue.
    Request,
    /// The caller is not the session manager.
    Access,
}

impl Domain {
    /// Its name on the bus.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "net.openvpn.v3.error.ready",
            Self::Client => "net.openvpn.v3.error.client",
            Self::Registration => "net.openvpn.v3.error.be-registration",
            Self::Request => "net.openvpn.gdbuspp.request",
            Self::Access => "net.openvpn.gdbuspp",
        }
    }
}

/// A refused request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {text}", domain.name())]
pub struct Error {
    /// Domain.
    pub domain: Domain,
    /// Text, as in the catalogue of `dbus-contract` 2.6.
    pub text: String,
}

impl Error {
    fn new(domain: Domain, text: impl Into<String>) -> Self {
        Self { domain, text: text.into() }
    }

    /// The caller may not do this.
    pub fn not_authorised(caller: &str, what: &str) -> Self {
        Self::new(Domain::Access, format!("Authorization failed for {caller} {what}"))
    }

    /// Second `RegistrationConfirmation`.
    pub fn already_registered() -> Self {
        Self::new(Domain::Registration, "Backend service is already registered")
    }

    /// `RegistrationConfirmation` with somebody else's token.
    pub fn wrong_token() -> Self {
        Self::new(Domain::Registration, "Invalid registration token")
    }

    /// The configuration manager does not hand out the profile.
    pub fn no_profile() -> Self {
        Self::new(Domain::Client, "No configuration profile has been parsed")
    }

    pub(super) fn missing_credentials() -> Self {
        Self::new(Domain::Ready, "Missing user credentials")
    }

    pub(super) fn pending_web_auth() -> Self {
        Self::new(Domain::Ready, "Pending web authentication")
    }

    pub(super) fn not_initialized() -> Self {
        Self::new(Domain::Client, "Backend service is not initialized")
    }

    pub(super) fn state_changing() -> Self {
        Self::new(Domain::Client, "Session is changing connection state, but times out")
    }

    pub(super) fn input_not_provided() -> Self {
        Self::new(Domain::Client, "Required user input not provided")
    }

    pub(super) fn already_paused() -> Self {
        Self::new(Domain::Client, "Connection is already paused")
    }

    pub(super) fn not_paused() -> Self {
        Self::new(Domain::Client, "Connection is not paused")
    }

    pub(super) fn not_connected() -> Self {
        Self::new(Domain::Client, "Connection is not active")
    }

    pub(super) fn no_such_slot() -> Self {
        Self::new(
            Domain::Request,
            "net.openvpn.v3.element-not-found: No requires queue element found",
        )
    }

    pub(super) fn slot_answered() -> Self {
        Self::new(Domain::Request, "net.openvpn.v3.already-provided: User input already provided")
    }

    pub(super) fn empty_value(id: u32) -> Self {
        Self::new(
            Domain::Request,
            format!(
                "net.openvpn.v3.error.invalid-input: No value provided for RequiresSlot ID {id}"
            ),
        )
    }

    pub(super) fn value_too_long(id: u32, length: usize, limit: usize) -> Self {
        Self::new(
            Domain::Request,
            format!(
                "net.openvpn.v3.error.invalid-input: The value for RequiresSlot ID {id} has \
                 {length} bytes, at most {limit} are taken"
            ),
        )
    }

    pub(super) fn nothing_asked() -> Self {
        Self::new(Domain::Request, "User input not required")
    }

    pub(super) fn wrong_id() -> Self {
        Self::new(
            Domain::Request,
            "net.openvpn.v3.invalid-input: No matching entry found in the request queue",
        )
    }

    pub(super) fn id_answered(id: u32) -> Self {
        Self::new(
            Domain::Request,
            format!(
                "net.openvpn.v3.error.input-already-provided: Request ID {id} has already been \
                 provided"
            ),
        )
    }
}
