//! Transitions that must have happened although no event shows them.

#![expect(
    clippy::indexing_slicing,
    reason = "by slot of a state, which the table is made for"
)]

use tcpstate_common::State;

use super::{
    rates::USUAL,
    slots::{SLOTS, slot_of},
};

/// More than any way between two states that can be reached from each other.
const FAR: u8 = u8::MAX / 2;

/// The length of the shortest way from each state to each other one, along the transitions that Linux makes.
const WAYS: [[u8; SLOTS]; SLOTS] = {
    let mut ways = [[FAR; SLOTS]; SLOTS];
    let mut at = 0;
    while at < USUAL.len() {
        let (from, to) = USUAL[at];
        ways[slot_of(from)][slot_of(to)] = 1;
        at += 1;
    }
    let mut by = 0;
    while by < SLOTS {
        let mut from = 0;
        while from < SLOTS {
            let mut to = 0;
            while to < SLOTS {
                let length = ways[from][by] + ways[by][to];
                if length < ways[from][to] {
                    ways[from][to] = length;
                }
                to += 1;
            }
            from += 1;
        }
        by += 1;
    }
    ways
};

/// The least number of transitions that take a socket from the state that it is held in to another state, that it
/// is found in. A lower bound: it may have taken a longer way, or have made the round of several connections.
pub(super) const fn least(held: State, found: State) -> u64 {
    match WAYS[slot_of(held)][slot_of(found)] {
        // A state that is not known: there is at least the transition into it.
        FAR.. => 1,
        length => length as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_is_that_of_the_state_machine() {
        for (held, found, length) in [
            (State::ESTABLISHED, State::CLOSE_WAIT, 1),
            (State::SYN_SENT, State::CLOSE_WAIT, 2),
            // Through CLOSE, into the next connection of the same socket.
            (State::ESTABLISHED, State::SYN_SENT, 2),
            (State::FIN_WAIT1, State::CLOSING, 1),
            (State::CLOSING, State::FIN_WAIT2, 4),
            (State::CLOSE_WAIT, State::CLOSE, 1),
            (State::LISTEN, State::CLOSE, 1),
            (State::ESTABLISHED, State(99), 1),
        ] {
            assert_eq!(least(held, found), length, "{held} to {found}");
        }
    }
}
