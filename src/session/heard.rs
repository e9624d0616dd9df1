//! What the control channel tells, sorted by the states that act on it: none is handed what it has
//! nothing for.

use ovpn_dco::{KeyConfig, KeyId};

use super::ending::Ending;
use super::event::SessionEvent;
use super::link::Link;
use super::shared::Shared;
use crate::control::{AppMessage, ControlError, Event, PendingAuth, PushedOptions};
use crate::tls::TlsParameters;

/// An event of the control channel.
pub(super) enum Heard {
    /// The same in every state, even when the transport has broken meanwhile.
    Told(Told),
    /// The same in every state, as long as there is somebody to answer.
    Asked(Asked),
    /// On the way to a push reply.
    Negotiation(Negotiation),
    /// Only once the push reply is accepted: there is a tunnel.
    Tunnel(TunnelEvent),
}

/// To be passed on, or the end.
pub(super) enum Told {
    Tls { key_id: KeyId, description: String, parameters: Option<TlsParameters> },
    Info(String),
    PendingAuth(PendingAuth),
    AuthPending(Option<std::time::Duration>),
    End(Ending),
}

/// To be answered.
pub(super) enum Asked {
    Login,
    App(AppMessage),
}

/// A step to the push reply.
pub(super) enum Negotiation {
    Contacted,
    ConfigRequested,
    Pushed(Pushed),
}

/// The complete push reply.
pub(super) struct Pushed {
    pub(super) options: PushedOptions,
    /// The server's OCC string.
    pub(super) server_occ: String,
}

/// About a tunnel that works, or is about to.
pub(super) enum TunnelEvent {
    Keys(KeyConfig),
    Promote(KeyId),
    Retire(KeyId),
    /// Another push reply.
    PushedLater(PushedOptions),
    /// A change of what was pushed.
    Updated(PushedOptions),
    RenegotiationFailed(ControlError),
}

impl From<Event> for Heard {
    fn from(event: Event) -> Self {
        match event {
            Event::TlsEstablished { key_id, description, parameters } => {
                Self::Told(Told::Tls { key_id, description, parameters })
            }
            Event::Info(text) => Self::Told(Told::Info(text)),
            Event::PendingAuth(pending) => Self::Told(Told::PendingAuth(pending)),
            Event::AuthPending { timeout } => Self::Told(Told::AuthPending(timeout)),
            Event::Restart { reason, flags } => {
                Self::Told(Told::End(Ending::ServerRestart(reason, flags)))
            }
            Event::Halt { reason } => Self::Told(Told::End(Ending::Halted(reason))),
            Event::AuthFailed(failed) => Self::Told(Told::End(Ending::AuthFailed(failed))),
            Event::ServerExit => Self::Told(Told::End(Ending::ServerExit)),
            Event::Closed(error) => Self::Told(Told::End(Ending::Control(error))),
            Event::LoginNeeded => Self::Asked(Asked::Login),
            Event::AppControl(message) => Self::Asked(Asked::App(message)),
            Event::ServerContacted => Self::Negotiation(Negotiation::Contacted),
            Event::ConfigRequested => Self::Negotiation(Negotiation::ConfigRequested),
            Event::Pushed { options, server_occ } => {
                Self::Negotiation(Negotiation::Pushed(Pushed { options, server_occ }))
            }
            Event::Keys(key) => Self::Tunnel(TunnelEvent::Keys(key)),
            Event::PromoteKey(key) => Self::Tunnel(TunnelEvent::Promote(key)),
            Event::RetireKey(key) => Self::Tunnel(TunnelEvent::Retire(key)),
            Event::PushedLater { options } => Self::Tunnel(TunnelEvent::PushedLater(options)),
            Event::PushUpdated { update } => Self::Tunnel(TunnelEvent::Updated(update)),
            Event::RenegotiationFailed(error) => {
                Self::Tunnel(TunnelEvent::RenegotiationFailed(error))
            }
        }
    }
}

impl Shared {
    /// Passes on what the server says.
    pub(super) fn told(&mut self, told: Told) -> Result<(), Ending> {
        match told {
            Told::Tls { key_id, description, parameters } => {
                if key_id == KeyId::FIRST {
                    tracing::info!("TLS: {description}");
                } else {
                    tracing::info!("TLS for key {key_id}: {description}");
                }
                self.tls_parameters = parameters;
            }
            Told::Info(text) => self.tell(SessionEvent::Info(text)),
            Told::PendingAuth(pending) => {
                if let PendingAuth::OpenUrl { flags, .. } = &pending {
                    tracing::debug!("web authentication, flags {flags:?}");
                }
                self.tell(SessionEvent::PendingAuth(pending));
            }
            Told::AuthPending(timeout) => {
                tracing::info!(
                    "the server waits for an authentication step outside{}",
                    timeout.map_or_else(String::new, |t| format!(" (up to {} s)", t.as_secs()))
                );
            }
            Told::End(ending) => return Err(ending),
        }
        Ok(())
    }

    /// Answers what the connection asks for, or has it answered.
    pub(super) fn asked(&mut self, link: &mut Link, asked: Asked) {
        match asked {
            Asked::Login if link.log_in(&mut self.login) => {}
            Asked::Login => {
                tracing::info!("a renegotiation needs user name and password again");
                self.tell(SessionEvent::CredentialsNeeded);
            }
            Asked::App(message) => self.extensions.message(message),
        }
    }
}
