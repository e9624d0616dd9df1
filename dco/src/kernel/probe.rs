//! What the running kernel offers to this process, and why not.

use std::fs;

use super::family::{Api, Family, Features};
use crate::error::Error;

/// What the machine offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The kernel release (`uname -r`).
    pub kernel: String,
    /// One entry per interface, the preferred one first.
    pub apis: Vec<ApiReport>,
}

/// One kernel interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiReport {
    /// Which.
    pub api: Api,
    /// Whether it can be used.
    pub status: Status,
    /// The module is loaded, or part of the kernel.
    pub loaded: bool,
    /// Version of the generic netlink family, where there is one.
    pub family_version: Option<u32>,
    /// The module's own version, where it has one: builds outside the kernel tree.
    pub version: Option<String>,
}

/// Whether an interface can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// Now.
    Ready(Features),
    /// The module is there; this process lacks `CAP_NET_ADMIN` in the initial user namespace.
    NotPermitted,
    /// No module offers the family, and the kernel could not load one.
    NoModule,
    /// The kernel's answer was unexpected.
    Failed(String),
}

impl Report {
    /// The interface to use.
    pub fn ready(&self) -> Option<Api> {
        self.apis.iter().find(|r| matches!(r.status, Status::Ready(_))).map(|r| r.api)
    }
}

/// Finds out what the kernel offers. Asking makes the kernel load the modules it has, which may
/// take a moment: not for an asynchronous task's thread. Needs no privilege, changes nothing else.
pub fn probe() -> Report {
    let kernel = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Report { kernel, apis: Api::ALL.map(probe_api).into() }
}

fn probe_api(api: Api) -> ApiReport {
    let family = Family::resolve(api);
    let family_version = family.as_ref().ok().map(|family| family.version);
    let status = match family.and_then(|family| look(&family)) {
        Ok(status) => status,
        Err(Error::NoSuchFamily { .. }) => Status::NoModule,
        Err(error) => Status::Failed(error.to_string()),
    };
    // Only now: the look-up may have loaded it.
    let module = format!("/sys/module/{}", api.module());
    let version = fs::read_to_string(format!("{module}/version")).ok();
    ApiReport {
        api,
        status,
        loaded: fs::exists(&module).unwrap_or(false),
        family_version,
        version: version.map(|version| version.trim().to_owned()),
    }
}

fn look(family: &Family) -> Result<Status, Error> {
    Ok(if family.permitted()? { Status::Ready(family.features()?) } else { Status::NotPermitted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preference() {
        let api = |api, status| ApiReport {
            api,
            status,
            loaded: true,
            family_version: None,
            version: None,
        };
        let report = |first, second| Report {
            kernel: String::new(),
            apis: vec![api(Api::Ovpn, first), api(Api::OvpnDcoV2, second)],
        };
        let ready = || Status::Ready(Features::default());
        assert_eq!(report(ready(), ready()).ready(), Some(Api::Ovpn));
        assert_eq!(report(Status::NoModule, ready()).ready(), Some(Api::OvpnDcoV2));
        assert_eq!(report(Status::NotPermitted, Status::NoModule).ready(), None);
    }

    #[test]
    fn this_machine() {
        let report = probe();
        assert!(!report.kernel.is_empty());
        assert_eq!(report.apis.len(), 2);
        assert!(
            !report.apis.iter().any(|api| matches!(api.status, Status::Failed(_))),
            "{report:?}"
        );
    }
}
