//! What a running tunnel tells of itself: one value, as JSON for whoever asks over a private
//! connection. Its schema is `ci/packaging/client/status.schema.json`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::backend::{Machine, StatusMinor};
use crate::counters::Counter;
use crate::data_path::Reason;
use crate::logging::{Category, LogLine};
use crate::network::dns::DnsPlan;
use crate::network::{PlannedRoute, RouteTarget};
use crate::profile::DnsScope;
use crate::session::ConnectionInfo;
use crate::text::{excerpt, printable};

/// Interface of what only a private connection has.
pub const TUNNEL_INTERFACE: &str = "ovpn_client.Tunnel1";

/// Of the schema. A member more does not change it, another meaning does.
const SCHEMA: u32 = 1;
/// The newest errors and warnings that are kept.
const PROBLEMS: usize = 10;
/// Longest text of one, in bytes.
const MAX_TEXT: usize = 1024;

/// Everything. Times are whole seconds since 1970 (UTC).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of the schema.
    pub schema: u32,
    /// What the tunnel is called on this host.
    pub name: String,
    /// File name of the profile.
    pub profile: String,
    /// Where it stands.
    pub state: TunnelState,
    /// What is said about that; often empty.
    pub message: String,
    /// Since when it stands there.
    pub since: u64,
    /// The working connection; also one that is paused.
    pub connection: Option<ConnectionReport>,
    /// What is not zero, by name, since the process connected first.
    pub counters: BTreeMap<String, u64>,
    /// TLS handshakes of working connections.
    pub renegotiations: u64,
    /// Connections that followed another one.
    pub reconnects: u64,
    /// The newest errors and warnings, oldest first, ten at most.
    pub problems: Vec<Problem>,
    /// Who runs it.
    pub process: ProcessReport,
}

/// Where a tunnel stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "they say it")]
pub enum TunnelState {
    Starting,
    WaitingForInput,
    Connecting,
    Connected,
    Reconnecting,
    Pausing,
    Paused,
    Resuming,
    Disconnecting,
    Ended,
}

impl TunnelState {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Starting,
        Self::WaitingForInput,
        Self::Connecting,
        Self::Connected,
        Self::Reconnecting,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Disconnecting,
        Self::Ended,
    ];

    /// As it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WaitingForInput => "waiting-for-input",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Disconnecting => "disconnecting",
            Self::Ended => "ended",
        }
    }
}

impl From<StatusMinor> for TunnelState {
    fn from(minor: StatusMinor) -> Self {
        match minor {
            StatusMinor::Unset | StatusMinor::CfgOk => Self::Starting,
            StatusMinor::CfgRequireUser | StatusMinor::SessAuthUrl => Self::WaitingForInput,
            StatusMinor::ConnConnecting => Self::Connecting,
            StatusMinor::ConnConnected => Self::Connected,
            StatusMinor::ConnReconnecting => Self::Reconnecting,
            StatusMinor::ConnPausing => Self::Pausing,
            StatusMinor::ConnPaused => Self::Paused,
            StatusMinor::ConnResuming => Self::Resuming,
            StatusMinor::ConnDisconnecting => Self::Disconnecting,
            StatusMinor::ConnDisconnected
            | StatusMinor::ConnFailed
            | StatusMinor::ConnAuthFailed
            | StatusMinor::ConnDone => Self::Ended,
        }
    }
}

/// A working connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Whom with.
    pub server: ServerReport,
    /// What carries the data.
    pub data_path: DataPathReport,
    /// Of the data.
    pub cipher: String,
    /// Of the control channel, as the connection began.
    pub tls: Option<TlsReport>,
    /// Network interface.
    pub device: String,
    /// Of the interface, in bytes.
    pub mtu: u16,
    /// Of the interface.
    pub addresses: Vec<String>,
    /// Inside the tunnel.
    pub gateways: Vec<String>,
    /// The first of the routes, 256 at most.
    pub routes: Vec<RouteReport>,
    /// How many routes there are in all.
    pub route_count: u64,
    /// What names are asked of.
    pub dns: Option<DnsReport>,
}

/// The server of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they say it")]
pub struct ServerReport {
    /// As in the profile.
    pub host: String,
    pub address: String,
    pub port: u16,
    /// `udp` or `tcp`
    pub transport: String,
}

/// What carries the data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataPathReport {
    /// `ovpn`, `ovpn-dco-v2` or `userspace`.
    pub name: String,
    /// Every reason why it is not the kernel.
    pub reasons: Vec<ReasonReport>,
}

/// Why the kernel does not carry it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReasonReport {
    /// For programs.
    pub id: String,
    /// For people.
    pub text: String,
}

/// What the handshake agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they say it")]
pub struct TlsReport {
    pub version: String,
    pub cipher_suite: String,
    pub key_exchange: String,
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteReport {
    /// Address and prefix length.
    pub destination: String,
    /// `tunnel`, `unreachable`, or the way around the tunnel.
    pub via: String,
}

/// What names are asked of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DnsReport {
    /// Addresses.
    pub servers: Vec<String>,
    /// Appended to short names.
    pub search_domains: Vec<String>,
    /// Their names are asked of the servers.
    pub route_domains: Vec<String>,
    /// Every name is asked of the servers, or only those of the domains.
    pub every_name: bool,
    /// DNS over TLS.
    pub over_tls: bool,
}

/// An error or a warning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// When it was told.
    pub time: u64,
    /// An error, and not a warning.
    pub error: bool,
    /// What.
    pub text: String,
}

/// Who runs a tunnel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Its number.
    pub pid: u32,
    /// When it was started.
    pub since: u64,
    /// Of this program.
    pub version: String,
}

/// What is kept for reports between one and the next.
#[derive(Debug)]
pub(super) struct Record {
    name: String,
    profile: String,
    started: SystemTime,
    state: TunnelState,
    since: SystemTime,
    problems: VecDeque<Problem>,
}

impl Record {
    pub(super) fn new(name: String, profile: String) -> Self {
        let now = SystemTime::now();
        let (state, problems) = (TunnelState::Starting, VecDeque::new());
        Self { name, profile, started: now, state, since: now, problems }
    }

    /// A status was told.
    pub(super) fn status(&mut self, minor: StatusMinor) {
        let state = minor.into();
        if state != self.state {
            (self.state, self.since) = (state, SystemTime::now());
        }
    }

    /// A line was told.
    pub(super) fn line(&mut self, line: &LogLine) {
        if line.category < Category::Warn {
            return;
        }
        if self.problems.len() == PROBLEMS {
            self.problems.pop_front();
        }
        self.problems.push_back(Problem {
            time: seconds(SystemTime::now()),
            error: line.category > Category::Warn,
            text: printable(&excerpt(&line.text, MAX_TEXT)),
        });
    }

    /// All but the counters, which have to be asked for.
    pub(super) fn report(&self, machine: &Machine) -> Report {
        Report {
            schema: SCHEMA,
            name: self.name.clone(),
            profile: printable(&self.profile),
            state: self.state,
            message: machine.status().message.clone(),
            since: seconds(self.since),
            connection: machine.connection().map(ConnectionReport::from),
            counters: BTreeMap::new(),
            renegotiations: 0,
            reconnects: 0,
            problems: self.problems.iter().cloned().collect(),
            process: ProcessReport {
                pid: std::process::id(),
                since: seconds(self.started),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
        }
    }
}

impl Report {
    pub(super) fn with_counters(mut self, counters: BTreeMap<&'static str, u64>) -> Self {
        let count = |counter: Counter| counters.get(counter.name()).copied().unwrap_or_default();
        self.renegotiations = count(Counter::Renegotiations);
        self.reconnects = count(Counter::Reconnects);
        self.counters = counters.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        self
    }
}

impl From<&ConnectionInfo> for ConnectionReport {
    fn from(info: &ConnectionInfo) -> Self {
        let network = &info.network;
        Self {
            server: ServerReport {
                host: printable(&info.host),
                address: info.address.ip().to_string(),
                port: info.address.port(),
                transport: info.protocol.name().to_owned(),
            },
            data_path: DataPathReport {
                name: info.data_path.name().to_owned(),
                reasons: info.data_path_reasons.iter().map(ReasonReport::from).collect(),
            },
            cipher: info.cipher.to_string(),
            tls: info.tls.as_ref().map(|tls| TlsReport {
                version: tls.version.to_owned(),
                cipher_suite: tls.cipher_suite.clone(),
                key_exchange: tls.key_exchange.clone(),
            }),
            device: printable(&info.device),
            mtu: info.mtu,
            addresses: info.tunnel.clone(),
            gateways: info.gateways.clone(),
            routes: network.routes.iter().map(RouteReport::from).collect(),
            route_count: network.route_count as u64,
            dns: network.dns.as_ref().map(DnsReport::from),
        }
    }
}

impl From<&Reason> for ReasonReport {
    fn from(reason: &Reason) -> Self {
        Self { id: reason.id().to_owned(), text: printable(&reason.to_string()) }
    }
}

impl From<&PlannedRoute> for RouteReport {
    fn from(route: &PlannedRoute) -> Self {
        let via = match &route.target {
            RouteTarget::Tunnel => "tunnel".to_owned(),
            RouteTarget::Unreachable => match route.metric {
                Some(metric) => format!("unreachable metric {metric}"),
                None => "unreachable".to_owned(),
            },
            RouteTarget::Gateway(gateway) => format!("via {gateway}"),
            RouteTarget::Outside(path) => printable(&path.to_string()),
        };
        Self { destination: route.destination.to_string(), via }
    }
}

impl From<&DnsPlan> for DnsReport {
    fn from(dns: &DnsPlan) -> Self {
        let texts = |domains: &[crate::profile::DomainName]| {
            domains.iter().map(ToString::to_string).collect()
        };
        Self {
            servers: dns.servers.iter().map(|server| server.address.to_string()).collect(),
            search_domains: texts(&dns.search_domains),
            route_domains: texts(&dns.route_domains),
            every_name: dns.scope == DnsScope::Global,
            over_tls: dns.over_tls,
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::Group;

    #[test]
    fn the_newest_problems_are_kept_and_their_texts_are_bounded() {
        let mut record = Record::new("a".to_owned(), "a.ovpn".to_owned());
        let line = |category, text: String| LogLine { group: Group::Client, category, text };
        record.line(&line(Category::Info, "no problem".to_owned()));
        for number in 0..3 * PROBLEMS {
            record.line(&line(Category::Warn, format!("{number} {}", "x".repeat(2 * MAX_TEXT))));
        }
        record.line(&line(Category::Fatal, "the last".to_owned()));
        let problems = record.report(&Machine::new(false)).problems;
        assert_eq!(problems.len(), PROBLEMS);
        assert!(problems.last().is_some_and(|last| last.error && last.text == "the last"));
        assert!(problems.iter().all(|problem| problem.text.len() < MAX_TEXT + 32));
        assert!(
            problems.first().is_some_and(|first| !first.error && first.text.starts_with("21 "))
        );
    }

    #[test]
    fn a_state_begins_once_however_often_it_is_told() {
        let mut record = Record::new(String::new(), String::new());
        record.status(StatusMinor::ConnConnected);
        record.since = UNIX_EPOCH;
        record.status(StatusMinor::ConnConnected);
        assert_eq!(record.report(&Machine::new(false)).since, 0);
        record.status(StatusMinor::ConnPaused);
        let report = record.report(&Machine::new(false));
        assert!(report.since > 0 && report.state == TunnelState::Paused);
    }
}
