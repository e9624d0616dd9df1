//! Closing the system calls that nothing here, and no program run from here, ever makes.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::PrivilegeError;

/// Forbids to gain privileges, and fails what could only be an attacker's call with EPERM; needs no
/// privileges. For the calling thread and those it starts, and the programs they run.
///
/// # Errors
///
/// A kernel without seccomp; nothing may be closed then.
pub(super) fn close() -> Result<(), PrivilegeError> {
    nix::sys::prctl::set_no_new_privs()?;
    let fail = |error: seccompiler::Error| PrivilegeError::Filter(error.to_string());
    for program in filters().map_err(|error| fail(error.into()))? {
        seccompiler::apply_filter(&program).map_err(fail)?;
    }
    Ok(())
}

/// They list what is forbidden. A list of what is allowed would have to hold for the programs that
/// run under it (resolvconf is a shell script of whatever distribution), and for the next C library.
fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |rules, errno: i32| -> Result<BpfProgram, BackendError> {
        let refuse = SeccompAction::Errno(errno.cast_unsigned());
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()
    };
    let mut forbidden: BTreeMap<_, _> =
        FORBIDDEN.iter().chain(FORBIDDEN_HERE).map(|number| (*number, Vec::new())).collect();
    forbidden
        .insert(libc::SYS_clone, any_of(0, NAMESPACES.map(SeccompCmpOp::MaskedEq), NAMESPACES)?);
    forbidden.insert(libc::SYS_ioctl, any_of(1, TYPING.map(|_| SeccompCmpOp::Eq), TYPING)?);
    forbidden.insert(libc::SYS_socket, vec![other_families()?]);
    let mut forbidden = filter(forbidden, libc::EPERM)?;
    if architecture == TargetArch::x86_64 {
        forbidden.splice(0..0, x32());
    }
    // What it makes is in memory, where a filter cannot look. The C library takes `clone` instead,
    // but only if the kernel seems not to know this one.
    let unknown = filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    Ok([forbidden, unknown])
}

/// True for a call whose argument compares with one of the values.
fn any_of<const N: usize>(
    argument: u8,
    comparisons: [SeccompCmpOp; N],
    values: [u64; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |(comparison, value)| {
        let half = SeccompCmpArgLen::Dword;
        SeccompRule::new(vec![SeccompCondition::new(argument, half, comparison, value)?])
    };
    comparisons.into_iter().zip(values).map(rule).collect()
}

/// Sockets of families that no tunnel, resolver or bus has.
fn other_families() -> Result<SeccompRule, BackendError> {
    let different = |family: i32| {
        let family = u64::from(family.cast_unsigned());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    };
    let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    SeccompRule::new(known.into_iter().map(different).collect::<Result<_, _>>()?)
}

/// The second set of numbers that an x86-64 kernel may have for the same calls: all fail.
fn x32() -> [seccompiler::sock_filter; 3] {
    const NUMBERS: u32 = 0x4000_0000;
    // Kernel, uapi `linux/bpf_common.h` and `linux/seccomp.h`: load `nr`; next if at least; return.
    let instruction = |code, jf, k| seccompiler::sock_filter { code, jt: 0, jf, k };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    [instruction(0x20, 0, 0), instruction(0x35, 1, NUMBERS), instruction(0x06, 0, refuse)]
}

/// New namespaces, in which an attacker has every capability, as flags of `clone`.
const NAMESPACES: [u64; 7] = [
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWNET as u64,
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWUTS as u64,
];

/// Typing into the terminal of whoever started this program, as requests of `ioctl`.
const TYPING: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

const FORBIDDEN: &[c_long] = &[
    // Other processes' memory and fate.
    libc::SYS_ptrace,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // The kernel itself, and parts of it that are known for their holes.
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_perf_event_open,
    libc::SYS_reboot,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    // File systems and namespaces.
    libc::SYS_chroot,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Time, identity, keys, terminals.
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_vhangup,
];

/// Linux 6.15; the same number on every architecture.
const OPEN_TREE_ATTR: c_long = 467;

/// What only this architecture has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[c_long] = &[
    libc::SYS__sysctl,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[c_long] = &[];

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::errno::Errno;

    use super::*;

    /// On a thread of its own, which alone has the filter.
    fn closed<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                close().unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// What the kernel says to a call whose every argument is the same.
    fn call(number: c_long, argument: c_long) -> Errno {
        let a = argument;
        // SAFETY: no address is valid, and no such descriptor is open; whatever a call does by
        // numbers alone, it does not do with these.
        let result = unsafe { libc::syscall(number, a, a, a, a, a, a) };
        if result == -1 { Errno::last() } else { Errno::UnknownErrno }
    }

    #[test]
    fn what_is_forbidden_fails() {
        let numbers = FORBIDDEN.iter().chain(FORBIDDEN_HERE);
        let other = closed(|| {
            numbers.filter(|number| call(**number, -1) != Errno::EPERM).collect::<Vec<_>>()
        });
        assert_eq!(other, [&0; 0], "numbers of calls");
    }

    #[test]
    fn no_way_leads_to_a_new_namespace() {
        closed(|| {
            for flag in NAMESPACES {
                let flags = c_long::try_from(flag).unwrap() | c_long::from(libc::SIGCHLD);
                // SAFETY: as `fork`; the child ends at once.
                let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
                if child == 0 {
                    // SAFETY: ends the process.
                    unsafe { libc::_exit(0) };
                }
                assert_eq!((child, Errno::last()), (-1, Errno::EPERM), "{flags:#x}");
            }
            assert_eq!(call(libc::SYS_unshare, libc::CLONE_NEWUSER.into()), Errno::EPERM);
            assert_eq!(call(libc::SYS_clone3, 0), Errno::ENOSYS);
        });
    }

    #[test]
    fn arguments_decide_about_sockets_and_terminals() {
        closed(|| {
            for family in [libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK, libc::AF_KEY] {
                // SAFETY: takes numbers only.
                let socket = unsafe { libc::socket(family, libc::SOCK_RAW, 0) };
                assert_eq!((socket, Errno::last()), (-1, Errno::EPERM), "{family}");
            }
            for request in [libc::TIOCSTI, libc::TIOCLINUX] {
                // SAFETY: no such descriptor is open.
                let result = unsafe { libc::ioctl(-1, request, 0) };
                assert_eq!((result, Errno::last()), (-1, Errno::EPERM), "{request:#x}");
            }
            // SAFETY: no such descriptor is open.
            let result = unsafe { libc::ioctl(-1, libc::TIOCGWINSZ, 0) };
            assert_eq!((result, Errno::last()), (-1, Errno::EBADF));
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn other_numbers_of_the_same_calls_fail_as_well() {
        let x32 = |number| closed(|| call(0x4000_0000 + number, -1));
        assert_eq!(x32(libc::SYS_unshare), Errno::EPERM);
        // `ptrace` and `kexec_load` have numbers of their own there.
        assert_eq!((x32(521), x32(528)), (Errno::EPERM, Errno::EPERM));
    }

    #[test]
    fn what_a_session_does_still_works() {
        closed(|| {
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            std::os::unix::net::UnixStream::pair().unwrap();
            // SAFETY: takes numbers only.
            let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) };
            assert_ne!(socket, -1, "{}", Errno::last());
            assert!(std::net::ToSocketAddrs::to_socket_addrs("localhost:1").unwrap().count() > 0);
            std::thread::spawn(|| ()).join().unwrap();
            // What shell scripts of resolvconf programs are made of.
            let script = "set -e; d=$(mktemp -d); \
                          echo x | sed s/x/y/ >$d/a; ln -s a $d/b; mv $d/b $d/c; chmod 600 $d/a; \
                          (cat $d/c) | grep -q y; rm -rf $d";
            assert!(Command::new("/bin/sh").args(["-c", script]).status().unwrap().success());
        });
    }
}
