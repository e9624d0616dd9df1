//! The front end's loop: registers, answers questions, connects, shows what happens, ends.

use std::cell::RefCell;
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc};

use super::browser::Browser;
use super::event::{self, Own};
use super::given::Given;
use super::hook::Hook;
use super::output::{Console, Printer, without_marker};
use super::peer::{Backend, News, Question, guid};
use super::service_manager::ServiceManager;
use super::{ConnectArgs, Dco, EXIT_AUTH, EXIT_FAILED, EXIT_PRIVILEGE, Output, prompt};
use crate::cli::EXIT_USAGE;
use crate::cli::tunnels::{Access, Door, summary};
use crate::control::WebAddress;
use crate::dbus::{Answer, PrivateService, serve_private};
use crate::ending;
use crate::network::helper::{HelperEnd, Said};
use crate::stop::{self, Stop};

const LIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Status minors of OpenVPN 3 that the front end acts on.
mod minor {
    pub(super) const CFG_REQUIRE_USER: u32 = 4;
    pub(super) const CONN_CONNECTED: u32 = 7;
    pub(super) const CONN_FAILED: u32 = 10;
    pub(super) const CONN_AUTH_FAILED: u32 = 11;
    pub(super) const CONN_RECONNECTING: u32 = 12;
    pub(super) const CONN_PAUSED: u32 = 14;
    pub(super) const CONN_DONE: u32 = 16;
    pub(super) const SESS_AUTH_URL: u32 = 22;
}

/// Why the front end stops: an explanation (unless it is as asked) and the exit status.
struct End {
    text: Option<String>,
    status: u8,
}

impl End {
    const AS_ASKED: Self = Self { text: None, status: 0 };

    fn failed(text: impl std::fmt::Display, status: u8) -> Self {
        Self { text: Some(text.to_string()), status }
    }
}

impl From<zbus::Error> for End {
    fn from(error: zbus::Error) -> Self {
        Self::failed(error, EXIT_FAILED)
    }
}

impl From<Option<Stop>> for End {
    fn from(reason: Option<Stop>) -> Self {
        match reason {
            Some(Stop::Asked) => Self::AS_ASKED,
            Some(Stop::Broken) | None => {
                Self::failed("internal error, the log says where: please report it", EXIT_FAILED)
            }
        }
    }
}

/// Reasons to stop.
struct Stops {
    here: mpsc::Receiver<Stop>,
    /// Somebody has asked for it at the door.
    leave: Arc<Notify>,
}

struct Signals {
    stops: Stops,
    restart: Signal,
    statistics: Signal,
}

impl Stops {
    /// The next one. Cancel safe.
    async fn next(&mut self) -> Option<Stop> {
        tokio::select! {
            reason = self.here.recv() => reason,
            () = self.leave.notified() => Some(Stop::Asked),
        }
    }
}

struct Front<'a> {
    backend: Backend,
    news: broadcast::Receiver<News>,
    printer: Printer,
    console: Console,
    given: Given,
    browser: Browser,
    hook: Option<Hook>,
    signals: Signals,
    manager: &'a mut ServiceManager,
    insist_on_dco: bool,
    verbosity: u32,
    /// Since when, and over which device.
    connected: Option<(Instant, String)>,
    /// The backend has said its last word.
    done: bool,
}

/// What is there before the loop begins.
pub(super) struct Start<'a> {
    pub(super) args: &'a ConnectArgs,
    pub(super) given: Given,
    pub(super) verbosity: u32,
    pub(super) service: PrivateService,
    pub(super) answers: mpsc::Sender<Answer>,
    pub(super) browser: Browser,
    pub(super) helper: Option<&'a HelperEnd>,
    pub(super) hook: Option<Hook>,
    pub(super) door: Option<(UnixListener, Access)>,
    pub(super) console: Console,
}

/// How a connection has ended.
pub(super) struct Ended {
    /// Unless it is as asked.
    pub(super) reason: Option<String>,
    /// Of the process.
    pub(super) status: u8,
    /// Has yet to hear of it.
    pub(super) hook: Option<Hook>,
}

impl Ended {
    /// What it is while nobody knows better.
    pub(super) const BROKEN: Self = Self { reason: None, status: EXIT_FAILED, hook: None };
}

/// Runs a connection to its end.
pub(super) async fn run(start: Start<'_>) -> Ended {
    let (errors, helper) = (start.console.clone(), start.helper);
    let mut told = None;
    let mut hook = None;
    let mut manager = ServiceManager::of_this_process();
    let end = match Front::new(start, &mut manager).await {
        Ok(mut front) => {
            let end = tokio::select! {
                end = front.drive() => end,
                end = lost(helper) => end,
            };
            told = front.printer.last_error().map(str::to_owned);
            hook = front.shut_down().await;
            end
        }
        Err(end) => end,
    };
    if let Some(text) = &end.text {
        manager.status(without_marker(text));
        errors.complain_once(text, told.as_deref());
    }
    manager.flush(ending::OUTPUT);
    Ended { reason: end.text, status: end.status, hook }
}

/// When the helper process has ended: nothing can be noted any more, and DNS not be taken back.
async fn lost(helper: Option<&HelperEnd>) -> End {
    let Some(helper) = helper else { return std::future::pending().await };
    helper.listen(tell).await;
    End::failed(
        "the helper process has ended, which kept root's rights: 'ovpn-client cleanup' undoes what is \
         left",
        EXIT_FAILED,
    )
}

/// A log line of the helper process.
fn tell(said: Said) {
    let Said { category, text } = said;
    match category {
        0..=1 => tracing::trace!("{text}"),
        2 | 3 => tracing::debug!("{text}"),
        4 => tracing::info!("{text}"),
        5 => tracing::warn!("{text}"),
        _ => tracing::error!("{text}"),
    }
}

impl<'a> Front<'a> {
    async fn new(start: Start<'_>, manager: &'a mut ServiceManager) -> Result<Self, End> {
        let Start {
            args, given, verbosity, service, answers, browser, hook, door, console, ..
        } = start;
        let io = |error: std::io::Error| End::failed(error, EXIT_FAILED);
        let signals = Signals {
            stops: Stops { here: stop::reasons().map_err(io)?, leave: Arc::default() },
            restart: signal(SignalKind::user_defined1()).map_err(io)?,
            statistics: signal(SignalKind::user_defined2()).map_err(io)?,
        };
        let (ours, theirs) = UnixStream::pair().map_err(io)?;
        let guid = guid();
        let token = guid.as_str().to_owned();
        tokio::spawn(async move {
            if let Err(error) = serve_private(theirs, &guid, token, service).await {
                tracing::error!("backend: {error}");
            }
        });
        let (backend, news) = Backend::connect(ours, answers).await?;
        if let Some((listener, access)) = door {
            let leave = Arc::clone(&signals.stops.leave);
            let door = Door { backend: backend.connection(), leave, access };
            tokio::spawn(door.keep(listener, news.resubscribe()));
        }
        manager.watch();
        Ok(Self {
            backend,
            news,
            printer: Printer::new(args.output == Output::Json, console.out.clone()),
            console,
            given,
            browser,
            hook,
            signals,
            manager,
            insist_on_dco: args.dco == Dco::On,
            verbosity,
            connected: None,
            done: false,
        })
    }

    /// From registration to the reason to stop.
    async fn drive(&mut self) -> End {
        let mut live = tokio::time::interval(LIVE_INTERVAL);
        live.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let showing = self.connected.is_some() && self.printer.is_live();
            let result = tokio::select! {
                biased;
                reason = self.signals.stops.next() => Err(reason.into()),
                _ = self.signals.restart.recv() => self.restart().await,
                _ = self.signals.statistics.recv() => self.show_statistics().await,
                () = self.manager.pulse() => {
                    self.manager.show_life(works(self.backend.clone()));
                    Ok(())
                }
                news = self.news.recv() => match news {
                    Ok(news) => self.react(news).await,
                    Err(RecvError::Lagged(missing)) => {
                        self.printer.missed(missing);
                        Ok(())
                    }
                    Err(RecvError::Closed) => Err(End::failed("the backend ended", EXIT_FAILED)),
                },
                _ = live.tick(), if showing => self.show_live().await,
            };
            if let Err(end) = result {
                return end;
            }
            if !showing && self.connected.is_some() {
                // Not the tick that nobody took while there was nothing to show.
                live.reset_immediately();
            }
        }
    }

    /// Tells the service manager how it stands.
    async fn show_state(&self) -> Result<(), End> {
        if self.manager.listens() {
            self.manager.status(&summary(&self.backend.report().await?));
        }
        Ok(())
    }

    /// Shows it, and passes it on.
    fn tell(&mut self, news: &News) {
        self.printer.news(news);
        if let Some(hook) = self.hook.as_ref().filter(|_| !matches!(news, News::Log { .. }))
            && let Some(line) = event::of_news(news)
        {
            hook.tell(&line);
        }
    }

    /// Tells programs what the connection is.
    async fn tell_connection(&mut self) -> Result<(), End> {
        if !self.printer.is_json() && self.hook.is_none() {
            return Ok(());
        }
        if let Some(connection) = &self.backend.report().await?.connection {
            let line = event::line(&Own::Connected { connection });
            self.printer.event(&line);
            if let Some(hook) = &self.hook {
                hook.tell(&line);
            }
        }
        Ok(())
    }

    async fn react(&mut self, news: News) -> Result<(), End> {
        self.tell(&news);
        if matches!(news, News::Status { .. }) {
            self.show_state().await?;
        }
        match news {
            News::RegistrationRequest { token } => {
                self.backend.register(&token).await?;
                // Registration has applied the profile's `verb`; the command line wins.
                self.backend.set_log_level(self.verbosity).await?;
                if self.backend.questions().await?.is_empty() {
                    self.backend.request("Connect").await?;
                }
                // Otherwise a status asks for input.
                Ok(())
            }
            News::Status { minor, message, .. } => self.status(minor, message).await,
            // While connecting a status follows, or an address to open.
            News::Attention { .. } if self.connected.is_some() => self.answer_and_connect().await,
            News::Attention { .. } | News::Log { .. } => Ok(()),
        }
    }

    async fn status(&mut self, minor: u32, message: String) -> Result<(), End> {
        match minor {
            minor::CFG_REQUIRE_USER => self.answer_and_connect().await,
            minor::SESS_AUTH_URL => {
                self.open_url(&message);
                Ok(())
            }
            minor::CONN_CONNECTED => {
                let device = self.backend.device_name().await?;
                if self.insist_on_dco && !self.backend.dco().await? {
                    return Err(End::failed(
                        "kernel offload was insisted on (--dco on) and is not in use; the log says \
                         why, and with --dco auto user space takes the data",
                        EXIT_PRIVILEGE,
                    ));
                }
                self.tell_connection().await?;
                self.connected = Some((Instant::now(), device));
                self.manager.ready();
                Ok(())
            }
            minor::CONN_RECONNECTING | minor::CONN_PAUSED => {
                self.connected = None;
                Ok(())
            }
            minor::CONN_FAILED => {
                let status = failure_status(&message);
                Err(End::failed(message, status))
            }
            minor::CONN_AUTH_FAILED => Err(End::failed(message, EXIT_AUTH)),
            minor::CONN_DONE => {
                self.done = true;
                Err(End::failed(message, EXIT_FAILED))
            }
            _ => Ok(()),
        }
    }

    /// Answers what is asked and connects; connecting has no effect on a running attempt. A restart
    /// meanwhile takes the questions back: what is still needed is asked anew.
    async fn answer_and_connect(&mut self) -> Result<(), End> {
        self.printer.leave_live();
        let waiting = RefCell::default();
        let backend = self.backend.clone();
        let mut answered = pin!(answer(&backend, &mut self.given, &self.console, &waiting));
        loop {
            tokio::select! {
                biased;
                reason = self.signals.stops.next() => {
                    prompt::leave(&self.console);
                    return Err(reason.into());
                }
                _ = self.signals.restart.recv() => match self.backend.request("Restart").await {
                    Ok(()) => {
                        prompt::leave(&self.console);
                        return Ok(());
                    }
                    Err(error) => {
                        let text = format!("Restart: {error}");
                        self.printer.above(&waiting.borrow(), |printer| printer.step(&text));
                    }
                },
                _ = self.signals.statistics.recv() => {
                    let counters = self.backend.statistics().await?;
                    let show = |printer: &mut Printer| printer.statistics(&counters);
                    self.printer.above(&waiting.borrow(), show);
                }
                () = self.manager.pulse() => self.manager.show_life(works(self.backend.clone())),
                result = &mut answered => break result?,
            }
        }
        self.backend.request("Connect").await?;
        Ok(())
    }

    fn open_url(&mut self, url: &str) {
        // The backend says nothing else with this status; a browser is not to rely on it.
        let Ok(address) = url.parse::<WebAddress>() else { return };
        self.printer.step(&format!("Open this address to log in: {address}"));
        self.browser.open(&address);
    }

    async fn restart(&mut self) -> Result<(), End> {
        if let Err(error) = self.backend.request("Restart").await {
            self.printer.step(&format!("Restart: {error}"));
        }
        Ok(())
    }

    async fn show_statistics(&mut self) -> Result<(), End> {
        let counters = self.backend.statistics().await?;
        self.printer.statistics(&counters);
        Ok(())
    }

    async fn show_live(&mut self) -> Result<(), End> {
        let counters = self.backend.statistics().await?;
        if let Some((since, device)) = &self.connected {
            self.printer.live(device, *since, &counters);
        }
        Ok(())
    }

    /// Disconnects and shows what the backend still says, up to its last word.
    async fn shut_down(mut self) -> Option<Hook> {
        if self.done {
            return self.hook.take();
        }
        self.manager.stopping();
        let backend = self.backend.clone();
        let disconnect = tokio::time::timeout(ending::LAST_WORD, backend.request("Disconnect"));
        let news = async {
            // The reply to the request may overtake the last signals.
            loop {
                match self.news.recv().await {
                    Ok(news) => {
                        self.tell(&news);
                        if matches!(news, News::Status { minor: minor::CONN_DONE, .. }) {
                            break;
                        }
                    }
                    Err(RecvError::Lagged(missing)) => self.printer.missed(missing),
                    Err(RecvError::Closed) => break,
                }
            }
        };
        let both = async {
            tokio::pin!(news);
            tokio::select! {
                () = &mut news => {}
                result = disconnect => {
                    // A backend that has gone says nothing more.
                    if matches!(result, Ok(Ok(_))) {
                        news.await;
                    }
                }
            }
        };
        // One limit for all of it; what is told by then is told.
        let _ = tokio::time::timeout(ending::LAST_WORD, both).await;
        self.hook.take()
    }
}

/// Whether all of it works: the front end's loop, which came here, and the backend and the session, which
/// answer.
async fn works(backend: Backend) -> bool {
    matches!(backend.is_alive().await, Ok(true))
}

/// Answers every open question: with what is given, or on the terminal, where the prompt that waits is
/// `waiting`.
async fn answer(
    backend: &Backend,
    given: &mut Given,
    console: &Console,
    waiting: &RefCell<String>,
) -> Result<(), End> {
    let mut questions = Vec::new();
    for question in backend.questions().await? {
        let known = given.answer(&question.name);
        questions.push((question, known.map_err(|reason| End::failed(reason, EXIT_USAGE))?));
    }
    if !prompt::possible() {
        let open = questions.iter().filter(|(_, known)| known.is_none());
        let missing: Vec<_> = open.map(|(question, _)| question).collect();
        if !missing.is_empty() {
            return Err(End::failed(unanswerable(&missing), EXIT_USAGE));
        }
    }
    for (question, known) in questions {
        let answer = match known {
            Some(answer) => answer,
            None => loop {
                let text = prompt::text(&question);
                waiting.replace(text.clone());
                let answer = match prompt::ask(console, text, question.hidden).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        prompt::leave(console);
                        return Err(End::failed(unanswered(&question, &error), EXIT_USAGE));
                    }
                };
                if !answer.expose().is_empty() {
                    break answer;
                }
            },
        };
        if let Err(error) = backend.provide(&question, answer).await {
            // The connection that asked may be over by now.
            tracing::warn!("{}: {}", question.description, error.text);
        }
    }
    Ok(())
}

/// What cannot be asked without a terminal, and what can be done about it.
fn unanswerable(missing: &[&Question]) -> String {
    let asked: Vec<_> = missing.iter().map(|question| question.description.as_str()).collect();
    let mut remedies: Vec<_> = missing.iter().map(|question| remedy(question)).collect();
    remedies.dedup();
    format!(
        "input is needed and there is no terminal to ask on: {} ({})",
        asked.join(", "),
        remedies.join("; ")
    )
}

/// A question that its terminal left open.
fn unanswered(question: &Question, error: &std::io::Error) -> String {
    let asked = prompt::text(question).to_lowercase();
    let asked = asked.trim_end_matches([':', ' ']);
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            format!("the input ended where the {asked} was asked for ({})", remedy(question))
        }
        _ => format!("no {asked}: {error} ({})", remedy(question)),
    }
}

/// How else a question can be answered.
fn remedy(question: &Question) -> &'static str {
    match &*question.name {
        "username" | "password" => {
            "user name and password can be given with --auth-user-pass FILE, or as the credential login"
        }
        "http_proxy_user" | "http_proxy_pass" => {
            "the proxy's user name and password can be given in a file that http-proxy or socks-proxy \
             names in the profile"
        }
        "pk_passphrase" => {
            "the passphrase can be given with --askpass FILE, by 'askpass FILE' in the profile, or as \
             the credential passphrase"
        }
        "static_challenge" | "dynamic_challenge" => {
            "a code that is good for one login can be given with --otp FILE, or as the credential otp"
        }
        _ => "it can only be typed: run this on a terminal",
    }
}

/// Exit status of a failed connection; the markers are OpenVPN 3's.
fn failure_status(message: &str) -> u8 {
    if message.contains("{TUN_SETUP_FAILED}") {
        EXIT_PRIVILEGE
    } else if message.contains("{PEM_PASSWORD_FAIL}") {
        EXIT_AUTH
    } else if message.starts_with("Configuration parsing failed") {
        EXIT_USAGE
    } else {
        EXIT_FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_has_a_remedy_of_its_own() {
        let question = |name: &str, description: &str| Question {
            numbers: (1, 1),
            id: 0,
            name: name.to_owned(),
            description: description.to_owned(),
            hidden: false,
        };
        let (user, password) = (question("username", "User"), question("password", "Password"));
        let code = question("static_challenge", "PIN");
        let text = unanswerable(&[&user, &password]);
        assert!(text.contains("User, Password (user name and"), "{text}");
        assert_eq!(text.matches("--auth-user-pass").count(), 1, "{text}");
        let text = unanswerable(&[&code]);
        assert!(text.contains("PIN (a code") && !text.contains("--auth-user-pass"), "{text}");
        assert!(unanswerable(&[&question("pk_passphrase", "Key")]).contains("askpass FILE"));
    }
}
