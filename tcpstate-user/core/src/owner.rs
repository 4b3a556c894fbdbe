//! The process that a connection belongs to, and how that is known.

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
    /// The process was looked up for a socket that was there before the capture.
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
    /// Process (thread group) id; `None` where it is not known or where several share a listener.
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
