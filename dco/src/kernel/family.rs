//! The generic netlink families: whether they are there, their numbers, their features.

use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_GENERIC;

use super::attr::{Attr, Attrs, Request, parse};
use super::message::{Command, KeyInfo, Notification, PeerInfo};
use super::netlink::{Failure, Netlink};
use super::uapi::ctrl;
use super::{dco_v2, ovpn, uapi};
use crate::error::Error;
use crate::types::PeerId;

/// The two kernel interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Api {
    /// The in-tree module of Linux 6.16 and newer.
    Ovpn,
    /// The out-of-tree module for older kernels.
    OvpnDcoV2,
}

impl Api {
    /// Both, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Ovpn, Self::OvpnDcoV2];

    /// The generic netlink family's name, which also names the interface everywhere else.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ovpn => "ovpn",
            Self::OvpnDcoV2 => "ovpn-dco-v2",
        }
    }

    /// The network link kind, as in `ip link add type`.
    pub const fn link_kind(self) -> &'static str {
        match self {
            Self::Ovpn => "ovpn",
            Self::OvpnDcoV2 => "ovpn-dco",
        }
    }

    /// The module's directory under `/sys/module`.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Ovpn => "ovpn",
            Self::OvpnDcoV2 => "ovpn_dco_v2",
        }
    }

    /// Encodes a command; see [`ovpn::encode`] and [`dco_v2::encode`].
    pub(super) fn encode(self, command: &Command<'_>, ifindex: u32) -> Result<Request, Error> {
        match self {
            Self::Ovpn => ovpn::encode(command, ifindex),
            Self::OvpnDcoV2 => dco_v2::encode(command, ifindex),
        }
    }

    pub(super) fn decode_peer(self, bytes: &[u8]) -> Result<PeerInfo, Error> {
        match self {
            Self::Ovpn => ovpn::decode_peer(bytes),
            Self::OvpnDcoV2 => dco_v2::decode_peer(bytes),
        }
    }

    pub(super) fn decode_key(self, bytes: &[u8]) -> Result<KeyInfo, Error> {
        match self {
            Self::Ovpn => ovpn::decode_key(bytes),
            Self::OvpnDcoV2 => {
                Err(Error::Unsupported { what: "key queries".to_owned(), by: self.name() })
            }
        }
    }

    pub(super) fn decode_notification(self, bytes: &[u8]) -> Result<Option<Notification>, Error> {
        match self {
            Self::Ovpn => ovpn::decode_notification(bytes),
            Self::OvpnDcoV2 => dco_v2::decode_notification(bytes),
        }
    }
}

/// What a module has beyond the first version of its interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// A peer can have another id to send than to receive, and floating is told
    /// (in-tree module since 7.1; both came together).
    pub tx_id_and_float: bool,
}

/// A family that the running kernel offers. The numbers change when the module is loaded again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Family {
    /// Which.
    pub api: Api,
    /// The family id, `nlmsg_type` of its messages.
    pub id: u16,
    /// The version of the family, as its module has it registered.
    pub version: u32,
    /// The id of its multicast group. May be above 32.
    pub peers_group: u32,
}

/// The privilege that every command of either family needs (`GENL_ADMIN_PERM`).
pub(super) const PRIVILEGE: &str = "CAP_NET_ADMIN in the initial user namespace";

impl Family {
    /// Looks the family up. The kernel loads the module if it can, for anybody who asks; that may
    /// take a moment.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFamily`] when no module offers it.
    pub fn resolve(api: Api) -> Result<Self, Error> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let name = Attr::string(ctrl::ATTR_FAMILY_NAME, api.name());
        let request = Request::new("CTRL_CMD_GETFAMILY", ctrl::GETFAMILY, false, &[name])?;
        let mut found = None;
        let result = send(&mut netlink, request, ctrl::ID, |bytes| {
            found = Some(decode_family(api, bytes)?);
            Ok(())
        });
        match result {
            Err(Failure::Refused(refusal)) if refusal.errno == libc::ENOENT => {
                return Err(Error::NoSuchFamily { family: api.name() });
            }
            other => other.map_err(|e| to_error("CTRL_CMD_GETFAMILY", e))?,
        }
        found.ok_or_else(|| Error::NoSuchFamily { family: api.name() })
    }

    /// Asks the kernel for the policy of the command that creates peers, and concludes from the
    /// attributes it knows. Needs no privilege.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub fn features(&self) -> Result<Features, Error> {
        if self.api != Api::Ovpn {
            return Ok(Features::default());
        }
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let attrs = [
            Attr::string(ctrl::ATTR_FAMILY_NAME, self.api.name()),
            Attr::u32(ctrl::ATTR_OP, uapi::ovpn::PEER_NEW.into()),
        ];
        let request = Request::new("CTRL_CMD_GETPOLICY", ctrl::GETPOLICY, true, &attrs)?;
        let mut features = Features::default();
        send(&mut netlink, request, ctrl::ID, |bytes| {
            features.tx_id_and_float |= policy_mentions(bytes, uapi::ovpn::peer::TX_ID)?;
            Ok(())
        })
        .map_err(|e| to_error("CTRL_CMD_GETPOLICY", e))?;
        Ok(features)
    }

    /// Whether this process may use the family, found out without side effects: by asking for a
    /// peer of a link that cannot exist.
    ///
    /// # Errors
    ///
    /// When the answer fits neither yes nor no.
    pub fn permitted(&self) -> Result<bool, Error> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let command = Command::GetPeer(PeerId::UNDEFINED);
        let request = self.api.encode(&command, i32::MAX as u32)?;
        let operation = request.operation();
        match send(&mut netlink, request, self.id, |_| Ok(())) {
            Err(Failure::Refused(refusal)) if refusal.errno == libc::EPERM => Ok(false),
            Err(Failure::Refused(refusal)) if refusal.errno == libc::ENODEV => Ok(true),
            Ok(()) => Ok(true),
            Err(failure) => Err(to_error(operation, failure)),
        }
    }
}

/// Sends a generic netlink request and hands on the answers of the family.
pub(super) fn send(
    netlink: &mut Netlink,
    mut request: Request,
    family: u16,
    mut answer: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Failure> {
    let operation = request.operation();
    let flags = if request.is_dump() { NLM_F_DUMP } else { 0 };
    netlink.transact(operation, request.bytes_mut(), family, flags, |kind, payload| {
        if kind == family { answer(payload) } else { Ok(()) }
    })
}

/// The plain meaning of a failure of a generic netlink request.
pub(super) fn to_error(operation: &'static str, failure: Failure) -> Error {
    match failure {
        Failure::Broken(error) => error,
        Failure::Refused(refusal) if refusal.errno == libc::EPERM => {
            Error::NotPermitted { operation, needs: PRIVILEGE }
        }
        Failure::Refused(refusal) => {
            Error::Kernel { operation, errno: refusal.errno, message: refusal.message }
        }
    }
}

fn decode_family(api: Api, bytes: &[u8]) -> Result<Family, Error> {
    let (_, attrs) = parse("CTRL_CMD_GETFAMILY answer", bytes)?;
    let id = attrs.need("FAMILY_ID", attrs.u16(ctrl::ATTR_FAMILY_ID, "FAMILY_ID")?)?;
    let version = attrs.need("VERSION", attrs.u32(ctrl::ATTR_VERSION, "VERSION")?)?;
    let groups = attrs.nest(ctrl::ATTR_MCAST_GROUPS, "MCAST_GROUPS")?;
    let groups = attrs.need("MCAST_GROUPS", groups)?;
    for (index, _) in groups.iter() {
        let Some(group) = groups.nest(index, "MCAST_GROUPS")? else { continue };
        if group.string(ctrl::GROUP_NAME).as_deref() == Some(uapi::GROUP_PEERS) {
            let group = group.need("GROUP_ID", group.u32(ctrl::GROUP_ID, "GROUP_ID")?)?;
            return Ok(Family { api, id, version, peers_group: group });
        }
    }
    Err(Error::Malformed { what: "CTRL_CMD_GETFAMILY answer (no group `peers`)".to_owned() })
}

/// Whether a piece of a policy list describes an attribute of this number.
fn policy_mentions(bytes: &[u8], attribute: u16) -> Result<bool, Error> {
    let (_, attrs) = parse("CTRL_CMD_GETPOLICY answer", bytes)?;
    // Pieces that map commands to policies have no policy in them.
    let Some(policies) = attrs.nest(ctrl::ATTR_POLICY, "POLICY")? else { return Ok(false) };
    let mentions = |(index, _): (u16, &[u8])| -> Result<bool, Error> {
        let policy: Option<Attrs> = policies.nest(index, "POLICY")?;
        Ok(policy.is_some_and(|policy| policy.get(attribute).is_some()))
    };
    policies.iter().map(mentions).try_fold(false, |any, this| Ok(any | this?))
}

#[cfg(any(test, feature = "internals"))]
pub(super) fn decode_anything(bytes: &[u8]) {
    let _ = decode_family(Api::Ovpn, bytes);
    let _ = policy_mentions(bytes, uapi::ovpn::peer::TX_ID);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::test_data::{messages, nested, unhex};

    #[test]
    fn family_answer() {
        // name "ovpn", id 0x1c, version 1, one other group and `peers` with id 40
        let bytes = unhex(
            "01020000 09000200 6f76706e 00000000 06000100 1c000000 08000300 01000000 34000780
             18000180 0a000100 6f746865 72000000 08000200 03000000
             18000280 0a000100 70656572 73000000 08000200 28000000",
        );
        let family = Family { api: Api::Ovpn, id: 28, version: 1, peers_group: 40 };
        assert_eq!(decode_family(Api::Ovpn, &bytes).unwrap(), family);
        assert!(decode_family(Api::Ovpn, &unhex("01020000 06000100 1c000000")).is_err());
    }

    #[test]
    fn policy_answer() {
        let yes = nested(1, 8, "0c000180 08001880 04000100");
        let no = nested(1, 8, "0c000180 08001780 04000100");
        assert!(policy_mentions(&yes, 24).unwrap());
        assert!(!policy_mentions(&no, 24).unwrap());
        assert!(!policy_mentions(&unhex("01010000 08000980 04000180"), 24).unwrap());
    }

    #[test]
    fn a_family_nobody_offers() {
        // Every kernel has a control family, so this runs everywhere; whether the DCO families
        // exist depends on the machine.
        for api in Api::ALL {
            match Family::resolve(api) {
                Ok(family) => assert!(family.id > ctrl::ID),
                Err(Error::NoSuchFamily { family }) => assert_eq!(family, api.name()),
                Err(other) => panic!("{other}"),
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in messages()) {
            crate::kernel::decode_anything(&bytes);
        }
    }
}
