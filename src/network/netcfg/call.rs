//! Method calls to the service, with time limits, readable errors, and descriptors that its
//! signatures do not mention.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::debug;
use zbus::message::{Flags, Type};
use zbus::{Connection, DynamicType, Message, MessageStream, OwnedVariant, Variant, connection};

use crate::bus_call::{CallFailure, means_unknown};

const SERVICE: &str = "net.openvpn.v3.netcfg";
const INTERFACE: &str = "net.openvpn.v3.netcfg";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const BUS: &str = "org.freedesktop.DBus";
const BUS_OBJECT: &str = "/org/freedesktop/DBus";

/// The service may have to be started; its own time limits are of this size.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often, and how long apart, a service is asked that has no object yet.
const OBJECT_TRIES: u32 = 20;
const OBJECT_INTERVAL: Duration = Duration::from_millis(100);

/// What the service could not do.
#[derive(Debug, thiserror::Error)]
pub enum NetcfgError {
    /// It is not installed, or cannot be started.
    #[error(
        "the network configuration service {SERVICE} is not available ({reason}); install \
         OpenVPN 3 Linux's netcfg, or give this process CAP_NET_ADMIN"
    )]
    Unavailable {
        /// What the bus says.
        reason: String,
        /// The bus knows how to start it: another try may succeed.
        startable: bool,
    },
    /// It does not answer.
    #[error("the network configuration service does not answer {method} within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// Method or property.
        method: String,
    },
    /// It refused a call.
    #[error("the network configuration service refuses {method}: {message}")]
    Refused {
        /// Method or property.
        method: String,
        /// D-Bus name of the error.
        name: String,
        /// Its text, without the name of the error that GLib puts in front.
        message: String,
    },
    /// The bus connection failed, or an answer cannot be read.
    #[error("{method} of the network configuration service: {reason}")]
    Bus {
        /// Method or property.
        method: String,
        /// Why.
        reason: String,
    },
    /// `ProtectSocket` said no.
    #[error(
        "the network configuration service could not keep the way to {remote} out of the tunnel"
    )]
    NotProtected {
        /// The server.
        remote: IpAddr,
    },
    /// `Establish` succeeded without giving a device: it says so that it failed.
    #[error(
        "the network configuration service made no tunnel device; its log says why \
         (openvpn3-admin log-service, journalctl)"
    )]
    NoDevice,
    /// A descriptor cannot be duplicated.
    #[error("cannot duplicate a descriptor: {0}")]
    Socket(io::Error),
}

impl NetcfgError {
    pub(super) fn reply(method: &str, error: &zbus::Error) -> Self {
        Self::Bus { method: method.to_owned(), reason: format!("unexpected answer: {error}") }
    }

    pub(super) fn new(method: &str, error: zbus::Error) -> Self {
        let method = method.to_owned();
        match CallFailure::from(error) {
            CallFailure::Unavailable { reason, startable } => {
                Self::Unavailable { reason, startable }
            }
            CallFailure::Refused { name, message } => Self::Refused { method, name, message },
            CallFailure::NoAnswer => Self::Timeout { method },
            CallFailure::Bus { reason } => Self::Bus { method, reason },
        }
    }

    /// The service is not there, and will not be by itself.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Unavailable { startable: false, .. })
    }

    pub(super) fn is_invalid_arguments(&self) -> bool {
        const NAME: &str = "org.freedesktop.DBus.Error.InvalidArgs";
        matches!(self, Self::Refused { name, .. } if name == NAME)
    }

    /// The object or the whole service is not there (any more).
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused { name, .. } => means_unknown(name),
            _ => false,
        }
    }
}

/// A session that is being watched over has to answer within 4 s, and waits for this.
const START_LIMIT: Duration = Duration::from_secs(3);

/// See [`super::NetcfgConfig::start_service`].
pub(super) async fn start_service(connection: &Connection) -> Result<(), NetcfgError> {
    match tokio::time::timeout(START_LIMIT, find_or_start(connection)).await {
        Ok(Ok(())) | Err(_) => Ok(()),
        Ok(Err(error @ NetcfgError::Unavailable { .. })) => Err(error),
        // A bus that does not let us ask may let us call.
        Ok(Err(error)) => {
            debug!("{error}");
            Ok(())
        }
    }
}

/// Whether the service runs, on the bus at that address (`None`: the system bus). Without a bus it
/// does not; on one that does not answer it may.
pub(in crate::network) async fn is_running(bus: Option<&str>) -> bool {
    let builder = match bus {
        Some(address) => connection::Builder::address(address),
        None => connection::Builder::system(),
    };
    let found = async {
        let Ok(connection) = builder.build().await else { return false };
        has_owner(&connection).await.unwrap_or(true)
    };
    tokio::time::timeout(START_LIMIT, found).await.unwrap_or(true)
}

async fn find_or_start(connection: &Connection) -> Result<(), NetcfgError> {
    const START: &str = "StartServiceByName";
    // Starting fails for a service that runs but is none of the bus's own.
    if has_owner(connection).await? {
        return Ok(());
    }
    let name = (SERVICE, 0_u32);
    let started = connection.call_method(Some(BUS), BUS_OBJECT, Some(BUS), START, &name).await;
    started.map(drop).map_err(|error| NetcfgError::new(START, error))
}

async fn has_owner(connection: &Connection) -> Result<bool, NetcfgError> {
    const FIND: &str = "NameHasOwner";
    let found = connection.call_method(Some(BUS), BUS_OBJECT, Some(BUS), FIND, &SERVICE).await;
    let found = found.map_err(|error| NetcfgError::new(FIND, error))?;
    found.body().deserialize().map_err(|error| NetcfgError::reply(FIND, &error))
}

/// Calls the service.
#[derive(Debug)]
pub(super) struct Caller {
    connection: Connection,
}

impl Caller {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    pub(super) async fn call<B>(
        &self,
        path: &str,
        method: &'static str,
        body: &B,
    ) -> Result<Message, NetcfgError>
    where
        B: Serialize + DynamicType,
    {
        let call = self.connection.call_method(Some(SERVICE), path, Some(INTERFACE), method, body);
        limited(method, call).await
    }

    /// A call that does not start the service.
    pub(super) async fn call_running<B>(
        &self,
        path: &str,
        method: &'static str,
        body: &B,
    ) -> Result<Message, NetcfgError>
    where
        B: Serialize + DynamicType,
    {
        let message = message(path, method)
            .and_then(|builder| builder.with_flags(Flags::NO_AUTO_START).build(body))
            .map_err(|e| NetcfgError::new(method, e))?;
        self.send(method, &message).await
    }

    /// A call with descriptors attached that its signature does not mention: what the service
    /// expects, and what ordinary D-Bus calls never do.
    pub(super) async fn call_with_descriptors<B>(
        &self,
        path: &str,
        method: &'static str,
        body: &B,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Message, NetcfgError>
    where
        B: Serialize + DynamicType,
    {
        let plain = message(path, method)
            .and_then(|builder| builder.build(body))
            .map_err(|e| NetcfgError::new(method, e))?;
        let bytes = plain.body();
        let signature = plain.header().signature().clone();
        let descriptors = descriptors.into_iter().map(Into::into).collect();
        let builder = message(path, method).map_err(|e| NetcfgError::new(method, e))?;
        // SAFETY: the bytes are the serialised body of a message with this very signature, in the
        // same (native) byte order; attached descriptors are no part of it.
        let message =
            unsafe { builder.build_raw_body(bytes.data().bytes(), signature, descriptors) }
                .map_err(|e| NetcfgError::new(method, e))?;
        self.send(method, &message).await
    }

    /// Sends a prepared message and waits for its answer.
    async fn send(&self, method: &str, message: &Message) -> Result<Message, NetcfgError> {
        // Before sending, so that the answer cannot be missed.
        let mut incoming = MessageStream::from(&self.connection);
        let serial = message.primary_header().serial_num();
        let exchange = async {
            self.connection.send(message).await?;
            while let Some(answer) = incoming.next().await {
                let answer = answer?;
                if answer.header().reply_serial() != Some(serial) {
                    continue;
                }
                return match answer.message_type() {
                    Type::Error => Err(answer.into()),
                    _ => Ok(answer),
                };
            }
            Err(zbus::Error::InputOutput(io::Error::from(io::ErrorKind::UnexpectedEof).into()))
        };
        limited(method, exchange).await
    }

    pub(super) async fn get<T>(&self, path: &str, property: &'static str) -> Result<T, NetcfgError>
    where
        T: DeserializeOwned + TryFrom<Variant<'static>>,
        T::Error: std::fmt::Display,
    {
        let body = (INTERFACE, property);
        let call = self.connection.call_method(Some(SERVICE), path, Some(PROPERTIES), "Get", &body);
        let reply = limited(property, call).await?;
        let value: OwnedVariant =
            reply.body().deserialize().map_err(|e| NetcfgError::reply(property, &e))?;
        T::try_from(Variant::from(value)).map_err(|e| NetcfgError::Bus {
            method: property.to_owned(),
            reason: format!("unexpected type: {e}"),
        })
    }

    pub(super) async fn set(
        &self,
        path: &str,
        property: &'static str,
        value: Variant<'_>,
    ) -> Result<(), NetcfgError> {
        let body = (INTERFACE, property, value);
        let call = self.connection.call_method(Some(SERVICE), path, Some(PROPERTIES), "Set", &body);
        limited(property, call).await.map(drop)
    }
}

/// With a service that was just started: it takes its name before it has its object.
#[derive(Debug, Default)]
pub(super) struct Patience {
    tries: u32,
}

impl Patience {
    /// Waits a moment, if calling again may help.
    pub(super) async fn allows_again(&mut self, error: &NetcfgError) -> bool {
        let unknown = matches!(error, NetcfgError::Refused { name, .. } if means_unknown(name));
        if !unknown || self.tries >= OBJECT_TRIES {
            return false;
        }
        self.tries += 1;
        tokio::time::sleep(OBJECT_INTERVAL).await;
        true
    }
}

fn message<'a>(path: &'a str, method: &'a str) -> zbus::Result<zbus::message::Builder<'a>> {
    Ok(Message::method_call(path, method).destination(SERVICE).interface(INTERFACE))
}

async fn limited(
    method: &str,
    call: impl Future<Output = zbus::Result<Message>>,
) -> Result<Message, NetcfgError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(result) => result.map_err(|e| NetcfgError::new(method, e)),
        Err(_) => Err(NetcfgError::Timeout { method: method.to_owned() }),
    }
}
