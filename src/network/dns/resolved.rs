//! systemd-resolved, `org.freedesktop.resolve1` (manual page `org.freedesktop.resolve1(5)`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde::Serialize;
use tracing::{debug, info, warn};
use zbus::{Connection, DynamicType, Message, MessageStream, Variant, fdo};

use super::error::ResolvedError;
use super::plan::DnsPlan;
use crate::control::Allowance;
use crate::network::namespace::shares_netns;
use crate::profile::{DnsScope, DnsSec, DomainName};

const SERVICE: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const INTERFACE: &str = "org.freedesktop.resolve1.Manager";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const GET_PID: &str = "GetConnectionUnixProcessID";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// For each call: a service that hangs must not hold a connection up.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How often servers that somebody has taken away are set again: so many times at once, so many a
/// second. Beyond it they are left as somebody wants them.
const AGAIN: (u32, f64) = (5, 1.0 / 600.0);

/// A connection to a running systemd-resolved of this network namespace.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    connection: Connection,
    /// The unique name of the process that answered last.
    told: Arc<Mutex<Option<String>>>,
}

impl Resolved {
    /// `Err`: why it cannot be used.
    pub(super) async fn connect(address: Option<&str>) -> Result<Self, ResolvedError> {
        let builder = match address {
            Some(address) => zbus::connection::Builder::address(address),
            None => zbus::connection::Builder::system(),
        };
        let build = builder.method_timeout(TIMEOUT).build();
        let connection = tokio::time::timeout(TIMEOUT, build)
            .await
            .map_err(|_| ResolvedError::BusHangs)?
            .map_err(ResolvedError::NoBus)?;
        // Asking the bus starts nothing, unlike asking the service.
        let reply = connection
            .call_method(Some(BUS), BUS_PATH, Some(BUS), GET_PID, &SERVICE)
            .await
            .map_err(|_| ResolvedError::NotRunning)?;
        let pid: u32 = reply.body().deserialize().map_err(failed(GET_PID))?;
        // Interface numbers mean the same only in the same network namespace.
        if shares_netns(pid) == Some(false) {
            return Err(ResolvedError::OtherNamespace);
        }
        Ok(Self { connection, told: Arc::default() })
    }

    async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<()>
    where
        B: Serialize + DynamicType,
    {
        let reply =
            self.connection.call_method(Some(SERVICE), PATH, Some(INTERFACE), method, body).await?;
        let sender = reply.header().sender().map(|name| name.as_str().to_owned());
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = sender;
        Ok(())
    }

    /// The unique name of the service's process now; `None`: there is none.
    async fn owner(&self) -> Option<String> {
        let reply = self
            .connection
            .call_method(Some(BUS), BUS_PATH, Some(BUS), "GetNameOwner", &SERVICE)
            .await
            .ok()?;
        reply.body().deserialize().ok()
    }

    /// Gives a link its servers, domains and settings.
    pub(super) async fn set(&self, plan: &DnsPlan, index: u32) -> Result<(), ResolvedError> {
        let link = number(index)?;
        self.set_servers(plan, link).await.map_err(failed("SetLinkDNS"))?;

        let everything = plan.scope == DnsScope::Global && !plan.servers.is_empty();
        let mut domains: Vec<(&str, bool)> = Vec::new();
        domains.extend(plan.search_domains.iter().map(|domain| (domain.as_str(), false)));
        domains.extend(plan.route_domains.iter().map(|domain| (domain.as_str(), true)));
        if everything && !domains.contains(&(".", true)) {
            // Without it the other links' servers would be asked as well.
            domains.push((".", true));
        }
        self.call("SetLinkDomains", &(link, domains)).await.map_err(failed("SetLinkDomains"))?;
        self.optional("SetLinkDefaultRoute", &(link, everything)).await?;
        if let Some(dnssec) = plan.dnssec {
            let mode = match dnssec {
                DnsSec::Yes => "yes",
                DnsSec::Optional => "allow-downgrade",
                DnsSec::No => "no",
            };
            self.call("SetLinkDNSSEC", &(link, mode)).await.map_err(failed("SetLinkDNSSEC"))?;
        }
        if plan.over_tls {
            self.call("SetLinkDNSOverTLS", &(link, "yes"))
                .await
                .map_err(failed("SetLinkDNSOverTLS"))?;
        }
        self.flush().await;
        Ok(())
    }

    /// Tells the service again whenever it has started anew, or somebody has taken the link's servers
    /// away (`resolvectl revert`), as long as the bus lives.
    pub(super) async fn keep(self, plan: DnsPlan, index: u32) {
        let mut messages = MessageStream::from(&self.connection);
        let rules = [
            format!(
                "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',\
                 arg0='{SERVICE}'"
            ),
            format!(
                "type='signal',sender='{SERVICE}',path='{PATH}',interface='{PROPERTIES}',\
                 member='PropertiesChanged'"
            ),
        ];
        for rule in rules {
            let watched =
                self.connection.call_method(Some(BUS), BUS_PATH, Some(BUS), "AddMatch", &rule);
            if let Err(error) = watched.await {
                debug!("systemd-resolved, AddMatch: {error}");
                return;
            }
        }
        let mut again = Allowance::new(AGAIN.0, AGAIN.1);
        // It may have done so before anybody watched.
        let mut owner = self.owner().await;
        loop {
            if let Some(owner) = owner {
                self.tell_again(&owner, &plan, index).await;
            }
            let Some(Ok(message)) = messages.next().await else { return };
            owner = new_owner(&message);
            if owner.is_none() && self.has_lost(&message, &plan, index) {
                if again.take(Instant::now()) {
                    warn!("somebody took the tunnel's DNS servers away; they are set again");
                    if let Err(error) = self.set(&plan, index).await {
                        not_used(&error);
                    }
                } else if again.is_worth_telling() {
                    warn!(
                        "somebody takes the tunnel's DNS servers away again and again; they are \
                         left as they are"
                    );
                }
            }
        }
    }

    /// Whether the service says that it has other servers for the link than those of the plan.
    fn has_lost(&self, message: &Message, plan: &DnsPlan, index: u32) -> bool {
        let header = message.header();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if header.sender().map(|name| name.as_str()) != told.as_deref()
            || header.member().is_none_or(|member| member != "PropertiesChanged")
        {
            return false;
        }
        let body = message.body();
        let Ok((_, mut changed, _)) =
            body.deserialize::<(&str, HashMap<&str, Variant<'_>>, Vec<&str>)>()
        else {
            return false;
        };
        // Of all links: number, family, address.
        let servers = changed.remove("DNS").and_then(|value| value.try_into_owned().ok());
        let Some(Ok(servers)) = servers.map(Vec::<(i32, i32, Vec<u8>)>::try_from) else {
            return false;
        };
        !plan.servers.iter().all(|server| {
            let (family, bytes) = raw(server.address);
            servers.iter().any(|(link, of, address)| {
                u32::try_from(*link) == Ok(index) && *of == family && *address == bytes
            })
        })
    }

    /// Tells a process that has not been told.
    async fn tell_again(&self, owner: &str, plan: &DnsPlan, index: u32) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(owner) {
            return;
        }
        match self.set(plan, index).await {
            Ok(()) => info!("systemd-resolved has started anew; it has the tunnel's DNS again"),
            Err(error) => not_used(&error),
        }
    }

    async fn set_servers(&self, plan: &DnsPlan, link: i32) -> zbus::Result<()> {
        let servers: Vec<(i32, Vec<u8>, u16, &str)> = plan
            .servers
            .iter()
            .map(|server| {
                let (family, bytes) = raw(server.address);
                (family, bytes, server.port, server.sni.as_ref().map_or("", DomainName::as_str))
            })
            .collect();
        let plain =
            servers.iter().all(|(_, _, port, name)| matches!(port, 0 | 53) && name.is_empty());
        match self.call("SetLinkDNSEx", &(link, &servers)).await {
            // Before systemd 246 there were no ports and names.
            Err(error) if plain && is_unknown_method(&error) => {
                let servers: Vec<_> =
                    servers.into_iter().map(|(family, bytes, _, _)| (family, bytes)).collect();
                self.call("SetLinkDNS", &(link, servers)).await
            }
            result => result,
        }
    }

    /// A call that older versions do not know.
    async fn optional<B>(&self, method: &'static str, body: &B) -> Result<(), ResolvedError>
    where
        B: Serialize + DynamicType,
    {
        match self.call(method, body).await {
            Err(error) if !is_unknown_method(&error) => Err(failed(method)(error)),
            _ => Ok(()),
        }
    }

    /// Takes everything of a link back. A link that is gone has taken it along.
    pub(super) async fn revert(&self, index: u32) -> Result<(), ResolvedError> {
        const REVERT: &str = "RevertLink";
        match self.call(REVERT, &(number(index)?,)).await {
            Err(error) if !is_no_such_link(&error) => Err(failed(REVERT)(error)),
            _ => {
                self.flush().await;
                Ok(())
            }
        }
    }

    /// Answers from before the change would outlive it.
    async fn flush(&self) {
        if let Err(error) = self.call("FlushCaches", &()).await {
            debug!("systemd-resolved, FlushCaches: {error}");
        }
    }
}

fn not_used(error: &ResolvedError) {
    warn!("the tunnel's DNS is not used any more: systemd-resolved: {error}");
}

fn failed(method: &'static str) -> impl Fn(zbus::Error) -> ResolvedError {
    move |error| ResolvedError::Call { method, error }
}

/// An interface as the service's methods take it.
fn number(index: u32) -> Result<i32, ResolvedError> {
    i32::try_from(index).map_err(|_| ResolvedError::Index(index))
}

/// Whom the bus says to be the service from now on.
fn new_owner(message: &Message) -> Option<String> {
    let header = message.header();
    if header.sender()? != BUS || header.member()? != "NameOwnerChanged" {
        return None;
    }
    let body = message.body();
    let (name, _, owner) = body.deserialize::<(&str, &str, &str)>().ok()?;
    (name == SERVICE && !owner.is_empty()).then(|| owner.to_owned())
}

fn raw(address: IpAddr) -> (i32, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    }
}

fn is_no_such_link(error: &zbus::Error) -> bool {
    const NAME: &str = "org.freedesktop.resolve1.NoSuchLink";
    matches!(error, zbus::Error::MethodError(found, _, _) if found.as_str() == NAME)
}

fn is_unknown_method(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(error) if matches!(**error, fdo::Error::UnknownMethod(_)))
}
