//! Session statistics under OpenVPN 3's names.

use std::collections::BTreeMap;

/// Counters of a session. Names as in OpenVPN 3 Core (`BYTES_IN`, `N_RECONNECT`, ...); counters
/// that are zero are left out. `TUN_*_IN` counts packets read from the host (towards the server).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics(pub BTreeMap<&'static str, u64>);
