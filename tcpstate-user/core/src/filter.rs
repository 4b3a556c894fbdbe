//! Filters: the choice of sockets, made on events alone.
//!
//! One rule is applied twice: the BPF programs drop what certainly does not match
//! ([`Filter::kernel`]), and user space judges every event again, whatever its source
//! ([`Filter::judge`], [`Settler`]). So a recording is filtered exactly as the live kernel is, and
//! the kernel side may pass more than it should, never less.
//!
//! # The duty of the kernel side
//!
//! An event is dropped if any row drops it.
//!
//! | filter   | drop when                                                                        |
//! |----------|----------------------------------------------------------------------------------|
//! | netns    | the namespace is another one                                                     |
//! | cgroup   | it is in a cgroup that is neither the one asked for nor below it                 |
//! | `-4`     | it is IPv6, unless the family is *to come*                                       |
//! | `-6`     | it is IPv4                                                                       |
//! | `-L`     | `lport` is not in the set, unless it is *to come*                                |
//! | `-D`     | `rport` is not in the set, unless it is *to come*                                |
//! | `-P`     | neither port is in the set, unless one is *to come*                              |
//!
//! - IPv4: family `AF_INET`, or a v4-mapped local or remote address. Everything else is IPv6: a dual-stack
//!   listener on `[::]` is IPv6, its IPv4 children are IPv4.
//! - *To come*: the kernel fills it in only after this transition. [`Key`] states, once for both sides, at which
//!   transitions that is so.
//!
//! # Undecided events in user space
//!
//! User space holds the event until the same socket's next one, which has more: both are kept or both are
//! dropped. An event without a next one by the end is counted, but not shown ([`Settled::undecided`]).
//!
//! The choice of *owners* ([`OwnerFilter`]) takes more than an event; it is made after this.
//!
//! The choice of *states* ([`StateSet`]) is not part of this: a dwell time takes both of its ends, so a
//! view filters by state after it has seen all events of the socket.

mod causes;
mod owner;
mod ports;
mod states;

use std::fmt;

use hashbrown::{HashMap, HashSet};
use tcpstate_common::{
    config::{self, PortBitmap},
    filter::Key,
    record::{AF_INET, AF_INET6},
};

pub use self::{
    causes::{CauseListError, CauseSet},
    owner::{CgroupTree, OwnerFilter, OwnerMatcher},
    ports::{PortListError, PortSet},
    states::{StateListError, StateSet},
};
use crate::{books::Settled, census::Census, event::Event};

/// An address family, as it travels on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, v4-mapped addresses included.
    Ipv4,
    /// IPv6, v4-mapped addresses left out.
    Ipv6,
}

/// A filter on sockets. The default matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this address family.
    pub family: Option<Family>,
    /// Only these local ports.
    pub lport: Option<PortSet>,
    /// Only these remote ports.
    pub rport: Option<PortSet>,
    /// Only these ports, on either side.
    pub port: Option<PortSet>,
    /// Only this network namespace (inode number). An event without a namespace is not in it.
    pub netns: Option<u32>,
}

/// The verdict of a filter on one event by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It matches.
    Keep,
    /// It does not match, and no later event of the socket can change that.
    Drop,
    /// It depends on values that the kernel has not filled in yet.
    Undecided,
}

/// The part of a [`Filter`] that the BPF programs apply.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelFilter<'a> {
    config: config::Filter,
    lport: Option<&'a PortBitmap>,
    rport: Option<&'a PortBitmap>,
    port: Option<&'a PortBitmap>,
}

impl KernelFilter<'_> {
    /// The filter's part of [`config::Config`].
    pub const fn config(&self) -> config::Filter {
        self.config
    }

    /// The same, and only in the cgroup with this id or below; `None`: in any. [`OwnerFilter`] has the final
    /// decision; the programs drop what certainly does not match.
    #[must_use]
    pub const fn in_cgroup(mut self, id: Option<u64>) -> Self {
        if let Some(id) = id {
            self.config.cgroup = id;
        }
        self
    }

    /// The bitmaps for [`config::LOCAL_PORTS`], [`config::REMOTE_PORTS`] and [`config::PORTS`].
    pub const fn bitmaps(
        &self,
    ) -> (
        Option<&PortBitmap>,
        Option<&PortBitmap>,
        Option<&PortBitmap>,
    ) {
        (self.lport, self.rport, self.port)
    }
}

impl Filter {
    /// Whether every event matches.
    pub fn wants_all(&self) -> bool {
        *self == Self::default()
    }

    /// The part for the BPF programs.
    pub fn kernel(&self) -> KernelFilter<'_> {
        KernelFilter {
            config: config::Filter {
                // See `KernelFilter::in_cgroup`.
                cgroup: 0,
                netns: self.netns.unwrap_or(0),
                family: match self.family {
                    None => 0,
                    Some(Family::Ipv4) => AF_INET,
                    Some(Family::Ipv6) => AF_INET6,
                },
                lport: u8::from(self.lport.is_some()),
                rport: u8::from(self.rport.is_some()),
                port: u8::from(self.port.is_some()),
            },
            lport: self.lport.as_ref().map(PortSet::bitmap),
            rport: self.rport.as_ref().map(PortSet::bitmap),
            port: self.port.as_ref().map(PortSet::bitmap),
        }
    }

    /// Whether a socket matches whose addresses and ports are all known.
    pub fn wants(&self, is_ipv4: bool, lport: u16, rport: u16, netns: u32) -> bool {
        let among = |set: &PortSet| set.contains(lport) || set.contains(rport);
        self.netns.is_none_or(|wanted| wanted == netns)
            && self
                .family
                .is_none_or(|wanted| (wanted == Family::Ipv4) == is_ipv4)
            && self.lport.as_ref().is_none_or(|set| set.contains(lport))
            && self.rport.as_ref().is_none_or(|set| set.contains(rport))
            && self.port.as_ref().is_none_or(among)
    }

    /// Removes from a census what does not match. It does not have the peers of half-open connections: where
    /// the remote port is filtered, none of them is known to match.
    pub fn census(&self, census: &mut Census) {
        if self.wants_all() {
            return;
        }
        let netns = census.netns;
        census.found.retain(|found| {
            let is_ipv4 = found.family == AF_INET || found.laddr.is_ipv4() || found.raddr.is_ipv4();
            self.wants(is_ipv4, found.lport, found.rport, netns)
        });
        census
            .held
            .retain(|held| self.wants(held.laddr.is_ipv4(), held.lport, 0, netns));
        census.half_open.retain(|half_open| {
            self.rport.is_none() && self.wants(half_open.laddr.is_ipv4(), half_open.lport, 0, netns)
        });
    }

    /// Judges one event by itself.
    pub fn judge(&self, event: &Event) -> Verdict {
        let shown = shown(event);
        let pending = shown.pending_ports();
        let verdicts = [
            self.netns
                .map(|netns| certain(event.netns() == Some(netns))),
            self.family.map(|family| {
                let laddr_is_any = event.laddr().is_unspecified();
                let raddr_is_any = event.raddr().is_unspecified();
                if !event.is_ipv4() && shown.is_family_pending(laddr_is_any, raddr_is_any) {
                    Verdict::Undecided
                } else {
                    certain((family == Family::Ipv4) == event.is_ipv4())
                }
            }),
            self.lport
                .as_ref()
                .map(|set| in_time(set.contains(event.lport()), pending.lport)),
            self.rport
                .as_ref()
                .map(|set| in_time(set.contains(event.rport()), pending.rport)),
            self.port.as_ref().map(|set| {
                let found = set.contains(event.lport()) || set.contains(event.rport());
                in_time(found, pending.either())
            }),
        ];
        verdicts
            .into_iter()
            .flatten()
            .fold(Verdict::Keep, Verdict::and)
    }
}

/// The key of an event for the rule that the BPF programs share.
const fn shown(event: &Event) -> Key {
    Key {
        family: event.record().family,
        lport: event.lport(),
        rport: event.rport(),
        oldstate: event.oldstate(),
        newstate: event.newstate(),
    }
}

const fn certain(matches: bool) -> Verdict {
    if matches {
        Verdict::Keep
    } else {
        Verdict::Drop
    }
}

const fn in_time(matches: bool, pending: bool) -> Verdict {
    if !matches && pending {
        Verdict::Undecided
    } else {
        certain(matches)
    }
}

impl Verdict {
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Drop, _) | (_, Self::Drop) => Self::Drop,
            (Self::Undecided, _) | (_, Self::Undecided) => Self::Undecided,
            (Self::Keep, Self::Keep) => Self::Keep,
        }
    }
}

impl fmt::Display for Filter {
    /// As on the command line; empty if it matches all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family.map(|family| match family {
            Family::Ipv4 => "-4".to_owned(),
            Family::Ipv6 => "-6".to_owned(),
        });
        let ports =
            |name: &str, set: &Option<PortSet>| set.as_ref().map(|set| format!("--{name} {set}"));
        let written = [
            family,
            ports("lport", &self.lport),
            ports("rport", &self.rport),
            ports("port", &self.port),
            self.netns.map(|netns| format!("--netns {netns}")),
        ];
        f.write_str(&written.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// The most undecided events that are held: about 20 MiB.
const HELD_MAX: usize = 1 << 17;

/// Applies a [`Filter`] to a stream, and holds undecided events until the socket's next event.
#[derive(Debug)]
pub struct Settler {
    filter: Filter,
    /// Held events by socket address (cookie where there is none). Two generations: when the young
    /// one has reached half of the bound, the rest of the old one is given up. So an event whose successor
    /// was lost goes without a search for the oldest.
    young: HashMap<u64, Event>,
    old: HashMap<u64, Event>,
    half: usize,
    settled: Settled,
    /// Of those that are held: the keys of events from before the beginning, which count nowhere.
    recalled: HashSet<u64>,
}

/// The events that a [`Settler`] passes after it was given one, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// An earlier event of the same socket, held until now.
    pub earlier: Option<Event>,
    /// Whether `earlier` is from before the beginning.
    pub is_recalled: bool,
    /// The event itself.
    pub event: Option<Event>,
}

impl Settler {
    /// A settler with this filter.
    pub fn new(filter: Filter) -> Self {
        Self::with_bound(filter, HELD_MAX)
    }

    fn with_bound(filter: Filter, bound: usize) -> Self {
        Self {
            filter,
            young: HashMap::new(),
            old: HashMap::new(),
            half: (bound / 2).max(1),
            settled: Settled::default(),
            recalled: HashSet::new(),
        }
    }

    /// Takes an event from before the beginning, which counts nowhere.
    pub fn recall(&mut self, event: &Event) -> Passed {
        let settled = self.settled;
        let passed = self.push(event);
        self.settled = settled;
        let key = key(event);
        if self.young.contains_key(&key) {
            self.recalled.insert(key);
        }
        passed
    }

    /// Takes the stream's next event.
    pub fn push(&mut self, event: &Event) -> Passed {
        let before = self.settled;
        let held = self.take(event);
        let is_recalled = !self.recalled.is_empty() && self.recalled.remove(&key(event));
        let verdict = self.filter.judge(event);
        // Undecided again: this one has no more than the one before it.
        let earlier = match (held, verdict) {
            (None, _) => None,
            (Some(held), Verdict::Keep) => {
                self.settled.passed += 1;
                Some(held)
            }
            (Some(_), Verdict::Drop) => {
                self.settled.filtered += 1;
                None
            }
            (Some(_), Verdict::Undecided) => {
                self.settled.undecided += 1;
                None
            }
        };
        if is_recalled {
            self.settled = before;
        }
        match verdict {
            Verdict::Keep => {
                self.settled.passed += 1;
                return Passed {
                    earlier,
                    is_recalled,
                    event: Some(*event),
                };
            }
            Verdict::Drop => self.settled.filtered += 1,
            Verdict::Undecided => self.hold(*event),
        }
        Passed {
            earlier,
            is_recalled,
            event: None,
        }
    }

    /// The decisions so far, without the events that are held.
    pub const fn settled(&self) -> Settled {
        self.settled
    }

    /// Gives up the events that are still held, at the end of the stream.
    pub fn finish(&mut self) -> Settled {
        let held = count(&self.young) + count(&self.old);
        self.settled.undecided += held.saturating_sub(self.recalled.len() as u64);
        self.young.clear();
        self.old.clear();
        self.recalled.clear();
        self.settled
    }

    /// The held event that this one follows.
    ///
    /// The same address does not mean the same socket: the kernel reuses it. The states must
    /// join, and the cookies must be the same where both are known; at `LISTEN -> SYN_RECV` the first
    /// one is not.
    fn take(&mut self, event: &Event) -> Option<Event> {
        if self.young.is_empty() && self.old.is_empty() {
            return None;
        }
        let key = key(event);
        let held = self.young.remove(&key).or_else(|| self.old.remove(&key))?;
        let cookies = (held.record().cookie, event.record().cookie);
        let same = cookies.0 == 0 || cookies.1 == 0 || cookies.0 == cookies.1;
        if same && held.newstate() == event.oldstate() {
            return Some(held);
        }
        self.settled.undecided += 1;
        None
    }

    fn hold(&mut self, event: Event) {
        if self.young.len() >= self.half {
            let given_up = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            let recalled = given_up
                .keys()
                .filter(|key| self.recalled.remove(*key))
                .count();
            self.settled.undecided += count(&given_up).saturating_sub(recalled as u64);
        }
        self.young.insert(key(&event), event);
    }
}

const fn key(event: &Event) -> u64 {
    let record = event.record();
    if record.skaddr == 0 {
        record.cookie
    } else {
        record.skaddr
    }
}

fn count(held: &HashMap<u64, Event>) -> u64 {
    // A table's length fits in 64 bits.
    held.len() as u64
}

#[cfg(test)]
mod tests;
