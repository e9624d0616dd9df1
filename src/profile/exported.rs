//! A profile as a configuration manager of OpenVPN 3 Linux hands it out: some inline blocks (at least
//! `crl-verify` and `peer-fingerprint`) have become a quoted word over many lines.

use crate::secret::Secret;

/// The profile with such words as the inline blocks that they were. Whatever is not surely one stays
/// as it is.
///
/// What it undoes, as 24.1 and 27.1 do it: the text of the block between double quotes, with a
/// backslash before each double quote and backslash.
pub fn restore_blocks(text: &str) -> Secret<String> {
    // Of this length from the start: growing would leave copies of keys behind. A block has its name
    // once more than the word, and five characters.
    let mut restored = Secret::new(String::with_capacity(2 * text.len()));
    let out = restored.expose_mut();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = split_line(rest);
        if let Some(block) = Block::at(rest) {
            block.write(out);
            rest = block.after;
        } else {
            let after = tag(line).map_or(after, |tag| after_block(tag, after));
            out.push_str(&rest[..rest.len() - after.len()]);
            rest = after;
        }
    }
    restored
}

/// The first line with its end, and the rest.
fn split_line(text: &str) -> (&str, &str) {
    text.split_at(text.find('\n').map_or(text.len(), |end| end + 1))
}

/// The name of the inline block that a line begins.
fn tag(line: &str) -> Option<&str> {
    line.trim().strip_prefix('<')?.strip_suffix('>')
}

/// What follows an inline block; nothing, if it never ends.
fn after_block<'a>(tag: &str, inside: &'a str) -> &'a str {
    let mut rest = inside;
    while !rest.is_empty() {
        let (line, after) = split_line(rest);
        rest = after;
        if ends(line, tag) {
            break;
        }
    }
    rest
}

/// Whether a line ends the block `<tag>`.
fn ends(line: &str, tag: &str) -> bool {
    let line = line.trim_start().strip_prefix("</").and_then(|line| line.strip_prefix(tag));
    line.is_some_and(|line| line.starts_with('>'))
}

struct Block<'a> {
    name: &'a str,
    /// With its backslashes.
    quoted: &'a str,
    after: &'a str,
}

impl<'a> Block<'a> {
    /// A name, and a word between double quotes that spans lines and is the last of its own.
    fn at(text: &'a str) -> Option<Self> {
        let (name, _) = split_line(text).0.split_once(" \"")?;
        let rest = text.get(name.len() + 2..)?;
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || !name.bytes().all(is_name) {
            return None;
        }
        let mut escaped = false;
        let end = rest.bytes().position(|b| {
            let found = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            found
        })?;
        let (quoted, after) = (&rest[..end], &rest[end + 1..]);
        let (line, after) = split_line(after);
        let body = quoted.lines().all(|line| !ends(line, name));
        (line.trim().is_empty() && quoted.contains('\n') && body).then_some(Self {
            name,
            quoted,
            after,
        })
    }

    fn write(&self, out: &mut String) {
        let Self { name, quoted, .. } = self;
        out.extend(["<", name, ">\n"]);
        let mut escaped = false;
        for c in quoted.chars() {
            escaped = c == '\\' && !escaped;
            if !escaped {
                out.push(c);
            }
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out.extend(["</", name, ">\n"]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::{NoFiles, Profile};

    fn restored(text: &str) -> String {
        restore_blocks(text).expose().clone()
    }

    #[test]
    fn quoted_lines_are_blocks_again() {
        let list = "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n";
        for end in ["", "\n"] {
            let text = format!("client\ncrl-verify \"{}{end}\"\nverb 3\n", list.trim_end());
            let expected = format!("client\n<crl-verify>\n{list}</crl-verify>\nverb 3\n");
            assert_eq!(restored(&text), expected);
        }
        let text = "connection \"remote a 1194 udp\nlocal \\\"::\\\\1\\\"\n\"";
        let expected = "<connection>\nremote a 1194 udp\nlocal \"::\\1\"\n</connection>\n";
        assert_eq!(restored(text), expected);
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "",
            "verb 3",
            "verify-x509-name \"a b\" name\nsetenv X \"a\\\"\"\n",
            // Inside of a block, and a block that never ends.
            "<ca>\ncrl-verify \"a\nb\"\n</ca>\n",
            "<ca>\nsecret",
            // No end, more behind it, a line that would end the block.
            "crl-verify \"a\nb\n",
            "crl-verify \"a\nb\" dir\n",
            "crl-verify \"a\n</crl-verify>\nremote evil\n\"\n",
            "# a comment \"a\nb\"\n",
            "Crl-Verify \"a\nb\"\n",
        ] {
            assert_eq!(restored(text), text);
        }
    }

    /// Quadratic steps would take minutes.
    #[test]
    fn blocks_that_never_end_cost_no_more_than_their_length() {
        let text: String = (0..300_000).map(|n| format!("<a{n}>\n")).collect();
        assert_eq!(restored(&text), text);
    }

    /// As 24.1 handed it out; 27.1 leaves the block `connection` as it is.
    #[test]
    fn what_a_manager_hands_out_is_the_profile_that_it_was_given() {
        const FINGERPRINT: &str = "C7:12:F9:9B:8F:82:5F:9D:78:85:6B:59:3C:4C:2B:E6:\
                                   39:21:0C:6E:62:79:04:6C:BD:BB:11:F9:6F:D8:DC:81";
        let text = format!(
            "client\ndev tun\nremote 10.0.0.1 1194 udp\nauth-user-pass\n\n\
             crl-verify \"-----BEGIN X509 CRL-----\n\
             MIGrMFIwCgYIKoZIzj0EAwIwEDEOMAwGA1UEAwwFTXkgQ0EXDTI2MTEyOTE2NTQ0\n\
             NFoXDTM1MDIxNTE2NTQ0NFowFDASAgEHFw0yMzAxMDEwMDAwMDBaMAoGCCqGSM49\n\
             BAMCA0kAMEYCIQDQvVwNdHtcQJFipBD87F4Sa10Ue6yVdau25ej3RpjtvAIhAPAT\n\
             2Tl7GZQh5O3E43F26uEwM3g4rRLeRf+dijIPbEB1\n-----END X509 CRL-----\n\"\n\
             peer-fingerprint \"{FINGERPRINT}\n{FINGERPRINT}\n\"\n\
             connection \"remote a.example 1194 udp\nconnect-retry 2\n\"\nverb 3\n\n"
        );
        let profile = Profile::parse(&restored(&text), "test", &NoFiles).unwrap();
        let options = profile.options;
        assert!(options.tls.crl.unwrap().contains("MIGrMFIw"));
        assert_eq!(options.tls.peer_fingerprints.len(), 2);
        let hosts: Vec<_> = options.remotes.iter().map(|remote| &*remote.host).collect();
        assert_eq!(hosts, ["10.0.0.1", "a.example"]);
        assert_eq!(options.verb, Some(3));
    }

    proptest! {
        /// Whatever the manager has quoted.
        #[test]
        fn what_was_quoted_comes_back(body in "[ -;=-~\n]{0,80}", name in "[a-z][a-z-]{0,9}") {
            let body = format!("{body}\n");
            let quoted = body.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("client\n{name} \"{quoted}\"\nverb 3\n");
            let expected = format!("client\n<{name}>\n{body}</{name}>\nverb 3\n");
            prop_assert_eq!(restored(&text), expected);
        }

        #[test]
        fn never_panics_nor_grows(text in "([a-z<>/\"\\\\ \n-]|</?ca>\n|ca \"){0,200}") {
            let restored = restore_blocks(&text);
            prop_assert!(restored.expose().len() <= 2 * text.len() + 1, "{}", restored.expose());
        }
    }
}
