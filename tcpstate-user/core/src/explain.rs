//! The knowledge of each TCP state, as one table: `tcpstate explain` and `docs/states.md` are made from it.
//!
//! Each sentence about Linux has a kernel test (`tests/kernel/lore.rs`), or names its source: a function of the
//! kernel, a page of its documentation, or RFC 9293.

mod present;
mod states;
mod topic;

use tcpstate_common::State;

pub use crate::setting::Setting;

pub use self::{
    present::{Present, present},
    states::STATES,
    topic::{FieldText, Topic, TopicError},
};

/// The knowledge of a state.
#[derive(Clone, Copy, Debug)]
pub struct StateText {
    /// The state.
    pub state: State,
    /// Its meaning.
    pub is: &'static str,
    /// The side on which it appears.
    pub side: &'static str,
    /// The states before, each with the packet or call that leads here.
    pub from: &'static [Way],
    /// The states after, each with the packet or call that leads there.
    pub to: &'static [Way],
    /// Its usual duration.
    pub lasts: &'static str,
    /// The settings that govern it.
    pub settings: &'static [Setting],
    /// The meaning of many sockets in it, and the remedy.
    pub many: &'static str,
    /// Common lore about it that is wrong.
    pub lore: &'static [Lore],
    /// Commands that show it.
    pub commands: &'static [&'static str],
    /// Where this is from.
    pub sources: &'static [&'static str],
}

/// A way into a state, or out of it.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The state at its other end.
    pub state: State,
    /// The packet or the call.
    pub by: &'static str,
}

/// Common lore that is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Lore {
    /// The claim.
    pub said: &'static str,
    /// The truth.
    pub truth: &'static str,
}

/// The knowledge of this state; a half-open connection is in `SYN_RECV`.
pub fn of(state: State) -> Option<&'static StateText> {
    let state = if state == State::NEW_SYN_RECV {
        State::SYN_RECV
    } else {
        state
    };
    STATES.iter().find(|text| text.state == state)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_state_is_explained_once() {
        let states: BTreeSet<_> = STATES.iter().map(|text| text.state.0).collect();
        assert_eq!(states, (1..=11).collect());
        assert_eq!(STATES.len(), 11);
        assert!(of(State::NEW_SYN_RECV).is_some_and(|text| text.state == State::SYN_RECV));
        assert!(of(State(0)).is_none());
    }

    /// A way out of one state is a way into the other; but for `TIME_WAIT`, with which the kernel replaces a socket.
    #[test]
    fn the_two_ends_of_a_way_agree() {
        let ways = |of: fn(&StateText) -> BTreeSet<(u8, u8)>| -> BTreeSet<_> {
            let sockets = |text: &&StateText| text.state != State::TIME_WAIT;
            STATES.iter().filter(sockets).flat_map(of).collect()
        };
        let into = ways(|text| {
            let ends = text.from.iter().map(|way| (way.state.0, text.state.0));
            ends.collect()
        });
        let out_of = ways(|text| {
            let ends = text.to.iter().map(|way| (text.state.0, way.state.0));
            ends.collect()
        });
        assert_eq!(into, out_of);
    }

    #[test]
    fn sentences_end_and_fit_a_reader() {
        for text in STATES {
            let sentences = [text.is, text.lasts, text.many];
            let truths = text.lore.iter().map(|lore| lore.truth);
            for sentence in sentences.into_iter().chain(truths) {
                assert!(sentence.ends_with('.'), "{sentence}");
                assert!(!sentence.contains("  "), "{sentence}");
            }
            assert!(!text.commands.is_empty() && !text.sources.is_empty());
        }
    }
}
