//! How long an end may take, part by part. Whoever asks for it is answered soon; the process itself
//! stays until everything is undone, or until what undoes it has had its time twice.
//!
//! ```text
//! asked to end
//! |-- GOODBYE --|-- routes, addresses, DNS (DNS), device ... --|     the session, in all SESSION
//! |------------- ANSWER -------|                                     then they are told it is over
//! |---------------- LAST_WORD ------|                                the front end has heard it
//!                                   |------- SESSION -------|        the process waits for the session
//!                                                           |------- LAST_RESORT -------|
//!                                                  what is still noted is undone without the session
//! ```
//!
//! Usually all of it takes a fraction of a second.

use std::time::Duration;

/// The server is told, and may acknowledge it.
pub(crate) const GOODBYE: Duration = Duration::from_millis(300);

/// Taking DNS back: programs that react to the change (subscribers of `resolvconf`) have this long.
pub(crate) const DNS: Duration = Duration::from_secs(10);

/// All that a session has to do. The kernel takes well below a second for many thousand routes.
pub(crate) const SESSION: Duration = Duration::from_secs(12);

/// `Disconnect` is answered although the session is still at it. Session managers wait 5 s.
pub(crate) const ANSWER: Duration = Duration::from_secs(4);

/// The front end stops waiting for the backend's last word.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(5);

/// `ForceShutdown` gives the session this long before it is left behind.
#[cfg(feature = "dbus")]
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// What a session that hangs has left is undone without it.
pub(crate) const LAST_RESORT: Duration = Duration::from_secs(12);

/// A runtime's threads that are busy when it ends.
pub(crate) const THREADS: Duration = Duration::from_millis(500);

/// The program of `--on-event` that has the last event.
#[cfg(feature = "cli")]
pub(crate) const HOOK: Duration = Duration::from_secs(10);

/// Output that waits to be read when everything else is over.
pub(crate) const OUTPUT: Duration = Duration::from_secs(1);

// The parts fit into the whole.
const _: () = {
    assert!(GOODBYE.as_millis() + DNS.as_millis() < SESSION.as_millis());
    assert!(DNS.as_millis() < LAST_RESORT.as_millis());
    assert!(ANSWER.as_millis() < LAST_WORD.as_millis());
    // systemd kills a service that takes 90 s to stop.
    let all = LAST_WORD.as_millis()
        + SESSION.as_millis()
        + THREADS.as_millis()
        + LAST_RESORT.as_millis()
        + OUTPUT.as_millis();
    // The program of `--on-event` has 10 s more.
    assert!(all < 60_000);
};
