//! The result of an event, on its way to what it counts in.

use super::applied::Subject;

/// The result of an event.
pub(super) struct Step {
    pub(super) subject: Subject,
    pub(super) group: u16,
    pub(super) dwell: Dwell,
    /// The state goes on: `dwell` is the time in it so far.
    pub(super) stays: bool,
    pub(super) gap: bool,
}

/// The time in a state, if it is known, in fields of different sizes: these are copied one by one. An `Option` of it is copied as one, and the processor
/// waits for that until all that was stored before is in its cache.
#[derive(Clone, Copy)]
pub(super) struct Dwell {
    is_known: bool,
    ns: u64,
}

impl Dwell {
    pub(super) const UNKNOWN: Self = Self {
        is_known: false,
        ns: 0,
    };

    #[inline]
    pub(super) fn get(self) -> Option<u64> {
        self.is_known.then_some(self.ns)
    }
}

impl From<Option<u64>> for Dwell {
    #[inline]
    fn from(ns: Option<u64>) -> Self {
        ns.map_or(Self::UNKNOWN, |ns| Self { is_known: true, ns })
    }
}
