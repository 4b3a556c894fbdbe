//! Transitions that a filter cannot decide on yet.
//!
//! Both sides filter: the BPF programs first, then user space. At some transitions the kernel has not yet set
//! a field that a filter tests. Neither side may drop those transitions: they are *undecided* until the
//! socket's next one.

use crate::{State, record::AF_INET, transition::is_new_child};

/// The part of a transition that the filters on ports and address family test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Address family of the socket: 2 (`AF_INET`) or 10 (`AF_INET6`).
    pub family: u8,
    /// Local port, host byte order; 0 until it is chosen.
    pub lport: u16,
    /// Remote port, host byte order; 0 until there is one.
    pub rport: u16,
    /// The state before.
    pub oldstate: State,
    /// The state after.
    pub newstate: State,
}

/// The ports that the kernel sets only after a transition. A filter on one of them is undecided until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingPorts {
    /// The local port.
    pub lport: bool,
    /// The remote port.
    pub rport: bool,
}

impl PendingPorts {
    /// Whether either port is: a filter on either side is then undecided.
    #[inline]
    pub const fn either(self) -> bool {
        self.lport || self.rport
    }
}

impl Key {
    /// The ports that are not set yet: the local one if an unbound socket connects or begins to listen; the
    /// remote one if a child is being cloned from its listener.
    ///
    /// *Source:* `tcp_v4_connect`, `tcp_v6_connect` and `inet_csk_listen_start` set the state, then choose the
    /// port; for the child see [`is_new_child`].
    #[inline]
    pub const fn pending_ports(&self) -> PendingPorts {
        PendingPorts {
            lport: self.lport == 0 && matches!(self.newstate, State::SYN_SENT | State::LISTEN),
            rport: self.rport == 0 && is_new_child(self.oldstate, self.newstate),
        }
    }

    /// Whether the address family is not known yet: until its next transition, an `AF_INET6` child has the
    /// addresses of its listener, which may be dual-stack. `laddr_is_any` and `raddr_is_any` say whether the
    /// address is `::`.
    #[inline]
    pub const fn is_family_pending(&self, laddr_is_any: bool, raddr_is_any: bool) -> bool {
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
    fn an_unbound_socket_has_no_local_port_yet() {
        for newstate in [State::SYN_SENT, State::LISTEN] {
            let unbound = key(State::CLOSE, newstate, 0, 443).pending_ports();
            assert_eq!((unbound.lport, unbound.rport), (true, false));
            assert!(unbound.either());
            let bound = key(State::CLOSE, newstate, 50_000, 443).pending_ports();
            assert!(!bound.either());
        }
        // An unbound socket that is closed never gets a port.
        let closed = key(State::CLOSE, State::CLOSE, 0, 0).pending_ports();
        assert!(!closed.either());
    }

    #[test]
    fn a_new_child_has_no_remote_port_yet() {
        let child = key(State::LISTEN, State::SYN_RECV, 80, 0).pending_ports();
        assert_eq!((child.lport, child.rport), (false, true));
        assert!(child.either());
        let named = key(State::LISTEN, State::SYN_RECV, 80, 50_000).pending_ports();
        assert!(!named.either());
        // A listener never gets one.
        for (oldstate, newstate) in [(State::LISTEN, State::CLOSE), (State::CLOSE, State::LISTEN)] {
            assert!(!key(oldstate, newstate, 80, 0).pending_ports().either());
        }
    }

    #[test]
    fn a_new_child_may_have_its_listeners_addresses() {
        let cloned = key(State::LISTEN, State::SYN_RECV, 80, 0);
        assert!(cloned.is_family_pending(true, true));
        // Without the port, a remote address says nothing.
        assert!(cloned.is_family_pending(true, false));
        let with_port = key(State::LISTEN, State::SYN_RECV, 80, 50_000);
        assert!(with_port.is_family_pending(true, true));
        assert!(!with_port.is_family_pending(true, false));
    }

    #[test]
    fn the_family_is_known_where_it_cannot_change() {
        let cloned = key(State::LISTEN, State::SYN_RECV, 80, 0);
        // The listener has an address of its own.
        assert!(!cloned.is_family_pending(false, true));
        let ipv4 = Key {
            family: AF_INET,
            ..cloned
        };
        assert!(!ipv4.is_family_pending(true, true));
        assert!(!key(State::CLOSE, State::LISTEN, 80, 0).is_family_pending(true, true));
    }
}
