//! Text from peers, servers and callers, made fit to be shown.

/// The text without control characters, newlines included.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_removed_and_nothing_else() {
        assert_eq!(printable("a\x1b[31mb\r\nc\u{85}\td\0é€"), "a[31mbcdé€");
    }
}
