//! The outer layer of netlink: several messages in one datagram, acknowledgements, refusals.
//!
//! Pure. neli expects a refusal to repeat the whole request; our sockets ask the kernel not to
//! (`NETLINK_CAP_ACK`), because the request may hold keys.

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
};

use super::attr::{Attrs, NLMSG_HEADER};
use crate::error::Error;

/// Extended acknowledgement attributes, `enum nlmsgerr_attrs`.
mod nlmsgerr {
    pub(super) const MSG: u16 = 1;
    pub(super) const MISS_TYPE: u16 = 5;
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    flags: u16,
    payload: &'a [u8],
}

/// What a message says.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Content<'a> {
    /// The request was carried out, or a list is complete.
    Done,
    /// The request was refused.
    Refused(Refusal),
    /// Anything else.
    Message(&'a [u8]),
}

/// Why the kernel refused.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// Positive.
    pub(super) errno: i32,
    /// The extended acknowledgement in words.
    pub(super) message: Option<String>,
}

/// Every message of a datagram, in order. Ends at the first malformed one.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Envelope<'_>, Error>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let buffer = match NetlinkBuffer::new_checked(rest) {
            Ok(buffer) => buffer,
            Err(e) => {
                rest = &[];
                return Some(Err(Error::Malformed { what: format!("netlink message ({e})") }));
            }
        };
        let envelope = Envelope {
            kind: buffer.message_type(),
            sequence: buffer.sequence_number(),
            flags: buffer.flags(),
            payload: buffer.payload(),
        };
        let next = (buffer.length() as usize).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
        Some(Ok(envelope))
    })
}

impl<'a> Envelope<'a> {
    /// Interprets the message.
    pub(super) fn content(&self) -> Result<Content<'a>, Error> {
        let malformed = |e| Error::Malformed { what: format!("netlink acknowledgement ({e})") };
        match self.kind {
            NLMSG_ERROR => {
                let ack = ErrorBuffer::new_checked(self.payload).map_err(malformed)?;
                let Some(code) = ack.code() else { return Ok(Content::Done) };
                // After the code: the header of the refused request, and without
                // NETLINK_CAP_ACK all the rest of it too.
                let request = ack.payload();
                let skip = if self.flags & NLM_F_CAPPED == 0 {
                    let len = NetlinkBuffer::new_checked(request).map(|r| r.length() as usize);
                    len.unwrap_or(request.len()).next_multiple_of(4)
                } else {
                    NLMSG_HEADER
                };
                Ok(Content::Refused(self.refusal(code.get(), request.get(skip..))))
            }
            // A list that ends early says why in here.
            NLMSG_DONE if !self.payload.is_empty() => {
                let done = DoneBuffer::new_checked(self.payload).map_err(malformed)?;
                match done.code() {
                    code if code < 0 => {
                        Ok(Content::Refused(self.refusal(code, Some(done.extended_ack()))))
                    }
                    _ => Ok(Content::Done),
                }
            }
            NLMSG_DONE => Ok(Content::Done),
            _ => Ok(Content::Message(self.payload)),
        }
    }

    fn refusal(&self, code: i32, attributes: Option<&[u8]>) -> Refusal {
        let attributes = attributes.filter(|_| self.flags & NLM_F_ACK_TLVS != 0);
        // An unreadable explanation must not hide the refusal.
        let attrs = attributes.and_then(|bytes| Attrs::parse("extended ack", bytes).ok());
        Refusal { errno: code.saturating_abs(), message: attrs.and_then(|attrs| explain(&attrs)) }
    }
}

/// The kernel's own words, or what it says about a missing attribute.
fn explain(attrs: &Attrs) -> Option<String> {
    let text = attrs.string(nlmsgerr::MSG).filter(|text| !text.is_empty());
    let missing = attrs.u32(nlmsgerr::MISS_TYPE, "MISS_TYPE").ok().flatten();
    match (text, missing) {
        (Some(text), _) => Some(text),
        (None, Some(kind)) => Some(format!("attribute {kind} is missing")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::test_data::unhex;

    fn contents(hex: &str) -> Vec<Result<String, String>> {
        let bytes = unhex(hex);
        messages(&bytes)
            .map(|m| m.and_then(|m| Ok(format!("{:?}", m.content()?))).map_err(|e| e.to_string()))
            .collect()
    }

    fn one(hex: &str) -> String {
        contents(hex).pop().unwrap().unwrap()
    }

    #[test]
    fn acknowledgements() {
        let header = "20000000 1c000500 07000000 00000000";
        // ack, capped
        assert_eq!(one(&format!("24000000 02000001 07000000 00000000 00000000 {header}")), "Done");
        // refusal without explanation
        assert_eq!(
            one(&format!("24000000 02000001 07000000 00000000 feffffff {header}")),
            "Refused(Refusal { errno: 2, message: None })"
        );
        // refusal with text ("ovpn: x"), capped
        assert_eq!(
            one(&format!(
                "30000000 02000003 07000000 00000000 eaffffff {header} 0c000100 6f76706e 3a207800"
            )),
            "Refused(Refusal { errno: 22, message: Some(\"ovpn: x\") })"
        );
        // the same when the kernel repeats the request's 16 bytes of attributes
        assert_eq!(
            one(&format!(
                "40000000 02000002 07000000 00000000 eaffffff {header} {} 0c000100 6f76706e 3a207800",
                "00".repeat(16)
            )),
            "Refused(Refusal { errno: 22, message: Some(\"ovpn: x\") })"
        );
        // a missing attribute
        assert_eq!(
            one(&format!(
                "2c000000 02000003 07000000 00000000 eaffffff {header} 08000500 0d000000"
            )),
            "Refused(Refusal { errno: 22, message: Some(\"attribute 13 is missing\") })"
        );
    }

    #[test]
    fn lists() {
        assert_eq!(
            contents(
                "14000000 1c000200 07000000 00000000 aabbccdd
                 14000000 03000200 07000000 00000000 00000000"
            ),
            [Ok("Message([170, 187, 204, 221])".to_owned()), Ok("Done".to_owned())]
        );
        assert_eq!(
            one("14000000 03000200 07000000 00000000 edffffff"),
            "Refused(Refusal { errno: 19, message: None })"
        );
        // The second message claims more than there is.
        let got = contents(
            "14000000 1c000200 07000000 00000000 aabbccdd 18000000 03000200 07000000 00000000",
        );
        assert!(matches!(got.as_slice(), [Ok(_), Err(_)]), "{got:?}");
    }

    proptest! {
        #[test]
        fn nothing_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            length in 0u32..220,
            kind in 0u16..6,
        ) {
            let mut framed = [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes()].concat();
            framed.extend(&bytes);
            for datagram in [bytes, framed] {
                for message in messages(&datagram).flatten() {
                    let _ = message.content();
                }
            }
        }
    }
}
