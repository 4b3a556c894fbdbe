//! Filter expressions: the language of ss(8) for "which sockets", on the command line of every command that lists
//! them.
//!
//! ```text
//! dst 10.0.0.0/8 and dport = :443
//! state close-wait ( sport = :http or sport = :https ) not src [::1]
//! ```
//!
//! `words` has the vocabulary, `parse` the grammar, `term` what one condition says of a socket. What is asked
//! of a socket comes in through [`Facts`], so that a listed socket, an event and a connection are judged by the
//! same rule.
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

mod error;
mod facts;
mod parse;
mod term;
#[cfg(test)]
mod tests;
mod truth;
mod words;

use std::fmt;

use self::term::Term;
pub use self::{
    error::ExpressionError,
    facts::{Bounds, Facts, Field, Side},
    parse::{Lookup, NoNames},
    truth::Truth,
    words::{WORDS, Word},
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
        parse::parse(text, lookup).map(Self)
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

    /// Whether it depends on what only `TCP_INFO` has.
    pub fn needs_info(&self) -> bool {
        self.has(&Term::needs_info)
    }

    fn has(&self, is_wanted: &impl Fn(&Term) -> bool) -> bool {
        self.0.as_ref().is_some_and(|node| node.has(is_wanted))
    }
}

impl Node {
    fn judge(&self, facts: &impl Facts) -> Truth {
        match self {
            Self::Term(term) => term.judge(facts),
            Self::Not(node) => node.judge(facts).not(),
            Self::And(nodes) => Truth::all(nodes.iter().map(|node| node.judge(facts))),
            Self::Or(nodes) => Truth::any(nodes.iter().map(|node| node.judge(facts))),
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
