//! Findings, and explanations.

use ratatui::text::Line;
use tcpstate_common::State;
use tcpstate_core::{
    diagnosis::{Finding, Place, RULES},
    escape::Printable,
    explain::{self, Topic},
    owner::Comm,
    service::Role,
    units::{Count, Span as Time},
};
use tcpstate_text::explain::{Here, write_text};

use crate::{frame::labelled, look::Look, row::Item};

/// A finding in a sentence: its kind, with the number of all of that kind if there are others, whose it is, where it is,
/// and what it is.
pub(crate) fn sentence(finding: &Finding, of_kind: usize) -> String {
    let name = match of_kind {
        0 | 1 => finding.text.name.to_owned(),
        _ => format!("{} ({})", finding.text.name, Count(of_kind as u64)),
    };
    let owners = owners(finding);
    let owners = if owners.is_empty() {
        owners
    } else {
        format!("{owners}, ")
    };
    format!(
        "{name}: {owners}{}: {}",
        place(finding.place),
        finding.summary
    )
}

fn owners(finding: &Finding) -> String {
    let named = finding.owners.iter().map(|(process, _)| {
        let comm = Comm(process.comm);
        format!("{} {}", Printable(comm.as_bytes()), process.pid)
    });
    named.collect::<Vec<_>>().join(", ")
}

/// A place in words.
fn place(place: Place) -> String {
    let role = place.role.name();
    match (place.role, place.port) {
        (Role::Unknown, Some(port)) => format!("port {port}"),
        (_, Some(port)) => format!("{role} port {port}"),
        (Role::Unknown, None) => place
            .netns
            .map_or_else(|| "this host".to_owned(), |netns| format!("netns {netns}")),
        (_, None) => format!("{role}s"),
    }
}

/// The findings that an item stands for.
pub(crate) fn of_item(item: Item, findings: &[Finding]) -> Vec<&Finding> {
    let is_of_it = |finding: &&Finding| {
        let (name, place) = finding.identity();
        match item {
            Item::Findings(wanted) => name == wanted,
            item => item == Item::Finding(name, place),
        }
    };
    findings.iter().filter(is_of_it).collect()
}

/// All that is known about the findings of an item.
pub(crate) fn lines(look: &Look, item: Item, width: usize) -> Vec<Line<'static>> {
    let snapshot = look.shown().snapshot.as_ref();
    let findings = snapshot.and_then(|snapshot| snapshot.findings.as_deref());
    let mut lines = Vec::new();
    for finding in of_item(item, findings.unwrap_or_default()) {
        if !lines.is_empty() {
            lines.push(Line::raw(""));
        }
        lines.extend(lines_of(look, finding, width));
    }
    if lines.is_empty() {
        lines.push(Line::raw("It is no longer found."));
    }
    lines
}

fn lines_of(look: &Look, finding: &Finding, width: usize) -> Vec<Line<'static>> {
    let theme = look.options.theme;
    let heading = format!("{}: {}", finding.severity.name(), finding.text.title);
    let mut lines = vec![Line::styled(heading, theme.severity(finding.severity))];
    let mut entry = |label: &str, text: &str| lines.extend(labelled(label, text, width));
    entry("", &finding.summary);
    let mut at = place(finding.place);
    if let Some(netns) = finding.place.netns.filter(|_| !at.starts_with("netns")) {
        at = format!("{at}, netns {netns}");
    }
    entry("Where", &at);
    let with_count = |name: String, count: u64| format!("{name} ({})", Count(count));
    if !finding.peers.is_empty() {
        let peers = finding.peers.iter();
        let mut peers: Vec<_> = peers
            .map(|(peer, count)| with_count(peer.to_string(), *count))
            .collect();
        if finding.more_peers > 0 {
            peers.push(format!("and {} more", Count(finding.more_peers as u64)));
        }
        entry("Peers", &peers.join(", "));
    }
    if !finding.owners.is_empty() {
        let owners = finding.owners.iter().map(|(process, count)| {
            let comm = Comm(process.comm);
            let name = format!("{} {}", Printable(comm.as_bytes()), process.pid);
            with_count(name, *count)
        });
        entry("Whose", &owners.collect::<Vec<_>>().join(", "));
    }
    if let Some(since) = finding.since {
        let bound = if since.is_exact { "" } else { "more than " };
        entry("Since", &format!("{bound}{}", Time(since.at_least_ns)));
    }
    entry("Matters", finding.text.why);
    let mut label = "Do";
    let here = finding.here.iter().map(String::as_str);
    for line in here.chain(finding.text.advice.iter().copied()) {
        entry(label, line);
        label = "";
    }
    let mut label = "See";
    for command in finding.text.commands {
        entry(label, &finding.command(command, None));
        label = "";
    }
    lines
}

/// The explanation of a state.
pub(crate) fn explain_state(state: State, width: usize) -> Vec<Line<'static>> {
    match explain::of(state) {
        Some(text) => written(&Topic::State(text), width),
        None => vec![Line::raw("Nothing is known about this state.")],
    }
}

/// The explanation of the findings of this name.
pub(crate) fn explain(name: &str, width: usize) -> Vec<Line<'static>> {
    match RULES.iter().find(|rule| rule.text.name == name) {
        Some(rule) => written(&Topic::Finding(&rule.text), width),
        None => Vec::new(),
    }
}

fn written(topic: &Topic, width: usize) -> Vec<Line<'static>> {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = write_text(topic, &Here::default(), width, false, &mut text);
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .map(|line| Line::raw(line.to_owned()))
        .collect()
}
