//! Walks over the directives of a profile, asks the table about each, and writes the verdicts.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;

use super::directives::{self, Action, Call, Entry, INLINE};
use super::draft::{Draft, Finished};
use super::lexer::{Directive, Lexed, lex};
use super::options::Options;
use super::source::FileSource;
use super::verdict::{Done, Outcome, Problem, ProfileError, ProfileErrors, Verdict, VerdictKind};
use crate::secret::Secret;
use crate::text::printable;

/// Longest text without a hyphen that is shown as a directive's name: a line of a static key (32 hex
/// digits) is longer, and no directive is.
const MAX_NAME: usize = 31;
/// Longest of all.
const MAX_HYPHENATED: usize = 63;

/// A usable profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What it says.
    pub options: Options,
    /// What became of each directive, in the order of the profile; none is refused.
    pub verdicts: Vec<Verdict>,
}

impl Profile {
    /// Parses a profile. `name` stands in messages where a file name is expected.
    ///
    /// # Errors
    /// Everything that is wrong with the profile, not only the first error.
    pub fn parse(text: &str, name: &str, files: &dyn FileSource) -> Result<Self, ProfileErrors> {
        let lexed = lex(text);
        if let Some(Problem { reason, hint }) = no_profile(text, &lexed) {
            let error =
                ProfileError { file: name.to_owned(), line: None, directive: None, reason, hint };
            return Err(ProfileErrors { errors: vec![error], verdicts: Vec::new() });
        }
        let mut reader = Reader {
            file: name,
            files,
            read: None,
            draft: Draft::new(),
            verdicts: Vec::new(),
            errors: Vec::new(),
            tolerated: tolerated(&lexed.directives),
            forward_compatible: lexed.directives.iter().any(directives::forward_compatible),
        };
        for error in lexed.errors {
            let hint = error.hint.map(str::to_owned);
            let problem = Problem { reason: error.reason, hint };
            reader.verdict(error.line, UNREADABLE.to_owned(), Err(problem));
        }
        for meta in &lexed.meta {
            let outcome = directives::meta(&mut reader.draft, meta);
            reader.verdict(meta.line, shown(format!("OVPN_ACCESS_SERVER_{}", meta.key)), outcome);
        }
        for directive in &lexed.directives {
            reader.directive(directive);
        }
        reader.finish()
    }
}

/// What is wrong with a text that is no profile at all, in one sentence instead of one for each line.
fn no_profile(text: &str, lexed: &Lexed) -> Option<Problem> {
    const HINT: &str = "a profile is a text file with lines such as 'client' and 'remote HOST', \
                        usually called .ovpn or .conf";
    // What follows the last line may be padding.
    if text.trim_end_matches('\0').contains('\0') {
        return Some(Problem::with_hint("this is no text but a binary file, or UTF-16", HINT));
    }
    if text.contains('\r') && !text.contains('\n') {
        return Some(Problem::with_hint(
            "its lines end in a carriage return only",
            r#"convert it with 'tr "\r" "\n" <OLD >NEW'"#,
        ));
    }
    let lines = lexed.directives.len() + lexed.errors.len();
    let known = lexed.directives.iter().any(|d| directives::find(&d.name).is_some());
    (lines > 1 && !known && lexed.meta.is_empty())
        .then(|| Problem::with_hint("no line of this is a directive of a profile", HINT))
}

/// Names that `ignore-unknown-option` lists.
fn tolerated(directives: &[Directive]) -> HashSet<String> {
    directives
        .iter()
        .filter(|d| d.name == "ignore-unknown-option")
        .flat_map(|d| d.args.iter().cloned())
        .collect()
}

/// Remembers which file was asked for.
struct Noting<'a> {
    files: &'a dyn FileSource,
    path: RefCell<Option<String>>,
}

impl FileSource for Noting<'_> {
    fn read(&self, path: &str) -> io::Result<Secret<Vec<u8>>> {
        self.path.replace(Some(path.to_owned()));
        self.files.read(path)
    }

    fn names(&self, path: &str) -> io::Result<Vec<String>> {
        self.path.replace(Some(path.to_owned()));
        self.files.names(path)
    }
}

struct Reader<'a> {
    file: &'a str,
    files: &'a dyn FileSource,
    /// The file that the directive at hand has read.
    read: Option<String>,
    draft: Draft,
    verdicts: Vec<Verdict>,
    errors: Vec<ProfileError>,
    tolerated: HashSet<String>,
    forward_compatible: bool,
}

impl Reader<'_> {
    fn error(&mut self, line: Option<usize>, directive: Option<String>, problem: Problem) {
        let Problem { reason, hint } = problem;
        let reason = shown(reason);
        self.errors.push(ProfileError {
            file: self.file.to_owned(),
            line,
            directive,
            reason,
            hint,
        });
    }

    fn verdict(&mut self, line: usize, directive: String, outcome: Outcome) {
        let kind = match outcome {
            Ok(done) => kind(done),
            Err(problem) => {
                self.error(Some(line), Some(directive.clone()), problem.clone());
                VerdictKind::Refused { reason: shown(problem.reason), hint: problem.hint }
            }
        };
        let file = self.read.take();
        self.verdicts.push(Verdict { line, directive, file, kind });
    }

    fn directive(&mut self, directive: &Directive) {
        let optional = directive.name == "setenv"
            && directive.args.first().is_some_and(|first| first == "opt");
        if !optional {
            let outcome = self.outcome(directive);
            let mut name = printable_name(&directive.name);
            if let ("setenv", Some(variable)) = (name.as_str(), directive.args.first())
                && is_name(&variable.to_ascii_lowercase())
            {
                name = format!("setenv {variable}");
            }
            self.verdict(directive.line, name, outcome);
            return;
        }
        let Some(name) = directive.args.get(1) else {
            let problem = Err(Problem::new("'setenv opt' needs a directive"));
            self.verdict(directive.line, "setenv opt".to_owned(), problem);
            return;
        };
        let inner = Directive {
            name: name.strip_prefix("--").unwrap_or(name).to_owned(),
            args: directive.args[2..].to_vec(),
            ..directive.clone()
        };
        let outcome = self.outcome(&inner).or_else(|problem| {
            Ok(Done::Warned(format!("optional ('setenv opt'): {}", problem.reason)))
        });
        self.verdict(
            directive.line,
            format!("setenv opt {}", printable_name(&inner.name)),
            outcome,
        );
    }

    fn outcome(&mut self, directive: &Directive) -> Outcome {
        let Some(entry) = directives::find(&directive.name) else { return self.unknown(directive) };
        if directive.block.is_some() && !entry.per_connection {
            return Err(Problem::with_hint(
                "not supported in a <connection> block",
                "write it outside of the block, for all servers",
            ));
        }
        let done = self.apply(entry, directive)?;
        let extra = directive.args.len().saturating_sub(entry.max);
        if done != Done::Taken || (extra == 0 && !directive.truncated) {
            return Ok(done);
        }
        Ok(Done::Noted("the last words of the line are not used".to_owned()))
    }

    fn apply(&mut self, entry: &Entry, directive: &Directive) -> Outcome {
        match entry.action {
            Action::Ignore(reason) => Ok(Done::Ignored(reason.to_owned())),
            Action::Warn(reason) => Ok(Done::Warned(reason.to_owned())),
            Action::Refuse(reason, hint) => Err(Problem::with_hint(reason, hint)),
            Action::Apply(handler) => {
                let given = directive.args.len() + usize::from(directive.inline.is_some());
                if given < entry.min {
                    let words = if entry.min == 1 { "value" } else { "values" };
                    return Err(Problem::new(format!("needs {} {words}, has {given}", entry.min)));
                }
                // `tls-auth [inline] 1` still says the direction.
                if directive.args.first().is_some_and(|a| a == INLINE) && entry.name != "tls-auth" {
                    return Ok(Done::Ignored(format!("the <{}> block has it", entry.name)));
                }
                let files = Noting { files: self.files, path: RefCell::default() };
                let call = Call {
                    line: directive.line,
                    name: &directive.name,
                    args: &directive.args,
                    inline: directive.inline.as_ref().map(Secret::expose).map(String::as_str),
                    block: directive.block,
                    files: &files,
                };
                let outcome = handler(&mut self.draft, &call);
                self.read = files.path.into_inner().map(shown);
                outcome
            }
        }
    }

    fn unknown(&self, directive: &Directive) -> Outcome {
        if self.tolerated.contains(&directive.name) {
            return Ok(Done::Ignored("named by ignore-unknown-option".to_owned()));
        }
        if self.forward_compatible {
            return Ok(Done::Warned("unknown; the profile says FORWARD_COMPATIBLE".to_owned()));
        }
        if !is_name(&directive.name) {
            let lower = directive.name.to_ascii_lowercase();
            return Err(match directives::find(&lower) {
                Some(known) => Problem::with_hint(
                    "directives are written in lower case",
                    format!("write '{}'", known.name),
                ),
                None => Problem::with_hint(
                    "this line is no directive",
                    "a key or certificate must stand between its tags, for example <ca> and </ca>",
                ),
            });
        }
        Err(match directives::nearest(&directive.name) {
            Some(near) => {
                Problem::with_hint("unknown directive", format!("did you mean '{near}'?"))
            }
            None => Problem::with_hint(
                "unknown directive",
                "remove it, or write 'setenv opt' before it if the connection works without",
            ),
        })
    }

    /// A line that looked fine by itself turns out not to be.
    fn revise(&mut self, line: Option<usize>, directive: Option<&str>, problem: &Problem) {
        let Some(line) = line else { return };
        let wanted = |v: &&mut Verdict| v.line == line && Some(v.directive.as_str()) == directive;
        if let Some(verdict) = self.verdicts.iter_mut().find(wanted) {
            let Problem { reason, hint } = problem.clone();
            verdict.kind = VerdictKind::Refused { reason: shown(reason), hint };
        }
    }

    fn finish(mut self) -> Result<Profile, ProfileErrors> {
        let draft = std::mem::replace(&mut self.draft, Draft::new());
        let Finished { options, faults, hindsight } = draft.finish();
        for (line, directive, problem) in faults {
            self.revise(line, directive.as_deref(), &problem);
            self.error(line, directive, problem);
        }
        for (line, done) in hindsight {
            if let Some(verdict) = self.verdicts.iter_mut().find(|v| v.line == line) {
                verdict.kind = kind(done);
            }
        }
        self.verdicts.sort_by_key(|v| v.line);
        if self.errors.is_empty() {
            return Ok(Profile { options, verdicts: self.verdicts });
        }
        self.errors.sort_by_key(|e| e.line.unwrap_or(usize::MAX));
        Err(ProfileErrors { errors: self.errors, verdicts: self.verdicts })
    }
}

fn kind(done: Done) -> VerdictKind {
    match done {
        Done::Taken => VerdictKind::Supported { note: None },
        Done::Noted(note) => VerdictKind::Supported { note: Some(shown(note)) },
        Done::Ignored(reason) => VerdictKind::Ignored { reason: shown(reason), warning: false },
        Done::Warned(reason) => VerdictKind::Ignored { reason: shown(reason), warning: true },
    }
}

/// Stands where a directive's name would, for text that is not shown.
const UNREADABLE: &str = "(unreadable)";

/// Whether a text can be shown as a directive's name: a stray line of a key must not be.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && (text.len() <= MAX_NAME || (text.len() <= MAX_HYPHENATED && text.contains('-')))
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

fn printable_name(text: &str) -> String {
    if is_name(text) { text.to_owned() } else { UNREADABLE.to_owned() }
}

/// Text that may hold words of the profile, without what a terminal would obey.
fn shown(text: String) -> String {
    printable(&text.replace(char::is_control, "\u{fffd}"))
}
