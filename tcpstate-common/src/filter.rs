//! The filters on ports, family and addresses, which both sides apply: the BPF programs first, then user space.
//!
//! At some transitions the kernel has not yet set a field that a filter tests. Neither side may drop those transitions:
//! they are *undecided* until the socket's next one. [`Key`] says which fields these are, [`Truth`] what follows from
//! it.
//!
//! The judgement reads its configuration through [`Condition`]: the programs read their globals, and tests a
//! [`config::Filter`](crate::config::Filter).

#![expect(
    clippy::inline_always,
    reason = "a BPF program makes no call for a comparison"
)]

mod condition;

pub use self::condition::{Condition, Ends, judge_addresses, judge_family, judge_ports};
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

    /// Whether a transition may come before the kernel has set the addresses.
    #[inline]
    pub const fn may_lack_addresses(&self) -> bool {
        self.connects() || is_new_child(self.oldstate, self.newstate)
    }

    /// Whether a socket begins to connect.
    #[inline]
    const fn connects(self) -> bool {
        matches!(self.oldstate, State::CLOSE) && matches!(self.newstate, State::SYN_SENT)
    }

    /// Whether the local address is not known yet: a child may have that of its listener, and a socket that connects
    /// may have none. `is_any` says whether the address is unspecified, of either family.
    #[inline]
    pub const fn is_laddr_pending(&self, is_any: bool) -> bool {
        is_any && self.connects() || self.is_raddr_pending(is_any)
    }

    /// Whether the remote address is not known yet: a child may have that of its listener, which says nothing. `is_any`
    /// says whether the address is unspecified, of either family.
    #[inline]
    pub const fn is_raddr_pending(&self, is_any: bool) -> bool {
        is_new_child(self.oldstate, self.newstate) && (self.rport == 0 || is_any)
    }

    /// Whether a socket begins or ceases to listen.
    #[inline]
    pub const fn is_of_listener(&self) -> bool {
        matches!(self.newstate, State::LISTEN)
            || matches!(
                (self.oldstate, self.newstate),
                (State::LISTEN, State::CLOSE)
            )
    }
}

/// Whether a condition is true of a socket, as far as is known: both: it is true; neither: it is false; only `may`: it
/// depends on what the kernel has not set yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    /// It is true, whatever comes.
    pub is: bool,
    /// It is true, or may become so: the transition passes.
    pub may: bool,
}

impl Truth {
    /// It is true.
    pub const YES: Self = Self {
        is: true,
        may: true,
    };
    /// It is false.
    pub const NO: Self = Self {
        is: false,
        may: false,
    };
    /// It is not known.
    pub const UNKNOWN: Self = Self {
        is: false,
        may: true,
    };

    /// The truth of a fact, if it is known yet.
    #[inline(always)]
    pub const fn of(fact: bool, is_pending: bool) -> Self {
        Self {
            is: fact && !is_pending,
            may: fact | is_pending,
        }
    }

    /// Its contrary.
    #[inline(always)]
    #[must_use]
    pub const fn not(self) -> Self {
        Self {
            is: !self.may,
            may: !self.is,
        }
    }

    /// Whether both are true.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            is: self.is & other.is,
            may: self.may & other.may,
        }
    }

    /// Whether either is true.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            is: self.is | other.is,
            may: self.may | other.may,
        }
    }
}

#[cfg(test)]
mod tests;
