//! The strongest condition that an expression implies and that the BPF programs can check.
//!
//! An expression is rewritten as clauses of which all are true. The programs know a few kinds of clauses: sets of
//! ports, of either end or of both; a family; a namespace; a cgroup; prefixes of addresses ([`prefixes`]). A clause of
//! another kind, or of two kinds, is left out, which makes the condition weaker and never wrong: all rules here hold in
//! Kleene's logic, so the condition is true or unknown wherever the expression is.

mod prefixes;

use std::fmt;

use tcpstate_common::config;

use self::prefixes::{Clause, Literal, Prefixes};
use super::{
    Expression, Node,
    facts::Side,
    term::{Op, Term},
    words::Ends,
};
use crate::filter::{CgroupTree, Family, KernelFilter, PortSet};

/// The condition that the BPF programs check for an expression.
#[derive(Clone, Debug, Default)]
pub struct Necessary {
    ports: [Option<PortSet>; 3],
    family: Option<Family>,
    netns: Option<u32>,
    cgroup: Option<CgroupTree>,
    prefixes: Prefixes,
    keeps_listeners: bool,
    rest: Expression,
}

impl Expression {
    /// The condition for the BPF programs. The expression does not match whatever they drop by it, now or when more is known;
    /// and if it takes the owners or roles of connections, they keep the listeners by which these are known.
    pub fn necessary(&self) -> Necessary {
        let Some(node) = &self.0 else {
            return Necessary::default();
        };
        let clauses = Clauses::of(node, false);
        let (prefixes, all_fit) = Prefixes::of(&clauses.addresses);
        let (ports, same) = clauses.port_sets();
        let is_whole = clauses.is_whole && all_fit && same;
        let rest = match node {
            _ if is_whole => None,
            // A word that is decided by itself is decided as a part, if nothing was left out.
            Node::And(nodes) if all_fit && same && clauses.has_all => {
                let rest = nodes
                    .iter()
                    .filter(|node| !Clauses::of(node, false).is_whole);
                Node::joined(rest.cloned().collect(), Node::And)
            }
            node => Some(node.clone()),
        };
        let of_more_than_local_ports = ports[1..].iter().any(Option::is_some)
            || clauses.family.is_some()
            || !prefixes.is_empty();
        Necessary {
            ports,
            family: clauses.family,
            netns: clauses.netns,
            cgroup: clauses.cgroup,
            prefixes,
            keeps_listeners: of_more_than_local_ports && self.needs_history(),
            rest: Self(rest),
        }
    }
}

impl Necessary {
    /// The configuration of the programs.
    pub fn kernel(&self) -> KernelFilter<'_> {
        let [lport, rport, port] = &self.ports;
        let config = config::Filter {
            cgroup: self.cgroup.as_ref().and_then(|tree| tree.id).unwrap_or(0),
            netns: self.netns.unwrap_or(0),
            family: self.family.map_or(0, Family::number),
            lport: u8::from(lport.is_some()),
            rport: u8::from(rport.is_some()),
            port: u8::from(port.is_some()),
            listeners: u8::from(self.keeps_listeners),
            padding: [0; 7],
            prefixes: self.prefixes.encoded(),
        };
        let bitmaps = self.ports.each_ref();
        KernelFilter::new(
            &config,
            bitmaps.map(|ports| ports.as_ref().map(PortSet::bitmap)),
        )
    }

    /// The part of the expression that it does not decide; all match it if there is none.
    pub const fn rest(&self) -> &Expression {
        &self.rest
    }

    /// The condition, without the exception for listeners.
    pub fn expression(&self) -> Expression {
        let ends = [LOCAL, REMOTE, Ends::Either];
        let ports = self.ports.iter().zip(ends).filter_map(|(ports, ends)| {
            let ports = ports.as_ref()?;
            // A list that somebody writes leaves out 0.
            Some(if ports.contains(0) && ends != Ends::Either {
                Node::Not(Box::new(Node::Term(Term::Ports(ends, ports.complement()))))
            } else {
                Node::Term(Term::Ports(ends, ports.clone()))
            })
        });
        let terms = [
            self.netns.map(Term::Netns),
            self.family.map(Term::Family),
            self.cgroup.clone().map(Term::Cgroup),
        ];
        let terms = terms.into_iter().flatten().map(Node::Term);
        let nodes: Vec<_> = terms.chain(ports).chain(self.prefixes.nodes()).collect();
        Expression(Node::joined(nodes, Node::And))
    }
}

impl fmt::Display for Necessary {
    /// As an expression; empty if all match.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression().fmt(f)
    }
}

const LOCAL: Ends = Ends::One(Side::Local);
const REMOTE: Ends = Ends::One(Side::Remote);

/// The most clauses about ports, and about addresses: an expression of any length takes bounded time.
const MAX_CLAUSES: (usize, usize) = (4, 2 * config::MAX_PREFIXES);
/// The most conditions in a clause about addresses, before those that are one prefix are joined.
const MAX_IN_CLAUSE: usize = 8 * config::MAX_PREFIXES;

/// A port of one of these ends is in its set; `None`: that of this end does not matter.
#[derive(Clone, Debug)]
struct PortClause {
    local: Option<PortSet>,
    remote: Option<PortSet>,
}

/// Clauses that are all true if an expression is.
#[derive(Clone, Debug)]
struct Clauses {
    ports: Vec<PortClause>,
    addresses: Vec<Clause>,
    family: Option<Family>,
    netns: Option<u32>,
    cgroup: Option<CgroupTree>,
    /// Whether the expression is true if they are.
    is_whole: bool,
    /// Whether there was room for all.
    has_all: bool,
}

impl Clauses {
    /// None: always true.
    const ALWAYS: Self = Self::none(true);
    /// None that the programs could check.
    const UNABLE: Self = Self::none(false);

    const fn none(is_whole: bool) -> Self {
        Self {
            ports: Vec::new(),
            addresses: Vec::new(),
            family: None,
            netns: None,
            cgroup: None,
            is_whole,
            has_all: true,
        }
    }

    fn of(node: &Node, is_negated: bool) -> Self {
        match (node, is_negated) {
            (Node::Term(term), _) => Self::of_term(term, is_negated),
            (Node::Not(node), _) => Self::of(node, !is_negated),
            // By De Morgan.
            (Node::And(nodes), false) | (Node::Or(nodes), true) => {
                let nodes = nodes.iter().map(|node| Self::of(node, is_negated));
                nodes.reduce(Self::and).unwrap_or(Self::ALWAYS)
            }
            (Node::Or(nodes), false) | (Node::And(nodes), true) => {
                let nodes = nodes.iter().map(|node| Self::of(node, is_negated));
                nodes.reduce(Self::or).unwrap_or(Self::UNABLE)
            }
        }
    }

    fn of_term(term: &Term, is_negated: bool) -> Self {
        match term {
            &Term::Host { ends, prefix, port } => at(ends, is_negated, |side| {
                let port =
                    port.map(|port| Self::of_port(side, PortSet::of_range(port, port), is_negated));
                let prefix = prefix.map(|prefix| {
                    let literal = Literal::new(side, prefix, is_negated);
                    literal.map_or(Self::UNABLE, |literal| Self {
                        addresses: vec![vec![literal]],
                        ..Self::ALWAYS
                    })
                });
                match (port, prefix) {
                    (Some(port), Some(prefix)) if is_negated => port.or(prefix),
                    (Some(port), Some(prefix)) => port.and(prefix),
                    (Some(one), None) | (None, Some(one)) => one,
                    // Any, or none.
                    (None, None) if is_negated => Self::UNABLE,
                    (None, None) => Self::ALWAYS,
                }
            }),
            &Term::Port(ends, op, port) => match ports(op, port) {
                Some(ports) => Self::of_ports(ends, &ports, is_negated),
                None => Self::UNABLE,
            },
            Term::Ports(ends, ports) => Self::of_ports(*ends, ports, is_negated),
            &Term::PortRange(first, last) => {
                Self::of_ports(Ends::Either, &PortSet::of_range(first, last), is_negated)
            }
            // It is one of the two ports.
            &Term::Service(op, port) if !is_negated => Self {
                is_whole: false,
                ..ports(op, port).map_or(Self::UNABLE, |ports| {
                    Self::of_ports(Ends::Either, &ports, false)
                })
            },
            &Term::Family(family) => Self {
                family: Some(match (family, is_negated) {
                    (Family::Ipv4, false) | (Family::Ipv6, true) => Family::Ipv4,
                    (Family::Ipv6, false) | (Family::Ipv4, true) => Family::Ipv6,
                }),
                ..Self::ALWAYS
            },
            &Term::Netns(netns) if !is_negated && netns != 0 => Self {
                netns: Some(netns),
                ..Self::ALWAYS
            },
            // The programs go up a bounded number of levels, and not in every attach mode.
            Term::Cgroup(tree) if !is_negated && tree.id.is_some() => Self {
                cgroup: Some(tree.clone()),
                ..Self::UNABLE
            },
            _ => Self::UNABLE,
        }
    }

    fn of_ports(ends: Ends, ports: &PortSet, is_negated: bool) -> Self {
        at(ends, is_negated, |side| {
            Self::of_port(side, ports.clone(), is_negated)
        })
    }

    fn of_port(side: Side, ports: PortSet, is_negated: bool) -> Self {
        let ports = if is_negated {
            ports.complement()
        } else {
            ports
        };
        let (local, remote) = match side {
            Side::Local => (Some(ports), None),
            Side::Remote => (None, Some(ports)),
        };
        Self {
            ports: vec![PortClause { local, remote }],
            ..Self::ALWAYS
        }
    }

    /// The number of clauses.
    fn count(&self) -> usize {
        self.ports.len()
            + self.addresses.len()
            + usize::from(self.family.is_some())
            + usize::from(self.netns.is_some())
            + usize::from(self.cgroup.is_some())
    }

    fn and(mut self, mut other: Self) -> Self {
        self.ports.append(&mut other.ports);
        self.addresses.append(&mut other.addresses);
        // Two different ones are never both true. Then one of them is still necessary.
        let has_all = [
            self.has_all,
            other.has_all,
            both(&mut self.family, other.family),
            both(&mut self.netns, other.netns),
            both(&mut self.cgroup, other.cgroup),
            join_ports(&mut self.ports),
            join_addresses(&mut self.addresses),
        ]
        .iter()
        .all(|&has_all| has_all);
        Self {
            is_whole: self.is_whole && other.is_whole && has_all,
            has_all,
            ..self
        }
    }

    /// Every clause of one or every clause of the other is true: so each of one, or each of the other.
    fn or(self, other: Self) -> Self {
        let pairs = self.count() * other.count();
        let mut either = Self {
            family: same(self.family, other.family),
            netns: same(self.netns, other.netns),
            cgroup: same(self.cgroup, other.cgroup),
            ..Self::ALWAYS
        };
        for one in &self.ports {
            either
                .ports
                .extend(other.ports.iter().map(|another| PortClause {
                    local: union(one.local.as_ref(), another.local.as_ref()),
                    remote: union(one.remote.as_ref(), another.remote.as_ref()),
                }));
        }
        for one in &self.addresses {
            for another in &other.addresses {
                let mut clause = one.clone();
                clause.extend(another.iter().filter(|literal| !one.contains(literal)));
                if clause.len() <= MAX_IN_CLAUSE {
                    either.addresses.push(clause);
                }
            }
        }
        let has_all_pairs = either.count() == pairs;
        let fits = join_ports(&mut either.ports) & join_addresses(&mut either.addresses);
        either.has_all = self.has_all && other.has_all && fits;
        either.is_whole = self.is_whole && other.is_whole && has_all_pairs && fits;
        either
    }

    /// The sets of local, remote and either ports, and whether they are as strong as the clauses.
    fn port_sets(&self) -> ([Option<PortSet>; 3], bool) {
        let mut sets = [None, None, None];
        let mut is_same = true;
        for clause in &self.ports {
            let (place, ports) = match (&clause.local, &clause.remote) {
                (Some(local), None) => (0, local.clone()),
                (None, Some(remote)) => (1, remote.clone()),
                (Some(local), Some(remote)) => {
                    is_same &= local == remote;
                    (2, local.clone().union(remote))
                }
                (None, None) => continue,
            };
            match sets.get_mut(place) {
                Some(set @ None) => *set = Some(ports),
                // There is one set for each.
                _ => is_same = false,
            }
        }
        (sets, is_same)
    }
}

/// The clauses about these ends: about any of them, or about all.
fn at(ends: Ends, is_negated: bool, of: impl Fn(Side) -> Clauses) -> Clauses {
    match ends {
        Ends::One(side) => of(side),
        Ends::Either if is_negated => of(Side::Local).and(of(Side::Remote)),
        Ends::Either => of(Side::Local).or(of(Side::Remote)),
    }
}

/// The ports for which a comparison holds; `None`: there are none.
fn ports(op: Op, port: u16) -> Option<PortSet> {
    let (first, last) = match op {
        Op::Equal => (port, port),
        Op::Less => (0, port.checked_sub(1)?),
        Op::AtMost => (0, port),
        Op::Greater => (port.checked_add(1)?, u16::MAX),
        Op::AtLeast => (port, u16::MAX),
    };
    Some(PortSet::of_range(first, last))
}

/// Joins two conditions of which a socket can fulfil one only. Whether both are kept.
fn both<T: PartialEq>(one: &mut Option<T>, other: Option<T>) -> bool {
    match (&*one, other) {
        (_, None) => true,
        (Some(one), Some(other)) => *one == other,
        (None, other) => {
            *one = other;
            true
        }
    }
}

fn same<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) if one == other => Some(one),
        _ => None,
    }
}

fn union(one: Option<&PortSet>, other: Option<&PortSet>) -> Option<PortSet> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.clone().union(other)),
        (one, other) => one.or(other).cloned(),
    }
}

/// Joins clauses about the same end, and leaves out those that follow from others. Whether all had room.
fn join_ports(clauses: &mut Vec<PortClause>) -> bool {
    let mut joined: Vec<PortClause> = Vec::new();
    for clause in clauses.drain(..) {
        let alike = joined.iter_mut().find_map(|one| match (one, &clause) {
            (
                PortClause {
                    local: Some(one),
                    remote: None,
                },
                PortClause {
                    local: Some(other),
                    remote: None,
                },
            )
            | (
                PortClause {
                    local: None,
                    remote: Some(one),
                },
                PortClause {
                    local: None,
                    remote: Some(other),
                },
            ) => Some((one, other.clone())),
            _ => None,
        });
        match alike {
            Some((one, other)) => *one = one.clone().intersection(&other),
            None => joined.push(clause),
        }
    }
    let is_part = |one: &Option<PortSet>, other: &Option<PortSet>| match (one, other) {
        (None, _) => true,
        (Some(one), Some(other)) => one.is_subset(other),
        (Some(_), None) => false,
    };
    without_implied(&mut joined, |one, other| {
        is_part(&one.local, &other.local) && is_part(&one.remote, &other.remote)
    });
    // Those about one end first: there is a set for each.
    joined.sort_by_key(|clause| clause.local.is_some() && clause.remote.is_some());
    let has_room = joined.len() <= MAX_CLAUSES.0;
    joined.truncate(MAX_CLAUSES.0);
    *clauses = joined;
    has_room
}

/// Leaves out the clauses that follow from others. Whether all had room.
fn join_addresses(clauses: &mut Vec<Clause>) -> bool {
    without_implied(clauses, |one, other| {
        one.iter().all(|literal| other.contains(literal))
    });
    prefixes::sort(clauses);
    let has_room = clauses.len() <= MAX_CLAUSES.1;
    clauses.truncate(MAX_CLAUSES.1);
    has_room
}

/// Removes each clause that another one implies.
fn without_implied<T>(clauses: &mut Vec<T>, implies: impl Fn(&T, &T) -> bool) {
    let mut at = 0;
    while let Some(clause) = clauses.get(at) {
        let mut others = clauses.iter().enumerate().filter(|&(other, _)| other != at);
        if others.any(|(_, other)| implies(other, clause)) {
            clauses.remove(at);
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests;
