//! From the first packet to the push reply.

use std::time::{Duration, Instant};

use super::connected::Connected;
use super::ending::Ending;
use super::event::SessionState;
use super::heard::{Heard, Negotiation, Pushed};
use super::link::Link;
use super::over::{End, Over};
use super::roaming::index;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::control::Event;

/// A server that is there answers sooner.
const PROMPT: Duration = Duration::from_secs(1);

/// A connection that has no configuration yet.
pub(super) struct Negotiating {
    pub(super) link: Link,
    /// From the connection before.
    pub(super) kept: Option<Tunnel>,
    /// No answer by then: the server is not there. `None`: it has answered.
    answer_by: Option<Instant>,
    begun: Instant,
}

impl Negotiating {
    pub(super) fn new(link: Link, kept: Option<Tunnel>, answer_by: Instant) -> Self {
        Self { link, kept, answer_by: Some(answer_by), begun: Instant::now() }
    }

    /// The server has had time to answer, and has not.
    pub(super) fn is_unanswered(&self) -> bool {
        self.answer_by.is_some() && self.begun.elapsed() > PROMPT
    }

    /// To the tunnel, or the end.
    pub(super) async fn run(mut self, shared: &mut Shared) -> Result<Connected, Over> {
        loop {
            match self.step(shared).await {
                Ok(None) => {}
                Ok(Some(pushed)) => return Connected::establish(self, pushed, shared).await,
                Err(end) => return Err(self.over(shared, end).await),
            }
        }
    }

    pub(super) async fn over(self, shared: &mut Shared, end: End) -> Over {
        shared.part(self.link, end, false, self.kept).await
    }

    /// Acts on what there is, or waits for the next thing. Cancel safe.
    async fn step(&mut self, shared: &mut Shared) -> Result<Option<Pushed>, End> {
        while let Some(event) = self.link.poll()? {
            if let Some(pushed) = self.hear(shared, event)? {
                return Ok(Some(pushed));
            }
        }
        tokio::select! {
            moved = self.link.wait() => moved?,
            () = until(self.answer_by) => {
                let after = shared.config.options.retry.server_poll_timeout;
                return Err(Ending::NoAnswer { after, source: self.link.transport.take_trouble() }.into());
            }
            change = shared.roaming.changed(index(self.kept.as_ref())) => {
                Box::pin(self.changed(shared, change)).await?;
            }
            step = shared.extensions.next() => shared.perform(&mut self.link, step),
            command = shared.commands.next() => {
                if let Some(reply) = shared.obey(&mut self.link, command)? {
                    let counters = shared.counters(Some(self.link.counters()), self.kept.as_mut()).await;
                    // Whoever does not wait any more needs no answer.
                    let _ = reply.send(counters);
                }
            }
        }
        Ok(None)
    }

    pub(super) fn hear(
        &mut self,
        shared: &mut Shared,
        event: Event,
    ) -> Result<Option<Pushed>, Ending> {
        match event.into() {
            Heard::Told(told) => shared.told(told)?,
            Heard::Asked(asked) => shared.asked(&mut self.link, asked),
            Heard::Negotiation(Negotiation::Contacted) => {
                self.answer_by = None;
                shared.enter(SessionState::Authenticating);
            }
            Heard::Negotiation(Negotiation::ConfigRequested) => {
                shared.enter(SessionState::GetConfig);
            }
            Heard::Negotiation(Negotiation::Pushed(pushed)) => return Ok(Some(pushed)),
            Heard::Tunnel(_) => {
                return Err(Ending::Disorder("a data key before the push reply was accepted"));
            }
        }
        Ok(None)
    }
}

/// Waits for a moment that may never come.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
