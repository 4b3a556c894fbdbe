//! What a transition cannot tell a filter yet.
//!
//! Both sides filter: the BPF programs, and user space once more. At some transitions the kernel has not
//! filled in yet what a filter asks for. Neither side may drop those: they are *undecided* until the socket's
//! next transition.

use crate::{State, record::AF_INET, transition::is_new_child};

/// What the filters on ports and on the address family look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Address family of the socket: 2 (`AF_INET`) or 10 (`AF_INET6`).
    pub family: u8,
    /// Local port, host byte order; 0 where not chosen yet.
    pub lport: u16,
    /// Remote port, host byte order; 0 where there is none yet.
    pub rport: u16,
    /// The state before.
    pub oldstate: State,
    /// The state after.
    pub newstate: State,
}

/// The ports that the kernel fills in only after a transition. A filter on one of them is undecided until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortsToCome {
    /// The local port.
    pub lport: bool,
    /// The remote port.
    pub rport: bool,
}

impl PortsToCome {
    /// Whether either is: a filter on both sides is undecided.
    #[inline]
    pub const fn either(self) -> bool {
        self.lport || self.rport
    }
}

impl Key {
    /// Which ports are still to come: the local one, if a socket that was never bound connects or begins to
    /// listen; the remote one, if a child is being cloned from its listener.
    ///
    /// *Source:* `tcp_v4_connect`, `tcp_v6_connect` and `inet_csk_listen_start` set the state, then choose the
    /// port; for the child see [`is_new_child`].
    #[inline]
    pub const fn ports_to_come(&self) -> PortsToCome {
        PortsToCome {
            lport: self.lport == 0 && matches!(self.newstate, State::SYN_SENT | State::LISTEN),
            rport: self.rport == 0 && is_new_child(self.oldstate, self.newstate),
        }
    }

    /// Whether the address family is still to come: until its next transition, an `AF_INET6` child has the
    /// addresses of its listener, which may be a dual-stack one. The arguments: whether the local and the
    /// remote address are `::`.
    #[inline]
    pub const fn is_family_to_come(&self, laddr_is_any: bool, raddr_is_any: bool) -> bool {
        self.family != AF_INET
            && is_new_child(self.oldstate, self.newstate)
            && laddr_is_any
            && (self.rport == 0 || raddr_is_any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AF_INET6;

    fn key(oldstate: State, newstate: State, lport: u16, rport: u16) -> Key {
        Key {
            family: AF_INET6,
            lport,
            rport,
            oldstate,
            newstate,
        }
    }

    #[test]
    fn a_socket_that_was_not_bound_has_no_local_port_yet() {
        for newstate in [State::SYN_SENT, State::LISTEN] {
            let unbound = key(State::CLOSE, newstate, 0, 443).ports_to_come();
            assert_eq!((unbound.lport, unbound.rport), (true, false));
            assert!(unbound.either());
            let bound = key(State::CLOSE, newstate, 50_000, 443).ports_to_come();
            assert!(!bound.either());
        }
        // What never gets one: a socket that was not bound is closed.
        let closed = key(State::CLOSE, State::CLOSE, 0, 0).ports_to_come();
        assert!(!closed.either());
    }

    #[test]
    fn a_new_child_has_no_remote_port_yet() {
        let child = key(State::LISTEN, State::SYN_RECV, 80, 0).ports_to_come();
        assert_eq!((child.lport, child.rport), (false, true));
        assert!(child.either());
        let named = key(State::LISTEN, State::SYN_RECV, 80, 50_000).ports_to_come();
        assert!(!named.either());
        // A listener has none, and none comes.
        for (oldstate, newstate) in [(State::LISTEN, State::CLOSE), (State::CLOSE, State::LISTEN)] {
            assert!(!key(oldstate, newstate, 80, 0).ports_to_come().either());
        }
    }

    #[test]
    fn a_new_child_may_have_its_listeners_addresses() {
        let cloned = key(State::LISTEN, State::SYN_RECV, 80, 0);
        assert!(cloned.is_family_to_come(true, true));
        // Without the port, a remote address says nothing.
        assert!(cloned.is_family_to_come(true, false));
        let with_port = key(State::LISTEN, State::SYN_RECV, 80, 50_000);
        assert!(with_port.is_family_to_come(true, true));
        assert!(!with_port.is_family_to_come(true, false));
    }

    #[test]
    fn a_family_is_known_where_it_cannot_change() {
        let cloned = key(State::LISTEN, State::SYN_RECV, 80, 0);
        // The listener has an address of its own.
        assert!(!cloned.is_family_to_come(false, true));
        let ipv4 = Key {
            family: AF_INET,
            ..cloned
        };
        assert!(!ipv4.is_family_to_come(true, true));
        assert!(!key(State::CLOSE, State::LISTEN, 80, 0).is_family_to_come(true, true));
    }
}
