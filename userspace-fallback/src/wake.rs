//! Waking the worker from asynchronous code: a [`std::task::Wake`] that ends a `poll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use crate::sys::EventFd;

/// Wakes one thread that polls its descriptor.
#[derive(Debug)]
pub(crate) struct Alarm {
    descriptor: EventFd,
    /// Set while a wake-up is pending, so that most need no system call.
    rung: AtomicBool,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { descriptor: EventFd::new()?, rung: AtomicBool::new(false) })
    }

    /// Whether it rang since the last call. Look at what it announces after this, not before.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        if !self.rung.load(Ordering::Acquire) {
            return false;
        }
        // In this order: who rings in between finds the flag set and is served by the caller's
        // look; who rings after it makes the descriptor readable again.
        self.descriptor.reset();
        self.rung.swap(false, Ordering::AcqRel);
        true
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.descriptor.signal();
        }
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
