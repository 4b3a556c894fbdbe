//! The places at which states are counted.

use tcpstate_common::State;

/// States that are counted one by one: the kernel's 1 to 13. Numbers from 15 on are counted
/// together, as 255.
pub(super) const SLOTS: usize = 16;

/// The slot of a state.
#[inline]
pub(super) const fn slot_of(state: State) -> usize {
    let number = state.folded().0 as usize;
    if number < SLOTS - 1 {
        number
    } else {
        SLOTS - 1
    }
}

/// The state of a slot.
pub(super) const fn state_of(slot: usize) -> State {
    #[expect(clippy::cast_possible_truncation, reason = "below SLOTS")]
    if slot < SLOTS - 1 {
        State(slot as u8)
    } else {
        State(255)
    }
}
