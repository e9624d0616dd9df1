//! Control channel timers and sizes, keepalive, inactivity.

use std::time::Duration;

use super::{Call, Entry};
use crate::profile::draft::Draft;
use crate::profile::timers;
use crate::profile::values::{MAX_DURATION, number, seconds, seconds_or_never};
use crate::profile::verdict::{Done, Outcome, Problem};

/// Largest control datagram, IP header included (OpenVPN 2).
const MAX_CONTROL_PACKET: usize = 2048;

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("tls-timeout", 1, 1, |d, c| {
        d.options.control.retransmit = at_least_one(c.word(0)?)?;
        Ok(Done::Taken)
    }),
    Entry::apply("tls-timeout-ms", 1, 1, |d, c| {
        let milliseconds = number(c.word(0)?, 100, MAX_DURATION * 1000)?;
        d.options.control.retransmit = Duration::from_millis(milliseconds);
        Ok(Done::Taken)
    }),
    Entry::apply("hand-window", 1, 1, |d, c| {
        d.options.control.hand_window = at_least_one(c.word(0)?)?;
        Ok(Done::Taken)
    }),
    Entry::apply("tran-window", 1, 1, |d, c| {
        d.options.control.tran_window = at_least_one(c.word(0)?)?;
        Ok(Done::Taken)
    }),
    Entry::apply("reneg-sec", 1, 2, |d, c| {
        d.options.control.reneg = seconds_or_never(c.word(0)?)?;
        Ok(Done::Taken)
    }),
    Entry::apply("reneg-bytes", 1, 1, |_, c| reneg_by_amount(c)),
    Entry::apply("reneg-pkts", 1, 1, |_, c| reneg_by_amount(c)),
    Entry::apply("max-packet-size", 1, 1, |d, c| {
        d.options.control.max_packet_size = number(c.word(0)?, 154, MAX_CONTROL_PACKET)?;
        Ok(Done::Taken)
    }),
    // OpenVPN 3's name.
    Entry::apply("mssfix-ctrl", 1, 1, |d, c| {
        let size = number(c.word(0)?, 256, usize::from(u16::MAX))?;
        d.options.control.max_packet_size = size.min(MAX_CONTROL_PACKET);
        Ok(if size > MAX_CONTROL_PACKET {
            Done::Noted(format!("{MAX_CONTROL_PACKET} is the most"))
        } else {
            Done::Taken
        })
    }),
    Entry::apply("replay-window", 1, 2, |d, c| {
        let ids = number(c.word(0)?, 1, 65_536)?;
        let time = seconds(c.get(1).unwrap_or("15"), 600)?;
        d.options.control.replay_window = (ids, time);
        Ok(Done::Noted(
            "for control packets; data packets have a window that cannot be changed".to_owned(),
        ))
    }),
    Entry::apply("keepalive", 2, 2, timer),
    Entry::apply("ping", 1, 1, timer),
    Entry::apply("ping-restart", 1, 1, timer),
    Entry::apply("ping-exit", 1, 1, timer),
    Entry::apply("inactive", 1, 2, timer),
    Entry::apply("session-timeout", 1, 1, timer),
    Entry::apply("verb", 1, 1, |d, c| {
        // Above 11 there is nothing more to say; both real clients take any number.
        let level = number(c.word(0)?, 0, u8::MAX).map_err(|_| {
            Problem::new(format!("'{}' is not a number from 0 to 11", c.get(0).unwrap_or_default()))
        })?;
        d.options.verb = Some(level.min(11));
        Ok(Done::Taken)
    }),
    Entry::apply("key-method", 1, 1, |_, c| match c.word(0)? {
        "2" => Ok(Done::Taken),
        _ => Err(Problem::with_hint("only key method 2 exists any more", "remove the line")),
    }),
];

/// AEAD keys last for as many packets as their counter can number, and are renewed before.
fn reneg_by_amount(call: &Call<'_>) -> Outcome {
    Ok(match number(call.word(0)?, 0, u64::MAX)? {
        0 => Done::Ignored("0 means no limit".to_owned()),
        _ => Done::Warned(
            "keys are renewed by time (reneg-sec), and before they are used up".to_owned(),
        ),
    })
}

fn at_least_one(text: &str) -> Result<Duration, Problem> {
    number(text, 1, MAX_DURATION).map(Duration::from_secs)
}

fn timer(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let control = &mut draft.options.control;
    let mut timers = timers::Timers {
        ping: control.ping,
        ping_timeout: control.ping_timeout,
        inactive: control.inactive,
        session_timeout: control.session_timeout,
    };
    let outcome = timers::apply(&mut timers, call.name, call.args)
        .unwrap_or_else(|| Err(Problem::new("not a timer")))?;
    control.ping = timers.ping;
    control.ping_timeout = timers.ping_timeout;
    control.inactive = timers.inactive;
    control.session_timeout = timers.session_timeout;
    Ok(outcome)
}
