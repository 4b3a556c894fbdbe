//! Filters: the options that choose sockets, and the sets that they are made of.
//!
//! One choice is made twice: the BPF programs drop what certainly does not match
//! ([`Filter::kernel`]), and user space judges every event again, whatever its source, by the expression that
//! the options become ([`crate::expression`]). So a recording is filtered exactly as the live kernel is, and
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
//! - *To come*: the kernel fills it in only after this transition. [`Key`](tcpstate_common::filter::Key) states, once for both sides, at which
//!   transitions that is so.
//!
//! # Undecided events in user space
//!
//! User space holds the event until the same socket's next one, which has more ([`Held`]): both are kept or both
//! are dropped. An event without a next one by the end is counted, but not shown
//! ([`Settled::undecided`](crate::books::Settled::undecided)).

mod causes;
mod held;
mod owner;
mod ports;
mod states;

use std::fmt;

use tcpstate_common::{
    config::{self, PortBitmap},
    record::{AF_INET, AF_INET6},
};

pub use self::{
    causes::{CauseListError, CauseSet},
    held::{Held, Waiting},
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

    /// The same, and only in the cgroup with this id or below; `None`: in any. User space has the final
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
                ..config::Filter::default()
            },
            lport: self.lport.as_ref().map(PortSet::bitmap),
            rport: self.rport.as_ref().map(PortSet::bitmap),
            port: self.port.as_ref().map(PortSet::bitmap),
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

#[cfg(test)]
mod tests;
