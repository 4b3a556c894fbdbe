//! Sequence numbers, which wrap.
//!
//! *Source:* RFC 9293, section 3.4.

/// How far `a` is behind `b`; negative: before it. Numbers that far apart that it cannot be told have the sign of neither.
#[inline]
pub(crate) const fn behind(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

/// Whether `a` is behind `b`.
#[inline]
pub(crate) const fn is_behind(a: u32, b: u32) -> bool {
    behind(a, b) > 0
}

/// Whether `number` is from `first` to `last`, both included.
#[inline]
pub(crate) const fn is_between(number: u32, first: u32, last: u32) -> bool {
    behind(number, first) >= 0 && behind(last, number) >= 0
}
