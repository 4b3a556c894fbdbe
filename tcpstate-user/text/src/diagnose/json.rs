//! Findings as JSON.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;
use serde_json::{Value, json};
use tcpstate_core::{
    diagnosis::{Amount, Finding, NetnsFacts, Place},
    escape::Printable,
    owner::Comm,
};

use super::Change;
use crate::format::json::Lines;

/// A finding.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    severity: &'a str,
    /// With `--follow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
    mono_ns: u64,
    summary: &'a str,
    netns: Option<u32>,
    netns_name: Option<String>,
    role: &'a str,
    service_port: Option<u16>,
    peer: Option<String>,
    since_ns: Option<u64>,
    since_at_least_ns: Option<u64>,
    figures: BTreeMap<&'a str, FigureJson<'a>>,
    peers: Vec<PeerJson>,
    more_peers: usize,
    owners: Vec<OwnerJson>,
    is: &'a str,
    why: &'a str,
    advice: Vec<&'a str>,
    settings: BTreeMap<String, Option<&'a str>>,
    commands: Vec<String>,
    told_from: &'a [&'a str],
    /// The findings that explain this one.
    see: Vec<SeeJson<'a>>,
}

#[derive(Serialize)]
struct FigureJson<'a> {
    value: Value,
    evidence: &'a str,
}

#[derive(Serialize)]
struct PeerJson {
    addr: String,
    count: u64,
}

#[derive(Serialize)]
struct OwnerJson {
    pid: u32,
    comm: String,
    count: u64,
}

/// Another finding: these are its fields of the same names.
#[derive(Serialize)]
struct SeeJson<'a> {
    name: &'a str,
    netns: Option<u32>,
    role: &'a str,
    service_port: Option<u16>,
    peer: Option<String>,
}

/// Writes a finding.
pub(super) fn write(
    finding: &Finding,
    change: Option<Change>,
    now_ns: u64,
    facts: &[NetnsFacts],
    lines: &mut Lines,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (text, place) = (finding.text, finding.place);
    let here = facts.iter().find(|facts| Some(facts.netns) == place.netns);
    let since = |is_exact| {
        let since = finding.since.filter(|since| since.is_exact == is_exact);
        since.map(|since| since.at_least_ns)
    };
    let line = Line {
        kind: "finding",
        name: text.name,
        severity: finding.severity.name(),
        change,
        mono_ns: now_ns,
        summary: &finding.summary,
        netns: place.netns.filter(|&netns| netns != 0),
        netns_name: here.map(|facts| Printable(facts.name.as_bytes()).to_string()),
        role: place.role.name(),
        service_port: place.port,
        peer: place.peer.map(|peer| peer.to_string()),
        since_ns: since(true),
        since_at_least_ns: since(false),
        figures: finding
            .figures
            .iter()
            .map(|figure| {
                let json = FigureJson {
                    value: value(figure.amount),
                    evidence: figure.evidence.name(),
                };
                (figure.name, json)
            })
            .collect(),
        peers: finding
            .peers
            .iter()
            .map(|(peer, count)| PeerJson {
                addr: peer.to_string(),
                count: *count,
            })
            .collect(),
        more_peers: finding.more_peers,
        owners: finding
            .owners
            .iter()
            .map(|(process, count)| OwnerJson {
                pid: process.pid,
                comm: Printable(Comm(process.comm).as_bytes()).to_string(),
                count: *count,
            })
            .collect(),
        is: text.is,
        why: text.why,
        advice: finding
            .here
            .iter()
            .map(String::as_str)
            .chain(text.advice.iter().copied())
            .collect(),
        settings: text
            .settings
            .iter()
            .map(|setting| (setting.name(), setting_here(place, facts, setting.path)))
            .collect(),
        commands: text
            .commands
            .iter()
            .map(|command| finding.command(command, here.map(|facts| facts.name.as_str())))
            .collect(),
        told_from: text.told_from,
        see: finding
            .see
            .iter()
            .map(|&(name, place)| SeeJson {
                name,
                netns: place.netns.filter(|&netns| netns != 0),
                role: place.role.name(),
                service_port: place.port,
                peer: place.peer.map(|peer| peer.to_string()),
            })
            .collect(),
    };
    lines.write(&line, out)
}

/// The value of a setting at a place; of one on the whole host, that of the first namespace that has it.
pub(super) fn setting_here<'a>(
    place: Place,
    facts: &'a [NetnsFacts],
    path: &str,
) -> Option<&'a str> {
    let is_here = |facts: &&NetnsFacts| place.netns.is_none_or(|netns| facts.netns == netns);
    let mut here = facts.iter().filter(is_here);
    here.find_map(|facts| facts.settings.text(path))
}

fn value(amount: Amount) -> Value {
    match amount {
        Amount::Count(value) | Amount::Time(value) | Amount::TimeAtLeast(value) => json!(value),
        Amount::PerSecond(value) | Amount::Share(value) => json!(value),
    }
}
