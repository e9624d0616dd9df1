//! Optional parts of a session: each takes part in connections without the states knowing which.

use futures_util::future::{BoxFuture, ready, select_all};

use super::SessionConfig;
use super::commands::Command;
use super::event::SessionEvent;
use super::posture::Posture;
use crate::control::{AppMessage, ControlChannel};
use crate::profile::PeerInfoExtra;

/// What an extension wants done for it.
pub(super) enum Step {
    /// To be told to whoever runs the session.
    Tell(Box<SessionEvent>),
    /// To be done with the control channel of the present connection.
    Control(Box<dyn FnOnce(&mut ControlChannel) + Send>),
}

/// An optional part of a session. What it does not care for it leaves as it is here.
pub(super) trait Extension: Send {
    /// What is to be known before a connection begins. Cancel safe; called for each connection.
    fn prepare(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// What the server is told about it.
    fn introduce(&self, _peer_info: &mut PeerInfoExtra) {}

    /// The next thing to be done during a connection. Cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Step>;

    /// A command, which it gives back if it is another's.
    fn command(&mut self, command: Command) -> Option<Command> {
        Some(command)
    }

    /// A message of the server for an application, which it gives back if it is another's.
    fn message(&mut self, message: AppMessage) -> Option<AppMessage> {
        Some(message)
    }

    /// The connection is over, and with it what was asked for it.
    fn connection_over(&mut self);
}

/// The extensions of a session.
pub(super) struct Extensions(Vec<Box<dyn Extension>>);

impl Extensions {
    /// `signing`: with an external private key.
    pub(super) fn new(config: &SessionConfig, signing: Option<Box<dyn Extension>>) -> Self {
        let posture = Posture::new(config).map(|posture| Box::new(posture) as Box<dyn Extension>);
        Self(signing.into_iter().chain(posture).collect())
    }

    pub(super) async fn prepare(&mut self) {
        for extension in &mut self.0 {
            extension.prepare().await;
        }
    }

    pub(super) fn introduce(&self, peer_info: &mut PeerInfoExtra) {
        for extension in &self.0 {
            extension.introduce(peer_info);
        }
    }

    pub(super) async fn next(&mut self) -> Step {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.0.iter_mut().map(|extension| extension.next())).await.0
    }

    /// Gives back what is no extension's.
    pub(super) fn command(&mut self, command: Command) -> Option<Command> {
        self.0.iter_mut().try_fold(command, |command, extension| extension.command(command))
    }

    pub(super) fn message(&mut self, message: AppMessage) {
        let left =
            self.0.iter_mut().try_fold(message, |message, extension| extension.message(message));
        if let Some(AppMessage { protocol, .. }) = left {
            tracing::debug!("message of application {protocol} ignored: nobody here knows it");
        }
    }

    pub(super) fn connection_over(&mut self) {
        for extension in &mut self.0 {
            extension.connection_over();
        }
    }
}
