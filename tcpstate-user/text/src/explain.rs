//! `tcpstate explain`: what a state, a cause or a field is, and the state diagram.
//!
//! The knowledge is in [`tcpstate_core::explain`]; the values of the settings and the sockets come from the caller.

mod diagram;
mod edges;
mod json;

use std::io::{self, Write};

use tcpstate_core::{
    cause::Explained,
    diagnosis::{FindingText, LINKS, RULES},
    escape::Printable,
    explain::{FieldText, Present, Setting, StateText, Topic},
    outlet::{BOLD, OFF},
};

pub use self::{
    diagram::{Counts, Part, Place, Row, diagram, write_diagram, write_notes},
    edges::{Edges, edge_of},
    json::{write_diagram_json, write_json},
};
use crate::format::{
    text::write_wrapped,
    units::{Count, Counted, Span},
};

/// The values of a setting.
#[derive(Clone, Debug)]
pub struct Value {
    /// The setting.
    pub setting: Setting,
    /// In this network namespace; `None`: this kernel does not have it, or it may not be read.
    pub own: Option<String>,
    /// In others, by their names, where it is another one.
    pub elsewhere: Vec<(String, String)>,
}

/// The facts about a topic here and now.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// The values of the settings.
    pub values: Vec<Value>,
    /// The sockets in the state; `None`: they could not be listed.
    pub present: Option<Present>,
}

/// The column at which texts begin.
const INDENT: usize = 10;

/// Writes a text for people, in lines of at most `width` columns. `colour`: with bold names.
pub fn write_text(
    topic: &Topic,
    here: &Here,
    width: usize,
    colour: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut page = Page { width, colour, out };
    match topic {
        Topic::State(text) => page.state(text, here),
        Topic::Cause(cause) => page.cause(cause),
        Topic::Finding(text) => page.finding(text, here),
        Topic::Field(fields) => page.fields(fields),
    }
}

struct Page<'a> {
    width: usize,
    colour: bool,
    out: &'a mut dyn Write,
}

impl Page<'_> {
    fn state(&mut self, text: &StateText, here: &Here) -> io::Result<()> {
        self.title(&text.state.to_string())?;
        self.entry("", text.is)?;
        self.entry("Side", text.side)?;
        for (label, ways) in [("From", text.from), ("To", text.to)] {
            let mut label = label;
            for way in ways {
                self.entry(label, &format!("{}: {}", way.state, way.by))?;
                label = "";
            }
        }
        self.entry("Lasts", text.lasts)?;
        if let Some(present) = &here.present {
            self.entry("Now", &sentence(present))?;
        }
        self.settings(here)?;
        self.entry("Many", text.many)?;
        let mut label = "Not so";
        for lore in text.lore {
            self.entry(label, &format!("\"{}\": {}", lore.said, lore.truth))?;
            label = "";
        }
        let mut label = "Findings";
        for rule in RULES
            .iter()
            .filter(|rule| rule.text.states.contains(&text.state))
        {
            self.entry(label, &format!("{}: {}", rule.text.name, rule.text.title))?;
            label = "";
        }
        self.lines("See", text.commands)?;
        self.entry("Sources", &text.sources.join("; "))
    }

    fn finding(&mut self, text: &FindingText, here: &Here) -> io::Result<()> {
        self.title(&format!("{}: {}", text.name, text.title))?;
        self.entry("", text.is)?;
        self.entry("Matters", text.why)?;
        self.entry("Known by", text.signal)?;
        self.list("Do", text.advice)?;
        self.settings(here)?;
        self.list("Not", text.told_from)?;
        let mut label = "Because";
        for link in LINKS.iter().filter(|link| link.finding == text.name) {
            let because = format!("of {}, where {}", link.because_of, link.condition);
            self.entry(label, &because)?;
            label = "";
        }
        let commands = text.commands.iter();
        let commands: Vec<_> = commands.map(|command| text.command(command)).collect();
        let commands: Vec<_> = commands.iter().map(String::as_str).collect();
        self.lines("See", &commands)?;
        self.entry("Sources", &text.sources.join("; "))
    }

    fn list(&mut self, label: &str, texts: &[&str]) -> io::Result<()> {
        let mut label = label;
        for text in texts {
            self.entry(label, text)?;
            label = "";
        }
        Ok(())
    }

    fn settings(&mut self, here: &Here) -> io::Result<()> {
        let mut label = "Settings";
        for value in &here.values {
            self.entry(label, &value_text(value))?;
            write!(self.out, "{:1$}", "", INDENT + 2)?;
            write_wrapped(self.out, self.width, INDENT + 2, "", value.setting.effect)?;
            label = "";
        }
        Ok(())
    }

    fn cause(&mut self, cause: &Explained) -> io::Result<()> {
        self.title(cause.name)?;
        self.entry("", cause.what)?;
        self.entry("Known by", cause.known)?;
        self.entry("Since", &format!("Linux {}", cause.since))?;
        let see = format!("tcpstate life --cause {}", cause.name);
        self.lines("See", &[&see])
    }

    fn fields(&mut self, fields: &[FieldText]) -> io::Result<()> {
        for (at, field) in fields.iter().enumerate() {
            // Most records that have a field have the same one.
            let same = |other: &FieldText| (other.doc, other.kind) == (field.doc, field.kind);
            if fields.iter().take(at).any(same) {
                continue;
            }
            let records = fields.iter().filter(|other| same(other));
            let records: Vec<_> = records.map(|field| field.record).collect();
            self.title(field.name)?;
            self.entry("", field.doc)?;
            self.entry("Type", &field.kind.to_string())?;
            if !field.unknown.is_empty() {
                self.entry("Unknown", &format!("when {}", field.unknown))?;
            }
            self.entry("In", &records.join(", "))?;
        }
        Ok(())
    }

    fn title(&mut self, name: &str) -> io::Result<()> {
        if self.colour {
            writeln!(self.out, "{BOLD}{name}{OFF}")
        } else {
            writeln!(self.out, "{name}")
        }
    }

    fn entry(&mut self, label: &str, text: &str) -> io::Result<()> {
        write!(self.out, "{label:INDENT$}")?;
        // The tables are Markdown.
        write_wrapped(self.out, self.width, INDENT, "", &text.replace('`', ""))
    }

    /// Lines that are to be copied.
    fn lines(&mut self, label: &str, lines: &[&str]) -> io::Result<()> {
        let mut label = label;
        for line in lines {
            writeln!(self.out, "{label:INDENT$}{line}")?;
            label = "";
        }
        Ok(())
    }
}

fn value_text(value: &Value) -> String {
    let own = value.own.as_deref().unwrap_or("not known here");
    let own = format!("{} = {own}", value.setting.name());
    let others = value.elsewhere.iter();
    let others = others.map(|(name, other)| format!("{other} in {name}"));
    std::iter::once(own)
        .chain(others)
        .collect::<Vec<_>>()
        .join("; ")
}

/// The sockets in a state, in a sentence.
fn sentence(present: &Present) -> String {
    let more = if present.is_partial {
        "; those of other network namespaces take root"
    } else {
        ""
    };
    let count = match present.count {
        0 => return format!("no socket{more}"),
        count => Counted(count, "socket"),
    };
    let age = present.oldest.map(|age| {
        let which = if present.count == 1 {
            "in it"
        } else {
            "the oldest"
        };
        let bound = if age.is_exact { "" } else { " more than" };
        format!(", {which} for{bound} {}", Span(age.at_least_ns))
    });
    let services = present.services.iter();
    let services: Vec<_> = services
        .map(|&(port, count)| format!("{port} ({})", Count(count)))
        .collect();
    let owners = present.owners.iter();
    let owners: Vec<_> = owners
        .map(|(comm, count)| format!("{} ({})", Printable(comm.as_bytes()), Count(*count)))
        .collect();
    let groups = [("service ports", services), ("processes", owners)]
        .into_iter()
        .filter(|(_, groups)| !groups.is_empty())
        .map(|(name, groups)| format!("; {name} {}", groups.join(", ")));
    let groups: String = groups.collect();
    format!("{count}{}{groups}{more}", age.unwrap_or_default())
}

#[cfg(test)]
mod tests;
