//! The history of one socket.

use std::mem;

use tcpstate_common::State;
use tcpstate_core::{
    census::{Census, Found, Held},
    event::Event,
    owner::Owner,
};

/// The most items that are kept of one socket. A connection has some six events.
const MAX_ITEMS: usize = 32;
/// Bytes of a socket beside its items, roughly.
pub(super) const ENTRY_BYTES: u64 = (mem::size_of::<Entry>() + 16) as u64;

/// A socket.
pub(super) struct Entry {
    /// In the order of the stream.
    pub(super) items: Vec<Item>,
    pub(super) life: Life,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Listener,
    Connection,
    Minisocket {
        there_ns: u64,
        /// Dumps that should have had it; `None`: one has.
        misses: Option<u8>,
    },
}

/// A piece of what is known of a socket, with its place in the stream.
pub(super) struct Item {
    pub(super) position: u64,
    pub(super) piece: Piece,
}

pub(super) enum Piece {
    Event(Event),
    Entry(Box<FoundIn>),
    /// The processes that hold it; a later one replaces it.
    Held(Box<HeldIn>),
}

/// An entry in a census.
pub(super) struct FoundIn {
    pub(super) found: Found,
    pub(super) netns: u32,
    pub(super) begin_ns: u64,
    pub(super) previous_ns: Option<u64>,
}

/// A listener in a census, with the processes that hold it.
pub(super) struct HeldIn {
    pub(super) held: Held,
    pub(super) netns: u32,
    pub(super) begin_ns: u64,
}

impl Entry {
    /// Adds an item. Returns the bytes that it takes.
    pub(super) fn push(&mut self, item: Item) -> u64 {
        let before = self.bytes();
        if self.items.len() >= MAX_ITEMS {
            // The beginning and the end matter most.
            self.items.remove(1);
        }
        self.items.push(item);
        self.bytes().saturating_sub(before)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        let boxed = self.items.iter().map(|item| match &item.piece {
            Piece::Event(_) => 0,
            Piece::Entry(_) => mem::size_of::<FoundIn>(),
            Piece::Held(of) => mem::size_of::<HeldIn>() + mem::size_of_val(&*of.held.by),
        });
        let bytes = self.items.capacity() * mem::size_of::<Item>() + boxed.sum::<usize>();
        ENTRY_BYTES + bytes as u64
    }

    pub(super) const fn is_minisocket(&self) -> bool {
        matches!(self.life, Life::Minisocket { .. })
    }

    /// Whether this entry in a census says more than is known: another state, or an owner.
    pub(super) fn is_news(&self, found: &Found) -> bool {
        let last = self.items.iter().rev().find_map(Item::found);
        match last {
            Some(last) => {
                self.state() != Some(found.state)
                    || (last.role, last.owner, last.uid) != (found.role, found.owner, found.uid)
            }
            None => {
                self.is_minisocket()
                    || self.state() != Some(found.state)
                    || found.owner != Owner::UNKNOWN
            }
        }
    }

    pub(super) fn state(&self) -> Option<State> {
        self.items.iter().rev().find_map(|item| match &item.piece {
            Piece::Event(event) => Some(event.newstate()),
            Piece::Entry(entry) => Some(entry.found.state),
            Piece::Held(_) => None,
        })
    }

    /// Takes which processes hold it, in the place of what was known. Returns the bytes before and now.
    pub(super) fn hold(&mut self, item: Item) -> (u64, u64) {
        let before = self.bytes();
        let is_other = |item: &Item| !matches!(item.piece, Piece::Held(_));
        self.items.retain(is_other);
        self.push(item);
        (before, self.bytes())
    }

    pub(super) fn last_ns(&self) -> u64 {
        self.items.last().map_or(0, |item| match &item.piece {
            Piece::Event(event) => event.ts_ns(),
            Piece::Entry(entry) => entry.begin_ns,
            Piece::Held(of) => of.begin_ns,
        })
    }

    pub(super) fn cookie(&self) -> Option<u64> {
        self.items.iter().rev().find_map(|item| match &item.piece {
            Piece::Event(event) => event.cookie(),
            Piece::Entry(entry) => Some(entry.found.cookie),
            Piece::Held(of) => Some(of.held.cookie),
        })
    }

    pub(super) fn netns(&self) -> Option<u32> {
        self.items.iter().find_map(|item| match &item.piece {
            Piece::Event(event) => event.netns(),
            Piece::Entry(entry) => Some(entry.netns),
            Piece::Held(of) => Some(of.netns),
        })
    }

    /// Its namespace and local port.
    pub(super) fn place(&self) -> Option<(u32, u16)> {
        let lport = self.items.iter().rev().find_map(|item| {
            let lport = match &item.piece {
                Piece::Event(event) => event.lport(),
                Piece::Entry(entry) => entry.found.lport,
                Piece::Held(of) => of.held.lport,
            };
            (lport != 0).then_some(lport)
        });
        Some((self.netns()?, lport?))
    }
}

impl Item {
    pub(super) fn found(&self) -> Option<&Found> {
        match &self.piece {
            Piece::Event(_) | Piece::Held(_) => None,
            Piece::Entry(entry) => Some(&entry.found),
        }
    }

    pub(super) fn of_holders(held: &Held, census: &Census, position: u64) -> Self {
        Self {
            position,
            piece: Piece::Held(Box::new(HeldIn {
                held: held.clone(),
                netns: census.netns,
                begin_ns: census.begin_ns,
            })),
        }
    }

    pub(super) fn of_census(found: &Found, census: &Census, position: u64) -> Self {
        Self {
            position,
            piece: Piece::Entry(Box::new(FoundIn {
                found: found.clone(),
                netns: census.netns,
                begin_ns: census.begin_ns,
                previous_ns: census.previous_ns,
            })),
        }
    }
}
