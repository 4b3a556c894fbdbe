//! The counts of pushes over OTLP: the thread that pushes adds, and whoever writes metrics reads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The result of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The collector has all of it.
    Accepted,
    /// The collector has a part of it, and refused the rest.
    PartlyAccepted,
    /// The collector refused it.
    Refused,
    /// Nothing was sent, or the collector said that it is to be tried later.
    Unavailable,
    /// It was sent, perhaps, and no answer came: nobody knows what became of it.
    Unanswered,
}

impl Verdict {
    const ALL: [Self; 5] = [
        Self::Accepted,
        Self::PartlyAccepted,
        Self::Refused,
        Self::Unavailable,
        Self::Unanswered,
    ];

    /// The name, as the value of a label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::PartlyAccepted => "partly_accepted",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unanswered => "unanswered",
        }
    }
}

/// The pushes so far, by result. A clone counts the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct PushCounts(Arc<[AtomicU64; Verdict::ALL.len()]>);

impl PushCounts {
    /// One more with this result.
    pub(crate) fn add(&self, verdict: Verdict) {
        for (one, count) in Verdict::ALL.iter().zip(self.0.iter()) {
            if *one == verdict {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Each result with its count.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Verdict, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Verdict::ALL.into_iter().zip(counts)
    }
}
