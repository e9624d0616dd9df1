//! Network configuration as a pure plan that is diffed, journalled, applied and undone.

/// Where the netcfg service's device for this session comes from.
#[derive(Clone, Debug)]
pub struct NetcfgConfig {
    /// The bus the service is on.
    pub connection: zbus::Connection,
    /// The session token: netcfg's working name for the device.
    pub token: String,
    /// Call `ProtectSocket` without the socket (`--disable-protect-socket`).
    pub without_socket: bool,
}
