//! The part of a recording that the arguments choose.

use std::path::Path;

use crate::{input::end_of, message::BadUsage};
use anyhow::{Context as _, anyhow, bail};
use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::Time, tz::TimeZone};
use tcpstate_cli::{Moment, PartArgs};
use tcpstate_core::{duration::nanoseconds, escape::Printable, origin::Origin, view::Part};

/// The time that a recording covers; its end is known only of a file.
struct Covered<'a> {
    begin: Timestamp,
    end: Option<Timestamp>,
    zone: &'a TimeZone,
}

/// The part that the arguments choose of the recording with this origin; `None`: all of it.
///
/// *Errors:* nothing of the recording is in that part.
pub(crate) fn choose(
    arguments: &PartArgs,
    path: &Path,
    origin: &Origin,
    zone: &TimeZone,
) -> anyhow::Result<Option<Part>> {
    let &PartArgs { from, to, last } = arguments;
    if from.is_none() && to.is_none() && last.is_none() {
        return Ok(None);
    }
    let name = Printable(path.as_os_str().as_encoded_bytes());
    let end_ns = end_of(path)?;
    let covered = Covered {
        begin: at(origin, origin.started_ns)?,
        end: end_ns.map(|ns| at(origin, ns)).transpose()?,
        zone,
    };
    let resolve = |moment, after| {
        covered
            .resolve(moment, after)
            .with_context(|| format!("cannot tell which part of {name} is meant"))
    };
    let from = from.or(last.map(Moment::BeforeEnd));
    let from = from.map(|moment| resolve(moment, None)).transpose()?;
    let to = to.map(|moment| resolve(moment, from)).transpose()?;
    let words = match (from, to) {
        (Some(from), Some(to)) => format!("from {} to {}", covered.say(from), covered.say(to)),
        (Some(from), None) => format!("from {} on", covered.say(from)),
        (None, Some(to)) => format!("up to {}", covered.say(to)),
        (None, None) => String::new(),
    };
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        let message = format!("{words} is no time: --to must be later than --from");
        return Err(BadUsage(message).into());
    }
    let ends_before = from.zip(covered.end).is_some_and(|(from, end)| from > end);
    if ends_before || to.is_some_and(|to| to <= covered.begin) {
        let end = covered.end.map(|end| format!(" to {}", covered.say(end)));
        bail!(
            "{name} has nothing {words}: it covers {}{}",
            covered.say(covered.begin),
            end.unwrap_or_default(),
        );
    }
    Ok(Some(Part {
        from_ns: from.map(|from| monotonic(origin, from)),
        to_ns: to.map(|to| monotonic(origin, to)),
        words,
    }))
}

impl Covered<'_> {
    /// The moment that is meant. A time of day is that of the first day that is in the recording, or else nearest
    /// to it; or, if there is an `after`, the first one after that.
    fn resolve(&self, moment: Moment, after: Option<Timestamp>) -> anyhow::Result<Timestamp> {
        Ok(match moment {
            Moment::At(at) => at,
            Moment::Local(local) => self.zone.to_timestamp(local).map_err(too_far)?,
            Moment::TimeOfDay(time) => {
                let base = after.unwrap_or(self.begin);
                let (today, tomorrow) = (self.on(time, base, 0)?, self.on(time, base, 1)?);
                let end = self.end.unwrap_or(base);
                if today > base || (after.is_none() && today == base) {
                    today
                } else if after.is_some() {
                    // Past midnight, if the recording goes on until then.
                    let day = |at: Timestamp| at.to_zoned(self.zone.clone()).date();
                    if self.end.is_none_or(|end| day(tomorrow) <= day(end)) {
                        tomorrow
                    } else {
                        today
                    }
                } else if tomorrow <= end
                    || tomorrow.duration_since(end) < base.duration_since(today)
                {
                    tomorrow
                } else {
                    today
                }
            }
            Moment::BeforeEnd(duration) => match self.end {
                Some(end) => end.checked_sub(duration).map_err(too_far)?,
                None => bail!(
                    "standard input is read once, so its end is not known before; name the file, or give --from and --to \
                     as times"
                ),
            },
        })
    }

    /// This time of day, so many days after that of `base`.
    fn on(&self, time: Time, base: Timestamp, days: i32) -> anyhow::Result<Timestamp> {
        let day = base.to_zoned(self.zone.clone()).date();
        let day = day.checked_add(days.days()).map_err(too_far)?;
        let local = day.to_datetime(time);
        self.zone.to_timestamp(local).map_err(too_far)
    }

    /// Local time, with as much of a second as is needed.
    fn say(&self, at: Timestamp) -> String {
        let local = at.to_zoned(self.zone.clone());
        local.strftime("%Y-%m-%d %H:%M:%S%.f").to_string()
    }
}

fn at(origin: &Origin, ns: u64) -> anyhow::Result<Timestamp> {
    let wall_ns = origin.wall_ns(ns).into();
    Timestamp::from_nanosecond(wall_ns)
        .map_err(|_| anyhow!("the recording's clock is out of range"))
}

/// The library's error names its own types.
fn too_far(_: jiff::Error) -> anyhow::Error {
    anyhow!("it is too far from now: the years go to 9999")
}

/// The moment on the clock of the events: 0 if it is before all of them.
fn monotonic(origin: &Origin, at: Timestamp) -> u64 {
    let zero = Timestamp::from_nanosecond(origin.wall_at_monotonic_zero_ns.into());
    let since: Option<SignedDuration> = zero.ok().map(|zero| at.duration_since(zero));
    let since = since.and_then(|since| since.try_into().ok());
    since.map_or(0, nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::civil;

    use super::*;

    const DAY_NS: u64 = 86_400_000_000_000;

    fn text(at: &Timestamp) -> String {
        at.strftime("%dT%H:%M:%S%.f").to_string()
    }

    /// A recording from the 1st, 23:50, to the 2nd or a later day.
    fn covered(end: Option<&str>) -> Covered<'static> {
        static ZONE: TimeZone = TimeZone::UTC;
        Covered {
            begin: "2026-11-01T23:50:00Z".parse().unwrap(),
            end: end.map(|end| end.parse().unwrap()),
            zone: &ZONE,
        }
    }

    #[test]
    fn a_time_of_day_is_that_of_the_recorded_day() {
        let short = Some("2026-11-02T00:03:00Z");
        let long = Some("2026-11-09T12:00:00Z");
        for (end, hour, minute, day) in [
            (short, 23, 55, "01T23:55:00"),
            (short, 0, 2, "02T00:02:00"),
            // Neither is in the recording: the nearer one.
            (short, 0, 5, "02T00:05:00"),
            (short, 23, 49, "01T23:49:00"),
            (long, 23, 49, "02T23:49:00"),
            (None, 0, 2, "02T00:02:00"),
            (None, 23, 49, "01T23:49:00"),
        ] {
            let moment = Moment::TimeOfDay(civil::time(hour, minute, 0, 0));
            let at = covered(end).resolve(moment, None).unwrap();
            assert_eq!(text(&at), day, "{end:?}");
        }
        let after = Some("2026-11-01T23:55:00Z".parse().unwrap());
        for (hour, minute, day) in [(23, 58, "01T23:58:00"), (0, 5, "02T00:05:00")] {
            let moment = Moment::TimeOfDay(civil::time(hour, minute, 0, 0));
            let at = covered(short).resolve(moment, after).unwrap();
            assert_eq!(text(&at), day);
        }
        // Two that were swapped are no span past midnight, which this recording does not reach.
        let ended = Some("2026-11-01T23:59:00Z");
        let moment = Moment::TimeOfDay(civil::time(23, 52, 0, 0));
        let at = covered(ended).resolve(moment, after).unwrap();
        assert_eq!(text(&at), "01T23:52:00");
    }

    #[test]
    fn the_end_of_a_pipe_is_not_known() {
        let before = Moment::BeforeEnd(Duration::from_secs(90));
        let at = covered(Some("2026-11-02T00:03:00Z")).resolve(before, None);
        assert_eq!(text(&at.unwrap()), "02T00:01:30");
        let error = covered(None).resolve(before, None).unwrap_err();
        assert!(error.to_string().contains("standard input"), "{error}");
    }

    #[test]
    fn moments_are_on_the_clock_of_the_events() {
        let origin = Origin {
            host: String::new(),
            kernel: String::new(),
            attach: String::new(),
            wall_at_monotonic_zero_ns: 1_793_491_200_000_000_000,
            started_ns: DAY_NS,
            filters: String::new(),
            live: false,
            sample_interval_ns: None,
        };
        for ns in [0, 1, DAY_NS] {
            assert_eq!(monotonic(&origin, at(&origin, ns).unwrap()), ns);
        }
        assert_eq!(monotonic(&origin, Timestamp::UNIX_EPOCH), 0);
    }
}
