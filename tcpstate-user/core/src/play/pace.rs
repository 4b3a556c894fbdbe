//! The pace: from wall time to a time of the recording, and back.

use std::fmt;

/// The speed of playing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// In tenths of the speed at which it was recorded; 0 is taken for 1.
    Tenths(u32),
    /// As fast as possible.
    Unlimited,
}

impl Speed {
    /// As it was recorded.
    pub const NORMAL: Self = Self::Tenths(10);

    /// The speeds to choose from, the slowest first: 0.1x to 1000x, and as fast as possible.
    pub const ALL: [Self; 14] = [
        Self::Tenths(1),
        Self::Tenths(2),
        Self::Tenths(5),
        Self::NORMAL,
        Self::Tenths(20),
        Self::Tenths(50),
        Self::Tenths(100),
        Self::Tenths(200),
        Self::Tenths(500),
        Self::Tenths(1_000),
        Self::Tenths(2_000),
        Self::Tenths(5_000),
        Self::Tenths(10_000),
        Self::Unlimited,
    ];

    /// The next one of [`Speed::ALL`]; the fastest stays as it is.
    #[must_use]
    pub fn faster(self) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|speed| speed.rank() > self.rank()).unwrap_or(self)
    }

    /// The one before in [`Speed::ALL`]; the slowest stays as it is.
    #[must_use]
    pub fn slower(self) -> Self {
        let mut all = Self::ALL.into_iter().rev();
        all.find(|speed| speed.rank() < self.rank()).unwrap_or(self)
    }

    const fn rank(self) -> u64 {
        match self {
            Self::Tenths(tenths) => tenths as u64,
            Self::Unlimited => u64::MAX,
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("max"),
            Self::Tenths(tenths) => match (tenths / 10, tenths % 10) {
                (whole, 0) => write!(f, "{whole}x"),
                (whole, tenth) => write!(f, "{whole}.{tenth}x"),
            },
        }
    }
}

/// The relation of wall time to a time of the recording: a straight line, until it is changed.
///
/// *Units:* both are nanoseconds, each on a clock of its own that only goes forward.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    speed: Speed,
    is_paused: bool,
    /// This position...
    position_ns: u64,
    /// ... is that of this wall time.
    wall_ns: u64,
}

impl Pace {
    /// Plays from this position on, as it was recorded.
    pub const fn new(position_ns: u64, wall_ns: u64) -> Self {
        Self {
            speed: Speed::NORMAL,
            is_paused: false,
            position_ns,
            wall_ns,
        }
    }

    /// The speed, also while it is paused.
    pub const fn speed(&self) -> Speed {
        self.speed
    }

    /// Whether it stands still.
    pub const fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The position at this wall time: `u64::MAX`, which is beyond every event, where nothing holds it back.
    pub fn position_ns(&self, wall_ns: u64) -> u64 {
        match self.speed {
            _ if self.is_paused => self.position_ns,
            Speed::Unlimited => u64::MAX,
            Speed::Tenths(tenths) => {
                let gone_ns = u128::from(wall_ns.saturating_sub(self.wall_ns));
                let gone_ns = gone_ns * u128::from(tenths.max(1)) / 10;
                let gone_ns = u64::try_from(gone_ns).unwrap_or(u64::MAX);
                self.position_ns.saturating_add(gone_ns)
            }
        }
    }

    /// The first wall time at which this position is reached; `None` if it never is. The past where it has been.
    pub fn wall_ns(&self, position_ns: u64) -> Option<u64> {
        let ahead_ns = u128::from(position_ns.saturating_sub(self.position_ns));
        match self.speed {
            _ if ahead_ns == 0 => Some(self.wall_ns),
            _ if self.is_paused => None,
            Speed::Unlimited => Some(self.wall_ns),
            Speed::Tenths(tenths) => {
                let wait_ns = (ahead_ns * 10).div_ceil(u128::from(tenths.max(1)));
                let wait_ns = u64::try_from(wait_ns).ok()?;
                self.wall_ns.checked_add(wait_ns)
            }
        }
    }

    /// Goes on from this position.
    pub const fn go_to(&mut self, position_ns: u64, wall_ns: u64) {
        self.position_ns = position_ns;
        self.wall_ns = wall_ns;
    }

    /// Stands still at this position.
    pub const fn pause(&mut self, position_ns: u64, wall_ns: u64) {
        self.is_paused = true;
        self.go_to(position_ns, wall_ns);
    }

    /// Goes on from where it stands.
    pub const fn resume(&mut self, wall_ns: u64) {
        if self.is_paused {
            self.is_paused = false;
            self.wall_ns = wall_ns;
        }
    }

    /// Goes on from this position with another speed.
    pub const fn set_speed(&mut self, speed: Speed, position_ns: u64, wall_ns: u64) {
        self.speed = speed;
        self.go_to(position_ns, wall_ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn time_passes_at_the_speed_chosen_and_stands_still_in_a_pause() {
        let mut pace = Pace::new(100 * SECOND, 7 * SECOND);
        assert_eq!(pace.position_ns(9 * SECOND), 102 * SECOND);
        pace.set_speed(Speed::Tenths(1), 102 * SECOND, 9 * SECOND);
        assert_eq!(pace.position_ns(19 * SECOND), 103 * SECOND);
        pace.pause(103 * SECOND, 19 * SECOND);
        assert_eq!(pace.position_ns(1_000 * SECOND), 103 * SECOND);
        assert_eq!(pace.wall_ns(103 * SECOND + 1), None);
        pace.set_speed(Speed::Tenths(10_000), 103 * SECOND, 1_000 * SECOND);
        assert!(pace.is_paused(), "the speed is that of later");
        pace.resume(2_000 * SECOND);
        // Twice is once.
        pace.resume(2_000 * SECOND + 1);
        assert_eq!(pace.position_ns(2_001 * SECOND), 1_103 * SECOND);
        pace.set_speed(Speed::Unlimited, 1_103 * SECOND, 2_001 * SECOND);
        assert_eq!(pace.position_ns(2_001 * SECOND), u64::MAX);
        pace.pause(1_200 * SECOND, 2_002 * SECOND);
        assert_eq!(pace.position_ns(3_000 * SECOND), 1_200 * SECOND);
        // A clock that stands, or numbers beyond all bounds.
        assert_eq!(Pace::new(5, 9).position_ns(3), 5);
        assert_eq!(Pace::new(5, 0).position_ns(u64::MAX), u64::MAX);
        assert_eq!(Pace::new(0, 5).wall_ns(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_position_is_reached_at_its_wall_time_and_not_before(
            from_ns in 0..u64::MAX / 4, wall_ns in 0..u64::MAX / 4, ahead_ns in 1..u64::MAX / 200, tenths in 1_u32..=10_000,
        ) {
            let mut pace = Pace::new(from_ns, wall_ns);
            pace.set_speed(Speed::Tenths(tenths), from_ns, wall_ns);
            let at_ns = pace.wall_ns(from_ns + ahead_ns).unwrap();
            prop_assert!(pace.position_ns(at_ns) >= from_ns + ahead_ns);
            prop_assert!(pace.position_ns(at_ns - 1) < from_ns + ahead_ns);
        }
    }

    #[test]
    fn each_speed_is_one_step_from_the_next() {
        let shown = Speed::ALL.map(|speed| speed.to_string()).join(" ");
        assert_eq!(
            shown,
            "0.1x 0.2x 0.5x 1x 2x 5x 10x 20x 50x 100x 200x 500x 1000x max"
        );
        for pair in Speed::ALL.windows(2) {
            assert_eq!((pair[0].faster(), pair[1].slower()), (pair[1], pair[0]));
        }
        assert_eq!(Speed::ALL[0].slower(), Speed::ALL[0]);
        assert_eq!(Speed::Unlimited.faster(), Speed::Unlimited);
        // One between two of them.
        assert_eq!(Speed::Tenths(30).faster(), Speed::Tenths(50));
        assert_eq!(Speed::Tenths(30).slower(), Speed::Tenths(20));
    }
}
