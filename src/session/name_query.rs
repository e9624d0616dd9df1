//! One question for the addresses of a name, as a DNS message, and its answer (RFC 1035, 4.1;
//! RFC 3596). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER_LEN: usize = 12;
const CLASS_IN: u16 = 1;
/// Longest name, in bytes on the wire.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// Which addresses are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum Kind {
    A = 1,
    Aaaa = 28,
}

/// A question, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Query {
    kind: Kind,
    message: Vec<u8>,
}

impl Query {
    /// `None`: DNS has no such name (only ASCII is sent; IDNA is the resolver library's business).
    pub(super) fn new(host: &str, kind: Kind, id: u16) -> Option<Self> {
        // One question, recursion desired.
        let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
        for label in host.strip_suffix('.').unwrap_or(host).split('.') {
            if label.is_empty() || label.len() > MAX_LABEL || !label.is_ascii() {
                return None;
            }
            message.push(u8::try_from(label.len()).ok()?);
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
        if message.len() - HEADER_LEN > MAX_NAME {
            return None;
        }
        message.extend_from_slice(&(kind as u16).to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        Some(Self { kind, message })
    }

    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The addresses in an answer, in its order. `None`: it is no answer to this question. Empty:
    /// there is no such address. Aliases are followed by whoever answers.
    pub(super) fn read(&self, answer: &[u8]) -> Option<Vec<IpAddr>> {
        let (header, body) = answer.split_first_chunk::<HEADER_LEN>()?;
        let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let question = self.message.get(HEADER_LEN..)?;
        let (echo, mut rest) = body.split_at_checked(question.len())?;
        let is_response = header[2] & 0x80 != 0;
        if header[..2] != self.message[..2]
            || !is_response
            || field(4) != 1
            || !echo.eq_ignore_ascii_case(question)
        {
            return None;
        }
        const NO_ERROR: u8 = 0;
        const NO_SUCH_NAME: u8 = 3;
        match header[3] & 0x0f {
            NO_ERROR => {}
            NO_SUCH_NAME => return Some(Vec::new()),
            _ => return None,
        }
        let mut found = Vec::new();
        for _ in 0..field(6) {
            // What is cut off is missing; what is there counts.
            let Some(record) = take_record(&mut rest) else { break };
            found.extend(self.address(&record));
        }
        Some(found)
    }

    fn address(&self, record: &Record<'_>) -> Option<IpAddr> {
        if record.kind != self.kind as u16 || record.class != CLASS_IN {
            return None;
        }
        Some(match self.kind {
            Kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(record.data).ok()?).into(),
            Kind::Aaaa => Ipv6Addr::from(<[u8; 16]>::try_from(record.data).ok()?).into(),
        })
    }
}

struct Record<'a> {
    kind: u16,
    class: u16,
    data: &'a [u8],
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Option<Record<'a>> {
    skip_name(rest)?;
    let kind = u16::from_be_bytes(take(rest)?);
    let class = u16::from_be_bytes(take(rest)?);
    let _time_to_live: [u8; 4] = take(rest)?;
    let length = u16::from_be_bytes(take(rest)?);
    let (data, tail) = rest.split_at_checked(usize::from(length))?;
    *rest = tail;
    Some(Record { kind, class, data })
}

/// Labels up to the root, or up to a pointer to the rest of the name.
fn skip_name(rest: &mut &[u8]) -> Option<()> {
    const POINTER: u8 = 0xc0;
    loop {
        let [length] = take(rest)?;
        match length {
            0 => return Some(()),
            _ if length & POINTER == POINTER => return take::<1>(rest).map(|_| ()),
            _ if usize::from(length) > MAX_LABEL => return None,
            _ => *rest = rest.get(usize::from(length)..)?,
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer with an alias, the address of the alias, and one of another kind.
    fn answer(query: &Query) -> Vec<u8> {
        let mut answer = query.message().to_vec();
        answer[2] |= 0x80;
        answer[7] = 3;
        answer.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'x', 0xc0, 12]);
        answer.extend_from_slice(&[1, b'x', 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
        answer.extend_from_slice(&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 9, 0, 16]);
        answer.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        answer
    }

    #[test]
    fn addresses_of_the_kind_asked_for() {
        let addresses = |kind| {
            let query = Query::new("VPN.example", kind, 7).unwrap();
            query.read(&answer(&query)).unwrap()
        };
        assert_eq!(addresses(Kind::A), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses(Kind::Aaaa), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
        let query = Query::new("a.bc.", Kind::A, 0x1234).unwrap();
        assert_eq!(query.message(), b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x02bc\0\0\x01\0\x01");
    }

    #[test]
    fn answers_to_other_questions_are_none() {
        let query = Query::new("vpn.example", Kind::A, 7).unwrap();
        let good = answer(&query);
        let changed = |at: usize, to: u8| {
            let mut answer = good.clone();
            answer[at] = to;
            query.read(&answer)
        };
        assert_eq!(changed(1, 8), None, "id");
        assert_eq!(changed(2, 1), None, "a question");
        assert_eq!(changed(14, b'q'), None, "name");
        assert_eq!(changed(3, 2), None, "the server failed");
        assert_eq!(changed(3, 3), Some(Vec::new()), "no such name");
        let other = Query::new("vpn.example", Kind::Aaaa, 7).unwrap();
        assert_eq!(other.read(&good), None, "kind");
    }

    #[test]
    fn names_that_dns_cannot_hold() {
        let label = "a".repeat(MAX_LABEL);
        for bad in ["", ".", "a..b", "é.example", &format!("{label}a.b"), &[&*label; 4].join(".")]
        {
            assert_eq!(Query::new(bad, Kind::A, 1), None, "{bad}");
        }
        assert!(Query::new(&[&*label; 3].join("."), Kind::A, 1).is_some());
    }

    proptest! {
        /// Whatever stands behind the question, and wherever it ends.
        #[test]
        fn nothing_breaks_it(tail in proptest::collection::vec(any::<u8>(), 0..200), count: u8) {
            let query = Query::new("vpn.example", Kind::Aaaa, 7).unwrap();
            let mut answer = query.message().to_vec();
            answer[2] |= 0x80;
            answer[7] = count;
            answer.extend(tail);
            prop_assert!(query.read(&answer).is_some());
            for len in 0..query.message().len() {
                prop_assert_eq!(query.read(&answer[..len]), None);
            }
        }
    }
}
