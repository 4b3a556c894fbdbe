//! Untrusted text, made harmless.
//!
//! A process names itself, with any 15 bytes. They must not reach a terminal as they are (escape
//! sequences, or characters that reverse the line), nor a spreadsheet as a formula.

use std::fmt::{self, Write};

/// Whether the character is not shown itself but changes how others are shown.
///
/// Controls (C0, DEL, C1), line and paragraph separators, and the invisible ones that reorder or
/// join text.
pub const fn is_harmful(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f'
        | '\x7f'..='\u{9f}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}')
}

/// Bytes as printable text: a backslash is doubled, a harmful character becomes `\u{1b}`, a byte that
/// is not UTF-8 becomes `\xff`. Different names never look alike.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nearly all names are plain, and cheaper in one piece.
        let is_plain = |&byte: &u8| matches!(byte, b' '..=b'~') && byte != b'\\';
        if self.0.iter().all(is_plain)
            && let Ok(text) = std::str::from_utf8(self.0)
        {
            return f.write_str(text);
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if is_harmful(c) => write!(f, "{}", c.escape_unicode())?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// [`Printable`] text for a spreadsheet: with `'` before anything that it would take for a formula.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a>(pub &'a [u8]);

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A formula may follow spaces. A name that begins with `'` gets another, or it would look like one that
        // was made harmless.
        let first = self.0.iter().find(|byte| !byte.is_ascii_whitespace());
        if matches!(first, Some(b'=' | b'+' | b'-' | b'@' | b'\'')) {
            f.write_char('\'')?;
        }
        Printable(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_unchanged() {
        for name in [
            "curl",
            "Web Content",
            "kworker/0:1",
            "größe",
            "日本語",
            "a,b\"c'",
        ] {
            assert_eq!(Printable(name.as_bytes()).to_string(), name);
            assert_eq!(Cell(name.as_bytes()).to_string(), name);
        }
    }

    #[test]
    fn harmful_characters_are_written_out() {
        for (name, written) in [
            (&b"\x1b[2J"[..], "\\u{1b}[2J"),
            (b"a\nb\tc\r", "a\\u{a}b\\u{9}c\\u{d}"),
            (b"\x7f", "\\u{7f}"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("\u{202e}gpj".as_bytes(), "\\u{202e}gpj"),
            ("\u{2066}a\u{2069}".as_bytes(), "\\u{2066}a\\u{2069}"),
            (b"a\xff\xc3", "a\\xff\\xc3"),
            (b"\\x1b", "\\\\x1b"),
        ] {
            assert_eq!(Printable(name).to_string(), written);
        }
    }

    #[test]
    fn no_harmful_character_of_any_name_is_left() {
        for byte in 0..=255u8 {
            for next in [0x20, 0x80, 0x9b, 0xff] {
                let text = Printable(&[byte, next]).to_string();
                assert!(!text.chars().any(is_harmful), "{byte:#x} {next:#x}");
            }
        }
    }

    #[test]
    fn formulas_are_defused() {
        for (name, written) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            (" =1", "' =1"),
            ("\t=1", "'\\u{9}=1"),
            ("'=1", "''=1"),
            ("1=1", "1=1"),
        ] {
            assert_eq!(Cell(name.as_bytes()).to_string(), written);
        }
    }
}
