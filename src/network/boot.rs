//! Which start of the machine this is.

/// A random name for this boot, see `random(4)`; `unknown` without `/proc`.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}
