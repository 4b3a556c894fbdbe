//! The one way to people: a writer through which nothing harmful passes, whoever forgot to escape it.
//!
//! Names of records are escaped where they are written, each so that different ones look different
//! ([`escape`](crate::escape)). This is for all the rest: names of files and namespaces, the header of a
//! recording, errors of the system, arguments.

use std::{
    fmt,
    io::{self, Write},
};

use crate::escape::Judge;

/// Bold.
pub const BOLD: &str = "\x1b[1m";
/// Red.
pub const RED: &str = "\x1b[31m";
/// Green.
pub const GREEN: &str = "\x1b[32m";
/// Yellow.
pub const YELLOW: &str = "\x1b[33m";
/// Back to normal.
pub const OFF: &str = "\x1b[0m";

const STYLES: [&str; 5] = [BOLD, RED, GREEN, YELLOW, OFF];

/// A writer for people.
///
/// A call of `write!` or `write_all` is a message. A line feed at its very end is its own; any other may have come
/// with a name, and is written out, as all that a terminal does not show.
#[derive(Debug)]
pub struct Outlet<W> {
    inner: W,
    /// Whether the styles above pass.
    styled: bool,
    // Kept, so that a message costs no allocation.
    message: Vec<u8>,
    written: Vec<u8>,
}

impl<W: Write> Outlet<W> {
    /// Everything that is written to it goes to `inner`. `styled`: the styles of this module may be among it.
    pub const fn new(inner: W, styled: bool) -> Self {
        Self {
            inner,
            styled,
            message: Vec::new(),
            written: Vec::new(),
        }
    }

    /// The writer behind it.
    pub fn into_inner(self) -> W {
        self.inner
    }

    fn put(&mut self, message: &[u8]) -> io::Result<()> {
        let text = message.strip_suffix(b"\n").unwrap_or(message);
        if is_plain(text) {
            return self.inner.write_all(message);
        }
        self.written.clear();
        escape(text, self.styled, &mut self.written)?;
        if text.len() < message.len() {
            self.written.push(b'\n');
        }
        self.inner.write_all(&self.written)
    }
}

/// Whether there is nothing but printable ASCII. Every line of output is asked.
fn is_plain(text: &[u8]) -> bool {
    // A sum of numbers, without a way out of the loop, takes many bytes at a time.
    let odd = text
        .iter()
        .fold(0, |odd, byte| odd | u8::from(!matches!(byte, b' '..=b'~')));
    odd == 0
}

fn escape(text: &[u8], styled: bool, out: &mut Vec<u8>) -> io::Result<()> {
    let mut judge = Judge::default();
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(c) = rest.chars().next() {
            let style = STYLES
                .into_iter()
                .find(|style| styled && rest.starts_with(style));
            let length = style.map_or(c.len_utf8(), str::len);
            let (piece, after) = rest.split_at(length);
            if style.is_none() && judge.is_harmful(c) {
                write!(out, "{}", c.escape_unicode())?;
            } else {
                out.extend_from_slice(piece.as_bytes());
            }
            rest = after;
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
            judge.skip();
        }
    }
    Ok(())
}

impl<W: Write> Write for Outlet<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)
    }

    /// The message as one, or a name in it could end a line.
    fn write_fmt(&mut self, message: fmt::Arguments<'_>) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.message);
        bytes.clear();
        let written = bytes.write_fmt(message).and_then(|()| self.put(&bytes));
        self.message = bytes;
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::escape::{Printable, is_harmful};

    fn through(styled: bool, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut outlet = Outlet::new(Vec::new(), styled);
        write(&mut outlet).unwrap();
        String::from_utf8(outlet.into_inner()).unwrap()
    }

    #[test]
    fn ordinary_text_passes() {
        for text in ["", "\n", "plain\n", "größe 日本語 e\u{301}\n", "a\\u{1b}\n"] {
            assert_eq!(through(false, |out| out.write_all(text.as_bytes())), text);
            assert_eq!(through(false, |out| write!(out, "{text}")), text);
        }
    }

    #[test]
    fn a_name_in_a_message_ends_no_line_and_clears_no_screen() {
        let name = "a\x1b[2J\nlost 0";
        let text = through(true, |out| writeln!(out, "cannot open {name}: gone"));
        assert_eq!(text, "cannot open a\\u{1b}[2J\\u{a}lost 0: gone\n");
        let text = through(true, |out| out.write_all(b"\xff\xcc\x81\r"));
        assert_eq!(text, "\\xff\\u{301}\\u{d}");
    }

    #[test]
    fn styles_pass_where_they_are_wanted() {
        let text = format!("{BOLD}a{OFF} \x1b[8m");
        let written = format!("{BOLD}a{OFF} \\u{{1b}}[8m");
        assert_eq!(through(true, |out| write!(out, "{text}")), written);
        let written = "\\u{1b}[1ma\\u{1b}[0m \\u{1b}[8m";
        assert_eq!(through(false, |out| write!(out, "{text}")), written);
    }

    proptest! {
        /// Whatever a foreign string is, and however it is written.
        #[test]
        fn nothing_harmful_passes(
            bytes in crate::escape::tests::foreign(),
            styled: bool,
        ) {
            let lossy = String::from_utf8_lossy(&bytes);
            for mut text in [
                through(styled, |out| out.write_all(&bytes)),
                through(styled, |out| writeln!(out, "a {lossy}: b")),
                through(styled, |out| writeln!(out, "{lossy}")),
            ] {
                if styled {
                    for style in STYLES {
                        text = text.replace(style, "");
                    }
                }
                let line = text.strip_suffix('\n').unwrap_or(&text);
                prop_assert!(!line.chars().any(is_harmful), "{line:?}");
            }
        }

        /// Or JSON would be broken by it, and escapes would be escaped.
        #[test]
        fn what_is_printable_passes_as_it_is(bytes in crate::escape::tests::foreign()) {
            let text = format!("{}\n", Printable(&bytes));
            prop_assert_eq!(through(false, |out| out.write_all(text.as_bytes())), text);
        }
    }
}
