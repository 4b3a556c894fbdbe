//! Sets of TCP states: the one parser of state lists.

use std::str::FromStr;

use tcpstate_common::State;

use crate::event::Event;

/// A set of TCP states, written as a list: `CLOSE_WAIT,last_ack,10`, or in the words of `ss`:
/// `fin-wait-1,listening,bucket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSet(u16);

/// The reason why a text is no list of states.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateListError {
    /// Nothing between two commas, or nothing at all.
    #[error("an empty item; write states with a comma between them, such as ESTABLISHED,TIME_WAIT")]
    Empty,
    /// An item that is no state.
    #[error("`{0}` is not a TCP state; the states are {names} (in either case, also as `ss` spells them) and the kernel's numbers 1 to 13; groups are {groups}", names = names(), groups = GROUPS.map(|(name, _)| name).join(" "))]
    NotAState(String),
}

impl StateListError {
    fn of(item: &str) -> Self {
        match item {
            "" => Self::Empty,
            item => Self::NotAState(item.to_owned()),
        }
    }

    /// The item that is no state.
    pub fn item(&self) -> Option<&str> {
        match self {
            Self::Empty => None,
            Self::NotAState(item) => Some(item),
        }
    }
}

/// The names of states in `ss` that differ in more than `-` and `_`.
///
/// *Source:* `scan_state` and `sstate_name` in `misc/ss.c` of iproute2.
const SPELLINGS: [(&str, State); 8] = [
    ("ESTAB", State::ESTABLISHED),
    ("SYN_RCV", State::SYN_RECV),
    ("FIN_WAIT_1", State::FIN_WAIT1),
    ("FIN_WAIT_2", State::FIN_WAIT2),
    ("CLOSED", State::CLOSE),
    ("UNCONN", State::CLOSE),
    ("UNCONNECTED", State::CLOSE),
    ("LISTENING", State::LISTEN),
];

/// The groups of ss(8).
const GROUPS: [(&str, StateSet); 5] = [
    ("all", StateSet::ALL),
    ("connected", StateSet::CONNECTED),
    (
        "synchronized",
        StateSet::CONNECTED.without(StateSet::of(State::SYN_SENT)),
    ),
    ("bucket", StateSet::BUCKET),
    ("big", StateSet::ALL.without(StateSet::BUCKET)),
];

impl StateSet {
    /// Every state that has a name.
    pub const ALL: Self = Self(0x3FFE);
    /// The states of sockets without a connection that do not listen. For `BOUND_INACTIVE` (*since* Linux 6.8) a dump walks through all
    /// ports too, with every socket of the network namespace that has one.
    ///
    /// *Source:* `inet_diag_dump_icsk` in `net/ipv4/inet_diag.c`; later `tcp_diag_dump` in `net/ipv4/tcp_diag.c`.
    pub const MERELY_BOUND: Self = Self::of(State::CLOSE).with(Self::of(State::BOUND_INACTIVE));
    /// The states with a peer.
    const CONNECTED: Self = Self::ALL
        .without(Self::of(State::LISTEN))
        .without(Self::MERELY_BOUND);
    /// The states of small sockets.
    const BUCKET: Self = Self::of(State::SYN_RECV).with(Self::of(State::TIME_WAIT));

    /// The words that lists are made of: the names of states, and the groups.
    pub fn words() -> Vec<&'static str> {
        let states = State::ALL.into_iter().filter_map(State::name);
        states.chain(GROUPS.map(|(name, _)| name)).collect()
    }

    /// The set of this state; empty for one that has no name.
    pub const fn of(state: State) -> Self {
        match state {
            State::SYN_RECV => Self(1 << State::SYN_RECV.0 | 1 << State::NEW_SYN_RECV.0),
            State(number @ 1..=13) => Self(1 << number),
            State(_) => Self(0),
        }
    }

    /// The union of two sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the other one.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// A bit for each state, at the kernel's number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether the state is in the set; `SYN_RECV` stands for a request socket too.
    pub const fn contains(self, state: State) -> bool {
        state.0 < 16 && self.0 >> state.0 & 1 == 1
    }

    /// Whether the event leaves or enters one of the states.
    pub const fn touches(self, event: &Event) -> bool {
        self.contains(event.oldstate()) || self.contains(event.newstate())
    }
}

/// A bit for each state, at the kernel's number. Unlike a [`StateSet`] it has those too that have no name here, and it tells
/// which sockets a dump has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateMask(u32);

impl StateMask {
    /// All states.
    pub const ALL: Self = Self(u32::MAX);

    /// The states in which a socket may be said to be in one of the set. [`StateSet::ALL`] stands for all there are.
    pub const fn of(set: StateSet) -> Self {
        if set.0 == StateSet::ALL.0 {
            return Self::ALL;
        }
        let mut bits = Self(set.0 as u32);
        // A request socket is listed as SYN_RECV.
        if bits.has(State::SYN_RECV) {
            bits.0 |= 1 << State::NEW_SYN_RECV.0;
        }
        // In CLOSE the kernel lists only bound sockets, and those by the other bit. Since: Linux 6.8.
        if bits.has(State::CLOSE) || bits.has(State::BOUND_INACTIVE) {
            bits.0 |= 1 << State::CLOSE.0 | 1 << State::BOUND_INACTIVE.0;
        }
        bits
    }

    /// The states in which a socket may be said to be in none of the set.
    pub const fn outside(set: StateSet) -> Self {
        let mut bits = !(set.0 as u32);
        if set.contains(State::CLOSE) || set.contains(State::BOUND_INACTIVE) {
            bits &= !(1 << State::CLOSE.0 | 1 << State::BOUND_INACTIVE.0);
        }
        if !set.contains(State::SYN_RECV) {
            bits |= 1 << State::NEW_SYN_RECV.0;
        }
        Self(bits)
    }

    /// The states of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The states that both have.
    #[must_use]
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it has this state.
    pub const fn has(self, state: State) -> bool {
        state.0 < 32 && self.0 >> state.0 & 1 == 1
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for StateSet {
    type Err = StateListError;

    fn from_str(list: &str) -> Result<Self, StateListError> {
        let mut set = Self(0);
        for item in list.split(',').map(str::trim) {
            set = set.with(item_of(item).ok_or_else(|| StateListError::of(item))?);
        }
        Ok(set)
    }
}

fn item_of(text: &str) -> Option<StateSet> {
    // `ss` writes CLOSE-WAIT.
    let name = text.replace('-', "_");
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let spelling = || SPELLINGS.into_iter().find(|(word, _)| is(word));
    let group = || GROUPS.into_iter().find(|(word, _)| is(word));
    State::from_name(&name)
        .or_else(|| spelling().map(|(_, state)| state))
        .or_else(|| number(text))
        .map(StateSet::of)
        .or_else(|| group().map(|(_, set)| set))
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
    fn the_words_of_ss_have_their_meaning_in_ss() {
        assert_eq!(members("fin-wait-1,FIN-WAIT-2,Listening"), [4, 5, 10]);
        assert_eq!(members("estab,unconn,syn-rcv"), [1, 3, 7, 12]);
        assert_eq!(members("closed"), members("unconnected"));
        assert_eq!(members("all"), (1..=13).collect::<Vec<_>>());
        assert_eq!(members("Connected"), [1, 2, 3, 4, 5, 6, 8, 9, 11, 12]);
        assert_eq!(members("synchronized"), [1, 3, 4, 5, 6, 8, 9, 11, 12]);
        assert_eq!(members("bucket"), [3, 6, 12]);
        assert_eq!(members("big"), [1, 2, 4, 5, 7, 8, 9, 10, 11, 13]);
        assert_eq!(members("bucket,listen"), [3, 6, 10, 12]);
    }

    #[test]
    fn a_text_that_is_no_state_is_refused_with_the_item() {
        for item in ["OPEN", "0", "14", "255", "256", "+1", "ESTABLISH"] {
            assert_eq!(
                item.parse::<StateSet>(),
                Err(StateListError::NotAState(item.into()))
            );
        }
        for list in ["", ",", "LISTEN,", ",LISTEN", "LISTEN,,CLOSE"] {
            assert_eq!(
                list.parse::<StateSet>(),
                Err(StateListError::Empty),
                "{list}"
            );
        }
        let message = "OPEN".parse::<StateSet>().unwrap_err().to_string();
        assert!(
            message.contains("`OPEN`")
                && message.contains("CLOSE_WAIT")
                && message.ends_with("groups are all connected synchronized bucket big"),
            "{message}"
        );
    }
}
