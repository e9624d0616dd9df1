//! What the service manager that started this program (systemd) is told: that the tunnel is there, what a
//! person wants to know of it, and, as often as it wants to hear that, that all of this works.
//! See sd_notify(3). Without a service manager nothing of it happens.

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::text::printable;

/// Signs of life within the time that the service manager waits for one.
const PULSES: u32 = 3;

/// The service manager of this process.
pub(super) struct ServiceManager {
    listens: bool,
    /// Set when it watches; begins with the first look at it, inside a runtime.
    pulse: Option<Interval>,
    /// It knows that the tunnel is there.
    ready: bool,
}

impl ServiceManager {
    pub(super) fn of_this_process() -> Self {
        Self { listens: std::env::var_os("NOTIFY_SOCKET").is_some(), pulse: None, ready: false }
    }

    /// Begins to show signs of life, if it watches. Inside a runtime.
    pub(super) fn watched(mut self) -> Self {
        let limit = sd_notify::watchdog_enabled().filter(|limit| self.listens && !limit.is_zero());
        self.pulse = limit.map(|limit| {
            let mut pulse = interval(limit / PULSES);
            pulse.set_missed_tick_behavior(MissedTickBehavior::Skip);
            pulse
        });
        self
    }

    /// Whether anybody listens.
    pub(super) const fn listens(&self) -> bool {
        self.listens
    }

    /// When a sign of life is due; never, if nobody waits for one. Cancel safe.
    pub(super) async fn pulse(&mut self) {
        match &mut self.pulse {
            Some(pulse) => drop(pulse.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Everything works.
    pub(super) fn alive() {
        tell(&[NotifyState::Watchdog]);
    }

    /// How it stands. The last one stays to be read when this process has ended.
    pub(super) fn status(&self, text: &str) {
        if self.listens {
            tell(&[NotifyState::Status(&printable(text))]);
        }
    }

    /// The tunnel is there; it is told once.
    pub(super) fn ready(&mut self) {
        if self.listens && !std::mem::replace(&mut self.ready, true) {
            tell(&[NotifyState::Ready]);
        }
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        if self.listens {
            tell(&[NotifyState::Stopping]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}
