//! The judgement itself.

use super::{Key, Truth};
use crate::{
    config::{self, MAX_PREFIXES, PORT_WORDS, PortBitmap, prefix_flags},
    record::AF_INET,
};

/// The configuration of the filters. Each part is read when it is needed: to the verifier it is a constant, and what
/// is switched off is removed.
pub trait Condition {
    /// [`config::Filter::lport`], as a choice.
    fn has_lport(&self) -> bool;
    /// [`config::Filter::rport`], as a choice.
    fn has_rport(&self) -> bool;
    /// [`config::Filter::port`], as a choice.
    fn has_port(&self) -> bool;
    /// Whether a port is in `LOCAL_PORTS`.
    fn is_local_port(&self, port: u16) -> bool;
    /// Whether a port is in `REMOTE_PORTS`.
    fn is_remote_port(&self, port: u16) -> bool;
    /// Whether a port is in `PORTS`.
    fn is_port(&self, port: u16) -> bool;
    /// [`config::Filter::family`].
    fn family(&self) -> u8;
    /// [`config::Filter::listeners`], as a choice.
    fn keeps_listeners(&self) -> bool;
    /// [`config::Prefix::flags`] of a prefix.
    fn prefix_flags(&self, index: usize) -> u32;
    /// [`config::Prefix::address`] and [`config::Prefix::mask`] of a prefix.
    fn prefix(&self, index: usize) -> ([u64; 2], [u64; 2]);
}

/// The addresses of a socket, IPv4 as v4-mapped.
///
/// *Layout:* each two words in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The local address.
    pub local: [u64; 2],
    /// The remote address.
    pub remote: [u64; 2],
}

/// The second word of `::ffff:0.0.0.0`; the first is 0.
const MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
/// Its bits that are the same in all v4-mapped addresses.
const MAPPED_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

#[inline(always)]
const fn is_v4_mapped([high, low]: [u64; 2]) -> bool {
    high == 0 && low & MAPPED_MASK == MAPPED
}

/// Whether an address is `::` or 0.0.0.0.
#[inline(always)]
const fn is_any([high, low]: [u64; 2]) -> bool {
    high == 0 && (low == 0 || low == MAPPED)
}

/// The filters on ports.
#[inline(always)]
pub fn judge_ports(condition: &impl Condition, key: &Key) -> Truth {
    let local = |fact| Truth::of(fact, key.pending_ports().lport);
    let remote = |fact| Truth::of(fact, key.pending_ports().rport);
    // A listener has none.
    let has_remote = !(condition.keeps_listeners() && key.is_of_listener());
    let mut all = Truth::YES;
    if condition.has_lport() {
        all = local(condition.is_local_port(key.lport));
        if !all.may {
            return all;
        }
    }
    if condition.has_rport() && has_remote {
        let found = remote(condition.is_remote_port(key.rport));
        if !found.may {
            return found;
        }
        all = all.and(found);
    }
    if condition.has_port() && has_remote {
        let found = local(condition.is_port(key.lport));
        all = all.and(found.or(remote(condition.is_port(key.rport))));
    }
    all
}

/// The filter on the address family.
#[inline(always)]
pub fn judge_family(condition: &impl Condition, key: &Key, ends: &Ends) -> Truth {
    let wanted = condition.family();
    if wanted == 0 || (condition.keeps_listeners() && key.is_of_listener()) {
        return Truth::YES;
    }
    if key.family == AF_INET {
        return Truth::of(wanted == AF_INET, false);
    }
    let is_ipv4 = is_v4_mapped(ends.local) || is_v4_mapped(ends.remote);
    let is_pending = key.is_family_pending(ends.local == [0; 2], ends.remote == [0; 2]);
    Truth::of((wanted == AF_INET) == is_ipv4, is_pending)
}

/// The filters on addresses. `true` if there are none.
#[inline(always)]
pub fn judge_addresses(condition: &impl Condition, key: &Key, ends: &Ends) -> Truth {
    if condition.keeps_listeners() && key.is_of_listener() {
        return Truth::YES;
    }
    // Nearly always: then there are two truths only, and less to compute.
    if !key.may_lack_addresses() {
        return judge_clauses(condition, ends, PendingAddresses::NONE);
    }
    let pending = PendingAddresses {
        local: key.is_laddr_pending(is_any(ends.local)),
        remote: key.is_raddr_pending(is_any(ends.remote)),
    };
    judge_clauses(condition, ends, pending)
}

#[derive(Clone, Copy)]
struct PendingAddresses {
    local: bool,
    remote: bool,
}

impl PendingAddresses {
    const NONE: Self = Self {
        local: false,
        remote: false,
    };
}

#[inline(always)]
fn judge_clauses(condition: &impl Condition, ends: &Ends, pending: PendingAddresses) -> Truth {
    let mut all = Truth::YES;
    let mut clause = Truth::NO;
    for index in 0..MAX_PREFIXES {
        let flags = condition.prefix_flags(index);
        if flags == 0 {
            break;
        }
        let prefix = condition.prefix(index);
        let mut has_it = Truth::NO;
        if flags & prefix_flags::LOCAL != 0 {
            let fact = contains(prefix, ends.local);
            has_it = Truth::of(fact, pending.local);
        }
        if flags & prefix_flags::REMOTE != 0 {
            let fact = contains(prefix, ends.remote);
            has_it = has_it.or(Truth::of(fact, pending.remote));
        }
        if flags & prefix_flags::NOT != 0 {
            has_it = has_it.not();
        }
        clause = clause.or(has_it);
        if flags & prefix_flags::LAST != 0 {
            if !clause.may {
                return clause;
            }
            all = all.and(clause);
            clause = Truth::NO;
        }
    }
    all
}

#[inline(always)]
fn contains((wanted, mask): ([u64; 2], [u64; 2]), address: [u64; 2]) -> bool {
    address[0] & mask[0] == wanted[0] && address[1] & mask[1] == wanted[1]
}

/// A filter in memory, as user space has it.
impl Condition for (&config::Filter, [&PortBitmap; 3]) {
    fn has_lport(&self) -> bool {
        self.0.lport != 0
    }
    fn has_rport(&self) -> bool {
        self.0.rport != 0
    }
    fn has_port(&self) -> bool {
        self.0.port != 0
    }
    fn is_local_port(&self, port: u16) -> bool {
        has(self.1[0], port)
    }
    fn is_remote_port(&self, port: u16) -> bool {
        has(self.1[1], port)
    }
    fn is_port(&self, port: u16) -> bool {
        has(self.1[2], port)
    }
    fn family(&self) -> u8 {
        self.0.family
    }
    fn keeps_listeners(&self) -> bool {
        self.0.listeners != 0
    }
    fn prefix_flags(&self, index: usize) -> u32 {
        self.0.prefixes[index].flags
    }
    fn prefix(&self, index: usize) -> ([u64; 2], [u64; 2]) {
        let prefix = &self.0.prefixes[index];
        (prefix.address, prefix.mask)
    }
}

fn has(ports: &PortBitmap, port: u16) -> bool {
    ports[usize::from(port >> 6) & (PORT_WORDS - 1)] & (1 << (port & 63)) != 0
}
