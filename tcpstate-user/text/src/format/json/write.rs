//! Lines of JSON, and the strings in them.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use tcpstate_core::escape::Judge;

/// Writes lines.
#[derive(Debug, Default)]
pub struct Lines {
    // Kept, so that a line costs no allocation; whole, so that no half line is left in the output.
    line: Vec<u8>,
}

impl Lines {
    /// Writes a line.
    pub fn write(&mut self, value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.line, Harmless);
        value.serialize(&mut serializer)?;
        self.line.push(b'\n');
        out.write_all(&self.line)
    }
}

/// The compact form, with every harmful character as `\u....`: JSON itself only wants that of the
/// first 32.
struct Harmless;

impl Formatter for Harmless {
    #[expect(
        clippy::string_slice,
        reason = "before and after a character that is there"
    )]
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly all of it, the names of the fields included.
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return CompactFormatter.write_string_fragment(writer, fragment);
        }
        let mut judge = Judge::default();
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| judge.is_harmful(c)) {
            CompactFormatter.write_string_fragment(writer, &rest[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// Appends a word of ours, which needs no escape.
pub(super) fn push_word(line: &mut Vec<u8>, word: &str) {
    line.push(b'"');
    line.extend_from_slice(word.as_bytes());
    line.push(b'"');
}

/// Appends text that others chose. U+FFFD stands for what is no UTF-8 in it.
pub(super) fn push_name(line: &mut Vec<u8>, name: &[u8]) -> io::Result<()> {
    // Nearly all names are of this kind.
    let is_plain = |&byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if name.iter().all(is_plain) {
        line.push(b'"');
        line.extend_from_slice(name);
        line.push(b'"');
        return Ok(());
    }
    let mut serializer = serde_json::Serializer::with_formatter(line, Harmless);
    String::from_utf8_lossy(name).serialize(&mut serializer)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tcpstate_core::{escape::is_harmful, outlet::Outlet};

    use super::*;

    fn written(name: &[u8]) -> String {
        let mut line = Vec::new();
        push_name(&mut line, name).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn names_arrive_as_they_were_and_travel_harmlessly() {
        for name in [
            "curl",
            "a\"b\\c",
            "\x1b[2J",
            "\u{9b}31m\u{7f}",
            "\u{202e}gpj",
            "größe\u{200b}",
            "\u{301}a\"\u{301}\n\u{301}",
            "\u{e0041}\u{ad}",
        ] {
            let line = written(name.as_bytes());
            assert!(!line.trim_end().chars().any(is_harmful), "{line}");
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), name);
            // Else the way to people would break it.
            let mut outlet = Outlet::new(Vec::new(), false);
            outlet.write_all(line.as_bytes()).unwrap();
            assert_eq!(outlet.into_inner(), line.as_bytes());
        }
        assert_eq!(written(b"\x9bxyz"), "\"\u{fffd}xyz\"");
    }
}
