//! The process that a connection belongs to, and how that is known; and the others that have to do with it.

use std::sync::Arc;

use crate::event::Process;

/// A task's name as the kernel has it: 16 bytes, NUL-padded, chosen by the process itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// The name without its padding. May be any bytes, UTF-8 or not.
    #[expect(clippy::indexing_slicing, reason = "the end is at most the length")]
    pub fn as_bytes(&self) -> &[u8] {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(self.0.len());
        &self.0[..end]
    }
}

impl std::fmt::Debug for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&String::from_utf8_lossy(self.as_bytes()), f)
    }
}

/// The evidence for an [`Owner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum How {
    /// Not known.
    #[default]
    Unknown,
    /// The process made the call that opened the connection or the listener.
    Exact,
    /// The process listens where the connection came in.
    Listener,
    /// The process was looked up: it holds a socket that was there before the capture, or whose opener is gone.
    Seeded,
}

impl How {
    /// The name in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Exact => "exact",
            Self::Listener => "listener",
            Self::Seeded => "seeded",
        }
    }
}

/// The process that a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    /// Process (thread group) id; `None` where it is not known or where several listen at the same place.
    pub pid: Option<u32>,
    /// The task's name; `None` where it is not known or where several with different names share.
    pub comm: Option<Comm>,
    /// The evidence.
    pub how: How,
}

impl Owner {
    /// No owner is known.
    pub const UNKNOWN: Self = Self {
        pid: None,
        comm: None,
        how: How::Unknown,
    };

    /// The process that acted on the socket itself.
    pub fn exact(process: Option<Process>) -> Self {
        process.map_or(Self::UNKNOWN, |process| Self {
            pid: Some(process.pid),
            comm: Some(Comm(process.comm)),
            how: How::Exact,
        })
    }

    /// The process that was found to hold the socket.
    pub const fn holding(process: Process) -> Self {
        Self {
            pid: Some(process.pid),
            comm: Some(Comm(process.comm)),
            how: How::Seeded,
        }
    }

    /// The owner of a connection that came in through a listener of this owner.
    #[must_use]
    pub fn inherited(self) -> Self {
        match self.how {
            How::Unknown => Self::UNKNOWN,
            How::Exact | How::Listener | How::Seeded => Self {
                how: How::Listener,
                ..self
            },
        }
    }

    /// The facts that are true of both owners: the owner of a socket that belongs to one of them.
    #[must_use]
    pub fn either(self, other: Self) -> Self {
        Self {
            pid: self.pid.filter(|_| self.pid == other.pid),
            comm: self.comm.filter(|_| self.comm == other.comm),
            how: if self.how == How::Unknown || other.how == How::Unknown {
                How::Unknown
            } else {
                self.how
            },
        }
    }
}

/// A process that has to do with a socket, beside its owner or as such, and what is known of that.
///
/// A listener that its opener left to other processes (a daemon, workers, socket activation) has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Process (thread group) id.
    pub pid: u32,
    /// Its name, where that is known.
    pub comm: Option<Comm>,
    /// It opened the socket, or the listener where the connection came in. It may be gone.
    pub opened: bool,
    /// It was found to hold that socket or listener.
    pub holds: bool,
    /// It closed the connection.
    pub closed: bool,
}

/// The processes that have to do with a socket: the one that opened it first, then the oldest that holds it.
pub type Holders = Arc<[Holder]>;

impl Holder {
    /// Of an opener, where it is known, and of those that hold the socket now.
    pub fn list(opener: Option<Self>, holding: &[Process]) -> Holders {
        let opener_pid = opener.map(|opener| opener.pid);
        let gone = opener.filter(|opener| holding.iter().all(|one| one.pid != opener.pid));
        let gone = gone.map(|gone| Self {
            holds: false,
            ..gone
        });
        let holding = holding.iter().map(|process| Self {
            pid: process.pid,
            comm: Some(Comm(process.comm)),
            opened: Some(process.pid) == opener_pid,
            holds: true,
            closed: false,
        });
        gone.into_iter().chain(holding).collect()
    }

    /// The processes to show beside an owner, where more is known than it: these, and the one that closed the
    /// connection. A listener with many workers shows the first of them.
    pub fn beside(
        owner: &Owner,
        holders: Option<&Holders>,
        closer: Option<u32>,
    ) -> Option<Holders> {
        /// The most that are shown.
        const SHOWN: usize = 32;
        let known = holders.map_or(&[][..], |holders| holders);
        let others = |pid: u32| Some(pid) != owner.pid;
        if !closer.is_some_and(others) && !known.iter().any(|holder| others(holder.pid)) {
            return None;
        }
        let mut shown: Vec<Self> = known.iter().take(SHOWN).copied().collect();
        if let Some(pid) = closer {
            if let Some(holder) = shown.iter_mut().find(|holder| holder.pid == pid) {
                holder.closed = true;
            } else {
                let known = known.iter().find(|holder| holder.pid == pid);
                shown.push(Self {
                    pid,
                    comm: match known {
                        Some(known) => known.comm,
                        None => owner.comm.filter(|_| owner.pid == Some(pid)),
                    },
                    opened: false,
                    holds: known.is_some(),
                    closed: true,
                });
            }
        }
        Some(shown.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Process {
        Process {
            pid,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn flags(holders: &[Holder]) -> Vec<(u32, bool, bool, bool)> {
        let flags = |one: &Holder| (one.pid, one.opened, one.holds, one.closed);
        holders.iter().map(flags).collect()
    }

    #[test]
    fn an_opener_that_is_gone_stays_in_the_list() {
        let opener = Holder {
            pid: 1,
            comm: None,
            opened: true,
            holds: true,
            closed: false,
        };
        let workers = [process(2), process(3)];
        let gone = Holder::list(Some(opener), &workers);
        let expected = [
            (1, true, false, false),
            (2, false, true, false),
            (3, false, true, false),
        ];
        assert_eq!(flags(&gone), expected);
        let holds = Holder::list(Some(opener), &[process(1)]);
        assert_eq!(flags(&holds), [(1, true, true, false)]);
        assert_eq!(
            flags(&Holder::list(None, &[process(4)])),
            [(4, false, true, false)]
        );
    }

    #[test]
    fn what_is_known_beside_the_owner_is_shown_with_the_closer() {
        let owner = Owner::holding(process(2));
        assert_eq!(Holder::beside(&owner, None, Some(2)), None);
        assert_eq!(Holder::beside(&owner, None, None), None);
        let alone = Holder::list(None, &[process(2)]);
        assert_eq!(Holder::beside(&owner, Some(&alone), Some(2)), None);
        let both = Holder::list(None, &[process(2), process(3)]);
        let shown = Holder::beside(&owner, Some(&both), Some(3)).unwrap();
        assert_eq!(
            flags(&shown),
            [(2, false, true, false), (3, false, true, true)]
        );
        let shown = Holder::beside(&owner, None, Some(9)).unwrap();
        assert_eq!(flags(&shown), [(9, false, false, true)]);
        let many: Vec<Process> = (1..=100).map(process).collect();
        let shown = Holder::beside(&owner, Some(&Holder::list(None, &many)), Some(99)).unwrap();
        assert_eq!(shown.len(), 33);
        assert_eq!(flags(&shown).last(), Some(&(99, false, true, true)));
    }
}
