//! Attributes: a tree that encodes itself into one wiped buffer, and checked access to received
//! ones.
//!
//! neli's own builder copies every nest's bytes into a buffer of its own that nobody wipes, which
//! key material must not suffer. So the tree implements neli's encoding traits itself and writes
//! each byte once.

use std::fmt;
use std::io::Cursor;
use std::net::{Ipv4Addr, Ipv6Addr};

use neli::genl::{AttrType, AttrTypeBuilder, Genlmsghdr, NoUserHeader};
use neli::types::{Buffer, GenlBuffer};
use neli::{FromBytesWithInput, Size, ToBytes};
use zeroize::Zeroizing;

use super::uapi;
use crate::error::Error;

/// Bytes of `struct nlmsghdr`, which requests leave free in front.
pub(super) const NLMSG_HEADER: usize = 16;
/// Bytes of `struct genlmsghdr`.
const GENL_HEADER: usize = 4;
/// Bytes of `struct nlattr`.
const ATTR_HEADER: usize = 4;

/// One attribute to send.
#[derive(Debug)]
pub(super) struct Attr<'a> {
    kind: u16,
    value: Value<'a>,
}

enum Value<'a> {
    Bytes(Vec<u8>),
    Secret(&'a [u8]),
    Nest(Vec<Attr<'a>>),
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes:02x?}"),
            Self::Secret(_) => f.write_str("(secret)"),
            Self::Nest(attrs) => attrs.fmt(f),
        }
    }
}

impl<'a> Attr<'a> {
    /// Bytes as they are; also how big-endian values are sent.
    pub(super) fn bytes(kind: u16, bytes: &[u8]) -> Self {
        Self { kind, value: Value::Bytes(bytes.to_vec()) }
    }

    /// One byte.
    pub(super) fn u8(kind: u16, value: u8) -> Self {
        Self::bytes(kind, &[value])
    }

    /// Host byte order.
    pub(super) fn u16(kind: u16, value: u16) -> Self {
        Self::bytes(kind, &value.to_ne_bytes())
    }

    /// Host byte order.
    pub(super) fn u32(kind: u16, value: u32) -> Self {
        Self::bytes(kind, &value.to_ne_bytes())
    }

    /// A NUL-terminated string.
    pub(super) fn string(kind: u16, text: &str) -> Self {
        Self::bytes(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Key material: borrowed, so that the only copy is the one in the request.
    pub(super) fn secret(kind: u16, bytes: &'a [u8]) -> Self {
        Self { kind, value: Value::Secret(bytes) }
    }

    /// A nest; gets `NLA_F_NESTED`, which both modules insist on.
    pub(super) fn nest(kind: u16, attrs: Vec<Self>) -> Self {
        Self { kind, value: Value::Nest(attrs) }
    }

    fn attr_type(&self) -> AttrType<u16> {
        AttrTypeBuilder::default()
            .nla_type(self.kind)
            .nla_nested(matches!(self.value, Value::Nest(_)))
            .build()
            .unwrap_or_else(|_| AttrType::from(self.kind))
    }
}

impl Size for Attr<'_> {
    fn unpadded_size(&self) -> usize {
        ATTR_HEADER
            + match &self.value {
                Value::Bytes(bytes) => bytes.len(),
                Value::Secret(bytes) => bytes.len(),
                Value::Nest(attrs) => attrs.iter().map(Size::padded_size).sum(),
            }
    }
}

impl ToBytes for Attr<'_> {
    fn to_bytes(&self, buffer: &mut Cursor<Vec<u8>>) -> Result<(), neli::err::SerError> {
        (self.unpadded_size() as u16).to_bytes(buffer)?;
        self.attr_type().to_bytes(buffer)?;
        match &self.value {
            Value::Bytes(bytes) => bytes.as_slice().to_bytes(buffer)?,
            Value::Secret(bytes) => bytes.to_bytes(buffer)?,
            Value::Nest(attrs) => attrs.iter().try_for_each(|attr| attr.to_bytes(buffer))?,
        }
        self.pad(buffer)
    }
}

/// A request, encoded, with room for the netlink header in front. Wiped on drop.
pub struct Request {
    bytes: Zeroizing<Vec<u8>>,
    dump: bool,
    operation: &'static str,
}

impl Request {
    /// A command with its attributes. `operation` names it in errors.
    pub(super) fn new(
        operation: &'static str,
        command: u8,
        dump: bool,
        attrs: &[Attr<'_>],
    ) -> Result<Self, Error> {
        let len = NLMSG_HEADER + GENL_HEADER + attrs.iter().map(Size::padded_size).sum::<usize>();
        // The capacity is exact: a buffer that grows would leave unwiped copies behind.
        let mut cursor = Cursor::new(Vec::with_capacity(len));
        let encoded = (|| {
            [0; NLMSG_HEADER].to_bytes(&mut cursor)?;
            [command, uapi::VERSION, 0, 0].to_bytes(&mut cursor)?;
            attrs.iter().try_for_each(|attr| attr.to_bytes(&mut cursor))
        })();
        let bytes = Zeroizing::new(cursor.into_inner());
        debug_assert_eq!(bytes.len(), len);
        encoded.map_err(|e: neli::err::SerError| Error::Malformed {
            what: format!("{operation}: {e}"),
        })?;
        Ok(Self { bytes, dump, operation })
    }

    /// The message after the netlink header: generic netlink header and attributes.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(NLMSG_HEADER..).unwrap_or_default()
    }

    /// Whether the answer is a list.
    pub fn is_dump(&self) -> bool {
        self.dump
    }

    /// The command's name.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({})", self.operation)
    }
}

/// Splits a generic netlink message into command and attributes. `what` names it in errors.
pub(super) fn parse(what: &'static str, bytes: &[u8]) -> Result<(u8, Attrs), Error> {
    let message = Genlmsghdr::<u8, u16, NoUserHeader>::from_bytes_with_input(
        &mut Cursor::new(bytes),
        bytes.len(),
    )
    .map_err(|e| malformed(what, "message", &e))?;
    // A message of the families has no user header: the attributes are all the rest.
    Ok((*message.cmd(), Attrs { what, attrs: message.attrs().clone() }))
}

fn malformed(what: &str, part: impl fmt::Display, why: &dyn fmt::Display) -> Error {
    Error::Malformed { what: format!("{what} ({part}: {why})") }
}

/// Received attributes of one level. Unknown ones are ignored; of several equal ones the first
/// counts.
#[derive(Debug)]
pub(super) struct Attrs {
    what: &'static str,
    attrs: GenlBuffer<u16, Buffer>,
}

impl Attrs {
    /// Attributes without a header in front, as in an extended acknowledgement.
    pub(super) fn parse(what: &'static str, bytes: &[u8]) -> Result<Self, Error> {
        let attrs = GenlBuffer::from_bytes_with_input(&mut Cursor::new(bytes), bytes.len())
            .map_err(|e| malformed(what, "attributes", &e))?;
        Ok(Self { what, attrs })
    }

    /// The payload of an attribute.
    pub(super) fn get(&self, kind: u16) -> Option<&[u8]> {
        self.attrs
            .iter()
            .find(|attr| *attr.nla_type().nla_type() == kind)
            .map(|attr| attr.nla_payload().as_ref())
    }

    /// Every attribute's number and payload.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.attrs.iter().map(|attr| (*attr.nla_type().nla_type(), attr.nla_payload().as_ref()))
    }

    fn fixed<const N: usize>(
        &self,
        kind: u16,
        name: &'static str,
    ) -> Result<Option<[u8; N]>, Error> {
        let Some(bytes) = self.get(kind) else { return Ok(None) };
        match bytes.try_into() {
            Ok(array) => Ok(Some(array)),
            Err(_) => {
                Err(malformed(self.what, name, &format!("{} bytes instead of {N}", bytes.len())))
            }
        }
    }

    /// Makes an absent attribute an error.
    pub(super) fn need<T>(&self, name: &'static str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| malformed(self.what, name, &"missing"))
    }

    pub(super) fn u8(&self, kind: u16, name: &'static str) -> Result<Option<u8>, Error> {
        Ok(self.fixed(kind, name)?.map(u8::from_ne_bytes))
    }

    pub(super) fn u16(&self, kind: u16, name: &'static str) -> Result<Option<u16>, Error> {
        Ok(self.fixed(kind, name)?.map(u16::from_ne_bytes))
    }

    pub(super) fn u32(&self, kind: u16, name: &'static str) -> Result<Option<u32>, Error> {
        Ok(self.fixed(kind, name)?.map(u32::from_ne_bytes))
    }

    pub(super) fn i32(&self, kind: u16, name: &'static str) -> Result<Option<i32>, Error> {
        Ok(self.fixed(kind, name)?.map(i32::from_ne_bytes))
    }

    pub(super) fn be16(&self, kind: u16, name: &'static str) -> Result<Option<u16>, Error> {
        Ok(self.fixed(kind, name)?.map(u16::from_be_bytes))
    }

    pub(super) fn u64(&self, kind: u16, name: &'static str) -> Result<Option<u64>, Error> {
        Ok(self.fixed(kind, name)?.map(u64::from_ne_bytes))
    }

    /// The `uint` type of netlink specifications: four bytes when the value fits, else eight.
    pub(super) fn uint(&self, kind: u16, name: &'static str) -> Result<Option<u64>, Error> {
        match self.get(kind).map(<[u8]>::len) {
            Some(8) => self.u64(kind, name),
            _ => Ok(self.u32(kind, name)?.map(u64::from)),
        }
    }

    pub(super) fn ipv4(&self, kind: u16, name: &'static str) -> Result<Option<Ipv4Addr>, Error> {
        Ok(self.fixed::<4>(kind, name)?.map(Ipv4Addr::from))
    }

    pub(super) fn ipv6(&self, kind: u16, name: &'static str) -> Result<Option<Ipv6Addr>, Error> {
        Ok(self.fixed::<16>(kind, name)?.map(Ipv6Addr::from))
    }

    /// A string, without its terminating NUL.
    pub(super) fn string(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The attributes inside a nest.
    pub(super) fn nest(&self, kind: u16, name: &'static str) -> Result<Option<Self>, Error> {
        let Some(bytes) = self.get(kind) else { return Ok(None) };
        let attrs = GenlBuffer::from_bytes_with_input(&mut Cursor::new(bytes), bytes.len())
            .map_err(|e| malformed(self.what, name, &e))?;
        Ok(Some(Self { what: self.what, attrs }))
    }
}
