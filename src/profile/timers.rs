//! Keepalive and inactivity: the timer options that mean the same in a profile and in a push.

use std::time::Duration;

use super::options::{Inactive, PingTimeout};
use super::values::{MAX_INTERVAL, number, seconds_or_never};
use super::verdict::{Done, Outcome, Problem};

/// The timers that both a profile and a push set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Timers {
    pub ping: Option<Duration>,
    pub ping_timeout: Option<PingTimeout>,
    pub inactive: Option<Inactive>,
    pub session_timeout: Option<Duration>,
}

/// Applies one timer option; `None` if `name` is none.
pub(super) fn apply(timers: &mut Timers, name: &str, args: &[String]) -> Option<Outcome> {
    Some(set(timers, name, args).transpose()?.map(|()| Done::Taken))
}

/// `Ok(None)`: not a timer.
fn set(timers: &mut Timers, name: &str, args: &[String]) -> Result<Option<()>, Problem> {
    let word = |n: usize| {
        args.get(n).map(String::as_str).ok_or_else(|| Problem::new("a value is missing"))
    };
    match name {
        "ping" => timers.ping = interval(word(0)?)?,
        "ping-restart" | "ping-exit" => {
            timers.ping_timeout = timeout(word(0)?, name == "ping-exit")?;
        }
        "keepalive" => {
            let (ping, restart) = (interval(word(0)?)?, timeout(word(1)?, false)?);
            timers.ping = ping;
            timers.ping_timeout = restart;
        }
        "inactive" => {
            let after = seconds_or_never(word(0)?)?;
            let bytes = args.get(1).map_or(Ok(0), |n| number(n, 0, u64::MAX))?;
            timers.inactive = after.map(|after| Inactive { after, bytes });
        }
        "session-timeout" => timers.session_timeout = seconds_or_never(word(0)?)?,
        _ => return Ok(None),
    }
    Ok(Some(()))
}

/// 0 switches it off.
fn interval(text: &str) -> Result<Option<Duration>, Problem> {
    let n = number(text, 0, MAX_INTERVAL)?;
    Ok((n > 0).then(|| Duration::from_secs(n)))
}

fn timeout(text: &str, exit: bool) -> Result<Option<PingTimeout>, Problem> {
    Ok(interval(text)?.map(|after| PingTimeout { after, exit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_sets_both() {
        let mut timers = Timers::default();
        let args = ["10".to_owned(), "60".to_owned()];
        assert_eq!(apply(&mut timers, "keepalive", &args), Some(Ok(Done::Taken)));
        assert_eq!(timers.ping, Some(Duration::from_secs(10)));
        let timeout = timers.ping_timeout.unwrap();
        assert_eq!((timeout.after.as_secs(), timeout.exit), (60, false));
        apply(&mut timers, "ping", &["0".to_owned()]).unwrap().unwrap();
        assert_eq!(timers.ping, None);
        assert!(apply(&mut timers, "ping", &["86401".to_owned()]).unwrap().is_err());
        assert!(apply(&mut timers, "ping", &[]).unwrap().is_err());
        assert_eq!(apply(&mut timers, "verb", &args), None);
    }
}
