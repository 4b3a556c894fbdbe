//! A look at the host: its sockets, counters and settings at one moment.

use super::{NetnsFacts, Survey};

/// A host at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Its sockets; `None`: they could not be listed.
    pub sockets: Option<Survey>,
    /// The counters and settings of each network namespace.
    pub facts: Vec<NetnsFacts>,
    /// Messages about what is missing.
    pub missing: Vec<String>,
}

/// Somebody who looks again and again, beside the stream.
pub trait Looks {
    /// The latest look, where there is a new one.
    fn newest(&mut self) -> Option<Look>;

    /// A last look, taken now.
    fn last(&mut self) -> Option<Look>;
}
