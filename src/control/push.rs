//! Asking for the configuration and putting a reply together.

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::error::LimitReached;
use crate::profile::split_push;

/// What a client sends.
pub const PUSH_REQUEST: &str = "PUSH_REQUEST";

/// Interval once the server said AUTH_PENDING. OpenVPN 3 waits 8 s, which a user who has just logged
/// in on a web page waits as well, and which a server with a short `keepalive` takes for silence.
const PENDING_INTERVAL: Duration = Duration::from_secs(4);

/// Longest interval before that.
const MAX_INTERVAL: u64 = 3;

/// All options of one reply together, in bytes (OpenVPN 3's limit).
const MAX_PUSHED: usize = 786_432;

/// All options of one reply together. Servers of providers push some thousand routes.
const MAX_OPTIONS: usize = 65_536;

/// When to send PUSH_REQUEST: at once, then after 1, 2, 3, 3, ... seconds.
#[derive(Debug)]
pub struct PushRequests {
    /// `None` once an answer arrived.
    next: Option<Instant>,
    sent: u64,
    pending: bool,
}

impl PushRequests {
    /// Starts asking at `now`.
    pub const fn new(now: Instant) -> Self {
        Self { next: Some(now), sent: 0, pending: false }
    }

    /// True if a request is to be sent at `now`; counts as sent.
    pub fn is_due(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|at| at > now) {
            return false;
        }
        self.sent += 1;
        let interval = if self.pending {
            PENDING_INTERVAL
        } else {
            Duration::from_secs(self.sent.min(MAX_INTERVAL))
        };
        self.next = now.checked_add(interval);
        true
    }

    /// No request was sent yet.
    pub const fn is_first(&self) -> bool {
        self.sent == 0
    }

    /// The server waits for somebody else: ask less often.
    pub const fn slow_down(&mut self) {
        self.pending = true;
    }

    /// An answer arrived.
    pub const fn stop(&mut self) {
        self.next = None;
    }

    /// When the next request is due.
    pub const fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

/// A reply or an update of several messages, so far.
#[derive(Debug, Default)]
pub struct PushReply {
    options: Zeroizing<Vec<String>>,
    size: usize,
}

impl PushReply {
    /// More of it is on its way.
    pub const fn is_begun(&self) -> bool {
        self.size > 0
    }

    /// Adds one message's options; gives all of them back when the reply is complete.
    ///
    /// # Errors
    /// It grew over [`LimitReached::PushedBytes`] or [`LimitReached::PushedOptions`].
    pub fn add(&mut self, text: &str) -> Result<Option<Zeroizing<Vec<String>>>, LimitReached> {
        self.size += text.len();
        if self.size > MAX_PUSHED {
            return Err(LimitReached::PushedBytes(MAX_PUSHED));
        }
        let mut more = false;
        for option in split_push(text) {
            match option.trim_start().strip_prefix("push-continuation") {
                Some(rest) if rest.starts_with(' ') => more = rest.trim() == "2",
                _ if option.is_empty() => {}
                _ if self.options.len() >= MAX_OPTIONS => {
                    return Err(LimitReached::PushedOptions(MAX_OPTIONS));
                }
                _ => self.options.push(option),
            }
        }
        if more {
            return Ok(None);
        }
        self.size = 0;
        Ok(Some(std::mem::take(&mut self.options)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|&o| o.to_owned()).collect()
    }

    #[test]
    fn request_times() {
        let start = Instant::now();
        let mut requests = PushRequests::new(start);
        let mut times = Vec::new();
        for second in 0..13 {
            assert_eq!(requests.is_first(), times.is_empty());
            if requests.is_due(start + Duration::from_secs(second)) {
                times.push(second);
            }
        }
        assert_eq!(times, [0, 1, 3, 6, 9, 12]);
        requests.slow_down();
        assert!(requests.is_due(start + Duration::from_secs(15)));
        assert_eq!(requests.deadline(), Some(start + Duration::from_secs(19)));
        requests.stop();
        assert!(!requests.is_due(start + Duration::from_secs(100)));
    }

    #[test]
    fn continuation() {
        let mut reply = PushReply::default();
        assert_eq!(reply.add("route 1,push-continuation 2"), Ok(None));
        assert_eq!(reply.add("route 2,push-continuation 2"), Ok(None));
        assert_eq!(
            reply.add("route 3,push-continuation 1"),
            Ok(Some(strings(&["route 1", "route 2", "route 3"]).into()))
        );
        assert_eq!(reply.add("a,b"), Ok(Some(strings(&["a", "b"]).into())));
        assert_eq!(reply.add(""), Ok(Some(Vec::new().into())));
    }

    #[test]
    fn endless_continuation_is_refused() {
        let mut reply = PushReply::default();
        let part = format!("{},push-continuation 2", "x".repeat(1000));
        let refused = (0..10_000).find(|_| reply.add(&part).is_err());
        assert_eq!(refused, Some(MAX_PUSHED / part.len()));
        let many = format!("{},push-continuation 2", "a,".repeat(MAX_OPTIONS / 2));
        let mut reply = PushReply::default();
        let added = [(); 3].map(|()| reply.add(&many));
        let too_many = Err(LimitReached::PushedOptions(MAX_OPTIONS));
        assert_eq!(added, [Ok(None), Ok(None), too_many]);
    }
}
