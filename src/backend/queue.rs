//! The user-input queue: what the front end has to ask the user for.

use super::attention::{AttentionGroup, Dialect};
use super::error::Error;
use crate::secret::Secret;
use crate::text::{printable, typed};

/// Longest answer, in bytes: more than a server reads, and than a signature in base64 has.
pub(super) const MAX_ANSWER: usize = 4096;

/// One question.
#[derive(Clone, Debug)]
pub struct Slot {
    group: AttentionGroup,
    numbers: (u32, u32),
    id: u32,
    name: &'static str,
    description: String,
    hidden: bool,
    answer: Answer,
}

#[derive(Clone, Debug)]
enum Answer {
    Due,
    Given(Secret<String>),
    /// Was given, has been used, and is not kept; or is no use to anybody any more.
    Spent,
}

impl Slot {
    const fn is_open(&self) -> bool {
        matches!(self.answer, Answer::Due)
    }

    /// Attention type and group in the dialect in use.
    pub const fn numbers(&self) -> (u32, u32) {
        self.numbers
    }

    /// Counts from 0 within type and group.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Internal name, `username` for instance.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What to show to the user.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Do not show the answer while it is typed.
    pub const fn hidden(&self) -> bool {
        self.hidden
    }
}

/// A question to be put into the queue.
pub(super) struct Question {
    pub(super) name: &'static str,
    pub(super) description: String,
    pub(super) hidden: bool,
    /// Answered by the backend itself; never listed.
    pub(super) value: Option<Secret<String>>,
}

impl Question {
    pub(super) fn new(name: &'static str, description: impl Into<String>, hidden: bool) -> Self {
        Self { name, description: description.into(), hidden, value: None }
    }

    pub(super) fn answered(mut self, value: Secret<String>) -> Self {
        self.value = Some(value);
        self
    }
}

/// All questions in order of creation.
#[derive(Debug, Default)]
pub(super) struct Queue {
    slots: Vec<Slot>,
}

impl Queue {
    /// Replaces what a group asked before; ids start at 0 again.
    pub(super) fn renew(
        &mut self,
        group: AttentionGroup,
        dialect: Dialect,
        questions: impl IntoIterator<Item = Question>,
    ) {
        self.remove(group);
        self.slots.extend(questions.into_iter().zip(0..).map(|(question, id)| Slot {
            group,
            numbers: group.numbers(dialect),
            id,
            name: question.name,
            description: printable(&question.description),
            hidden: question.hidden,
            answer: question.value.map_or(Answer::Due, Answer::Given),
        }));
    }

    /// Forgets a group, answers included.
    pub(super) fn remove(&mut self, group: AttentionGroup) {
        self.slots.retain(|slot| slot.group != group);
    }

    /// True while a question has no answer.
    pub(super) fn has_gaps(&self) -> bool {
        self.slots.iter().any(Slot::is_open)
    }

    /// True if the group has asked something.
    pub(super) fn contains(&self, group: AttentionGroup) -> bool {
        self.slots.iter().any(|slot| slot.group == group)
    }

    /// True while one of the group's questions has no answer.
    pub(super) fn is_open(&self, group: AttentionGroup) -> bool {
        self.slots.iter().any(|slot| slot.group == group && slot.is_open())
    }

    /// The answer to a question.
    pub(super) fn value(&self, group: AttentionGroup, name: &str) -> Option<&Secret<String>> {
        let slot = self.slots.iter().find(|slot| slot.group == group && slot.name == name)?;
        match &slot.answer {
            Answer::Given(value) => Some(value),
            Answer::Due | Answer::Spent => None,
        }
    }

    /// Forgets the answers of a group without asking for them again, and takes its questions back.
    pub(super) fn spend(&mut self, group: AttentionGroup) {
        for slot in self.slots.iter_mut().filter(|slot| slot.group == group) {
            slot.answer = Answer::Spent;
        }
    }

    /// True if [`Self::spend`] has left a group without its answers.
    pub(super) fn is_spent(&self, group: AttentionGroup) -> bool {
        self.slots.iter().any(|slot| slot.group == group && matches!(slot.answer, Answer::Spent))
    }

    /// Pairs with at least one open question, each once, in order of creation.
    pub(super) fn type_groups(&self) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.is_open()) {
            if !pairs.contains(&slot.numbers) {
                pairs.push(slot.numbers);
            }
        }
        pairs
    }

    /// Ids of the open questions of a pair, ascending.
    pub(super) fn check(&self, numbers: (u32, u32)) -> Vec<u32> {
        self.of(numbers).filter(|slot| slot.is_open()).map(Slot::id).collect()
    }

    /// One open question.
    pub(super) fn fetch(&self, numbers: (u32, u32), id: u32) -> Result<&Slot, Error> {
        let slot = self.of(numbers).find(|slot| slot.id == id).ok_or_else(Error::no_such_slot)?;
        if slot.is_open() { Ok(slot) } else { Err(Error::slot_answered()) }
    }

    /// Answers a question. Tells whose it was once the group has no open question left.
    pub(super) fn provide(
        &mut self,
        numbers: (u32, u32),
        id: u32,
        value: &str,
    ) -> Result<Option<AttentionGroup>, Error> {
        if value.len() > MAX_ANSWER {
            return Err(Error::value_too_long(id, value.len(), MAX_ANSWER));
        }
        let value = Secret::new(typed(value));
        if value.expose().is_empty() {
            return Err(Error::empty_value(id));
        }
        if self.check(numbers).is_empty() {
            return Err(Error::nothing_asked());
        }
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.numbers == numbers && slot.id == id)
            .ok_or_else(Error::wrong_id)?;
        if !slot.is_open() {
            return Err(Error::id_answered(id));
        }
        slot.answer = Answer::Given(value);
        let group = slot.group;
        Ok(self.check(numbers).is_empty().then_some(group))
    }

    fn of(&self, numbers: (u32, u32)) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.numbers == numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Queue {
        let mut queue = Queue::default();
        queue.renew(
            AttentionGroup::UserPassword,
            Dialect::Deployed,
            [
                Question::new("username", "Auth User name", false),
                Question::new("password", "Auth Password", true),
            ],
        );
        queue
    }

    #[test]
    fn questions_are_listed_until_answered() {
        let mut queue = credentials();
        queue.renew(
            AttentionGroup::ChallengeStatic,
            Dialect::Deployed,
            [Question::new("static_challenge", "Code\n?", true)],
        );
        assert_eq!(queue.type_groups(), [(1, 1), (1, 4)]);
        assert_eq!(queue.check((1, 1)), [0, 1]);
        assert!(queue.check((7, 7)).is_empty());
        assert_eq!(queue.fetch((1, 4), 0).unwrap().description(), "Code?");

        assert_eq!(queue.provide((1, 1), 0, "joe").unwrap(), None);
        assert_eq!(queue.check((1, 1)), [1]);
        assert_eq!(queue.provide((1, 1), 1, "pa\nss").unwrap(), Some(AttentionGroup::UserPassword));
        assert_eq!(queue.type_groups(), [(1, 4)]);
        assert!(queue.has_gaps());
        queue.provide((1, 4), 0, "1").unwrap();
        assert!(!queue.has_gaps());
        let password = queue.value(AttentionGroup::UserPassword, "password").unwrap();
        assert_eq!(password.expose(), "pass");
    }

    #[test]
    fn errors_come_in_the_documented_order() {
        let mut queue = credentials();
        let text = |error: Error| error.text;
        assert!(text(queue.provide((9, 9), 5, "").unwrap_err()).contains("No value provided for"));
        assert!(text(queue.provide((1, 1), 5, "\n").unwrap_err()).ends_with("ID 5"));
        assert_eq!(text(queue.provide((9, 9), 0, "x").unwrap_err()), "User input not required");
        assert!(text(queue.provide((1, 1), 5, "x").unwrap_err()).contains("No matching entry"));
        queue.provide((1, 1), 0, "x").unwrap();
        assert!(
            text(queue.provide((1, 1), 0, "x").unwrap_err())
                .ends_with("Request ID 0 has already been provided")
        );
        queue.provide((1, 1), 1, "x").unwrap();
        assert_eq!(text(queue.provide((1, 1), 0, "x").unwrap_err()), "User input not required");
        assert!(text(queue.fetch((1, 1), 0).unwrap_err()).contains("already-provided"));
        assert!(text(queue.fetch((1, 1), 2).unwrap_err()).contains("element-not-found"));
    }

    #[test]
    fn a_renewed_group_is_open_again_and_counts_from_zero() {
        let mut queue = credentials();
        queue.provide((1, 1), 0, "x").unwrap();
        queue.provide((1, 1), 1, "old").unwrap();
        queue.renew(
            AttentionGroup::UserPassword,
            Dialect::Deployed,
            [Question::new("password", "Auth Password", true)],
        );
        assert_eq!(queue.check((1, 1)), [0]);
        assert!(queue.value(AttentionGroup::UserPassword, "password").is_none());
    }
}
