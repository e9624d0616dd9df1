//! The object's methods: from a message to the backend and back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use zbus::message::Flags;
use zbus::{Message, ObjectPath, Variant};

use super::error::Failure;
use super::introspection::introspect;
use super::properties::statistics;
use super::report::TUNNEL_INTERFACE;
use super::service::{Registering, Service};
use super::{INTERFACE, OBJECT, PROPERTIES, in_time, residue};
use crate::backend::{Dialect, Error, Request};
use crate::text::{excerpt, printable};

/// How long the session may take to show that it is alive. Session managers wait 5 s.
const PING_LIMIT: Duration = Duration::from_secs(4);
const STATISTICS_LIMIT: Duration = Duration::from_secs(1);

/// Longest object path that is taken, in bytes.
const MAX_PATH: usize = 512;
/// Longest reason for a pause that is noted, and longest name that is repeated in an error, in bytes.
pub(super) const MAX_SHOWN: usize = 256;

const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";

/// Methods of the backend interface and the types of their arguments.
const METHODS: [(&str, &str); 13] = [
    ("RegistrationConfirmation", "so"),
    ("Ping", ""),
    ("Ready", ""),
    ("Connect", ""),
    ("Pause", "s"),
    ("Resume", ""),
    ("Restart", ""),
    ("Disconnect", ""),
    ("ForceShutdown", ""),
    ("UserInputQueueGetTypeGroup", ""),
    ("UserInputQueueFetch", "uuu"),
    ("UserInputQueueCheck", "uu"),
    ("UserInputProvide", "uuus"),
];

/// `RegistrationConfirmation` of the deployed session managers.
const DEPLOYED_CONFIRMATION: &str = "soo";

/// A method call that could not be answered, or a broken connection.
pub(super) enum CallError {
    Refused(Failure),
    Connection(zbus::Error),
}

impl<F: Into<Failure>> From<F> for CallError {
    fn from(failure: F) -> Self {
        Self::Refused(failure.into())
    }
}

type CallResult = Result<(), CallError>;

impl Service {
    /// Answers a method call, now or (registration, disconnection, what the session has to be
    /// asked for) later.
    pub(super) async fn method_call(&mut self, call: &Message) -> zbus::Result<()> {
        match self.dispatch(call).await {
            Ok(()) => Ok(()),
            Err(CallError::Refused(failure)) => self.refuse(call, &failure).await,
            Err(CallError::Connection(error)) => Err(error),
        }
    }

    async fn dispatch(&mut self, call: &Message) -> CallResult {
        let header = call.header();
        let path = header.path().map_or("", ObjectPath::as_str);
        let interface = header.interface().map_or(INTERFACE, |name| name.as_str());
        let member = header.member().map_or("", |name| name.as_str());
        match (interface, member) {
            (PEER, "Ping") => self.reply(call, &()).await,
            (PEER, "GetMachineId") => match std::fs::read_to_string("/etc/machine-id") {
                Ok(id) => self.reply(call, &id.trim()).await,
                Err(error) => Err(Failure::failed(format!("/etc/machine-id: {error}")).into()),
            },
            (INTROSPECTABLE, "Introspect") => match introspect(path, self.record.is_some()) {
                Some(xml) => self.reply(call, &xml.as_str()).await,
                None => Err(unknown_object(path)),
            },
            _ if path != OBJECT => Err(unknown_object(path)),
            (PROPERTIES, member) => self.properties(call, member).await,
            (INTERFACE, member) => self.backend_method(call, member).await,
            (TUNNEL_INTERFACE, "Report") => match &self.record {
                Some(record) => {
                    let report = record.report(self.backend.machine());
                    let counters = self.backend.statistics();
                    self.reply_later(call, async move {
                        let counters = tokio::time::timeout(STATISTICS_LIMIT, counters).await;
                        let report = report.with_counters(counters.unwrap_or_default());
                        // Numbers and texts: nothing that cannot be written.
                        serde_json::to_string(&report).unwrap_or_default()
                    })
                }
                None => Err(unknown_member(TUNNEL_INTERFACE, member)),
            },
            _ => Err(Failure::unknown_method(format!(
                "No such interface “{interface}” on object at path {path}"
            ))
            .into()),
        }
    }

    async fn properties(&mut self, call: &Message, member: &str) -> CallResult {
        let header = call.header();
        let caller = header.sender().map_or("", |name| name.as_str());
        let manager = self.peers.is_manager(header.sender());
        let body = call.body();
        let of_backend = |interface: &str| {
            if interface == INTERFACE {
                Ok(())
            } else {
                Err(Failure::invalid_args(format!(
                    "No such interface “{}”",
                    excerpt(interface, MAX_SHOWN)
                )))
            }
        };
        match member {
            "Get" => {
                expect_types(call, "ss")?;
                let (interface, name): (&str, &str) = arguments(&body)?;
                of_backend(interface)?;
                match self.get_property(caller, manager, name)? {
                    Some(value) => self.reply(call, &Variant::from(value)).await,
                    None => {
                        let counters = self.backend.statistics();
                        self.reply_later(call, async move {
                            let counters = tokio::time::timeout(STATISTICS_LIMIT, counters).await;
                            Variant::from(statistics(counters.unwrap_or_default()))
                        })
                    }
                }
            }
            "GetAll" => {
                expect_types(call, "s")?;
                let interface: &str = arguments(&body)?;
                of_backend(interface)?;
                let (mut values, with_statistics) = self.all_properties(manager);
                let counters = with_statistics.then(|| self.backend.statistics());
                self.reply_later(call, async move {
                    if let Some(counters) = counters {
                        let counters = tokio::time::timeout(STATISTICS_LIMIT, counters).await;
                        let counters = statistics(counters.unwrap_or_default());
                        values.insert("statistics".to_owned(), counters);
                    }
                    values
                })
            }
            "Set" => {
                expect_types(call, "ssv")?;
                let (interface, name, value): (&str, &str, Variant<'_>) = arguments(&body)?;
                of_backend(interface)?;
                self.set_property(caller, manager, name, &value)?;
                self.properties_changed(name, value).await.map_err(CallError::Connection)?;
                self.reply(call, &()).await
            }
            _ => Err(unknown_member(PROPERTIES, member)),
        }
    }

    async fn properties_changed(&self, name: &str, value: Variant<'_>) -> zbus::Result<()> {
        let changed = HashMap::from([(name, value)]);
        let invalidated: [&str; 0] = [];
        let body = (INTERFACE, changed, &invalidated[..]);
        let nobody_in_particular = None::<zbus::names::BusName<'_>>;
        let signal = self.connection.emit_signal(
            nobody_in_particular,
            OBJECT,
            PROPERTIES,
            "PropertiesChanged",
            &body,
        );
        in_time(signal).await
    }

    async fn backend_method(&mut self, call: &Message, member: &str) -> CallResult {
        let header = call.header();
        let Some((_, types)) = METHODS.iter().find(|(name, _)| *name == member) else {
            return Err(unknown_member(INTERFACE, member));
        };
        let given = call.body().signature().to_string_no_parens();
        if given != *types && !(*types == "so" && given == DEPLOYED_CONFIRMATION) {
            return Err(Failure::wrong_type(&given, types).into());
        }
        if !self.peers.is_manager(header.sender()) {
            let caller = header.sender().map_or("", |name| name.as_str());
            let error = Error::not_authorised(
                caller,
                &format!("performing method call {INTERFACE}.{member} in object {OBJECT}"),
            );
            tracing::error!("{}", error.text);
            return Err(error.into());
        }
        let body = call.body();
        match member {
            "RegistrationConfirmation" => self.confirm_registration(call, &given),
            "Ping" => {
                let alive = self.backend.ping();
                self.reply_later(call, async move {
                    tokio::time::timeout(PING_LIMIT, alive).await.is_ok()
                })
            }
            "Ready" => self.act(call, Request::Ready).await,
            "Connect" => self.act(call, Request::Connect).await,
            "Pause" => {
                let reason: &str = arguments(&body)?;
                self.act(call, Request::Pause { reason: printable(&excerpt(reason, MAX_SHOWN)) })
                    .await
            }
            "Resume" => self.act(call, Request::Resume).await,
            "Restart" => self.act(call, Request::Restart).await,
            "Disconnect" => {
                self.backend.request(Request::Disconnect)?;
                self.answer_when_done(call);
                Ok(())
            }
            "ForceShutdown" => {
                self.exit_by_force();
                self.act(call, Request::ForceShutdown).await
            }
            "UserInputQueueGetTypeGroup" => {
                let pairs = self.backend.machine().type_groups();
                self.reply(call, &pairs).await
            }
            "UserInputQueueCheck" => {
                let numbers: (u32, u32) = arguments(&body)?;
                let ids = self.backend.machine().check_input(numbers);
                self.reply(call, &ids).await
            }
            "UserInputQueueFetch" => {
                let (kind, group, id): (u32, u32, u32) = arguments(&body)?;
                let slot = self.backend.machine().fetch_input((kind, group), id)?;
                let (kind, group) = slot.numbers();
                let answer = (
                    kind,
                    group,
                    slot.id(),
                    slot.name(),
                    slot.description().to_owned(),
                    slot.hidden(),
                );
                self.reply(call, &answer).await
            }
            "UserInputProvide" => {
                let (kind, group, id, value): (u32, u32, u32, &str) = arguments(&body)?;
                let provided = self.backend.provide_input((kind, group), id, value);
                residue::overwrite(&self.connection).await;
                provided?;
                self.flush().await.map_err(CallError::Connection)?;
                self.reply(call, &()).await
            }
            _ => Err(unknown_member(INTERFACE, member)),
        }
    }

    fn confirm_registration(&mut self, call: &Message, types: &str) -> CallResult {
        let body = call.body();
        let (token, session_path, config_path) = if types == DEPLOYED_CONFIRMATION {
            let (token, session, config): (&str, ObjectPath<'_>, ObjectPath<'_>) =
                arguments(&body)?;
            (token, Some(session.to_string()), config)
        } else {
            let (token, config): (&str, ObjectPath<'_>) = arguments(&body)?;
            (token, None, config)
        };
        if self.backend.machine().is_registered() || self.registering {
            return Err(Error::already_registered().into());
        }
        let paths = [("session", session_path.as_deref()), ("profile", Some(config_path.as_str()))];
        for (what, path) in paths {
            let length = path.map_or(0, str::len);
            if length > MAX_PATH {
                let reason =
                    format!("The {what} path has {length} bytes, at most {MAX_PATH} are taken");
                return Err(Failure::invalid_args(reason).into());
            }
        }
        if token != self.token {
            return Err(Error::wrong_token().into());
        }
        let dialect = if session_path.is_some() { Dialect::Deployed } else { Dialect::Documented };
        self.register(Registering {
            call: call.clone(),
            dialect,
            session_path,
            config_path: config_path.to_string(),
        });
        Ok(())
    }

    async fn act(&mut self, call: &Message, request: Request) -> CallResult {
        let result = self.backend.request(request);
        self.flush().await.map_err(CallError::Connection)?;
        result?;
        self.reply(call, &()).await
    }

    pub(super) async fn reply<B>(&self, call: &Message, body: &B) -> CallResult
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        if !wants_reply(call) {
            return Ok(());
        }
        let header = call.header();
        in_time(self.connection.reply(&header, body)).await.map_err(CallError::Connection)
    }

    /// Answers once `answer` is there, without keeping anybody else waiting. So many calls may wait
    /// at a time.
    fn reply_later<B>(
        &self,
        call: &Message,
        answer: impl Future<Output = B> + Send + 'static,
    ) -> CallResult
    where
        B: serde::Serialize + zbus::DynamicType + Send + Sync + 'static,
    {
        if !wants_reply(call) {
            return Ok(());
        }
        let Ok(permit) = Arc::clone(&self.pending).try_acquire_owned() else {
            return Err(Failure::limit("too many calls wait for the session").into());
        };
        let connection = self.connection.clone();
        let call = call.clone();
        tokio::spawn(async move {
            let answer = answer.await;
            // If the connection is gone, the main loop knows.
            let _ = in_time(connection.reply(&call.header(), &answer)).await;
            drop(permit);
        });
        Ok(())
    }

    pub(super) async fn refuse(&self, call: &Message, failure: &Failure) -> zbus::Result<()> {
        if !wants_reply(call) {
            return Ok(());
        }
        in_time(self.connection.reply_error(&call.header(), failure.name(), &failure.text())).await
    }
}

fn wants_reply(call: &Message) -> bool {
    !call.primary_header().flags().contains(Flags::NO_REPLY_EXPECTED)
}

fn arguments<'b, T>(body: &'b zbus::message::Body) -> Result<T, Failure>
where
    T: zbus::wire::DynamicDeserialize<'b>,
{
    body.deserialize().map_err(|error| Failure::invalid_args(error.to_string()))
}

fn expect_types(call: &Message, expected: &str) -> Result<(), Failure> {
    let given = call.body().signature().to_string_no_parens();
    if given == expected { Ok(()) } else { Err(Failure::wrong_type(&given, expected)) }
}

fn unknown_object(path: &str) -> CallError {
    let path = excerpt(path, MAX_SHOWN);
    Failure::unknown_method(format!("Object does not exist at path “{path}”")).into()
}

fn unknown_member(interface: &str, member: &str) -> CallError {
    Failure::unknown_method(format!("No such method “{member}” on interface {interface}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_introspection_data_agree() {
        let xml = introspect(OBJECT, false).unwrap();
        let backend = xml.split("<interface name=\"net.openvpn.v3.backends\">").nth(1).unwrap();
        let mut seen = 0;
        for method in backend.split("<method name=\"").skip(1) {
            let name = method.split('"').next().unwrap();
            let inputs: String = method
                .split("</method>")
                .next()
                .unwrap()
                .lines()
                .filter(|line| line.contains("direction=\"in\""))
                .filter_map(|line| line.split("type=\"").nth(1)?.split('"').next())
                .collect();
            let inputs = if method.split('>').next().unwrap().ends_with('/') {
                String::new()
            } else {
                inputs
            };
            assert!(METHODS.contains(&(name, inputs.as_str())), "{name}({inputs})");
            seen += 1;
        }
        assert_eq!(seen, METHODS.len());
    }
}
