//! What travels inside the data channel and is no IP packet: keepalive pings and OCC messages.

/// A keepalive ping, exactly this.
pub const PING: [u8; 16] = [
    0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48,
];

/// How OCC ("options consistency check") messages begin; one byte tells which.
const OCC: [u8; 16] = [
    0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c,
];
const OCC_EXIT: u8 = 6;

/// The OCC message that announces an exit.
pub const EXIT: [u8; 17] = {
    let mut message = [OCC_EXIT; 17];
    let mut i = 0;
    while i < OCC.len() {
        message[i] = OCC[i];
        i += 1;
    }
    message
};

/// What a decrypted payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Something for the TUN device.
    Packet,
    /// Swallow it.
    Ping,
    /// The peer exits.
    Exit,
    /// Any other OCC message: swallow it. Requests (for the options string, for an MTU test) come
    /// only from peers without TLS or from an administrator's test, and an answer has no effect
    /// beyond a line in the peer's log.
    OtherOcc,
}

impl Payload {
    /// Looks at the first bytes.
    #[inline]
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        // No IP packet starts with either byte.
        match payload.first() {
            Some(0x2a) if payload.starts_with(&PING) => Self::Ping,
            Some(0x28) if payload.starts_with(&OCC) => match payload.get(OCC.len()) {
                Some(&OCC_EXIT) => Self::Exit,
                _ => Self::OtherOcc,
            },
            _ => Self::Packet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_apart() {
        assert_eq!(Payload::of(&PING), Payload::Ping);
        assert_eq!(Payload::of(&[&PING[..], b"more"].concat()), Payload::Ping);
        assert_eq!(Payload::of(&EXIT), Payload::Exit);
        assert_eq!(Payload::of(&OCC), Payload::OtherOcc);
        assert_eq!(Payload::of(&[&OCC[..], &[0]].concat()), Payload::OtherOcc);
        assert_eq!(Payload::of(&PING[..15]), Payload::Packet);
        assert_eq!(Payload::of(&[0x45, 0, 0, 20]), Payload::Packet);
        assert_eq!(Payload::of(&[]), Payload::Packet);
        assert_eq!(hex::encode(EXIT), "287f346bd4ef7a812d56b8d3afc5459c06");
    }
}
