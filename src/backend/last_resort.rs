//! The end of a session that cannot wind up by itself: it hangs, or has panicked.
//!
//! Its changes to the host are undone without it. That happens on a thread of its own: nothing
//! that hangs is asked for help.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tracing::warn;
use zbus::Connection;

use crate::ending;
use crate::network::{DirectNetwork, NetcfgConfig, NetcfgNetwork};
use crate::session::NetworkMode;

/// The same where the service is asked to do it: it does, also after this process has gone.
const NETCFG_LIMIT: Duration = Duration::from_secs(1);

/// How to find what sessions of this process have changed.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    /// Who has changed it.
    pub(crate) network: NetworkMode,
    /// Directory of the undo journal.
    pub(crate) runtime_dir: PathBuf,
}

impl Traces {
    /// Whether it was the service.
    pub(super) const fn are_of_netcfg(&self) -> bool {
        matches!(self.network, NetworkMode::Netcfg(_))
    }
}

/// Undoes it all, and returns when that is done or takes too long. Blocks.
pub(super) fn undo(traces: Traces) {
    let limit = if traces.are_of_netcfg() { NETCFG_LIMIT } else { ending::LAST_RESORT };
    let (sender, done) = mpsc::channel();
    thread::spawn(move || {
        clean_up(traces);
        // Nobody listens any more if this took too long.
        let _ = sender.send(());
    });
    // Too late is an end, too.
    let _ = done.recv_timeout(limit);
}

/// Ends the process soon, unless it ends by itself before.
pub(crate) fn end_process(traces: Traces) {
    thread::spawn(move || {
        thread::sleep(ending::GRACE);
        warn!("The session hangs; tidying up without it");
        undo(traces);
        std::process::exit(0);
    });
}

fn clean_up(traces: Traces) {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        match traces.network {
            NetworkMode::Direct | NetworkMode::DirectWith(_) => {
                match DirectNetwork::undo_abandoned(&traces.runtime_dir).await {
                    Ok(undone) => undone.iter().for_each(|process| warn!("{process}")),
                    Err(error) => warn!("{error}"),
                }
            }
            // netcfg knows its callers by process, so another connection will do.
            NetworkMode::Netcfg(netcfg) => match Connection::system().await {
                Ok(connection) => {
                    let mut network = NetcfgNetwork::new(NetcfgConfig { connection, ..netcfg });
                    if let Err(error) = network.cleanup().await {
                        warn!("{error}");
                    }
                }
                Err(error) => warn!("D-Bus: {error}"),
            },
        }
    });
}
