//! Servers: `remote`, `proto`, ports, and how to try them.

use super::{Call, Entry};
use crate::profile::draft::{Draft, RawRemote};
use crate::profile::options::{AuthRetry, Family, MAX_EXIT_NOTICES, Protocol};
use crate::profile::values::{MAX_DURATION, host, number, one_of, port, seconds, seconds_or_never};
use crate::profile::verdict::{Done, Outcome, Problem};

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("client", 0, 0, |d, _| {
        d.client = true;
        Ok(Done::Taken)
    }),
    Entry::apply("tls-client", 0, 0, |d, _| {
        d.tls_client = true;
        Ok(Done::Taken)
    }),
    Entry::apply("pull", 0, 0, |d, _| {
        d.pull = true;
        Ok(Done::Taken)
    }),
    Entry::apply("mode", 1, 1, |_, c| match c.word(0)? {
        "p2p" => Ok(Done::Taken),
        _ => Err(Problem::with_hint("only a client's mode is supported", "remove the line")),
    }),
    Entry::apply("remote", 1, 3, remote).in_connection(),
    Entry::apply("proto", 1, 1, |d, c| {
        d.endpoint(c).protocol = Some(protocol(c.word(0)?)?);
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("proto-force", 1, 1, |d, c| {
        d.proto_force = Some(protocol(c.word(0)?)?.0);
        Ok(Done::Taken)
    }),
    Entry::apply("port", 1, 1, |d, c| {
        d.endpoint(c).port = Some(port(c.word(0)?)?);
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("rport", 1, 1, |d, c| {
        d.endpoint(c).rport = Some(port(c.word(0)?)?);
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("lport", 1, 1, |d, c| {
        d.endpoint(c).lport = Some(number(c.word(0)?, 0, u16::MAX)?);
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("bind", 0, 1, |d, c| {
        d.endpoint(c).bind = Some(true);
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("nobind", 0, 0, |d, c| {
        d.endpoint(c).bind = Some(false);
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("local", 1, 2, |d, c| {
        let text = c.word(0)?;
        d.endpoint(c).local = Some(text.parse().map_err(|_| {
            Problem::with_hint(
                format!("'{text}' is not an address"),
                "write one of this host's addresses, not a name",
            )
        })?);
        Ok(Done::Taken)
    })
    .in_connection(),
    Entry::apply("explicit-exit-notify", 0, 1, |d, c| {
        let times = number(c.get(0).unwrap_or("1"), 0, 100)?;
        d.endpoint(c).exit_notify = Some(times);
        Ok(match times {
            0 => Done::Noted("a server over UDP is always told, once".to_owned()),
            1..=MAX_EXIT_NOTICES => Done::Taken,
            _ => Done::Noted(format!("at most {MAX_EXIT_NOTICES} notices are sent")),
        })
    })
    .in_connection(),
    Entry::apply("remote-random", 0, 0, |d, _| {
        d.options.remote_random = true;
        Ok(Done::Taken)
    }),
    Entry::apply("remote-random-hostname", 0, 0, |d, _| {
        d.options.remote_random_hostname = true;
        Ok(Done::Taken)
    }),
    Entry::apply("resolv-retry", 1, 1, |_, c| {
        if c.word(0)? != "infinite" {
            seconds(c.word(0)?, MAX_DURATION)?;
            return Ok(Done::Ignored(
                "each attempt looks a name up once; connect-retry-max limits the attempts"
                    .to_owned(),
            ));
        }
        Ok(Done::Taken)
    }),
    Entry::apply("connect-retry", 1, 2, connect_retry).in_connection(),
    Entry::apply("connect-retry-max", 1, 1, |d, c| {
        d.options.retry.rounds = match c.word(0)? {
            "unlimited" => None,
            n => Some(number(n, 0, u32::MAX)?).filter(|&n| n > 0),
        };
        Ok(for_all(c))
    })
    .in_connection(),
    Entry::apply("server-poll-timeout", 1, 1, server_poll_timeout),
    Entry::apply("connect-timeout", 1, 1, server_poll_timeout).in_connection(),
    Entry::apply("auth-retry", 1, 1, |d, c| {
        d.options.retry.auth_retry = match c.word(0)? {
            "none" => AuthRetry::None,
            "nointeract" => AuthRetry::NoInteract,
            "interact" => {
                d.options.retry.auth_retry = AuthRetry::None;
                let reason = "whether to ask again is up to the front end";
                return Ok(Done::Ignored(reason.to_owned()));
            }
            other => return Err(one_of(other, "none, nointeract, interact")),
        };
        Ok(Done::Taken)
    }),
];

/// What is one setting for the whole profile here, even if it stands in a `<connection>` block.
pub(super) fn for_all(call: &Call<'_>) -> Done {
    match call.block {
        Some(_) => Done::Noted("applies to every server of the profile".to_owned()),
        None => Done::Taken,
    }
}

fn remote(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let remote = RawRemote {
        line: call.line,
        host: host(call.word(0)?)?,
        port: call.get(1).map(port).transpose()?,
        protocol: call.get(2).map(protocol).transpose()?,
        block: call.block,
    };
    draft.remotes.push(remote);
    Ok(Done::Taken)
}

/// `udp`, `tcp` and their spellings of OpenVPN 2 and 3.
pub(super) fn protocol(text: &str) -> Result<(Protocol, Family), Problem> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix("-client").unwrap_or(&lower);
    let (base, family) = match name {
        "adaptive" => ("udp", Family::Any),
        _ => name
            .strip_suffix("v4")
            .or_else(|| name.strip_suffix('4'))
            .map(|b| (b, Family::V4))
            .or_else(|| {
                name.strip_suffix("v6").or_else(|| name.strip_suffix('6')).map(|b| (b, Family::V6))
            })
            .unwrap_or((name, Family::Any)),
    };
    match base {
        "udp" => Ok((Protocol::Udp, family)),
        "tcp" => Ok((Protocol::Tcp, family)),
        _ if name.starts_with("tcp") && name.ends_with("-server") => {
            Err(Problem::with_hint("a client cannot wait for connections", "write 'tcp'"))
        }
        _ => Err(one_of(text, "udp, udp4, udp6, tcp, tcp4, tcp6")),
    }
}

fn connect_retry(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let retry = &mut draft.options.retry;
    let initial = seconds(call.word(0)?, MAX_DURATION)?;
    let max = call.get(1).map(|n| seconds(n, MAX_DURATION)).transpose()?;
    retry.initial = initial;
    retry.max = max.unwrap_or(retry.max).max(initial);
    Ok(for_all(call))
}

fn server_poll_timeout(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    match seconds_or_never(call.word(0)?)? {
        Some(timeout) => draft.options.retry.server_poll_timeout = timeout,
        None => return Err(Problem::new("0 seconds leave no time to connect")),
    }
    Ok(for_all(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols() {
        for (text, expected) in [
            ("udp", (Protocol::Udp, Family::Any)),
            ("udp4", (Protocol::Udp, Family::V4)),
            ("UDPv6", (Protocol::Udp, Family::V6)),
            ("tcp", (Protocol::Tcp, Family::Any)),
            ("tcp-client", (Protocol::Tcp, Family::Any)),
            ("tcp6-client", (Protocol::Tcp, Family::V6)),
            ("tcpv4", (Protocol::Tcp, Family::V4)),
            ("adaptive", (Protocol::Udp, Family::Any)),
        ] {
            assert_eq!(protocol(text), Ok(expected), "{text}");
        }
        for text in ["tcp-server", "sctp", "", "udp5"] {
            assert!(protocol(text).is_err(), "{text}");
        }
    }
}
