//! Filter expressions: the language of ss(8) for "which sockets", on the command line of every command that watches or
//! lists them. The options that choose sockets become conditions too, so that there is one evaluator.
//!
//! ```text
//! dst 10.0.0.0/8 and dport = :443
//! state close-wait ( sport = :http or sport = :https ) not src [::1]
//! ```
//!
//! `words` has the vocabulary, `parse` the grammar, `term` what one condition says of a socket, `dump` which sockets the
//! kernel may leave out of a list. What is asked
//! of a socket comes in through [`Facts`], so that a listed socket, an event and a connection are judged by the
//! same rule.
//!
//! # Whole connections
//!
//! Most conditions are about a socket, and true of all its events alike. Some are about one change, or about the end
//! (`newstate`, `cause`, `lifetime`). A view that follows connections needs all events of each, so two expressions are
//! judged: first [`Expression::lasting`], which decides on whole connections; then the whole expression, on what is shown.
//!
//! # Differences to ss(8)
//!
//! - `and` binds tighter than `or`, as its manual says. The program takes both from left to right.
//! - A prefix of one family never matches an address of the other. In ss, `src 0.0.0.0/0` is true of everything, and
//!   `src [::]/64` of a listener on 0.0.0.0.
//! - A prefix of v4-mapped addresses is that of the IPv4 addresses in it: these sockets are IPv4 on the wire.
//! - `state` and `exclude` may stand anywhere and take lists; a row of them is one condition.
//! - `cgroup` is true of the cgroups below it too.
//! - `dev`, `fwmark` and `autobound` are refused.

mod change;
mod dump;
mod error;
mod facts;
mod lookup;
mod necessary;
mod options;
mod parse;
mod row;
mod stream;
mod term;
#[cfg(test)]
mod tests;
mod truth;
mod words;

use std::fmt;

use self::term::Term;
pub use self::{
    change::{Change, ChangeFacts},
    dump::{DumpCondition, EndCondition},
    error::ExpressionError,
    facts::{Bounds, Facts, Field, Side, Wanted, WantedCgroup},
    lookup::{Lookup, NoNames},
    necessary::Necessary,
    row::OpenConnection,
    stream::{Cgroups, EntryFacts, EventFacts},
    truth::Truth,
    words::{Moment, WORDS, Word},
};

/// A filter expression. The default matches every socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expression(Option<Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Term(Term),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

impl Expression {
    /// Reads an expression; an empty one matches all. `lookup` finds the numbers of names.
    pub fn parse(text: &str, lookup: &dyn Lookup) -> Result<Self, ExpressionError> {
        parse::parse(text, lookup, None).map(Self)
    }

    /// The same, for a command that judges at this moment: a field that is not known then is refused.
    pub fn parse_for(
        moment: Moment,
        text: &str,
        lookup: &dyn Lookup,
    ) -> Result<Self, ExpressionError> {
        parse::parse(text, lookup, Some(moment)).map(Self)
    }

    /// Matches what both match.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let both = [self.0, other.0].into_iter().flatten();
        let all = both.flat_map(|node| match node {
            Node::And(nodes) => nodes,
            node => vec![node],
        });
        Self(Node::joined(all.collect(), Node::And))
    }

    /// The part that must be true of the socket itself, at all of its events alike, for this to be true of any of them.
    #[must_use]
    pub fn lasting(&self) -> Self {
        Self(self.0.as_ref().and_then(|node| node.lasting(false)))
    }

    /// Whether every socket matches.
    pub const fn wants_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the socket with these facts matches.
    pub fn judge(&self, facts: &impl Facts) -> Truth {
        self.0.as_ref().map_or(Truth::Yes, |node| node.judge(facts))
    }

    /// Whether it depends on the process that a socket belongs to.
    pub fn needs_process(&self) -> bool {
        self.has(&Term::needs_process)
    }

    /// Whether an event alone does not decide it: it takes what came before.
    pub fn needs_history(&self) -> bool {
        self.has(&Term::needs_history)
    }

    /// Whether it depends on what only `TCP_INFO` has.
    pub fn needs_info(&self) -> bool {
        self.has(&Term::needs_info)
    }

    /// The word of a field that it asks for and that no packet tells, if there is one: of sockets rebuilt from packets it is never known.
    pub fn only_in_kernel(&self) -> Option<&'static str> {
        self.0.as_ref().and_then(Node::only_in_kernel)
    }

    fn has(&self, is_wanted: &impl Fn(&Term) -> bool) -> bool {
        self.0.as_ref().is_some_and(|node| node.has(is_wanted))
    }
}

impl Node {
    /// Several as one; `None` if there are none.
    fn joined(mut nodes: Vec<Self>, join: impl FnOnce(Vec<Self>) -> Self) -> Option<Self> {
        match nodes.len() {
            0 | 1 => nodes.pop(),
            _ => Some(join(nodes)),
        }
    }

    /// See [`Expression::lasting`]; `None`: anything may be.
    fn lasting(&self, is_negated: bool) -> Option<Self> {
        match (self, is_negated) {
            (Self::Term(term), _) if !term.is_lasting() => None,
            (Self::Term(_), false) => Some(self.clone()),
            (Self::Term(_), true) => Some(Self::Not(Box::new(self.clone()))),
            (Self::Not(node), _) => node.lasting(!is_negated),
            // By De Morgan.
            (Self::And(nodes), false) | (Self::Or(nodes), true) => {
                let nodes = nodes.iter().filter_map(|node| node.lasting(is_negated));
                Self::joined(nodes.collect(), Self::And)
            }
            (Self::Or(nodes), false) | (Self::And(nodes), true) => {
                let nodes = nodes.iter().map(|node| node.lasting(is_negated));
                Self::joined(nodes.collect::<Option<_>>()?, Self::Or)
            }
        }
    }

    fn judge(&self, facts: &impl Facts) -> Truth {
        match self {
            Self::Term(term) => term.judge(facts),
            Self::Not(node) => node.judge(facts).not(),
            Self::And(nodes) => Truth::all(nodes.iter().map(|node| node.judge(facts))),
            Self::Or(nodes) => Truth::any(nodes.iter().map(|node| node.judge(facts))),
        }
    }

    fn only_in_kernel(&self) -> Option<&'static str> {
        match self {
            Self::Term(term) => term.only_in_kernel(),
            Self::Not(node) => node.only_in_kernel(),
            Self::And(nodes) | Self::Or(nodes) => nodes.iter().find_map(Self::only_in_kernel),
        }
    }

    fn has(&self, is_wanted: &impl Fn(&Term) -> bool) -> bool {
        match self {
            Self::Term(term) => is_wanted(term),
            Self::Not(node) => node.has(is_wanted),
            Self::And(nodes) | Self::Or(nodes) => nodes.iter().any(|node| node.has(is_wanted)),
        }
    }
}

impl fmt::Display for Expression {
    /// As it can be read again, with all parentheses; empty if it matches all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |node| node.fmt(f))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, nodes: &[Self], word: &str| {
            for (number, node) in nodes.iter().enumerate() {
                if number > 0 {
                    write!(f, " {word} ")?;
                }
                match node {
                    Self::And(_) | Self::Or(_) => write!(f, "( {node} )")?,
                    Self::Term(_) | Self::Not(_) => node.fmt(f)?,
                }
            }
            Ok(())
        };
        match self {
            Self::Term(term) => term.fmt(f),
            Self::Not(node) => match **node {
                Self::And(_) | Self::Or(_) => write!(f, "not ( {node} )"),
                Self::Term(_) | Self::Not(_) => write!(f, "not {node}"),
            },
            Self::And(nodes) => list(f, nodes, "and"),
            Self::Or(nodes) => list(f, nodes, "or"),
        }
    }
}
