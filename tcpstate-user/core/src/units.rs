//! Quantities with their units, written for people.
//!
//! Machine formats carry plain numbers in base units; nothing here is for them.

use std::fmt;

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

impl Span {
    /// The text, which a view writes hundreds of thousands of times a second.
    pub fn written(self) -> Written {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        const SECOND_NS: u64 = 1_000_000_000;
        let seconds = self.0 / SECOND_NS;
        let mut text = Written::default();
        match seconds {
            0..MINUTE => match self.0 {
                0..1_000 => text.number(self.0).word(b" ns"),
                // Constants, so that nothing is divided at run time.
                1_000..1_000_000 => text.three_digits::<1_000>(self.0).word(b" us"),
                1_000_000..SECOND_NS => text.three_digits::<1_000_000>(self.0).word(b" ms"),
                _ => text.three_digits::<SECOND_NS>(self.0).word(b" s"),
            },
            MINUTE..HOUR => text
                .number(seconds / MINUTE)
                .word(b"m ")
                .two_digits(seconds % MINUTE)
                .word(b"s"),
            HOUR..DAY => text
                .number(seconds / HOUR)
                .word(b"h ")
                .two_digits(seconds % HOUR / MINUTE)
                .word(b"m"),
            _ => text
                .number(seconds / DAY)
                .word(b"d ")
                .two_digits(seconds % DAY / HOUR)
                .word(b"h"),
        };
        text
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written().fmt(f)
    }
}

/// A size in bytes, written with three significant digits and a binary unit: `8.00 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The text.
    pub fn written(self) -> Written {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        const TIB: u64 = 1 << 40;
        let mut text = Written::default();
        match self.0 {
            0..KIB => text.number(self.0).word(b" B"),
            KIB..MIB => text.three_digits::<KIB>(self.0).word(b" KiB"),
            MIB..GIB => text.three_digits::<MIB>(self.0).word(b" MiB"),
            GIB..TIB => text.three_digits::<GIB>(self.0).word(b" GiB"),
            TIB.. => text.three_digits::<TIB>(self.0).word(b" TiB"),
        };
        text
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written().fmt(f)
    }
}

/// A quantity as text, on the stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// As many as the largest number of bytes and the longest unit.
    bytes: [u8; 28],
    length: usize,
}

impl Written {
    /// The text, in ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn digit(&mut self, digit: u64) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            // Below 10.
            *place = b'0' + (digit % 10) as u8;
            self.length += 1;
        }
    }

    fn word(&mut self, word: &[u8]) -> &mut Self {
        let end = self.length + word.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(word);
            self.length = end;
        }
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        let mut scale = 1;
        while number / scale >= 10 {
            scale *= 10;
        }
        while scale > 0 {
            self.digit(number / scale);
            scale /= 10;
        }
        self
    }

    fn two_digits(&mut self, number: u64) -> &mut Self {
        self.digit(number / 10);
        self.digit(number);
        self
    }

    /// `value / UNIT` with three significant digits, truncated: rounding could turn 999.9 into 1000.
    fn three_digits<const UNIT: u64>(&mut self, value: u64) -> &mut Self {
        // A unit is at most 2^40, so the products do not overflow.
        let (whole, rest) = (value / UNIT, value % UNIT);
        match whole {
            0..10 => self.number(whole).word(b".").two_digits(rest * 100 / UNIT),
            10..100 => self.number(whole).word(b".").number(rest * 10 / UNIT),
            _ => self.number(whole),
        }
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Always ASCII.
        f.write_str(str::from_utf8(self.as_bytes()).unwrap_or_default())
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

/// A count of things: `1 socket`, `2,000 sockets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted(
    /// The count.
    pub u64,
    /// The things, in the singular.
    pub &'static str,
);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", Count(self.0), self.1)
    }
}

/// A rate per second: a whole number without decimals (`1,234`), others with at least three significant
/// digits (`0.33`, `33.3`, `1,234`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSecond {
    /// The count.
    pub count: u64,
    /// The length of the interval, nanoseconds.
    pub interval_ns: u64,
}

impl PerSecond {
    /// The rate, to three decimals, for machine formats; `None` for an interval without length.
    pub fn value(self) -> Option<f64> {
        let thousandths = self.rounded_to(1_000)?;
        #[expect(clippy::cast_precision_loss, reason = "53 bits hold any real rate")]
        Some(thousandths as f64 / 1_000.0)
    }

    /// The rate in `parts` of one, rounded.
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
            // Not 0.
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
        for (count, text) in [(0, "0 lines"), (1, "1 line"), (1_000, "1,000 lines")] {
            assert_eq!(Counted(count, "line").to_string(), text);
        }
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
}
