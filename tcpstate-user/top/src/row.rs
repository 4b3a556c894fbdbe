//! The rows of a screen: lines of text, some of which can be selected.

use ratatui::text::Line;
use tcpstate_common::State;
use tcpstate_core::{diagnosis::Place, event::SocketId, model::GroupKey};

/// Something that can be selected. It is found again in the next snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    State(State),
    /// From one state to another.
    Edge(State, State),
    Finding(&'static str, Place),
    /// All findings of a kind, of which there are several.
    Findings(&'static str),
    Group(GroupKey),
    Connection(SocketId),
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) item: Option<Item>,
    /// The part of it that is marked when the item is selected, as column and width; `None`: all of it.
    pub(crate) mark: Option<(usize, usize)>,
    pub(crate) content: Content,
}

/// The content of a row. Of thousands of rows a few are seen, so that some are written only then.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Text(Line<'static>),
    /// The connection at this place of the list.
    Connection(usize),
}

impl Row {
    /// A line that cannot be selected.
    pub(crate) fn text(line: impl Into<Line<'static>>) -> Self {
        Self {
            item: None,
            mark: None,
            content: Content::Text(line.into()),
        }
    }

    /// One that can.
    pub(crate) fn item(item: Item, line: impl Into<Line<'static>>) -> Self {
        Self {
            item: Some(item),
            mark: None,
            content: Content::Text(line.into()),
        }
    }
}

/// The selection of a screen, and the part of it that is seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) item: Option<Item>,
    /// The row of the item when it was seen last.
    row: usize,
    /// The first row that is seen.
    pub(crate) top: usize,
}

impl Cursor {
    /// Finds the item in these rows, or the one that has its place, and moves the part that is seen so that it is in
    /// it. Where nothing can be selected, the part that is seen stays within the rows.
    pub(crate) fn settle(&mut self, rows: &[Row], height: usize) {
        let last_top = rows.len().saturating_sub(height);
        let find = |wanted: Item| rows.iter().position(|row| row.item == Some(wanted));
        let place = self.item.and_then(find).or_else(|| {
            let at = self.row.min(rows.len().saturating_sub(1));
            let mut after = rows.iter().enumerate().skip(at);
            let mut before = rows.iter().enumerate().take(at).rev();
            let has_item = |(_, row): &(usize, &Row)| row.item.is_some();
            let found = after.find(has_item).or_else(|| before.find(has_item));
            found.map(|(at, _)| at)
        });
        let Some(place) = place else {
            self.item = None;
            self.top = self.top.min(last_top);
            return;
        };
        self.item = rows.get(place).and_then(|row| row.item);
        self.row = place;
        if place < self.top {
            self.top = place;
        }
        if place >= self.top + height {
            self.top = place + 1 - height.max(1);
        }
        // The lines above the first item are seen with it.
        let is_first = !rows.iter().take(place).any(|row| row.item.is_some());
        if is_first && place < height {
            self.top = 0;
        }
        self.top = self.top.min(last_top);
    }

    /// Moves the selection by so many items, or the part that is seen where there are none.
    pub(crate) fn go(&mut self, rows: &[Row], by: isize) {
        let items: Vec<usize> = rows
            .iter()
            .enumerate()
            .filter_map(|(at, row)| row.item.map(|_| at))
            .collect();
        if items.is_empty() {
            self.top = self.top.saturating_add_signed(by).min(rows.len());
            return;
        }
        let at = items.iter().position(|&row| row >= self.row).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(items.len() - 1);
        if let Some(&row) = items.get(to) {
            self.row = row;
            self.item = rows.get(row).and_then(|row| row.item);
        }
    }

    /// Selects the item of this row; `false`: it has none.
    pub(crate) fn point(&mut self, rows: &[Row], row: usize) -> bool {
        let Some(item) = rows.get(row).and_then(|row| row.item) else {
            return false;
        };
        (self.item, self.row) = (Some(item), row);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let item = |port| Row::item(Item::State(State(port)), format!("row {port}"));
        let mut rows = vec![Row::text("title"), Row::text("")];
        rows.extend((1..=9).map(item));
        rows
    }

    #[test]
    fn the_selection_is_always_seen() {
        let rows = rows();
        let mut cursor = Cursor::default();
        cursor.settle(&rows, 5);
        assert_eq!(cursor.item, Some(Item::State(State(1))));
        assert_eq!(cursor.top, 0, "with the title");
        for (by, selected, top) in [(1, 2, 0), (4, 6, 3), (99, 9, 6), (-2, 7, 6), (-99, 1, 0)] {
            cursor.go(&rows, by);
            cursor.settle(&rows, 5);
            assert_eq!(cursor.item, Some(Item::State(State(selected))));
            assert_eq!(cursor.top, top, "{selected}");
        }
    }

    #[test]
    fn what_is_selected_stays_so_when_it_moves_and_gives_its_place_when_it_goes() {
        let mut rows = rows();
        let mut cursor = Cursor::default();
        cursor.settle(&rows, 20);
        cursor.go(&rows, 3);
        cursor.settle(&rows, 20);
        assert_eq!(cursor.item, Some(Item::State(State(4))));
        rows.reverse();
        cursor.settle(&rows, 20);
        assert_eq!(cursor.item, Some(Item::State(State(4))));
        rows.retain(|row| row.item != Some(Item::State(State(4))));
        cursor.settle(&rows, 20);
        assert_eq!(cursor.item, Some(Item::State(State(3))));
        cursor.settle(&[Row::text("nothing")], 20);
        assert_eq!((cursor.item, cursor.top), (None, 0));
    }
}
