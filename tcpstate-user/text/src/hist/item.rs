//! One histogram, as it is shown.

use tcpstate_core::{
    histogram::Histogram,
    model::{GroupKey, Of},
    transition::TransitionCount,
};

use crate::order::life_order;

/// One histogram.
pub(super) struct Item {
    pub(super) key: GroupKey,
    pub(super) content: Content,
}

/// The content of a histogram.
pub(super) enum Content {
    /// How long it took.
    Durations { of: Of, histogram: Histogram },
    /// How often each transition happened.
    Transitions(Vec<TransitionCount>),
}

impl Item {
    /// The number of durations, or of transitions.
    pub(super) fn count(&self) -> u64 {
        match &self.content {
            Content::Durations { histogram, .. } => histogram.count(),
            Content::Transitions(transitions) => transitions.iter().map(|one| one.count).sum(),
        }
    }

    /// Its place among those of its group.
    pub(super) fn order(&self) -> usize {
        match self.content {
            Content::Durations {
                of: Of::Dwell(state),
                ..
            } => life_order(state),
            Content::Durations { .. } | Content::Transitions(_) => 0,
        }
    }
}
