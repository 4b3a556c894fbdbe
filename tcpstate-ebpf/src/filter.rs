//! The filters of the kernel side, which see only the transition itself: the rules are those of
//! [`tcpstate_common::filter`], on the programs' globals.
//!
//! A transition that cannot be decided on yet is kept: the socket's next transition settles it, in user space or in
//! `tally`.

use tcpstate_common::filter::{
    Condition, Ends, Key, Truth, judge_addresses, judge_family, judge_ports,
};

use crate::maps::{LOCAL_PORTS, PORTS, REMOTE_PORTS, config, prefix_field};

/// The filters that user space has configured.
struct Configured;

impl Condition for Configured {
    #[inline(always)]
    fn has_lport(&self) -> bool {
        config!(filter.lport) != 0
    }
    #[inline(always)]
    fn has_rport(&self) -> bool {
        config!(filter.rport) != 0
    }
    #[inline(always)]
    fn has_port(&self) -> bool {
        config!(filter.port) != 0
    }
    #[inline(always)]
    fn is_local_port(&self, port: u16) -> bool {
        LOCAL_PORTS.contains(port)
    }
    #[inline(always)]
    fn is_remote_port(&self, port: u16) -> bool {
        REMOTE_PORTS.contains(port)
    }
    #[inline(always)]
    fn is_port(&self, port: u16) -> bool {
        PORTS.contains(port)
    }
    #[inline(always)]
    fn family(&self) -> u8 {
        config!(filter.family)
    }
    #[inline(always)]
    fn keeps_listeners(&self) -> bool {
        config!(filter.listeners) != 0
    }
    #[inline(always)]
    fn prefix_flags(&self, index: usize) -> u32 {
        prefix_field!(index, flags)
    }
    #[inline(always)]
    fn prefix(&self, index: usize) -> ([u64; 2], [u64; 2]) {
        (prefix_field!(index, address), prefix_field!(index, mask))
    }
}

/// Whether the ports pass the filters.
#[inline(always)]
pub(crate) fn ports(key: &Key) -> Truth {
    judge_ports(&Configured, key)
}

/// Whether there is a filter that reads the addresses.
#[inline(always)]
pub(crate) fn reads_addresses() -> bool {
    config!(filter.family) != 0 || has_prefixes()
}

#[inline(always)]
fn has_prefixes() -> bool {
    prefix_field!(0, flags) != 0
}

/// Whether the address family passes the filter.
#[inline(always)]
pub(crate) fn family(key: &Key, ends: &Ends) -> Truth {
    judge_family(&Configured, key, ends)
}

/// Whether the addresses pass the filters.
#[inline(always)]
pub(crate) fn addresses(key: &Key, ends: &Ends) -> Truth {
    if has_prefixes() {
        judge_addresses(&Configured, key, ends)
    } else {
        Truth::YES
    }
}

/// Whether a filter may leave the first transition of a socket undecided.
#[inline(always)]
pub(crate) fn may_be_undecided() -> bool {
    config!(filter.lport) != 0
        || config!(filter.rport) != 0
        || config!(filter.port) != 0
        || reads_addresses()
}
