//! Control packets as bytes: header, acknowledgements, message id. Knows nothing of wrapping.
//!
//! Layout: OpenVPN 2 `ssl_pkt.h`, OpenVPN 3 `ssl/proto.hpp`. Role-neutral.

use std::fmt;

use ovpn_dco::KeyId;

/// Length of a session id.
pub const SESSION_ID_LEN: usize = 8;

/// Opcode byte and the sender's session id: never encrypted.
pub const HEADER_LEN: usize = 1 + SESSION_ID_LEN;

/// Most acknowledgements in one ACK_V1; other packets carry at most [`MAX_PIGGYBACK_ACKS`].
pub const MAX_ACKS: usize = 8;

/// Most acknowledgements in a packet that carries a message.
pub const MAX_PIGGYBACK_ACKS: usize = 4;

/// What a control packet is (high five bits of the first byte).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "names of the protocol")]
pub enum Opcode {
    SoftResetV1 = 3,
    ControlV1 = 4,
    AckV1 = 5,
    HardResetClientV2 = 7,
    HardResetServerV2 = 8,
    HardResetClientV3 = 10,
    ControlWkcV1 = 11,
}

impl Opcode {
    /// `None` for data packets, the removed key method 1 and numbers nobody uses.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            3 => Some(Self::SoftResetV1),
            4 => Some(Self::ControlV1),
            5 => Some(Self::AckV1),
            7 => Some(Self::HardResetClientV2),
            8 => Some(Self::HardResetServerV2),
            10 => Some(Self::HardResetClientV3),
            11 => Some(Self::ControlWkcV1),
            _ => None,
        }
    }

    /// Opens a message id space: always message 0 of its key.
    pub const fn is_reset(self) -> bool {
        matches!(
            self,
            Self::SoftResetV1
                | Self::HardResetClientV2
                | Self::HardResetServerV2
                | Self::HardResetClientV3
        )
    }

    /// The tls-crypt-v2 wrapped key follows the packet in clear.
    pub const fn carries_wrapped_key(self) -> bool {
        matches!(self, Self::HardResetClientV3 | Self::ControlWkcV1)
    }
}

/// One side's name for a connection: 8 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; SESSION_ID_LEN]);

impl SessionId {
    /// `None` for the all-zero id, which means "undefined".
    pub fn new(bytes: [u8; SESSION_ID_LEN]) -> Option<Self> {
        (bytes != [0; SESSION_ID_LEN]).then_some(Self(bytes))
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; SESSION_ID_LEN] {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Why bytes are not a control packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PacketError {
    #[error("packet is too short")]
    Truncated,
    #[error("opcode {0} is not a control packet")]
    Opcode(u8),
    #[error("session id is zero")]
    ZeroSessionId,
    #[error("{0} acknowledgements in one packet")]
    TooManyAcks(u8),
}

/// The first nine bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Kind of packet.
    pub opcode: Opcode,
    /// Key that is being negotiated or used.
    pub key_id: KeyId,
    /// The sender's own session id.
    pub session_id: SessionId,
}

impl Header {
    /// Reads the header from the start of a packet.
    pub fn parse(packet: &[u8]) -> Result<Self, PacketError> {
        let (&first, rest) = packet.split_first().ok_or(PacketError::Truncated)?;
        let opcode = Opcode::from_number(first >> 3).ok_or(PacketError::Opcode(first >> 3))?;
        let id = rest.first_chunk().ok_or(PacketError::Truncated)?;
        let session_id = SessionId::new(*id).ok_or(PacketError::ZeroSessionId)?;
        Ok(Self { opcode, key_id: KeyId::from_first_byte(first), session_id })
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = (self.opcode as u8) << 3 | self.key_id.get();
        bytes[1..].copy_from_slice(self.session_id.bytes());
        bytes
    }
}

/// Up to eight message ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AckList {
    ids: [u32; MAX_ACKS],
    len: u8,
}

impl AckList {
    /// Takes the first eight of `ids`.
    pub fn from_slice(ids: &[u32]) -> Self {
        let mut list = Self::default();
        for (slot, id) in list.ids.iter_mut().zip(ids) {
            *slot = *id;
            list.len += 1;
        }
        list
    }

    /// The ids, in wire order.
    pub fn as_slice(&self) -> &[u32] {
        &self.ids[..usize::from(self.len)]
    }

    /// No ids.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the wire, including the count and the acknowledged session id.
    pub fn encoded_len(count: usize) -> usize {
        if count == 0 { 1 } else { 1 + 4 * count + SESSION_ID_LEN }
    }
}

/// Everything behind the header (and the wrapping's own fields).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body<'a> {
    /// Messages that are acknowledged.
    pub acks: AckList,
    /// Whose messages: the receiver's session id. Present exactly when `acks` is not empty.
    pub acked_session: Option<SessionId>,
    /// Absent in ACK_V1 only.
    pub message_id: Option<u32>,
    /// TLS bytes, or early negotiation TLVs in a server's hard reset.
    pub payload: &'a [u8],
}

impl<'a> Body<'a> {
    /// A message, and no acknowledgement.
    pub(super) const fn message(id: u32, payload: &'a [u8]) -> Self {
        let acks = AckList { ids: [0; MAX_ACKS], len: 0 };
        Self { acks, acked_session: None, message_id: Some(id), payload }
    }

    /// Reads the part behind the header of an unwrapped packet.
    pub fn parse(opcode: Opcode, body: &'a [u8]) -> Result<Self, PacketError> {
        let (&count, mut rest) = body.split_first().ok_or(PacketError::Truncated)?;
        if usize::from(count) > MAX_ACKS {
            return Err(PacketError::TooManyAcks(count));
        }
        let mut acks = AckList::default();
        for slot in acks.ids.iter_mut().take(usize::from(count)) {
            *slot = take_u32(&mut rest)?;
            acks.len += 1;
        }
        let acked_session = if count == 0 {
            None
        } else {
            let (id, tail) = rest.split_first_chunk().ok_or(PacketError::Truncated)?;
            rest = tail;
            Some(SessionId::new(*id).ok_or(PacketError::ZeroSessionId)?)
        };
        let message_id = if opcode == Opcode::AckV1 { None } else { Some(take_u32(&mut rest)?) };
        Ok(Self { acks, acked_session, message_id, payload: rest })
    }

    /// Appends the bytes. Acknowledgements are left out when there is no session to name.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self.acked_session {
            Some(session) if !self.acks.is_empty() => {
                out.push(self.acks.len);
                for id in self.acks.as_slice() {
                    out.extend_from_slice(&id.to_be_bytes());
                }
                out.extend_from_slice(session.bytes());
            }
            _ => out.push(0),
        }
        if let Some(id) = self.message_id {
            out.extend_from_slice(&id.to_be_bytes());
        }
        out.extend_from_slice(self.payload);
    }
}

fn take_u32(input: &mut &[u8]) -> Result<u32, PacketError> {
    let (bytes, rest) = input.split_first_chunk().ok_or(PacketError::Truncated)?;
    *input = rest;
    Ok(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(packet: &str, opcode: Opcode, acks: &[u32], message_id: Option<u32>, payload: &str) {
        let packet = hex::decode(packet.replace(' ', "")).unwrap();
        let header = Header::parse(&packet).unwrap();
        assert_eq!(header.opcode, opcode);
        assert_eq!(header.key_id, KeyId::FIRST);
        let body = Body::parse(opcode, &packet[HEADER_LEN..]).unwrap();
        assert_eq!(body.acks.as_slice(), acks);
        assert_eq!(body.message_id, message_id);
        assert_eq!(hex::encode(body.payload), payload);
        assert_eq!(body.acked_session.is_some(), !acks.is_empty());
        let mut again = header.encode().to_vec();
        body.encode(&mut again);
        assert_eq!(again, packet);
    }

    #[test]
    fn upstream_packets() {
        check("38 6891923fa3103437 00 00000000", Opcode::HardResetClientV2, &[], Some(0), "");
        check("28 aeb9afe1f01d79c8 01 00000000 dd85db535623b02e", Opcode::AckV1, &[0], None, "");
        check(
            "28 aeb9afe1f01d79c8 03 00000000 00000001 00000002 dd85db535623b02e",
            Opcode::AckV1,
            &[0, 1, 2],
            None,
            "",
        );
        check(
            "20 7819bf2ebcd19a45 01 00000000 eafebfa4418ae31b 00000001 160301",
            Opcode::ControlV1,
            &[0],
            Some(1),
            "160301",
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        let packet = hex::decode("207819bf2ebcd19a450100000000eafebfa4418ae31b00000001").unwrap();
        for len in 0..packet.len() {
            let cut = &packet[..len];
            let result = Header::parse(cut)
                .and_then(|h| Body::parse(h.opcode, &cut[HEADER_LEN..]).map(|_| ()));
            assert_eq!(result, Err(PacketError::Truncated), "{len}");
        }
    }

    #[test]
    fn bad_packets() {
        assert_eq!(Header::parse(&[0x30; 20]), Err(PacketError::Opcode(6)));
        assert_eq!(Header::parse(&[0x08; 20]), Err(PacketError::Opcode(1)));
        assert_eq!(Header::parse(&[0xf8; 20]), Err(PacketError::Opcode(31)));
        let mut zero = [0; 14];
        zero[0] = 0x38;
        assert_eq!(Header::parse(&zero), Err(PacketError::ZeroSessionId));
        assert_eq!(Body::parse(Opcode::ControlV1, &[9; 100]), Err(PacketError::TooManyAcks(9)));
    }
}
