//! The part of an expression that the kernel decides while it dumps sockets: their states, and their two ends. It knows
//! nothing here of the rest (processes, times, roles).
//!
//! It is necessary, not sufficient: the kernel leaves out only sockets that the expression rejects, and whoever asked judges
//! the others again. So what it cannot decide is taken for true, under a `not` too.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use tcpstate_common::State;

use super::{
    Expression, Node,
    facts::Side,
    term::{Op, Term},
    truth::Truth,
    words::Ends,
};
use crate::filter::{Family, StateMask, StateSet};

/// The most comparisons that the kernel makes for each socket. The rest is left to user space: so many take the kernel about as
/// long as describing a socket.
const MAX_CHECKS: usize = 256;
/// The most ranges of a list of ports; a longer one becomes the range from its first to its last.
const MAX_RANGES: usize = 64;

/// A condition on the two ends of a socket, as the kernel's dumps can check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndCondition {
    /// The port of this end is one of these; 0 is none.
    Port(Side, RangeInclusive<u16>),
    /// The address of this end is in the prefix. V4-mapped addresses are IPv4.
    Address(Side, IpNet),
    /// It is not.
    NotAddress(Side, IpNet),
    /// This protocol is on the wire.
    Family(Family),
    /// All are true; of none, always.
    All(Vec<Self>),
    /// Any is true; of none, never.
    Any(Vec<Self>),
}

/// The sockets that a dump has to have, so that it has those that an expression accepts and all that is said of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpCondition {
    /// In one of these states.
    pub states: StateMask,
    /// Without sockets of `AF_INET`: none of them can match.
    pub ipv6_only: bool,
    /// With such ends.
    pub ends: EndCondition,
    /// The part of it that the expression asks for.
    asked: (StateMask, EndCondition),
}

impl Expression {
    /// The sockets that a dump has to have for a list of those that match and are in one of the `states`.
    ///
    /// More of them than match, because the list says more than each socket does:
    ///
    /// - all listeners: roles, and the owners of connections that are not accepted, follow from them;
    /// - the half-open connections of the listeners that may match: they are counted.
    pub fn for_dump(&self, states: Option<StateSet>) -> DumpCondition {
        let given = StateMask::of(states.unwrap_or(StateSet::ALL));
        let (needed, ends) = self.0.as_ref().map_or_else(
            || (StateMask::ALL, EndCondition::ALWAYS),
            |node| (node.needed_states(false), node.needed_ends(false)),
        );
        let asked = given.within(needed);
        let ends = ends.bounded(&mut { MAX_CHECKS });
        let mut states = asked.with(StateMask::of(StateSet::of(State::LISTEN)));
        let mut all = vec![ends.clone()];
        if asked.has(State::LISTEN) && given.has(State::SYN_RECV) {
            let of_half_open = ends.of_half_open();
            if of_half_open != EndCondition::NEVER {
                states = states.with(StateMask::of(StateSet::of(State::SYN_RECV)));
                all.push(of_half_open);
            }
        }
        // A listener has no remote end.
        all.push(EndCondition::Port(Side::Remote, 0..=0));
        DumpCondition {
            states,
            // A half-open connection is of its listener's family, and no other listener of this one makes a role.
            ipv6_only: ends.of_inet() == Truth::No,
            ends: EndCondition::any(all),
            asked: (asked, ends),
        }
    }
}

impl EndCondition {
    /// True of every socket.
    pub const ALWAYS: Self = Self::All(Vec::new());
    /// True of none.
    pub const NEVER: Self = Self::Any(Vec::new());

    fn all(conditions: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for condition in conditions {
            match condition {
                Self::Any(none) if none.is_empty() => return Self::NEVER,
                Self::All(more) => more.into_iter().for_each(|one| push(&mut all, one)),
                one => push(&mut all, one),
            }
        }
        alone(all).unwrap_or_else(Self::All)
    }

    fn any(conditions: impl IntoIterator<Item = Self>) -> Self {
        let mut any = Vec::new();
        for condition in conditions {
            match condition {
                Self::All(none) if none.is_empty() => return Self::ALWAYS,
                Self::Any(more) => more.into_iter().for_each(|one| push(&mut any, one)),
                one => push(&mut any, one),
            }
        }
        alone(any).unwrap_or_else(Self::Any)
    }

    /// The port of this end is in one of these ranges, which are in order; negated, in none.
    fn ports(side: Side, ranges: &[RangeInclusive<u16>], is_negated: bool) -> Self {
        let ranges = if is_negated {
            between(ranges)
        } else {
            ranges.to_vec()
        };
        let ranges = match ranges.as_slice() {
            [first, .., last] if ranges.len() > MAX_RANGES => vec![*first.start()..=*last.end()],
            _ => ranges,
        };
        Self::any(ranges.into_iter().map(|range| {
            if range == (0..=u16::MAX) {
                Self::ALWAYS
            } else {
                Self::Port(side, range)
            }
        }))
    }

    /// With at most so many comparisons, of which it takes its own: the rest is taken for true.
    fn bounded(self, left: &mut usize) -> Self {
        match self {
            Self::All(all) => Self::all(all.into_iter().map(|one| one.bounded(left))),
            Self::Any(any) => Self::any(any.into_iter().map(|one| one.bounded(left))),
            one => match left.checked_sub(1) {
                Some(rest) => {
                    *left = rest;
                    one
                }
                None => Self::ALWAYS,
            },
        }
    }

    /// The condition on a half-open connection that its listener meets this one. Both have the local port in common, and the
    /// local address unless the listener is on any.
    fn of_half_open(&self) -> Self {
        let of = |is_possible: bool| {
            if is_possible {
                Self::ALWAYS
            } else {
                Self::NEVER
            }
        };
        match self {
            Self::Port(Side::Local, _) => self.clone(),
            Self::Port(Side::Remote, range) => of(range.contains(&0)),
            Self::Address(side, prefix) if !prefix.contains(&unspecified(prefix)) => match side {
                Side::Local => self.clone(),
                Side::Remote => Self::NEVER,
            },
            Self::Address(..) | Self::NotAddress(..) | Self::Family(_) => Self::ALWAYS,
            Self::All(all) => Self::all(all.iter().map(Self::of_half_open)),
            Self::Any(any) => Self::any(any.iter().map(Self::of_half_open)),
        }
    }

    /// Whether it is true of the sockets of `AF_INET`, all of them or none.
    fn of_inet(&self) -> Truth {
        match self {
            Self::Port(..) | Self::Address(_, IpNet::V4(_)) | Self::NotAddress(_, IpNet::V4(_)) => {
                Truth::Unknown
            }
            Self::Address(_, IpNet::V6(_)) => Truth::No,
            Self::NotAddress(_, IpNet::V6(_)) => Truth::Yes,
            Self::Family(family) => (*family == Family::Ipv4).into(),
            Self::All(all) => Truth::all(all.iter().map(Self::of_inet)),
            Self::Any(any) => Truth::any(any.iter().map(Self::of_inet)),
        }
    }

    /// Whether a socket with these ends meets it, each an address, which is not v4-mapped, and a port.
    pub fn holds(&self, local: (IpAddr, u16), remote: (IpAddr, u16)) -> bool {
        let end = |side: &Side| match side {
            Side::Local => local,
            Side::Remote => remote,
        };
        match self {
            Self::Port(side, range) => range.contains(&end(side).1),
            Self::Address(side, prefix) => prefix.contains(&end(side).0),
            Self::NotAddress(side, prefix) => !prefix.contains(&end(side).0),
            Self::Family(family) => {
                (local.0.is_ipv4() || remote.0.is_ipv4()) == (*family == Family::Ipv4)
            }
            Self::All(all) => all.iter().all(|one| one.holds(local, remote)),
            Self::Any(any) => any.iter().any(|one| one.holds(local, remote)),
        }
    }
}

/// A condition that is there already says nothing new.
fn push(all: &mut Vec<EndCondition>, one: EndCondition) {
    if !all.contains(&one) {
        all.push(one);
    }
}

/// The only one, or all.
fn alone(mut all: Vec<EndCondition>) -> Result<EndCondition, Vec<EndCondition>> {
    match all.pop() {
        Some(one) if all.is_empty() => Ok(one),
        Some(one) => {
            all.push(one);
            Err(all)
        }
        None => Err(all),
    }
}

/// The ranges of what is in none of these.
fn between(ranges: &[RangeInclusive<u16>]) -> Vec<RangeInclusive<u16>> {
    let mut gaps = Vec::new();
    let mut next = Some(0);
    for range in ranges {
        let Some(first) = next else { break };
        if let Some(last) = range.start().checked_sub(1).filter(|&last| last >= first) {
            gaps.push(first..=last);
        }
        next = range.end().checked_add(1);
    }
    gaps.extend(next.map(|first| first..=u16::MAX));
    gaps
}

/// The address that stands for any, of the same family.
fn unspecified(prefix: &IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Node {
    /// The states of the sockets that it does not reject; negated, of those that it does not accept.
    fn needed_states(&self, is_negated: bool) -> StateMask {
        let of = |nodes: &[Self], join: fn(StateMask, StateMask) -> StateMask| {
            let states = nodes.iter().map(|node| node.needed_states(is_negated));
            states.reduce(join).unwrap_or(StateMask::ALL)
        };
        match (self, is_negated) {
            (Self::Term(Term::State(states)), false) => StateMask::of(*states),
            (Self::Term(Term::State(states)), true) => StateMask::outside(*states),
            (Self::Term(_), _) => StateMask::ALL,
            (Self::Not(node), _) => node.needed_states(!is_negated),
            // By De Morgan.
            (Self::And(nodes), false) | (Self::Or(nodes), true) => of(nodes, StateMask::within),
            (Self::Or(nodes), false) | (Self::And(nodes), true) => of(nodes, StateMask::with),
        }
    }

    /// The same of their ends.
    fn needed_ends(&self, is_negated: bool) -> EndCondition {
        match (self, is_negated) {
            (Self::Term(term), _) => term.needed_ends(is_negated),
            (Self::Not(node), _) => node.needed_ends(!is_negated),
            (Self::And(nodes), false) | (Self::Or(nodes), true) => {
                EndCondition::all(nodes.iter().map(|node| node.needed_ends(is_negated)))
            }
            (Self::Or(nodes), false) | (Self::And(nodes), true) => {
                EndCondition::any(nodes.iter().map(|node| node.needed_ends(is_negated)))
            }
        }
    }
}

impl Term {
    fn needed_ends(&self, is_negated: bool) -> EndCondition {
        let at = |ends: Ends, of: &dyn Fn(Side) -> EndCondition| match ends {
            Ends::One(side) => of(side),
            Ends::Either if is_negated => EndCondition::all([Side::Local, Side::Remote].map(of)),
            Ends::Either => EndCondition::any([Side::Local, Side::Remote].map(of)),
        };
        let ports = |ends: Ends, ranges: &[RangeInclusive<u16>]| {
            at(ends, &|side| EndCondition::ports(side, ranges, is_negated))
        };
        match self {
            &Self::Host { ends, prefix, port } => at(ends, &|side| {
                let port = port.map(|port| EndCondition::ports(side, &[port..=port], is_negated));
                let address = prefix.map(|prefix| {
                    if is_negated {
                        EndCondition::NotAddress(side, prefix)
                    } else {
                        EndCondition::Address(side, prefix)
                    }
                });
                let both = port.into_iter().chain(address);
                if is_negated {
                    EndCondition::any(both)
                } else {
                    EndCondition::all(both)
                }
            }),
            &Self::Port(ends, op, port) => {
                ports(ends, &op.range(port).into_iter().collect::<Vec<_>>())
            }
            Self::Ports(ends, set) => {
                let ranges = set.ranges().map(|(first, last)| first..=last);
                ports(*ends, &ranges.collect::<Vec<_>>())
            }
            &Self::PortRange(first, last) => ports(Ends::Either, &[first..=last]),
            Self::Family(family) => EndCondition::Family(match (family, is_negated) {
                (Family::Ipv4, false) | (Family::Ipv6, true) => Family::Ipv4,
                (Family::Ipv6, false) | (Family::Ipv4, true) => Family::Ipv6,
            }),
            // The states have a condition of their own, and nothing of the rest is known in a dump: it names cgroups, but not
            // what is below them.
            Self::State(_)
            | Self::Service(..)
            | Self::OldState(_)
            | Self::NewState(_)
            | Self::Cause(_)
            | Self::Role(_)
            | Self::Netns(_)
            | Self::Uid(_)
            | Self::Cgroup(_)
            | Self::Unit(_)
            | Self::Container(_)
            | Self::Pod(_)
            | Self::Pid(..)
            | Self::Comm(_)
            | Self::Name(_)
            | Self::Number(..) => EndCondition::ALWAYS,
        }
    }
}

impl Op {
    /// The ports for which it holds; `None`: for none.
    fn range(self, port: u16) -> Option<RangeInclusive<u16>> {
        Some(match self {
            Self::Equal => port..=port,
            Self::Less => 0..=port.checked_sub(1)?,
            Self::Greater => port.checked_add(1)?..=u16::MAX,
            Self::AtMost => 0..=port,
            Self::AtLeast => port..=u16::MAX,
        })
    }
}

impl fmt::Display for DumpCondition {
    /// The part that the expression asks for, in its language; empty if that is every socket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (states, ends) = &self.asked;
        let has_states = *states != StateMask::ALL;
        if has_states {
            // `SYN_RECV` stands for a request socket too.
            let has_both = states.has(State::SYN_RECV);
            let is_named =
                |&state: &State| states.has(state) && !(has_both && state == State::NEW_SYN_RECV);
            let named = State::ALL.into_iter().filter(is_named);
            let named: Vec<_> = named.map(|state| state.to_string()).collect();
            if named.is_empty() {
                return f.write_str("exclude all");
            }
            write!(f, "state {}", named.join(","))?;
        }
        match ends {
            EndCondition::All(none) if none.is_empty() => Ok(()),
            ends if !has_states => ends.fmt(f),
            EndCondition::Any(_) => write!(f, " and ( {ends} )"),
            ends => write!(f, " and {ends}"),
        }
    }
}

impl fmt::Display for EndCondition {
    /// As an expression.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |side: &Side, local: &'static str, remote: &'static str| match side {
            Side::Local => local,
            Side::Remote => remote,
        };
        let address = |f: &mut fmt::Formatter<'_>, side: &Side, prefix: &IpNet| {
            let word = word(side, "src", "dst");
            match prefix {
                IpNet::V4(prefix) => write!(f, "{word} {prefix}"),
                IpNet::V6(prefix) => {
                    write!(f, "{word} [{}]/{}", prefix.addr(), prefix.prefix_len())
                }
            }
        };
        match self {
            Self::Port(side, range) => {
                let word = word(side, "sport", "dport");
                match (range.start(), range.end()) {
                    (first, last) if first == last => write!(f, "{word} = {first}"),
                    (0, last) => write!(f, "{word} <= {last}"),
                    (first, &u16::MAX) => write!(f, "{word} >= {first}"),
                    (first, last) => write!(f, "{word} {first}-{last}"),
                }
            }
            Self::Address(side, prefix) => address(f, side, prefix),
            Self::NotAddress(side, prefix) => {
                f.write_str("not ")?;
                address(f, side, prefix)
            }
            Self::Family(Family::Ipv4) => f.write_str("family ipv4"),
            Self::Family(Family::Ipv6) => f.write_str("family ipv6"),
            Self::All(all) => list(f, all, " and ", "src *"),
            Self::Any(any) => list(f, any, " or ", "not src *"),
        }
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    conditions: &[EndCondition],
    word: &str,
    of_none: &str,
) -> fmt::Result {
    if conditions.is_empty() {
        return f.write_str(of_none);
    }
    for (number, condition) in conditions.iter().enumerate() {
        if number > 0 {
            f.write_str(word)?;
        }
        match condition {
            EndCondition::All(_) | EndCondition::Any(_) => write!(f, "( {condition} )")?,
            condition => write!(f, "{condition}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
