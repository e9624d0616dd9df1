//! The tunnel's DNS by the service alone: for a process that makes the tunnel itself but may not
//! write this host's `resolv.conf`.
//!
//! The service sets DNS when a device is established. This one carries nothing: it has no address
//! and no route. Seen with 24.1 and 27.1: it is enough, and `Destroy` puts the DNS back.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use zbus::{Variant, connection};

use super::call::Caller;
use super::plan::NetcfgDns;
use super::{Configuring, LAYER, NetcfgConfig, NetcfgError, NetcfgNetwork};
use crate::network::dns::DnsPlan;
use crate::profile::DnsTransport;

/// Nothing is sent over it.
const MTU: u16 = 1500;

/// A device of the service that sets DNS. Dropping it does not take the DNS back, see
/// [`Self::destroy`]; it is to be kept until then, because the service looks for it by its name,
/// which another tunnel could have by that time.
#[derive(Debug)]
pub(in crate::network) struct DnsDevice {
    service: NetcfgNetwork,
    path: String,
    /// The kernel's device, once DNS is set.
    tun: Option<OwnedFd>,
}

impl DnsDevice {
    /// Makes the service's object of it. Nothing is changed yet.
    ///
    /// # Errors
    /// When there is no service, or it refuses.
    pub(in crate::network) async fn create(service: &NetcfgConfig) -> Result<Self, NetcfgError> {
        let service = NetcfgNetwork::new(service.clone());
        let path = service.create().await?.to_string();
        Ok(Self { service, path, tun: None })
    }

    /// The service's object, for [`Self::destroy`].
    pub(in crate::network) fn path(&self) -> &str {
        &self.path
    }

    /// Sets DNS.
    ///
    /// # Errors
    /// When the service has no resolver to set, or refuses. What it does without is noted.
    pub(in crate::network) async fn set(
        &mut self,
        plan: &DnsPlan,
        notes: &mut Vec<String>,
    ) -> Result<(), NetcfgError> {
        let device = Configuring { caller: &self.service.caller, path: &self.path };
        // It says so here, and nowhere else, that it has no resolver.
        device.set("dns_scope", Variant::from(super::scope_word(plan.scope))).await?;
        device.set_dns(&NetcfgDns::from(plan), notes).await;
        // It insists on one; without routes nothing is done with it.
        device.call("SetRemoteAddress", &(Ipv4Addr::LOCALHOST.to_string(), false)).await?;
        device.set("layer", Variant::from(LAYER)).await?;
        device.set("mtu", Variant::from(MTU)).await?;
        self.tun = Some(device.establish().await?);
        Ok(())
    }

    /// Takes the DNS of such a device back, over a connection of its own: whoever made it may be
    /// gone. `bus`: its address; `None`: the system bus.
    ///
    /// # Errors
    /// When the service refuses. A device or service that is gone is no error.
    pub(in crate::network) async fn destroy(
        bus: Option<&str>,
        path: &str,
    ) -> Result<(), NetcfgError> {
        const METHOD: &str = "Destroy";
        let builder = match bus {
            Some(address) => connection::Builder::address(address),
            None => connection::Builder::system(),
        };
        let connection = builder.build().await.map_err(|error| NetcfgError::new(METHOD, error))?;
        match Caller::new(connection).call_running(path, METHOD, &()).await {
            Err(error) if !error.is_gone() => Err(error),
            _ => Ok(()),
        }
    }
}

impl From<&DnsPlan> for NetcfgDns {
    fn from(plan: &DnsPlan) -> Self {
        let domains = plan.search_domains.iter().chain(&plan.route_domains);
        let plain = plan.servers.iter().filter(|server| matches!(server.port, 0 | 53));
        Self {
            servers: plain.map(|server| server.address.to_string()).collect(),
            domains: domains.map(ToString::to_string).collect(),
            dnssec: plan.dnssec,
            transport: plan.over_tls.then_some(DnsTransport::DoT),
            split: false,
        }
    }
}
