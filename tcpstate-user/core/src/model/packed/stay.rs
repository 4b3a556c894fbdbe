//! A state that a connection was in, and the time in it, in one word.

use tcpstate_common::State;

use crate::model::connection::{Dwell, Stay};

/// A state and its dwell in one word: 8 bits, a bit for a lower bound, and 55. 2^55 ns are 416 days.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct PackedStay(u64);

impl PackedStay {
    const AT_LEAST: u64 = 1 << 55;
    const UNKNOWN: u64 = Self::AT_LEAST - 1;

    pub(super) const fn new(state: State, dwell: Dwell) -> Self {
        let (ns, bound) = match dwell {
            Dwell::Unknown => (Self::UNKNOWN, 0),
            Dwell::Exactly(ns) => (ns, 0),
            Dwell::AtLeast(ns) => (ns, Self::AT_LEAST),
        };
        let ns = match dwell {
            Dwell::Exactly(_) | Dwell::AtLeast(_) if ns >= Self::UNKNOWN => Self::UNKNOWN - 1,
            _ => ns,
        };
        Self((state.0 as u64) << 56 | bound | ns)
    }

    pub(super) const fn unpack(self) -> Stay {
        let ns = self.0 & Self::UNKNOWN;
        let dwell = if ns == Self::UNKNOWN {
            Dwell::Unknown
        } else if self.0 & Self::AT_LEAST != 0 {
            Dwell::AtLeast(ns)
        } else {
            Dwell::Exactly(ns)
        };
        Stay::seen(State((self.0 >> 56) as u8), dwell)
    }
}

impl std::fmt::Debug for PackedStay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.unpack().fmt(f)
    }
}
