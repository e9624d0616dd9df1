//! Keeping what is in memory there: no core dumps, no looking in from outside, and nothing left
//! behind in memory that is given back.

use std::alloc::{GlobalAlloc, Layout, System};

use nix::sys::resource::{Resource, setrlimit};

use super::PrivilegeError;

/// Forbids core dumps, and to look into this process to all but root. Also makes what `/proc` has of
/// it root's; that does not concern the process itself.
///
/// The kernel takes it back when credentials change, so it is called again after that.
///
/// # Errors
///
/// What could not be forbidden; the process can go on.
pub fn forbid_dumps() -> Result<(), PrivilegeError> {
    // A core pattern with a pipe ignores the limit, and heeds the other.
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    nix::sys::prctl::set_dumpable(false).and(limited).map_err(PrivilegeError::Dumps)
}

/// The system's allocator, but memory is overwritten before it is given back, also when it grows and
/// moves.
///
/// `Secret` and `Zeroizing` do the same for values that are known to be secret. This is for their
/// copies in libraries, in messages and buffers, which drop them without knowing.
#[derive(Clone, Copy, Debug)]
pub struct WipingAllocator;

// SAFETY: every call goes on to `System` with the layout it came with; `realloc` is the trait's own,
// made of the others.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the block has this size, and nobody uses it any more. Unlike a plain write, the
        // call is not optimized away before the block is freed.
        unsafe { libc::explicit_bzero(pointer.cast(), layout.size()) };
        // SAFETY: the caller keeps the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_empty_when_it_is_given_back_and_whole_when_it_grows() {
        let layout = Layout::from_size_align(4096, 8).unwrap();
        // SAFETY: blocks are used within their sizes, and freed once with the layout they have. The
        // allocator gives out the freed block again, so that looking into it is allowed.
        unsafe {
            let first = WipingAllocator.alloc(layout);
            first.write_bytes(0x5a, layout.size());
            let grown = WipingAllocator.realloc(first, layout, 8192);
            assert_eq!(std::slice::from_raw_parts(grown, 4096), [0x5a; 4096]);
            let again = WipingAllocator.alloc(layout);
            if again == first {
                // Behind what the C library writes into free blocks.
                assert_eq!(std::slice::from_raw_parts(again.add(64), 4032), [0; 4032]);
            }
            WipingAllocator.dealloc(again, layout);
            WipingAllocator.dealloc(grown, Layout::from_size_align(8192, 8).unwrap());
        }
    }
}
