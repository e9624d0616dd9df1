//! Device posture checks: the server asks about this host in an application's message, a service
//! answers, and the connection goes on meanwhile.

use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use super::SessionConfig;
use super::extension::{Extension, Step};
use crate::control::{Allowance, AppMessage, ControlChannel};
use crate::posture::{DevicePosture, PostureError};
use crate::profile::PeerInfoExtra;

/// Checks at a time. A server that asks for more gets no answer to the rest.
const MAX_CHECKS: usize = 4;

/// Checks: so many at once, so many a second.
const CHECKS: (u32, f64) = (16, 0.1);

/// Name of the request in a server's message, which is a JSON object.
const REQUEST: &str = "dpc_request";

/// The outcome of a check: what to send.
type Check = Result<AppMessage, PostureError>;

/// The session's end of the way to the service.
pub(super) struct Posture {
    service: DevicePosture,
    enterprise_profile: String,
    protocols: Protocols,
    checks: JoinSet<Check>,
    /// A check runs programs, and a server that has its answer can ask again.
    allowance: Allowance,
}

/// What the service knows the profile's checks by.
enum Protocols {
    NotAsked,
    Refused,
    Known(String),
}

impl Posture {
    /// `None`: the profile has no enterprise profile, or there is no bus.
    pub(super) fn new(config: &SessionConfig) -> Option<Self> {
        Some(Self {
            service: config.posture.clone()?,
            enterprise_profile: config.options.enterprise_profile.clone()?,
            protocols: Protocols::NotAsked,
            checks: JoinSet::new(),
            allowance: Allowance::new(CHECKS.0, CHECKS.1),
        })
    }

    /// Asks the service for the protocols, unless it has been asked. Without it the connection is
    /// made all the same; what the server thinks of that is the server's business. Cancel safe.
    async fn look_up(&mut self) {
        if !matches!(self.protocols, Protocols::NotAsked) {
            return;
        }
        match self.service.protocols(&self.enterprise_profile).await {
            Ok(protocols) => {
                tracing::debug!("device posture: {} is {protocols}", self.enterprise_profile);
                self.protocols = Protocols::Known(protocols);
            }
            Err(error) => {
                tracing::error!(
                    "device posture: the server cannot check this host, enterprise profile {} is \
                     not to be had: {error}",
                    self.enterprise_profile
                );
                // A service that is not there now may be there at the next attempt.
                if error.is_lasting() {
                    self.protocols = Protocols::Refused;
                }
            }
        }
    }

    /// For the peer info; empty where there are none.
    fn protocols(&self) -> String {
        match &self.protocols {
            Protocols::Known(protocols) => protocols.clone(),
            Protocols::NotAsked | Protocols::Refused => String::new(),
        }
    }

    /// Starts a check, if this is a request for one of the protocols announced.
    fn consider(&mut self, message: AppMessage) {
        let AppMessage { protocol, payload } = message;
        let announced = self.protocols().split(':').any(|announced| announced == protocol);
        let Some(request) = request(payload).filter(|_| announced) else {
            return tracing::debug!(
                "message of application {protocol} ignored: no posture request"
            );
        };
        if self.checks.len() >= MAX_CHECKS || !self.allowance.take(Instant::now()) {
            return tracing::warn!(
                "device posture: a request was ignored, the server asks too much at once"
            );
        }
        tracing::info!("device posture: the server asks about this host ({protocol})");
        let service = self.service.clone();
        self.checks.spawn(async move {
            let answer = service.run_checks(&protocol, &request).await?;
            Ok(AppMessage { protocol, payload: answer.into_bytes() })
        });
    }

    /// The next answer to the server. A check that failed has none. Cancel safe.
    async fn next_answer(&mut self) -> AppMessage {
        loop {
            match self.checks.join_next().await {
                Some(Ok(Ok(answer))) => return answer,
                Some(Ok(Err(error))) => {
                    tracing::error!("device posture: the check failed: {error}")
                }
                Some(Err(error)) => tracing::error!("device posture: {error}"),
                None => std::future::pending().await,
            }
        }
    }
}

impl Extension for Posture {
    fn prepare(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.look_up())
    }

    fn introduce(&self, peer_info: &mut PeerInfoExtra) {
        peer_info.app_protocols = self.protocols();
    }

    fn next(&mut self) -> BoxFuture<'_, Step> {
        Box::pin(async {
            let answer = self.next_answer().await;
            Step::Control(Box::new(move |control| send(control, &answer)))
        })
    }

    fn message(&mut self, message: AppMessage) -> Option<AppMessage> {
        self.consider(message);
        None
    }

    fn connection_over(&mut self) {
        self.checks = JoinSet::new();
    }
}

fn send(control: &mut ControlChannel, answer: &AppMessage) {
    match control.send_app_message(answer, Instant::now()) {
        Ok(()) => tracing::info!("device posture: answered ({})", answer.protocol),
        Err(error) => tracing::error!("device posture: the answer cannot be sent: {error}"),
    }
}

/// The text of a message that asks for checks. Public for fuzzing only.
pub fn request(payload: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(payload).ok()?;
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).ok()?;
    object.contains_key(REQUEST).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_for_checks_are_requests() {
        let request = |text: &str| request(text.as_bytes().to_vec());
        let asks = r#"{"a":1,"dpc_request":{"ver":"1.0"}}"#;
        assert_eq!(request(asks).as_deref(), Some(asks));
        for other in [
            "",
            "dpc_request",
            r#""dpc_request""#,
            r#"["dpc_request"]"#,
            r#"{"x":{"dpc_request":{}}}"#,
            r#"{"dpc_request":{}"#,
        ] {
            assert_eq!(request(other), None, "{other}");
        }
        assert_eq!(super::request(b"{\"dpc_request\":\"\xff\"}".to_vec()), None);
    }
}
