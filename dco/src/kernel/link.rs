//! Network links of the two kinds: creating, finding, deleting, and telling those that a crash
//! left behind.
//!
//! A link outlives the process that created it. Each one created here carries an alias (shown by
//! `ip link`) that names its owner by process id, start time and pid namespace; a link whose owner
//! is gone for certain is a leftover and goes before the next one is created.

use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use neli::ToBytes;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Parseable};
use netlink_packet_route::link::{
    InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use zeroize::Zeroizing;

use super::attr::{Attr, Attrs, NLMSG_HEADER};
use super::family::Api;
use super::netlink::{Failure, Netlink};
use super::uapi;
use crate::data_channel::Interface;
use crate::error::Error;

/// Longest interface name (`IFNAMSIZ` less the NUL).
const NAME_MAX: usize = 15;
/// Highest number tried for a numbered name, as OpenVPN does.
const NUMBER_MAX: u32 = 255;
/// What the alias of our links starts with.
const ALIAS: &str = "ovpn-dco owner ";

/// Whether a link serves one peer or many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// One peer, to which everything goes.
    #[default]
    PointToPoint,
    /// Peers chosen by their tunnel addresses.
    MultiPeer,
}

impl Mode {
    /// `IFLA_OVPN_MODE`
    const fn number(self) -> u8 {
        match self {
            Self::PointToPoint => 0,
            Self::MultiPeer => 1,
        }
    }
}

/// The name to create a link under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkName {
    /// This one. A link of that name that exists already is used, and kept afterwards, if it is
    /// of the right kind and nobody uses it.
    Exact(String),
    /// The first free one of prefix0 to prefix255.
    Numbered(String),
}

impl LinkName {
    /// The argument of OpenVPN's `dev`: `tun` picks a number, anything else is the name.
    pub fn from_dev(dev: &str) -> Self {
        if dev == "tun" { Self::Numbered(dev.to_owned()) } else { Self::Exact(dev.to_owned()) }
    }
}

/// A network link of one of the two kinds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Name and index.
    pub interface: Interface,
    /// Of which module.
    pub api: Api,
    /// Whether it has carrier. In-tree module, point-to-point: whether it has a peer.
    pub carrier: bool,
    /// Whether it was created by a process of this crate that is gone.
    pub leftover: bool,
}

/// Links of the calling thread's network namespace.
pub struct Links {
    netlink: Netlink,
}

impl Links {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// When no netlink socket can be opened.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::open(NETLINK_ROUTE)? })
    }

    /// Every link of either kind.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub fn list(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        self.request("RTM_GETLINK", libc::RTM_GETLINK, NLM_F_DUMP, &LinkMessage::default(), |m| {
            links.extend(describe(&m).and_then(Described::ours));
        })?;
        Ok(links)
    }

    /// Deletes the links that gone processes left behind, and says which.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked or refuses.
    pub fn remove_leftovers(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = self.list()?;
        links.retain(|link| link.leftover);
        for link in &links {
            tracing::info!(
                name = link.interface.name,
                "removing the link of a process that is gone"
            );
            self.delete(link.interface.index)?;
        }
        Ok(links)
    }

    /// Creates a link, which is down; or takes the existing one of an exact name if it is of the
    /// same kind and idle. The second value says whether it was created.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] with `EEXIST` when the name is taken by something else or, numbered, all
    /// names are; with `EBUSY` when somebody uses the link of that name; [`Error::NotPermitted`];
    /// [`Error::Malformed`] for a name that cannot be one.
    pub fn create(
        &mut self,
        api: Api,
        name: &LinkName,
        mode: Mode,
    ) -> Result<(Interface, bool), Error> {
        match name {
            LinkName::Exact(name) => {
                check_name(name)?;
                match self.add(api, name, mode) {
                    Err(Error::Kernel { errno: libc::EEXIST, .. }) => {
                        self.existing(api, name, mode).map(|interface| (interface, false))
                    }
                    other => other.map(|interface| (interface, true)),
                }
            }
            LinkName::Numbered(prefix) => {
                check_name(&format!("{prefix}{NUMBER_MAX}"))?;
                for number in 0..=NUMBER_MAX {
                    match self.add(api, &format!("{prefix}{number}"), mode) {
                        Err(Error::Kernel { errno: libc::EEXIST, .. }) => {}
                        // Any other error would be the same for every other number.
                        other => return other.map(|interface| (interface, true)),
                    }
                }
                Err(exists(format!("{prefix}0 to {prefix}{NUMBER_MAX} are all taken")))
            }
        }
    }

    /// Deletes a link. Succeeds if it is gone already.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`], [`Error::Kernel`].
    pub fn delete(&mut self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request("RTM_DELLINK", libc::RTM_DELLINK, 0, &message, |_| ()) {
            Err(Error::Kernel { errno: libc::ENODEV, .. }) => Ok(()),
            other => other,
        }
    }

    /// Whether a link with this index exists.
    pub(super) fn exists(&mut self, index: u32) -> Result<bool, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request("RTM_GETLINK", libc::RTM_GETLINK, 0, &message, |_| ()) {
            Err(Error::Kernel { errno: libc::ENODEV, .. }) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn add(&mut self, api: Api, name: &str, mode: Mode) -> Result<Interface, Error> {
        let message = new_link(api, name, mode)?;
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request("RTM_NEWLINK", libc::RTM_NEWLINK, flags, &message, |_| ())?;

        let index = self.by_name(name)?.map(|link| link.interface.index);
        let index = index.ok_or_else(|| Error::Kernel {
            operation: "RTM_GETLINK",
            errno: libc::ENODEV,
            message: Some(format!("{name} vanished as soon as it was created")),
        })?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfAlias(owner_alias()));
        if let Err(e) = self.request("RTM_SETLINK", libc::RTM_SETLINK, 0, &message, |_| ()) {
            // Without it a crash leaves the link to be removed by hand; no reason to fail.
            tracing::warn!(name, error = %e, "cannot mark the link as ours");
        }
        Ok(Interface { name: name.to_owned(), index })
    }

    /// The link of this name, if it may be taken.
    fn existing(&mut self, api: Api, name: &str, mode: Mode) -> Result<Interface, Error> {
        match self.by_name(name)? {
            Some(link) => link.take(api, mode),
            None => Err(exists(format!("{name} was deleted just now"))),
        }
    }

    fn by_name(&mut self, name: &str) -> Result<Option<Described>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut found = None;
        match self.request("RTM_GETLINK", libc::RTM_GETLINK, 0, &message, |m| found = describe(&m))
        {
            Err(Error::Kernel { errno: libc::ENODEV, .. }) => Ok(None),
            other => other.map(|()| found),
        }
    }

    fn request(
        &mut self,
        operation: &'static str,
        kind: u16,
        flags: u16,
        message: &LinkMessage,
        mut answer: impl FnMut(LinkMessage),
    ) -> Result<(), Error> {
        let mut bytes = Zeroizing::new(vec![0; NLMSG_HEADER + message.buffer_len()]);
        message.emit(bytes.get_mut(NLMSG_HEADER..).unwrap_or_default());
        let result = self.netlink.transact(operation, &mut bytes, kind, flags, |kind, payload| {
            if kind == libc::RTM_NEWLINK {
                answer(
                    LinkMessage::parse(payload)
                        .map_err(|e| Error::Malformed { what: format!("RTM_NEWLINK ({e})") })?,
                );
            }
            Ok(())
        });
        result.map_err(|failure| match failure {
            Failure::Broken(error) => error,
            Failure::Refused(refusal) if refusal.errno == libc::EPERM => {
                Error::NotPermitted { operation, needs: "CAP_NET_ADMIN in the network namespace" }
            }
            Failure::Refused(refusal) => {
                Error::Kernel { operation, errno: refusal.errno, message: refusal.message }
            }
        })
    }
}

fn new_link(api: Api, name: &str, mode: Mode) -> Result<LinkMessage, Error> {
    let mut data = Cursor::new(Vec::new());
    Attr::u8(uapi::IFLA_MODE, mode.number())
        .to_bytes(&mut data)
        .map_err(|e| Error::Malformed { what: format!("IFLA_INFO_DATA: {e}") })?;
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Other(api.link_kind().to_owned())),
        LinkInfo::Data(InfoData::Other(data.into_inner())),
    ]));
    Ok(message)
}

fn exists(message: String) -> Error {
    taken(libc::EEXIST, message)
}

fn taken(errno: i32, message: String) -> Error {
    Error::Kernel { operation: "RTM_NEWLINK", errno, message: Some(message) }
}

/// What the kernel would refuse, and `%`, which it would replace by a number.
fn check_name(name: &str) -> Result<(), Error> {
    let fine = !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace());
    if fine {
        Ok(())
    } else {
        Err(Error::Malformed {
            what: format!("interface name {name:?} (1 to {NAME_MAX} bytes without / : % or space)"),
        })
    }
}

struct Described {
    interface: Interface,
    kind: Option<String>,
    /// `None`: the module does not tell.
    mode: Option<u8>,
    carrier: bool,
    alias: Option<String>,
}

fn describe(message: &LinkMessage) -> Option<Described> {
    let mut name = None;
    let mut kind = None;
    let mut mode = None;
    let mut alias = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::IfAlias(text) => alias = Some(text.clone()),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(found) => kind = Some(found.to_string()),
                        LinkInfo::Data(InfoData::Other(bytes)) => mode = mode_in(bytes),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Described {
        interface: Interface { name: name?, index: message.header.index },
        kind,
        mode,
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        alias,
    })
}

fn mode_in(data: &[u8]) -> Option<u8> {
    Attrs::parse("IFLA_INFO_DATA", data).ok()?.u8(uapi::IFLA_MODE, "IFLA_OVPN_MODE").ok()?
}

impl Described {
    /// The link, for a channel of its own. A peer of ours would replace, without a word, that of
    /// whoever uses it.
    fn take(self, api: Api, mode: Mode) -> Result<Interface, Error> {
        let name = &self.interface.name;
        if self.kind.as_deref() != Some(api.link_kind()) {
            let kind = api.link_kind();
            return Err(exists(format!("{name} exists and is not a link of kind {kind}")));
        }
        if self.mode.is_some_and(|found| found != mode.number()) {
            let made_for = match mode {
                Mode::PointToPoint => "many peers (mode MP), as a server's",
                Mode::MultiPeer => "one peer (mode P2P), as a client's",
            };
            return Err(exists(format!(
                "{name} exists and is a link for {made_for}: choose another dev, or delete it \
                 (ip link delete {name})"
            )));
        }
        let owned = self
            .alias
            .as_deref()
            .is_some_and(|alias| alias.starts_with(ALIAS) && !owner_is_gone(alias));
        // The in-tree module switches the carrier with the peer. A link of `ovpn-dco-v2`, which
        // cannot be asked for its peers, has carrier whenever it is up.
        if owned || self.carrier {
            return Err(taken(
                libc::EBUSY,
                format!("{name} is in use by another VPN connection; choose another dev"),
            ));
        }
        Ok(self.interface)
    }

    fn ours(self) -> Option<Link> {
        let api = Api::ALL.into_iter().find(|api| Some(api.link_kind()) == self.kind.as_deref())?;
        let leftover = self.alias.is_some_and(|alias| owner_is_gone(&alias));
        Some(Link { interface: self.interface, api, carrier: self.carrier, leftover })
    }
}

/// `ovpn-dco owner PID START PIDNS` of this process.
fn owner_alias() -> String {
    let pid = std::process::id();
    let start = start_time(pid).ok().flatten().unwrap_or_default();
    format!("{ALIAS}{pid} {start} {}", pid_namespace().unwrap_or_default())
}

/// True only if the alias is one of ours, from this pid namespace, and its process has ended.
fn owner_is_gone(alias: &str) -> bool {
    let Some(rest) = alias.strip_prefix(ALIAS) else { return false };
    let mut words = rest.split(' ');
    let (Some(pid), Some(start), Some(namespace)) = (words.next(), words.next(), words.next())
    else {
        return false;
    };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<u64>()) else { return false };
    pid_namespace().is_some_and(|ours| ours == namespace)
        && match start_time(pid) {
            Ok(found) => found != Some(start),
            // A `/proc` that hides the processes of other users (`hidepid`) hides this one as well.
            Err(error) => error.kind() == io::ErrorKind::NotFound && Path::new("/proc/1").exists(),
        }
}

/// Field 22 of `/proc/PID/stat`. `Err`: it cannot be read.
fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    Ok(fields.and_then(|fields| fields.split_whitespace().nth(19)?.parse().ok()))
}

fn pid_namespace() -> Option<String> {
    Some(fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(LinkName::from_dev("tun"), LinkName::Numbered("tun".to_owned()));
        assert_eq!(LinkName::from_dev("tun7"), LinkName::Exact("tun7".to_owned()));
        for good in ["tun0", "a", "ovpn.client-1", "exactly15bytes_"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "tun%d", "a:b", "sixteen_bytes_lo"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners() {
        let alias = owner_alias();
        assert!(!owner_is_gone(&alias), "{alias}");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let words: Vec<&str> = alias.split(' ').collect();
        let of_child = format!("{ALIAS}{} {} {}", child.id(), words[3], words[4]);
        child.wait().unwrap();
        assert!(owner_is_gone(&of_child), "{of_child}");
        // Another namespace's process ids mean nothing here; other aliases are not ours.
        assert!(!owner_is_gone(&of_child.replace("pid:[", "pid:[9")));
        assert!(!owner_is_gone("office VPN"));
        assert!(!owner_is_gone(ALIAS));
    }

    #[test]
    fn a_link_in_use_is_not_taken() {
        let link = |kind: &str, carrier, alias: Option<&str>| Described {
            interface: Interface { name: "office".to_owned(), index: 9 },
            kind: Some(kind.to_owned()),
            mode: None,
            carrier,
            alias: alias.map(str::to_owned),
        };
        for api in Api::ALL {
            let kind = api.link_kind();
            let take = |link: Described| link.take(api, Mode::PointToPoint);
            assert_eq!(take(link(kind, false, None)).unwrap().index, 9);
            assert!(take(link(kind, false, Some("by hand"))).is_ok());
            assert!(take(Described { mode: Some(0), ..link(kind, false, None) }).is_ok());
            let server = Described { mode: Some(1), ..link(kind, false, None) };
            let error = take(server).unwrap_err().to_string();
            assert!(error.contains("office exists and is a link for many peers"), "{error}");
            for busy in [link(kind, true, None), link(kind, false, Some(&owner_alias()))] {
                let error = take(busy).unwrap_err();
                assert!(matches!(error, Error::Kernel { errno: libc::EBUSY, .. }), "{error}");
                assert!(error.to_string().contains("office is in use"), "{error}");
            }
            let error = take(link("dummy", false, None)).unwrap_err();
            assert!(matches!(error, Error::Kernel { errno: libc::EEXIST, .. }), "{error}");
        }
    }

    #[test]
    fn new_link_attributes() {
        let message = new_link(Api::Ovpn, "ovpn0", Mode::PointToPoint).unwrap();
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        // The name and the kind go without the NUL in front of their padding; the kernel takes
        // strings either way.
        let (_, attributes) = bytes.split_at(16);
        assert!(attributes.windows(8).any(|w| w == [5, 0, 1, 0, 0, 0, 0, 0]), "{attributes:02x?}");
        assert_eq!(describe(&LinkMessage::parse(&bytes).unwrap()).unwrap().kind.unwrap(), "ovpn");
        let message = new_link(Api::OvpnDcoV2, "ovpn0", Mode::MultiPeer).unwrap();
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        assert!(bytes.windows(8).any(|w| w == [5, 0, 1, 0, 1, 0, 0, 0]), "{bytes:02x?}");
        assert_eq!(describe(&LinkMessage::parse(&bytes).unwrap()).unwrap().mode, Some(1));
    }

    #[test]
    fn links_of_this_machine() {
        // Creating needs the modules (see the guest tests); asking does not.
        let mut links = Links::open().unwrap();
        links.list().unwrap();
        assert!(links.by_name("lo").unwrap().is_some_and(|lo| lo.kind.is_none()));
        assert!(links.by_name("no-such-link").unwrap().is_none());
        assert!(links.exists(1).unwrap());
        assert!(!links.exists(i32::MAX as u32).unwrap());
        let error = links.existing(Api::Ovpn, "lo", Mode::PointToPoint).unwrap_err().to_string();
        assert!(error.contains("lo exists and is not a link of kind ovpn"), "{error}");
    }
}
