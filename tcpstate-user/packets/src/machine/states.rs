//! Sets of states: those that an end may be in, by what was seen.

use tcpstate_common::State;

/// The states that an end may be in. A single one is known; none says that there is no socket yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct States(u16);

impl States {
    /// No socket that takes part.
    pub(crate) const NONE: Self = Self(0);

    /// These states.
    pub(crate) const fn of(states: &[State]) -> Self {
        let mut set = 0;
        let mut rest = states;
        while let [state, more @ ..] = rest {
            set |= 1 << state.0;
            rest = more;
        }
        Self(set)
    }

    /// This state.
    #[inline]
    pub(crate) const fn only(state: State) -> Self {
        Self(1 << state.0)
    }

    pub(crate) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The state, if it is known.
    #[inline]
    pub(crate) const fn known(self) -> Option<State> {
        if self.0.is_power_of_two() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "there are sixteen bits to count"
            )]
            let number = self.0.trailing_zeros() as u8;
            Some(State(number))
        } else {
            None
        }
    }

    /// Whether there is a state, and all that there are are in `others`.
    #[inline]
    pub(crate) const fn are_among(self, others: Self) -> bool {
        self.0 != 0 && self.0 & !others.0 == 0
    }

    /// Whether one of them is in `others`.
    #[inline]
    pub(crate) const fn may_be(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// These, and what `step` makes of each.
    pub(crate) fn with_each(self, step: impl Fn(State) -> Option<State>) -> Self {
        Self(self.0 | self.map(step).0)
    }

    /// What `step` makes of each; without those of which it makes none.
    #[inline]
    pub(crate) fn map(self, step: impl Fn(State) -> Option<State>) -> Self {
        let mut set = 0;
        let mut rest = self.0;
        while rest != 0 {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "there are sixteen bits to count"
            )]
            let state = State(rest.trailing_zeros() as u8);
            rest &= rest - 1;
            if let Some(State(number @ 0..16)) = step(state) {
                set |= 1 << number;
            }
        }
        Self(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_state_is_known_and_several_are_not() {
        let one = States::only(State::CLOSING);
        assert_eq!(one.known(), Some(State::CLOSING));
        assert_eq!(States::NONE.known(), None);
        let two = States::of(&[State::CLOSING, State::ESTABLISHED]);
        assert_eq!(two.known(), None);
        assert!(one.are_among(two) && !two.are_among(one) && two.may_be(one));
        assert!(!States::NONE.are_among(two));
        let left = two.map(|state| (state == State::CLOSING).then_some(State::TIME_WAIT));
        assert_eq!(left.known(), Some(State::TIME_WAIT));
    }
}
