//! Which server to try: remotes, their resolved addresses, and the order of both. Pure.

use std::net::SocketAddr;

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use crate::profile::{Options, Remote};

/// How far to move before the next attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Advance {
    /// The same address again, after nothing that speaks against it: not an unsuccessful attempt.
    Again,
    /// The same address again, after an unsuccessful attempt.
    Stay,
    /// The next address of this remote, or the next remote after the last one.
    Address,
    /// The next remote.
    Remote,
}

/// The remotes of a profile, walked round for ever: all addresses of one, then the next.
#[derive(Debug)]
pub(super) struct Remotes {
    list: Vec<Remote>,
    /// What each was last resolved to, the address that worked first; for when it cannot be
    /// resolved.
    known: Vec<Vec<SocketAddr>>,
    current: usize,
    /// Addresses of the current remote; empty until resolved.
    addresses: Vec<SocketAddr>,
    address: usize,
    /// Full rounds without a successful connection.
    rounds: u32,
    /// Unsuccessful attempts after which the address stayed, beyond those rounds. As many as there
    /// are remotes make a round: a server that is never left may not be asked for ever either.
    stays: usize,
}

impl Remotes {
    pub(super) fn new(options: &Options, rng: &mut impl Rng) -> Self {
        let mut list = options.remotes.clone();
        if options.remote_random {
            list.shuffle(rng);
        }
        if options.remote_random_hostname {
            for remote in &mut list {
                // A literal address has no names below it.
                if remote.host.parse::<std::net::IpAddr>().is_err() {
                    let label: u64 = rng.random::<u64>() & 0xffff_ffff_ffff;
                    remote.host = format!("{label:012x}.{}", remote.host);
                }
            }
        }
        let known = vec![Vec::new(); list.len()];
        Self { list, known, current: 0, addresses: Vec::new(), address: 0, rounds: 0, stays: 0 }
    }

    /// The remote to try; a profile has at least one.
    pub(super) fn current(&self) -> Option<&Remote> {
        self.list.get(self.current)
    }

    /// The address to try; `None`: the remote must be resolved first.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.addresses.get(self.address).copied()
    }

    /// The current remote's addresses, in the resolver's order.
    pub(super) fn resolved(&mut self, addresses: Vec<SocketAddr>) {
        if let Some(known) = self.known.get_mut(self.current) {
            known.clone_from(&addresses);
        }
        self.addresses = addresses;
        self.address = 0;
    }

    /// Whether the current remote has been resolved before.
    pub(super) fn is_known(&self) -> bool {
        self.known.get(self.current).is_some_and(|known| !known.is_empty())
    }

    /// It cannot be resolved: the addresses it had before are to be tried. False if it has none.
    pub(super) fn recall(&mut self) -> bool {
        if let Some(known) = self.known.get(self.current) {
            self.addresses.clone_from(known);
        }
        self.address = 0;
        !self.addresses.is_empty()
    }

    /// Full rounds over all remotes since the last success.
    pub(super) const fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Whether every address of every remote has been tried once the present one has.
    pub(super) fn completes_round(&self) -> bool {
        self.address + 1 >= self.addresses.len() && self.current + 1 >= self.list.len()
    }

    /// A connection worked: counting starts again, and the address is kept for the next attempt.
    pub(super) fn succeeded(&mut self) {
        self.rounds = 0;
        self.stays = 0;
        let worked = self.address();
        if let Some(known) = self.known.get_mut(self.current) {
            known.sort_by_key(|address| Some(*address) != worked);
        }
    }

    pub(super) fn advance(&mut self, how: Advance) {
        match how {
            Advance::Again => {}
            Advance::Stay => {
                self.stays += 1;
                if self.stays >= self.list.len() {
                    self.stays = 0;
                    self.rounds = self.rounds.saturating_add(1);
                }
            }
            Advance::Address if self.address + 1 < self.addresses.len() => self.address += 1,
            Advance::Address | Advance::Remote => {
                self.addresses.clear();
                self.address = 0;
                self.current += 1;
                if self.current >= self.list.len() {
                    self.current = 0;
                    self.rounds = self.rounds.saturating_add(1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::profile::{NoFiles, Profile};

    fn remotes(profile: &str) -> Remotes {
        let fingerprint = ["00"; 32].join(":");
        let text = format!(
            "client\ndev tun\npeer-fingerprint {fingerprint}\nauth-user-pass\n\
             setenv CLIENT_CERT 0\n{profile}"
        );
        let profile = Profile::parse(&text, "test", &NoFiles).unwrap();
        Remotes::new(&profile.options, &mut StdRng::seed_from_u64(1))
    }

    fn host(remotes: &Remotes) -> &str {
        &remotes.current().unwrap().host
    }

    #[test]
    fn all_addresses_of_a_remote_then_the_next_remote() {
        let mut remotes = remotes("remote a.example\nremote b.example\n");
        assert_eq!(remotes.address(), None);
        let [first, second]: [SocketAddr; 2] =
            ["192.0.2.1:1194", "[2001:db8::1]:1194"].map(|a| a.parse().unwrap());
        remotes.resolved(vec![first, second]);
        assert_eq!(remotes.address(), Some(first));
        remotes.advance(Advance::Again);
        assert_eq!(remotes.address(), Some(first));
        remotes.advance(Advance::Address);
        assert_eq!(remotes.address(), Some(second));
        assert!(!remotes.completes_round());
        remotes.advance(Advance::Address);
        assert_eq!((host(&remotes), remotes.address()), ("b.example", None));
        assert_eq!(remotes.rounds(), 0);
        remotes.resolved(vec![first, second]);
        assert!(!remotes.completes_round());
        remotes.advance(Advance::Address);
        assert!(remotes.completes_round());
        remotes.advance(Advance::Remote);
        assert_eq!((host(&remotes), remotes.rounds()), ("a.example", 1));
        remotes.succeeded();
        assert_eq!(remotes.rounds(), 0);
    }

    #[test]
    fn addresses_are_remembered_for_when_nothing_resolves() {
        let mut remotes = remotes("remote a.example\nremote b.example\n");
        let [first, second]: [SocketAddr; 2] =
            ["192.0.2.1:1194", "192.0.2.2:1194"].map(|a| a.parse().unwrap());
        assert!(!remotes.is_known() && !remotes.recall());
        remotes.resolved(vec![first, second]);
        remotes.advance(Advance::Address);
        remotes.succeeded();
        remotes.advance(Advance::Address);
        assert!(!remotes.is_known() && !remotes.recall(), "b has none");
        remotes.advance(Advance::Remote);
        assert!(remotes.is_known());
        assert_eq!(remotes.address(), None, "resolving comes first");
        assert!(remotes.recall());
        assert_eq!(remotes.address(), Some(second), "it has worked");
        remotes.advance(Advance::Address);
        assert_eq!(remotes.address(), Some(first));
    }

    #[test]
    fn attempts_at_one_address_make_rounds_too() {
        let mut remotes = remotes("remote a.example\nremote b.example\n");
        for rounds in [0, 1, 1, 2] {
            remotes.advance(Advance::Stay);
            assert_eq!((host(&remotes), remotes.rounds()), ("a.example", rounds));
        }
        remotes.advance(Advance::Stay);
        remotes.succeeded();
        for _ in 0..3 {
            remotes.advance(Advance::Again);
        }
        remotes.advance(Advance::Stay);
        assert_eq!(remotes.rounds(), 0);
    }

    #[test]
    fn random_labels_and_order() {
        let remotes = remotes("remote-random-hostname\nremote a.example\nremote 192.0.2.7\n");
        let hosts: Vec<_> = remotes.list.iter().map(|r| r.host.as_str()).collect();
        let (label, rest) = hosts[0].split_once('.').unwrap();
        assert_eq!((label.len(), rest), (12, "a.example"));
        assert!(label.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(hosts[1], "192.0.2.7");
    }
}
