//! Everything that is counted: one list of names, and a value for each.
//!
//! A new counter is a line here, and the line that counts it. Whoever asks gets all of them: the
//! D-Bus property `statistics`, `SIGUSR2` on the command line.

macro_rules! counters {
    ($($(#[$doc:meta])+ $counter:ident => $name:literal,)+) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Counter {
            $($(#[$doc])+ $counter,)+
        }

        impl Counter {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$counter,)+];

            /// The name under which it is told. That of OpenVPN 3 Core (`error/error.hpp`,
            /// `log/sessionstats.hpp`), where that counts the same.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$counter => $name,)+
                }
            }
        }
    };
}

counters! {
    /// Bytes received from the server: whole packets, without IP, UDP and TCP length.
    BytesIn => "BYTES_IN",
    /// Bytes sent to the server.
    BytesOut => "BYTES_OUT",
    /// Packets received from the server.
    PacketsIn => "PACKETS_IN",
    /// Packets sent to the server.
    PacketsOut => "PACKETS_OUT",
    /// Bytes read from the host, towards the server.
    TunBytesIn => "TUN_BYTES_IN",
    /// Bytes given to the host.
    TunBytesOut => "TUN_BYTES_OUT",
    /// Packets read from the host.
    TunPacketsIn => "TUN_PACKETS_IN",
    /// Packets given to the host.
    TunPacketsOut => "TUN_PACKETS_OUT",

    /// A working connection was lost, or given up on request, and another attempt followed.
    Reconnects => "N_RECONNECT",
    /// Pauses on request.
    Pauses => "N_PAUSE",
    /// TLS handshakes of a working connection, whoever began them.
    Renegotiations => "N_RENEGOTIATION",
    /// Renegotiations because a key was nearly used up.
    KeyLimitRenegotiations => "N_KEY_LIMIT_RENEG",

    /// Data packets that failed authentication (user space only; the kernels do not tell).
    DecryptError => "DECRYPT_ERROR",
    /// Packets that were not new, of the control or the data channel.
    ReplayError => "REPLAY_ERROR",
    /// Packets that were framed or compressed in another way than agreed (user space only).
    CompressError => "COMPRESS_ERROR",
    /// Packets that the transport socket refused for good.
    NetworkSendError => "NETWORK_SEND_ERROR",
    /// Packets to the server that came back through the tunnel.
    RecursiveRouting => "RECURSIVE_ROUTING",

    /// A control packet that is none, or not of this connection.
    ControlChannelError => "CC_ERROR",
    /// Wrapping of a control packet: authentication failed.
    HmacError => "HMAC_ERROR",
    /// A packet for a key that is not there, or a key that could not be used.
    KeyStateError => "KEY_STATE_ERROR",
    /// A negotiation ran out of time.
    HandshakeTimeout => "HANDSHAKE_TIMEOUT",
    /// TLS failed.
    SslError => "SSL_ERROR",
    /// The server's early negotiation data is malformed.
    EarlyNegotiationInvalid => "EARLY_NEG_INVALID",
    /// A control packet could not be wrapped.
    EncapsulationError => "ENCAPSULATION_ERROR",

    /// A server's name had no address.
    ResolveError => "RESOLVE_ERROR",
    /// The proxy refused.
    ProxyError => "PROXY_ERROR",
    /// No socket could be kept out of the tunnel.
    SocketProtectError => "SOCKET_PROTECT_ERROR",
    /// The server's address could not be connected to.
    TransportError => "TRANSPORT_ERROR",
    /// A server did not answer.
    ConnectionTimeout => "CONNECTION_TIMEOUT",
    /// The server's certificate was not good.
    CertVerifyFail => "CERT_VERIFY_FAIL",
    /// No common TLS version.
    TlsVersionMin => "TLS_VERSION_MIN",
    /// The server ended TLS with an alert.
    TlsAlert => "TLS_ALERT_MISC",
    /// The last key expired without a successor.
    PrimaryExpire => "PRIMARY_EXPIRE",
    /// The server refused the login, or challenged.
    AuthFailed => "AUTH_FAILED",
    /// The server asked for another connection.
    ClientRestart => "CLIENT_RESTART",
    /// The server asked to end.
    ClientHalt => "CLIENT_HALT",
    /// Nothing was heard for as long as the keepalive allows.
    KeepaliveTimeout => "KEEPALIVE_TIMEOUT",
    /// The transport broke.
    NetworkEof => "NETWORK_EOF_ERROR",
    /// Too little went through the tunnel (`inactive`).
    InactiveTimeout => "INACTIVE_TIMEOUT",
    /// A data path failed while it was set up.
    TunError => "TUN_ERROR",
    /// The tunnel could not be set up as pushed.
    TunSetupFailed => "TUN_SETUP_FAILED",

    /// User space: reads of the TUN device that gave something.
    TunReads => "TUN_READS",
    /// User space: writes to the TUN device.
    TunWrites => "TUN_WRITES",
    /// User space: sends on the socket; many packets each where offload works.
    LinkSends => "LINK_SENDS",
    /// User space: receives on the socket.
    LinkReceives => "LINK_RECEIVES",
    /// User space: TCP acknowledgements not written, because a later one says more.
    AcknowledgementsSuperseded => "TUN_ACKS_SUPERSEDED",
    /// User space: packets of the host dropped because there was no peer or no key.
    TunDiscarded => "TUN_DISCARDED",
    /// User space: malformed or oversized packets of the host.
    TunMalformed => "TUN_MALFORMED",
    /// User space: writes that the TUN device refused.
    TunRefused => "TUN_REFUSED",
    /// User space: super-packets that the TUN device refused, and that were written one by one.
    TunOffloadRefused => "TUN_OFFLOAD_REFUSED",
    /// User space: `UDP_SEGMENT` sends that were refused, and sent again one by one.
    GsoRefused => "GSO_REFUSED",
    /// User space: sends answered with "connection refused", tried again.
    SendRefused => "SEND_REFUSED",
    /// User space: times the socket took nothing and the TUN device had to wait.
    SendBlocked => "SEND_BLOCKED",
    /// User space: messages that did not fit the receive buffer.
    ReceiveCut => "RECEIVE_CUT",
    /// User space: control packets dropped because nobody read them.
    ControlDropped => "CONTROL_DROPPED",
}

/// A value for each [`Counter`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// One counter's value.
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Adds to one counter.
    pub const fn add(&mut self, counter: Counter, amount: u64) {
        let value = &mut self.0[counter as usize];
        *value = value.saturating_add(amount);
    }

    /// One more of something that happened.
    pub const fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds all of another's.
    pub fn add_all(&mut self, other: &Self) {
        for (counter, amount) in other.iter() {
            self.add(counter, amount);
        }
    }

    /// What has been counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = self.clone();
        for (value, before) in later.0.iter_mut().zip(earlier.0) {
            *value = value.saturating_sub(before);
        }
        later
    }

    /// What is not zero, in the order of [`Counter::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|counter| (*counter, self.get(*counter))).filter(|(_, n)| *n > 0)
    }
}

impl FromIterator<(Counter, u64)> for Counters {
    fn from_iter<T: IntoIterator<Item = (Counter, u64)>>(amounts: T) -> Self {
        let mut counters = Self::default();
        for (counter, amount) in amounts {
            counters.add(counter, amount);
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_stands_for_two() {
        let names: BTreeSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        let shape = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        assert!(names.into_iter().all(shape));
    }

    #[test]
    fn what_is_zero_is_left_out() {
        let mut counters = Counters::default();
        assert_eq!(counters.iter().count(), 0);
        counters.count(Counter::Pauses);
        counters.add(Counter::BytesIn, u64::MAX);
        let mut twice = counters.clone();
        twice.add_all(&counters);
        let all: Vec<_> = twice.iter().collect();
        assert_eq!(all, [(Counter::BytesIn, u64::MAX), (Counter::Pauses, 2)]);
        let since: Vec<_> = twice.since(&counters).iter().map(|(c, n)| (c.name(), n)).collect();
        assert_eq!(since, [("N_PAUSE", 1)]);
    }
}
