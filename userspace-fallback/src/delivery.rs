//! Writing what was coalesced to the TUN device.

use std::io::{self, IoSlice};

use crate::offload::coalesce::{Coalescer, Item};
use crate::stats::Counters;

/// Writes every item, and empties the coalescer. A super-packet that the device refuses is written
/// packet by packet, and its kind is not merged any more: some kernels refuse valid ones (6.6.44
/// and its neighbours).
pub(crate) fn deliver(
    coalescer: &mut Coalescer,
    slab: &[u8],
    vnet_header: bool,
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
    counters: &mut Counters,
) {
    let mut config = coalescer.config();
    for item in coalescer.finish() {
        let packets = item.packets() as u64;
        match item.write_with(slab, vnet_header, &mut write) {
            Ok(()) => {
                counters.tun_writes += 1;
                counters.tun_written_packets += packets;
            }
            Err(error) if packets > 1 && error.raw_os_error() == Some(libc::EINVAL) => {
                counters.tun_offload_refused += 1;
                if item.is_udp() {
                    config.udp = false;
                } else {
                    config.tcp = false;
                }
                write_singly(item, slab, vnet_header, &mut write, counters);
            }
            // The device is down, or its queue is full: lost, as on any link.
            Err(_) => counters.tun_refused += packets,
        }
    }
    if config != coalescer.config() {
        tracing::info!("the TUN device refuses super-packets; going on without");
        coalescer.set_config(config);
    }
    coalescer.clear();
}

#[cold]
fn write_singly(
    item: &Item,
    slab: &[u8],
    vnet_header: bool,
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
    counters: &mut Counters,
) {
    item.write_singly(slab, vnet_header, |pieces| match write(pieces) {
        Ok(()) => {
            counters.tun_writes += 1;
            counters.tun_written_packets += 1;
        }
        Err(_) => counters.tun_refused += 1,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::checksum::Sum;
    use crate::offload::coalesce::Config;

    const MERGING: Config = Config { tcp: true, udp: true, acknowledgements: false };

    /// Consecutive UDP packets of one flow, back to back in a slab.
    fn slab(count: u16) -> (Vec<u8>, usize) {
        let mut slab = Vec::new();
        for id in 0..count {
            let mut packet = vec![0x45, 0, 0, 38, 0, id as u8, 0, 0, 64, 17, 0, 0];
            packet.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            let checksum = Sum::ZERO.plus(&packet).checksum();
            packet[10..12].copy_from_slice(&checksum);
            packet.extend_from_slice(&[1, 1, 2, 2, 0, 18, 0, 0]);
            packet.extend_from_slice(&[id as u8; 10]);
            let sum = Sum::ZERO.plus_pseudo_header(&packet[12..20], 17, 18).plus(&packet[20..]);
            packet[26..28].copy_from_slice(&sum.checksum());
            slab.extend_from_slice(&packet);
        }
        (slab, 38)
    }

    fn coalescer(slab: &[u8], len: usize) -> Coalescer {
        let mut coalescer = Coalescer::new(MERGING);
        for start in (0..slab.len()).step_by(len) {
            coalescer.push(slab, start, len);
        }
        coalescer
    }

    #[test]
    fn a_refused_super_packet_is_written_singly_and_no_more_are_made() {
        let (slab, len) = slab(5);
        let mut coalescer = coalescer(&slab, len);
        let mut counters = Counters::default();
        let mut written = Vec::new();
        deliver(
            &mut coalescer,
            &slab,
            true,
            |pieces| {
                if pieces.len() > 2 {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                assert_eq!(&*pieces[0], [0; 10]);
                written.extend_from_slice(&pieces[1]);
                Ok(())
            },
            &mut counters,
        );
        assert_eq!(written, slab);
        assert_eq!((counters.tun_offload_refused, counters.tun_written_packets), (1, 5));
        assert_eq!(coalescer.config(), Config { udp: false, ..MERGING });
        assert!(coalescer.is_empty());
    }

    #[test]
    fn what_a_device_that_is_down_refuses_is_lost() {
        let (slab, len) = slab(5);
        let mut coalescer = coalescer(&slab, len);
        let mut counters = Counters::default();
        let mut calls = 0;
        let down = |_: &[IoSlice<'_>]| {
            calls += 1;
            Err(io::Error::from_raw_os_error(libc::EIO))
        };
        deliver(&mut coalescer, &slab, true, down, &mut counters);
        assert_eq!((calls, counters.tun_refused), (1, 5));
        assert_eq!(coalescer.config(), MERGING);
    }
}
