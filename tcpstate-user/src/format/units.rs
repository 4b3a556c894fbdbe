//! Quantities with their units, written for people and read from the command line.
//!
//! Machine formats carry plain numbers in base units; nothing here is for them.

use std::{fmt, time::Duration};

/// Nanoseconds, written as milliseconds with three decimals, rounded: `0.040`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 / 1_000 + u64::from(self.0 % 1_000 >= 500);
        write!(f, "{}.{:03}", micros / 1_000, micros % 1_000)
    }
}

/// Nanoseconds, written with three significant digits and a unit: `251 ns`, `4.56 ms`, `1m 03s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let seconds = self.0 / 1_000_000_000;
        match seconds {
            0..MINUTE => {
                let (unit_ns, unit) = match self.0 {
                    0..1_000 => return write!(f, "{} ns", self.0),
                    1_000..1_000_000 => (1_000, "us"),
                    1_000_000..1_000_000_000 => (1_000_000, "ms"),
                    _ => (1_000_000_000, "s"),
                };
                write!(
                    f,
                    "{} {unit}",
                    ThreeDigits {
                        value: self.0,
                        unit: unit_ns
                    }
                )
            }
            MINUTE..HOUR => write!(f, "{}m {:02}s", seconds / MINUTE, seconds % MINUTE),
            HOUR..DAY => write!(f, "{}h {:02}m", seconds / HOUR, seconds % HOUR / MINUTE),
            _ => write!(f, "{}d {:02}h", seconds / DAY, seconds % DAY / HOUR),
        }
    }
}

/// A size in bytes, written with three significant digits and a binary unit: `8.00 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = match self.0 {
            0..0x400 => return write!(f, "{} B", self.0),
            0x400..0x10_0000 => (10, "KiB"),
            0x10_0000..0x4000_0000 => (20, "MiB"),
            0x4000_0000..0x100_0000_0000 => (30, "GiB"),
            _ => (40, "TiB"),
        };
        write!(
            f,
            "{} {unit}",
            ThreeDigits {
                value: self.0,
                unit: 1 << shift
            }
        )
    }
}

/// `value / unit` with three significant digits, cut and not rounded: nothing turns into the next
/// unit's 1000.
struct ThreeDigits {
    value: u64,
    unit: u64,
}

impl fmt::Display for ThreeDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.value / self.unit;
        let rest = u128::from(self.value % self.unit);
        let decimals = |scale: u128| rest * scale / u128::from(self.unit);
        match whole {
            0..10 => write!(f, "{whole}.{:02}", decimals(100)),
            10..100 => write!(f, "{whole}.{}", decimals(10)),
            _ => write!(f, "{whole}"),
        }
    }
}

/// A count, written with a comma at every thousand: `1,234,567`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() * 4 / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad_integral(true, "", &text)
    }
}

/// How often something happened per second: a whole number as one (`1,234`), others with three
/// significant digits or more (`0.33`, `33.3`, `1,234`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSecond {
    /// How often it happened.
    pub count: u64,
    /// In how many nanoseconds.
    pub interval_ns: u64,
}

impl PerSecond {
    /// The number, to three decimals, for machine formats; `None` where no time has passed.
    pub fn value(self) -> Option<f64> {
        let thousandths = self.rounded_to(1_000)?;
        #[expect(clippy::cast_precision_loss, reason = "53 bits hold any real rate")]
        Some(thousandths as f64 / 1_000.0)
    }

    /// In parts of one, rounded.
    fn rounded_to(self, parts: u128) -> Option<u128> {
        let interval_ns = u128::from(self.interval_ns);
        (u128::from(self.count) * 1_000_000_000 * parts + interval_ns / 2).checked_div(interval_ns)
    }
}

impl fmt::Display for PerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(hundredths) = self.rounded_to(100) else {
            return f.pad("-");
        };
        let whole = u128::from(self.count) * 1_000_000_000 % u128::from(self.interval_ns) == 0;
        match hundredths {
            // Something happened.
            0 if self.count > 0 => f.pad("<0.01"),
            1..1_000 if !whole => f.pad(&format!("{}.{:02}", hundredths / 100, hundredths % 100)),
            1_000..10_000 if !whole => {
                let tenths = (hundredths + 5) / 10;
                f.pad(&format!("{}.{}", tenths / 10, tenths % 10))
            }
            _ => {
                let ones = self.rounded_to(1).unwrap_or_default();
                Count(u64::try_from(ones).unwrap_or(u64::MAX)).fmt(f)
            }
        }
    }
}

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No duration.
    #[error(
        "`{0}` is not a duration; write a number with ms, s, m, h or d, such as 500ms, 10s or 1h30m; without a unit it is seconds"
    )]
    Duration(String),
    /// A duration of nothing.
    #[error("the duration must be longer than nothing")]
    NoDuration,
    /// No size.
    #[error("`{0}` is not a size; write bytes, or a number with K, M or G, such as 64K or 8M")]
    Size(String),
}

/// Reads a duration: `500ms`, `10s`, `1.5h`, `1h30m`; a plain number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let malformed = || QuantityError::Duration(text.to_owned());
    let mut rest = text.trim();
    let mut total_ns = 0u64;
    loop {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let unit_ns = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            // Only alone: `1h30` could mean two things.
            "" if rest.len() == text.trim().len() && next.is_empty() => 1_000_000_000,
            _ => return Err(malformed()),
        };
        let ns = decimal(number, unit_ns).ok_or_else(malformed)?;
        total_ns = total_ns.checked_add(ns).ok_or_else(malformed)?;
        if next.is_empty() {
            break;
        }
        rest = next;
    }
    if total_ns == 0 {
        Err(QuantityError::NoDuration)
    } else {
        Ok(Duration::from_nanos(total_ns))
    }
}

/// Reads a size in bytes: `65536`, `64K`, `8M`, `1G`, also as `8MiB`.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Size(text.to_owned());
    let trimmed = text.trim();
    let number_end = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_end);
    let unit_bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(malformed()),
    };
    decimal(number, unit_bytes).ok_or_else(malformed)
}

/// `number * unit` for a decimal number, exactly; `None` if it is none, or does not fit.
fn decimal(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let mut value = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit) / scale;
    value = value.checked_add(u64::try_from(part).ok()?)?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_rounded_decimals() {
        for (ns, text) in [
            (0, "0.000"),
            (499, "0.000"),
            (500, "0.001"),
            (40_000, "0.040"),
            (999_999, "1.000"),
            (300_123_456, "300.123"),
            (u64::MAX, "18446744073709.552"),
        ] {
            assert_eq!(Millis(ns).to_string(), text);
        }
    }

    #[test]
    fn spans_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (251, "251 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (999_999, "999 us"),
            (4_560_000, "4.56 ms"),
            (59_999_999_999, "59.9 s"),
            (63_000_000_000, "1m 03s"),
            (3_600_000_000_000, "1h 00m"),
            (90_000_000_000_000, "1d 01h"),
        ] {
            assert_eq!(Span(ns).to_string(), text);
        }
    }

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.00 KiB"),
            (8 << 20, "8.00 MiB"),
            (250 << 20, "250 MiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn counts_have_commas() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(Count(count).to_string(), text);
        }
        assert_eq!(format!("{:>8}|", Count(1_234)), "   1,234|");
    }

    #[test]
    fn rates_are_whole_or_have_three_digits() {
        for (count, interval_ns, text, value) in [
            (0, 1_000_000_000, "0", Some(0.0)),
            (1_234_567, 1_000_000_000, "1,234,567", Some(1_234_567.0)),
            (1, 3_000_000_000, "0.33", Some(0.333)),
            (10, 3_000_000_000, "3.33", Some(3.333)),
            (100, 3_000_000_000, "33.3", Some(33.333)),
            (10_000, 3_000_000_000, "3,333", Some(3_333.333)),
            (20, 2_000_000_000, "10", Some(10.0)),
            (9_999, 1_000_000_001, "9,999", Some(9_999.0)),
            (1, 3_600_000_000_000, "<0.01", Some(0.0)),
            (7, 1_000, "7,000,000", Some(7_000_000.0)),
            (3, 0, "-", None),
            (
                u64::MAX,
                1,
                "18,446,744,073,709,551,615",
                Some(1.844_674_407_370_955_2e28),
            ),
        ] {
            let rate = PerSecond { count, interval_ns };
            assert_eq!((rate.to_string(), rate.value()), (text.into(), value));
        }
    }

    #[test]
    fn durations_are_read_exactly() {
        for (text, ns) in [
            ("500ms", 500_000_000),
            ("10s", 10_000_000_000),
            ("5m", 300_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("2d", 172_800_000_000_000),
            ("10", 10_000_000_000),
            ("0.5", 500_000_000),
            ("1.5s", 1_500_000_000),
            ("250us", 250_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "", "s", "-1s", "1w", "1 s", "10S", "1h30", "1.s", ".5s", "1.2.3s", "1e3", "600000d",
        ] {
            assert_eq!(
                parse_duration(text),
                Err(QuantityError::Duration(text.into()))
            );
        }
        assert_eq!(parse_duration("0s"), Err(QuantityError::NoDuration));
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("64K", 65_536),
            ("64k", 65_536),
            ("8M", 8 << 20),
            ("8MiB", 8 << 20),
            ("1G", 1 << 30),
            ("0", 0),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "8MB", "-1", "1.5M", "8 M", "99999999999G"] {
            assert_eq!(parse_bytes(text), Err(QuantityError::Size(text.into())));
        }
    }
}
