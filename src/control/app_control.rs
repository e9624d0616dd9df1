//! Messages of applications ("app control", `ACC`): cut into what fits a control message, and put
//! together again. Pure.
//!
//! ```text
//! ACC,PROTOCOL,LENGTH,FLAGS,PAYLOAD
//! ```
//!
//! LENGTH is PAYLOAD's in bytes as it stands there; FLAGS are `A` (text) or `6` (base64), and `F`
//! if more of the same message follows. Facts: OpenVPN 3 `ssl/customcontrolchannel.hpp`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::profile::AppControl;

/// Longest message put together from its parts, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// A complete message of an application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppMessage {
    /// Which application.
    pub protocol: String,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Why a message of an application cannot be taken, or sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppControlError {
    /// It is not of the form above.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A part of another message came before the last part of this one.
    #[error("a message of protocol {0} was not complete when another began")]
    Interrupted(String),
    /// The parts do not end.
    #[error("longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// The server has not agreed to it.
    #[error("the server does not take messages of protocol {0}")]
    NotAgreed(String),
    /// It is not printable, and base64 was not agreed to; or text was not agreed to either.
    #[error("the server takes no encoding that fits")]
    NoEncoding,
    /// Nothing fits.
    #[error("the server's limit of {0} bytes a message leaves no room")]
    NoRoom(usize),
}

/// A message that is being put together.
#[derive(Default)]
pub struct Assembly {
    /// With the protocol it belongs to.
    begun: Option<AppMessage>,
}

impl Assembly {
    /// Takes what follows `ACC,`. The message once it is complete. After an error the parts so far
    /// are forgotten.
    pub fn add(&mut self, text: &str) -> Result<Option<AppMessage>, AppControlError> {
        let begun = self.begun.take();
        let (part, more) = parse(text)?;
        let message = match begun {
            None => part,
            Some(begun) if begun.protocol != part.protocol => {
                return Err(AppControlError::Interrupted(begun.protocol));
            }
            Some(mut begun) => {
                begun.payload.extend(part.payload);
                begun
            }
        };
        if message.payload.len() > MAX_MESSAGE {
            return Err(AppControlError::TooLong);
        }
        if !more {
            return Ok(Some(message));
        }
        self.begun = Some(message);
        Ok(None)
    }
}

/// One part, and whether more follow.
fn parse(text: &str) -> Result<(AppMessage, bool), AppControlError> {
    use AppControlError::Malformed;
    let mut words = text.splitn(4, ',');
    let mut word = || words.next().ok_or(Malformed("something is missing"));
    let (protocol, length, flags, payload) = (word()?, word()?, word()?, word()?);
    if length.parse() != Ok(payload.len()) {
        return Err(Malformed("wrong length"));
    }
    let (mut text, mut base64, mut more) = (false, false, false);
    for flag in flags.chars() {
        match flag {
            'A' => text = true,
            '6' => base64 = true,
            'F' => more = true,
            _ => return Err(Malformed("unknown flag")),
        }
    }
    let payload = match (text, base64) {
        (true, false) => payload.as_bytes().to_vec(),
        (false, true) => BASE64.decode(payload).map_err(|_| Malformed("not base64"))?,
        _ => return Err(Malformed("not exactly one encoding")),
    };
    Ok((AppMessage { protocol: protocol.to_owned(), payload }, more))
}

/// The control messages that carry a message, without their NUL.
pub fn cut(
    message: &AppMessage,
    agreed: Option<&AppControl>,
) -> Result<Vec<String>, AppControlError> {
    let AppMessage { protocol, payload } = message;
    let agreed = agreed
        .filter(|agreed| agreed.allows(protocol))
        .ok_or_else(|| AppControlError::NotAgreed(protocol.clone()))?;
    // Two flags, four commas, a length of five digits.
    let header = "ACC".len() + 2 + protocol.len() + 4 + 5;
    let no_room = || AppControlError::NoRoom(agreed.max_message);
    let room = agreed.max_message.checked_sub(header).ok_or_else(no_room)?.min(99_999);
    let printable = str::from_utf8(payload).ok().filter(|text| !text.chars().any(char::is_control));
    let (flag, parts) = match printable {
        Some(text) if agreed.text => ('A', cut_text(text, room)),
        _ if agreed.base64 => ('6', cut_base64(payload, room)),
        _ => return Err(AppControlError::NoEncoding),
    };
    let parts = parts.ok_or_else(no_room)?;
    let last = parts.len().saturating_sub(1);
    Ok(parts
        .iter()
        .enumerate()
        .map(|(n, part)| {
            let more = if n < last { "F" } else { "" };
            format!("ACC,{protocol},{},{flag}{more},{part}", part.len())
        })
        .collect())
}

/// Between characters: half a character is no text.
fn cut_text(mut text: &str, room: usize) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    loop {
        let (part, rest) = text.split_at(text.floor_char_boundary(room));
        if part.is_empty() && !rest.is_empty() {
            return None;
        }
        parts.push(part.to_owned());
        if rest.is_empty() {
            return Some(parts);
        }
        text = rest;
    }
}

fn cut_base64(payload: &[u8], room: usize) -> Option<Vec<String>> {
    let bytes = room / 4 * 3;
    if payload.is_empty() {
        return Some(vec![String::new()]);
    }
    (bytes > 0).then(|| payload.chunks(bytes).map(|part| BASE64.encode(part)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JSON with NULs and a byte that is no UTF-8 in it, and what OpenVPN 3 makes of it.
    const BINARY: &[u8] = b"\"{ \"me\": \"frog\", \0xff\xfd\"msg\": \"I am \0Kermit\" }\"";
    const ENCODED: &str = "ACC,fortune,64,6,\
         InsgIm1lIjogImZyb2ciLCAAeGZm/SJtc2ciOiAiSSBhbSAAS2VybWl0IiB9Ig==";

    fn message(protocol: &str, payload: &[u8]) -> AppMessage {
        AppMessage { protocol: protocol.to_owned(), payload: payload.to_vec() }
    }

    fn agreed(max_message: usize, text: bool, base64: bool) -> AppControl {
        AppControl { max_message, text, base64, protocols: vec!["fortune".to_owned()] }
    }

    fn put_together(parts: &[String]) -> Vec<AppMessage> {
        let mut assembly = Assembly::default();
        let add = |part: &String| assembly.add(part.strip_prefix("ACC,").unwrap()).unwrap();
        parts.iter().filter_map(add).collect()
    }

    #[test]
    fn text_stays_readable() {
        let parts = cut(&message("fortune", b"I want a cookie!"), Some(&agreed(100, true, true)));
        assert_eq!(parts.unwrap(), ["ACC,fortune,16,A,I want a cookie!"]);
        let comma = cut(&message("fortune", b"a,b"), Some(&agreed(100, true, true))).unwrap();
        assert_eq!(put_together(&comma), [message("fortune", b"a,b")]);
    }

    #[test]
    fn anything_else_is_base64() {
        let message = message("fortune", BINARY);
        let parts = cut(&message, Some(&agreed(200, true, true))).unwrap();
        assert_eq!(parts, [ENCODED]);
        assert_eq!(put_together(&parts), std::slice::from_ref(&message));
        assert_eq!(
            cut(&message, Some(&agreed(200, true, false))),
            Err(AppControlError::NoEncoding)
        );
    }

    #[test]
    fn long_messages_go_in_parts_that_fit() {
        let text =
            "Wer reitet so spät durch Nacht und Wind? Es ist der Vater mit seinem Kind. ".repeat(7);
        for (text_allowed, payload) in
            [(true, text.as_bytes()), (false, BINARY), (true, b""), (false, b"")]
        {
            for max in [30, 41, 64, 140, 2000] {
                let message = message("fortune", payload);
                let parts = cut(&message, Some(&agreed(max, text_allowed, true))).unwrap();
                assert!(parts.iter().all(|part| part.len() <= max), "{max}: {parts:?}");
                let expected = if payload.is_empty() { 1 } else { payload.len() / max };
                assert!(parts.len() >= expected, "{max}");
                assert_eq!(put_together(&parts), [message], "{max}");
            }
        }
    }

    #[test]
    fn what_cannot_be_sent_is_told() {
        let hello = message("fortune", b"hello");
        for agreed in [None, Some(&AppControl { protocols: vec![], ..agreed(100, true, true) })] {
            let error = cut(&hello, agreed).unwrap_err();
            assert_eq!(error, AppControlError::NotAgreed("fortune".to_owned()));
        }
        for (text, max) in [(true, 21), (true, 1), (false, 24)] {
            let error = cut(&hello, Some(&agreed(max, text, true))).unwrap_err();
            assert_eq!(error, AppControlError::NoRoom(max));
        }
        // Nothing at all needs the header nevertheless.
        let nothing = cut(&message("fortune", b""), Some(&agreed(20, true, true)));
        assert_eq!(nothing, Err(AppControlError::NoRoom(20)));
    }

    #[test]
    fn malformed_parts() {
        let error = |part| Assembly::default().add(part).unwrap_err();
        for part in [
            "fortune,62,6,QUJD",
            "fortune,4,ABC,abcd",
            "fortune,1,Q,x",
            "fortune,1,F,x",
            "fortune,1",
        ] {
            assert!(matches!(error(part), AppControlError::Malformed(_)), "{part}");
        }
        assert_eq!(
            error("fortune,4,A6,QUJD"),
            AppControlError::Malformed("not exactly one encoding")
        );
        assert_eq!(error("fortune,3,6,QUJ"), AppControlError::Malformed("not base64"));
    }

    #[test]
    fn a_message_in_the_middle_of_another_ends_both() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add("a,1,AF,x"), Ok(None));
        let error = assembly.add("b,1,A,x").unwrap_err();
        assert_eq!(error, AppControlError::Interrupted("a".to_owned()));
        assert_eq!(assembly.add("a,1,A,y"), Ok(Some(message("a", b"y"))));
    }

    #[test]
    fn a_message_without_end_takes_no_memory_without_end() {
        let mut assembly = Assembly::default();
        let part = format!("a,1000,AF,{}", "x".repeat(1000));
        let added = (0..100).map(|_| assembly.add(&part)).find(Result::is_err).unwrap();
        assert_eq!(added, Err(AppControlError::TooLong));
        assert!(assembly.begun.is_none());
    }
}
