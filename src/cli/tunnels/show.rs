//! Reports, for people.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::connect::{clock, scaled_bytes};
use crate::dbus::{ConnectionReport, Report, ServerReport, TunnelState};

/// Routes that are shown.
const ROUTES: usize = 6;

/// A table, or that there is none.
pub(super) fn list(reports: &[Report]) -> String {
    if reports.is_empty() {
        return "no tunnel is running\n".to_owned();
    }
    let mut rows =
        vec![["NAME", "STATE", "FOR", "SERVER", "DEVICE", "DATA", "PID"].map(str::to_owned)];
    rows.extend(reports.iter().map(|report| {
        let connection = report.connection.as_ref();
        let of = |text: fn(&ConnectionReport) -> &str| {
            connection.map_or_else(|| "-".to_owned(), |connection| text(connection).to_owned())
        };
        [
            report.name.clone(),
            report.state.name().to_owned(),
            clock(since(report.since)),
            of(|connection| &connection.server.host),
            of(|connection| &connection.device),
            of(|connection| &connection.data_path.name),
            report.process.pid.to_string(),
        ]
    }));
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width =
                rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            // Writing to a text cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One tunnel.
pub(super) fn status(report: &Report) -> String {
    let state = report.state.name().replace('-', " ");
    let mut text = format!("{}: {state} for {}", report.name, clock(since(report.since)));
    if !report.message.is_empty() {
        text.push_str(&format!(" ({})", report.message));
    }
    text.push('\n');
    let mut row = |what: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {what:<12}{value}");
        }
    };
    if let Some(connection) = &report.connection {
        row("server", &server(&connection.server));
        let reasons: Vec<_> =
            connection.data_path.reasons.iter().map(|reason| reason.text.as_str()).collect();
        let why =
            if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
        row("data path", &format!("{}{why}", connection.data_path.name));
        row("cipher", &connection.cipher);
        if let Some(tls) = &connection.tls {
            let agreed = format!("{}, {}, {}", tls.version, tls.cipher_suite, tls.key_exchange);
            row(
                "TLS",
                &match report.renegotiations {
                    0 => agreed,
                    1 => format!("{agreed}; renegotiated once"),
                    times => format!("{agreed}; renegotiated {times} times"),
                },
            );
        }
        row(
            "interface",
            &format!(
                "{}, MTU {}: {}",
                connection.device,
                connection.mtu,
                connection.addresses.join(", ")
            ),
        );
        row("routes", &routes(connection));
        if let Some(dns) = &connection.dns {
            let mut parts = vec![dns.servers.join(" ")];
            if !dns.search_domains.is_empty() {
                parts.push(format!("search {}", dns.search_domains.join(" ")));
            }
            if !dns.every_name {
                let domains = [&*dns.search_domains, &*dns.route_domains].concat();
                parts.push(format!("only for {}", domains.join(" ")));
            }
            row("DNS", &parts.join("; "));
        }
    }
    let count = |name: &str| report.counters.get(name).copied().unwrap_or_default();
    let (received, sent) = (count("BYTES_IN"), count("BYTES_OUT"));
    let bytes = |count: u64| scaled_bytes(i64::try_from(count).unwrap_or(i64::MAX));
    row("traffic", &format!("{} received, {} sent", bytes(received), bytes(sent)));
    if report.reconnects > 0 {
        row("reconnected", &format!("{} times", report.reconnects));
    }
    for problem in &report.problems {
        let what = if problem.error { "error" } else { "warning" };
        row(what, &format!("{} ago: {}", clock(since(problem.time)), problem.text));
    }
    let process = &report.process;
    row(
        "process",
        &format!("{}, for {}, {}", process.pid, clock(since(process.since)), report.profile),
    );
    text
}

fn server(server: &ServerReport) -> String {
    let ServerReport { host, address, port, transport } = server;
    let at = if address == host { String::new() } else { format!(" ({address})") };
    format!("{host}{at}, port {port}, {transport}")
}

/// One tunnel in a line, without its name.
pub(in crate::cli) fn summary(report: &Report) -> String {
    let state = report.state.name().replace('-', " ");
    match &report.connection {
        Some(connection) if report.state == TunnelState::Connected => {
            format!(
                "{state} to {}; {}, data path {}, {}",
                server(&connection.server),
                connection.device,
                connection.data_path.name,
                connection.addresses.join(", ")
            )
        }
        _ if report.message.is_empty() => state,
        _ => format!("{state}: {}", report.message),
    }
}

fn routes(connection: &ConnectionReport) -> String {
    let shown = connection.routes.iter().take(ROUTES).map(|route| match &*route.via {
        "tunnel" => route.destination.clone(),
        via => format!("{} ({via})", route.destination),
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    let more = connection.route_count.saturating_sub(ROUTES.min(connection.routes.len()) as u64);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn since(time: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(time))
}
