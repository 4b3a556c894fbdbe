//! What is kept of a minisocket from one sample to the next, in a few bytes: there can be a million.

use tcpstate_common::State;

/// A minisocket that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Minisocket {
    /// The time at which its timer expires.
    expires: Expiry,
    /// The low bits of the number of the sample that found it first.
    first_sample: u16,
    /// The low bits of the number of the sample that found it last: the latest, or one of the few before.
    last_sample: u8,
    pub(super) marks: Marks,
}

// With the cookie 16 bytes: there can be a million.
const _: () = assert!(size_of::<Minisocket>() == 8);

/// The time at which a timer expires, which runs for minutes at most, without the bits above.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry(u32);

impl Expiry {
    /// In units of 65.5 µs, less than a tick, the number comes round after 78 hours.
    pub(super) const SHIFT: u32 = 16;

    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub(super) const fn at(ns: u64) -> Self {
        // Rounded up: otherwise it could seem to have expired before the sample that found it.
        Self(ns.div_ceil(1 << Self::SHIFT) as u32)
    }

    /// As monotonic nanoseconds, if it is now about `now_ns`.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub(super) fn ns(self, now_ns: u64) -> u64 {
        let now = now_ns >> Self::SHIFT;
        let ahead = self.0.wrapping_sub(now as u32).cast_signed();
        now.saturating_add_signed(ahead.into()) << Self::SHIFT
    }
}

impl Minisocket {
    /// The samples that [`Minisocket::is_first_found_since`] tells apart.
    pub(super) const WINDOW: u32 = i16::MAX as u32;

    /// One that this sample finds first.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub(super) const fn new(sample: u32, state: State) -> Self {
        Self {
            expires: Expiry::at(0),
            first_sample: sample as u16,
            last_sample: sample as u8,
            marks: Marks::found(state, 0),
        }
    }

    /// This sample finds it.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub(super) const fn find(&mut self, sample: u32, expires_ns: u64, marks: Marks) {
        self.expires = Expiry::at(expires_ns);
        self.last_sample = sample as u8;
        self.marks = marks;
    }

    /// The time at which its timer expires, monotonic nanoseconds, if it is now about `now_ns`.
    pub(super) fn expires_ns(self, now_ns: u64) -> u64 {
        self.expires.ns(now_ns)
    }

    /// Whether this sample, the latest, found it. So it may seem after 256 dumps in a row that were broken off; then it
    /// goes one sample later.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub(super) const fn is_found_by(self, sample: u32) -> bool {
        self.last_sample == sample as u8
    }

    /// Whether this sample, at most [`Minisocket::WINDOW`] before the latest, or a later one found it first. So it may
    /// seem of one that is older still.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub(super) const fn is_first_found_since(self, sample: u32) -> bool {
        self.first_sample.wrapping_sub(sample as u16).cast_signed() >= 0
    }
}

/// What is noted of a minisocket beside its times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks(u8);

impl Marks {
    /// The last sample missed it before its timer expired: a dump comes in pieces and can miss a single one.
    const MISSED: u8 = 1 << 7;
    /// The number of times that it has been reported in its state.
    const REPORTS: u8 = 0b11 << Self::REPORTS_SHIFT;
    const REPORTS_SHIFT: u32 = 5;
    pub(super) const MAX_REPORTS: u8 = Self::REPORTS >> Self::REPORTS_SHIFT;
    const STATE: u8 = (1 << Self::REPORTS_SHIFT) - 1;

    /// Of one that is found in this state, and was reported so many times in it.
    pub(super) const fn found(state: State, reports: u8) -> Self {
        Self(reports << Self::REPORTS_SHIFT & Self::REPORTS | state.0 & Self::STATE)
    }

    pub(super) const fn state(self) -> State {
        State(self.0 & Self::STATE)
    }

    pub(super) const fn reports(self) -> u8 {
        (self.0 & Self::REPORTS) >> Self::REPORTS_SHIFT
    }

    pub(super) const fn not_reported(self) -> Self {
        Self(self.0 & !Self::REPORTS)
    }

    pub(super) const fn is_missed(self) -> bool {
        self.0 & Self::MISSED != 0
    }

    pub(super) const fn missed(self) -> Self {
        Self(self.0 | Self::MISSED)
    }
}
