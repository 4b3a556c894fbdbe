//! The groups of an interval, in the order in which they are shown.

use std::cmp::Reverse;

use tcpstate_core::{
    catalogue::Group,
    model::{GroupFigures, Interval},
    names::Names,
};

/// The length of an interval.
pub(super) fn length_ns(interval: &Interval) -> u64 {
    interval.end_ns.saturating_sub(interval.start_ns)
}

/// The groups with the most transitions first, those with as many in the order of their keys.
pub(super) fn busiest_first<'a>(
    groups: &'a [GroupFigures],
    names: &Names,
) -> Vec<(Group, &'a GroupFigures)> {
    let mut groups: Vec<_> = groups
        .iter()
        .map(|group| (Group::new(group.key, names), group))
        .collect();
    groups.sort_by_cached_key(|(_, group)| Reverse(group.figures.total()));
    groups
}

/// The share that `part` has in `total`, to four decimals; `None` of nothing.
pub(super) fn share(part: u64, total: u64) -> Option<f64> {
    let parts = (u128::from(part) * 10_000 + u128::from(total / 2)).checked_div(total.into())?;
    #[expect(clippy::cast_precision_loss, reason = "at most 10,000")]
    Some(parts as f64 / 10_000.0)
}
