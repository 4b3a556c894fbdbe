//! Quantities as a command line gives them: what reads durations and sizes, with their limits.

use std::time::Duration;

pub use tcpstate_core::quantity::{QuantityError, parse_bytes, parse_duration};

/// The shortest interval. With shorter ones, the timer's inaccuracy would show more than the connections.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Reads the length of an interval: a duration of at least [`MIN_INTERVAL`].
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval < MIN_INTERVAL {
        return Err("an interval cannot be shorter than 10ms".to_owned());
    }
    Ok(interval)
}

/// Reads a sample interval: an interval, or 0 for no sampling.
pub(crate) fn parse_sample_interval(text: &str) -> Result<Duration, String> {
    // Everywhere else a duration of 0 is an error.
    if matches!(text.trim(), "0" | "0s" | "0ms") {
        return Ok(Duration::ZERO);
    }
    parse_interval(text).map_err(|error| format!("{error}; 0 turns sampling off"))
}

/// Reads the size of a ring buffer, in bytes: a power of two that is a multiple of the page size.
pub(crate) fn parse_ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    let page_bytes = rustix::param::page_size() as u64;
    match u32::try_from(bytes) {
        Ok(size) if size.is_power_of_two() && bytes.is_multiple_of(page_bytes) => Ok(size),
        _ => Err(format!(
            "the size of a ring buffer must be a power of two, at least a page ({page_bytes} bytes) and at \
             most 2G; try {}",
            bytes.clamp(page_bytes, 1 << 31).next_power_of_two()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_a_power_of_two_of_pages() {
        let page = u32::try_from(rustix::param::page_size()).unwrap();
        assert_eq!(parse_ring_bytes("64K"), Ok(65_536));
        assert_eq!(parse_ring_bytes(&page.to_string()), Ok(page));
        assert_eq!(parse_ring_bytes("2G"), Ok(1 << 31));
        for text in ["0", "1", "3M", "4G", "12345678901G"] {
            assert!(parse_ring_bytes(text).is_err(), "{text}");
        }
        let message = parse_ring_bytes("3M").unwrap_err();
        assert!(message.ends_with("try 4194304"), "{message}");
    }
}
