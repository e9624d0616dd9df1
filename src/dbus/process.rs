//! The backend process: forks away from the backend starter, takes its name on the bus, registers,
//! serves, and leaves nothing behind.

use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{ForkResult, fork, getpid, setsid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, MessageStream};

use super::service::{Service, ServiceConfig, bus_peers};
use super::{INTERFACE, LOG, SESSIONS};
use crate::backend::{Settings, StartSession, Threads};
use crate::logging::{LogFile, LogLevel, LogLine};
use crate::network::{NetcfgConfig, NetcfgNetwork};
use crate::posture::DevicePosture;
use crate::privileges::{self, Calls};
use crate::session::NetworkMode;
use crate::stop::Stop;
use crate::{logging, stop};

/// Exit status: usage, where an option is fine but the token is missing.
pub const EXIT_USAGE: u8 = 1;
/// Exit status: `setsid` or `fork` failed.
pub const EXIT_FORK: u8 = 3;

const BUS: &str = "org.freedesktop.DBus";
const BUS_OBJECT: &str = "/org/freedesktop/DBus";
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// The token that the session manager knows this process by.
    pub token: String,
    /// `--log-level`
    pub log_level: u32,
    /// `--log-file`
    pub log_file: Option<PathBuf>,
    /// `--colour`
    pub colour: bool,
    /// `--disable-protect-socket`
    pub disable_protect_socket: bool,
    /// `--runtime-dir`
    pub runtime_dir: Option<PathBuf>,
}

/// The whole life of the process. Returns in the first process at once, in the second at the end.
///
/// Must be called before any thread exists.
///
/// # Errors
///
/// The exit status, after an explanation on standard error.
pub fn run_process(options: ProcessOptions) -> Result<(), u8> {
    let complain = |what: &str, error: &dyn std::fmt::Display| {
        // Without standard error there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "openvpn3-service-client: {what}: {error}");
    };
    let file = match options.log_file.as_deref().map(LogFile::open).transpose() {
        Ok(file) => file,
        Err(error) => {
            complain("log file", &error);
            return Err(EXIT_USAGE);
        }
    };
    let before = getpid();
    setsid().map_err(|error| {
        complain("setsid", &error);
        EXIT_FORK
    })?;
    // SAFETY: this is the only thread (documented requirement), so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            let _ = writeln!(
                std::io::stdout(),
                "Re-initiated process from pid {before} to backend process pid {child}"
            );
            return Ok(());
        }
        Ok(ForkResult::Child) => {}
        Err(error) => {
            complain("fork", &error);
            return Err(EXIT_FORK);
        }
    }

    let log_level = LogLevel::new(options.log_level);
    let direct = privileges::can_configure_network();
    // Threads come into being with the runtime and inherit what is left.
    let restricted = privileges::restrict(if direct { Calls::Programs } else { Calls::Own });
    let served =
        file.map(|file| file.start()).transpose().map_err(|error| error.to_string()).and_then(
            |file| {
                let lines = logging::init(&log_level, file.clone(), options.colour)
                    .map_err(|error| error.to_string())?;
                let threads = Threads::new().map_err(|error| error.to_string())?;
                if let Err(error) = restricted {
                    warn!("{error}");
                }
                let start = threads.starter();
                let served = threads.run(serve(options, direct, start, log_level, lines));
                if let Some(file) = file {
                    file.flush();
                }
                served.map_err(|error| error.to_string())
            },
        );
    // As upstream's: whoever started this process does not look at it any more.
    if let Err(error) = served {
        complain("D-Bus", &error);
    }
    Ok(())
}

async fn serve(
    options: ProcessOptions,
    direct: bool,
    start: StartSession,
    log_level: LogLevel,
    lines: mpsc::Receiver<LogLine>,
) -> zbus::Result<()> {
    let messages = zbus::connection::Builder::system().build_message_stream().await?;
    let connection = Connection::from(&messages);
    let (name, manager) = introduce(&connection, &messages).await?;

    let netcfg = NetcfgConfig {
        connection: connection.clone(),
        token: options.token.clone(),
        without_socket: options.disable_protect_socket,
    };
    let network =
        if direct { NetworkMode::DirectWith(netcfg) } else { NetworkMode::Netcfg(netcfg) };
    let settings = Settings {
        network: network.clone(),
        runtime_dir: options.runtime_dir.unwrap_or_else(default_runtime_dir),
        gui_version: concat!("ovpn-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        sso: "openurl,webauth,crtext".to_owned(),
        posture: Some(DevicePosture::new(connection.clone())),
    };
    let config = ServiceConfig {
        settings,
        start,
        own: None,
        token: options.token,
        log_level,
        lines,
        stop: stop_reasons()?,
    };
    let service = Service::new(connection.clone(), bus_peers(manager), config);
    service.request_registration(&name).await?;
    info!("Backend process registered as {name}");

    if let NetworkMode::Netcfg(netcfg) = &network {
        warm_up(netcfg.clone());
    }

    let served = service.run(messages).await;
    if connection.is_closed() {
        return served;
    }
    let farewell = async {
        if let NetworkMode::Netcfg(netcfg) = network
            && let Err(error) = NetcfgNetwork::new(netcfg).cleanup().await
        {
            warn!("{error}");
        }
        connection.release_name(name).await
    };
    // The process ends either way.
    let gone = tokio::time::timeout(FAREWELL_LIMIT, farewell).await;
    served.and(gone.map_or(Ok(()), |gone| gone.map(drop)))
}

/// Where the undo journal goes: the first place that this user may write to. The service user
/// cannot make a directory in /run; a package makes it, or else the state directory that the
/// services of OpenVPN 3 Linux share has to do. It is not the one of `ovpn-client`: what root
/// undoes must not be written by anybody else.
pub const RUNTIME_DIRS: [&str; 2] = ["/run/ovpn-client-backend", "/var/lib/openvpn3/ovpn-client"];

fn default_runtime_dir() -> PathBuf {
    let writable = |place: &&&str| {
        let made = std::fs::DirBuilder::new().mode(0o700).create(place);
        made.is_ok() || nix::unistd::access(**place, nix::unistd::AccessFlags::W_OK).is_ok()
    };
    PathBuf::from(RUNTIME_DIRS.iter().find(writable).unwrap_or(&RUNTIME_DIRS[0]))
}

/// Takes the name that goes with this process' PID and finds the session manager.
async fn introduce(
    connection: &Connection,
    _reading: &MessageStream,
) -> zbus::Result<(String, OwnedUniqueName)> {
    let name = format!("{INTERFACE}.be{}", std::process::id());
    for watched in [SESSIONS, LOG] {
        let rule = format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',\
             arg0='{watched}'"
        );
        connection
            .call_method(Some(BUS), BUS_OBJECT, Some(BUS), "AddMatch", &rule.as_str())
            .await?;
    }
    connection.request_name(name.as_str()).await?;
    let owner =
        connection.call_method(Some(BUS), BUS_OBJECT, Some(BUS), "GetNameOwner", &SESSIONS).await?;
    let manager = owner.body().deserialize::<OwnedUniqueName>()?;
    Ok((name, manager))
}

/// Has the bus start netcfg while the user still types: connecting does not wait for it then.
fn warm_up(netcfg: NetcfgConfig) {
    tokio::spawn(async move {
        // Connecting finds out again, and then it is the reason why it fails.
        if let Err(error) = netcfg.start_service().await {
            warn!("{error}");
        }
    });
}

/// A signal that would end the process, and a panic in it, end the session in order.
fn stop_reasons() -> std::io::Result<mpsc::Receiver<Stop>> {
    // They mean nothing here, and would end it.
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        drop(signal(kind)?);
    }
    stop::reasons()
}
