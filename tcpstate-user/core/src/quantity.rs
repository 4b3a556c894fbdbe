//! Quantities as people write them: durations and sizes.

use std::time::Duration;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text is not a duration.
    #[error(
        "`{0}` is not a duration; give a number with ms, s, m, h or d, such as 500ms, 10s or 1h30m; a plain number is seconds"
    )]
    Duration(String),
    /// The duration has more nanoseconds than 64 bits hold.
    #[error("`{0}` is too long; a duration is at most 213503d, some 584 years")]
    TooLong(String),
    /// The duration is zero.
    #[error("the duration must be longer than zero")]
    NoDuration,
    /// The text is not a size.
    #[error("`{0}` is not a size; give bytes, or a number with K, M or G, such as 64K or 8M")]
    Size(String),
    /// The size has more bytes than 64 bits hold.
    #[error("`{0}` is too large; a size is at most 17179869183G")]
    TooLarge(String),
}

/// Why a text is no decimal number that fits.
enum Misfit {
    Malformed,
    TooLarge,
}

/// Reads a duration: `500ms`, `10s`, `1.5h`, `1h30m`; a plain number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let malformed = || QuantityError::Duration(text.to_owned());
    let too_long = || QuantityError::TooLong(text.to_owned());
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
            // Only alone: `1h30` is ambiguous.
            "" if rest.len() == text.trim().len() && next.is_empty() => 1_000_000_000,
            _ => return Err(malformed()),
        };
        let ns = decimal(number, unit_ns).map_err(|misfit| match misfit {
            Misfit::Malformed => malformed(),
            Misfit::TooLarge => too_long(),
        })?;
        total_ns = total_ns.checked_add(ns).ok_or_else(too_long)?;
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
    decimal(number, unit_bytes).map_err(|misfit| match misfit {
        Misfit::Malformed => malformed(),
        Misfit::TooLarge => QuantityError::TooLarge(text.to_owned()),
    })
}

/// `number * unit` for a decimal number, exactly.
fn decimal(number: &str, unit: u64) -> Result<u64, Misfit> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|one| one.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
        return Err(Misfit::Malformed);
    }
    let scale = fraction.bytes().fold(1u128, |scale, _| scale * 10);
    let fraction: u128 = fraction.parse().map_err(|_| Misfit::Malformed)?;
    let part = u64::try_from(fraction * u128::from(unit) / scale).ok();
    // All of it are digits, so only their number can be wrong.
    let whole = whole.parse::<u64>().ok();
    let value = whole.and_then(|whole| whole.checked_mul(unit)?.checked_add(part?));
    value.ok_or(Misfit::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn malformed_durations_are_refused() {
        for text in [
            "", "s", "-1s", "1w", "1 s", "10S", "1h30", "1.s", ".5s", "1.2.3s", "1e3",
        ] {
            assert_eq!(
                parse_duration(text),
                Err(QuantityError::Duration(text.into()))
            );
        }
        assert_eq!(parse_duration("0s"), Err(QuantityError::NoDuration));
    }

    #[test]
    fn what_is_too_large_is_said_to_be_with_the_limit() {
        assert!(parse_duration("213503d").is_ok());
        for text in [
            "213504d",
            "99999999999999d",
            "99999999999999999999",
            "213503d24h",
            "18446744073.9s",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error, QuantityError::TooLong(text.into()));
            assert!(error.to_string().contains("at most 213503d"), "{error}");
        }
        assert!(parse_bytes("17179869183G").is_ok());
        for text in ["17179869184G", "99999999999G", "99999999999999999999"] {
            let error = parse_bytes(text).unwrap_err();
            assert_eq!(error, QuantityError::TooLarge(text.into()));
            assert!(
                error.to_string().contains("at most 17179869183G"),
                "{error}"
            );
        }
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
        for text in ["", "M", "8MB", "-1", "1.5M", "8 M"] {
            assert_eq!(parse_bytes(text), Err(QuantityError::Size(text.into())));
        }
    }
}
