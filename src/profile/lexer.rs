//! Profile text to directives: words, quotes, comments, inline blocks. Knows no directive.
//!
//! The dialect is the one both OpenVPN 2 and 3 profiles are written in; where the two differ, the
//! OpenVPN 2 rule holds (a comment starts only at the start of a word, quotes count only there).

use super::meta::{Meta, MetaReader};
use crate::secret::Secret;

/// Largest profile, with 64 bytes accounted for each directive and 16 for each word (OpenVPN 3).
pub const MAX_PROFILE_SIZE: usize = 262_144;
/// Largest `<connection>` block in bytes (OpenVPN 3).
const MAX_CONNECTION_SIZE: usize = 4096;
/// Longest line outside of inline blocks, in bytes (OpenVPN 3; OpenVPN 2 stops at 255).
const MAX_LINE: usize = 512;
/// Longest word in bytes (OpenVPN 2).
const MAX_WORD: usize = 256;
/// Most words of a directive, its name included; OpenVPN 2 drops the rest.
const MAX_WORDS: usize = 16;

/// One directive as written.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    /// Line of the name (of the opening tag for an inline block), from 1.
    pub line: usize,
    /// Without leading `--` or the brackets of a tag.
    pub name: String,
    /// Words behind the name.
    pub args: Vec<String>,
    /// Text between `<name>` and `</name>`, lines ending in `\n`.
    pub inline: Option<Secret<String>>,
    /// More words followed than [`MAX_WORDS`] allows.
    pub truncated: bool,
    /// The `<connection>` block it stands in, counted from 0.
    pub block: Option<usize>,
}

/// Text that cannot be split into words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LexError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

/// All that a profile text holds.
#[derive(Debug, Default)]
pub(super) struct Lexed {
    /// In order; those of a `<connection>` block have their `block` set.
    pub directives: Vec<Directive>,
    /// OpenVPN Access Server meta directives.
    pub meta: Vec<Meta>,
    /// Every line that could not be read.
    pub errors: Vec<LexError>,
}

/// How a backslash is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Escapes {
    /// Before `\`, `"` and blanks only; anything else is an error (profiles, OpenVPN 2).
    Strict,
    /// The next character, whatever it is (pushed options, OpenVPN 3).
    Any,
}

/// Splits a whole profile.
pub(super) fn lex(text: &str) -> Lexed {
    let mut lexed = Lexed::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut meta = MetaReader::default();
    let mut lines = Lines { rest: text, number: 0 };
    read_lines(&mut lines, None, &mut meta, &mut lexed);
    lexed.meta = meta.finish(&mut lexed.errors);
    let accounted = text.len()
        + lexed
            .directives
            .iter()
            .map(|d| 64 + 16 * (1 + d.args.len() + usize::from(d.inline.is_some())))
            .sum::<usize>();
    if accounted > MAX_PROFILE_SIZE {
        lexed.errors.push(LexError {
            line: 1,
            reason: format!(
                "the profile is too large: {accounted} bytes counted, {MAX_PROFILE_SIZE} allowed"
            ),
            hint: Some("remove what is not needed, for example long comments or unused servers"),
        });
    }
    lexed
}

/// Lines without their ending (`\n` or `\r\n`), numbered.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        Some(line.strip_suffix('\r').unwrap_or(line))
    }
}

fn read_lines(
    lines: &mut Lines<'_>,
    block: Option<usize>,
    meta: &mut MetaReader,
    lexed: &mut Lexed,
) {
    let mut next_block = 0;
    while let Some(line) = lines.next() {
        let number = lines.number;
        if block.is_none() && meta.line(number, line) {
            continue;
        }
        let mut fail = |reason: String, hint: Option<&'static str>| {
            lexed.errors.push(LexError { line: number, reason, hint });
        };
        let trimmed = line.trim_start();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.len() > MAX_LINE {
            fail(
                format!("the line is {} bytes long, {MAX_LINE} are allowed", line.len()),
                Some("long values belong into an inline block (<name> ... </name>)"),
            );
            continue;
        }
        let mut words = match tokenize(line, Escapes::Strict) {
            Ok(words) => words,
            Err(reason) => {
                fail(reason.to_string(), reason.hint());
                continue;
            }
        };
        if words.is_empty() {
            continue;
        }
        let truncated = words.len() > MAX_WORDS;
        words.truncate(MAX_WORDS);
        let name = words.remove(0);
        if let Some(tag) = opening_tag(&name, words.is_empty()) {
            if block.is_some() && tag == "connection" {
                fail("a <connection> block inside of another one".to_owned(), None);
                continue;
            }
            let first = lines.number;
            let Some(body) = block_body(lines, tag) else {
                fail(
                    format!("<{tag}> is never closed"),
                    Some("close the block by its end tag on a line of its own"),
                );
                return;
            };
            if tag == "connection" {
                if body.len() > MAX_CONNECTION_SIZE {
                    fail(
                        format!(
                            "the <connection> block is {} bytes long, {MAX_CONNECTION_SIZE} are \
                             allowed",
                            body.len()
                        ),
                        None,
                    );
                    continue;
                }
                let mut inner = Lines { rest: &body, number: first };
                read_lines(&mut inner, Some(next_block), meta, lexed);
                next_block += 1;
                continue;
            }
            lexed.directives.push(Directive {
                line: number,
                name: tag.to_owned(),
                args: Vec::new(),
                inline: Some(Secret::new(body)),
                truncated: false,
                block,
            });
            continue;
        }
        if name.starts_with("</") && name.ends_with('>') {
            fail("an end tag without its start tag".to_owned(), None);
            continue;
        }
        let name = name.strip_prefix("--").map_or(name.as_str(), |n| n).to_owned();
        lexed.directives.push(Directive {
            line: number,
            name,
            args: words,
            inline: None,
            truncated,
            block,
        });
    }
}

/// `tag` of `<tag>` alone on its line.
fn opening_tag(word: &str, alone: bool) -> Option<&str> {
    let tag = word.strip_prefix('<')?.strip_suffix('>')?;
    (alone && !tag.is_empty() && !tag.starts_with('/')).then_some(tag)
}

/// Everything up to `</tag>`, which may be indented. `None`: the text ends before.
fn block_body(lines: &mut Lines<'_>, tag: &str) -> Option<String> {
    let mut body = String::new();
    for line in lines {
        let end = line.trim_start().strip_prefix("</").and_then(|l| l.strip_prefix(tag));
        if end.is_some_and(|l| l.starts_with('>')) {
            return Some(body);
        }
        body.push_str(line);
        body.push('\n');
    }
    None
}

/// Why a line cannot be split into words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("a double quote (\") is opened but not closed")]
    DoubleQuote,
    #[error("a single quote (') is opened but not closed")]
    SingleQuote,
    #[error("a backslash stands before a character that needs none")]
    Backslash,
    #[error("the line ends in a backslash")]
    TrailingBackslash,
    #[error("a word is longer than {MAX_WORD} bytes")]
    WordTooLong,
}

impl TokenError {
    const fn hint(self) -> Option<&'static str> {
        match self {
            Self::DoubleQuote => Some(
                "close the quote on the same line, or write a quote inside of the word as \\\"",
            ),
            Self::SingleQuote => Some(
                "close the quote on the same line, or put a word that has one between double quotes",
            ),
            Self::Backslash | Self::TrailingBackslash => {
                Some("write \\\\ for one backslash, or put the text into single quotes")
            }
            Self::WordTooLong => None,
        }
    }
}

/// Splits one line into words.
///
/// Quotes and comment signs count at the start of a word only. Between double quotes and outside of
/// quotes a backslash takes the next character as it is; between single quotes nothing is special.
pub(super) fn tokenize(line: &str, escapes: Escapes) -> Result<Vec<String>, TokenError> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(&first) = chars.peek() {
        if is_blank(first) {
            chars.next();
            continue;
        }
        if matches!(first, '#' | ';') {
            break;
        }
        let quote = matches!(first, '"' | '\'').then_some(first);
        if quote.is_some() {
            chars.next();
        }
        let mut word = String::new();
        loop {
            let Some(c) = chars.next() else {
                match quote {
                    Some('"') => return Err(TokenError::DoubleQuote),
                    Some(_) => return Err(TokenError::SingleQuote),
                    None => break,
                }
            };
            if quote == Some(c) || (quote.is_none() && is_blank(c)) {
                break;
            }
            if c != '\\' || quote == Some('\'') {
                word.push(c);
                continue;
            }
            let escaped = chars.next().ok_or(TokenError::TrailingBackslash)?;
            let needed = matches!(escaped, '\\' | '"') || is_blank(escaped);
            if escapes == Escapes::Strict && !needed {
                return Err(TokenError::Backslash);
            }
            word.push(escaped);
        }
        if word.len() > MAX_WORD && escapes == Escapes::Strict {
            return Err(TokenError::WordTooLong);
        }
        words.push(word);
    }
    Ok(words)
}

/// C's `isspace`, and NUL, which ends a line for OpenVPN.
const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' | '\0')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        tokenize(line, Escapes::Strict).unwrap()
    }

    // Known vectors of the protocol reference, 16.11.

    #[test]
    fn plain_words() {
        assert_eq!(
            words("some-opt firstparm second-parm"),
            ["some-opt", "firstparm", "second-parm"]
        );
    }

    #[test]
    fn quotes_hold_the_other_kind() {
        assert_eq!(
            words(r#"--some-opt 'first parm' "second' 'parm""#),
            ["--some-opt", "first parm", "second' 'parm"]
        );
        assert_eq!(
            words(r#""some opt" 'first" "parm' "second\" \"parm""#),
            ["some opt", "first\" \"parm", "second\" \"parm"]
        );
    }

    #[test]
    fn open_quote_is_an_error() {
        assert_eq!(
            tokenize(r#"--some-opt 'first parm "second parm""#, Escapes::Strict),
            Err(TokenError::SingleQuote)
        );
    }

    #[test]
    fn backslashes() {
        assert_eq!(words(r"some\\opt C:\\directory\\file"), [r"some\opt", r"C:\directory\file"]);
        assert_eq!(words(r"a\ b c"), ["a b", "c"]);
        assert_eq!(tokenize(r"ca C:\dir", Escapes::Strict), Err(TokenError::Backslash));
        assert_eq!(tokenize("ca dir\\", Escapes::Strict), Err(TokenError::TrailingBackslash));
        assert_eq!(tokenize(r"echo \,x", Escapes::Any).unwrap(), ["echo", ",x"]);
    }

    #[test]
    fn comments_start_at_a_word_only() {
        assert_eq!(
            words("some-opt firstparm; second#parm"),
            ["some-opt", "firstparm;", "second#parm"]
        );
        assert_eq!(words("some-opt firstparm # secondparm"), ["some-opt", "firstparm"]);
        assert!(words("; all of it").is_empty());
    }

    #[test]
    fn word_length() {
        let word = "x".repeat(256);
        assert_eq!(words(&format!("opt {word}"))[1], word);
        assert_eq!(
            tokenize(&format!("opt {word}x"), Escapes::Strict),
            Err(TokenError::WordTooLong)
        );
    }

    #[test]
    fn sixteen_words_are_kept() {
        let line = (0..17).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let lexed = lex(&line);
        assert!(lexed.directives[0].truncated);
        assert_eq!(lexed.directives[0].args.len(), 15);
        assert_eq!(lexed.directives[0].args[14], "15");
    }

    #[test]
    fn blanks_dashes_bom_and_crlf() {
        let lexed = lex("\u{feff}someopt parm1 parm2\r\n\t--otheropt 1 2\r\n");
        assert!(lexed.errors.is_empty());
        let names: Vec<_> = lexed.directives.iter().map(|d| (d.line, d.name.as_str())).collect();
        assert_eq!(names, [(1, "someopt"), (2, "otheropt")]);
        assert_eq!(lexed.directives[1].args, ["1", "2"]);
    }

    #[test]
    fn inline_text_keeps_its_lines() {
        let lexed = lex("<inlineopt>\r\nsome text\r\nother text\n  </inlineopt>\nverb 3\n");
        assert!(lexed.errors.is_empty());
        let inline = lexed.directives[0].inline.as_ref().unwrap();
        assert_eq!(inline.expose(), "some text\nother text\n");
        assert_eq!(lexed.directives[1].line, 5);
    }

    #[test]
    fn errors_name_the_line() {
        let lexed = lex("verb 3\nremote \"a b\nport 1\n<ca>\nabc\n");
        assert_eq!(lexed.errors.iter().map(|e| e.line).collect::<Vec<_>>(), [2, 4]);
        assert!(lexed.errors[0].reason.contains("double quote"));
        assert!(lexed.errors[1].reason.contains("<ca> is never closed"));
    }

    #[test]
    fn connection_blocks_keep_their_line_numbers() {
        let lexed = lex(
            "<connection>\nremote a\n</connection>\n<connection>\n# x\nremote b\n</connection>\n",
        );
        let found: Vec<_> =
            lexed.directives.iter().map(|d| (d.line, d.block, d.args[0].as_str())).collect();
        assert_eq!(found, [(2, Some(0), "a"), (6, Some(1), "b")]);
    }

    #[test]
    fn sizes_are_limited() {
        let long = format!("# {}\nverb {}\n", "c".repeat(600), "3".repeat(600));
        assert_eq!(lex(&long).errors.iter().map(|e| e.line).collect::<Vec<_>>(), [2]);
        assert!(lex(&"verb 3\n".repeat(3000)).errors[0].reason.contains("too large"));
        let block = format!("<connection>\n{}</connection>\n", "remote a\n".repeat(500));
        assert!(lex(&block).errors[0].reason.contains("<connection>"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            lex(&text);
        }

        #[test]
        fn never_panics_on_profile_like_text(
            text in "([a-z<>/\"'\\\\#; \n-]|</?ca>\n|</?connection>\n|# OVPN_ACCESS_SERVER_){0,200}"
        ) {
            lex(&text);
        }

        #[test]
        fn quoting_gives_the_words_back(words in prop::collection::vec("[^\0\n]{0,40}", 0..10)) {
            let line = words
                .iter()
                .map(|w| format!("\"{}\"", w.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect::<Vec<_>>()
                .join(" ");
            prop_assert_eq!(tokenize(&line, Escapes::Strict).unwrap(), words);
        }
    }
}
