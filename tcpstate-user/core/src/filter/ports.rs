//! Sets of ports: the one parser of port lists, and the bitmap that the kernel side uses.

use std::{fmt, str::FromStr};

use tcpstate_common::config::{PORT_WORDS, PortBitmap};

/// A set of TCP ports, written as a list of ports and ranges: `80,443,8000-8100`.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<PortBitmap>);

/// The reason why a text is no list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortListError {
    /// Nothing between two commas, or nothing at all.
    #[error(
        "an empty item; write ports and ranges with a comma between them, such as 80,443,8000-8100"
    )]
    Empty,
    /// Something that is no port number.
    #[error("`{0}` is not a port; ports are numbers from 1 to 65535")]
    NotAPort(String),
    /// A range that ends before it begins.
    #[error("the range `{0}` ends before it begins")]
    Backwards(String),
}

impl PortSet {
    const fn empty() -> [u64; PORT_WORDS] {
        [0; PORT_WORDS]
    }

    /// All ports from the first to the last, 0 if it is among them.
    #[expect(clippy::indexing_slicing, reason = "65,536 ports are 1,024 words")]
    pub(crate) fn of_range(first: u16, last: u16) -> Self {
        let mut set = Box::new(Self::empty());
        for word in first / 64..=last / 64 {
            let from = if word == first / 64 { first % 64 } else { 0 };
            let to = if word == last / 64 { last % 64 } else { 63 };
            if from <= to {
                set[usize::from(word)] = (u64::MAX << from) & (u64::MAX >> (63 - to));
            }
        }
        Self(set)
    }

    /// The ports that are not in the set, 0 among them.
    pub(crate) fn complement(&self) -> Self {
        Self(Box::new(self.0.map(|word| !word)))
    }

    /// The ports that are in either set.
    pub(crate) fn union(mut self, other: &Self) -> Self {
        let words = self.0.iter_mut().zip(other.0.iter());
        words.for_each(|(word, other)| *word |= other);
        self
    }

    /// The ports that are in both sets.
    pub(crate) fn intersection(mut self, other: &Self) -> Self {
        let words = self.0.iter_mut().zip(other.0.iter());
        words.for_each(|(word, other)| *word &= other);
        self
    }

    /// Whether the other set has all ports of this one.
    pub(crate) fn is_subset(&self, other: &Self) -> bool {
        let mut words = self.0.iter().zip(other.0.iter());
        words.all(|(word, other)| word & !other == 0)
    }

    /// Whether the port is in the set. Port 0 never is in one that was read.
    #[expect(clippy::indexing_slicing, reason = "65,536 ports are 1,024 words")]
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] >> (port % 64) & 1 == 1
    }

    /// The set as the BPF programs read it.
    pub fn bitmap(&self) -> &PortBitmap {
        &self.0
    }

    /// The ports as inclusive ranges, in order, as few as possible.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        let mut next = 0u32;
        std::iter::from_fn(move || {
            let first = (next..=65_535).find_map(|port| self.member(port))?;
            let last = (first..=u16::MAX)
                .take_while(|&port| self.contains(port))
                .last()?;
            next = u32::from(last) + 1;
            Some((first, last))
        })
    }

    fn member(&self, port: u32) -> Option<u16> {
        u16::try_from(port).ok().filter(|&port| self.contains(port))
    }
}

impl FromStr for PortSet {
    type Err = PortListError;

    #[expect(clippy::indexing_slicing, reason = "65,536 ports are 1,024 words")]
    fn from_str(text: &str) -> Result<Self, PortListError> {
        let mut set = Box::new(Self::empty());
        for item in text.split(',').map(str::trim) {
            let (first, last) = match item.split_once('-') {
                None => (port(item)?, port(item)?),
                Some((first, last)) => (port(first.trim())?, port(last.trim())?),
            };
            if last < first {
                return Err(PortListError::Backwards(item.to_owned()));
            }
            for port in first..=last {
                set[usize::from(port / 64)] |= 1 << (port % 64);
            }
        }
        Ok(Self(set))
    }
}

fn port(text: &str) -> Result<u16, PortListError> {
    if text.is_empty() {
        return Err(PortListError::Empty);
    }
    // `parse` would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port @ 1..) if digits => Ok(port),
        _ => Err(PortListError::NotAPort(text.to_owned())),
    }
}

impl fmt::Display for PortSet {
    /// The list in order, without repetitions; it parses to the same set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> PortSet {
        list.parse().unwrap()
    }

    #[test]
    fn a_list_holds_its_ports_and_no_other() {
        let ports = set("80, 443,8000-8100");
        let members: Vec<u16> = (0..=u16::MAX)
            .filter(|&port| ports.contains(port))
            .collect();
        let expected: Vec<u16> = [80, 443].into_iter().chain(8000..=8100).collect();
        assert_eq!(members, expected);
    }

    #[test]
    fn the_bitmap_is_laid_out_as_the_kernel_side_reads_it() {
        let ports = set("1,64,65535");
        let mut expected = [0; PORT_WORDS];
        expected[0] = 1 << 1;
        expected[1] = 1;
        expected[PORT_WORDS - 1] = 1 << 63;
        assert_eq!(*ports.bitmap(), expected);
    }

    #[test]
    fn it_is_written_in_order_with_ranges_joined() {
        for (given, written) in [
            ("443,80", "80,443"),
            ("1-65535", "1-65535"),
            ("10-20,15-30,31", "10-31"),
            ("65535,65533", "65533,65535"),
            ("80,80", "80"),
        ] {
            assert_eq!(set(given).to_string(), written);
            assert_eq!(set(written), set(given));
        }
    }

    #[test]
    fn a_text_that_is_no_list_is_refused_with_the_item() {
        let not = |text: &str| PortListError::NotAPort(text.into());
        for (list, error) in [
            ("", PortListError::Empty),
            ("80,", PortListError::Empty),
            (",80", PortListError::Empty),
            ("80,,443", PortListError::Empty),
            ("80-", PortListError::Empty),
            ("-80", PortListError::Empty),
            ("http", not("http")),
            ("80;443", not("80;443")),
            ("0", not("0")),
            ("0-80", not("0")),
            ("65536", not("65536")),
            ("+80", not("+80")),
            ("80-90-100", not("90-100")),
            ("99999999999999999999", not("99999999999999999999")),
            ("80,90-81", PortListError::Backwards("90-81".into())),
        ] {
            assert_eq!(list.parse::<PortSet>(), Err(error), "{list}");
        }
    }
}
