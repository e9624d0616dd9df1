//! Starting the helper, and noticing its end.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::desk::Desk;
use super::error::HelperError;
use super::line::{self, AsyncLine};
use super::office::Said;

/// Whose rights a process has is the same for all of it, and so is who has them instead.
static HELPER: OnceLock<Helper> = OnceLock::new();

/// The helper of this process, if it has one.
pub(in crate::network) fn of_this_process() -> Option<&'static Helper> {
    HELPER.get()
}

/// Asks for lines.
#[derive(Debug)]
pub struct Helper {
    /// `None`: it is over.
    lifeline: Mutex<Option<Arc<OwnedFd>>>,
}

/// The process that was started.
#[derive(Debug)]
pub struct HelperEnd {
    lifeline: Arc<OwnedFd>,
    child: Child,
}

impl Helper {
    /// Starts this program again, with `arguments`, as the helper; its standard input is the
    /// lifeline. From now on this process's changes are noted there. Once for a process.
    ///
    /// # Errors
    /// As starting a program.
    pub fn start(arguments: &[&str], runtime_dir: &Path) -> io::Result<HelperEnd> {
        let (ours, theirs) = line::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("ovpn-client")
            .args(arguments)
            .arg(std::path::absolute(runtime_dir)?)
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()?;
        let lifeline = Arc::new(ours);
        let helper = Self { lifeline: Mutex::new(Some(Arc::clone(&lifeline))) };
        HELPER.set(helper).map_err(|_| io::ErrorKind::AlreadyExists)?;
        Ok(HelperEnd { lifeline, child })
    }

    /// A line of one's own.
    pub(in crate::network) fn desk(&self) -> Result<Arc<Desk>, HelperError> {
        let lifeline = self.lifeline.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lifeline = lifeline.ok_or(HelperError::Ended)?;
        let broken = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => HelperError::Ended,
            Some(libc::EAGAIN) => HelperError::Hangs,
            _ => HelperError::Line(Arc::new(error)),
        };
        let (ours, theirs) = line::pair().map_err(broken)?;
        line::send(&*lifeline, &(), Some(std::os::fd::AsFd::as_fd(&theirs))).map_err(broken)?;
        Ok(Arc::new(Desk::new(ours)))
    }

    /// An open `/dev/net/tun`.
    pub(in crate::network) async fn open_tun(&self) -> io::Result<File> {
        Ok(self.desk()?.open_tun().await?.into())
    }
}

impl HelperEnd {
    /// Passes on what the helper says, and returns when it has ended. Inside a runtime.
    pub async fn listen(&self, tell: impl Fn(Said)) {
        let line = self.lifeline.try_clone().and_then(AsyncLine::new);
        let Ok(line) = line else { return std::future::pending().await };
        loop {
            match line.receive().await {
                Ok(Some((said, _))) => tell(said),
                Ok(None) => return,
                Err(error) => tracing::debug!("the helper process: {error}"),
            }
        }
    }

    /// Nothing will be asked any more: waits for the helper's end, which may have something to undo.
    /// False: it is still there.
    pub fn end(mut self, limit: Duration) -> bool {
        if let Some(helper) = HELPER.get() {
            drop(helper.lifeline.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        drop(self.lifeline);
        let end = Instant::now() + limit;
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
