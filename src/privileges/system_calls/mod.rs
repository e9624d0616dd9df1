//! Closing the system calls that are not needed.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod list;

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use self::list::{OWN, OWN_HERE, PROGRAMS, PROGRAMS_HERE};
use super::PrivilegeError;

/// Nobody has looked what the others need.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OWN: &[c_long] = &[];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use self::{OWN as OWN_HERE, OWN as PROGRAMS, OWN as PROGRAMS_HERE};

/// Which system calls a process will make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Calls {
    /// Its own: it runs no programs and changes no files.
    Own,
    /// Those of programs, too.
    Programs,
}

/// Forbids to gain privileges, and to make other system calls; needs no privileges. For the calling
/// thread and those it starts, and the programs they run.
///
/// A call that is in no list fails with ENOSYS, as on a kernel that does not know it: libraries make
/// another then. The kernel's log names it (`audit: type=1326 ... syscall=NUMBER`). Calls that the
/// arguments decide about fail with EPERM.
///
/// # Errors
///
/// A kernel without seccomp, a processor that there is no list for; nothing may be closed then.
pub(super) fn close(calls: Calls) -> Result<(), PrivilegeError> {
    nix::sys::prctl::set_no_new_privs()?;
    let architecture = std::env::consts::ARCH;
    if OWN.is_empty() {
        return Err(PrivilegeError::Filter(format!("there is no list for {architecture}")));
    }
    let filters = Filters::new(calls).map_err(|error| PrivilegeError::Filter(error.to_string()))?;
    // Of two filters that both refuse the last one counts.
    install(&filters.unlisted, libc::SECCOMP_FILTER_FLAG_LOG)?;
    install(&filters.arguments, 0)?;
    install(&filters.clone3, 0)
}

struct Filters {
    unlisted: BpfProgram,
    arguments: BpfProgram,
    clone3: BpfProgram,
}

impl Filters {
    fn new(calls: Calls) -> Result<Self, BackendError> {
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        let refuse = |errno: i32| SeccompAction::Errno(errno.cast_unsigned());
        let allow = SeccompAction::Allow;
        let listed = allowed(calls).map(|number| (number, Vec::new())).collect();
        let namespaces = any_of(0, NAMESPACES.map(SeccompCmpOp::MaskedEq), NAMESPACES)?;
        let arguments = BTreeMap::from([
            (libc::SYS_clone, namespaces),
            (libc::SYS_ioctl, any_of(1, TYPING.map(|_| SeccompCmpOp::Eq), TYPING)?),
            (libc::SYS_socket, vec![other_families()?]),
        ]);
        // What it makes is in memory, where a filter cannot look. The C library takes `clone` instead,
        // but only if the kernel seems not to know this one; and it tries that first every time.
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let filter = |rules, otherwise, then| -> Result<BpfProgram, BackendError> {
            SeccompFilter::new(rules, otherwise, then, architecture)?.try_into()
        };
        Ok(Self {
            unlisted: filter(listed, refuse(libc::ENOSYS), allow.clone())?,
            arguments: filter(arguments, allow.clone(), refuse(libc::EPERM))?,
            clone3: filter(clone3, allow, refuse(libc::ENOSYS))?,
        })
    }
}

fn allowed(calls: Calls) -> impl Iterator<Item = c_long> {
    let own = OWN.iter().chain(OWN_HERE);
    let programs = PROGRAMS.iter().chain(PROGRAMS_HERE).filter(move |_| calls == Calls::Programs);
    own.chain(programs).copied()
}

fn install(filter: &BpfProgram, flags: libc::c_ulong) -> Result<(), PrivilegeError> {
    let fail = |reason: String| PrivilegeError::Filter(reason);
    let len = filter.len().try_into().map_err(|_| fail("it is too long".to_owned()))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads the filter, which has this length and the layout that the kernel
    // defines, and keeps a copy.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    nix::errno::Errno::result(result).map(drop).map_err(|error| fail(error.to_string()))
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::errno::Errno;

    use super::*;

    /// On a thread of its own, which alone has the filters.
    fn closed<T: Send>(calls: Calls, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                close(calls).unwrap();
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

    /// What nothing here needs, and an attacker would like to have; the same on every architecture.
    const REFUSED: &[c_long] = &[
        libc::SYS_ptrace,
        libc::SYS_process_madvise,
        libc::SYS_process_mrelease,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_migrate_pages,
        libc::SYS_move_pages,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
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
        libc::SYS_pivot_root,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_setns,
        libc::SYS_umount2,
        libc::SYS_unshare,
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

    /// `uretprobe` and `uprobe` of x86-64: made by code that the kernel itself puts into a process, and
    /// seen by no filter. From anywhere else they end the process.
    const OF_THE_KERNEL: [c_long; 2] = [335, 336];

    #[test]
    fn what_is_in_no_list_does_not_exist() {
        for calls in [Calls::Own, Calls::Programs] {
            let allowed: Vec<c_long> = allowed(calls).collect();
            let refused: Vec<_> =
                REFUSED.iter().filter(|number| allowed.contains(number)).collect();
            assert_eq!(refused, [&0; 0], "numbers of calls, {calls:?}");
            let others = (0..1024).filter(|n| !allowed.contains(n) && !OF_THE_KERNEL.contains(n));
            let there: Vec<_> = closed(calls, || {
                others.filter(|number| call(*number, -1) != Errno::ENOSYS).collect()
            });
            assert_eq!(there, [0; 0], "numbers of calls, {calls:?}");
        }
    }

    #[test]
    fn the_process_itself_runs_no_programs_and_changes_no_files() {
        closed(Calls::Own, || {
            let error = Command::new("/bin/true").status().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
            let error = std::fs::create_dir("/proc/self/directory").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
        });
    }

    #[test]
    fn no_way_leads_to_a_new_namespace() {
        closed(Calls::Programs, || {
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
            assert_eq!(call(libc::SYS_unshare, libc::CLONE_NEWUSER.into()), Errno::ENOSYS);
            assert_eq!(call(libc::SYS_clone3, 0), Errno::ENOSYS);
        });
    }

    #[test]
    fn arguments_decide_about_sockets_and_terminals() {
        closed(Calls::Own, || {
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
    fn other_numbers_of_the_same_calls_do_not_exist() {
        let x32 = |number| closed(Calls::Programs, || call(0x4000_0000 + number, -1));
        assert_eq!(x32(libc::SYS_getpid), Errno::ENOSYS);
        // `ptrace` and `kexec_load` have numbers of their own there.
        assert_eq!((x32(521), x32(528)), (Errno::ENOSYS, Errno::ENOSYS));
    }

    #[test]
    fn what_a_session_does_still_works() {
        closed(Calls::Own, || {
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            std::os::unix::net::UnixStream::pair().unwrap();
            // SAFETY: takes numbers only.
            let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) };
            assert_ne!(socket, -1, "{}", Errno::last());
            assert!(std::net::ToSocketAddrs::to_socket_addrs("localhost:1").unwrap().count() > 0);
            std::thread::spawn(|| ()).join().unwrap();
            std::fs::read_to_string("/proc/self/status").unwrap();
        });
    }

    #[test]
    fn what_programs_do_still_works() {
        closed(Calls::Programs, || {
            // What shell scripts of resolvconf programs are made of.
            let script = "set -e; d=$(mktemp -d); cd $d; \
                          echo x | sed s/x/y/ >a; ln -s a b; mv b c; chmod 600 a; cp -a a d; \
                          (cat c) | grep -q y; sort a | uniq >e; touch -d 2000-01-01 e; ls -l >/dev/null; \
                          sed -i s/y/z/ a; flock e true; nice true; timeout 5 true; sleep 0.01 & wait; \
                          trap : EXIT; kill -0 $$; cd /; rm -rf $d";
            assert!(Command::new("/bin/sh").args(["-c", script]).status().unwrap().success());
            // Of older C libraries, on every architecture here.
            for number in [libc::SYS_getrlimit, libc::SYS_setrlimit] {
                assert_ne!(call(number, -1), Errno::ENOSYS, "{number}");
            }
        });
    }
}
