//! A part of a whole.

use std::fmt;

use super::{Amount, Evidence, Figure};

/// A part of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) part: u64,
    pub(super) whole: u64,
}

impl Share {
    /// This part of this whole.
    pub(super) const fn of(part: u64, whole: u64) -> Self {
        Self { part, whole }
    }

    /// Whether it is at least so many hundredths. Of nothing there is no part.
    pub(super) fn is_at_least(self, percent: u64) -> bool {
        self.whole > 0
            && u128::from(self.part) * 100 >= u128::from(self.whole) * u128::from(percent)
    }

    /// Whether it is a larger part than another one.
    pub(super) fn is_above(self, other: Self) -> bool {
        u128::from(self.part) * u128::from(other.whole)
            > u128::from(other.part) * u128::from(self.whole)
    }

    /// As a figure.
    #[expect(clippy::cast_precision_loss, reason = "53 bits hold any real count")]
    pub(super) fn figure(self, name: &'static str, evidence: Evidence) -> Figure {
        Figure {
            name,
            amount: Amount::Share(if self.whole == 0 {
                0.0
            } else {
                self.part as f64 / self.whole as f64
            }),
            evidence,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = u128::from(self.part) * 1_000 / u128::from(self.whole.max(1));
        match tenths {
            0 if self.part > 0 => write!(f, "<0.1 %"),
            1..100 => write!(f, "{}.{} %", tenths / 10, tenths % 10),
            _ => write!(f, "{} %", tenths / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let share = |part, whole| Share { part, whole };
        for (part, whole, text) in [
            (0, 0, "0 %"),
            (0, 9, "0 %"),
            (1, 3_000, "<0.1 %"),
            (1, 40, "2.5 %"),
            (1, 3, "33 %"),
            (u64::MAX, u64::MAX, "100 %"),
        ] {
            assert_eq!(share(part, whole).to_string(), text);
        }
        assert!(share(1, 100).is_at_least(1));
        assert!(!share(1, 101).is_at_least(1));
        assert!(!share(0, 0).is_at_least(0));
        assert!(share(1, 2).is_above(share(1, 3)));
        assert!(!share(2, 4).is_above(share(1, 2)));
    }
}
