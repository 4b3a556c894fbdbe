//! A look at the host: its sockets, counters and settings at one moment.

use std::sync::Arc;

use super::{NetnsFacts, Survey};
use crate::model::Counters;

/// A host at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Its sockets; `None`: they could not be listed.
    pub sockets: Option<Survey>,
    /// The counters and settings of each network namespace, in the order of [`sort`](crate::netns::sort).
    pub facts: Vec<NetnsFacts>,
    /// Messages about what is missing.
    pub missing: Vec<String>,
    /// The counters of the sockets that were asked for ([`Looks::ask_counters`]).
    pub counters: Arc<Counters>,
}

/// Somebody who looks again and again, beside the stream.
pub trait Looks {
    /// The latest look, where there is a new one.
    fn newest(&mut self) -> Option<Look>;

    /// A last look, taken now.
    fn last(&mut self) -> Option<Look>;

    /// From now on the looks have the counters of these sockets, by their cookies, and no others. Whoever has none to
    /// give leaves it out.
    fn ask_counters(&mut self, _cookies: Vec<u64>) {}

    /// Counters that were read between two looks, where there are such.
    fn newest_counters(&mut self) -> Option<Arc<Counters>> {
        None
    }
}
