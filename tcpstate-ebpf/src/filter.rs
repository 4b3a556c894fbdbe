//! Which transitions are kept, decided on what the event shows.
//!
//! The rule for what cannot be decided yet is the one of `tcpstate-user/src/filter.rs`: keep it, the socket's
//! next transition settles it, in user space or in `tally`. That is a local port that the kernel has not chosen (a client's
//! `CLOSE -> SYN_SENT`), and the remote side of a child that was cloned from its listener a moment
//! ago (`LISTEN -> SYN_RECV`).

use tcpstate_common::{State, record::AF_INET};

use crate::maps::{LOCAL_PORTS, PORTS, REMOTE_PORTS, config};

/// What the filters look at.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    pub(crate) family: u8,
    pub(crate) lport: u16,
    pub(crate) rport: u16,
    pub(crate) oldstate: State,
    pub(crate) newstate: State,
}

/// Whether the ports are among those asked for.
#[inline(always)]
pub(crate) fn keeps_ports(key: &Key) -> bool {
    let (lport_to_come, rport_to_come) = (is_lport_to_come(key), is_rport_to_come(key));
    if config!(filter.lport) != 0 && !lport_to_come && !LOCAL_PORTS.contains(key.lport) {
        return false;
    }
    if config!(filter.rport) != 0 && !rport_to_come && !REMOTE_PORTS.contains(key.rport) {
        return false;
    }
    if config!(filter.port) != 0
        && !lport_to_come
        && !rport_to_come
        && !PORTS.contains(key.lport)
        && !PORTS.contains(key.rport)
    {
        return false;
    }
    true
}

/// Whether the kernel chooses the local port only after this transition.
#[inline(always)]
fn is_lport_to_come(key: &Key) -> bool {
    key.lport == 0 && (key.newstate.0 == State::SYN_SENT.0 || key.newstate.0 == State::LISTEN.0)
}

/// Whether it is a child that is still being cloned from its listener.
#[inline(always)]
fn is_rport_to_come(key: &Key) -> bool {
    key.rport == 0 && key.oldstate.0 == State::LISTEN.0 && key.newstate.0 == State::SYN_RECV.0
}

/// Whether the address family is the one asked for. `v4_mapped` and `unspecified` speak of the
/// remote address of an `AF_INET6` socket.
#[inline(always)]
pub(crate) fn keeps_family(key: &Key, addresses: impl FnOnce() -> ([u64; 2], [u64; 2])) -> bool {
    let wanted = config!(filter.family);
    if wanted == 0 {
        return true;
    }
    if key.family == AF_INET {
        return wanted == AF_INET;
    }
    let (laddr, raddr) = addresses();
    let ipv4 = is_v4_mapped(laddr) || is_v4_mapped(raddr);
    (wanted == AF_INET) == ipv4 || is_family_to_come(key, (laddr, raddr))
}

/// Whether the addresses of an `AF_INET6` socket are those of its dual-stack listener until its next
/// transition.
#[inline(always)]
fn is_family_to_come(key: &Key, (laddr, raddr): ([u64; 2], [u64; 2])) -> bool {
    key.oldstate.0 == State::LISTEN.0
        && key.newstate.0 == State::SYN_RECV.0
        && laddr == [0; 2]
        && (key.rport == 0 || raddr == [0; 2])
}

/// Whether a transition that is kept is kept only because nothing can be decided yet. The rule is again the
/// one of `tcpstate-user/src/filter.rs`.
#[inline(always)]
pub(crate) fn is_undecided(key: &Key, addresses: impl FnOnce() -> ([u64; 2], [u64; 2])) -> bool {
    let (lport_to_come, rport_to_come) = (is_lport_to_come(key), is_rport_to_come(key));
    if config!(filter.lport) != 0 && lport_to_come && !LOCAL_PORTS.contains(key.lport) {
        return true;
    }
    if config!(filter.rport) != 0 && rport_to_come && !REMOTE_PORTS.contains(key.rport) {
        return true;
    }
    if config!(filter.port) != 0
        && (lport_to_come || rport_to_come)
        && !PORTS.contains(key.lport)
        && !PORTS.contains(key.rport)
    {
        return true;
    }
    config!(filter.family) != 0 && key.family != AF_INET && is_family_to_come(key, addresses())
}

/// Whether an address, as two words in memory order, is `::ffff:a.b.c.d`.
#[inline(always)]
fn is_v4_mapped([high, low]: [u64; 2]) -> bool {
    high == 0 && (low as u32) == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}
