//! How large inner packets may be: `mssfix` in its four forms, and what the way to the server takes.
//! Pure.

use ovpn_dco::{DataFormat, DataHeader, Framing};
use ovpn_userspace::MssClamp;

use crate::network::IPV6_MIN_MTU;
use crate::profile::{MssFix, Protocol};

const IPV4: u16 = 20;
const IPV6: u16 = 40;
const TCP: u16 = 20;
const UDP: u16 = 8;
/// Default of `mssfix` when the tunnel MTU is 1500: keeps outer packets within PPPoE's MTU.
const DEFAULT_OUTER: u16 = 1492;
const DEFAULT_TUN_MTU: u16 = 1500;
/// What both ends count on (Ethernet): a way that takes as much changes nothing.
const USUAL_PATH: u16 = 1500;
/// No way is believed to take less: the least MTU of IPv6 (RFC 8200, section 5), below which no link is
/// today. Who forges what a router says gets no further than this.
const LEAST_PATH: u16 = IPV6_MIN_MTU;

/// What surrounds an inner packet on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    pub(super) protocol: Protocol,
    pub(super) ipv6: bool,
    /// A peer-id was pushed: DATA_V2.
    pub(super) data_v2: bool,
    pub(super) format: DataFormat,
    pub(super) framing: Framing,
    /// The largest packet that the way to the server takes in one piece, IP header included, bytes;
    /// `None`: unknown.
    pub(super) path: Option<u16>,
}

impl Outer {
    /// The largest inner packet in a datagram of `payload` bytes, or in as many of a stream.
    fn inner_of(self, payload: u16) -> Option<u16> {
        let header = if self.data_v2 { DataHeader::V2_LEN } else { DataHeader::V1_LEN };
        let stream = if self.protocol == Protocol::Tcp { 2 } else { 0 };
        let sealed = usize::from(payload).checked_sub(stream + header)?;
        let body = self.format.largest_body(sealed)?;
        u16::try_from(body.checked_sub(self.framing.overhead())?).ok()
    }

    /// The largest inner packet in an outer one of `mtu` bytes.
    fn inner(self, mtu: u16) -> Option<u16> {
        let ip = if self.ipv6 { IPV6 } else { IPV4 };
        let transport = match self.protocol {
            Protocol::Udp => UDP,
            Protocol::Tcp => TCP,
        };
        self.inner_of(mtu.checked_sub(ip + transport)?)
    }

    /// The largest inner packet that goes to the server in one piece, where that is less than usual.
    /// `mssfix 0` wants nothing looked after, and the packets of a stream are the kernel's.
    fn limit(self, mssfix: MssFix) -> Option<u16> {
        if mssfix == MssFix::Off || self.protocol == Protocol::Tcp {
            return None;
        }
        self.inner(self.path.filter(|path| *path < USUAL_PATH)?.max(LEAST_PATH))
    }
}

/// The MSS for TCP inside the tunnel, `None` when it is not to be clamped.
pub(super) fn mss_clamp(mssfix: MssFix, tun_mtu: u16, outer: Outer) -> Option<MssClamp> {
    let inner = match mssfix {
        MssFix::Off => return None,
        MssFix::Fixed(inner) => inner,
        MssFix::Payload(payload) => outer.inner_of(payload)?,
        MssFix::Mtu(mtu) => outer.inner(mtu)?,
        MssFix::Default if tun_mtu == DEFAULT_TUN_MTU => outer.inner(DEFAULT_OUTER)?,
        MssFix::Default => tun_mtu,
    };
    let inner = outer.limit(mssfix).map_or(inner, |limit| inner.min(limit));
    Some(MssClamp { ipv4: inner.checked_sub(IPV4 + TCP)?, ipv6: inner.checked_sub(IPV6 + TCP)? })
}

/// The interface's MTU where packets pass through this process: the tunnel's, but no more than the way
/// to the server takes in one piece. `ipv6`: the tunnel's own address is such a one, which cannot live
/// with less than that wants.
pub(super) fn device_mtu(mssfix: MssFix, tun_mtu: u16, outer: Outer, ipv6: bool) -> u16 {
    let least = if ipv6 { IPV6_MIN_MTU } else { 0 };
    outer.limit(mssfix).map_or(tun_mtu, |limit| tun_mtu.min(limit.max(least)))
}

/// The link MTU that has the effect of `clamp` where packets do not pass through this process, as
/// far as the tunnel's own address (`ipv6`: it has such a one) can live with it.
pub(super) fn link_mtu(tun_mtu: u16, clamp: Option<MssClamp>, ipv6: bool) -> u16 {
    let least = if ipv6 { IPV6_MIN_MTU } else { 0 };
    clamp.map_or(tun_mtu, |clamp| tun_mtu.min((clamp.ipv4 + IPV4 + TCP).max(least)))
}

#[cfg(test)]
mod tests {
    use ovpn_dco::Digest;

    use super::*;

    fn outer(protocol: Protocol, ipv6: bool) -> Outer {
        let format = DataFormat::Aead;
        Outer { protocol, ipv6, data_v2: true, format, framing: Framing::None, path: None }
    }

    /// LTE, PPPoE, a tunnel in a tunnel, and what is no limit.
    #[test]
    fn the_way_to_the_server_limits() {
        let by = |path| Outer { path: Some(path), ..outer(Protocol::Udp, false) };
        let mss = |fix, path| mss_clamp(fix, 1500, by(path)).map(|clamp| clamp.ipv4);
        let device = |fix, path, ipv6| device_mtu(fix, 1500, by(path), ipv6);
        for (path, device_mtu, clamp) in [
            (65_535, 1500, 1400),
            (1500, 1500, 1400),
            (1492, 1440, 1400),
            (1400, 1348, 1308),
            (1280, 1228, 1188),
            (552, 1228, 1188),
            (0, 1228, 1188),
        ] {
            assert_eq!(device(MssFix::Default, path, false), device_mtu, "{path}");
            assert_eq!(mss(MssFix::Default, path), Some(clamp), "{path}");
        }
        assert_eq!(device(MssFix::Default, 1300, true), 1280, "IPv6 lives on");
        assert_eq!(mss(MssFix::Fixed(1200), 1400), Some(1160), "the profile wants less");
        assert_eq!(mss(MssFix::Fixed(1450), 1400), Some(1308));
        assert_eq!((mss(MssFix::Off, 1400), device(MssFix::Off, 1400, false)), (None, 1500));
        let stream = Outer { path: Some(1400), ..outer(Protocol::Tcp, false) };
        assert_eq!(device_mtu(MssFix::Default, 1500, stream, false), 1500);
        let over_ipv6 = Outer { path: Some(1400), ..outer(Protocol::Udp, true) };
        assert_eq!(device_mtu(MssFix::Default, 1500, over_ipv6, false), 1328);
    }

    /// The reference's table for `mssfix 1492 mtu` and the plain form's `N - 64`.
    #[test]
    fn known_values() {
        let mss = |fix, outer| mss_clamp(fix, 1500, outer).unwrap().ipv4;
        assert_eq!(mss(MssFix::Default, outer(Protocol::Udp, false)), 1400);
        assert_eq!(mss(MssFix::Default, outer(Protocol::Udp, true)), 1380);
        assert_eq!(mss(MssFix::Payload(1000), outer(Protocol::Udp, false)), 1000 - 64);
        assert_eq!(mss(MssFix::Fixed(1400), outer(Protocol::Tcp, true)), 1360);
        assert_eq!(
            mss_clamp(MssFix::Default, 1400, outer(Protocol::Udp, false)).unwrap().ipv6,
            1340
        );
        // Whole blocks: the reference has one value for all sizes between two of them.
        let cbc = |digest, framing| Outer {
            format: DataFormat::Cbc(digest),
            framing,
            ..outer(Protocol::Udp, false)
        };
        for (digest, framing, expected) in [
            (Digest::Sha1, Framing::None, 1379),
            (Digest::Sha256, Framing::None, 1363),
            (Digest::Sha1, Framing::LzoStub, 1378),
        ] {
            assert_eq!(mss(MssFix::Default, cbc(digest, framing)), expected, "{digest:?}");
        }
        assert_eq!(mss_clamp(MssFix::Off, 1500, outer(Protocol::Udp, false)), None);
        assert_eq!(mss_clamp(MssFix::Payload(50), 1500, outer(Protocol::Udp, false)), None);
    }

    #[test]
    fn kernel_link_mtu_follows_the_clamp() {
        let clamp = mss_clamp(MssFix::Default, 1500, outer(Protocol::Udp, false));
        assert_eq!(link_mtu(1500, clamp, false), 1440);
        assert_eq!(link_mtu(1400, Some(MssClamp { ipv4: 1400, ipv6: 1380 }), false), 1400);
        assert_eq!(link_mtu(1500, None, false), 1500);
    }

    #[test]
    fn a_clamp_leaves_ipv6_alive() {
        let clamp = Some(MssClamp { ipv4: 960, ipv6: 940 });
        assert_eq!(link_mtu(1500, clamp, true), 1280);
        assert_eq!(link_mtu(1500, clamp, false), 1000);
        assert_eq!(link_mtu(1200, clamp, true), 1200, "the server wants it so");
    }
}
