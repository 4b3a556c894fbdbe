//! The state of what a person looks at, and what keys, the mouse and snapshots do to it.

mod typed;

use std::sync::Arc;

use crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::{Frame, text::Line};
use tcpstate_core::{
    escape::Printable,
    model::{By, GroupKey},
    play::{Command, Position},
    present::RunSnapshot,
    service::ServicePort,
};

use crate::{
    connection, connections, dwell,
    filter::Filter,
    finding, frame, help,
    kept::Kept,
    look::{Look, Only, Options, Page, Screen},
    machine,
    order::{grouping_before, grouping_beside},
    overview,
    row::{Cursor, Item, Row},
    services,
    typing::{Subject, Typing},
    written::{self, Written},
};

/// An input.
#[derive(Clone, Debug)]
pub enum Input {
    /// A key was pressed.
    Key(KeyEvent),
    /// The mouse was used.
    Mouse(MouseEvent),
    /// A snapshot.
    Snapshot(Arc<RunSnapshot>),
    /// Where the recording is that is played.
    Position(Position),
    /// The file that was written, by its name and with what it holds, or why it was not.
    Written(Result<String, String>),
}

/// The consequence of an input, beyond the state of the [`App`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing that is seen has changed.
    Nothing,
    /// The frame has to be drawn.
    Draw,
    /// The whole screen has to be drawn, whatever is on it.
    Redraw,
    /// The player gets a command, and the frame has to be drawn.
    Play(Command),
    /// The publisher is asked for this grouping, and the frame has to be drawn.
    GroupBy(By),
    /// The content of the screen ([`App::written`]) is written to a file; that follows as an input.
    Write,
    /// The last minutes of the run are written to a file ([`App::stem_of_recording`]); that follows as an input.
    Record,
    /// The shell gets the terminal until it continues the process.
    Suspend,
    /// The run ends.
    Quit,
}

/// The screens, and what keys, the mouse and snapshots do to them.
#[derive(Clone, Debug)]
pub struct App {
    pub(crate) look: Look,
    cursors: [Cursor; Screen::ALL.len()],
    /// The rows of the last frame, and the lines above them.
    rows: Vec<Row>,
    above: usize,
    /// The columns of a row, and the rows that have room.
    width: usize,
    height: usize,
}

impl App {
    /// It has seen no snapshot.
    pub fn new(options: Options) -> Self {
        Self {
            look: Look::new(options),
            cursors: [Cursor::default(); Screen::ALL.len()],
            rows: Vec::new(),
            above: 0,
            width: 1,
            height: 1,
        }
    }

    /// Takes an input.
    pub fn update(&mut self, input: Input) -> Then {
        match input {
            Input::Snapshot(snapshot) => {
                let played = self.look.played.as_mut();
                let command = played.and_then(|played| played.go_on(&snapshot));
                self.look.take(snapshot);
                command.map_or(Then::Draw, Then::Play)
            }
            Input::Position(position) => {
                let played = self.look.played.as_mut();
                if played.is_some_and(|played| played.take(position)) {
                    Then::Draw
                } else {
                    Then::Nothing
                }
            }
            Input::Written(result) => {
                self.look.told = Some(result);
                Then::Draw
            }
            Input::Key(key) if key.kind == KeyEventKind::Release => Then::Nothing,
            Input::Key(key) => {
                let told = self.look.told.take();
                match self.key(key) {
                    // It is told until the next key.
                    Then::Nothing if told.is_some() => Then::Draw,
                    then => then,
                }
            }
            Input::Mouse(mouse) => self.mouse(mouse),
        }
    }

    /// Fills a frame.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let width = frame::inner_width(area);
        self.look.services.settle(services::room(width));
        let (head, rows) = self.content(width);
        let height = frame::height(area, head.len());
        self.cursor().settle(&rows, height);
        let cursor = *self.cursor();
        frame::draw(&self.look, &head, &rows, cursor, area, frame.buffer_mut());
        // The line of the host stands above all.
        (self.rows, self.above) = (rows, 1 + head.len());
        (self.width, self.height) = (width, height);
    }

    /// The content of what is on top, for a file; `None` where there is nothing to be written.
    pub fn written(&self) -> Option<Written> {
        written::written(&self.look)
    }

    /// The name of a recording of the last minutes, without an ending: it has the time of the latest snapshot. `None` before
    /// the first one.
    pub fn stem_of_recording(&self) -> Option<String> {
        written::stem_of_recording(&self.look)
    }

    /// The selection of what is on top.
    pub(crate) fn cursor(&mut self) -> &mut Cursor {
        let [overview, services, connections, machine, dwell] = &mut self.cursors;
        let of_screen = match self.look.screen {
            Screen::Overview => overview,
            Screen::Services => services,
            Screen::Connections => connections,
            Screen::Machine => machine,
            Screen::Dwell => dwell,
        };
        let on_top = self.look.pages.last_mut();
        on_top.map_or(of_screen, |(_, cursor)| cursor)
    }

    const fn machine_cursor(&self) -> &Cursor {
        let [_, _, _, machine, _] = &self.cursors;
        machine
    }

    fn key(&mut self, key: KeyEvent) -> Then {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match (key.code, &mut self.look.typing) {
                (KeyCode::Char('c'), _) => Then::Quit,
                (KeyCode::Char('z'), _) => Then::Suspend,
                (KeyCode::Char('l'), _) => Then::Redraw,
                (KeyCode::Char(letter), Some(typing)) => {
                    if typing.erase(letter) {
                        Then::Draw
                    } else {
                        Then::Nothing
                    }
                }
                (KeyCode::Char('f'), None) => self.go_pages(1),
                (KeyCode::Char('b'), None) => self.go_pages(-1),
                _ => Then::Nothing,
            };
        }
        if let Some(typing) = self.look.typing.take() {
            return self.type_in(typing, key.code);
        }
        let shown = self.look.shown().snapshot.clone();
        if let Some(played) = &mut self.look.played {
            if let Some(command) = played.key(key.code, shown.as_deref()) {
                return Then::Play(command);
            }
            if key.code == KeyCode::Char('t') {
                self.look.typing = Some(Typing::new(Subject::Time, ""));
                return Then::Draw;
            }
        }
        match key.code {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('1') => self.show(Screen::Overview),
            KeyCode::Char('2') => self.show(Screen::Services),
            KeyCode::Char('3') => self.show(Screen::Connections),
            KeyCode::Char('4') => self.show(Screen::Machine),
            KeyCode::Char('5') => self.show(Screen::Dwell),
            KeyCode::Tab => self.show(self.beside(1)),
            KeyCode::BackTab => self.show(self.beside(Screen::ALL.len() - 1)),
            KeyCode::Down | KeyCode::Char('j') => return self.go(1),
            KeyCode::Up | KeyCode::Char('k') => return self.go(-1),
            KeyCode::PageDown => return self.go_pages(1),
            KeyCode::PageUp => return self.go_pages(-1),
            KeyCode::Home | KeyCode::Char('g') => return self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => return self.go(isize::MAX),
            KeyCode::Enter => return self.open(),
            KeyCode::Esc | KeyCode::Backspace => return self.back(),
            KeyCode::Char(' ') => self.look.freeze(),
            KeyCode::Char('?') => self.push(Page::Help),
            KeyCode::Char('/') => {
                // The services are filtered where they are.
                let screen = match self.look.screen {
                    Screen::Services => Screen::Services,
                    _ => Screen::Connections,
                };
                self.show(screen);
                let text = &self.look.filter.text;
                self.look.typing = Some(Typing::new(Subject::Filter, text));
            }
            KeyCode::Char('c') => {
                self.show(Screen::Connections);
                let names = connections::names_of(&self.look.columns);
                self.look.typing = Some(Typing::new(Subject::Columns, &names));
            }
            KeyCode::Char('e') => return self.explain(),
            KeyCode::Char('s') => return self.sort(),
            KeyCode::Char('S') => return self.turn(),
            KeyCode::Char('p') => return self.dwell_of(1),
            KeyCode::Char('P') => return self.dwell_of(-1),
            KeyCode::Char('o') => return self.keep(),
            KeyCode::Char('w') => return self.write(),
            KeyCode::Char('W') => return self.record(),
            KeyCode::Char('b') => return self.group_by(grouping_beside(self.look.by, 1)),
            KeyCode::Char('B') => return self.group_by(grouping_before(self.look.by)),
            KeyCode::Right | KeyCode::Char('l') => return self.shift(1),
            KeyCode::Left | KeyCode::Char('h') => return self.shift(-1),
            _ => return Then::Nothing,
        }
        Then::Draw
    }

    fn mouse(&mut self, mouse: MouseEvent) -> Then {
        match mouse.kind {
            MouseEventKind::ScrollDown => self.go(3),
            MouseEventKind::ScrollUp => self.go(-3),
            MouseEventKind::Down(MouseButton::Left) => {
                let Some(below) = usize::from(mouse.row).checked_sub(self.above) else {
                    return Then::Nothing;
                };
                let mut cursor = *self.cursor();
                let before = cursor.item;
                let row = cursor.top.saturating_add(below);
                if self.look.screen == Screen::Machine && self.look.pages.is_empty() {
                    // Of the parts in its line the nearest.
                    let column = machine::column_at(&self.look, before, self.width, mouse.column);
                    self.look.machine_column = column;
                    self.rows = machine::rows(&self.look, None, self.width);
                }
                if below >= self.height || !cursor.point(&self.rows, row) {
                    return Then::Nothing;
                }
                *self.cursor() = cursor;
                if before == cursor.item {
                    return self.open();
                }
                Then::Draw
            }
            _ => Then::Nothing,
        }
    }

    /// Shows a screen, and nothing over it.
    fn show(&mut self, screen: Screen) {
        if screen != self.look.screen {
            self.look.opened_from = None;
        }
        self.look.pages.clear();
        self.look.screen = screen;
    }

    /// The screen so many places further.
    fn beside(&self, by: usize) -> Screen {
        let screens = Screen::ALL;
        let at = screens.iter().position(|&one| one == self.look.screen);
        let mut from_here = screens.iter().cycle().skip(at.unwrap_or(0) + by);
        from_here.next().copied().unwrap_or(Screen::Overview)
    }

    fn push(&mut self, page: Page) {
        self.look.pages.push((page, Cursor::default()));
    }

    fn go(&mut self, by: isize) -> Then {
        let mut cursor = *self.cursor();
        cursor.go(&self.rows, by);
        *self.cursor() = cursor;
        Then::Draw
    }

    fn go_pages(&mut self, by: isize) -> Then {
        let rows = isize::try_from(self.height).unwrap_or(1).max(1);
        self.go(by.saturating_mul(rows))
    }

    /// Shows more of what is selected.
    fn open(&mut self) -> Then {
        if !self.look.pages.is_empty() {
            return Then::Nothing;
        }
        match self.cursor().item {
            Some(Item::State(state)) => self.list(Only {
                state: Some(state),
                ..Only::default()
            }),
            Some(Item::Edge(from, to)) => self.list(Only {
                state: Some(to),
                from: Some(from),
                group: None,
            }),
            // All that there was no room for are not known one by one.
            Some(Item::Group(GroupKey::Other | GroupKey::Port(ServicePort::Other, _))) | None => {
                return Then::Nothing;
            }
            Some(Item::Group(key)) => self.list(Only {
                group: Some(key),
                ..Only::default()
            }),
            Some(finding @ (Item::Finding(..) | Item::Findings(_))) => {
                self.push(Page::Finding(finding));
            }
            Some(Item::Connection(id)) => {
                let Some(row) = connections::find(&self.look, id) else {
                    return Then::Nothing;
                };
                self.push(Page::Connection(Box::new(row), id));
            }
        }
        Then::Draw
    }

    /// Lists these connections.
    fn list(&mut self, only: Only) {
        let from = self.look.screen;
        self.show(Screen::Connections);
        self.look.only = only;
        self.look.opened_from = Some(from);
        self.look.opened_with.clone_from(&self.look.filter.text);
    }

    /// Leaves a text, then the filter, then the list for the screen that opened it; or the choice of connections.
    fn back(&mut self) -> Then {
        if self.look.pages.pop().is_some() {
            return Then::Draw;
        }
        if self.look.screen == Screen::Services && self.look.is_filtered() {
            self.look.filter = Filter::default();
            return Then::Draw;
        }
        if self.look.screen == Screen::Connections && !self.look.shows_all() {
            // Filtered services are gone back to as they were.
            let is_as_opened = self.look.opened_from == Some(Screen::Services)
                && self.look.filter.text == self.look.opened_with;
            let is_filtered = self.look.is_filtered() && !is_as_opened;
            if !is_as_opened {
                self.look.filter = Filter::default();
            }
            if let Some(from) = self.look.opened_from {
                if is_filtered {
                    return Then::Draw;
                }
                self.show(from);
            }
            self.look.only = Only::default();
            return Then::Draw;
        }
        if self.look.kept.take().is_some() {
            return Then::Draw;
        }
        Then::Nothing
    }

    /// Makes all screens be about what is selected.
    fn keep(&mut self) -> Then {
        let item = self.cursor().item;
        let part = match item {
            _ if !self.look.pages.is_empty() => return Then::Nothing,
            Some(Item::State(state)) => Kept::State(state),
            Some(Item::Edge(from, to)) => Kept::Edge(from, to),
            _ => return Then::Nothing,
        };
        self.look.keep(part);
        Then::Draw
    }

    /// Explains what is selected, or shown.
    fn explain(&mut self) -> Then {
        let page = match self.look.pages.last() {
            Some((Page::Finding(Item::Finding(name, _) | Item::Findings(name)), _)) => {
                Page::Explained(name)
            }
            Some((Page::Connection(row, _), _)) => match row.states.last() {
                Some(stay) => Page::State(stay.state),
                None => return Then::Nothing,
            },
            Some(_) => return Then::Nothing,
            None if self.look.screen == Screen::Dwell => Page::State(self.look.dwell_state()),
            None => match self.cursor().item {
                Some(Item::State(state) | Item::Edge(state, _)) => Page::State(state),
                Some(Item::Finding(name, _) | Item::Findings(name)) => Page::Explained(name),
                Some(Item::Connection(id)) => {
                    let row = connections::find(&self.look, id);
                    match row.and_then(|row| row.states.last().map(|stay| stay.state)) {
                        Some(state) => Page::State(state),
                        None => return Then::Nothing,
                    }
                }
                Some(Item::Group(_)) | None => return Then::Nothing,
            },
        };
        self.push(page);
        Then::Draw
    }

    fn sort(&mut self) -> Then {
        match (self.look.screen, self.look.pages.is_empty()) {
            (Screen::Services, true) => self.look.services.next(),
            (Screen::Connections, true) => self.look.connections.next(),
            _ => return Then::Nothing,
        }
        Then::Draw
    }

    fn turn(&mut self) -> Then {
        match (self.look.screen, self.look.pages.is_empty()) {
            (Screen::Services, true) => self.look.services.turn(),
            (Screen::Connections, true) => self.look.connections.turn(),
            _ => return Then::Nothing,
        }
        Then::Draw
    }

    /// Shows the times of the service so many places further.
    fn dwell_of(&mut self, by: isize) -> Then {
        if self.look.screen != Screen::Dwell || !self.look.pages.is_empty() {
            return Then::Nothing;
        }
        self.look.dwell_group = dwell::group_beside(&self.look, by);
        Then::Draw
    }

    fn write(&self) -> Then {
        let is_help = matches!(self.look.pages.last(), Some((Page::Help, _)));
        if is_help || self.look.shown().snapshot.is_none() {
            return Then::Nothing;
        }
        Then::Write
    }

    fn record(&self) -> Then {
        // A recording that is played is in a file.
        if self.look.played.is_some() || self.look.latest().snapshot.is_none() {
            return Then::Nothing;
        }
        Then::Record
    }

    /// Groups the services in another way.
    fn group_by(&mut self, by: By) -> Then {
        if self.look.screen != Screen::Services || !self.look.pages.is_empty() {
            return Then::Nothing;
        }
        self.look.by = by;
        // There will be no such group.
        self.look.only.group = None;
        self.look.dwell_group = None;
        Then::GroupBy(by)
    }

    /// Shows other columns of the services, selects on the other side of the diagram, or shows the times of another
    /// state.
    fn shift(&mut self, by: isize) -> Then {
        match (self.look.screen, self.look.pages.is_empty()) {
            (Screen::Services, true) => self.look.services.shift(by),
            (Screen::Machine, true) => {
                let selected = self.cursor().item;
                let Some((item, column)) = machine::beside(&self.look, selected, by) else {
                    return Then::Nothing;
                };
                self.cursor().item = Some(item);
                self.look.machine_column = column;
            }
            (Screen::Dwell, true) => self.look.go_to_state(by),
            _ => return Then::Nothing,
        }
        Then::Draw
    }

    /// The lines above the rows, and the rows, in so many columns.
    pub(crate) fn content(&self, width: usize) -> (Vec<Line<'static>>, Vec<Row>) {
        if let Some((page, _)) = self.look.pages.last() {
            return self.page(page, width);
        }
        let (mut head, rows) = self.screen(width);
        head.splice(0..0, self.message(width));
        (head, rows)
    }

    fn screen(&self, width: usize) -> (Vec<Line<'static>>, Vec<Row>) {
        match self.look.screen {
            Screen::Overview => (Vec::new(), overview::rows(&self.look, width, false)),
            Screen::Services => services::table(&self.look, width),
            Screen::Connections => connections::table(&self.look, width),
            Screen::Machine => (
                Vec::new(),
                machine::rows(&self.look, self.machine_cursor().item, width),
            ),
            Screen::Dwell => dwell::table(&self.look, self.look.dwell_state(), width),
        }
    }

    /// The lines about what is being typed in.
    fn message(&self, width: usize) -> Vec<Line<'static>> {
        let typing = self.look.typing.iter();
        let message = typing.flat_map(|typing| typing.message.lines());
        let lines = message.flat_map(|line| {
            let line = Printable(line.as_bytes()).to_string();
            // The text with the mistake stays as it is.
            if line.starts_with(' ') {
                vec![line]
            } else {
                frame::wrapped(&line, width)
            }
        });
        lines.map(Line::from).collect()
    }

    fn page(&self, page: &Page, width: usize) -> (Vec<Line<'static>>, Vec<Row>) {
        let lines = match page {
            Page::Help => {
                let is_played = self.look.played.is_some();
                help::lines(is_played, self.look.options.theme, width)
            }
            Page::State(state) => finding::explain_state(*state, width),
            Page::Explained(name) => finding::explain(name, width),
            Page::Finding(item) => finding::lines(&self.look, *item, width),
            Page::Connection(row, id) => connection::lines(&self.look, row, *id, width),
        };
        (Vec::new(), lines.into_iter().map(Row::text).collect())
    }
}
