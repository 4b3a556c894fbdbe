//! Sets of TCP states: the one parser of state lists.

use std::str::FromStr;

use tcpstate_common::State;

use crate::event::Event;

/// A set of TCP states, written as a list: `CLOSE_WAIT,last_ack,10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSet(u16);

/// Why a text is no list of states.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a TCP state; the states are {names} (in either case) and the kernel's numbers 1 to 13", names = names())]
pub struct StateListError(String);

impl StateSet {
    /// Whether the state is in the set; `SYN_RECV` stands for a request socket too.
    pub const fn contains(self, state: State) -> bool {
        state.0 < 16 && self.0 >> state.0 & 1 == 1
    }

    /// Whether the event leaves or enters one of the states.
    pub const fn touches(self, event: &Event) -> bool {
        self.contains(event.oldstate()) || self.contains(event.newstate())
    }
}

impl FromStr for StateSet {
    type Err = StateListError;

    fn from_str(list: &str) -> Result<Self, StateListError> {
        let mut set = 0;
        for item in list.split(',').map(str::trim) {
            // `ss` writes CLOSE-WAIT.
            let state = State::from_name(&item.replace('-', "_")).or_else(|| number(item));
            match state {
                Some(State::SYN_RECV) => {
                    set |= 1 << State::SYN_RECV.0 | 1 << State::NEW_SYN_RECV.0;
                }
                Some(state) => set |= 1 << state.0,
                None => return Err(StateListError(item.to_owned())),
            }
        }
        Ok(Self(set))
    }
}

/// A state that has a name, by its number.
fn number(text: &str) -> Option<State> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse()
        .ok()
        .map(State)
        .filter(|state| state.name().is_some())
}

fn names() -> String {
    State::ALL.map(|state| state.to_string()).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &str) -> Vec<u8> {
        let set: StateSet = list.parse().unwrap();
        (0..=255)
            .filter(|&number| set.contains(State(number)))
            .collect()
    }

    #[test]
    fn names_in_either_case_and_numbers() {
        assert_eq!(members("CLOSE_WAIT"), [8]);
        assert_eq!(members("close_wait, Listen,1"), [1, 8, 10]);
        assert_eq!(members("fin-wait1"), [4]);
        assert_eq!(
            members("1,2,4,5,6,7,8,9,11,13"),
            [1, 2, 4, 5, 6, 7, 8, 9, 11, 13]
        );
    }

    #[test]
    fn syn_recv_includes_request_sockets_but_not_the_reverse() {
        assert_eq!(members("SYN_RECV"), [3, 12]);
        assert_eq!(members("NEW_SYN_RECV"), [12]);
    }

    #[test]
    fn what_is_no_state_is_refused_with_the_item() {
        for item in ["", "OPEN", "0", "14", "255", "256", "+1", "ESTAB"] {
            assert_eq!(item.parse::<StateSet>(), Err(StateListError(item.into())));
        }
        assert_eq!(
            "LISTEN,".parse::<StateSet>(),
            Err(StateListError(String::new()))
        );
        let message = "OPEN".parse::<StateSet>().unwrap_err().to_string();
        assert!(
            message.contains("`OPEN`") && message.contains("CLOSE_WAIT"),
            "{message}"
        );
    }
}
