//! The network device and local sockets.

use super::{Call, Entry};
use crate::profile::values::number;
use crate::profile::verdict::{Done, Problem};
use crate::text::is_visible;

/// Longest name of a network interface (Linux, IFNAMSIZ - 1).
const MAX_NAME: usize = 15;

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("dev", 1, 1, |d, c| {
        d.dev = Some((interface(c)?, c.line));
        Ok(Done::Taken)
    }),
    Entry::apply("dev-type", 1, 1, |d, c| match c.word(0)? {
        "tun" => {
            d.dev_type_tun = true;
            Ok(Done::Taken)
        }
        "tap" => Err(tap()),
        other => Err(Problem::new(format!("'{other}' is not a device type (tun)"))),
    }),
    Entry::apply("persist-tun", 0, 0, |d, _| {
        d.options.device.persist = true;
        Ok(Done::Taken)
    }),
    Entry::apply("allow-recursive-routing", 0, 0, |d, _| {
        d.options.device.allow_recursive_routing = true;
        Ok(Done::Taken)
    }),
    Entry::apply("txqueuelen", 1, 1, |d, c| {
        d.options.device.tx_queue_len = Some(number(c.word(0)?, 0, u32::MAX)?);
        Ok(Done::Taken)
    }),
    Entry::apply("sndbuf", 1, 1, |d, c| {
        d.options.device.sndbuf = buffer(c)?;
        Ok(Done::Taken)
    }),
    Entry::apply("rcvbuf", 1, 1, |d, c| {
        d.options.device.rcvbuf = buffer(c)?;
        Ok(Done::Taken)
    }),
    Entry::apply("mark", 1, 1, |d, c| {
        d.options.device.mark = Some(number(c.word(0)?, 0, u32::MAX)?);
        Ok(Done::Taken)
    }),
    Entry::apply("bind-dev", 1, 1, |d, c| {
        d.options.device.bind_dev = Some(interface(c)?);
        Ok(Done::Taken)
    }),
];

/// For everything that means layer 2.
pub(in crate::profile) fn tap() -> Problem {
    Problem::with_hint(
        "TAP mode (layer 2, bridging) is not supported",
        "use 'dev tun' on both sides, or OpenVPN 2 for this connection",
    )
}

/// The kernel takes nearly everything; the name also goes to programs, some of them shell scripts.
fn interface(call: &Call<'_>) -> Result<String, Problem> {
    let name = call.word(0)?;
    let fine = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with(['.', '-'])
        && name.chars().all(|c| match c {
            // `%d`: a number of the kernel's choice.
            '-' | '_' | '.' | '+' | '@' | '%' => true,
            c if c.is_ascii() => c.is_ascii_alphanumeric(),
            c => is_visible(c),
        });
    if fine {
        Ok(name.to_owned())
    } else {
        Err(Problem::new(format!("'{name}' cannot be the name of an interface")))
    }
}

/// 0: what the system gives.
fn buffer(call: &Call<'_>) -> Result<Option<usize>, Problem> {
    let size = number(call.word(0)?, 0, i32::MAX as usize)?;
    Ok((size > 0).then_some(size))
}
