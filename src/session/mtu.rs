//! How large inner packets may be: `mssfix` in its four forms. Pure.

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

/// What surrounds an inner packet on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    pub(super) protocol: Protocol,
    pub(super) ipv6: bool,
    /// A peer-id was pushed: DATA_V2.
    pub(super) data_v2: bool,
    pub(super) format: DataFormat,
    pub(super) framing: Framing,
}

/// The MSS for TCP inside the tunnel, `None` when it is not to be clamped.
pub(super) fn mss_clamp(mssfix: MssFix, tun_mtu: u16, outer: Outer) -> Option<MssClamp> {
    let header = if outer.data_v2 { DataHeader::V2_LEN } else { DataHeader::V1_LEN };
    let stream = if outer.protocol == Protocol::Tcp { 2 } else { 0 };
    let added = header + outer.format.overhead() + outer.framing.overhead();
    let encapsulation = stream + added as u16;
    let inner = match mssfix {
        MssFix::Off => return None,
        MssFix::Fixed(inner) => inner,
        MssFix::Payload(payload) => payload.checked_sub(encapsulation)?,
        MssFix::Mtu(mtu) => outer_to_inner(mtu, encapsulation, outer)?,
        MssFix::Default if tun_mtu == DEFAULT_TUN_MTU => {
            outer_to_inner(DEFAULT_OUTER, encapsulation, outer)?
        }
        MssFix::Default => tun_mtu,
    };
    Some(MssClamp { ipv4: inner.checked_sub(IPV4 + TCP)?, ipv6: inner.checked_sub(IPV6 + TCP)? })
}

fn outer_to_inner(mtu: u16, encapsulation: u16, outer: Outer) -> Option<u16> {
    let ip = if outer.ipv6 { IPV6 } else { IPV4 };
    let transport = match outer.protocol {
        Protocol::Udp => UDP,
        Protocol::Tcp => TCP,
    };
    mtu.checked_sub(ip + transport + encapsulation)
}

/// The link MTU that has the effect of `clamp` where packets do not pass through this process, as
/// far as the tunnel's own address (`ipv6`: it has such a one) can live with it.
pub(super) fn link_mtu(tun_mtu: u16, clamp: Option<MssClamp>, ipv6: bool) -> u16 {
    let least = if ipv6 { IPV6_MIN_MTU } else { 0 };
    clamp.map_or(tun_mtu, |clamp| tun_mtu.min((clamp.ipv4 + IPV4 + TCP).max(least)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outer(protocol: Protocol, ipv6: bool) -> Outer {
        let format = DataFormat::Aead;
        Outer { protocol, ipv6, data_v2: true, format, framing: Framing::None }
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
