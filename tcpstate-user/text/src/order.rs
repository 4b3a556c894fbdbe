//! The order in which people see states.

use tcpstate_common::State;

/// The place of a state in the life of a connection.
pub(crate) fn life_order(state: State) -> usize {
    const LIFE: [State; 11] = [
        State::CLOSE,
        State::LISTEN,
        State::SYN_SENT,
        State::SYN_RECV,
        State::ESTABLISHED,
        State::FIN_WAIT1,
        State::FIN_WAIT2,
        State::CLOSING,
        State::TIME_WAIT,
        State::CLOSE_WAIT,
        State::LAST_ACK,
    ];
    LIFE.iter()
        .position(|&known| known == state)
        .unwrap_or(LIFE.len() + usize::from(state.0))
}
