//! Findings for people, in 80 columns.

use std::io::{self, Write};

use tcpstate_core::{
    diagnosis::{Evidence, Finding, Input, NetnsFacts, Place, Rule, Severity},
    escape::Printable,
    outlet::{BOLD, OFF, RED, YELLOW},
    service::Role,
};

use super::json::setting_here;
use crate::{
    format::{
        text::write_wrapped,
        units::{Count, Span},
    },
    settings::Settings,
};

/// The column at which texts begin.
const INDENT: usize = 10;
/// The widest text that is read with ease.
const WIDTH: usize = 80;

/// Writes a finding in a line.
pub(super) fn write_line(
    finding: &Finding,
    facts: &[NetnsFacts],
    out: &mut dyn Write,
) -> io::Result<()> {
    write!(
        out,
        "{:8} {}: {}: {}",
        finding.severity.name(),
        finding.text.name,
        place(finding.place, facts),
        finding.summary
    )?;
    match reasons(finding, facts) {
        Some(reasons) => writeln!(out, "; because of {reasons}"),
        None => writeln!(out),
    }
}

/// Writes a finding: with all that is known about its kind, or only what is so here.
pub(super) fn write(
    finding: &Finding,
    in_full: bool,
    facts: &[NetnsFacts],
    settings: &Settings,
    out: &mut dyn Write,
) -> io::Result<()> {
    let width = settings.width.map_or(WIDTH, |width| width.clamp(40, WIDTH));
    let text = finding.text;
    let (on, bold, off) = match (settings.colour, finding.severity) {
        (false, _) => ("", "", ""),
        (true, Severity::Critical) => (RED, BOLD, OFF),
        (true, Severity::Warning) => (YELLOW, BOLD, OFF),
        (true, Severity::Note) => ("", BOLD, OFF),
    };
    let severity = finding.severity.name().to_uppercase();
    writeln!(
        out,
        "{on}{severity}{off} {bold}{}{off}: {}",
        text.name, text.title
    )?;
    let netns = finding.place.netns;
    let here = facts.iter().find(|facts| Some(facts.netns) == netns);
    let netns_name = here.map(|facts| facts.name.as_str());
    let mut page = Page { width, out };
    page.entry("", &finding.summary)?;
    page.entry("Where", &place(finding.place, facts))?;
    if !finding.peers.is_empty() {
        page.entry("Peers", &peers(finding))?;
    }
    if !finding.owners.is_empty() {
        page.entry("Whose", &owners(finding))?;
    }
    if let Some(since) = finding.since {
        let bound = if since.is_exact { "" } else { "more than " };
        page.entry("Since", &format!("{bound}{}", Span(since.at_least_ns)))?;
    }
    page.reasons(finding, facts)?;
    if !in_full {
        let mut label = "Do";
        for line in &finding.here {
            page.entry(label, line)?;
            label = "";
        }
        let see = finding.text.commands.first();
        let see = see.map(|command| finding.command(command, netns_name));
        let explain = format!("tcpstate explain {}", text.name);
        let mut label = "See";
        for line in see.into_iter().chain([explain]) {
            writeln!(page.out, "{label:INDENT$}{line}")?;
            label = "";
        }
        return Ok(());
    }
    page.entry("Meaning", text.is)?;
    page.entry("Matters", text.why)?;
    let mut label = "Do";
    for line in finding
        .here
        .iter()
        .map(String::as_str)
        .chain(text.advice.iter().copied())
    {
        page.entry(label, line)?;
        label = "";
    }
    let mut label = "Settings";
    for setting in text.settings {
        let value = setting_here(finding.place, facts, setting.path).unwrap_or("not known here");
        page.entry(
            label,
            &format!("{} = {value}: {}", setting.name(), setting.effect),
        )?;
        label = "";
    }
    if !text.settings.is_empty() {
        let set = finding.command("sysctl -w NAME=VALUE", netns_name);
        writeln!(page.out, "{:INDENT$}to set one: {set}", "")?;
    }
    let mut label = "See";
    for command in text.commands {
        let command = finding.command(command, netns_name);
        writeln!(page.out, "{label:INDENT$}{command}")?;
        label = "";
    }
    let mut label = "Not";
    for other in text.told_from {
        page.entry(label, other)?;
        label = "";
    }
    page.entry("Known by", &known(finding))
}

/// Writes what was not found, and what could not be looked for.
pub(super) fn write_absent(
    not_found: &[&Rule],
    unchecked: &[(&'static Rule, Input)],
    settings: &Settings,
    out: &mut dyn Write,
) -> io::Result<()> {
    let width = settings.width.map_or(WIDTH, |width| width.clamp(40, WIDTH));
    for rule in not_found {
        write!(out, "{:10} ", "not found")?;
        let text = format!("{}: {}", rule.text.name, rule.text.title);
        write_wrapped(out, width, 11, "", &text)?;
    }
    for (rule, input) in unchecked {
        write!(out, "{:10} ", "unchecked")?;
        let text = format!("{}: {}", rule.text.name, input.missing());
        write_wrapped(out, width, 11, "", &text)?;
    }
    Ok(())
}

/// A place in words.
fn place(place: Place, facts: &[NetnsFacts]) -> String {
    let mut parts = Vec::new();
    match (place.role, place.port) {
        (Role::Unknown, Some(port)) => parts.push(format!("port {port}")),
        (role, Some(port)) => parts.push(format!("{} port {port}", role.name())),
        (Role::Unknown, None) => {}
        (role, None) => parts.push(format!("{}s", role.name())),
    }
    parts.extend(place.peer.map(|peer| format!("peer {peer}")));
    if let Some(netns) = place.netns.filter(|&netns| netns != 0) {
        let name = facts.iter().find(|facts| facts.netns == netns);
        let name = name.map_or_else(String::new, |facts| {
            format!(" ({})", Printable(facts.name.as_bytes()))
        });
        parts.push(format!("netns {netns}{name}"));
    }
    if parts.is_empty() {
        return "this host".to_owned();
    }
    parts.join(", ")
}

/// The findings that explain this one: their names, and their places where these differ.
fn reasons(finding: &Finding, facts: &[NetnsFacts]) -> Option<String> {
    let see = finding.see.iter().map(|&(name, at)| {
        if at == finding.place {
            name.to_owned()
        } else {
            format!("{name} ({})", place(at, facts))
        }
    });
    let see: Vec<_> = see.collect();
    (!see.is_empty()).then(|| see.join(", "))
}

fn peers(finding: &Finding) -> String {
    let named = finding.peers.iter();
    let mut named: Vec<_> = named
        .map(|(peer, count)| format!("{peer} ({})", Count(*count)))
        .collect();
    if finding.more_peers > 0 {
        named.push(format!("and {} more", Count(finding.more_peers as u64)));
    }
    named.join(", ")
}

fn owners(finding: &Finding) -> String {
    let named = finding.owners.iter().map(|(process, count)| {
        let comm = tcpstate_core::owner::Comm(process.comm);
        format!(
            "{} {} ({})",
            Printable(comm.as_bytes()),
            process.pid,
            Count(*count)
        )
    });
    named.collect::<Vec<_>>().join(", ")
}

/// The evidence for the finding: its signal, and the evidence of its figures.
fn known(finding: &Finding) -> String {
    let words = [
        (Evidence::Seen, "events"),
        (Evidence::Counted, "the kernel's counters"),
        (Evidence::Sampled, "the kernel's list of sockets"),
        (Evidence::Inferred, "inference"),
    ];
    let used = words.into_iter().filter(|(evidence, _)| {
        finding
            .figures
            .iter()
            .any(|figure| figure.evidence == *evidence)
    });
    let used: Vec<_> = used.map(|(_, words)| words).collect();
    format!("{} From {}.", finding.text.signal, used.join(", "))
}

struct Page<'a> {
    width: usize,
    out: &'a mut dyn Write,
}

impl Page<'_> {
    fn entry(&mut self, label: &str, text: &str) -> io::Result<()> {
        write!(self.out, "{label:INDENT$}")?;
        // The texts are Markdown.
        write_wrapped(self.out, self.width, INDENT, "", &text.replace('`', ""))
    }

    /// The findings that explain this one.
    fn reasons(&mut self, finding: &Finding, facts: &[NetnsFacts]) -> io::Result<()> {
        match reasons(finding, facts) {
            Some(reasons) => self.entry("Because", &format!("of {reasons}: read that first.")),
            None => Ok(()),
        }
    }
}
