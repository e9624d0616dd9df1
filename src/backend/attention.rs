//! What a front end may be asked for, and its numbers in both dialects of the interface.

/// Which of the two published forms of the interface the session manager speaks. It chooses by
/// the arguments of `RegistrationConfirmation`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// As the interface document says: `RegistrationConfirmation(so)`.
    Documented,
    /// As session managers 24.1 to 27.1 do: `RegistrationConfirmation(soo)`.
    #[default]
    Deployed,
}

/// `ClientAttentionType`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum AttentionType {
    /// User name, password, challenge, passphrase, web authentication.
    Credentials = 1,
    /// An operation of a key outside this process.
    Pkcs11 = 2,
}

/// `ClientAttentionGroup`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttentionGroup {
    /// User name and password.
    UserPassword,
    /// Credentials for an HTTP proxy.
    HttpProxyCreds,
    /// Passphrase of the private key.
    PkPassphrase,
    /// `static-challenge` of the profile.
    ChallengeStatic,
    /// `CRV1` challenge of the server, answered by a new connection.
    ChallengeDynamic,
    /// `CR_TEXT` challenge of the server, answered within the connection.
    ChallengeAuthPending,
    /// Sign with an external key.
    Pkcs11Sign,
    /// Decrypt with an external key. Part of both dialects, and never asked for: only key
    /// exchanges without forward secrecy (RSA) decrypt anything with the certificate's key, and
    /// every TLS handshake here is an ephemeral one, whose key only signs.
    Pkcs11Decrypt,
    /// Web authentication.
    OpenUrl,
}

impl AttentionGroup {
    const NAMES: [(Self, &str); 9] = [
        (Self::UserPassword, "USER_PASSWORD"),
        (Self::HttpProxyCreds, "HTTP_PROXY_CREDS"),
        (Self::PkPassphrase, "PK_PASSPHRASE"),
        (Self::ChallengeStatic, "CHALLENGE_STATIC"),
        (Self::ChallengeDynamic, "CHALLENGE_DYNAMIC"),
        (Self::ChallengeAuthPending, "CHALLENGE_AUTH_PENDING"),
        (Self::Pkcs11Sign, "PKCS11_SIGN"),
        (Self::Pkcs11Decrypt, "PKCS11_DECRYPT"),
        (Self::OpenUrl, "OPEN_URL"),
    ];

    /// What OpenVPN 3 calls the group with these numbers, as session managers know them.
    pub fn named(numbers: (u32, u32)) -> Option<&'static str> {
        let known = |group: &Self| group.numbers(Dialect::Deployed) == numbers;
        Self::NAMES.iter().find(|(group, _)| known(group)).map(|(_, name)| *name)
    }

    /// The type this group belongs to.
    pub const fn attention_type(self) -> AttentionType {
        match self {
            Self::Pkcs11Sign | Self::Pkcs11Decrypt => AttentionType::Pkcs11,
            _ => AttentionType::Credentials,
        }
    }

    /// Type and group number. The dialects differ from 6 on; the documented one has no group for
    /// challenges within a connection and shows them as dynamic challenges.
    pub const fn numbers(self, dialect: Dialect) -> (u32, u32) {
        let group = match (self, dialect) {
            (Self::UserPassword, _) => 1,
            (Self::HttpProxyCreds, _) => 2,
            (Self::PkPassphrase, _) => 3,
            (Self::ChallengeStatic, _) => 4,
            (Self::ChallengeDynamic, _) => 5,
            (Self::ChallengeAuthPending, Dialect::Documented) => 5,
            (Self::ChallengeAuthPending, Dialect::Deployed) => 6,
            (Self::Pkcs11Sign, Dialect::Documented) => 6,
            (Self::Pkcs11Sign, Dialect::Deployed) => 7,
            (Self::Pkcs11Decrypt, Dialect::Documented) => 7,
            (Self::Pkcs11Decrypt, Dialect::Deployed) => 8,
            (Self::OpenUrl, Dialect::Documented) => 8,
            (Self::OpenUrl, Dialect::Deployed) => 9,
        };
        (self.attention_type() as u32, group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_dialects() {
        use AttentionGroup::*;
        let table = [
            (UserPassword, (1, 1), (1, 1)),
            (HttpProxyCreds, (1, 2), (1, 2)),
            (PkPassphrase, (1, 3), (1, 3)),
            (ChallengeStatic, (1, 4), (1, 4)),
            (ChallengeDynamic, (1, 5), (1, 5)),
            (ChallengeAuthPending, (1, 5), (1, 6)),
            (Pkcs11Sign, (2, 6), (2, 7)),
            (Pkcs11Decrypt, (2, 7), (2, 8)),
            (OpenUrl, (1, 8), (1, 9)),
        ];
        for (group, documented, deployed) in table {
            assert_eq!(group.numbers(Dialect::Documented), documented, "{group:?}");
            assert_eq!(group.numbers(Dialect::Deployed), deployed, "{group:?}");
        }
    }
}
