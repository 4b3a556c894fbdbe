//! A YAML document as a tree whose parts know their lines: pure.
//!
//! It has what configuration files have: mappings, lists and scalars. Aliases and tags are refused, so that a short file makes no
//! long tree.

use std::collections::BTreeSet;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// The most mappings and lists in one another.
const DEEPEST: usize = 8;

/// A mistake in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The line; the first one is 1.
    pub(super) line: usize,
    /// The mistake.
    pub(super) why: String,
}

impl Mistake {
    pub(super) fn new(line: usize, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { line, why }
    }
}

/// A part of a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The line in which it begins.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// Nothing, or what says so: `~` or `null`.
    Null,
    List(Vec<Node>),
    /// Keys with their lines, in the order of the file; none is there twice.
    Map(Vec<Entry>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) node: Node,
}

/// A mapping or list that has not ended.
enum Open {
    List {
        line: usize,
        items: Vec<Node>,
    },
    Map {
        line: usize,
        entries: Vec<Entry>,
        /// The key whose value comes next, with its line.
        key: Option<(usize, String)>,
    },
}

/// Reads a document.
///
/// *Errors:* it is no YAML, there is more than one document, or a part has no place in a configuration file.
pub(super) fn parse(text: &str) -> Result<Node, Mistake> {
    let mut open: Vec<Open> = Vec::new();
    let mut document = None;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| Mistake::new(error.marker().line(), error.info()))?;
        let line = span.start.line();
        let mistake = |why: &str| Err(Mistake::new(line, why));
        let node = match event {
            Event::DocumentStart(_) if document.is_some() => {
                return mistake("only one document is supported");
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => continue,
            Event::Alias(_) => return mistake("aliases are not supported"),
            Event::Scalar(.., Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => return mistake("tags are not supported"),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= DEEPEST => {
                return mistake("lists or mappings are nested too deeply");
            }
            Event::SequenceStart(..) => {
                open.push(Open::List {
                    line,
                    items: Vec::new(),
                });
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map {
                    line,
                    entries: Vec::new(),
                    key: None,
                });
                continue;
            }
            Event::Scalar(text, style, ..) => Node {
                line,
                value: scalar(&text, style),
            },
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List { line, items }) => Node {
                    line,
                    value: Value::List(items),
                },
                Some(Open::Map { line, entries, .. }) => Node {
                    line,
                    value: map(entries)?,
                },
                None => return mistake("nothing ends here"),
            },
        };
        match open.last_mut() {
            None => document = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some((line, key)) => entries.push(Entry { line, key, node }),
                None => match node.value {
                    Value::Text(text) => *key = Some((line, text)),
                    _ => return mistake("a key must be a string"),
                },
            },
        }
    }
    // An empty file has no document.
    Ok(document.unwrap_or(Node {
        line: 1,
        value: Value::Null,
    }))
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match text {
        // *Source:* YAML 1.2.2, section 10.3.2.
        "" | "~" | "null" | "Null" | "NULL" if style == ScalarStyle::Plain => Value::Null,
        text => Value::Text(text.to_owned()),
    }
}

fn map(entries: Vec<Entry>) -> Result<Value, Mistake> {
    let mut seen = BTreeSet::new();
    let twice = entries.iter().find(|entry| !seen.insert(&entry.key));
    match twice {
        Some(entry) => Err(Mistake::new(
            entry.line,
            format!("duplicate key `{}`", entry.key),
        )),
        None => Ok(Value::Map(entries)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_know_their_lines() {
        let text = "# ours\na:\n  b: 'null'\n  c: [x, \"y\"]\n\nd:\n- |\n  one\n  two\ne: ~\n";
        let Value::Map(entries) = parse(text).unwrap().value else {
            panic!("a mapping");
        };
        let lines: Vec<_> = entries
            .iter()
            .map(|entry| (entry.line, &*entry.key))
            .collect();
        assert_eq!(lines, [(2, "a"), (6, "d"), (10, "e")]);
        assert_eq!(entries[2].node.value, Value::Null);
        let Value::Map(inner) = &entries[0].node.value else {
            panic!("a mapping");
        };
        assert_eq!(inner[0].node.value, Value::Text("null".to_owned()));
        assert_eq!((inner[1].line, inner[1].node.line), (4, 4));
        let Value::List(items) = &inner[1].node.value else {
            panic!("a list");
        };
        assert_eq!(items.len(), 2);
        let Value::List(items) = &entries[1].node.value else {
            panic!("a list");
        };
        assert_eq!(items[0].value, Value::Text("one\ntwo\n".to_owned()));
        for empty in ["", "# nothing\n", "---\n", "~"] {
            assert_eq!(parse(empty).unwrap().value, Value::Null, "{empty:?}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let deep = format!("a: {}{}", "[".repeat(99), "]".repeat(99));
        for (text, line, why) in [
            ("a: 1\nb: 2\na: 3\n", 3, "duplicate key `a`"),
            ("a: &x 1\nb: *x\n", 2, "aliases are not"),
            ("a: !!str 1\n", 1, "tags are not"),
            ("a: 1\n---\nb: 2\n", 2, "only one document is supported"),
            ("a: 1\n[x]: 2\n", 2, "a key must be a string"),
            (&deep, 1, "nested too deeply"),
            ("a: [1\nb: 2\n", 2, ""),
            ("a: 'x\n", 1, ""),
        ] {
            let mistake = parse(text).unwrap_err();
            assert!(mistake.why.contains(why), "{text:?}: {mistake:?}");
            assert!(!mistake.why.is_empty(), "{text:?}");
            // The end of an unfinished text may be where it is noticed.
            assert!(
                mistake.line == line || why.is_empty() && mistake.line >= line,
                "{text:?}: {mistake:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_document_or_a_mistake(text in "[a-c:\\[\\]{}&*!'\"|> \n\t,#~-]{0,80}") {
            if let Err(mistake) = parse(&text) {
                assert!(mistake.line <= text.lines().count() + 1, "{text:?}: {mistake:?}");
            }
        }
    }
}
