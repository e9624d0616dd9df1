//! The host's network changes, or the machine sleeps, while a session runs: noticing it, in every
//! state. What a connection does then is in `following`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::absence::Absence;
use super::commands::Wish;
use super::ending::{Ending, NetworkChange};
use super::network::Network;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::network::{NetworkWatch, News, Outlook, Outside, Response, Roaming as Kind, respond};
use crate::transport::Transport;

/// Between two attempts that begin because the network has changed, at least.
const PACE: Duration = Duration::from_secs(1);
/// Cut off for longer, the server may have forgotten us.
const FORGETTING: Duration = Duration::from_secs(10);
/// How long a server may take to prove that it has not.
pub(super) const PROOF: Duration = Duration::from_millis(2500);

/// What makes a look at the network worth while.
#[derive(Debug)]
pub(super) enum Change {
    /// It has changed.
    Network(News),
    /// Nobody has looked for so long, because the machine slept or the process was stopped.
    Awake(Duration),
    /// The server has had time to prove that it knows us.
    ProofDue,
}

/// What a look at the network means for a connection.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) response: Response,
    /// Where its packets come from.
    pub(super) present: IpAddr,
    /// Where they would come from now.
    pub(super) source: Option<IpAddr>,
    /// The server was out of reach for so long that it is to prove that it still knows us.
    pub(super) doubtful: bool,
}

impl Verdict {
    /// Why a connection is given up.
    pub(super) fn reason(&self) -> NetworkChange {
        match self.source {
            Some(now) if now != self.present => NetworkChange::Source { now, before: self.present },
            _ => NetworkChange::WayAgain,
        }
    }
}

/// The network as it was looked at last.
pub(super) struct Roaming {
    /// `None`: it cannot be watched.
    watch: Option<NetworkWatch>,
    /// `None`: it cannot be told.
    absence: Option<Absence>,
    outlook: Outlook,
    /// Nothing has led to the server since.
    cut_off: Option<Instant>,
    /// When the server is to have proved that it knows us.
    proof_by: Option<Instant>,
    /// When an attempt began or a connection was given up for the network's sake.
    hurried: Option<Instant>,
}

impl Roaming {
    /// In the network namespace of the calling thread. Inside a tokio runtime.
    pub(super) fn open() -> Self {
        let watch = NetworkWatch::open()
            .inspect_err(|error| tracing::warn!("changes of the network are not noticed: {error}"));
        let absence = Absence::watch()
            .inspect_err(|error| tracing::warn!("the machine's sleep is not noticed: {error}"));
        Self {
            watch: watch.ok(),
            absence: absence.ok(),
            outlook: Outlook { source: None, outside: Outside::default() },
            cut_off: None,
            proof_by: None,
            hurried: None,
        }
    }

    /// An attempt begins: changes from now on count for it.
    pub(super) async fn begin(&mut self, tunnel: Option<u32>) {
        self.outlook = Outlook { source: None, outside: self.outside(tunnel).await };
        self.cut_off = None;
        self.proof_by = None;
    }

    /// The next change. Cancel safe. `tunnel`: index of its interface.
    pub(super) async fn changed(&mut self, tunnel: Option<u32>) -> Change {
        let network = async {
            match &mut self.watch {
                Some(watch) => watch.changed(tunnel).await,
                None => std::future::pending().await,
            }
        };
        let awake = async {
            match &mut self.absence {
                Some(absence) => absence.over().await,
                None => std::future::pending().await,
            }
        };
        let proof = async {
            match self.proof_by {
                Some(by) => tokio::time::sleep_until(by.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            absence = awake => Change::Awake(absence),
            news = network => Change::Network(news),
            () = proof => {
                self.proof_by = None;
                Change::ProofDue
            }
        }
    }

    /// Runs what an attempt waits for, unless the network is another one meanwhile. Only for what may
    /// be dropped halfway.
    pub(super) async fn unless_changed<T>(
        &mut self,
        tunnel: Option<u32>,
        future: impl Future<Output = T>,
    ) -> Result<T, Ending> {
        tokio::select! {
            biased;
            result = future => Ok(result),
            () = self.improves(tunnel, None) => Err(NetworkChange::Other.into()),
        }
    }

    /// The network is not what it was when the attempt began, and something can leave the host.
    async fn improves(&mut self, tunnel: Option<u32>, mut network: Option<&mut Network>) {
        loop {
            let slept = matches!(self.changed(tunnel).await, Change::Awake(_));
            let start = Instant::now();
            if let Some(network) = &mut network {
                Box::pin(network.keep(None, false)).await;
            }
            let outside = self.outside(tunnel).await;
            self.looked(start);
            let changed = self.outlook.outside != outside || slept;
            self.outlook.outside = outside;
            if changed && self.outlook.outside.leads_out() {
                let rest = self.hurried.map_or(PACE, |then| then.elapsed());
                tokio::time::sleep(PACE.saturating_sub(rest)).await;
                self.hurried = Some(Instant::now());
                return;
            }
        }
    }

    /// Reads what there is outside the tunnel.
    pub(super) async fn outside(&self, tunnel: Option<u32>) -> Outside {
        let Some(watch) = &self.watch else { return Outside::default() };
        watch.outside(tunnel).await.unwrap_or_else(|error| {
            tracing::debug!("{error}");
            self.outlook.outside.clone()
        })
    }

    /// Whether it differs from what there was at the last look.
    pub(super) fn is_new(&self, outside: &Outside) -> bool {
        self.outlook.outside != *outside
    }

    /// A look is over that began then.
    pub(super) fn looked(&mut self, start: Instant) {
        if let Some(watch) = &mut self.watch {
            watch.looked(start.elapsed());
        }
    }

    /// Has [`Self::changed`] tell a change then.
    pub(super) fn look_again(&mut self, after: Duration) {
        if let Some(watch) = &mut self.watch {
            watch.look_again(after);
        }
    }

    /// What a network means for a connection. `None`: its socket cannot be asked.
    pub(super) fn judge(
        &mut self,
        transport: &Transport,
        kind: Kind,
        outside: Outside,
    ) -> Option<Verdict> {
        let source = transport.source_now().ok().filter(|source| outside.has(*source));
        let now = Outlook { source, outside };
        let before = std::mem::replace(&mut self.outlook, now.clone());
        let present = transport.source().ok()?;
        // What the outlook was at the beginning nobody has asked.
        let before = Outlook { source: before.source.or(source), ..before };
        let cut_off = self.cut_off.map(|since| since.elapsed());
        let response = respond(present, kind, &before, &now, cut_off);
        if response != Response::Stay {
            let way =
                source.map_or_else(|| "nowhere".to_owned(), |source| format!("from {source}"));
            tracing::debug!("packets leave from {present}, and would now {way}: {response:?}");
        }
        match response {
            Response::Wait => drop(self.cut_off.get_or_insert_with(Instant::now)),
            _ => self.cut_off = None,
        }
        let doubtful = cut_off.is_some_and(|time| time > FORGETTING) && response != Response::Wait;
        Some(Verdict { response, present, source, doubtful })
    }

    /// Whether a connection may be given up for the network's sake: not too often. If not, there will
    /// be another look.
    pub(super) fn may_give_up(&mut self) -> bool {
        let rest = self.hurried.map_or(PACE, |then| then.elapsed());
        if rest < PACE {
            self.look_again(PACE - rest);
            return false;
        }
        self.hurried = Some(Instant::now());
        true
    }

    /// From now on the server has its time to prove that it knows us.
    pub(super) fn expect_proof(&mut self) {
        self.proof_by = Some(Instant::now() + PROOF);
    }

    /// Nothing leads to the server at present.
    pub(super) const fn is_cut_off(&self) -> bool {
        self.cut_off.is_some()
    }
}

/// Of a tunnel's interface.
pub(super) fn index(tunnel: Option<&Tunnel>) -> Option<u32> {
    tunnel.map(|tunnel| tunnel.interface().index)
}

impl Shared {
    /// Waits before the next attempt, but not for a network that has come back.
    pub(super) async fn pause(
        &mut self,
        delay: Duration,
        kept: Option<&Tunnel>,
    ) -> Result<(), Wish> {
        let improves = self.roaming.improves(index(kept), Some(&mut self.network));
        let pause = async {
            tokio::select! {
                biased;
                () = improves, if delay > Duration::ZERO => {
                    tracing::info!("the network has changed: trying again now");
                }
                () = tokio::time::sleep(delay) => {}
            }
        };
        self.commands.or_wish(&self.statistics, pause).await
    }
}
