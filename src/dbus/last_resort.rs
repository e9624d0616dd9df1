//! The end of a process whose session hangs.
//!
//! `ForceShutdown` promises an end. Usually the session winds up within the time it has for that
//! and this never comes to act. Otherwise the network is tidied up without it, and the process
//! ends whether that worked or not. All of it happens on threads of its own: nothing that hangs
//! is asked for help.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tracing::warn;
use zbus::Connection;

use super::{NETCFG, NETCFG_OBJECT};
use crate::backend::Settings;
use crate::network::DirectNetwork;
use crate::session::NetworkMode;

/// How long the session has to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// How long tidying up without it may take.
const CLEAN_UP_LIMIT: Duration = Duration::from_millis(800);

/// Ends the process soon, unless it ends by itself before.
pub(super) fn end_process(settings: Settings) {
    thread::spawn(move || {
        thread::sleep(GRACE);
        let (sender, done) = mpsc::channel();
        thread::spawn(move || {
            clean_up(&settings);
            // Nobody listens any more if this took too long.
            let _ = sender.send(());
        });
        // The process ends either way.
        let _ = done.recv_timeout(CLEAN_UP_LIMIT);
        std::process::exit(0);
    });
}

fn clean_up(settings: &Settings) {
    warn!("The session hangs; tidying up without it");
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        match &settings.network {
            NetworkMode::Direct => {
                if let Err(error) = DirectNetwork::undo_abandoned(&settings.runtime_dir).await {
                    warn!("{error}");
                }
            }
            // netcfg knows its callers by process, so another connection will do.
            NetworkMode::Netcfg(_) => match Connection::system().await {
                Ok(connection) => clean_up_netcfg(&connection).await,
                Err(error) => warn!("D-Bus: {error}"),
            },
        }
    });
}

/// Has netcfg forget this process. It cannot look up a caller that is gone: it has to answer
/// before, or the host route to the server stays.
pub(super) async fn clean_up_netcfg(connection: &Connection) {
    const BUS: &str = "org.freedesktop.DBus";
    const BUS_OBJECT: &str = "/org/freedesktop/DBus";
    let owned = connection.call_method(Some(BUS), BUS_OBJECT, Some(BUS), "NameHasOwner", &NETCFG);
    let running = match owned.await {
        Ok(reply) => reply.body().deserialize::<bool>().unwrap_or(false),
        Err(_) => false,
    };
    if !running {
        return;
    }
    let cleanup = connection.call_method(Some(NETCFG), NETCFG_OBJECT, Some(NETCFG), "Cleanup", &());
    if let Err(error) = cleanup.await {
        warn!("The network configuration service: {error}");
    }
}
