//! Splitting the body of a push reply.

/// Splits the body of a PUSH_REPLY (what follows `PUSH_REPLY,`) into raw options.
///
/// A comma between double quotes, or behind a backslash, does not split. Quotes and backslashes
/// stay in the options: they are read when an option is split into words. A double quote that is
/// never closed is an ordinary character, so that it cannot swallow the options behind it. Empty
/// options are kept.
pub fn split_push(body: &str) -> Vec<String> {
    let mut options = Vec::new();
    let (mut start, mut at) = (0, 0);
    // Once one quote has no partner, no later one can have.
    let mut quotes = true;
    while let Some(byte) = body.as_bytes().get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' if quotes => match closing_quote(body.as_bytes(), at + 1) {
                Some(end) => at = end,
                None => quotes = false,
            },
            b',' => {
                options.push(body.get(start..at).unwrap_or_default().to_owned());
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    options.push(body.get(start..).unwrap_or_default().to_owned());
    options
}

fn closing_quote(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Known vector of the protocol reference, 16.12.
    #[test]
    fn quotes_and_backslashes_keep_commas() {
        let body = r#"echo "one,two,three",,route 1.2.3.4,echo \",echo "foo",echo \,,echo fin,"#;
        assert_eq!(
            split_push(body),
            [
                r#"echo "one,two,three""#,
                "",
                "route 1.2.3.4",
                r#"echo \""#,
                r#"echo "foo""#,
                r"echo \,",
                "echo fin",
                ""
            ]
        );
    }

    #[test]
    fn an_open_quote_swallows_nothing() {
        assert_eq!(
            split_push(r#"echo 5" disk,route 10.0.0.0"#),
            [r#"echo 5" disk"#, "route 10.0.0.0"]
        );
        assert_eq!(split_push("echo don't,ping 10"), ["echo don't", "ping 10"]);
        assert_eq!(split_push(""), [""]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(body in "[a-z,\"\\\\ \u{e9}]{0,60}") {
            prop_assert_eq!(split_push(&body).join(","), body);
        }
    }
}
