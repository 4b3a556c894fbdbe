//! Parts of a whole.

use super::Amount;

/// Whether this part of the whole is at least so many hundredths of it.
pub(super) const fn is_share(part: u64, whole: u64, percent: u64) -> bool {
    part.saturating_mul(100) >= whole.saturating_mul(percent)
}

/// The part as an amount.
pub(super) fn share(part: u64, whole: u64) -> Amount {
    if whole == 0 {
        return Amount::Share(0.0);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits hold any number of sockets"
    )]
    Amount::Share(part as f64 / whole as f64)
}
