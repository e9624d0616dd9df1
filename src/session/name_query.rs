//! One question for the addresses of a name, as a DNS message, and its answer (RFC 1035, 4.1;
//! RFC 3596). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// Which addresses are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    A,
    Aaaa,
}

impl Kind {
    const fn question(self) -> QTYPE {
        QTYPE::TYPE(match self {
            Self::A => TYPE::A,
            Self::Aaaa => TYPE::AAAA,
        })
    }
}

/// A question, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Query {
    kind: Kind,
    id: u16,
    host: String,
    message: Vec<u8>,
}

impl Query {
    /// `None`: DNS has no such name (only ASCII is sent; IDNA is the resolver library's business).
    pub(super) fn new(host: &str, kind: Kind, id: u16) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() || !host.is_ascii() || host.split('.').any(str::is_empty) {
            return None;
        }
        let name = Name::new(host).ok()?;
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let class = QCLASS::CLASS(CLASS::IN);
        packet.questions.push(Question::new(name, kind.question(), class, false));
        let message = packet.build_bytes_vec().ok()?;
        Some(Self { kind, id, host: host.to_owned(), message })
    }

    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The addresses in an answer, in its order. `None`: it is no answer to this question. Empty:
    /// there is no such address. Aliases are followed by whoever answers.
    pub(super) fn read(&self, answer: &[u8]) -> Option<Vec<IpAddr>> {
        let packet = Packet::parse(answer).ok()?;
        let [question] = &packet.questions[..] else { return None };
        if packet.id() != self.id
            || !packet.has_flags(PacketFlag::RESPONSE)
            || question.qtype != self.kind.question()
            || !question.qname.to_string().eq_ignore_ascii_case(&self.host)
        {
            return None;
        }
        match packet.rcode() {
            RCODE::NoError => {}
            RCODE::NameError => return Some(Vec::new()),
            _ => return None,
        }
        let address = |data: &RData<'_>| match (self.kind, data) {
            (Kind::A, RData::A(a)) => Some(Ipv4Addr::from(a.address).into()),
            (Kind::Aaaa, RData::AAAA(aaaa)) => Some(Ipv6Addr::from(aaaa.address).into()),
            _ => None,
        };
        Some(packet.answers.iter().filter_map(|record| address(&record.rdata)).collect())
    }
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
        let label = "a".repeat(63);
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
            prop_assert_eq!(query.read(&answer), Some(Vec::new()));
            answer[7] = count;
            answer.extend(tail);
            let _ = query.read(&answer);
            for len in 0..query.message().len() {
                prop_assert_eq!(query.read(&answer[..len]), None);
            }
        }
    }
}
