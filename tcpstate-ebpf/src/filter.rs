//! The filters of the kernel side, which see only the transition itself.
//!
//! A transition that cannot be decided on yet ([`tcpstate_common::filter`]) is kept: the socket's next transition
//! settles it, in user space or in `tally`.

use tcpstate_common::{filter::Key, record::AF_INET};

use crate::maps::{LOCAL_PORTS, PORTS, REMOTE_PORTS, config};

/// Whether the ports pass the filters.
#[inline(always)]
pub(crate) fn keeps_ports(key: &Key) -> bool {
    let pending = key.pending_ports();
    if config!(filter.lport) != 0 && !pending.lport && !LOCAL_PORTS.contains(key.lport) {
        return false;
    }
    if config!(filter.rport) != 0 && !pending.rport && !REMOTE_PORTS.contains(key.rport) {
        return false;
    }
    if config!(filter.port) != 0
        && !pending.either()
        && !PORTS.contains(key.lport)
        && !PORTS.contains(key.rport)
    {
        return false;
    }
    true
}

/// Whether the address family passes the filter.
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
    (wanted == AF_INET) == ipv4 || is_family_pending(key, (laddr, raddr))
}

/// Whether a kept transition was kept only because the filters cannot decide on it yet.
#[inline(always)]
pub(crate) fn is_undecided(key: &Key, addresses: impl FnOnce() -> ([u64; 2], [u64; 2])) -> bool {
    let pending = key.pending_ports();
    if config!(filter.lport) != 0 && pending.lport && !LOCAL_PORTS.contains(key.lport) {
        return true;
    }
    if config!(filter.rport) != 0 && pending.rport && !REMOTE_PORTS.contains(key.rport) {
        return true;
    }
    if config!(filter.port) != 0
        && pending.either()
        && !PORTS.contains(key.lport)
        && !PORTS.contains(key.rport)
    {
        return true;
    }
    config!(filter.family) != 0 && key.family != AF_INET && is_family_pending(key, addresses())
}

/// See [`Key::is_family_pending`].
#[inline(always)]
fn is_family_pending(key: &Key, (laddr, raddr): ([u64; 2], [u64; 2])) -> bool {
    key.is_family_pending(laddr == [0; 2], raddr == [0; 2])
}

/// Whether an address, as two words in memory order, is `::ffff:a.b.c.d`.
#[inline(always)]
fn is_v4_mapped([high, low]: [u64; 2]) -> bool {
    high == 0 && (low as u32) == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}
