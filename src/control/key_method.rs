//! Key method 2: what both sides tell each other inside a fresh TLS session.
//!
//! Layout: OpenVPN 2 `ssl.c`, `key_method_2_write` and `key_method_2_read`.

use rand::Rng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::error::{ApiMisuse, ControlError, LimitReached, PeerMisbehaved};
use crate::secret::Credentials;

/// Every message starts with a zero word and the method's number.
const PREFIX: [u8; 5] = [0, 0, 0, 0, 2];

/// Length of a random.
pub const RANDOM_LEN: usize = 32;

/// Length of the pre-master secret.
pub const PRE_MASTER_LEN: usize = 48;

/// A 2.x server reads the whole message with one read into a buffer of this size.
const MAX_MESSAGE: usize = 2048;

/// Longest options string accepted from a server; 2.x itself takes 512.
const MAX_OPTIONS: usize = 1024;

/// What one side contributes to the keys.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Randoms {
    /// For the master secret.
    pub random1: [u8; RANDOM_LEN],
    /// For the key expansion.
    pub random2: [u8; RANDOM_LEN],
}

/// What the client contributes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClientRandoms {
    /// Only the client has one.
    pub pre_master: [u8; PRE_MASTER_LEN],
    /// The rest.
    pub randoms: Randoms,
}

impl ClientRandoms {
    /// Fresh ones, in one place however often they move.
    pub fn generate(rng: &mut impl Rng) -> Box<Self> {
        let mut new = Box::new(Self {
            pre_master: [0; PRE_MASTER_LEN],
            randoms: Randoms { random1: [0; RANDOM_LEN], random2: [0; RANDOM_LEN] },
        });
        rng.fill_bytes(&mut new.pre_master);
        rng.fill_bytes(&mut new.randoms.random1);
        rng.fill_bytes(&mut new.randoms.random2);
        new
    }
}

/// What a server's message says.
pub struct ServerMessage {
    /// Its randoms.
    pub randoms: Randoms,
    /// Its options string, without the NUL.
    pub options: String,
}

/// The client's message.
///
/// # Errors
/// [`LimitReached::KeyMessage`], or [`ApiMisuse::Nul`].
pub fn encode_client(
    randoms: &ClientRandoms,
    options: &str,
    credentials: &Credentials,
    peer_info: &str,
) -> Result<Zeroizing<Vec<u8>>, ControlError> {
    // Allocated once, so that no copy of a secret is left behind by growing.
    let mut out = Zeroizing::new(Vec::with_capacity(MAX_MESSAGE));
    let strings = [
        ("the options string", options),
        ("the user name", &credentials.username),
        ("the password", credentials.password.expose()),
        ("the peer info", peer_info),
    ];
    let len = PREFIX.len()
        + PRE_MASTER_LEN
        + 2 * RANDOM_LEN
        + strings.iter().map(|(_, s)| encoded_len(s)).sum::<usize>();
    if len >= MAX_MESSAGE {
        return Err(LimitReached::KeyMessage { len, limit: MAX_MESSAGE }.into());
    }
    out.extend_from_slice(&PREFIX);
    out.extend_from_slice(&randoms.pre_master);
    out.extend_from_slice(&randoms.randoms.random1);
    out.extend_from_slice(&randoms.randoms.random2);
    for (name, string) in strings {
        write_string(&mut out, name, string)?;
    }
    Ok(out)
}

/// Reads a server's message from the start of `input`: the message and its length, or `None` if
/// more bytes are needed. The empty user name, password and peer info that may follow are zero
/// bytes and left to the caller, who skips empty strings anyway.
///
/// # Errors
/// [`PeerMisbehaved::KeyMethod`] or [`PeerMisbehaved::OptionsString`].
pub fn parse_server(input: &[u8]) -> Result<Option<(ServerMessage, usize)>, PeerMisbehaved> {
    let known = input.len().min(PREFIX.len());
    if input.get(..known) != PREFIX.get(..known) {
        return Err(PeerMisbehaved::KeyMethod);
    }
    let mut rest = input.get(PREFIX.len()..).unwrap_or_default();
    let (Some(random1), Some(random2), Some(len)) =
        (take::<RANDOM_LEN>(&mut rest), take::<RANDOM_LEN>(&mut rest), take::<2>(&mut rest))
    else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes(*len));
    if len > MAX_OPTIONS {
        return Err(PeerMisbehaved::OptionsString);
    }
    let Some((options, rest)) = rest.split_at_checked(len) else {
        return Ok(None);
    };
    let options = match options.split_last() {
        None => "",
        Some((0, text)) => std::str::from_utf8(text).map_err(|_| PeerMisbehaved::OptionsString)?,
        Some(_) => return Err(PeerMisbehaved::OptionsString),
    };
    if options.chars().any(char::is_control) {
        return Err(PeerMisbehaved::OptionsString);
    }
    let message = ServerMessage {
        randoms: Randoms { random1: *random1, random2: *random2 },
        options: options.to_owned(),
    };
    Ok(Some((message, input.len() - rest.len())))
}

fn take<'a, const N: usize>(input: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(bytes)
}

/// A string is empty (length 0) or ends with NUL, which the length counts.
const fn encoded_len(string: &str) -> usize {
    if string.is_empty() { 2 } else { 2 + string.len() + 1 }
}

fn write_string(out: &mut Vec<u8>, name: &'static str, string: &str) -> Result<(), ControlError> {
    if string.contains('\0') {
        return Err(ApiMisuse::Nul(name).into());
    }
    let len = encoded_len(string) - 2;
    let too_long = |_| LimitReached::KeyMessage { len, limit: MAX_MESSAGE };
    let len = u16::try_from(len).map_err(too_long)?;
    out.extend_from_slice(&len.to_be_bytes());
    if len > 0 {
        out.extend_from_slice(string.as_bytes());
        out.push(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn randoms() -> ClientRandoms {
        ClientRandoms {
            pre_master: [1; PRE_MASTER_LEN],
            randoms: Randoms { random1: [2; RANDOM_LEN], random2: [3; RANDOM_LEN] },
        }
    }

    #[test]
    fn client_layout() {
        let credentials = Credentials { username: "joe".to_owned(), password: Secret::from("pw") };
        let message = encode_client(&randoms(), "V4", &credentials, "").unwrap();
        assert_eq!(message[..5], [0, 0, 0, 0, 2]);
        assert_eq!(message[5..53], [1; 48]);
        assert_eq!(message[53..85], [2; 32]);
        assert_eq!(message[85..117], [3; 32]);
        assert_eq!(message[117..], *b"\0\x03V4\0\0\x04joe\0\0\x03pw\0\0\0");
    }

    #[test]
    fn client_limits() {
        let none = Credentials::default();
        let fits = "x".repeat(MAX_MESSAGE - 117 - 8 - 1 - 1);
        assert!(encode_client(&randoms(), "", &none, &fits).is_ok());
        let long = "x".repeat(fits.len() + 1);
        assert_eq!(
            encode_client(&randoms(), "", &none, &long).err(),
            Some(LimitReached::KeyMessage { len: MAX_MESSAGE, limit: MAX_MESSAGE }.into())
        );
        let nul = Credentials { username: "a\0b".to_owned(), ..none };
        assert_eq!(
            encode_client(&randoms(), "", &nul, "").err(),
            Some(ApiMisuse::Nul("the user name").into())
        );
    }

    fn server(options: &[u8]) -> Vec<u8> {
        let mut message = PREFIX.to_vec();
        message.extend_from_slice(&[7; 32]);
        message.extend_from_slice(&[8; 32]);
        message.extend_from_slice(&(options.len() as u16).to_be_bytes());
        message.extend_from_slice(options);
        message
    }

    #[test]
    fn server_message_with_and_without_tail() {
        let message = server(b"V4,cipher AES-256-GCM\0");
        for len in 0..message.len() {
            assert!(parse_server(&message[..len]).unwrap().is_none(), "{len}");
        }
        for tail in [&b""[..], &[0; 6], b"\0\0\0\0\0\0PUSH_REPLY,a\0"] {
            let input = [&message[..], tail].concat();
            let (parsed, len) = parse_server(&input).unwrap().unwrap();
            assert_eq!(len, message.len());
            assert_eq!(parsed.options, "V4,cipher AES-256-GCM");
            assert_eq!(parsed.randoms.random1, [7; 32]);
            assert_eq!(parsed.randoms.random2, [8; 32]);
        }
        assert_eq!(parse_server(&server(b"")).unwrap().unwrap().0.options, "");
    }

    #[test]
    fn bad_server_messages() {
        for bad in [&b"\0\0\0\0\x01"[..], b"PUSH", b"\x01"] {
            assert_eq!(parse_server(bad).err(), Some(PeerMisbehaved::KeyMethod));
        }
        for bad in [&b"no nul"[..], b"\xff\0", b"new\nline\0", &[b'x'; 1025]] {
            assert_eq!(parse_server(&server(bad)).err(), Some(PeerMisbehaved::OptionsString));
        }
    }
}
