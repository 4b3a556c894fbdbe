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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stay_survives_packing() {
        for (dwell, kept) in [
            (Dwell::Unknown, Dwell::Unknown),
            (Dwell::Exactly(0), Dwell::Exactly(0)),
            (Dwell::AtLeast(0), Dwell::AtLeast(0)),
            (
                Dwell::Exactly(86_400_000_000_000),
                Dwell::Exactly(86_400_000_000_000),
            ),
            // More than 416 days is shown as 416 days, not as unknown.
            (Dwell::Exactly(u64::MAX), Dwell::Exactly((1 << 55) - 2)),
            (Dwell::AtLeast(u64::MAX), Dwell::AtLeast((1 << 55) - 2)),
        ] {
            let stay = PackedStay::new(State(255), dwell).unpack();
            assert_eq!(stay, Stay::seen(State(255), kept));
        }
    }
}
