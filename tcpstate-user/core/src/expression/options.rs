//! The options that choose sockets, as conditions.

use super::{
    Expression, Node,
    facts::Side,
    term::{Op, Term},
    words::Ends,
};
use crate::filter::{Filter, OwnerFilter, StateSet};

impl From<StateSet> for Expression {
    fn from(states: StateSet) -> Self {
        Self(Some(Node::Term(Term::State(states))))
    }
}

impl From<&Filter> for Expression {
    fn from(filter: &Filter) -> Self {
        let ports = |ends, ports: &Option<_>| Some(Term::Ports(ends, ports.clone()?));
        let terms = [
            filter.netns.map(Term::Netns),
            filter.family.map(Term::Family),
            ports(Ends::One(Side::Local), &filter.lport),
            ports(Ends::One(Side::Remote), &filter.rport),
            ports(Ends::Either, &filter.port),
        ];
        let terms = terms.into_iter().flatten().map(Node::Term);
        Self(Node::joined(terms.collect(), Node::And))
    }
}

impl From<&OwnerFilter> for Expression {
    fn from(filter: &OwnerFilter) -> Self {
        let any = |terms: Vec<Term>| {
            let terms = terms.into_iter().map(Node::Term);
            Node::joined(terms.collect(), Node::Or)
        };
        let nodes = [
            any(filter
                .pids
                .iter()
                .map(|&pid| Term::Pid(Op::Equal, pid))
                .collect()),
            (!filter.comms.is_empty()).then(|| Node::Term(Term::Name(filter.comms.clone()))),
            any(filter.uids.iter().map(|&uid| Term::Uid(uid)).collect()),
            filter
                .cgroup
                .clone()
                .map(|tree| Node::Term(Term::Cgroup(tree))),
            filter.role.map(|role| Node::Term(Term::Role(role))),
        ];
        Self(Node::joined(
            nodes.into_iter().flatten().collect(),
            Node::And,
        ))
    }
}
