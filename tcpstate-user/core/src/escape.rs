//! Untrusted text, made harmless.
//!
//! A process names itself, with any 15 bytes. They must not reach a terminal as they are (escape
//! sequences, or characters that reverse the line), nor a spreadsheet as a formula.

use std::fmt::{self, Write};

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// Whether the character is not shown itself, or looks like a blank, or changes how others are shown.
///
/// *Source:* the general categories of Unicode, and its property `Default_Ignorable_Code_Point` for the letters and
/// marks that are invisible.
pub fn is_harmful(c: char) -> bool {
    if matches!(c, ' '..='~') {
        return false;
    }
    let is_ignorable = matches!(c,
        '\u{34f}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}');
    // A pattern of Braille without dots, which is a symbol.
    let is_blank = c == '\u{2800}';
    is_ignorable
        || is_blank
        || matches!(
            c.general_category(),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::Surrogate
                | GeneralCategory::PrivateUse
                | GeneralCategory::Unassigned
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::SpaceSeparator
        )
}

/// Whether the character is drawn onto the one before it: a combining mark, or a vowel or an end of a Korean
/// syllable.
fn is_attached(c: char) -> bool {
    let is_jamo = matches!(c, '\u{1160}'..='\u{11ff}' | '\u{d7b0}'..='\u{d7ff}');
    is_jamo || !c.is_ascii() && c.general_category_group() == GeneralCategoryGroup::Mark
}

/// Judges the characters of a text one by one: [harmful](is_harmful) ones, and a mark without a letter of its own
/// before it, which would change something else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judge {
    has_base: bool,
}

impl Judge {
    /// Whether this next character of the text must be written out.
    pub fn is_harmful(&mut self, c: char) -> bool {
        if matches!(c, ' '..='~') {
            self.has_base = c.is_ascii_alphanumeric();
            return false;
        }
        let is_attached = is_attached(c);
        let harmful = is_harmful(c) || is_attached && !self.has_base;
        self.has_base = !harmful && (is_attached || c.is_alphanumeric());
        harmful
    }

    /// The next character was written out: its last sign is no letter.
    pub fn skip(&mut self) {
        self.has_base = false;
    }
}

/// Bytes as printable text: a backslash is doubled, a harmful character becomes `\u{1b}`, a byte that
/// is not UTF-8 becomes `\xff`. Different names never look alike.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl<'a> Printable<'a> {
    /// The text, if it is shown as it is: nearly all names are, and cheaper in one piece.
    fn plain(self) -> Option<&'a str> {
        let is_plain = |&byte: &u8| matches!(byte, b' '..=b'~') && byte != b'\\';
        self.0.iter().all(is_plain).then_some(self.0)?;
        str::from_utf8(self.0).ok()
    }

    fn write(self, f: &mut impl Write, and: &[char]) -> fmt::Result {
        if and.is_empty()
            && let Some(text) = self.plain()
        {
            return f.write_str(text);
        }
        let mut judge = Judge::default();
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if judge.is_harmful(c) {
                    write!(f, "{}", c.escape_unicode())?;
                } else {
                    if c == '\\' || and.contains(&c) {
                        f.write_char('\\')?;
                    }
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
                judge.skip();
            }
        }
        Ok(())
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &[])
    }
}

/// [`Printable`] text among words of ours: in quotes where it could be taken for one of them (`-`, `other`, `+3
/// more`), or ends in blanks that nobody would see. What begins with a quote gets quotes too.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a>(pub &'a [u8]);

impl<'a> Entry<'a> {
    /// The text, if it is shown as it is.
    pub fn plain(self) -> Option<&'a str> {
        Printable(self.0).plain().filter(|_| !self.needs_quotes())
    }

    fn needs_quotes(self) -> bool {
        let is_end = |byte: Option<&u8>, also: &[u8]| {
            byte.is_none_or(|byte| *byte == b' ' || also.contains(byte))
        };
        is_end(self.0.first(), b"\"+")
            || is_end(self.0.last(), b"")
            || matches!(self.0, b"-" | b"other" | b"not accepted")
    }
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.needs_quotes() {
            return Printable(self.0).fmt(f);
        }
        f.write_char('"')?;
        Printable(self.0).write(f, &['"'])?;
        f.write_char('"')
    }
}

/// [`Printable`] text for a spreadsheet: with `'` before anything that it would take for a formula.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a>(pub &'a [u8]);

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A formula may follow blanks, and begin with a full-width sign. A name that begins with `'` gets another,
        // or it would look like one that was made harmless.
        let text = self
            .0
            .utf8_chunks()
            .next()
            .map_or("", |chunk| chunk.valid());
        let first = text.chars().find(|&c| c != ' ' && !is_harmful(c));
        if matches!(
            first,
            Some('=' | '+' | '-' | '@' | '\'' | '＝' | '＋' | '－' | '＠')
        ) {
            f.write_char('\'')?;
        }
        Printable(self.0).fmt(f)
    }
}

#[cfg(test)]
pub(crate) mod tests;
