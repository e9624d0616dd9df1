//! The log service's side door: attaching and detaching this process.
//!
//! `AssignSession` before a successful `Attach` crashes the deployed log services, so the two are
//! tied together here.

use std::time::Duration;

use zbus::Connection;
use zbus::names::OwnedUniqueName;

use super::{INTERFACE, LOG, LOG_OBJECT, SESSIONS};

const LIMIT: Duration = Duration::from_secs(5);
/// How often `Attach` is tried with a service that does not answer: it may just be slow to start.
const TRIES: u32 = 6;
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

/// Attaches both interfaces, starting the service if need be. `None` if there is no log service.
pub(super) async fn attach(connection: &Connection) -> Option<OwnedUniqueName> {
    let mut name = None;
    for _ in 0..TRIES {
        match call(connection, "Attach", &INTERFACE, LIMIT).await {
            Ok(found) => {
                name = Some(found);
                break;
            }
            Err(Failure::NoAnswer) => {}
            Err(Failure::Refused) => return None,
        }
    }
    let name = name?;
    // The deployed backends attach the session manager's interface too; nothing depends on it.
    let _ = call(connection, "Attach", &SESSIONS, LIMIT).await;
    Some(name)
}

/// Ties the attached stream to a session, for log forwarding.
pub(super) async fn assign_session(connection: &Connection, session_path: &str) {
    match zbus::ObjectPath::try_from(session_path) {
        Ok(path) => {
            // What went wrong is in the log.
            let _ = call(connection, "AssignSession", &(path, INTERFACE), LIMIT).await;
        }
        Err(error) => tracing::warn!("No log forwarding for {session_path}: {error}"),
    }
}

/// Says goodbye.
pub(super) async fn detach(connection: &Connection) {
    for interface in [INTERFACE, SESSIONS] {
        let _ = call(connection, "Detach", &interface, FAREWELL_LIMIT).await;
    }
}

enum Failure {
    NoAnswer,
    /// Or there is no such service.
    Refused,
}

async fn call<B>(
    connection: &Connection,
    method: &'static str,
    body: &B,
    limit: Duration,
) -> Result<OwnedUniqueName, Failure>
where
    B: serde::Serialize + zbus::DynamicType + Sync,
{
    let call = connection.call_method(Some(LOG), LOG_OBJECT, Some(LOG), method, body);
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(reply)) => sender(&reply),
        Ok(Err(zbus::Error::MethodError(_, Some(text), reply)))
            if text.contains("Already attached") =>
        {
            sender(&reply)
        }
        Ok(Err(error)) => {
            tracing::debug!("Log service: {method}: {error}");
            Err(Failure::Refused)
        }
        Err(_) => {
            tracing::debug!("Log service: {method}: no answer within {} s", limit.as_secs());
            Err(Failure::NoAnswer)
        }
    }
}

fn sender(reply: &zbus::Message) -> Result<OwnedUniqueName, Failure> {
    reply.header().sender().map(|name| name.to_owned().into()).ok_or(Failure::Refused)
}
