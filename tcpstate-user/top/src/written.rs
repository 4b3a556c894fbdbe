//! The content of the screen as JSON: lines of the command that has the same, with the fields of the catalogue.

use std::io::{self, Write};

use jiff::Timestamp;
use tcpstate_core::{
    catalogue::{CONNECTION, ConnectionRow, Stamp},
    diagnosis::{Finding, RULES},
    explain::{self, Topic},
    model::{GroupKey, Interval, Of, Series},
    present::RunSnapshot,
};
use tcpstate_text::{
    diagnose,
    explain::{Here, write_diagram_json, write_json},
    format::json::{Lines, Records},
    hist,
    rates::Intervals,
};

use crate::{
    connections, finding,
    look::{Look, Page, Screen},
    machine,
    row::Content,
    services,
};

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name without an ending: the screen, and the time that it shows.
    pub stem: String,
    /// Lines of JSON.
    pub text: Vec<u8>,
}

/// The content of what is on top; `None` where that is only help, or there is nothing yet.
pub(crate) fn written(look: &Look) -> Option<Written> {
    let snapshot = look.shown().snapshot.as_deref()?;
    let name = match look.pages.last() {
        None => look.screen.name(),
        Some((Page::Help, _)) => return None,
        Some((Page::State(_) | Page::Explained(_), _)) => "explanation",
        Some((Page::Finding(_), _)) => "finding",
        Some((Page::Connection(..), _)) => "connection",
    };
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = write(look, snapshot, &mut text);
    Some(Written {
        stem: format!("tcpstate-{name}-{}", time(look, snapshot)?),
        text,
    })
}

/// The name of a recording of the last minutes.
pub(crate) fn stem_of_recording(look: &Look) -> Option<String> {
    let snapshot = look.latest().snapshot.as_deref()?;
    Some(format!("tcpstate-{}", time(look, snapshot)?))
}

/// The time of a snapshot, as a part of a name.
fn time(look: &Look, snapshot: &RunSnapshot) -> Option<String> {
    let wall_ns = snapshot.origin.wall_ns(snapshot.interval.end_ns);
    let at = Timestamp::from_nanosecond(wall_ns.into()).ok()?;
    let at = at.to_zoned(look.options.zone.clone());
    Some(at.strftime("%Y%m%d-%H%M%S").to_string())
}

fn write(look: &Look, snapshot: &RunSnapshot, out: &mut dyn Write) -> io::Result<()> {
    let findings = snapshot.findings.as_deref().unwrap_or_default();
    match look.pages.last() {
        None => {}
        Some((Page::Help, _)) => return Ok(()),
        Some((Page::State(state), _)) => {
            let text = explain::of(*state).map(Topic::State);
            return text.map_or(Ok(()), |topic| write_json(&topic, &Here::default(), out));
        }
        Some((Page::Explained(name), _)) => {
            let rule = RULES.iter().find(|rule| rule.text.name == *name);
            let topic = rule.map(|rule| Topic::Finding(&rule.text));
            return topic.map_or(Ok(()), |topic| write_json(&topic, &Here::default(), out));
        }
        Some((Page::Finding(item), _)) => {
            let mut found = finding::of_item(*item, findings).into_iter();
            return found.try_for_each(&mut of_finding(snapshot, out));
        }
        Some((Page::Connection(known, id), _)) => {
            let now = connections::find(look, *id);
            let row = now.as_ref().unwrap_or(known);
            return Records::lines(&CONNECTION).write(row, out);
        }
    }
    match look.screen {
        Screen::Overview => {
            interval(snapshot, &snapshot.interval, out)?;
            findings.iter().try_for_each(of_finding(snapshot, out))
        }
        Screen::Services => {
            let matched = services::matched(look, snapshot);
            let is_matched =
                |key: &GroupKey| matched.as_ref().is_none_or(|keys| keys.contains(key));
            let mut of_matched = snapshot.interval.clone();
            of_matched.groups.retain(|group| is_matched(&group.key));
            interval(snapshot, &of_matched, out)?;
            histograms(snapshot, |series| is_matched(&series.key), out)
        }
        Screen::Connections => {
            let (_, rows) = connections::table(look, 0);
            let mut records = Records::lines(&CONNECTION);
            for row in rows {
                let Content::Connection(at) = row.content else {
                    continue;
                };
                if let Some(one) = snapshot.tracker.connections.get(at) {
                    records.write(&ConnectionRow::of_snapshot(one, snapshot), out)?;
                }
            }
            Ok(())
        }
        Screen::Machine => {
            let (counts, edges) = (machine::counts(snapshot), machine::edges(snapshot));
            write_diagram_json(Some(&counts), Some(&edges), out)
        }
        Screen::Dwell => {
            let state = look.dwell_state();
            let is_wanted = |series: &Series| {
                let is_group = look.dwell_group.is_none_or(|group| group == series.key);
                series.of == Of::Dwell(state) && is_group
            };
            histograms(snapshot, is_wanted, out)
        }
    }
}

/// Lines of `diagnose`.
fn of_finding(
    snapshot: &RunSnapshot,
    out: &mut dyn Write,
) -> impl FnMut(&Finding) -> io::Result<()> {
    let mut lines = Lines::default();
    let now_ns = snapshot.interval.end_ns;
    move |finding| diagnose::write_json(finding, now_ns, &snapshot.facts, &mut lines, out)
}

/// A line of `rates`.
fn interval(snapshot: &RunSnapshot, interval: &Interval, out: &mut dyn Write) -> io::Result<()> {
    Intervals::new(snapshot.tracker.by).write(
        interval,
        snapshot.handshakes.clone(),
        &snapshot.origin,
        &snapshot.names,
        out,
    )
}

/// Lines of `hist`, of the time since when there are these groups.
fn histograms(
    snapshot: &RunSnapshot,
    is_wanted: impl Fn(&Series) -> bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let tracker = &snapshot.tracker;
    let end_ns = snapshot.interval.end_ns;
    let since_ns = tracker.by_since_ns.unwrap_or(snapshot.origin.started_ns);
    let stamp = Stamp {
        wall_ns: snapshot.origin.wall_ns(end_ns),
        ts_ns: end_ns,
        interval_ns: end_ns.saturating_sub(since_ns),
    };
    let series = tracker.histograms.iter();
    let series = series.filter(|series| is_wanted(series));
    hist::write_json(series, tracker.by, &snapshot.names, stamp, out)
}
