//! The namespace itself: a bind mount under `/run/netns`, entered by a thread or a child process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const DIRECTORY: &str = "/run/netns";
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with loopback up and IPv6 duplicate address detection off. Removed on drop,
/// unless it was told to [stay](NetNs::keep).
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
    kept: bool,
}

impl NetNs {
    /// A fresh namespace `<prefix>-<pid>-<n>`. `prefix` keeps parallel test programs apart.
    pub fn new(prefix: &str) -> Self {
        remove_stale(prefix);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{prefix}-{}-{number}", std::process::id()))
    }

    /// A fresh namespace of this name, which no other may have.
    pub fn named(name: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "only root can make network namespaces: run this as root"
        );
        fs::create_dir_all(DIRECTORY).expect("create /run/netns");
        let name = name.to_owned();
        let path = Path::new(DIRECTORY).join(&name);
        File::create_new(&path).unwrap_or_else(|e| panic!("namespace {name}: {e}"));
        // A thread of its own: the namespace of the calling thread must not change.
        let mount_path = path.clone();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET)");
            mount(
                Some("/proc/thread-self/ns/net"),
                &mount_path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .expect("bind mount of the network namespace");
        })
        .join()
        .expect("thread that makes the namespace");
        let file = File::open(&path).expect("open the namespace");
        let ns = Self { name, file, kept: false };
        // Without duplicate address detection new IPv6 addresses work at once.
        ns.sysctl("net/ipv6/conf/all/accept_dad", "0");
        ns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        ns.link_up("lo");
        ns
    }

    /// Leaves it there when this value and this process are gone. [`remove`] takes it away.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file under `/run/netns`.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// The namespace as a descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs a closure on a new thread inside the namespace and gives its result; a panic goes on in
    /// the caller.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("setns");
                body()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a future on a current-thread tokio runtime inside the namespace. What it spawns ends
    /// with it.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, body: impl FnOnce() -> F + Send) -> T {
        self.run(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("tokio runtime")
                .block_on(body())
        })
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.file.as_raw_fd();
        let enter = move || {
            // SAFETY: the descriptor belongs to `self.file`; a child forked while the namespace
            // object lives has it open, and after that setns only fails.
            let namespace = unsafe { BorrowedFd::borrow_raw(namespace) };
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
        };
        // SAFETY: the closure only makes one system call, which is async-signal-safe.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a shell command inside the namespace, panics with its output unless it succeeds, and
    /// gives its standard output.
    pub fn sh(&self, line: &str) -> String {
        let output = self.command("sh").args(["-c", line]).output().expect("run sh");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "in {}: `{line}`: {}\n{stdout}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        stdout
    }

    /// Whether a shell command succeeds inside the namespace.
    pub fn succeeds(&self, line: &str) -> bool {
        self.command("sh").args(["-c", line]).output().expect("run sh").status.success()
    }

    /// Writes a value below `/proc/sys`, e.g. `net/ipv4/ip_forward`.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| {
            fs::write(Path::new("/proc/sys").join(path), value)
                .unwrap_or_else(|e| panic!("sysctl {path}={value}: {e}"));
        });
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if !self.kept {
            remove_at(&self.path());
        }
    }
}

/// Removes a namespace by its name, if there is one. It lives on as long as a process is in it.
pub fn remove(name: &str) {
    remove_at(&Path::new(DIRECTORY).join(name));
}

fn remove_at(path: &Path) {
    // Not mounted (a half-made namespace) or already gone: nothing left to do either way.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Removes namespaces of killed test processes.
fn remove_stale(prefix: &str) {
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix(prefix)?.strip_prefix('-')?.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove_at(&entry.path());
        }
    }
}
