//! Comma-separated values of RFC 4180, with `\n` at the end of a line.

use std::io::{self, Write};

use tcpstate_common::State;
use tcpstate_core::{
    catalogue::{Column, Formats, Table, Value},
    escape::Cell,
    service::ServicePort,
};

use super::{
    time::Utc,
    units::PerSecond,
    value::{OTHER, push_address, push_control_bits, push_number, push_state},
};

/// Writes the records of one kind.
pub struct Records<R: 'static> {
    columns: Vec<&'static Column<R>>,
    utc: Utc,
    // Kept, so that a row costs no allocation unless a name has unusual characters; whole, so that no half
    // row is left in the output.
    line: Vec<u8>,
}

impl<R> Records<R> {
    /// Writes rows with the columns of this table.
    pub fn new(table: &Table<R>) -> Self {
        Self {
            columns: table
                .columns()
                .filter(|column| column.formats != Formats::Json)
                .collect(),
            utc: Utc::default(),
            line: Vec::new(),
        }
    }

    /// Writes the titles.
    pub fn titles(&self, out: &mut dyn Write) -> io::Result<()> {
        let titles: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.name.replace('.', "_"))
            .collect();
        writeln!(out, "{}", titles.join(","))
    }

    /// Writes a row.
    pub fn write(&mut self, row: &R, out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                self.line.push(b',');
            }
            push(&mut self.line, &mut self.utc, (column.get)(row))?;
        }
        self.line.push(b'\n');
        out.write_all(&self.line)
    }
}

fn push(line: &mut Vec<u8>, utc: &mut Utc, value: Value<'_>) -> io::Result<()> {
    match value {
        Value::Unknown
        | Value::Absent
        | Value::ServicePort(ServicePort::Unknown)
        // Only JSON has columns of these: a cell has no room for a structure.
        | Value::Transitions { .. }
        | Value::States { .. }
        | Value::Causes(_)
        | Value::Dwell(_)
        | Value::Buckets(_)
        | Value::HalfOpen(_)
        | Value::Processes(_)
        | Value::Notes(_) => {}
        Value::Number(number) => push_number(line, number),
        Value::Bool(true) => line.extend_from_slice(b"true"),
        Value::Bool(false) => line.extend_from_slice(b"false"),
        Value::Word(word) => line.extend_from_slice(word.as_bytes()),
        Value::Name(name) => push_name(line, name)?,
        Value::Time(wall_ns) => utc.push(wall_ns, line),
        Value::ControlBits(bits) => push_control_bits(line, bits),
        Value::Address(address) => push_address(line, address),
        Value::Prefix(prefix) => write!(line, "{prefix}")?,
        Value::State(state) => push_state(line, state),
        Value::Cause(cause) => line.extend_from_slice(cause.name().as_bytes()),
        Value::ServicePort(ServicePort::Port(port)) => push_number(line, port.into()),
        Value::ServicePort(ServicePort::Other) => line.extend_from_slice(OTHER.as_bytes()),
        Value::PerSecond { count, interval_ns } => {
            if let Some(rate) = (PerSecond { count, interval_ns }).value() {
                write!(line, "{rate}")?;
            }
        }
        Value::Share(share) => write!(line, "{share}")?,
        Value::Stays(stays) => push_states(line, stays.iter().map(|stay| stay.state)),
        Value::SampledStays(stays) => {
            let sampled = stays.iter().filter(|stay| stay.sampled);
            push_states(line, sampled.map(|stay| stay.state));
        }
    }
    Ok(())
}

/// Appends names with spaces between them.
fn push_states(line: &mut Vec<u8>, states: impl Iterator<Item = State>) {
    for (index, state) in states.enumerate() {
        if index > 0 {
            line.push(b' ');
        }
        push_state(line, state);
    }
}

/// Appends text that others chose: printable, harmless to a spreadsheet, and quoted where necessary.
fn push_name(line: &mut Vec<u8>, name: &[u8]) -> io::Result<()> {
    // Nearly all names are of this kind.
    let is_plain = |&byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'.' | b':' | b'-')
    };
    if name.first().is_some_and(|&first| first != b'-') && name.iter().all(is_plain) {
        line.extend_from_slice(name);
        return Ok(());
    }
    let cell = Cell(name).to_string();
    // Some readers trim blanks that are not in quotes.
    let has_ends = cell.starts_with(' ') || cell.ends_with(' ');
    if has_ends || cell.contains([',', '"', '\n', '\r']) {
        write!(line, "\"{}\"", cell.replace('"', "\"\""))
    } else {
        line.extend_from_slice(cell.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_back_what_was_written() {
        let names = [
            "plain",
            "a,b",
            "say \"hi\"",
            "\"",
            "\"\",\"\"",
            "",
            "x-y/z",
            "sh ",
        ];
        let mut out = Vec::new();
        for name in names {
            push_name(&mut out, name.as_bytes()).unwrap();
            out.push(b',');
        }
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(out.as_slice());
        let record = reader.records().next().unwrap().unwrap();
        let read: Vec<&str> = record.iter().take(names.len()).collect();
        assert_eq!(read, names);
    }

    #[test]
    fn formulas_and_control_characters_are_harmless() {
        for (name, cell) in [
            ("-1", "'-1"),
            ("=1+1", "'=1+1"),
            ("a\nb", "a\\u{a}b"),
            ("sh ", "\"sh \""),
        ] {
            let mut out = Vec::new();
            push_name(&mut out, name.as_bytes()).unwrap();
            assert_eq!(out, cell.as_bytes());
        }
    }
}
