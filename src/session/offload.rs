//! Kernel offload over a session's life: what the machine offers, and what became of it. A failure is not
//! for good: a module may be loaded, or whatever stood in its way go away, while a session runs for
//! months. At a later reconnect it is tried again. Pure, but for [`probe`].

use std::time::{Duration, Instant};

use ovpn_dco::kernel::Report;

/// Between a failure and the next try, at first.
const FIRST: Duration = Duration::from_secs(10);
/// A try that fails again has the next one wait twice as long, up to this.
const LONGEST: Duration = Duration::from_secs(3600);

/// What is known of it.
#[derive(Debug)]
pub(super) struct Offload {
    report: Report,
    /// What the kernel said when it refused or lost the data channel.
    failure: Option<String>,
    /// The last try.
    tried: Instant,
    /// How long after it, or after the failure, the next one comes.
    pause: Duration,
    next: Instant,
}

/// Asks the machine. That may load a module: not on a task's thread, which this sees to.
///
/// # Errors
/// When there is no thread for it.
pub(super) async fn probe() -> Result<Report, tokio::task::JoinError> {
    tokio::task::spawn_blocking(ovpn_dco::kernel::probe).await
}

impl Offload {
    pub(super) fn new(report: Report, now: Instant) -> Self {
        Self { report, failure: None, tried: now, pause: FIRST, next: now + FIRST }
    }

    /// What the machine offers.
    pub(super) const fn report(&self) -> &Report {
        &self.report
    }

    /// Why the kernel is not asked at present, although the machine offers it.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether a connection that begins now is to ask the machine again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_out = self.failure.is_some() || self.report.ready().is_none();
        is_out && now >= self.next
    }

    /// It was asked: the kernel has another chance.
    pub(super) fn renew(&mut self, report: Report, now: Instant) {
        if report.ready().is_none() {
            self.wait(now);
        }
        self.report = report;
        self.failure = None;
        self.tried = now;
    }

    /// The kernel has refused or lost the data channel.
    pub(super) fn failed(&mut self, why: String, now: Instant) {
        // It has worked for longer than it was waited for.
        if now.saturating_duration_since(self.tried) > self.pause {
            self.pause = FIRST;
        }
        self.wait(now);
        self.failure = Some(why);
    }

    fn wait(&mut self, now: Instant) {
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use ovpn_dco::kernel::{Api, ApiReport, Features, Status};

    use super::*;

    fn machine(status: Status) -> Report {
        let api = Api::Ovpn;
        let report = ApiReport { api, status, loaded: true, family_version: None, version: None };
        Report { kernel: "7.3".to_owned(), apis: vec![report] }
    }

    fn ready() -> Report {
        machine(Status::Ready(Features::default()))
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_failure_is_tried_again_later_and_later() {
        let mut now = Instant::now();
        let mut offload = Offload::new(ready(), now);
        assert!(!offload.is_due(now + LONGEST), "it works");
        offload.failed("no".to_owned(), now);
        for pause in [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600] {
            assert_eq!(offload.failure(), Some("no"));
            assert!(!offload.is_due(now + seconds(pause - 1)), "{pause}");
            now += seconds(pause);
            assert!(offload.is_due(now), "{pause}");
            offload.renew(ready(), now);
            assert_eq!(offload.failure(), None);
            assert!(!offload.is_due(now + LONGEST), "it is in use");
            now += seconds(1);
            offload.failed("no".to_owned(), now);
        }
    }

    #[test]
    fn one_that_has_worked_for_long_begins_anew() {
        let mut now = Instant::now();
        let mut offload = Offload::new(ready(), now);
        for _ in 0..5 {
            offload.failed("no".to_owned(), now);
            now += LONGEST;
            offload.renew(ready(), now);
        }
        now += LONGEST * 2;
        offload.failed("no".to_owned(), now);
        assert!(offload.is_due(now + FIRST));
    }

    #[test]
    fn a_module_that_comes_later_is_found() {
        let mut now = Instant::now();
        let none = || machine(Status::NoModule);
        let mut offload = Offload::new(none(), now);
        for pause in [10, 10, 20, 40] {
            assert!(!offload.is_due(now + seconds(pause - 1)), "{pause}");
            now += seconds(pause);
            assert!(offload.is_due(now), "{pause}");
            offload.renew(none(), now);
        }
        now += LONGEST;
        offload.renew(ready(), now);
        assert!(!offload.is_due(now + LONGEST));
        assert_eq!(offload.report().ready(), Some(Api::Ovpn));
    }
}
