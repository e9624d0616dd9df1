//! The status codes a backend sends (`StatusMajor` and `StatusMinor` of OpenVPN 3 Linux).

/// What a status is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum StatusMajor {
    /// Nothing has been said yet.
    Unset = 0,
    /// The VPN connection.
    Connection = 2,
    /// The session: web authentication only.
    Session = 3,
}

/// Where it stands. Only the codes a backend may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[expect(missing_docs, reason = "OpenVPN 3's own names")]
pub enum StatusMinor {
    Unset = 0,
    CfgOk = 2,
    CfgRequireUser = 4,
    ConnConnecting = 6,
    ConnConnected = 7,
    ConnDisconnecting = 8,
    ConnDisconnected = 9,
    ConnFailed = 10,
    ConnAuthFailed = 11,
    ConnReconnecting = 12,
    ConnPausing = 13,
    ConnPaused = 14,
    ConnResuming = 15,
    ConnDone = 16,
    SessAuthUrl = 22,
}

impl StatusMinor {
    const NAMES: [(Self, &str); 15] = [
        (Self::Unset, "UNSET"),
        (Self::CfgOk, "CFG_OK"),
        (Self::CfgRequireUser, "CFG_REQUIRE_USER"),
        (Self::ConnConnecting, "CONN_CONNECTING"),
        (Self::ConnConnected, "CONN_CONNECTED"),
        (Self::ConnDisconnecting, "CONN_DISCONNECTING"),
        (Self::ConnDisconnected, "CONN_DISCONNECTED"),
        (Self::ConnFailed, "CONN_FAILED"),
        (Self::ConnAuthFailed, "CONN_AUTH_FAILED"),
        (Self::ConnReconnecting, "CONN_RECONNECTING"),
        (Self::ConnPausing, "CONN_PAUSING"),
        (Self::ConnPaused, "CONN_PAUSED"),
        (Self::ConnResuming, "CONN_RESUMING"),
        (Self::ConnDone, "CONN_DONE"),
        (Self::SessAuthUrl, "SESS_AUTH_URL"),
    ];

    /// What OpenVPN 3 calls the status with this number.
    pub fn named(number: u32) -> Option<&'static str> {
        let found = Self::NAMES.iter().find(|(minor, _)| *minor as u32 == number);
        found.map(|(_, name)| *name)
    }
}

/// One `StatusChange`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it is about.
    pub major: StatusMajor,
    /// Where it stands.
    pub minor: StatusMinor,
    /// For people; often empty.
    pub message: String,
}

impl Status {
    /// The status before the first `StatusChange`.
    pub const UNSET: Self =
        Self { major: StatusMajor::Unset, minor: StatusMinor::Unset, message: String::new() };

    /// A status of the connection.
    pub fn connection(minor: StatusMinor, message: impl Into<String>) -> Self {
        Self { major: StatusMajor::Connection, minor, message: message.into() }
    }

    /// Major, minor and message as they go over the bus.
    pub const fn codes(&self) -> (u32, u32) {
        (self.major as u32, self.minor as u32)
    }
}
