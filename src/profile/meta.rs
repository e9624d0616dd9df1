//! Meta directives of OpenVPN Access Server: settings written as comments.
//!
//! `# OVPN_ACCESS_SERVER_KEY=VALUE`, or lines starting with `# ` between
//! `# OVPN_ACCESS_SERVER_KEY_START` and `# OVPN_ACCESS_SERVER_KEY_STOP`.

use super::lexer::LexError;

const PREFIX: &str = "OVPN_ACCESS_SERVER_";

/// One meta directive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    /// Line of the (first) comment.
    pub line: usize,
    /// Without the prefix.
    pub key: String,
    /// Text behind `=`, or the lines of the block.
    pub value: String,
}

/// Collects meta directives from the comments of a profile.
#[derive(Debug, Default)]
pub(super) struct MetaReader {
    found: Vec<Meta>,
    open: Option<Meta>,
}

impl MetaReader {
    /// True if the line belongs to a meta directive.
    pub(super) fn line(&mut self, number: usize, line: &str) -> bool {
        let Some(comment) = line.strip_prefix("# ") else { return false };
        let directive = comment.trim_end().strip_prefix(PREFIX);
        if let Some(open) = &mut self.open {
            match directive {
                Some(d) if d.strip_suffix("_STOP") == Some(open.key.as_str()) => {
                    self.found.extend(self.open.take());
                }
                _ => {
                    open.value.push_str(comment);
                    open.value.push('\n');
                }
            }
            return true;
        }
        let Some(directive) = directive else { return false };
        if let Some((key, value)) = directive.split_once('=') {
            self.found.push(Meta {
                line: number,
                key: key.to_owned(),
                value: value.trim().to_owned(),
            });
        } else if let Some(key) = directive.strip_suffix("_START") {
            self.open = Some(Meta { line: number, key: key.to_owned(), value: String::new() });
        }
        true
    }

    /// Everything found; a block without its end is an error.
    pub(super) fn finish(self, errors: &mut Vec<LexError>) -> Vec<Meta> {
        if let Some(open) = self.open {
            errors.push(LexError {
                line: open.line,
                reason: format!(
                    "the meta block {PREFIX}{0}_START has no {PREFIX}{0}_STOP",
                    open.key
                ),
                hint: None,
            });
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::lexer::lex;

    #[test]
    fn single_lines_and_blocks() {
        let lexed = lex("# OVPN_ACCESS_SERVER_AAA=BBB=C\n# other\n\
             # OVPN_ACCESS_SERVER_HOST_LIST_START\n# a/A\n# b/B\n\
             # OVPN_ACCESS_SERVER_HOST_LIST_STOP\nverb 3\n");
        assert!(lexed.errors.is_empty());
        assert_eq!(
            lexed.meta,
            [
                Meta { line: 1, key: "AAA".into(), value: "BBB=C".into() },
                Meta { line: 3, key: "HOST_LIST".into(), value: "a/A\nb/B\n".into() },
            ]
        );
        assert_eq!(lexed.directives.len(), 1);
    }

    #[test]
    fn an_open_block_is_an_error() {
        let lexed = lex("# OVPN_ACCESS_SERVER_HOST_LIST_START\n# a\n");
        assert_eq!(lexed.errors[0].line, 1);
    }
}
