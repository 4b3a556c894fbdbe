//! The columns of a view: which of them are shown, and how wide.
//!
//! On a terminal they are fitted to its width once, before the first line, so that no line wraps and none moves
//! later. Elsewhere the usual ones are shown, and nothing is cut.

use tcpstate_core::{
    catalogue::{Column as Field, Kind, Table as Fields},
    nearest::nearest,
};

use super::cell::Cell;

/// The least width of a column on a screen, which most numbers with their unit fit in.
const LEAST: usize = 8;

/// The columns of a view.
pub struct Layout<R: 'static> {
    /// The command.
    pub command: &'static str,
    /// All columns, in the order in which they are shown.
    pub cells: &'static [Cell<R>],
    /// The titles of those that are shown off a terminal.
    pub usual: &'static [&'static str],
    /// The order in which columns get room on a terminal: each step has a title, and how wide that column is from
    /// then on.
    pub steps: &'static [(&'static str, usize)],
    /// The fields that `--columns` can name beside the cells.
    pub fields: &'static Fields<R>,
}

/// The choice of columns.
#[derive(Debug)]
pub enum Columns<R: 'static> {
    /// On a terminal those that fit, elsewhere the usual ones.
    Usual,
    /// All of them, whole.
    Wide,
    /// These, whole.
    These(Vec<Cell<R>>),
}

impl<R> Clone for Columns<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Usual => Self::Usual,
            Self::Wide => Self::Wide,
            Self::These(cells) => Self::These(cells.clone()),
        }
    }
}

/// The reason why words are no columns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// Nothing between two commas, or nothing at all.
    #[error("an empty item; write columns with a comma between them, such as pid,remote,cause")]
    Empty,
    /// A word that names no column.
    #[error("`{word}` is not a column of {command}; {}columns: {}", meant(nearest.as_deref()), known.join(", "))]
    Unknown {
        /// The word.
        word: String,
        /// The command that has no such column.
        command: &'static str,
        /// The name that was meant.
        nearest: Option<String>,
        /// The names that there are.
        known: Vec<String>,
    },
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("did you mean `{nearest}`? "))
}

impl<R> Layout<R> {
    /// The columns of these names; without any, the usual ones.
    pub fn columns(&self, wide: bool, words: &[String]) -> Result<Columns<R>, ColumnsError> {
        if wide {
            return Ok(Columns::Wide);
        }
        if words.is_empty() {
            return Ok(Columns::Usual);
        }
        let cells = words.iter().map(|word| {
            if word.trim().is_empty() {
                return Err(ColumnsError::Empty);
            }
            self.named(word.trim()).ok_or_else(|| {
                let known = self.names();
                let fields = self.fields.columns().map(|field| field.name);
                let nearest = nearest(word, known.iter().map(String::as_str).chain(fields));
                ColumnsError::Unknown {
                    word: word.clone(),
                    command: self.command,
                    nearest: nearest.map(str::to_owned),
                    known,
                }
            })
        });
        cells.collect::<Result<_, _>>().map(Columns::These)
    }

    fn named(&self, word: &str) -> Option<Cell<R>> {
        let cell = self.cells.iter().find(|cell| cell.is_called(word));
        // CSV has a `_` for the dot.
        let field = || {
            self.other_fields()
                .find(|field| field.name == word || field.name.replace('.', "_") == word)
        };
        cell.copied().or_else(|| field().map(Cell::other))
    }

    /// The fields that no cell shows alone, but for those with a structure of their own.
    fn other_fields(&self) -> impl Iterator<Item = &'static Field<R>> {
        let cells = self.cells;
        self.fields.columns().filter(move |field| {
            !matches!(field.kind, Kind::Nested(_) | Kind::Time)
                && !cells.iter().any(|cell| cell.is_called(field.name))
        })
    }

    /// The names of all columns.
    pub fn names(&self) -> Vec<String> {
        let cells = self.cells.iter().filter(|cell| cell.is_named());
        let titles = cells.map(|cell| cell.title().to_lowercase());
        titles
            .chain(self.other_fields().map(|field| field.name.to_owned()))
            .collect()
    }

    /// The cells that fit in `room` columns, each with its width, in the order in which they are shown; those of
    /// the titles in `asked` before all others, and none in `hidden`; a time takes `time_width`. `natural` has the width of each cell's content,
    /// where that is known.
    pub(super) fn fit(
        &self,
        asked: &[&str],
        time_width: usize,
        hidden: &[&str],
        room: usize,
        natural: Option<&[usize]>,
    ) -> Vec<(Cell<R>, usize)> {
        let place = |title: &str| self.cells.iter().position(|cell| cell.title() == title);
        let asked = asked.iter().filter_map(|title| {
            let at = place(title)?;
            let width = match *title {
                "TIME" => time_width,
                _ => self.cells.get(at)?.usual_width(),
            };
            Some((at, width))
        });
        let steps = self
            .steps
            .iter()
            .filter(|(title, _)| !hidden.contains(title));
        let steps = asked.chain(steps.filter_map(|&(title, width)| Some((place(title)?, width))));
        let mut widths = vec![0; self.cells.len()];
        // The first column has no blank before it.
        let mut left = room + 1;
        for (at, wanted) in steps {
            let natural = natural.and_then(|natural| natural.get(at));
            let wanted = natural.map_or(wanted, |&natural| wanted.min(natural));
            let Some(width) = widths.get_mut(at).filter(|width| **width < wanted) else {
                continue;
            };
            let cost = wanted - *width + usize::from(*width == 0);
            if cost <= left {
                *width = wanted;
                left -= cost;
            } else if *width > 0 || left > room {
                // There is no column before, or it is the first.
                *width += left - usize::from(*width == 0);
                break;
            } else {
                break;
            }
        }
        let cells = self.cells.iter().copied().zip(widths);
        cells.filter(|&(_, width)| width > 0).collect()
    }

    /// These cells for a screen of so many columns: each as wide as usual and, as far as there is room, as the steps say.
    pub(super) fn spread(&self, cells: &[Cell<R>], room: usize) -> Vec<Cell<R>> {
        let mut cells: Vec<Cell<R>> = cells
            .iter()
            .map(|cell| cell.of_width(cell.usual_width().max(LEAST)))
            .collect();
        let used: usize = cells.iter().map(|cell| cell.usual_width() + 1).sum();
        // The first column has no blank before it.
        let mut left = (room + 1).saturating_sub(used);
        for (title, wanted) in self.steps {
            for cell in cells.iter_mut().filter(|cell| cell.title() == *title) {
                let more = wanted.saturating_sub(cell.usual_width());
                if more > 0 && more <= left {
                    *cell = cell.of_width(*wanted);
                    left -= more;
                }
            }
        }
        cells
    }
}
