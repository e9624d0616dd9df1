//! Text from peers, servers and callers, made fit to be shown.

use std::borrow::Cow;

use crate::secret::Secret;

/// The text without what a terminal obeys and without what deceives a reader: control characters
/// (newlines included) are left out, white space is a blank, and what has no shape of its own
/// (bidirectional and zero-width characters, tags, unassigned ones) is U+FFFD.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).map(visible).collect()
}

/// As [`printable`], for text of several lines: those stay.
#[cfg(feature = "cli")]
pub(crate) fn printable_lines(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).map(visible).collect()
}

/// JSON text without what a reader cannot see: such characters are escaped, which means the same.
#[cfg(feature = "cli")]
pub(crate) fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || c == '\u{fffd}' || is_visible(c) {
            text.push(c);
        } else {
            // Outside of strings JSON has no such characters.
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

/// The text of a file that somebody may have written long ago: each line that is not UTF-8 is Latin-1,
/// and true stands beside the text if there is one. Without a copy that would not be wiped.
pub(crate) fn decoded(bytes: &[u8]) -> (Secret<String>, bool) {
    // In UTF-8, a character of Latin-1 takes two bytes at most.
    let mut text = Secret::new(String::with_capacity(bytes.len() * 2));
    let mut any = false;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match str::from_utf8(line) {
            Ok(line) => text.expose_mut().push_str(line),
            Err(_) => {
                any = true;
                text.expose_mut().extend(line.iter().map(|byte| char::from(*byte)));
            }
        }
    }
    (text, any)
}

/// At most `max` bytes of a text from outside, from its beginning; how long it is stands behind what
/// is cut off.
pub(crate) fn excerpt(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let beginning = text.get(..text.floor_char_boundary(max)).unwrap_or_default();
    Cow::Owned(format!("{beginning}… ({} bytes)", text.len()))
}

/// What somebody typed, without control characters. Nothing else is changed: it may be a password.
#[cfg(feature = "dbus")]
pub(crate) fn typed(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Whether a reader sees this character as what it is.
pub(crate) fn is_visible(c: char) -> bool {
    visible(c) == c && c != '\u{fffd}' && !c.is_control()
}

fn visible(c: char) -> char {
    if c.is_ascii() {
        c
    } else if c.is_whitespace() {
        ' '
    } else if is_shapeless(c) {
        '\u{fffd}'
    } else {
        c
    }
}

/// The standard library escapes what cannot be printed (Unicode's categories C and Z), and
/// combining characters only at the beginning.
fn is_shapeless(c: char) -> bool {
    let mut pair = [0; 5];
    pair[0] = b'a';
    let length = c.encode_utf8(&mut pair[1..]).len();
    str::from_utf8(&pair[..=length]).is_ok_and(|pair| pair.escape_debug().nth(1) == Some('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_removed_and_nothing_else() {
        assert_eq!(printable("a\x1b[31mb\r\nc\u{85}\td\0é€\\\"'"), "a[31mbcdé€\\\"'");
        assert_eq!(printable_lines("a\x1b\r\nb\u{202e}"), "a\nb\u{fffd}");
        assert_eq!(typed("p\u{200d}\u{a0}\x07w"), "p\u{200d}\u{a0}w");
    }

    #[test]
    fn what_deceives_is_not_shown() {
        for hidden in [
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{ad}',
            '\u{e0041}',
        ] {
            assert_eq!(printable(&format!("a{hidden}b")), "a\u{fffd}b", "{hidden:?}");
            assert!(!is_visible(hidden));
        }
        assert_eq!(printable("a\u{2028}b\u{3000}c\u{a0}d"), "a b c d");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(excerpt("a€", 4), "a€");
        assert_eq!(excerpt("a€b", 4), "a€… (5 bytes)");
        assert_eq!(excerpt("a€b", 3), "a… (5 bytes)");
        assert_eq!(excerpt("€", 0), "… (3 bytes)");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = "a\u{202e}\u{7f}\u{9b}\u{e0041}é\"\n\u{fffd}";
        let json = printable_json(&serde_json::to_string(value).unwrap());
        assert_eq!(json, r#""a\u202e\u007f\u009b\udb40\udc41é\"\n�""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
    }

    #[test]
    fn other_scripts_are_shown() {
        for text in ["e\u{301}", "हिन्दी", "日本語", "עברית", "العربية", "Ελλάδα", "🔒"]
        {
            assert_eq!(printable(text), text);
            assert!(text.chars().all(is_visible));
        }
    }
}
