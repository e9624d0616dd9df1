//! The object's properties.

use std::collections::HashMap;

use zbus::{ObjectPath, OwnedVariant, Variant};

use super::error::Failure;
use super::object::MAX_SHOWN;
use super::service::Service;
use super::{INTERFACE, OBJECT};
use crate::logging::LogLevel;
use crate::text::excerpt;

/// Before registration the deployed backends show this.
const NO_SESSION_PATH: &str = "/__unknown";

struct Property {
    name: &'static str,
    writable: Option<&'static str>,
    /// Read by the session manager only.
    restricted: bool,
}

const fn property(name: &'static str) -> Property {
    Property { name, writable: None, restricted: false }
}

const TABLE: [Property; 10] = [
    Property { writable: Some("u"), ..property("log_level") },
    Property { restricted: true, ..property("session_name") },
    property("session_path"),
    property("connection"),
    Property { restricted: true, ..property("statistics") },
    property("status"),
    Property { restricted: true, ..property("last_log_line") },
    Property { writable: Some("b"), ..property("dco") },
    property("device_path"),
    Property { restricted: true, ..property("device_name") },
];

fn find(name: &str) -> Result<&'static Property, Failure> {
    TABLE.iter().find(|property| property.name == name).ok_or_else(|| {
        Failure::invalid_args(format!("No such property “{}”", excerpt(name, MAX_SHOWN)))
    })
}

/// Statistics as they go over the bus.
pub(super) fn statistics(counters: impl IntoIterator<Item = (&'static str, u64)>) -> OwnedVariant {
    let dict: HashMap<String, i64> = counters
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(name, count)| (name.to_owned(), i64::try_from(count).unwrap_or(i64::MAX)))
        .collect();
    owned(Variant::from(dict))
}

fn owned(value: Variant<'_>) -> OwnedVariant {
    // Only file descriptors can fail to be owned, and no property holds one.
    value.try_into_owned().unwrap_or_else(|_| OwnedVariant::from(0_u32))
}

impl Service {
    /// `Properties.Get`, after the check that the caller may. `None`: `statistics`, which has to be
    /// asked for.
    pub(super) fn get_property(
        &self,
        caller: &str,
        manager: bool,
        name: &str,
    ) -> Result<Option<OwnedVariant>, Failure> {
        let property = find(name)?;
        if property.restricted && !manager {
            return Err(self.property_denied(caller, "reading", name));
        }
        Ok(self.value(name))
    }

    /// `Properties.GetAll`: what the caller may read, and whether `statistics` is to be added.
    pub(super) fn all_properties(&self, manager: bool) -> (HashMap<String, OwnedVariant>, bool) {
        let readable = TABLE.iter().filter(|property| manager || !property.restricted);
        let values = readable
            .filter_map(|property| Some((property.name.to_owned(), self.value(property.name)?)))
            .collect();
        (values, manager)
    }

    /// `Properties.Set`.
    pub(super) fn set_property(
        &mut self,
        caller: &str,
        manager: bool,
        name: &str,
        value: &Variant<'_>,
    ) -> Result<(), Failure> {
        let property = find(name)?;
        let Some(expected) = property.writable else {
            return Err(Failure::invalid_args(format!("Property “{name}” is not writable")));
        };
        if !manager {
            return Err(self.property_denied(caller, "setting", name));
        }
        match value {
            Variant::U32(level) if name == "log_level" => {
                if *level > LogLevel::MAX {
                    return Err(Failure::invalid_args(format!(
                        "log_level {level} is out of range, 0 to {} are valid",
                        LogLevel::MAX
                    )));
                }
                self.log_level.set(*level);
                Ok(())
            }
            Variant::Bool(wish) if name == "dco" => {
                if self.backend.set_dco(*wish) {
                    Ok(())
                } else {
                    Err(Failure::failed(
                        "DCO mode cannot be changed now: disconnect first, or set it before Connect",
                    ))
                }
            }
            other => Err(Failure::wrong_type(&other.value_signature().to_string(), expected)),
        }
    }

    fn property_denied(&self, caller: &str, what: &str, name: &str) -> Failure {
        let text = format!(
            "Authorization failed for {caller} {what} property {INTERFACE}.{name} in object {OBJECT}"
        );
        tracing::error!("{text}");
        Failure::access_denied(text)
    }

    /// Everything but `statistics`.
    fn value(&self, name: &str) -> Option<OwnedVariant> {
        let machine = self.backend.machine();
        Some(match name {
            "log_level" => OwnedVariant::from(self.log_level.get()),
            "dco" => OwnedVariant::from(machine.dco()),
            "session_name" => owned(Variant::from(machine.session_name())),
            "session_path" => path(machine.session_path().unwrap_or(NO_SESSION_PATH)),
            "connection" => {
                let (protocol, host, ip, port) = match machine.connection() {
                    Some(info) => (
                        info.protocol.name().to_owned(),
                        info.host.clone(),
                        info.address.ip().to_string(),
                        u32::from(info.address.port()),
                    ),
                    None => Default::default(),
                };
                owned(Variant::new((protocol, host, ip, port)))
            }
            "status" => {
                let status = machine.status();
                let (major, minor) = status.codes();
                owned(Variant::new((major, minor, status.message.clone())))
            }
            "last_log_line" => {
                let mut line: HashMap<String, Variant<'_>> = HashMap::new();
                if let Some(last) = &self.last_line {
                    line.insert("log_group".to_owned(), Variant::from(last.group as u32));
                    line.insert("log_category".to_owned(), Variant::from(last.category as u32));
                    line.insert("log_message".to_owned(), Variant::from(last.text.as_str()));
                }
                owned(Variant::from(line))
            }
            "device_path" => path(machine.device().and_then(|(_, path)| path).unwrap_or("/")),
            "device_name" => owned(Variant::from(machine.device().map_or("", |(name, _)| name))),
            _ => return None,
        })
    }
}

fn path(path: &str) -> OwnedVariant {
    match ObjectPath::try_from(path) {
        Ok(path) => owned(Variant::from(path)),
        Err(_) => owned(Variant::from(ObjectPath::default())),
    }
}
