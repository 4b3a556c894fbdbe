//! The meaning of a transition, from its two states.

use crate::{
    State,
    record::{Record, flags},
};

impl Record {
    /// The facts about the end of a connection that this record has beside the socket's members; see
    /// [`record::end`](crate::record::end).
    #[inline]
    pub const fn end_facts(&self) -> u32 {
        if closes(self.oldstate, self.newstate) && self.flags & flags::PROCESS == 0 {
            self.pid
        } else {
            0
        }
    }
}

/// Whether a transition begins a connection.
#[inline]
pub const fn opens(oldstate: State, newstate: State) -> bool {
    match oldstate {
        State::CLOSE => !matches!(newstate, State::CLOSE | State::LISTEN),
        State::LISTEN => matches!(newstate, State::SYN_RECV),
        _ => false,
    }
}

/// Whether a transition ends a connection.
#[inline]
pub const fn closes(oldstate: State, newstate: State) -> bool {
    matches!(newstate, State::CLOSE) && !matches!(oldstate, State::CLOSE | State::LISTEN)
}

/// Whether the socket is a child that has just been cloned from its listener.
///
/// *Source:* `inet_csk_clone_lock`. On older kernels it sets the remote port, the addresses and the cookie only
/// after this transition.
#[inline]
pub const fn is_new_child(oldstate: State, newstate: State) -> bool {
    matches!((oldstate, newstate), (State::LISTEN, State::SYN_RECV))
}

/// Whether a process acting on the socket makes the transition, so that the running task says something about
/// the connection. All other transitions may happen in softirq context, on top of an unrelated task.
///
/// *Source:* `tcp_v4_connect`, `tcp_v6_connect` (`CLOSE -> SYN_SENT`), `inet_csk_listen_start`
/// (`CLOSE -> LISTEN`), `__tcp_close` and `tcp_disconnect` (`LISTEN -> CLOSE`), `tcp_close_state`, which
/// only `tcp_shutdown` and `__tcp_close` call (`-> FIN_WAIT1`, `-> LAST_ACK`).
#[inline]
pub const fn in_process(oldstate: State, newstate: State) -> bool {
    matches!(
        (oldstate, newstate),
        (State::CLOSE, State::SYN_SENT | State::LISTEN)
            | (State::LISTEN, State::CLOSE)
            | (_, State::FIN_WAIT1 | State::LAST_ACK)
    )
}

/// `ECONNRESET`.
const ECONNRESET: u16 = 104;

/// Whether a RST of this kernel decides about the cause of a connection's end. The kernel sends it just after the
/// transition, or just before. `known` are the [`flags`] of the record.
///
/// With ECONNRESET: data that arrives after the application has closed both directions ends the connection as a
/// RST of the peer does, and nothing in the socket distinguishes the two.
///
/// *Source:* `tcp_rcv_state_process` (`TCPAbortOnData`), whose caller sends the RST; `__tcp_close`,
/// `tcp_disconnect`, which send it themselves.
#[inline]
pub const fn awaits_reset(oldstate: State, error: u16, known: u8) -> bool {
    const CLOSED: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
    match (oldstate, error) {
        (State::ESTABLISHED | State::CLOSE_WAIT | State::SYN_RECV, 0) => true,
        // After the peer's FIN, FIN_WAIT2 ends in order.
        (State::FIN_WAIT1 | State::FIN_WAIT2, 0) => known & flags::DONE == 0,
        (State::FIN_WAIT1 | State::FIN_WAIT2, ECONNRESET) => known & CLOSED == CLOSED,
        _ => false,
    }
}

/// Whether a transition to CLOSE leaves the connection in `FIN_WAIT2` nevertheless: the socket is an orphan, the
/// peer has not closed yet, and from now on the kernel keeps a minisocket, which no tracepoint shows. `known`
/// are the [`flags`] of the record.
///
/// *Source:* `tcp_time_wait` and its callers `tcp_rcv_state_process`, `__tcp_close`.
#[inline]
pub const fn stays_in_fin_wait2(oldstate: State, newstate: State, error: u16, known: u8) -> bool {
    matches!((oldstate, newstate), (State::FIN_WAIT2, State::CLOSE))
        && error == 0
        && known & (flags::DEAD | flags::DONE) == flags::DEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pairs of states for which `holds` does.
    fn pairs(holds: impl Fn(State, State) -> bool) -> impl Iterator<Item = (State, State)> {
        State::ALL
            .into_iter()
            .flat_map(|old| State::ALL.map(|new| (old, new)))
            .filter(move |&(old, new)| holds(old, new))
    }

    #[test]
    fn a_connection_begins_from_close_or_as_a_child() {
        assert!(opens(State::CLOSE, State::SYN_SENT));
        assert!(opens(State::LISTEN, State::SYN_RECV));
        assert!(!opens(State::CLOSE, State::LISTEN));
        assert!(!opens(State::CLOSE, State::CLOSE));
        // From CLOSE to all states but these two, and the child.
        assert_eq!(pairs(opens).count(), State::ALL.len() - 2 + 1);
    }

    #[test]
    fn a_connection_ends_in_close_and_a_listener_does_not_count() {
        assert!(closes(State::LAST_ACK, State::CLOSE));
        assert!(closes(State::SYN_SENT, State::CLOSE));
        assert!(!closes(State::LISTEN, State::CLOSE));
        assert!(!closes(State::CLOSE, State::CLOSE));
        assert_eq!(pairs(closes).count(), State::ALL.len() - 2);
    }

    #[test]
    fn only_listen_to_syn_recv_makes_a_child() {
        assert!(pairs(is_new_child).eq([(State::LISTEN, State::SYN_RECV)]));
    }

    #[test]
    fn processes_connect_listen_and_close() {
        let made = |old, new| pairs(in_process).any(|pair| pair == (old, new));
        assert!(made(State::CLOSE, State::SYN_SENT));
        assert!(made(State::CLOSE, State::LISTEN));
        assert!(made(State::LISTEN, State::CLOSE));
        for old in State::ALL {
            assert!(made(old, State::FIN_WAIT1), "{old}");
            assert!(made(old, State::LAST_ACK), "{old}");
        }
        assert_eq!(pairs(in_process).count(), 3 + 2 * State::ALL.len());
    }

    #[test]
    fn a_reset_decides_about_an_end_that_may_have_sent_one() {
        const BOTH: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        for (oldstate, error, known, expected) in [
            (State::ESTABLISHED, 0, 0, true),
            (State::FIN_WAIT1, ECONNRESET, BOTH, true),
            (State::FIN_WAIT2, ECONNRESET, BOTH, true),
            (State::FIN_WAIT2, 0, BOTH | flags::DEAD, true),
            // The peer's FIN has come.
            (State::FIN_WAIT2, 0, BOTH | flags::DEAD | flags::DONE, false),
            // The application still reads: no data comes too late.
            (State::FIN_WAIT1, ECONNRESET, flags::SEND_SHUTDOWN, false),
            (State::ESTABLISHED, ECONNRESET, BOTH, false),
            (State::LAST_ACK, 0, BOTH, false),
            (State::SYN_SENT, 0, BOTH, false),
        ] {
            let awaits = awaits_reset(oldstate, error, known);
            assert_eq!(awaits, expected, "{oldstate} error {error} {known:#x}");
        }
    }

    #[test]
    fn an_orphan_stays_in_fin_wait2_until_the_peer_closes() {
        let stays = |old, error, known| stays_in_fin_wait2(old, State::CLOSE, error, known);
        assert!(stays(State::FIN_WAIT2, 0, flags::SOCKET | flags::DEAD));
        assert!(!stays(State::FIN_WAIT2, 104, flags::SOCKET | flags::DEAD));
        assert!(!stays(State::FIN_WAIT2, 0, flags::SOCKET));
        assert!(!stays(State::FIN_WAIT2, 0, flags::DEAD | flags::DONE));
        assert!(!stays(State::FIN_WAIT1, 0, flags::DEAD));
        assert!(!stays_in_fin_wait2(
            State::FIN_WAIT2,
            State::TIME_WAIT,
            0,
            flags::DEAD
        ));
    }
}
