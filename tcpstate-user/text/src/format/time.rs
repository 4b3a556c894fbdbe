//! Times of day. Each formatter keeps the second that it wrote last, because events come in bursts.

use std::fmt::{self, Write as _};

use jiff::{Timestamp, tz::TimeZone};
use tcpstate_core::options::TimeForm;

const SECOND_NS: i64 = 1_000_000_000;

/// Writes RFC 3339 times in UTC with nanoseconds: `2026-01-31T12:34:56.000000789Z`.
#[derive(Debug, Default)]
pub struct Utc {
    second: Option<i64>,
    /// The time up to the second, with the dot behind it.
    text: String,
}

impl Utc {
    /// Appends the time that is `wall_ns` nanoseconds after 1970 began.
    pub fn push(&mut self, wall_ns: i64, line: &mut Vec<u8>) {
        let second = wall_ns.div_euclid(SECOND_NS);
        if self.second != Some(second) {
            self.text = at(second).strftime("%Y-%m-%dT%H:%M:%S.").to_string();
            self.second = Some(second);
        }
        line.extend_from_slice(self.text.as_bytes());
        let mut rest = wall_ns.rem_euclid(SECOND_NS);
        let mut digits = *b"000000000Z";
        for digit in digits.iter_mut().take(9).rev() {
            #[expect(clippy::cast_sign_loss, reason = "0 to 9")]
            let value = (rest % 10) as u8;
            *digit = b'0' + value;
            rest /= 10;
        }
        line.extend_from_slice(&digits);
    }
}

/// Writes the time of day in a time zone: `12:34:56`, or with the date and parts of a second.
#[derive(Debug)]
pub struct Local {
    zone: TimeZone,
    form: TimeForm,
    second: Option<i64>,
    text: String,
    /// The length of the text up to the second.
    whole: usize,
}

impl Local {
    /// The time of day in this zone.
    pub const fn new(zone: TimeZone, form: TimeForm) -> Self {
        Self {
            zone,
            form,
            second: None,
            text: String::new(),
            whole: 0,
        }
    }

    /// The time of day, `wall_ns` nanoseconds after 1970 began.
    pub fn at(&mut self, wall_ns: i64) -> &str {
        let second = wall_ns.div_euclid(SECOND_NS);
        if self.second != Some(second) {
            let time = at(second).to_zoned(self.zone.clone());
            self.text = time.strftime(layout(self.form)).to_string();
            self.whole = self.text.len();
            self.second = Some(second);
        }
        let digits = digits(self.form);
        if digits > 0 {
            self.text.truncate(self.whole);
            let part = wall_ns.rem_euclid(SECOND_NS) / 10_i64.pow(9 - digits);
            // Writing to a string does not fail.
            let _ = write!(self.text, ".{part:0width$}", width = digits as usize);
        }
        &self.text
    }
}

/// Seconds from one monotonic time to another, with microseconds: `12.000345`.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    /// The time, nanoseconds.
    pub ns: u64,
    /// The time that it is counted from, nanoseconds.
    pub from_ns: u64,
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.ns < self.from_ns { "-" } else { "" };
        let micros = self.ns.abs_diff(self.from_ns) / 1_000;
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// The form up to the second.
const fn layout(form: TimeForm) -> &'static str {
    match form {
        TimeForm::Seconds | TimeForm::Milliseconds | TimeForm::Microseconds => "%H:%M:%S",
        TimeForm::Date | TimeForm::Full => "%Y-%m-%d %H:%M:%S",
    }
}

/// The decimals of its second.
const fn digits(form: TimeForm) -> u32 {
    match form {
        TimeForm::Seconds | TimeForm::Date => 0,
        TimeForm::Milliseconds => 3,
        TimeForm::Microseconds | TimeForm::Full => 6,
    }
}

/// The columns that a time takes.
pub const fn width(form: TimeForm) -> usize {
    match form {
        TimeForm::Seconds => 8,
        TimeForm::Milliseconds => 12,
        TimeForm::Microseconds => 15,
        TimeForm::Date => 19,
        TimeForm::Full => 26,
    }
}

fn at(second: i64) -> Timestamp {
    // 64 bits of nanoseconds are the years 1677 to 2262, well inside.
    Timestamp::from_second(second).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_has_nanoseconds() {
        let mut utc = Utc::default();
        for (wall_ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_769_862_896_000_000_789, "2026-01-31T12:34:56.000000789Z"),
            (1_769_862_896_999_999_999, "2026-01-31T12:34:56.999999999Z"),
            (1_769_862_897_000_000_000, "2026-01-31T12:34:57.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            let mut line = Vec::new();
            utc.push(wall_ns, &mut line);
            assert_eq!(line, text.as_bytes());
        }
    }

    #[test]
    fn local_follows_the_zone_through_its_changes() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let mut local = Local::new(zone, TimeForm::Seconds);
        assert_eq!(local.at(1_769_862_896_000_000_789), "13:34:56");
        // 2026-03-29 01:00 UTC: the clocks go forward.
        assert_eq!(local.at(1_774_745_999_999_999_999), "01:59:59");
        assert_eq!(local.at(1_774_746_000_000_000_000), "03:00:00");
    }

    #[test]
    fn local_has_the_date_and_parts_of_a_second_on_request() {
        for (form, text, next) in [
            (TimeForm::Seconds, "12:34:56", "12:34:56"),
            (TimeForm::Milliseconds, "12:34:56.000", "12:34:56.999"),
            (TimeForm::Microseconds, "12:34:56.000000", "12:34:56.999999"),
            (TimeForm::Date, "2026-01-31 12:34:56", "2026-01-31 12:34:56"),
            (
                TimeForm::Full,
                "2026-01-31 12:34:56.000000",
                "2026-01-31 12:34:56.999999",
            ),
        ] {
            let mut local = Local::new(TimeZone::UTC, form);
            assert_eq!(local.at(1_769_862_896_000_000_789), text);
            assert_eq!(local.at(1_769_862_896_999_999_999), next);
            assert_eq!(text.len(), width(form));
        }
    }

    #[test]
    fn since_has_microseconds_and_a_sign() {
        let since = |ns, from_ns| Since { ns, from_ns }.to_string();
        assert_eq!(since(12_000_345_678, 0), "12.000345");
        assert_eq!(since(1_000, 3_000), "-0.000002");
        assert_eq!(since(5, 5), "0.000000");
    }
}
