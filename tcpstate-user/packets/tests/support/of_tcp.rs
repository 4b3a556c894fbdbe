//! The transitions that TCP has, for tests and the fuzz target of the machine.

use std::collections::HashMap;

use tcpstate_common::State;
use tcpstate_core::event::Event;

/// The transitions that a kernel makes, as its tracepoint shows them: RFC 9293, figure 5, without those of a listener and of
/// `TIME_WAIT`, and with those to CLOSE that a RST makes.
const fn is_of_tcp(old: State, new: State) -> bool {
    if matches!(new, State::CLOSE) {
        return !matches!(old, State::CLOSE | State::LISTEN);
    }
    matches!(
        (old, new),
        (State::CLOSE, State::SYN_SENT)
            | (State::LISTEN, State::SYN_RECV)
            | (State::SYN_SENT, State::SYN_RECV | State::ESTABLISHED)
            | (State::SYN_RECV, State::ESTABLISHED | State::FIN_WAIT1)
            | (State::ESTABLISHED, State::FIN_WAIT1 | State::CLOSE_WAIT)
            | (State::FIN_WAIT1, State::FIN_WAIT2 | State::CLOSING)
            | (State::CLOSE_WAIT, State::LAST_ACK)
    )
}

/// Whether a socket can come from one state to another by such transitions, without a new beginning.
fn leads_to(from: State, to: State) -> bool {
    from == to
        || from != State::CLOSE
            && State::ALL
                .into_iter()
                .any(|next| next != State::CLOSE && is_of_tcp(from, next) && leads_to(next, to))
}

/// Whether these are transitions of TCP, and those of each socket follow from each other. Packets that were not seen leave gaps.
pub fn check(events: &[Event]) -> Result<(), String> {
    let mut states = HashMap::new();
    for event in events {
        let (old, new) = (event.oldstate(), event.newstate());
        if !is_of_tcp(old, new) {
            return Err(format!("{old} > {new}"));
        }
        // The first one may be in the middle.
        match states.insert(event.cookie(), new) {
            Some(before) if !leads_to(before, old) => {
                return Err(format!("{before} before {old} > {new}"));
            }
            _ => {}
        }
    }
    Ok(())
}
