//! A text that is being typed in, in the line below.

use crate::{connections, filter};

/// The subject of a text that is being typed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Subject {
    #[default]
    Filter,
    /// The columns of the list of connections.
    Columns,
    /// The time to go to in a recording.
    Time,
}

impl Subject {
    /// The text stands behind it.
    pub(crate) const fn prompt(self) -> &'static str {
        match self {
            Self::Filter => "/",
            Self::Columns => "columns: ",
            Self::Time => "go to: ",
        }
    }

    /// The signs that a word begins behind.
    const fn separators(self) -> &'static [char] {
        match self {
            Self::Filter => &[' ', '(', ','],
            Self::Columns => &[',', ' '],
            Self::Time => &[' '],
        }
    }
}

/// A text that is being typed in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Typing {
    pub(crate) subject: Subject,
    pub(crate) text: String,
    /// The reason why it cannot be used, or the words that it can go on with.
    pub(crate) message: String,
}

impl Typing {
    pub(crate) fn new(subject: Subject, text: &str) -> Self {
        Self {
            subject,
            text: text.to_owned(),
            message: String::new(),
        }
    }

    /// Adds a character.
    pub(crate) fn push(&mut self, letter: char) {
        self.text.push(letter);
        self.message.clear();
    }

    /// Erases by a key with Ctrl, as a shell does: a character, a word, or all. `false`: the key is another one.
    pub(crate) fn erase(&mut self, key: char) -> bool {
        match key {
            'h' => {
                self.text.pop();
            }
            'u' => self.text.clear(),
            'w' => {
                let separators = self.subject.separators();
                let rest = self.text.trim_end_matches(separators);
                self.text.truncate(begin_of_word(rest, separators));
            }
            _ => return false,
        }
        self.message.clear();
        true
    }

    /// Completes the last word as far as the words that there are allow it.
    pub(crate) fn complete(&mut self) {
        let begin = begin_of_word(&self.text, self.subject.separators());
        let Some((before, word)) = self.text.split_at_checked(begin) else {
            return;
        };
        let (words, kind) = match self.subject {
            Subject::Filter => filter::words_after(before),
            Subject::Columns => (connections::LAYOUT.names(), "column".to_owned()),
            Subject::Time => return,
        };
        let fitting: Vec<&str> = words
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with(word))
            .collect();
        let common = fitting.iter().copied().reduce(|one, other| {
            let mut pairs = one.char_indices().zip(other.chars());
            let differ = pairs.find(|((_, a), b)| a != b).map(|((at, _), _)| at);
            let end = differ.unwrap_or(one.len().min(other.len()));
            one.get(..end).unwrap_or(one)
        });
        let Some(common) = common else {
            self.message = format!("no {kind} begins with \"{word}\"");
            return;
        };
        let is_whole = fitting.len() == 1;
        // Columns have a comma between them, which is no part of the last one.
        let end = if is_whole && self.subject == Subject::Filter {
            " "
        } else {
            ""
        };
        self.message = if is_whole {
            String::new()
        } else {
            fitting.join(" ")
        };
        self.text = format!("{before}{common}{end}");
    }
}

/// The place at which the last word begins.
fn begin_of_word(text: &str, separators: &[char]) -> usize {
    text.rfind(separators).map_or(0, |at| at + 1)
}
