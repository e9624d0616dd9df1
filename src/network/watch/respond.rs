//! What a connection does about a network that has changed. Pure.

use std::net::IpAddr;
use std::time::Duration;

use super::Outside;

/// A stream that has been cut off for longer waits for its next retransmission as long again.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// Whether a server goes on with a client that comes from elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Roaming {
    /// It does: it knows the client by its peer-id, and datagrams may come from anywhere.
    Floats,
    /// Datagrams without a peer-id belong to their source address.
    Fixed,
    /// A stream has its addresses for good.
    Stream,
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outlook {
    /// Where packets to it come from, as the kernel would have it now; `None`: nothing leads to it
    /// but the tunnel, if anything.
    pub source: Option<IpAddr>,
    /// Everything outside.
    pub outside: Outside,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Response {
    /// Nothing.
    Stay,
    /// Nothing yet: the server cannot be reached.
    Wait,
    /// Something is to be sent at once: packets may go another way now, or go at all.
    Announce,
    /// Packets are to come from [`Outlook::source`], and something is to be sent at once.
    Rebind,
    /// A new connection, at once.
    Reconnect,
}

/// Decides for a connection whose packets come from `source`. `cut_off`: how long nothing has led to
/// the server, if that was so until now.
pub fn respond(
    source: IpAddr,
    roaming: Roaming,
    before: &Outlook,
    now: &Outlook,
    cut_off: Option<Duration>,
) -> Response {
    let Some(wanted) = now.source else { return Response::Wait };
    let moves = wanted != source;
    match roaming {
        Roaming::Floats if moves => Response::Rebind,
        Roaming::Fixed | Roaming::Stream if moves => Response::Reconnect,
        Roaming::Stream if cut_off.is_some_and(|time| time > STREAM_PATIENCE) => {
            Response::Reconnect
        }
        Roaming::Floats | Roaming::Fixed if before != now || cut_off.is_some() => {
            Response::Announce
        }
        _ => Response::Stay,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn outlook(source: Option<&str>) -> Outlook {
        Outlook { source: source.map(ip), outside: Outside::default() }
    }

    #[test]
    fn each_case() {
        use Roaming::{Fixed, Floats, Stream};
        let (here, there, nowhere) =
            (outlook(Some("192.0.2.1")), outlook(Some("198.51.100.1")), outlook(None));
        let short = Some(Duration::from_millis(500));
        let long = Some(Duration::from_secs(100));
        for (roaming, before, now, cut_off, expected) in [
            (Floats, &here, &here, None, Response::Stay),
            (Stream, &here, &here, None, Response::Stay),
            (Floats, &here, &there, None, Response::Rebind),
            (Fixed, &here, &there, None, Response::Reconnect),
            (Stream, &here, &there, None, Response::Reconnect),
            (Floats, &here, &nowhere, None, Response::Wait),
            (Stream, &nowhere, &nowhere, long, Response::Wait),
            (Floats, &nowhere, &here, long, Response::Announce),
            (Fixed, &nowhere, &here, short, Response::Announce),
            (Stream, &nowhere, &here, short, Response::Stay),
            (Stream, &nowhere, &here, long, Response::Reconnect),
            (Floats, &nowhere, &there, short, Response::Rebind),
        ] {
            let response = respond(ip("192.0.2.1"), roaming, before, now, cut_off);
            assert_eq!(response, expected, "{roaming:?} {before:?} {now:?} {cut_off:?}");
        }
    }

    proptest! {
        /// Whatever the network did: in the end the server knows where the client is, or the
        /// client knows that it cannot be reached.
        #[test]
        fn the_end_counts(
            roaming in prop_oneof![
                Just(Roaming::Floats),
                Just(Roaming::Fixed),
                Just(Roaming::Stream),
            ],
            changes in proptest::collection::vec((0_u8..4, 0_u64..5000), 0..20),
        ) {
            let place = |n: u8| Outlook {
                source: (n > 0).then(|| IpAddr::from([192, 0, 2, n])),
                outside: Outside::default(),
            };
            let mut before = place(1);
            let (mut source, mut known) = (ip("192.0.2.1"), ip("192.0.2.1"));
            let mut cut_off: Option<Duration> = None;
            for (n, milliseconds) in changes {
                let now = place(n);
                let response = respond(source, roaming, &before, &now, cut_off);
                match response {
                    Response::Rebind | Response::Reconnect => {
                        prop_assert_eq!(response == Response::Rebind, {
                            roaming == Roaming::Floats
                        });
                        source = now.source.unwrap();
                        known = source;
                    }
                    Response::Announce => known = source,
                    Response::Wait => prop_assert_eq!(now.source, None),
                    Response::Stay => {}
                }
                if let Some(wanted) = now.source {
                    prop_assert_eq!((source, known), (wanted, wanted));
                    cut_off = None;
                } else {
                    let time = Duration::from_millis(milliseconds);
                    cut_off = Some(cut_off.unwrap_or_default() + time);
                }
                before = now;
            }
        }
    }
}
