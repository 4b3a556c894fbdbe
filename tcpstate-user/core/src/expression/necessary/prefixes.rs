//! Clauses about addresses, and how the BPF programs get them.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net};
use tcpstate_common::config::{MAX_PREFIXES, Prefix, prefix_flags};

use super::super::{Node, facts::Side, term::Term, words::Ends};

/// One of the v4-mapped addresses.
const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

/// One of these is true.
pub(super) type Clause = Vec<Literal>;

/// An address has a prefix, or has it not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Literal {
    ends: Ends,
    prefix: IpNet,
    is_negated: bool,
}

impl Literal {
    /// `None`: the programs cannot check it. To them the IPv4 addresses are a part of IPv6, the v4-mapped ones; so of the
    /// IPv6 prefixes that have these, they know only the one that has all others too: it is "not IPv4".
    pub(super) fn new(side: Side, prefix: IpNet, is_negated: bool) -> Option<Self> {
        let literal = |prefix, is_negated| Self {
            ends: Ends::One(side),
            prefix,
            is_negated,
        };
        match prefix.trunc() {
            IpNet::V6(net) if net.prefix_len() == 0 => {
                Some(literal(Ipv4Net::default().into(), !is_negated))
            }
            IpNet::V6(net) if net.contains(&MAPPED) || net.addr().to_ipv4_mapped().is_some() => {
                None
            }
            prefix => Some(literal(prefix, is_negated)),
        }
    }

    fn node(self) -> Node {
        let term = Node::Term(Term::Host {
            ends: self.ends,
            prefix: Some(self.prefix),
            port: None,
        });
        if self.is_negated {
            Node::Not(Box::new(term))
        } else {
            term
        }
    }

    fn encoded(self, is_last: bool) -> Prefix {
        let (address, mask) = octets(self.prefix);
        let mut flags = match self.ends {
            Ends::One(Side::Local) => prefix_flags::LOCAL,
            Ends::One(Side::Remote) => prefix_flags::REMOTE,
            Ends::Either => prefix_flags::LOCAL | prefix_flags::REMOTE,
        };
        for (bit, is_set) in [
            (prefix_flags::NOT, self.is_negated),
            (prefix_flags::LAST, is_last),
        ] {
            flags |= if is_set { bit } else { 0 };
        }
        Prefix {
            address: words(address),
            mask: words(mask),
            flags,
            padding: 0,
        }
    }
}

/// The address of a prefix, and its mask; IPv4 as v4-mapped.
fn octets(prefix: IpNet) -> (Ipv6Addr, Ipv6Addr) {
    match prefix {
        IpNet::V4(net) => {
            let bits = 96 + u32::from(net.prefix_len());
            let mask = u128::MAX << (128 - bits);
            (net.network().to_ipv6_mapped(), mask.into())
        }
        IpNet::V6(net) => (net.network(), net.netmask()),
    }
}

/// As a [`Prefix`] has them: two words in memory order.
fn words(address: Ipv6Addr) -> [u64; 2] {
    let [a0, a1, a2, a3, a4, a5, a6, a7, rest @ ..] = address.octets();
    [
        u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        u64::from_ne_bytes(rest),
    ]
}

/// Puts the clauses first that leave out most.
pub(super) fn sort(clauses: &mut [Clause]) {
    clauses.sort_by_key(|clause| {
        let has_negated = clause.iter().any(|literal| literal.is_negated);
        (has_negated, clause.len())
    });
}

/// The conditions that fit into the programs' configuration: all clauses are true.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes(Vec<Clause>);

impl Prefixes {
    /// As many of the clauses as have room, and whether these are all.
    pub(super) fn of(clauses: &[Clause]) -> (Self, bool) {
        // That none of several prefixes is there is so many clauses, and may be fewer prefixes.
        let (excluding, others): (Vec<_>, Vec<_>) = clauses.iter().partition(|clause| {
            matches!(
                clause[..],
                [Literal {
                    is_negated: true,
                    ..
                }]
            )
        });
        let excluded: Vec<_> = excluding.into_iter().flatten().copied().collect();
        let mut all: Vec<Clause> = others.into_iter().map(joined).collect();
        sort(&mut all);
        all.extend(union(&excluded).into_iter().map(|literal| vec![literal]));
        let mut room = MAX_PREFIXES;
        let whole = all.len();
        all.retain(|clause| {
            let fits = clause.len() <= room;
            room -= if fits { clause.len() } else { 0 };
            fits
        });
        let all_fit = all.len() == whole;
        (Self(all), all_fit)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the programs read them.
    pub(super) fn encoded(&self) -> [Prefix; MAX_PREFIXES] {
        let mut encoded = [Prefix::default(); MAX_PREFIXES];
        let literals = self.0.iter().flat_map(|clause| {
            let last = clause.len() - 1;
            let literals = clause.iter().enumerate();
            literals.map(move |(at, literal)| literal.encoded(at == last))
        });
        for (place, literal) in encoded.iter_mut().zip(literals) {
            *place = literal;
        }
        encoded
    }

    /// As parts of an expression.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> {
        self.0.iter().filter_map(|clause| {
            let literals = clause.iter().map(|literal| literal.node());
            Node::joined(literals.collect(), Node::Or)
        })
    }
}

/// The same clause with as few conditions as can be.
fn joined(clause: &Clause) -> Clause {
    let (negated, found): (Vec<_>, Vec<_>) = clause.iter().partition(|one| one.is_negated);
    let mut all = union(&found);
    all.extend(negated);
    all
}

/// The same addresses, in as few prefixes as can be: several of one end that are one, and one that both ends have. Either
/// all of them are negated or none is.
fn union(literals: &[Literal]) -> Vec<Literal> {
    let [local, remote] = [Side::Local, Side::Remote].map(|side| {
        let of_side = literals.iter().filter(|one| one.ends == Ends::One(side));
        IpNet::aggregate(&of_side.map(|one| one.prefix).collect())
    });
    let is_negated = literals.iter().any(|one| one.is_negated);
    let literal = |ends, prefix| Literal {
        ends,
        prefix,
        is_negated,
    };
    let of_local = local.iter().map(|&prefix| {
        let is_of_both = remote.contains(&prefix);
        let ends = Ends::One(Side::Local);
        literal(if is_of_both { Ends::Either } else { ends }, prefix)
    });
    let only_remote = remote.iter().filter(|prefix| !local.contains(prefix));
    let of_remote = only_remote.map(|&prefix| literal(Ends::One(Side::Remote), prefix));
    of_local.chain(of_remote).collect()
}
