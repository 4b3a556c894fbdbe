//! The part of a recording to show.

use std::time::Duration;

use clap::Args;
use jiff::{Timestamp, civil};

use crate::quantity::parse_duration;

/// The part of a recording to show.
#[derive(Clone, Copy, Debug, Args)]
pub struct PartArgs {
    /// Show a recording from this time on: 14:02, 14:02:30.5, 2026-11-29T14:02:30, or -90s before its end
    ///
    /// Times are local (`TZ`), unless they end in Z or an offset such as +01:00. A time of day is that of the day
    /// that is in the recording. Earlier changes are not shown or counted, but tell which connections were
    /// there. If nothing of the file is left, the exit status is 1; through a pipe that is not known, and it is 0.
    #[arg(
        long,
        value_name = "TIME",
        requires = "read",
        conflicts_with = "last",
        allow_hyphen_values = true,
        value_parser = parse_moment
    )]
    pub from: Option<Moment>,
    /// Show a recording up to this time, in the forms that --from takes
    #[arg(
        long,
        value_name = "TIME",
        requires = "read",
        conflicts_with = "last",
        allow_hyphen_values = true,
        value_parser = parse_moment
    )]
    pub to: Option<Moment>,
    /// Show the last part of a recording, such as 90s or 5m
    #[arg(long, value_name = "DURATION", requires = "read", value_parser = parse_duration)]
    pub last: Option<Duration>,
}

/// A moment of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This moment.
    At(Timestamp),
    /// A local date and time.
    Local(civil::DateTime),
    /// A local time of day.
    TimeOfDay(civil::Time),
    /// So long before the end.
    BeforeEnd(Duration),
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Some(duration) = text.strip_prefix('-') {
        let duration = parse_duration(duration).map_err(|error| error.to_string())?;
        return Ok(Moment::BeforeEnd(duration));
    }
    // The parser of times of day would take what stands there in a longer text.
    let is_time_of_day = text.get(2..3) == Some(":");
    let moment = if is_time_of_day {
        text.parse().map(Moment::TimeOfDay)
    } else {
        let local = || text.parse().map(Moment::Local);
        text.parse().map(Moment::At).or_else(|_| local())
    };
    moment.map_err(|_| {
        format!("`{text}` is not a time such as 14:02, 14:02:30.5, 2026-11-29T14:02:30 or -90s")
    })
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;
    use crate::tests::trace;

    #[test]
    fn a_moment_has_many_forms() {
        let moment = |text: &str| {
            let parsed = trace(&["-r", "file", "--from", text]).map(|trace| trace.watch.part.from);
            parsed.map_err(|error| error.to_string())
        };
        let time = |hour, minute, second, ns| {
            Ok(Some(Moment::TimeOfDay(civil::time(
                hour, minute, second, ns,
            ))))
        };
        assert_eq!(moment("14:02"), time(14, 2, 0, 0));
        assert_eq!(moment("14:02:30"), time(14, 2, 30, 0));
        assert_eq!(moment("14:02:30.5"), time(14, 2, 30, 500_000_000));
        let local = civil::date(2026, 11, 29).at(14, 2, 30, 0);
        for text in ["2026-11-29T14:02:30", "2026-11-29 14:02:30"] {
            assert_eq!(moment(text), Ok(Some(Moment::Local(local))), "{text}");
        }
        let at = Timestamp::from_second(1_795_960_950).unwrap();
        for text in ["2026-11-29T14:02:30Z", "2026-11-29T15:02:30+01:00"] {
            assert_eq!(moment(text), Ok(Some(Moment::At(at))), "{text}");
        }
        let before = Moment::BeforeEnd(Duration::from_secs(90));
        assert_eq!(moment("-90s"), Ok(Some(before)));
        for text in ["noon", "14", "25:00", "14:02:61", "-", "2026-13-01", ""] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_recording_has_parts() {
        for words in [["--from", "14:02"], ["--to", "14:02"], ["--last", "5m"]] {
            let error = trace(&words).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::MissingRequiredArgument,
                "{words:?}"
            );
            assert!(error.to_string().contains("--read <FILE>"), "{error}");
            assert!(trace(&[&words[..], &["-r", "file"]].concat()).is_ok());
        }
        let words = ["-r", "file", "--last", "5m", "--from", "14:02"];
        let error = trace(&words).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
    }
}
