//! The threads of a backend process, and its promise that what a session has changed on this host
//! is undone before the process ends.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::driver::StartSession;
use super::last_resort::{self, Traces};
use crate::ending;
use crate::session::{
    self, COMMANDS, Command, NetworkMode, Outcome, Running, SessionConfig, SessionEvent,
    SetUpError, Teller,
};

/// Of the sessions' thread, in bytes: as much as a main thread has. A debug build takes more than
/// 1 MiB of it.
const STACK: usize = 8 << 20;

/// The same where the netcfg service makes the changes: it was asked to undo them already.
const NETCFG_SESSION_LIMIT: Duration = Duration::from_millis(500);

/// The threads of a backend process: the calling one for D-Bus, another for the session, so that
/// nothing a session does can keep a method call from being answered.
#[derive(Debug)]
pub struct Threads {
    calls: Runtime,
    sessions: runtime::Handle,
    watch: Watch,
    /// Disconnected when no session runs any more.
    all_ended: blocking::Receiver<()>,
    /// Closing it ends the sessions' thread.
    stop: oneshot::Sender<()>,
    /// Closed by the sessions' thread when all is dropped.
    thread_ended: blocking::Receiver<()>,
    /// Of sessions that configure the network themselves.
    session_limit: Duration,
}

/// A session that reads these commands and tells what it does.
type Body = fn(SessionConfig, mpsc::Receiver<Command>, Teller) -> BoxFuture<'static, ()>;

/// Follows the sessions of a process.
#[derive(Clone, Debug)]
struct Watch {
    /// Each running session holds a copy.
    alive: blocking::Sender<()>,
    /// Of the newest session.
    traces: Arc<Mutex<Option<Traces>>>,
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// As creating a thread or an event queue.
    pub fn new() -> io::Result<Self> {
        let calls = runtime::Builder::new_current_thread().enable_all().build()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let sessions = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, thread_ended) = blocking::channel();
        let thread = thread::Builder::new().name("session".to_owned()).stack_size(STACK);
        thread.spawn(move || {
            // Nothing is ever sent.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(ending::THREADS);
            drop(end);
        })?;
        let (alive, all_ended) = blocking::channel();
        let watch = Watch { alive, traces: Arc::default() };
        let session_limit = ending::SESSION;
        Ok(Self { calls, sessions, watch, all_ended, stop, thread_ended, session_limit })
    }

    /// Starts real sessions on the threads for them.
    pub fn starter(&self) -> StartSession {
        self.starter_of(|config, commands, teller| Box::pin(session::run(config, commands, teller)))
    }

    fn starter_of(&self, body: Body) -> StartSession {
        let (sessions, watch) = (self.sessions.clone(), self.watch.clone());
        Box::new(move |config| {
            let _guard = sessions.enter();
            start_session(config, watch.clone(), body)
        })
    }

    /// Runs what answers calls on the calling thread, to its end or its panic. Returns once the
    /// sessions have ended, too, and what they have changed is undone; what hangs on a thread is
    /// left behind.
    pub fn run<T>(self, calls: impl Future<Output = T>) -> T {
        // Nothing is looked at again but what it returns.
        let result = catch_unwind(AssertUnwindSafe(|| self.calls.block_on(calls)));
        self.end();
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn end(self) {
        let Watch { alive, traces } = self.watch;
        // With the tasks there goes whoever could still command a session: it disconnects.
        self.calls.shutdown_background();
        drop(alive);
        let traces = traces.lock().unwrap_or_else(PoisonError::into_inner).take();
        let limit = match &traces {
            Some(traces) if traces.are_of_netcfg() => NETCFG_SESSION_LIMIT,
            _ => self.session_limit,
        };
        let late = self.all_ended.recv_timeout(limit) == Err(blocking::RecvTimeoutError::Timeout);
        drop(self.stop);
        // Closed or late: either way it is over.
        let _ = self.thread_ended.recv_timeout(ending::THREADS);
        if let (Some(traces), true) = (traces, late) {
            last_resort::undo(traces);
        }
    }
}

/// Starts a session, once it is known that somebody can configure the network for it: a session
/// takes a service that cannot be started now for one that can be later, and tries again.
fn start_session(config: SessionConfig, watch: Watch, body: Body) -> Running {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (teller, events) = session::events();
    let traces =
        Traces { network: config.network.clone(), runtime_dir: config.runtime_dir.clone() };
    *watch.traces.lock().unwrap_or_else(PoisonError::into_inner) = Some(traces.clone());
    tokio::spawn(async move {
        // Until the end of this task.
        let _alive = watch.alive;
        if let NetworkMode::Netcfg(netcfg) = &config.network
            && let Err(error) = netcfg.start_service().await
        {
            let ending = SetUpError::from(error).into();
            teller.tell(SessionEvent::Ended(Outcome::Privilege(ending)));
            return;
        }
        // A panic ends that task only.
        let ended = tokio::spawn(body(config, receiver, teller.clone())).await;
        if ended.is_err() || !teller.has_ended() {
            error!("The session ended without a word (internal error); undoing its changes");
            // It can only fail with the whole thread.
            let _ = tokio::task::spawn_blocking(|| last_resort::undo(traces)).await;
        }
    });
    Running { commands, events }
}

#[cfg(test)]
mod tests;
