//! The things that can be explained, by their names.

use std::{collections::BTreeSet, str::FromStr};

use super::{STATES, StateText};
use crate::{
    catalogue::{CONNECTION, Kind, PACKET, RATES, SOCKET, TRANSITION, Table, histogram_table},
    cause::{EXPLAINED, Explained},
    diagnosis::{FindingText, RULES},
    filter::StateSet,
    model::By,
};

/// A thing that can be explained.
#[derive(Clone, Debug)]
pub enum Topic {
    /// A state.
    State(&'static StateText),
    /// The cause of an end.
    Cause(Explained),
    /// A kind of finding of `tcpstate diagnose`.
    Finding(&'static FindingText),
    /// A field, in each kind of record that has it.
    Field(Vec<FieldText>),
}

/// The knowledge of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldText {
    /// The kind of record.
    pub record: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its type and unit.
    pub kind: Kind,
    /// The meaning.
    pub doc: &'static str,
    /// When it is unknown; empty: never.
    pub unknown: &'static str,
}

/// No topic has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicError(String);

impl std::fmt::Display for TopicError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` is no TCP state, no cause, no finding and no field",
            self.0
        )
    }
}

impl std::error::Error for TopicError {}

impl Topic {
    /// The names of all topics: states, causes, findings, fields.
    pub fn words() -> Vec<&'static str> {
        let states = STATES.iter().filter_map(|text| text.state.name());
        let fields: BTreeSet<_> = fields().into_iter().map(|field| field.name).collect();
        states
            .chain(causes().map(|cause| cause.name))
            .chain(findings().map(|text| text.name))
            .chain(fields)
            .collect()
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(name: &str) -> Result<Self, TopicError> {
        // A state by any of its spellings.
        if let Ok(set) = name.parse::<StateSet>()
            && let Some(text) = STATES.iter().find(|text| StateSet::of(text.state) == set)
        {
            return Ok(Self::State(text));
        }
        let plain = name.to_lowercase().replace('-', "_");
        if let Some(cause) = causes().find(|cause| cause.name == plain) {
            return Ok(Self::Cause(cause));
        }
        if let Some(text) = findings().find(|text| text.name == plain) {
            return Ok(Self::Finding(text));
        }
        let mut fields = fields();
        // `comm` is the one in `owner.comm`.
        let is_named = |field: &FieldText| {
            let last = field.name.rsplit('.').next();
            field.name.replace('.', "_") == plain || last == Some(&*plain)
        };
        fields.retain(|field| field.name == name || is_named(field));
        if fields.is_empty() {
            return Err(TopicError(name.to_owned()));
        }
        Ok(Self::Field(fields))
    }
}

/// The causes that have a name of their own.
fn causes() -> impl Iterator<Item = Explained> {
    let has_name = |cause: &Explained| !cause.name.contains(' ');
    EXPLAINED.into_iter().filter(has_name)
}

/// Everything that can be found.
fn findings() -> impl Iterator<Item = &'static FindingText> {
    RULES.iter().map(|rule| &rule.text)
}

/// Every field of every kind of record.
fn fields() -> Vec<FieldText> {
    let mut all = Vec::new();
    add(&TRANSITION, &mut all);
    add(&PACKET, &mut all);
    add(&CONNECTION, &mut all);
    add(&SOCKET, &mut all);
    add(histogram_table(By::Port), &mut all);
    add(&RATES, &mut all);
    all
}

fn add<R>(table: &Table<R>, all: &mut Vec<FieldText>) {
    all.extend(table.columns().map(|column| FieldText {
        record: table.name,
        name: column.name,
        kind: column.kind,
        doc: column.doc,
        unknown: column.unknown,
    }));
}

#[cfg(test)]
mod tests {
    use tcpstate_common::State;

    use super::*;

    #[test]
    fn every_word_is_a_topic() {
        let words = Topic::words();
        assert!(words.len() > 100, "{words:?}");
        for word in words {
            assert!(word.parse::<Topic>().is_ok(), "{word}");
        }
    }

    #[test]
    fn a_state_has_the_spellings_of_ss() {
        for name in ["CLOSE_WAIT", "close-wait", "8"] {
            let Ok(Topic::State(text)) = name.parse() else {
                panic!("{name}");
            };
            assert_eq!(text.state, State::CLOSE_WAIT);
        }
        // A list is no state.
        assert!("close-wait,listen".parse::<Topic>().is_err());
        assert!("connected".parse::<Topic>().is_err());
    }

    #[test]
    fn causes_and_fields() {
        assert!(
            matches!("reset-by-peer".parse(), Ok(Topic::Cause(cause)) if cause.name == "reset_by_peer")
        );
        for name in ["owner.pid", "owner_pid"] {
            let Ok(Topic::Field(fields)) = name.parse() else {
                panic!("{name}");
            };
            let records: Vec<_> = fields.iter().map(|field| field.record).collect();
            assert_eq!(records, ["transition", "connection", "socket"]);
        }
        let error = "nonsense".parse::<Topic>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`nonsense` is no TCP state, no cause, no finding and no field"
        );
    }
}
