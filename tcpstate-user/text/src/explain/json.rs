//! The same as JSON, one object.

use std::io::{self, Write};

use serde::Serialize;
use tcpstate_core::{
    escape::Printable,
    explain::{FieldText, Lore, Present, Topic, Way},
};

use super::{Counts, Edges, Here, Value};
use crate::format::json::Lines;

/// Writes the explanation of a topic.
pub fn write_json(topic: &Topic, here: &Here, out: &mut dyn Write) -> io::Result<()> {
    let line = match topic {
        Topic::State(text) => Line::State(Box::new(StateJson {
            state: text.state.to_string(),
            is: text.is,
            side: text.side,
            from: text.from.iter().map(WayJson::new).collect(),
            to: text.to.iter().map(WayJson::new).collect(),
            lasts: text.lasts,
            settings: here.values.iter().map(SettingJson::new).collect(),
            many: text.many,
            lore: text.lore.iter().map(LoreJson::new).collect(),
            commands: text.commands,
            sources: text.sources,
            now: here.present.as_ref().map(PresentJson::new),
        })),
        Topic::Cause(cause) => Line::Cause {
            cause: cause.name,
            is: cause.what,
            known_by: cause.known,
            since: cause.since,
        },
        Topic::Finding(text) => Line::Finding(Box::new(FindingJson {
            finding: text.name,
            title: text.title,
            is: text.is,
            why: text.why,
            known_by: text.signal,
            advice: text.advice,
            settings: here.values.iter().map(SettingJson::new).collect(),
            told_from: text.told_from,
            commands: text
                .commands
                .iter()
                .map(|line| text.command(line))
                .collect(),
            sources: text.sources,
        })),
        Topic::Field(fields) => Line::Field {
            fields: fields.iter().map(FieldJson::new).collect(),
        },
    };
    Lines::default().write(&line, out)
}

/// Writes the numbers of the diagram.
pub fn write_diagram_json(
    counts: Option<&Counts>,
    edges: Option<&Edges>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let states = counts.map(|counts| {
        let states = counts.by_state.iter();
        states
            .map(|(state, count)| CountJson {
                state: state.to_string(),
                count: *count,
            })
            .collect()
    });
    let line = Line::States {
        states,
        orphans: counts.map(|counts| counts.orphans),
        partial: counts.map(|counts| counts.is_partial),
        edges: edges.map(|edges| {
            let rates = edges.rates();
            rates
                .map(|(from, to, rate)| EdgeJson {
                    from: from.to_string(),
                    to: to.to_string(),
                    rate,
                })
                .collect()
        }),
        broken_rate: edges.map(Edges::broken),
    };
    Lines::default().write(&line, out)
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    #[serde(rename = "explained_state")]
    State(Box<StateJson<'a>>),
    #[serde(rename = "explained_cause")]
    Cause {
        cause: &'a str,
        is: &'a str,
        known_by: &'a str,
        since: &'a str,
    },
    #[serde(rename = "explained_finding")]
    Finding(Box<FindingJson<'a>>),
    #[serde(rename = "explained_field")]
    Field { fields: Vec<FieldJson<'a>> },
    States {
        states: Option<Vec<CountJson>>,
        orphans: Option<u64>,
        partial: Option<bool>,
        edges: Option<Vec<EdgeJson>>,
        broken_rate: Option<u64>,
    },
}

#[derive(Serialize)]
struct StateJson<'a> {
    state: String,
    is: &'a str,
    side: &'a str,
    from: Vec<WayJson<'a>>,
    to: Vec<WayJson<'a>>,
    lasts: &'a str,
    settings: Vec<SettingJson<'a>>,
    many: &'a str,
    lore: Vec<LoreJson<'a>>,
    commands: &'a [&'a str],
    sources: &'a [&'a str],
    now: Option<PresentJson>,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    finding: &'a str,
    title: &'a str,
    is: &'a str,
    why: &'a str,
    known_by: &'a str,
    advice: &'a [&'a str],
    settings: Vec<SettingJson<'a>>,
    told_from: &'a [&'a str],
    commands: Vec<String>,
    sources: &'a [&'a str],
}

#[derive(Serialize)]
struct WayJson<'a> {
    state: String,
    by: &'a str,
}

impl WayJson<'static> {
    fn new(way: &Way) -> Self {
        Self {
            state: way.state.to_string(),
            by: way.by,
        }
    }
}

#[derive(Serialize)]
struct SettingJson<'a> {
    name: String,
    effect: &'a str,
    value: Option<&'a str>,
    elsewhere: Vec<ElsewhereJson<'a>>,
}

#[derive(Serialize)]
struct ElsewhereJson<'a> {
    netns: &'a str,
    value: &'a str,
}

impl<'a> SettingJson<'a> {
    fn new(value: &'a Value) -> Self {
        let elsewhere = value.elsewhere.iter();
        Self {
            name: value.setting.name(),
            effect: value.setting.effect,
            value: value.own.as_deref(),
            elsewhere: elsewhere
                .map(|(netns, value)| ElsewhereJson { netns, value })
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct LoreJson<'a> {
    said: &'a str,
    truth: &'a str,
}

impl LoreJson<'static> {
    fn new(lore: &Lore) -> Self {
        Self {
            said: lore.said,
            truth: lore.truth,
        }
    }
}

#[derive(Serialize)]
struct FieldJson<'a> {
    record: &'a str,
    name: &'a str,
    kind: String,
    doc: &'a str,
    unknown: &'a str,
}

impl FieldJson<'static> {
    fn new(field: &FieldText) -> Self {
        Self {
            record: field.record,
            name: field.name,
            kind: field.kind.to_string(),
            doc: field.doc,
            unknown: field.unknown,
        }
    }
}

#[derive(Serialize)]
struct PresentJson {
    count: u64,
    oldest_ns: Option<u64>,
    oldest_at_least_ns: Option<u64>,
    services: Vec<ServiceJson>,
    owners: Vec<OwnerJson>,
    partial: bool,
}

#[derive(Serialize)]
struct ServiceJson {
    port: u16,
    count: u64,
}

#[derive(Serialize)]
struct OwnerJson {
    comm: String,
    count: u64,
}

#[derive(Serialize)]
struct CountJson {
    state: String,
    count: u64,
}

#[derive(Serialize)]
struct EdgeJson {
    from: String,
    to: String,
    rate: u64,
}

impl PresentJson {
    fn new(present: &Present) -> Self {
        let age = |is_exact| {
            let oldest = present.oldest.filter(|age| age.is_exact == is_exact);
            oldest.map(|age| age.at_least_ns)
        };
        let services = present.services.iter();
        let owners = present.owners.iter();
        Self {
            count: present.count,
            partial: present.is_partial,
            oldest_ns: age(true),
            oldest_at_least_ns: age(false),
            services: services
                .map(|&(port, count)| ServiceJson { port, count })
                .collect(),
            owners: owners
                .map(|(comm, count)| OwnerJson {
                    comm: Printable(comm.as_bytes()).to_string(),
                    count: *count,
                })
                .collect(),
        }
    }
}
