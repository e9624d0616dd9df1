//! The text of metrics: which there are, and what they are called.
//!
//! A counter of the program is one of a family's causes or events, or a family of its own. One that only
//! the data path in user space keeps is not there with another data path: nothing has counted it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::cli::tunnels::TunnelName;
use crate::counters::Counter;
use crate::dbus::{ConnectionReport, Report, TunnelState};

const PREFIX: &str = "ovpn_client";

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Format {
    /// OpenMetrics 1.0
    Openmetrics,
    /// The text format of Prometheus, version 0.0.4, which node_exporter and promtool read
    Prometheus,
}

impl Format {
    /// Its media type.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Openmetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A tunnel that is there, and what it says of itself if it answers.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) name: TunnelName,
    pub(super) report: Option<Report>,
}

/// The metrics of these tunnels.
pub(super) fn text(tunnels: Vec<Tunnel>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Tunnels(tunnels)));
    let mut text = String::new();
    match format {
        Format::Openmetrics => text::encode(&mut text, &registry)?,
        Format::Prometheus => prometheus_text::encode(&mut text, &registry)?,
    }
    Ok(text)
}

/// Metrics that are told together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    LinkReceiveBytes,
    LinkTransmitBytes,
    LinkReceivePackets,
    LinkTransmitPackets,
    TunnelReceiveBytes,
    TunnelTransmitBytes,
    TunnelReceivePackets,
    TunnelTransmitPackets,
    Reconnects,
    Pauses,
    Renegotiations,
    KeyLimitRenegotiations,
    /// By their `cause`.
    Errors,
    /// By their `event`.
    Userspace,
}

impl Family {
    const ALL: [Self; 14] = [
        Self::LinkReceiveBytes,
        Self::LinkTransmitBytes,
        Self::LinkReceivePackets,
        Self::LinkTransmitPackets,
        Self::TunnelReceiveBytes,
        Self::TunnelTransmitBytes,
        Self::TunnelReceivePackets,
        Self::TunnelTransmitPackets,
        Self::Reconnects,
        Self::Pauses,
        Self::Renegotiations,
        Self::KeyLimitRenegotiations,
        Self::Errors,
        Self::Userspace,
    ];

    const fn describe(self) -> (&'static str, Option<Unit>, &'static str) {
        match self {
            Self::LinkReceiveBytes => {
                ("link_receive", Some(Unit::Bytes), "From the server, without IP and UDP or TCP.")
            }
            Self::LinkTransmitBytes => {
                ("link_transmit", Some(Unit::Bytes), "To the server, without IP and UDP or TCP.")
            }
            Self::LinkReceivePackets => ("link_receive_packets", None, "From the server."),
            Self::LinkTransmitPackets => ("link_transmit_packets", None, "To the server."),
            Self::TunnelReceiveBytes => {
                ("tunnel_receive", Some(Unit::Bytes), "Out of the tunnel, to this host.")
            }
            Self::TunnelTransmitBytes => {
                ("tunnel_transmit", Some(Unit::Bytes), "Into the tunnel, from this host.")
            }
            Self::TunnelReceivePackets => {
                ("tunnel_receive_packets", None, "Out of the tunnel, to this host.")
            }
            Self::TunnelTransmitPackets => {
                ("tunnel_transmit_packets", None, "Into the tunnel, from this host.")
            }
            Self::Reconnects => ("reconnects", None, "Connections that followed another one."),
            Self::Pauses => ("pauses", None, "Pauses on request."),
            Self::Renegotiations => {
                ("renegotiations", None, "TLS handshakes of working connections.")
            }
            Self::KeyLimitRenegotiations => (
                "key_limit_renegotiations",
                None,
                "TLS handshakes because a key was nearly used up.",
            ),
            Self::Errors => ("errors", None, "What went wrong, and packets dropped, by cause."),
            Self::Userspace => {
                ("userspace_events", None, "What the data path in user space has done.")
            }
        }
    }

    /// What is the label of each of its counters.
    const fn label(self) -> Option<&'static str> {
        match self {
            Self::Errors => Some("cause"),
            Self::Userspace => Some("event"),
            _ => None,
        }
    }

    const fn of(counter: Counter) -> Self {
        match counter {
            Counter::BytesIn => Self::LinkReceiveBytes,
            Counter::BytesOut => Self::LinkTransmitBytes,
            Counter::PacketsIn => Self::LinkReceivePackets,
            Counter::PacketsOut => Self::LinkTransmitPackets,
            // The device's view.
            Counter::TunBytesOut => Self::TunnelReceiveBytes,
            Counter::TunBytesIn => Self::TunnelTransmitBytes,
            Counter::TunPacketsOut => Self::TunnelReceivePackets,
            Counter::TunPacketsIn => Self::TunnelTransmitPackets,
            Counter::Reconnects => Self::Reconnects,
            Counter::Pauses => Self::Pauses,
            Counter::Renegotiations => Self::Renegotiations,
            Counter::KeyLimitRenegotiations => Self::KeyLimitRenegotiations,
            Counter::TunReads
            | Counter::TunWrites
            | Counter::LinkSends
            | Counter::LinkReceives
            | Counter::AcknowledgementsSuperseded
            | Counter::TunOffloadRefused
            | Counter::GsoRefused
            | Counter::SendRefused
            | Counter::SendBlocked => Self::Userspace,
            _ => Self::Errors,
        }
    }
}

/// Whether only the data path in user space counts it.
const fn is_of_userspace(counter: Counter) -> bool {
    matches!(Family::of(counter), Family::Userspace)
        || matches!(
            counter,
            Counter::DecryptError
                | Counter::CompressError
                | Counter::RecursiveRouting
                | Counter::NetworkSendError
                | Counter::TunDiscarded
                | Counter::TunMalformed
                | Counter::TunRefused
                | Counter::ReceiveCut
                | Counter::ControlDropped
        )
}

/// A moment: its name, what it is, and when.
type Time = (&'static str, &'static str, fn(&Report) -> u64);
type Labels<'a> = Vec<(&'static str, &'a str)>;

#[derive(Debug)]
struct Tunnels(Vec<Tunnel>);

impl Collector for Tunnels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let flag = |is: bool| ConstGauge::new(u64::from(is));
        let mut family = encoder.encode_descriptor(
            "up",
            "Whether the tunnel's process answers.",
            None,
            MetricType::Gauge,
        )?;
        for tunnel in &self.0 {
            let labels = vec![("tunnel", tunnel.name.as_str())];
            flag(tunnel.report.is_some()).encode(family.encode_family(&labels)?)?;
        }

        let mut family = encoder.encode_descriptor(
            "state",
            "Where the tunnel stands: 1 for one of the states.",
            None,
            MetricType::Gauge,
        )?;
        for report in self.reports() {
            for state in TunnelState::ALL {
                let labels = vec![("tunnel", &*report.name), ("state", state.name())];
                flag(*state == report.state).encode(family.encode_family(&labels)?)?;
            }
        }

        let times: [Time; 2] = [
            ("state_start_time", "Since when the tunnel stands there.", |report| report.since),
            ("process_start_time", "When the process was started.", |report| report.process.since),
        ];
        for (name, help, time) in times {
            let mut family =
                encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            for report in self.reports() {
                let labels = vec![("tunnel", &*report.name)];
                ConstGauge::new(time(report)).encode(family.encode_family(&labels)?)?;
            }
        }

        let mut family = encoder.encode_descriptor(
            "connection",
            "The working connection, or one that is paused.",
            None,
            MetricType::Info,
        )?;
        for report in self.reports() {
            if let Some(connection) = &report.connection {
                Info::new(identity(report, connection))
                    .encode(family.encode_family(&Labels::new())?)?;
            }
        }

        let mut family = encoder.encode_descriptor(
            "mtu",
            "Of the interface.",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?;
        for report in self.reports() {
            if let Some(connection) = &report.connection {
                let labels = vec![("tunnel", &*report.name)];
                ConstGauge::new(u64::from(connection.mtu))
                    .encode(family.encode_family(&labels)?)?;
            }
        }

        for family in Family::ALL {
            self.counters(family, &mut encoder)?;
        }
        Ok(())
    }
}

impl Tunnels {
    fn reports(&self) -> impl Iterator<Item = &Report> {
        self.0.iter().filter_map(|tunnel| tunnel.report.as_ref())
    }

    fn counters(&self, family: Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, unit, help) = family.describe();
        let mut metric =
            encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for report in self.reports() {
            let in_userspace =
                report.connection.as_ref().is_some_and(|c| c.data_path.name == "userspace");
            for counter in Counter::ALL.iter().filter(|counter| Family::of(**counter) == family) {
                let count = report.counters.get(counter.name()).copied();
                if count.is_none() && is_of_userspace(*counter) && !in_userspace {
                    continue;
                }
                let value = counter.name().to_ascii_lowercase();
                let mut labels: Labels<'_> = vec![("tunnel", &*report.name)];
                labels.extend(family.label().map(|label| (label, &*value)));
                ConstCounter::new(count.unwrap_or_default())
                    .encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn identity(report: &Report, connection: &ConnectionReport) -> Vec<(&'static str, String)> {
    let server = &connection.server;
    [
        ("tunnel", &report.name),
        ("server", &server.host),
        ("address", &server.address),
        ("port", &server.port.to_string()),
        ("transport", &server.transport),
        ("device", &connection.device),
        ("data_path", &connection.data_path.name),
        ("cipher", &connection.cipher),
    ]
    .map(|(name, value)| (name, value.clone()))
    .into()
}
