//! The device posture service of OpenVPN 3 Linux: what a server may ask about this host, and the
//! answers.
//!
//! Facts: OpenVPN 3 Linux 27.1, `addons/devposture`; D-Bus contract, "Device posture".

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use zbus::{Connection, DynamicType};

use crate::bus_call::CallFailure;

const SERVICE: &str = "net.openvpn.v3.devposture";
const INTERFACE: &str = "net.openvpn.v3.devposture";
const OBJECT: &str = "/net/openvpn/v3/devposture";

/// A connection waits this long for the service, which may have to be started.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(3);
/// A check runs programs and reads files; a server does not wait for ever either.
const CHECK_LIMIT: Duration = Duration::from_secs(20);
/// The service takes its name before it has its object.
const OBJECT_INTERVAL: Duration = Duration::from_millis(100);

/// Calls the service.
#[derive(Clone, Debug)]
pub struct DevicePosture {
    connection: Connection,
}

/// Why the service gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{SERVICE}, {method}: {failure}")]
pub struct PostureError {
    method: &'static str,
    failure: CallFailure,
}

impl PostureError {
    /// The service says no, or is not installed: asking again does not help.
    pub fn is_lasting(&self) -> bool {
        match self.failure {
            CallFailure::Refused { .. } => !self.failure.is_unknown(),
            CallFailure::Unavailable { startable, .. } => !startable,
            CallFailure::NoAnswer | CallFailure::Bus { .. } => false,
        }
    }
}

impl DevicePosture {
    /// The service on this bus. Calls nothing yet; the bus starts it when it is first needed.
    pub const fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The app control protocols (`a:b`) that go with an enterprise profile, a file of the
    /// service.
    ///
    /// # Errors
    /// No such profile, no permission, no service, no answer within 3 s.
    pub async fn protocols(&self, enterprise_profile: &str) -> Result<String, PostureError> {
        const METHOD: &str = "ProtocolLookup";
        let end = Instant::now() + LOOK_UP_LIMIT;
        loop {
            let answer = limited(METHOD, end, self.call(METHOD, &enterprise_profile)).await;
            let again = Instant::now() + OBJECT_INTERVAL;
            match answer {
                Err(error) if error.failure.is_unknown() && again < end => {
                    tokio::time::sleep_until(again).await;
                }
                answer => return answer,
            }
        }
    }

    /// Runs the checks that a request (JSON) names. The answer is JSON, too.
    ///
    /// # Errors
    /// The request or its version is not known, no service, no answer within 20 s.
    pub async fn run_checks(&self, protocol: &str, request: &str) -> Result<String, PostureError> {
        const METHOD: &str = "RunChecks";
        let end = Instant::now() + CHECK_LIMIT;
        limited(METHOD, end, self.call(METHOD, &(protocol, request))).await
    }

    async fn call<B>(&self, method: &'static str, body: &B) -> Result<String, PostureError>
    where
        B: Serialize + DynamicType,
    {
        let failed = |error: zbus::Error| PostureError { method, failure: error.into() };
        let reply = self
            .connection
            .call_method(Some(SERVICE), OBJECT, Some(INTERFACE), method, body)
            .await
            .map_err(failed)?;
        reply.body().deserialize().map_err(failed)
    }
}

async fn limited(
    method: &'static str,
    end: Instant,
    answer: impl Future<Output = Result<String, PostureError>>,
) -> Result<String, PostureError> {
    tokio::time::timeout_at(end, answer)
        .await
        .unwrap_or(Err(PostureError { method, failure: CallFailure::NoAnswer }))
}
