//! The program `resolvconf`: Debian's, or openresolv.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, Command};

use super::error::{DnsError, ProgramFailure, ResolvconfError};
use super::file::Present;
use super::{DnsUndo, PlainPlan};

/// For adding a record, with all that starts: a subscriber that hangs must not hold a connection up.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most that is kept of what it complains of.
const MAX_COMPLAINT: usize = 1000;

/// The program, if this host's `resolv.conf` is made by it. `Err`: why not.
pub(super) fn find(directories: &[PathBuf], present: &Present) -> Result<PathBuf, ResolvconfError> {
    let program = program(directories).ok_or(ResolvconfError::NotInstalled)?;
    // systemd's own program of this name only talks to systemd-resolved, which was tried before.
    let real = fs::canonicalize(&program).unwrap_or_else(|_| program.clone());
    if real.file_name().is_some_and(|name| name == "resolvectl") {
        return Err(ResolvconfError::FrontEnd);
    }
    if !present.is_of_resolvconf() {
        return Err(ResolvconfError::NotTheManager);
    }
    if !Uid::effective().is_root() {
        return Err(ResolvconfError::NotRoot);
    }
    Ok(program)
}

fn program(directories: &[PathBuf]) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join("resolvconf")).find(|path| path.is_file())
}

/// What to tell it.
#[derive(Clone, Debug)]
pub(super) struct Input {
    program: PathBuf,
    record: String,
    lines: String,
}

impl Input {
    pub(super) fn new(program: PathBuf, plan: &PlainPlan, interface: &str) -> Self {
        // Debian's sorts records by name, and `tun*` comes before the host's interfaces.
        Self { program, record: format!("tun.{interface}.ovpn-client"), lines: plan.lines() }
    }

    pub(super) fn undo(&self) -> DnsUndo {
        DnsUndo::Resolvconf { record: self.record.clone() }
    }

    /// Adds the record: first (`-m 0`) and exclusive (`-x`) where the program knows such things;
    /// Debian's ignores words after the name.
    pub(super) async fn run(&self) -> Result<(), DnsError> {
        let arguments = ["-a", &self.record, "-m", "0", "-x"];
        tokio::time::timeout(TIMEOUT, call(&self.program, &arguments, &self.lines, true))
            .await
            .unwrap_or_else(|_| Err(failed(&self.program, &arguments, ProgramFailure::Hangs)))
    }
}

/// Removes a record. One that is not there is no error.
pub(super) async fn remove(directories: &[PathBuf], record: &str) -> Result<(), DnsError> {
    // Uninstalled meanwhile, it has taken its records along.
    let Some(program) = program(directories) else { return Ok(()) };
    // `-f` for openresolv; Debian's never minds.
    // Given up on, it still comes to its end: killed, it would leave the change half taken back.
    call(&program, &["-d", record, "-f"], "", false).await
}

fn failed(program: &Path, arguments: &[&str], failure: ProgramFailure) -> DnsError {
    DnsError::Program { call: format!("{} {}", program.display(), arguments.join(" ")), failure }
}

/// `kill`: when it is given up on.
async fn call(program: &Path, arguments: &[&str], input: &str, kill: bool) -> Result<(), DnsError> {
    let mut said = Vec::new();
    let run = async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(kill)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may end without reading, and then says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let Some(stderr) = child.stderr.take() else { return child.wait().await };
        // A service that it has started may keep the pipe: the end of the program counts.
        tokio::select! {
            biased;
            () = read(stderr, &mut said) => child.wait().await,
            status = child.wait() => status,
        }
    };
    let status = run.await.map_err(|error| failed(program, arguments, error.into()))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(failed(program, arguments, ProgramFailure::Failed { status, said }))
}

/// Reads to the end, and keeps the beginning.
async fn read(mut pipe: ChildStderr, kept: &mut Vec<u8>) {
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let room = MAX_COMPLAINT.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
}
