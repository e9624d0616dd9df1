//! Control channel timers and sizes, keepalive, inactivity.

use std::time::Duration;

use super::{Call, Entry};
use crate::profile::draft::Draft;
use crate::profile::timers;
use crate::profile::values::{MAX_DURATION, number, seconds, seconds_or_never};
use crate::profile::verdict::{Done, Outcome, Problem};

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("tls-timeout", 1, 1, |d, c| {
        d.options.control.retransmit = at_least_one(c.word(0)?)?;
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
    Entry::apply("reneg-bytes", 1, 1, |d, c| {
        d.options.control.reneg_bytes = Some(number(c.word(0)?, 0, u64::MAX)?).filter(|&n| n > 0);
        Ok(Done::Taken)
    }),
    Entry::apply("reneg-pkts", 1, 1, |d, c| {
        d.options.control.reneg_packets = Some(number(c.word(0)?, 0, u64::MAX)?).filter(|&n| n > 0);
        Ok(Done::Taken)
    }),
    Entry::apply("max-packet-size", 1, 1, |d, c| {
        d.options.control.max_packet_size = number(c.word(0)?, 154, 2048)?;
        Ok(Done::Taken)
    }),
    Entry::apply("replay-window", 1, 2, |d, c| {
        let ids = number(c.word(0)?, 1, 65_536)?;
        let time = seconds(c.get(1).unwrap_or("15"), 600)?;
        d.options.control.replay_window = (ids, time);
        Ok(Done::Taken)
    }),
    Entry::apply("keepalive", 2, 2, timer),
    Entry::apply("ping", 1, 1, timer),
    Entry::apply("ping-restart", 1, 1, timer),
    Entry::apply("ping-exit", 1, 1, timer),
    Entry::apply("inactive", 1, 2, timer),
    Entry::apply("session-timeout", 1, 1, timer),
    Entry::apply("verb", 1, 1, |d, c| {
        d.options.verb = Some(number(c.word(0)?, 0, 15u8)?.min(11));
        Ok(Done::Taken)
    }),
    Entry::apply("key-method", 1, 1, |_, c| match c.word(0)? {
        "2" => Ok(Done::Taken),
        _ => Err(Problem::with_hint("only key method 2 exists any more", "remove the line")),
    }),
];

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
