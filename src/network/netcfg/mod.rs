//! Network configuration by the service `net.openvpn.v3.netcfg` of OpenVPN 3 Linux, for a process
//! without privileges: it makes the TUN device, sets addresses, routes and DNS, and keeps the
//! transport socket out of the tunnel.
//!
//! Facts: the D-Bus contract of OpenVPN 3 Linux 24.1 and 27.1, section "Network configuration
//! service".

mod call;
mod dns;
mod plan;

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::{debug, warn};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, Message, OwnedObjectPath, Variant};

pub use self::call::NetcfgError;
pub(super) use self::call::is_running;
use self::call::{Caller, Patience};
pub(super) use self::dns::DnsDevice;
pub use self::plan::NetcfgPlan;
use self::plan::{NetcfgDns, NetcfgNetworkEntry};
use crate::profile::{DnsScope, DnsSec, DnsTransport};
use crate::text::{excerpt, is_visible};

const MANAGER: &str = "/net/openvpn/v3/netcfg";
/// Longest part of an impossible device name that is shown, in bytes.
const MAX_NAME_SHOWN: usize = 64;
/// Layer 3: TUN.
const LAYER: u32 = 3;
/// The last version whose `AddNetworks` has no metric.
const LAST_VERSION_WITHOUT_METRIC: u32 = 25;

/// Where the netcfg service's device for this session comes from.
#[derive(Clone, Debug)]
pub struct NetcfgConfig {
    /// The bus the service is on.
    pub connection: Connection,
    /// The session token: netcfg's working name for the device.
    pub token: String,
    /// Call `ProtectSocket` without the socket (`--disable-protect-socket`).
    pub without_socket: bool,
}

impl NetcfgConfig {
    /// Has the bus start the service, if it does not run yet. One that is just slow is taken for
    /// there.
    ///
    /// # Errors
    /// When there is none, or it cannot be started.
    pub async fn start_service(&self) -> Result<(), NetcfgError> {
        call::start_service(&self.connection).await
    }
}

/// One session's use of the service.
///
/// The service only forgets what it is told to forget: call [`Self::destroy`] when the tunnel ends
/// and [`Self::cleanup`] before the process does.
#[derive(Debug)]
pub struct NetcfgNetwork {
    caller: Caller,
    token: String,
    without_socket: bool,
    device: Option<Device>,
    /// Of the last [`Self::protect`].
    protection: Mutex<Option<Protection>>,
}

/// A route to a server that the service has made around the tunnel.
#[derive(Debug)]
struct Protection {
    remote: IpAddr,
    /// The process that knows of it.
    service: Option<OwnedUniqueName>,
}

#[derive(Debug)]
struct Device {
    path: OwnedObjectPath,
    /// What it is configured as; `None` until it is established.
    plan: Option<NetcfgPlan>,
}

/// A device that is configured and up.
#[derive(Debug)]
pub struct Established {
    /// The TUN device (IP packets, no header). Close it before [`NetcfgNetwork::destroy`]: the
    /// kernel keeps the device as long as it is open.
    pub tun: OwnedFd,
    /// The service's object of the device.
    pub device_path: String,
    /// The kernel's name of the device.
    pub device_name: String,
    /// What the service refused although the tunnel works without it.
    pub warnings: Vec<String>,
}

impl NetcfgNetwork {
    /// Calls nothing yet: the service is started by the bus when it is first needed.
    pub fn new(config: NetcfgConfig) -> Self {
        Self {
            caller: Caller::new(config.connection),
            token: config.token,
            without_socket: config.without_socket,
            device: None,
            protection: Mutex::new(None),
        }
    }

    /// The service's object of the device, while there is one.
    pub fn device_path(&self) -> Option<&str> {
        self.device.as_ref().map(|device| device.path.as_str())
    }

    /// Forgets a device that the service does not know any more: it was started anew, and what it
    /// had configured cannot be relied on. Before each connection attempt. Cancel safe.
    pub async fn recheck(&mut self) {
        let Some(device) = &self.device else { return };
        let known: Result<String, _> = self.caller.get(device.path.as_str(), "device_name").await;
        if let Err(error) = known
            && error.is_gone()
        {
            warn!("the network configuration service does not know the tunnel any more: {error}");
            self.device = None;
        }
    }

    /// Keeps the unconnected transport `socket` to `remote` out of the tunnel. Before each
    /// connection attempt; it replaces the protection of the attempt before.
    ///
    /// # Errors
    /// When the service is not there or refuses.
    pub async fn protect(&self, socket: BorrowedFd<'_>, remote: IpAddr) -> Result<(), NetcfgError> {
        let socket = (!self.without_socket).then_some(socket);
        self.protect_address(remote.to_canonical(), socket).await
    }

    async fn protect_address(
        &self,
        remote: IpAddr,
        socket: Option<BorrowedFd<'_>>,
    ) -> Result<(), NetcfgError> {
        let device = match &self.device {
            Some(device) => device.path.as_ref(),
            None => zbus::ObjectPath::from_static_str_unchecked("/"),
        };
        let arguments = (remote.to_string(), remote.is_ipv6(), device);
        let mut patience = Patience::default();
        let reply = loop {
            let descriptor = socket.map(|socket| socket.try_clone_to_owned()).transpose();
            let descriptors = descriptor.map_err(NetcfgError::Socket)?.into_iter().collect();
            let call = self.caller.call_with_descriptors(
                MANAGER,
                "ProtectSocket",
                &arguments,
                descriptors,
            );
            match call.await {
                Err(error) if patience.allows_again(&error).await => {}
                answer => break answer?,
            }
        };
        let protection = Protection { remote, service: sender(&reply) };
        *self.protection.lock().unwrap_or_else(PoisonError::into_inner) = Some(protection);
        let protected: bool =
            reply.body().deserialize().map_err(|e| NetcfgError::reply("ProtectSocket", &e))?;
        if protected { Ok(()) } else { Err(NetcfgError::NotProtected { remote }) }
    }

    /// Whether the device is already what `plan` says, so that it can be kept over a reconnect.
    pub fn is_established(&self, plan: &NetcfgPlan) -> bool {
        self.device.as_ref().and_then(|device| device.plan.as_ref()) == Some(plan)
    }

    /// Makes the device. An older one is destroyed first; close its descriptor before.
    ///
    /// # Errors
    /// When the service is not there, refuses a part that the tunnel needs, or gives no device.
    /// Nothing of the device is left then.
    pub async fn establish(&mut self, plan: &NetcfgPlan) -> Result<Established, NetcfgError> {
        self.destroy().await?;
        let path: OwnedObjectPath = self.create().await?;
        self.device = Some(Device { path: path.clone(), plan: None });
        match self.configure(&path, plan).await {
            Ok(established) => {
                self.device = Some(Device { path, plan: Some(plan.clone()) });
                Ok(established)
            }
            Err(error) => {
                if let Err(second) = self.destroy().await {
                    debug!("netcfg: {second}");
                }
                Err(error)
            }
        }
    }

    /// The service may be just starting: a few tries, as upstream does.
    async fn create(&self) -> Result<OwnedObjectPath, NetcfgError> {
        const METHOD: &str = "CreateVirtualInterface";
        let mut tries = 0;
        let mut patience = Patience::default();
        let reply = loop {
            match self.caller.call(MANAGER, METHOD, &(&self.token,)).await {
                Err(error) if patience.allows_again(&error).await => {}
                Err(NetcfgError::Timeout { .. }) if tries < 2 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                result => break result?,
            }
        };
        reply.body().deserialize().map_err(|e| NetcfgError::reply(METHOD, &e))
    }

    async fn configure(
        &self,
        path: &OwnedObjectPath,
        plan: &NetcfgPlan,
    ) -> Result<Established, NetcfgError> {
        let device = Configuring { caller: &self.caller, path: path.as_str() };
        let mut warnings = plan.notes().to_vec();
        device.set_dns_scope(plan.dns_scope).await;
        for address in &plan.addresses {
            let gateway = address.gateway.map(|g| g.to_string()).unwrap_or_default();
            let ip = address.address.to_string();
            let arguments = (ip, u32::from(address.prefix), gateway, address.address.is_ipv6());
            device.call("AddIPAddress", &arguments).await?;
        }
        for (redirected, property) in
            [(plan.redirect_ipv4, "reroute_ipv4"), (plan.redirect_ipv6, "reroute_ipv6")]
        {
            if redirected {
                device.set(property, Variant::from(true)).await?;
            }
        }
        if let Some(dns) = &plan.dns {
            device.set_dns(dns, &mut warnings).await;
        }
        let remote = (plan.remote.to_string(), plan.remote.is_ipv6());
        device.call("SetRemoteAddress", &remote).await?;
        device.set("layer", Variant::from(LAYER)).await?;
        device.set("mtu", Variant::from(plan.mtu)).await?;
        if let Some(length) = plan.tx_queue_len {
            device.set("txqueuelen", Variant::from(length)).await?;
        }
        self.add_networks(path.as_str(), &plan.networks).await?;

        let tun = device.establish().await?;
        let device_name = device.name().await?;
        Ok(Established { tun, device_path: path.to_string(), device_name, warnings })
    }

    /// `AddNetworks` has a metric since version 26. Development versions have names instead of
    /// numbers; should the guess be wrong, the other form is tried.
    async fn add_networks(
        &self,
        path: &str,
        networks: &[NetcfgNetworkEntry],
    ) -> Result<(), NetcfgError> {
        let without_metric = self
            .version_number()
            .await?
            .is_some_and(|number| number <= LAST_VERSION_WITHOUT_METRIC);
        match self.send_networks(path, networks, without_metric).await {
            Err(error) if error.is_invalid_arguments() => {
                self.send_networks(path, networks, !without_metric).await
            }
            result => result,
        }
    }

    async fn send_networks(
        &self,
        path: &str,
        networks: &[NetcfgNetworkEntry],
        without_metric: bool,
    ) -> Result<(), NetcfgError> {
        const METHOD: &str = "AddNetworks";
        let parts = networks.iter().map(|entry| {
            let network = entry.network;
            (network.address().to_string(), u32::from(network.prefix()), network.is_ipv6())
        });
        let reply = if without_metric {
            let list: Vec<(String, u32, bool, bool)> = parts
                .zip(networks)
                .map(|((address, prefix, ipv6), entry)| (address, prefix, ipv6, entry.exclude))
                .collect();
            self.caller.call(path, METHOD, &(list,)).await
        } else {
            let list: Vec<(String, u32, i32, bool, bool)> = parts
                .zip(networks)
                .map(|((address, prefix, ipv6), entry)| {
                    (address, prefix, entry.metric, ipv6, entry.exclude)
                })
                .collect();
            self.caller.call(path, METHOD, &(list,)).await
        };
        reply.map(drop)
    }

    /// 25 for `v25` and `v25.1`; `None` for development versions.
    async fn version_number(&self) -> Result<Option<u32>, NetcfgError> {
        let version: String = self.caller.get(MANAGER, "version").await?;
        let digits: String = version
            .strip_prefix('v')
            .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect())
            .unwrap_or_default();
        Ok(digits.parse().ok())
    }

    /// Takes the interface and its DNS down and keeps the object: a pause without `persist-tun`.
    ///
    /// # Errors
    /// When the service is not there or refuses.
    pub async fn disable(&mut self) -> Result<(), NetcfgError> {
        let Some(device) = &mut self.device else { return Ok(()) };
        device.plan = None;
        let path = device.path.to_string();
        self.caller.call(&path, "Disable", &()).await.map(drop)
    }

    /// Removes the device with everything that was configured on it.
    ///
    /// # Errors
    /// When the service refuses. A device or service that is gone is no error.
    pub async fn destroy(&mut self) -> Result<(), NetcfgError> {
        let Some(device) = self.device.take() else { return Ok(()) };
        match self.caller.call(device.path.as_str(), "Destroy", &()).await {
            Err(error) if !error.is_gone() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes everything that this process has with the service, also the protected route.
    /// Returns when the service has done it: a process that left earlier would leave the route.
    ///
    /// A service that was started anew does not know of the route. It learns it by being asked for
    /// the same once more.
    ///
    /// # Errors
    /// When the service refuses. One that is not running has nothing to clean up.
    pub async fn cleanup(&mut self) -> Result<(), NetcfgError> {
        self.device = None;
        let protection = self.protection.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let cleaned = self.clean_running().await?;
        let Some(Protection { remote, service }) = protection else { return Ok(()) };
        if cleaned.is_some() && cleaned == service {
            return Ok(());
        }
        if let Err(error) = self.protect_address(remote, None).await {
            // Without the service nobody can, and where it makes no routes it wants the socket.
            debug!("netcfg: {error}");
            return Ok(());
        }
        self.clean_running().await.map(drop)
    }

    /// Which process has cleaned up, if the service runs.
    async fn clean_running(&self) -> Result<Option<OwnedUniqueName>, NetcfgError> {
        match self.caller.call_running(MANAGER, "Cleanup", &()).await {
            Ok(reply) => Ok(sender(&reply)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn sender(reply: &Message) -> Option<OwnedUniqueName> {
    reply.header().sender().map(|name| name.to_owned().into())
}

const fn scope_word(scope: DnsScope) -> &'static str {
    match scope {
        DnsScope::Global => "global",
        DnsScope::Tunnel => "tunnel",
    }
}

/// One device while it is being configured.
struct Configuring<'a> {
    caller: &'a Caller,
    path: &'a str,
}

impl Configuring<'_> {
    async fn call<B>(&self, method: &'static str, body: &B) -> Result<(), NetcfgError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.caller.call(self.path, method, body).await.map(drop)
    }

    async fn set(&self, property: &'static str, value: Variant<'_>) -> Result<(), NetcfgError> {
        self.caller.set(self.path, property, value).await
    }

    /// A service without a resolver refuses the scope, which then means nothing.
    async fn set_dns_scope(&self, scope: DnsScope) {
        if let Err(error) = self.set("dns_scope", Variant::from(scope_word(scope))).await {
            debug!("netcfg: {error}");
        }
    }

    /// DNS that is refused is a warning: the tunnel works without.
    async fn set_dns(&self, dns: &NetcfgDns, warnings: &mut Vec<String>) {
        let mut results = Vec::new();
        if !dns.domains.is_empty() {
            results.push(self.call("AddDNSSearch", &(&dns.domains,)).await);
        }
        if !dns.servers.is_empty() {
            results.push(self.call("AddDNS", &(&dns.servers,)).await);
        }
        if let Some(mode) = dns.dnssec {
            let mode = match mode {
                DnsSec::Yes => "yes",
                DnsSec::Optional => "optional",
                DnsSec::No => "no",
            };
            results.push(self.call("SetDNSSEC", &(mode,)).await);
        }
        if let Some(transport) = dns.transport {
            let transport = match transport {
                DnsTransport::Plain => "plain",
                DnsTransport::DoT => "dot",
                DnsTransport::DoH => "doh",
            };
            results.push(self.call("SetDNSTransport", &(transport,)).await);
        }
        if dns.split {
            self.set_dns_scope(DnsScope::Tunnel).await;
        }
        warnings.extend(
            results
                .into_iter()
                .filter_map(Result::err)
                .map(|error| format!("the tunnel's DNS is not complete: {error}")),
        );
    }

    async fn establish(&self) -> Result<OwnedFd, NetcfgError> {
        let reply = self.caller.call(self.path, "Establish", &()).await?;
        match reply.data().fds() {
            [tun, ..] => {
                std::os::fd::AsFd::as_fd(tun).try_clone_to_owned().map_err(NetcfgError::Socket)
            }
            [] => Err(NetcfgError::NoDevice),
        }
    }

    async fn name(&self) -> Result<String, NetcfgError> {
        const PROPERTY: &str = "device_name";
        let name: String = self.caller.get(self.path, PROPERTY).await?;
        if (1..libc::IFNAMSIZ).contains(&name.len()) && name.chars().all(is_visible) {
            Ok(name)
        } else {
            let reason = format!("not the name of a device: '{}'", excerpt(&name, MAX_NAME_SHOWN));
            Err(NetcfgError::Bus { method: PROPERTY.to_owned(), reason })
        }
    }
}
