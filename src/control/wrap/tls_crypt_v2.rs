//! What tls-crypt-v2 adds to tls-crypt: the wrapped client key behind some packets, and the early
//! negotiation that lets a server stay stateless (OpenVPN 2 `doc/tls-crypt-v2.txt`).

use crate::control::PeerMisbehaved;

/// Replay counter before the first packet: its high byte tells the server that the client
/// understands early negotiation.
pub(super) const EARLY_NEGOTIATION_COUNTER: u32 = 0x0f00_0000;

const TYPE_FLAGS: u16 = 0x0001;
const FLAG_RESEND_WKC: u16 = 0x0001;

const MALFORMED: PeerMisbehaved = PeerMisbehaved::EarlyNegotiation;

/// Reads the payload of a server's hard reset. True: the server kept no state and wants the
/// wrapped key again with message 1.
pub fn wants_wrapped_key(mut payload: &[u8]) -> Result<bool, PeerMisbehaved> {
    let mut resend = false;
    while !payload.is_empty() {
        let kind = take_u16(&mut payload)?;
        let len = take_u16(&mut payload)?;
        let (value, rest) = payload.split_at_checked(usize::from(len)).ok_or(MALFORMED)?;
        payload = rest;
        if kind == TYPE_FLAGS {
            let flags = <[u8; 2]>::try_from(value).map_err(|_| MALFORMED)?;
            resend |= u16::from_be_bytes(flags) & FLAG_RESEND_WKC != 0;
        }
    }
    Ok(resend)
}

fn take_u16(input: &mut &[u8]) -> Result<u16, PeerMisbehaved> {
    let (bytes, rest) = input.split_first_chunk().ok_or(MALFORMED)?;
    *input = rest;
    Ok(u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_negotiation() {
        assert_eq!(wants_wrapped_key(&[]), Ok(false));
        assert_eq!(wants_wrapped_key(&[0, 1, 0, 2, 0, 1]), Ok(true));
        assert_eq!(wants_wrapped_key(&[0, 1, 0, 2, 0, 2]), Ok(false));
        assert_eq!(wants_wrapped_key(&[0, 9, 0, 3, 1, 2, 3, 0, 1, 0, 2, 0, 1]), Ok(true));
        for bad in [&[0][..], &[0, 1, 0], &[0, 1, 0, 2, 0], &[0, 1, 0, 1, 1], &[0, 9, 0, 4, 1]] {
            assert_eq!(wants_wrapped_key(bad), Err(MALFORMED), "{bad:?}");
        }
    }
}
