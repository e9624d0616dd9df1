//! What the service manager that started this program (systemd) is told: that the tunnel is there, what a
//! person wants to know of it, and, as often as it wants to hear that, that all of this works.
//! See sd_notify(3). Without a service manager nothing of it happens, and one that does not listen keeps
//! nothing waiting.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::line_writer::{LineWriter, Weight};
use crate::text::printable;

/// Signs of life within the time that the service manager waits for one.
const PULSES: u32 = 3;

/// The service manager of this process.
pub(super) struct ServiceManager {
    /// One datagram a text.
    lines: Option<LineWriter>,
    /// Set when it watches; begins with the first look at it, inside a runtime.
    pulse: Option<Interval>,
    /// Whether all works is being looked at.
    looking: Option<JoinHandle<()>>,
    /// It knows that the tunnel is there.
    ready: bool,
}

impl ServiceManager {
    pub(super) fn of_this_process() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        // Without a thread there is no connection that could be told of.
        let lines = listens.then(|| LineWriter::to(Socket, |_| String::new()).ok()).flatten();
        Self { lines, pulse: None, looking: None, ready: false }
    }

    /// Begins to show signs of life, if it watches. Inside a runtime.
    pub(super) fn watch(&mut self) {
        let limit =
            sd_notify::watchdog_enabled().filter(|limit| self.listens() && !limit.is_zero());
        self.pulse = limit.map(|limit| {
            let mut pulse = interval(limit / PULSES);
            pulse.set_missed_tick_behavior(MissedTickBehavior::Skip);
            pulse
        });
    }

    /// Whether anybody listens.
    pub(super) const fn listens(&self) -> bool {
        self.lines.is_some()
    }

    /// When a sign of life is due; never, if nobody waits for one. Cancel safe.
    pub(super) async fn pulse(&mut self) {
        match &mut self.pulse {
            Some(pulse) => drop(pulse.tick().await),
            None => std::future::pending().await,
        }
    }

    /// A sign of life, if everything works. That is looked at meanwhile, once at a time. Inside a runtime.
    pub(super) fn show_life(&mut self, works: impl Future<Output = bool> + Send + 'static) {
        let Some(lines) = self.lines.clone() else { return };
        if self.looking.as_ref().is_none_or(JoinHandle::is_finished) {
            self.looking = Some(tokio::spawn(async move {
                if works.await {
                    // Behind something else it would be an old one.
                    lines.put_if_idle(NotifyState::Watchdog.to_string());
                }
            }));
        }
    }

    /// How it stands. The last one stays to be read when this process has ended.
    pub(super) fn status(&self, text: &str) {
        self.tell(&NotifyState::Status(&printable(text)));
    }

    /// The tunnel is there; it is told once.
    pub(super) fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            self.tell(&NotifyState::Ready);
        }
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell(&NotifyState::Stopping);
    }

    fn tell(&self, state: &NotifyState<'_>) {
        if let Some(lines) = &self.lines {
            lines.put(state.to_string(), Weight::Heavy);
        }
    }

    /// Waits until all is told, or until `limit` has passed.
    pub(super) fn flush(&self, limit: Duration) {
        if let Some(lines) = &self.lines {
            lines.flush(limit);
        }
    }
}

/// The socket in `NOTIFY_SOCKET`.
struct Socket;

impl io::Write for Socket {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let state = std::str::from_utf8(text).map_err(io::Error::other)?;
        sd_notify::notify(&[NotifyState::Custom(state)])
            .inspect_err(|error| tracing::debug!("the service manager cannot be told: {error}"))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
