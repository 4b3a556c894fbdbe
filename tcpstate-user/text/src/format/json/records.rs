//! Records as JSON, from the columns of the catalogue.

use std::io::{self, Write};

use tcpstate_core::{
    catalogue::{Column, Formats, Table, Value},
    service::ServicePort,
};

use super::{
    nested,
    write::{push_name, push_word},
};
use crate::format::{
    time::Utc,
    units::PerSecond,
    value::{OTHER, push_address, push_control_bits, push_number},
};

/// Writes the records of one kind.
pub struct Records<R: 'static> {
    begin: String,
    steps: Vec<Step<R>>,
    values: Values,
    // Kept, so that a line costs no allocation; whole, so that no half line is left in the output.
    line: Vec<u8>,
}

/// A part of a record.
enum Step<R: 'static> {
    Field(Field<R>),
    /// An object of its own.
    Object {
        key: String,
        fields: Vec<Field<R>>,
    },
}

struct Field<R: 'static> {
    /// The name with all that stands between the value before and this one.
    key: String,
    get: for<'a> fn(&'a R) -> Value<'a>,
}

impl<R> Records<R> {
    /// Writes lines, which begin with the kind.
    pub fn lines(table: &Table<R>) -> Self {
        Self::new(format!("{{\"type\":\"{}\"", table.name), table, ",")
    }

    /// Writes elements of a list, which do not.
    pub fn elements(table: &Table<R>) -> Self {
        Self::new("{".to_owned(), table, "")
    }

    fn new(begin: String, table: &Table<R>, mut comma: &'static str) -> Self {
        let mut steps: Vec<Step<R>> = Vec::new();
        let mut object = None;
        let columns = table.columns();
        for &Column { name, get, .. } in columns.filter(|one| one.formats != Formats::Csv) {
            match (name.split_once('.'), steps.last_mut()) {
                (None, _) => {
                    object = None;
                    steps.push(Step::Field(Field {
                        key: format!("{comma}\"{name}\":"),
                        get,
                    }));
                }
                (Some((of, name)), Some(Step::Object { fields, .. })) if object == Some(of) => {
                    fields.push(Field {
                        key: format!(",\"{name}\":"),
                        get,
                    });
                }
                (Some((of, name)), _) => {
                    object = Some(of);
                    steps.push(Step::Object {
                        key: format!("{comma}\"{of}\":"),
                        fields: vec![Field {
                            key: format!("{{\"{name}\":"),
                            get,
                        }],
                    });
                }
            }
            comma = ",";
        }
        Self {
            begin,
            steps,
            values: Values::default(),
            line: Vec::new(),
        }
    }

    /// Writes a line.
    pub fn write(&mut self, row: &R, out: &mut dyn Write) -> io::Result<()> {
        self.write_with(row, |_| Ok(()), out)
    }

    /// Writes a line to whose end `more` appends fields, each with a comma before it.
    pub fn write_with(
        &mut self,
        row: &R,
        more: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        self.push_open(row, &mut line)?;
        more(&mut line)?;
        line.extend_from_slice(b"}\n");
        let written = out.write_all(&line);
        self.line = line;
        written
    }

    /// Appends an object.
    pub fn push(&mut self, row: &R, line: &mut Vec<u8>) -> io::Result<()> {
        self.push_open(row, line)?;
        line.push(b'}');
        Ok(())
    }

    /// Appends an object without its end.
    fn push_open(&mut self, row: &R, line: &mut Vec<u8>) -> io::Result<()> {
        line.extend_from_slice(self.begin.as_bytes());
        for step in &self.steps {
            match step {
                Step::Field(Field { key, get }) => {
                    line.extend_from_slice(key.as_bytes());
                    self.values.push(get(row), line)?;
                }
                Step::Object { key, fields } => {
                    line.extend_from_slice(key.as_bytes());
                    let start = line.len();
                    for Field { key, get } in fields {
                        let value = get(row);
                        line.extend_from_slice(key.as_bytes());
                        if value == Value::Absent {
                            line.truncate(start);
                            break;
                        }
                        self.values.push(value, line)?;
                    }
                    let end: &[u8] = if line.len() == start { b"null" } else { b"}" };
                    line.extend_from_slice(end);
                }
            }
        }
        Ok(())
    }
}

/// Writes values.
#[derive(Debug, Default)]
struct Values {
    utc: Utc,
}

impl Values {
    fn push(&mut self, value: Value<'_>, line: &mut Vec<u8>) -> io::Result<()> {
        match value {
            Value::Unknown | Value::Absent | Value::ServicePort(ServicePort::Unknown) => {
                line.extend_from_slice(b"null");
            }
            Value::Number(number) => push_number(line, number),
            Value::Bool(true) => line.extend_from_slice(b"true"),
            Value::Bool(false) => line.extend_from_slice(b"false"),
            Value::Word(word) => push_word(line, word),
            Value::Name(name) => push_name(line, name)?,
            Value::Time(wall_ns) => {
                line.push(b'"');
                self.utc.push(wall_ns, line);
                line.push(b'"');
            }
            Value::Address(address) => {
                line.push(b'"');
                push_address(line, address);
                line.push(b'"');
            }
            Value::Prefix(prefix) => write!(line, "\"{prefix}\"")?,
            Value::ControlBits(bits) => {
                line.push(b'"');
                push_control_bits(line, bits);
                line.push(b'"');
            }
            Value::State(state) => nested::push_state(line, state),
            Value::Cause(cause) => push_word(line, &cause.name()),
            Value::ServicePort(ServicePort::Port(port)) => push_number(line, port.into()),
            Value::ServicePort(ServicePort::Other) => push_word(line, OTHER),
            Value::PerSecond { count, interval_ns } => {
                serde_json::to_writer(line, &PerSecond { count, interval_ns }.value())?;
            }
            Value::Share(share) => serde_json::to_writer(line, &share)?,
            Value::Stays(stays) => nested::push_stays(line, stays)?,
            Value::SampledStays(stays) => {
                nested::push_stays(line, stays.iter().filter(|stay| stay.sampled))?;
            }
            Value::Transitions {
                counts,
                interval_ns,
            } => nested::push_transitions(line, counts, interval_ns)?,
            Value::States { now, sampled } => nested::push_states(line, now, sampled)?,
            Value::Causes(causes) => nested::push_causes(line, causes)?,
            Value::Dwell(dwell) => nested::push_dwell(line, dwell)?,
            Value::Buckets(histogram) => nested::push_buckets(line, histogram)?,
            Value::Notes(notes) => nested::push_notes(line, notes)?,
            Value::HalfOpen(places) => serde_json::to_writer(line, places)?,
            Value::Processes(processes) => nested::push_processes(line, processes)?,
        }
        Ok(())
    }
}
