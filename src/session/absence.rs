//! The machine slept, or this process was stopped: by a timer of the clock that goes on meanwhile
//! (`CLOCK_BOOTTIME`), which rings at once afterwards.

use std::io;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;
use tokio::net::unix::pipe::Receiver;

/// How often it rings.
const TICK: Duration = Duration::from_secs(10);
/// A busy machine may be so late without having slept.
const LATE: Duration = Duration::from_secs(5);

/// Tells absences.
pub(super) struct Absence {
    /// No pipe, but it is read like one.
    timer: Receiver,
    clock: Clock,
}

impl Absence {
    /// Inside a tokio runtime.
    pub(super) fn watch() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        let every = Expiration::Interval(TimeSpec::from_duration(TICK));
        timer.set(every, TimerSetTimeFlags::empty())?;
        Ok(Self {
            timer: Receiver::from_owned_fd_unchecked(timer.into())?,
            clock: Clock { last: now()? },
        })
    }

    /// How long the next one has lasted. Cancel safe.
    pub(super) async fn over(&mut self) -> Duration {
        loop {
            if self.timer.readable().await.is_err() {
                return std::future::pending().await;
            }
            // How often it has rung does not matter.
            if self.timer.try_read(&mut [0; 8]).is_err() {
                continue;
            }
            let Ok(now) = now() else { continue };
            if let Some(absence) = self.clock.rings(now) {
                return absence;
            }
        }
    }
}

fn now() -> io::Result<Duration> {
    Ok(clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?.into())
}

/// Pure.
struct Clock {
    last: Duration,
}

impl Clock {
    /// It rings at `now`: how long nobody was there to hear it, if it is later than it should be.
    fn rings(&mut self, now: Duration) -> Option<Duration> {
        let passed = now.saturating_sub(self.last);
        self.last = now;
        (passed > TICK + LATE).then_some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_not_away() {
        let at = Duration::from_secs;
        let mut clock = Clock { last: at(100) };
        assert_eq!(clock.rings(at(110)), None);
        assert_eq!(clock.rings(at(124)), None, "a busy machine");
        assert_eq!(clock.rings(at(130)), None, "rings in step");
        assert_eq!(clock.rings(at(3730)), Some(at(3600)));
        assert_eq!(clock.rings(at(3740)), None);
    }

    #[tokio::test]
    async fn nothing_is_told_of_a_process_that_runs() {
        let mut absence = Absence::watch().unwrap();
        let told = tokio::time::timeout(Duration::from_millis(50), absence.over()).await;
        assert!(told.is_err(), "{told:?}");
    }
}
