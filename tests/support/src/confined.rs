//! What a process of ours may do, as the kernel says.

use std::fs;
use std::io::ErrorKind;

use caps::Capability::{CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE};
use caps::{CapSet, Capability};

/// Asserts for every thread of a process that it can gain nothing and do little: no new privileges,
/// a system call filter, of all capabilities only those of `allowed`, and nothing passed on; and of
/// the process, that its memory gets neither into a core dump nor to others of its user.
pub fn assert_confined(pid: i32, allowed: &[Capability]) {
    let allowed = allowed.iter().fold(0, |bits, capability| bits | capability.bitmask());
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
        for name in ["CapEff", "CapPrm"] {
            assert_eq!(set(name) & !allowed, 0, "{name} {:#x}", set(name));
        }
        assert_eq!((set("CapInh"), set("CapAmb")), (0, 0));
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let values: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{core}");
    assert!(!may_look_into(pid), "memory of {pid} is open to its user");
}

/// Real, effective, saved and file system user of a process.
pub fn users(pid: i32) -> String {
    status(pid, "Uid:")
}

/// Asserts that a process is nobody whose files there could be.
pub fn assert_without_files(pid: i32) {
    for name in ["Uid:", "Gid:"] {
        let ids = status(pid, name);
        assert!(ids.split(' ').all(|id| id != "0"), "{name} {ids}");
    }
    assert_eq!(status(pid, "Groups:"), "");
}

fn status(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the kernel lets another process of the same user look into this one. Root may always, by
/// any of three capabilities; a thread that gave them up is a user as any other.
fn may_look_into(pid: i32) -> bool {
    std::thread::spawn(move || {
        for capability in [CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON] {
            caps::drop(None, CapSet::Effective, capability).unwrap();
        }
        match fs::read(format!("/proc/{pid}/environ")) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
            Err(error) => panic!("{error}"),
        }
    })
    .join()
    .unwrap()
}
