//! Bars of a chart.

use std::{
    env,
    ffi::OsStr,
    fmt::{self, Write as _},
    io::IsTerminal,
};

/// Whether to draw with block characters: on a terminal, unless it is a dumb one or the locale is not
/// UTF-8.
pub fn wants_unicode(out: &impl IsTerminal) -> bool {
    // The first that is set and not empty decides, as in `setlocale(3)`. Where none is set, as in many
    // containers, the terminal still knows UTF-8: all of today's do.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(env::var_os)
        .find(|value| !value.is_empty());
    out.is_terminal()
        && env::var_os("TERM").is_none_or(|value| value != "dumb")
        && locale.is_none_or(|locale| is_utf8(&locale))
}

fn is_utf8(locale: &OsStr) -> bool {
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.ends_with("utf-8") || locale.ends_with("utf8")
}

/// A count as a bar: `width` columns for the count `of`, and padded to that width.
///
/// A count that is not 0 is never an empty bar.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// The count.
    pub count: u64,
    /// The largest of the chart.
    pub of: u64,
    /// Columns.
    pub width: usize,
    /// Whether it is drawn with eighths of a block; else with `#`.
    pub unicode: bool,
}

/// One to seven eighths of a block.
const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

impl Bar {
    /// Its length in parts of a column, `division` to a column, rounded up.
    fn parts(self, division: usize) -> usize {
        let most = self.width * division;
        let parts = u128::from(self.count) * most as u128;
        let parts = parts.div_ceil(u128::from(self.of.max(1)));
        usize::try_from(parts).unwrap_or(most).min(most)
    }
}

impl fmt::Display for Bar {
    #[expect(
        clippy::indexing_slicing,
        reason = "a part is less than a whole, which has as many"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = if self.unicode {
            let eighths = self.parts(8);
            let (full, part) = (eighths / 8, eighths % 8);
            for _ in 0..full {
                f.write_char('█')?;
            }
            match part {
                0 => full,
                part => {
                    f.write_char(PARTS[part - 1])?;
                    full + 1
                }
            }
        } else {
            let columns = self.parts(1);
            for _ in 0..columns {
                f.write_char('#')?;
            }
            columns
        };
        for _ in columns..self.width {
            f.write_char(' ')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(count: u64, of: u64, unicode: bool) -> String {
        Bar {
            count,
            of,
            width: 4,
            unicode,
        }
        .to_string()
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        for (count, of, ascii, unicode) in [
            (0, 8, "    ", "    "),
            (4, 8, "##  ", "██  "),
            (8, 8, "####", "████"),
            (5, 8, "### ", "██▌ "),
            (u64::MAX, u64::MAX, "####", "████"),
            (u64::MAX - 1, u64::MAX, "####", "████"),
        ] {
            assert_eq!(bar(count, of, false), ascii, "{count} of {of}");
            assert_eq!(bar(count, of, true), unicode, "{count} of {of}");
        }
    }

    #[test]
    fn a_small_count_is_visible() {
        assert_eq!(bar(1, 1_000_000, true), "▏   ");
        assert_eq!(bar(1, 1_000_000, false), "#   ");
    }

    #[test]
    fn nothing_of_nothing_and_too_much_are_bars_too() {
        assert_eq!(bar(0, 0, true), "    ");
        assert_eq!(bar(9, 8, true), "████");
    }

    #[test]
    fn locales_that_are_utf8() {
        for (locale, expected) in [
            ("en_GB.UTF-8", true),
            ("C.utf8", true),
            ("C", false),
            ("POSIX", false),
            ("de_DE.ISO-8859-1", false),
        ] {
            assert_eq!(is_utf8(OsStr::new(locale)), expected, "{locale}");
        }
    }
}
