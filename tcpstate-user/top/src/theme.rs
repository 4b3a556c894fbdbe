//! Colours and signs. A colour is never the only sign: a selected line has a mark, a severity is a word.

use ratatui::style::{Color, Modifier, Style};
use tcpstate_core::diagnosis::Severity;

/// The abilities of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Whether there are colours, and bold and reversed letters.
    pub colour: bool,
    /// Whether there is more than ASCII.
    pub unicode: bool,
}

/// The signs of a sparkline, from nothing to the most.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '%', '#'];

/// The signs of a map, from nothing to the most.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
const ASCII_SHADES: [char; 5] = [' ', '.', '+', '*', '#'];

impl Theme {
    /// A heading.
    pub(crate) fn title(self) -> Style {
        self.styled(Style::new().add_modifier(Modifier::BOLD))
    }

    /// The selected line.
    pub(crate) fn selected(self) -> Style {
        self.styled(Style::new().add_modifier(Modifier::REVERSED))
    }

    /// The weight of a finding: of the 16 colours those that stand out on light and dark.
    pub(crate) fn severity(self, severity: Severity) -> Style {
        self.styled(match severity {
            Severity::Critical => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            Severity::Warning => Style::new().fg(Color::Magenta),
            Severity::Note => Style::new(),
        })
    }

    /// The style of what is frozen, or missing.
    pub(crate) fn alert(self) -> Style {
        self.severity(Severity::Critical)
    }

    /// The part of all sockets that is in a state: none, some, much, most of them. Its number says it too.
    pub(crate) fn heat(self, part: u64, all: u64) -> Style {
        let share = u128::from(part) * 100 / u128::from(all.max(1));
        self.styled(match (part, share) {
            (0, _) => Style::new(),
            (_, 0..10) => Style::new().fg(Color::Blue),
            (_, 10..50) => Style::new().fg(Color::Magenta),
            _ => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        })
    }

    fn styled(self, style: Style) -> Style {
        if self.colour { style } else { Style::new() }
    }

    /// The latest of these values as a line of so many signs, to the scale of the largest. What is above 0 is seen.
    pub(crate) fn sparkline(self, values: &[u64], width: usize) -> String {
        let shown = values.iter().rev().take(width).rev();
        let most = shown.clone().copied().max().unwrap_or(0).max(1);
        let bars = if self.unicode { BARS } else { ASCII_BARS };
        let levels = bars.len() as u64 - 1;
        let sign = |&value: &u64| {
            let level = u128::from(value) * u128::from(levels);
            let level = level.div_ceil(u128::from(most));
            // At most the number of levels.
            let level = usize::try_from(level).unwrap_or(0);
            bars.get(level).copied().unwrap_or(' ')
        };
        let line: String = shown.map(sign).collect();
        format!("{line:>width$}")
    }

    /// A cell of a map, to the scale of the largest. What is above 0 is seen.
    pub(crate) fn shade(self, value: u64, most: u64) -> char {
        let shades = if self.unicode { SHADES } else { ASCII_SHADES };
        let levels = shades.len() as u64 - 1;
        let level = u128::from(value) * u128::from(levels);
        let level = level.div_ceil(u128::from(most.max(1)));
        // At most the number of levels.
        let level = usize::try_from(level).unwrap_or(0);
        shades.get(level).copied().unwrap_or(' ')
    }

    /// A part of a bar to scale: whether it is an even one tells it from the one before it.
    pub(crate) const fn bar(self, is_even: bool) -> char {
        match (self.unicode, is_even) {
            (true, true) => '█',
            (true, false) => '░',
            (false, true) => '#',
            (false, false) => '-',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Theme = Theme {
        colour: false,
        unicode: true,
    };

    #[test]
    fn a_sparkline_shows_what_is_not_nothing() {
        assert_eq!(PLAIN.sparkline(&[0, 1, 500, 1_000], 4), " ▁▄█");
        assert_eq!(PLAIN.sparkline(&[u64::MAX, 0], 4), "  █ ");
        assert_eq!(PLAIN.sparkline(&[9, 0, 1], 2), " █");
        assert_eq!(PLAIN.sparkline(&[], 3), "   ");
        let shades: String = [0, 1, 25, 26, 100]
            .into_iter()
            .map(|value| PLAIN.shade(value, 100))
            .collect();
        assert_eq!(shades, " ░░▒█");
        let ascii = Theme {
            unicode: false,
            ..PLAIN
        };
        assert_eq!(ascii.sparkline(&[0, 1, 4, 8], 4), " .=#");
        assert!(ascii.sparkline(&[1, 2, 3, 4, 5, 6, 7, 8], 8).is_ascii());
    }
}
