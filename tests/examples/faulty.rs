//! `ovpn-client` on a machine that does what none does: a system call says that it has moved a byte
//! more than there was room for. Safe code panics over that, in the middle of a connection.
//!
//! `FAULT="CALL THREAD"`: which call (`read`, `write` or `send`), in a thread whose name begins so;
//! `FAULT_WHEN=PATH`: once, as soon as that file is there.

use std::ffi::{CString, c_int, c_void};
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use ovpn_client::privileges::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

struct Fault {
    call: String,
    thread: String,
    when: CString,
}

static FAULT: OnceLock<Fault> = OnceLock::new();
static DONE: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let fault = std::env::var("FAULT").ok();
    let fault = fault.as_deref().and_then(|fault| fault.split_once(' '));
    let when = std::env::var_os("FAULT_WHEN").and_then(|when| CString::new(when.into_vec()).ok());
    if let (Some((call, thread)), Some(when)) = (fault, when) {
        let _ = FAULT.set(Fault { call: call.to_owned(), thread: thread.to_owned(), when });
    }
    ovpn_client::cli::run()
}

/// What `call` returns instead of `moved` bytes of at most `length`.
fn answer(call: &str, moved: libc::c_long, length: usize) -> isize {
    let moved = moved as isize;
    let Some(fault) = FAULT.get().filter(|fault| fault.call == call && moved > 0) else {
        return moved;
    };
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes of name, and the path ends with NUL.
    let now = unsafe {
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        name.starts_with(fault.thread.as_bytes())
            && libc::access(fault.when.as_ptr(), libc::F_OK) == 0
    };
    if now && !DONE.swap(true, Ordering::Relaxed) { length as isize + 1 } else { moved }
}

/// read(2)
///
/// # Safety
/// As read(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, buffer: *mut c_void, length: usize) -> isize {
    // SAFETY: the caller's.
    answer("read", unsafe { libc::syscall(libc::SYS_read, fd, buffer, length) }, length)
}

/// write(2)
///
/// # Safety
/// As write(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, length: usize) -> isize {
    // SAFETY: the caller's.
    answer("write", unsafe { libc::syscall(libc::SYS_write, fd, buffer, length) }, length)
}

/// send(2)
///
/// # Safety
/// As send(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(
    fd: c_int,
    buffer: *const c_void,
    length: usize,
    flags: c_int,
) -> isize {
    let (nobody, no_length) = (std::ptr::null::<c_void>(), 0);
    // SAFETY: the caller's.
    let moved =
        unsafe { libc::syscall(libc::SYS_sendto, fd, buffer, length, flags, nobody, no_length) };
    answer("send", moved, length)
}
