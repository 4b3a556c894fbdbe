//! Filters: the options that choose sockets, and the sets that they are made of.
//!
//! One choice is made twice: the BPF programs drop what certainly does not match
//! ([`Expression::necessary`](crate::expression::Expression::necessary)), and user space judges every event again,
//! whatever its source, by the expression that the options become ([`crate::expression`]). So a recording is filtered
//! exactly as the live kernel is, and the kernel side may pass more than it should, never less.
//!
//! # The duty of the kernel side
//!
//! An event is dropped if any row drops it.
//!
//! | condition   | drop when                                                                     |
//! |-------------|-------------------------------------------------------------------------------|
//! | namespace   | it is another one                                                             |
//! | cgroup      | it is neither the one asked for nor below it                                  |
//! | IPv4        | it is IPv6, unless the family is *to come*                                    |
//! | IPv6        | it is IPv4                                                                    |
//! | local port  | it is not in the set, unless it is *to come*                                  |
//! | remote port | it is not in the set, unless it is *to come*                                  |
//! | a port      | neither is in the set, unless one is *to come*                                |
//! | addresses   | no condition of a clause is true, unless that depends on one that is *to come* |
//!
//! - IPv4: family `AF_INET`, or a v4-mapped local or remote address. Everything else is IPv6: a dual-stack
//!   listener on `[::]` is IPv6, its IPv4 children are IPv4.
//! - *To come*: the kernel fills it in only after this transition. [`Key`](tcpstate_common::filter::Key) states, once for both sides, at which
//!   transitions that is so.
//! - A clause: a prefix of addresses and an end, or that it has not this prefix; or one of several such.
//! - Where the owner or the role of a connection is asked for, a listener is kept whatever the last six rows say, but for its
//!   local port: it gives its connections their owner.
//!
//! # Undecided events in user space
//!
//! User space holds the event until the same socket's next one, which has more ([`Held`]): both are kept or both
//! are dropped. An event without a next one by the end is counted, but not shown
//! ([`Settled::undecided`](crate::books::Settled::undecided)).

mod causes;
mod held;
mod kernel;
mod owner;
mod ports;
mod states;

use std::fmt;

use tcpstate_common::{
    config,
    record::{AF_INET, AF_INET6},
};

pub use self::{
    causes::{CauseListError, CauseSet},
    held::{Held, Waiting},
    kernel::KernelFilter,
    owner::{CgroupTree, OwnerFilter},
    ports::{PortListError, PortSet},
    states::{StateListError, StateMask, StateSet},
};

/// An address family, as it travels on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, v4-mapped addresses included.
    Ipv4,
    /// IPv6, v4-mapped addresses left out.
    Ipv6,
}

impl Family {
    /// Its number: `AF_INET` or `AF_INET6`.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => AF_INET,
            Self::Ipv6 => AF_INET6,
        }
    }
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

impl Filter {
    /// Whether every event matches.
    pub fn wants_all(&self) -> bool {
        *self == Self::default()
    }

    /// The part for the BPF programs: all of it.
    pub fn kernel(&self) -> KernelFilter<'_> {
        let config = config::Filter {
            netns: self.netns.unwrap_or(0),
            family: self.family.map_or(0, Family::number),
            lport: u8::from(self.lport.is_some()),
            rport: u8::from(self.rport.is_some()),
            port: u8::from(self.port.is_some()),
            ..config::Filter::default()
        };
        let bitmaps = [&self.lport, &self.rport, &self.port];
        KernelFilter::new(
            &config,
            bitmaps.map(|ports| ports.as_ref().map(PortSet::bitmap)),
        )
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

#[cfg(test)]
mod tests;
