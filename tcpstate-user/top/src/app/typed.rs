//! The keys of a text that is being typed in.

use std::sync::Arc;

use crossterm::event::KeyCode;

use super::{App, Then};
use crate::{
    connections,
    filter::Filter,
    typing::{Subject, Typing},
};

impl App {
    /// Takes a key of a text that is being typed in.
    pub(super) fn type_in(&mut self, mut typing: Typing, key: KeyCode) -> Then {
        match key {
            KeyCode::Esc => return Then::Draw,
            KeyCode::Enter if typing.subject == Subject::Time => {
                let shown = self.look.shown().snapshot.as_deref();
                let played = self.look.played.as_ref();
                let zone = &self.look.options.zone;
                match played.map(|played| played.go_to(&typing.text, shown, zone)) {
                    Some(Ok(command)) => return Then::Play(command),
                    Some(Err(message)) => typing.message = message,
                    None => return Then::Draw,
                }
            }
            KeyCode::Enter if typing.subject == Subject::Columns => {
                match connections::columns(&typing.text) {
                    Ok(columns) => {
                        self.look.columns = columns;
                        return Then::Draw;
                    }
                    Err(error) => typing.message = error.to_string(),
                }
            }
            KeyCode::Enter => {
                let names = Arc::clone(&self.look.options.names.0);
                match Filter::parse(&typing.text, names.as_ref()) {
                    Ok(filter) => {
                        self.look.filter = filter;
                        return Then::Draw;
                    }
                    Err(error) => typing.message = error.to_string(),
                }
            }
            KeyCode::Tab => typing.complete(),
            KeyCode::Backspace => {
                typing.erase('h');
            }
            KeyCode::Char(letter) => typing.push(letter),
            _ => {}
        }
        self.look.typing = Some(typing);
        Then::Draw
    }
}
