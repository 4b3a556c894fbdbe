//! One condition of an expression, and whether it is true of a socket.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use tcpstate_common::State;

use super::{
    facts::{Bounds, Facts, Field, Side},
    truth::Truth,
    words::Ends,
};
use crate::{
    escape::Printable,
    filter::{CauseSet, CgroupTree, Family, PortSet, StateSet},
    names::{Cgroup, Pod},
    owner::Comm,
    service::Role,
    workload::has_unit_type,
};

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Equal,
    Less,
    Greater,
    AtMost,
    AtLeast,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Term {
    /// No prefix: any address; no port: any port.
    Host {
        ends: Ends,
        prefix: Option<IpNet>,
        port: Option<u16>,
    },
    Port(Ends, Op, u16),
    Ports(Ends, PortSet),
    /// Both bounds are in it.
    PortRange(u16, u16),
    Service(Op, u16),
    Family(Family),
    State(StateSet),
    OldState(StateSet),
    NewState(StateSet),
    Cause(CauseSet),
    Role(Role),
    Netns(u32),
    Uid(u32),
    Cgroup(CgroupTree),
    Unit(Vec<Glob>),
    Container(Vec<Glob>),
    Pod(Vec<Glob>),
    Pid(Op, u32),
    Comm(Vec<Glob>),
    /// These very names.
    Name(Vec<Comm>),
    Number(Field, Op, u64),
}

impl Term {
    pub(super) fn judge(&self, facts: &impl Facts) -> Truth {
        match self {
            &Self::Host { ends, prefix, port } => at(ends, |side| {
                let port = port.map(|port| is(facts.port(side), |found| found == port));
                let prefix = prefix
                    .map(|prefix| is(facts.address(side), |found: IpAddr| prefix.contains(&found)));
                Truth::all(port.into_iter().chain(prefix))
            }),
            &Self::Port(ends, op, port) => at(ends, |side| {
                is(facts.port(side), |found| op.holds(found, port))
            }),
            Self::Ports(ends, ports) => at(*ends, |side| {
                is(facts.port(side), |found| ports.contains(found))
            }),
            &Self::PortRange(first, last) => at(Ends::Either, |side| {
                is(facts.port(side), |found| (first..=last).contains(&found))
            }),
            &Self::Service(op, port) => is(facts.service_port(), |found| op.holds(found, port)),
            &Self::Family(family) => is(facts.is_ipv4(), |is_ipv4| {
                is_ipv4 == (family == Family::Ipv4)
            }),
            &Self::State(states) => facts.is_in(states),
            &Self::OldState(states) => is(facts.oldstate(), |state| states.contains(state)),
            &Self::NewState(states) => is(facts.newstate(), |state| states.contains(state)),
            Self::Cause(causes) => facts.ended_by(causes),
            &Self::Role(role) => is(facts.role(), |found| found == role),
            &Self::Netns(netns) => is(facts.netns(), |found| found == netns),
            &Self::Uid(uid) => is(facts.uid(), |found| found == uid),
            Self::Cgroup(tree) => facts.is_below(tree),
            Self::Unit(globs) => facts.judge_cgroup(&|cgroup| is_unit(cgroup, globs)),
            Self::Container(globs) => facts.judge_cgroup(&|cgroup| is_container(cgroup, globs)),
            Self::Pod(globs) => facts.judge_cgroup(&|cgroup| is_pod(cgroup, globs)),
            &Self::Pid(op, pid) => {
                facts.any_process(&|found, _| is(found, |found| op.holds(found, pid)))
            }
            Self::Comm(globs) => facts.any_process(&|_, comm| {
                is(comm, |comm| {
                    globs.iter().any(|glob| glob.matches_comm(comm.as_bytes()))
                })
            }),
            Self::Name(names) => facts.any_process(&|_, comm| {
                is(comm, |comm| {
                    names.iter().any(|name| name.as_bytes() == comm.as_bytes())
                })
            }),
            &Self::Number(field, ..) if !facts.has(field) => Truth::No,
            &Self::Number(field, op, number) => facts
                .number(field)
                .map_or(Truth::Unknown, |bounds| op.of(bounds, number)),
        }
    }

    /// Whether its value can be less or more than another.
    pub(super) const fn has_order(&self) -> bool {
        matches!(
            self,
            Self::Port(..) | Self::Service(..) | Self::Pid(..) | Self::Number(..)
        )
    }

    /// Whether it is about the socket itself, and so about all of its events alike.
    pub(super) const fn is_lasting(&self) -> bool {
        !matches!(
            self,
            Self::State(_)
                | Self::OldState(_)
                | Self::NewState(_)
                | Self::Cause(_)
                | Self::Number(..)
        )
    }

    /// Whether an event alone does not tell: it takes what came before.
    pub(super) const fn needs_history(&self) -> bool {
        matches!(
            self,
            Self::Service(..)
                | Self::Role(_)
                | Self::Uid(_)
                | Self::Cgroup(_)
                | Self::Unit(_)
                | Self::Container(_)
                | Self::Pod(_)
                | Self::Pid(..)
                | Self::Comm(_)
                | Self::Name(_)
                | Self::Number(Field::Dwell | Field::Lifetime | Field::Handshake, ..)
        )
    }

    /// The word of its field, if no packet tells it: it is the kernel's alone.
    pub(super) const fn only_in_kernel(&self) -> Option<&'static str> {
        match self {
            Self::Netns(_) => Some("netns"),
            Self::Uid(_) => Some("uid"),
            Self::Cgroup(_) => Some("cgroup"),
            Self::Unit(_) => Some("unit"),
            Self::Container(_) => Some("container"),
            Self::Pod(_) => Some("pod"),
            Self::Pid(..) => Some("pid"),
            Self::Comm(_) | Self::Name(_) => Some("comm"),
            Self::Number(Field::BytesSent, ..) => Some("bytes_sent"),
            Self::Number(Field::BytesReceived, ..) => Some("bytes_received"),
            Self::Number(Field::Retransmits, ..) => Some("retransmits"),
            Self::Number(Field::Srtt, ..) => Some("srtt"),
            Self::Host { .. }
            | Self::Port(..)
            | Self::Ports(..)
            | Self::PortRange(..)
            | Self::Service(..)
            | Self::Family(_)
            | Self::State(_)
            | Self::OldState(_)
            | Self::NewState(_)
            | Self::Cause(_)
            | Self::Role(_)
            | Self::Number(Field::Dwell | Field::Lifetime | Field::Handshake, ..) => None,
        }
    }

    pub(super) const fn needs_process(&self) -> bool {
        matches!(self, Self::Pid(..) | Self::Comm(_) | Self::Name(_))
    }

    pub(super) const fn needs_info(&self) -> bool {
        matches!(
            self,
            Self::Number(
                Field::BytesSent | Field::BytesReceived | Field::Retransmits | Field::Srtt,
                ..
            )
        )
    }
}

/// Whether something is true at these ends: at any of them.
fn at(ends: Ends, is_true: impl Fn(Side) -> Truth) -> Truth {
    match ends {
        Ends::One(side) => is_true(side),
        Ends::Either => Truth::any([Side::Local, Side::Remote].map(is_true)),
    }
}

/// Whether a cgroup is of a unit with one of these names.
fn is_unit(cgroup: &Cgroup, globs: &[Glob]) -> Truth {
    let unit = cgroup.unit();
    unit.is_some_and(|unit| globs.iter().any(|glob| glob.matches(unit)))
        .into()
}

/// Whether a cgroup is of a container with one of these ids or names.
fn is_container(cgroup: &Cgroup, globs: &[Glob]) -> Truth {
    let Some(id) = cgroup.container() else {
        return Truth::No;
    };
    let any = |is_true: &dyn Fn(&Glob) -> bool| globs.iter().any(is_true);
    if any(&|glob| glob.matches(id) || glob.begins_id(id)) {
        return Truth::Yes;
    }
    match cgroup.container_name() {
        Some(name) => any(&|glob| glob.matches(name)).into(),
        // Most runtimes do not show names; an id is asked for by its digits.
        None if any(&|glob| !glob.is_of_digits()) => Truth::Unknown,
        None => Truth::No,
    }
}

/// Whether a cgroup is of a pod with one of these UIDs or names.
fn is_pod(cgroup: &Cgroup, globs: &[Glob]) -> Truth {
    let Some(uid) = cgroup.pod_uid() else {
        return Truth::No;
    };
    let any = |is_true: &dyn Fn(&Glob) -> bool| globs.iter().any(is_true);
    if any(&|glob| glob.matches(uid)) {
        return Truth::Yes;
    }
    let is_named = |pod: &Pod| {
        any(&|glob| {
            glob.matches(if glob.0.contains('/') {
                pod.as_str()
            } else {
                pod.name()
            })
        })
    };
    is(cgroup.pod(), is_named)
}

fn is<T>(fact: Option<T>, is_true: impl FnOnce(T) -> bool) -> Truth {
    Truth::of(fact.map(is_true))
}

impl Op {
    const NAMES: [(Self, &str); 5] = [
        (Self::Equal, "="),
        (Self::Less, "<"),
        (Self::Greater, ">"),
        (Self::AtMost, "<="),
        (Self::AtLeast, ">="),
    ];

    fn holds<T: Copy + PartialOrd>(self, found: T, wanted: T) -> bool {
        match self {
            Self::Equal => found == wanted,
            Self::Less => found < wanted,
            Self::Greater => found > wanted,
            Self::AtMost => found <= wanted,
            Self::AtLeast => found >= wanted,
        }
    }

    /// Whether it holds for a number between these bounds.
    fn of(self, found: Bounds, wanted: u64) -> Truth {
        let Bounds { least, most } = found;
        let is_all = match self {
            Self::Equal => least == wanted && most == wanted,
            Self::Less | Self::AtMost => self.holds(most, wanted),
            Self::Greater | Self::AtLeast => self.holds(least, wanted),
        };
        let is_none = match self {
            Self::Equal => most < wanted || least > wanted,
            Self::Less | Self::AtMost => !self.holds(least, wanted),
            Self::Greater | Self::AtLeast => !self.holds(most, wanted),
        };
        match (is_all, is_none) {
            (true, _) => Truth::Yes,
            (false, true) => Truth::No,
            (false, false) => Truth::Unknown,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(op, _)| op == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

/// A pattern of names: `*` stands for any bytes, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(String);

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// The kernel cuts names at this length, so a longer pattern without a `*` is cut too.
    fn matches_comm(&self, name: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        let length = size_of::<Comm>() - 1;
        let cut = pattern.get(..length).filter(|cut| !cut.contains(&b'*'));
        let pattern = cut.filter(|_| name.len() == length).unwrap_or(pattern);
        Self::fits(pattern, name)
    }

    fn matches(&self, name: &str) -> bool {
        Self::fits(self.0.as_bytes(), name.as_bytes())
    }

    /// Completes the name of a unit without a type: as for systemctl, it is a service.
    pub(super) fn complete_unit(&mut self) {
        if !self.0.contains(['*', '?']) && !has_unit_type(&self.0) {
            self.0.push_str(".service");
        }
    }

    /// Whether it is the beginning of a container's id, as the tools of containers show and take it.
    fn begins_id(&self, id: &str) -> bool {
        const SHORTEST: usize = 12;
        self.0.len() >= SHORTEST && id.starts_with(&self.0)
    }

    /// Whether it is made of hexadecimal digits.
    fn is_of_digits(&self) -> bool {
        let mut bytes = self.0.bytes();
        bytes.all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'*' | b'?'))
    }

    fn fits(pattern: &[u8], name: &[u8]) -> bool {
        // From where to go on when what follows the last `*` does not fit: one byte later.
        let (mut pattern, mut name) = (pattern, name);
        let mut star = None;
        loop {
            match (pattern, name) {
                ([b'*', rest @ ..], _) => {
                    star = Some((rest, name));
                    pattern = rest;
                }
                ([b'?', rest @ ..], [_, others @ ..]) => (pattern, name) = (rest, others),
                ([byte, rest @ ..], [other, others @ ..]) if byte == other => {
                    (pattern, name) = (rest, others);
                }
                ([], []) => return true,
                _ => match star {
                    Some((after, [_, others @ ..])) => {
                        star = Some((after, others));
                        (pattern, name) = (after, others);
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { ends, prefix, port } => {
                let word = ends.pick("src", "dst", "host");
                match prefix {
                    None => write!(f, "{word} *")?,
                    Some(IpNet::V4(net)) => write!(f, "{word} {net}")?,
                    Some(IpNet::V6(net)) => {
                        write!(f, "{word} [{}]/{}", net.addr(), net.prefix_len())?;
                    }
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Port(ends, op, port) => {
                write!(f, "{} {op} {port}", ends.pick("sport", "dport", "port"))
            }
            Self::Ports(ends, ports) => {
                write!(f, "{} {ports}", ends.pick("sport", "dport", "port"))
            }
            Self::PortRange(first, last) => write!(f, "portrange {first}-{last}"),
            Self::Service(op, port) => write!(f, "service {op} {port}"),
            Self::Family(Family::Ipv4) => f.write_str("family ipv4"),
            Self::Family(Family::Ipv6) => f.write_str("family ipv6"),
            Self::State(states) => {
                let (syn_recv, request) = (State::SYN_RECV, State::NEW_SYN_RECV);
                let listed = listed(*states);
                if listed.is_empty() {
                    return f.write_str("exclude all");
                }
                write!(f, "state {listed}")?;
                if states.contains(syn_recv) && !states.contains(request) {
                    write!(f, " exclude {request}")?;
                }
                Ok(())
            }
            Self::OldState(states) => write!(f, "oldstate {}", listed(*states)),
            Self::NewState(states) => write!(f, "newstate {}", listed(*states)),
            Self::Cause(causes) => write!(f, "cause {causes}"),
            Self::Role(role) => write!(f, "role {}", role.name()),
            Self::Netns(netns) => write!(f, "netns {netns}"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Cgroup(tree) => write!(f, "cgroup {}", Quoted(&tree.path)),
            Self::Pid(op, pid) => write!(f, "pid {op} {pid}"),
            Self::Unit(globs) => write!(f, "unit {}", Globs(globs)),
            Self::Container(globs) => write!(f, "container {}", Globs(globs)),
            Self::Pod(globs) => write!(f, "pod {}", Globs(globs)),
            Self::Comm(globs) => write!(f, "comm {}", Globs(globs)),
            Self::Name(names) => {
                let names = names
                    .iter()
                    .map(|name| Printable(name.as_bytes()).to_string());
                let names: Vec<_> = names.collect();
                write!(f, "comm {}", Quoted(&names.join(",")))
            }
            Self::Number(field, op, number) => {
                let (name, unit) = match field {
                    Field::Dwell => ("dwell", "ns"),
                    Field::Lifetime => ("lifetime", "ns"),
                    Field::Handshake => ("handshake", "ns"),
                    Field::Srtt => ("srtt", "ns"),
                    Field::BytesSent => ("bytes_sent", ""),
                    Field::BytesReceived => ("bytes_received", ""),
                    Field::Retransmits => ("retransmits", ""),
                };
                write!(f, "{name} {op} {number}{unit}")
            }
        }
    }
}

/// Patterns as the parser reads them.
struct Globs<'a>(&'a [Glob]);

impl fmt::Display for Globs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|glob| glob.0.as_str()).collect();
        Quoted(&names.join(",")).fmt(f)
    }
}

/// The states of a set, as a list.
fn listed(states: StateSet) -> String {
    // `SYN_RECV` stands for a request socket too.
    let has_both = states.contains(State::SYN_RECV);
    let is_listed =
        |&state: &State| states.contains(state) && !(has_both && state == State::NEW_SYN_RECV);
    let listed = (1..=13).map(State).filter(is_listed);
    listed
        .map(|state| state.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

impl Ends {
    const fn pick(
        self,
        local: &'static str,
        remote: &'static str,
        either: &'static str,
    ) -> &'static str {
        match self {
            Self::One(Side::Local) => local,
            Self::One(Side::Remote) => remote,
            Self::Either => either,
        }
    }
}

/// A value as the parser reads it: with quotes where it would not be one word.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

#[cfg(test)]
mod tests;
