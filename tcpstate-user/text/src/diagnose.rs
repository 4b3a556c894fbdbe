//! `tcpstate diagnose`: what is wrong with the host's connections, whose they are, and what to do.
//!
//! The view keeps what the rules of [`tcpstate_core::diagnosis`] need; the looks at the host's sockets and counters come
//! from the caller. A recording has none: then the tracker's connections stand for them.

mod json;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use serde::Serialize;
use tcpstate_core::{
    census::Census,
    diagnosis::{
        self, Finding, Input, Look, Looks, NetnsFacts, Observed, Place, Rule, Severity, Snapshot,
        Survey, Thresholds,
    },
    event::Event,
    model::{self, Connections, Include, Tracker},
    options::Format,
    origin::Origin,
    recalled::Recalled,
    view::{End, Flow, View},
};

use crate::{
    books::{Changes, write_books},
    format::{
        json::{Lines, Summary},
        time::Local,
        units::{Count, Counted, Span},
    },
    settings::Settings,
};

/// The time between two checks with [`Options::follow`].
const INTERVAL_NS: u64 = 1_000_000_000;

/// Writes a finding as a line of JSON, with the facts of the namespaces that it may be in.
pub fn write_json(
    finding: &Finding,
    now_ns: u64,
    facts: &[NetnsFacts],
    lines: &mut Lines,
    out: &mut dyn Write,
) -> io::Result<()> {
    json::write(finding, None, now_ns, facts, lines, out)
}

/// The options of the view.
pub struct Options {
    /// The settings that all views share.
    pub settings: Settings,
    /// The figures that decide.
    pub thresholds: Thresholds,
    /// With this: goes on for ever, prints a finding when it appears, changes or ends, and looks at the events of so
    /// many nanoseconds together.
    pub follow: Option<u64>,
    /// Also lists what was looked for and not found.
    pub all: bool,
    /// The length of the run, nanoseconds, where it is known before its end.
    pub length_ns: Option<u64>,
    /// Ends after so many lines or objects about findings, with [`Options::follow`].
    pub count: Option<u64>,
}

/// The view.
pub struct Diagnose {
    options: Options,
    tracker: Tracker,
    observed: Observed,
    looks: Option<Box<dyn Looks>>,
    first: Look,
    /// `None`: the first one is the latest.
    latest: Option<Look>,
    /// The findings that were printed, with [`Options::follow`], each with the number of its window.
    active: BTreeMap<(&'static str, Place), Active>,
    window: u64,
    window_began_ns: u64,
    printed: u64,
    lines: Lines,
    /// The findings that the first look showed.
    at_first: Vec<Finding>,
    /// The kinds of findings that were explained in full.
    explained: BTreeSet<&'static str>,
    time: Local,
    wall_at_monotonic_zero_ns: i64,
    /// Whether there are events.
    is_watched: bool,
    /// The findings at the end, or all that appeared with [`Options::follow`].
    found: Vec<Severity>,
}

/// A finding that was printed.
struct Active {
    finding: Finding,
    /// The window in which it was found last.
    window: u64,
    /// The window in which it was as bad as it was printed last.
    bad_in: u64,
    /// The worst that it ever was.
    worst: Severity,
}

/// The fate of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Appeared,
    Changed,
    Ended,
}

impl Change {
    const fn name(self) -> &'static str {
        match self {
            Self::Appeared => "appeared",
            Self::Changed => "changed",
            Self::Ended => "ended",
        }
    }
}

/// The rules that were checked and found nothing.
fn not_found(findings: &[Finding], unchecked: &[(&'static Rule, Input)]) -> Vec<&'static Rule> {
    let rules = diagnosis::RULES.iter().copied();
    let rules = rules.filter(|rule| {
        let is_found = |finding: &Finding| finding.text.name == rule.text.name;
        let is_unchecked = |(other, _): &(&Rule, Input)| other.text.name == rule.text.name;
        !findings.iter().any(is_found) && !unchecked.iter().any(is_unchecked)
    });
    rules.collect()
}

/// Whether a finding is shown with all that is known about its kind: not a note, which asks for nothing, not one that
/// another one explains, and not the same words twice.
fn is_in_full(finding: &Finding, explained: &mut BTreeSet<&'static str>) -> bool {
    finding.severity > Severity::Note
        && finding.see.is_empty()
        && explained.insert(finding.text.name)
}

impl Diagnose {
    /// A view that has seen nothing but this first look.
    pub fn new(options: Options, first: Look, looks: Option<Box<dyn Looks>>) -> Self {
        let time = Local::new(options.settings.zone.clone(), options.settings.time_form);
        Self {
            tracker: Tracker::new(options.settings.limits)
                .without_histograms()
                .without_rates(),
            options,
            observed: Observed::default(),
            looks,
            first,
            latest: None,
            active: BTreeMap::new(),
            window: 0,
            window_began_ns: 0,
            printed: 0,
            lines: Lines::default(),
            at_first: Vec::new(),
            explained: BTreeSet::new(),
            time,
            wall_at_monotonic_zero_ns: 0,
            is_watched: false,
            found: Vec::new(),
        }
    }

    /// Whether something was found that is more than a note.
    pub fn has_findings(&self) -> bool {
        self.found.iter().any(|&severity| severity > Severity::Note)
    }

    /// The findings now, and the rules that could not be checked.
    fn check(&mut self, now_ns: u64) -> (Vec<Finding>, Vec<(&'static Rule, Input)>) {
        let tracked = self.looks.is_none().then(|| self.tracked());
        let latest = self.latest.as_ref();
        let snapshot = Snapshot {
            now_ns,
            sockets: match &tracked {
                Some(tracked) => Some(tracked),
                None => latest.unwrap_or(&self.first).sockets.as_ref(),
            },
            earlier: match &tracked {
                Some(_) => self.first.sockets.as_ref(),
                None => latest.and(self.first.sockets.as_ref()),
            },
            observed: &self.observed,
            facts: latest.map_or(&self.first.facts, |look| &look.facts),
            earlier_facts: latest.map_or(&[][..], |_| &self.first.facts),
            thresholds: &self.options.thresholds,
        };
        (diagnosis::check(&snapshot), diagnosis::unchecked(&snapshot))
    }

    /// The sockets of a recording, as far as it has come.
    fn tracked(&mut self) -> Survey {
        let include = Include {
            connections: Connections::All,
            histograms: false,
        };
        let tracked = self.tracker.snapshot_of(include);
        Survey::of_tracked(&tracked, &self.options.thresholds)
    }

    /// Says what the first look shows, before there is any event: loading the programs takes a while.
    pub fn so_far(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.options.settings.format != Format::Text || self.looks.is_none() {
            return Ok(());
        }
        let (findings, _) = self.check(0);
        let more = self.options.length_ns.map_or_else(
            || "; watching".to_owned(),
            |ns| format!("; watching for {} more", Span(ns)),
        );
        match findings.len() {
            0 => writeln!(out, "So far: nothing in the kernel's lists{more}.")?,
            _ => writeln!(out, "So far, from the kernel's lists{more}:")?,
        }
        for finding in &findings {
            text::write_line(finding, self.facts(), out)?;
        }
        self.at_first = findings;
        writeln!(out)?;
        out.flush()
    }

    fn facts(&self) -> &[NetnsFacts] {
        &self.latest.as_ref().unwrap_or(&self.first).facts
    }

    /// Prints what has changed since the check before.
    fn follow(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
        let Some(window_ns) = self.options.follow else {
            return Ok(Flow::Continue);
        };
        let (findings, _) = self.check(now_ns);
        for finding in findings {
            let identity = finding.identity();
            let window = self.window;
            let severity = finding.severity;
            let Some(active) = self.active.get_mut(&identity) else {
                self.print(Change::Appeared, &finding, now_ns, out)?;
                let active = Active {
                    finding,
                    window,
                    bad_in: window,
                    worst: severity,
                };
                self.active.insert(identity, active);
                continue;
            };
            active.window = window;
            let printed = active.finding.severity;
            if severity >= printed {
                active.bad_in = window;
            } else if active.bad_in + 1 >= window {
                // Better for less than a whole window: what is counted in a window begins with nothing.
                continue;
            }
            active.worst = active.worst.max(severity);
            active.finding = finding.clone();
            if severity != printed {
                self.print(Change::Changed, &finding, now_ns, out)?;
            }
        }
        if now_ns.saturating_sub(self.window_began_ns) >= window_ns {
            let window = self.window;
            let ended = self
                .active
                .extract_if(.., |_, active| active.window < window);
            for (_, active) in ended.collect::<Vec<_>>() {
                self.print(Change::Ended, &active.finding, now_ns, out)?;
                self.found.push(active.worst);
            }
            self.window += 1;
            self.window_began_ns = now_ns;
            self.observed.restart(now_ns);
            match self.latest.take() {
                Some(latest) => self.first = latest,
                None if self.looks.is_none() => self.first.sockets = None,
                None => {}
            }
        }
        out.flush()?;
        let is_full = self
            .options
            .count
            .is_some_and(|count| self.printed >= count);
        Ok(if is_full { Flow::Done } else { Flow::Continue })
    }

    fn print(
        &mut self,
        change: Change,
        finding: &Finding,
        now_ns: u64,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        self.printed += 1;
        let facts = &self.latest.as_ref().unwrap_or(&self.first).facts;
        let settings = &self.options.settings;
        match settings.format {
            Format::Json => json::write(finding, Some(change), now_ns, facts, &mut self.lines, out),
            Format::Text | Format::Csv => {
                let at = self.time.at(self
                    .wall_at_monotonic_zero_ns
                    .saturating_add_unsigned(now_ns));
                if change == Change::Appeared {
                    writeln!(out, "{at}")?;
                    let in_full = is_in_full(finding, &mut self.explained);
                    text::write(finding, in_full, facts, settings, out)?;
                    return writeln!(out);
                }
                write!(out, "{at} {}: ", change.name())?;
                text::write_line(finding, facts, out)
            }
        }
    }
}

/// The last check of a run.
struct Last {
    findings: Vec<Finding>,
    not_found: Vec<&'static Rule>,
    unchecked: Vec<(&'static Rule, Input)>,
}

impl Diagnose {
    /// With [`Options::follow`] the findings were written when they appeared.
    fn write_json(&mut self, last: &Last, end: &End, out: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Totals<'a> {
            /// Findings by severity.
            critical: usize,
            warning: usize,
            note: usize,
            /// The names of what was looked for and not found.
            not_found: Vec<&'a str>,
            /// The rules that could not be checked, each with the reason.
            not_checked: BTreeMap<&'a str, &'a str>,
            connections: model::Books,
        }
        let books = self.tracker.books();
        if self.options.follow.is_none() {
            let facts = &self.latest.as_ref().unwrap_or(&self.first).facts;
            for finding in &last.findings {
                json::write(finding, None, end.now_ns, facts, &mut self.lines, out)?;
            }
        }
        let of = |severity| self.found.iter().filter(|&&one| one == severity).count();
        let unchecked = last.unchecked.iter();
        let totals = Totals {
            critical: of(Severity::Critical),
            warning: of(Severity::Warning),
            note: of(Severity::Note),
            not_found: last.not_found.iter().map(|rule| rule.text.name).collect(),
            not_checked: unchecked
                .map(|(rule, input)| (rule.text.name, input.missing()))
                .collect(),
            connections: books,
        };
        self.lines
            .write(&Summary::new(end, Some(&books), totals), out)
    }

    fn write_text(&mut self, last: &Last, out: &mut dyn Write) -> io::Result<()> {
        let facts = &self.latest.as_ref().unwrap_or(&self.first).facts;
        let settings = &self.options.settings;
        if self.options.follow.is_none() {
            for finding in &last.findings {
                let in_full = is_in_full(finding, &mut self.explained);
                text::write(finding, in_full, facts, settings, out)?;
                writeln!(out)?;
            }
            if last.findings.is_empty() {
                writeln!(out, "Nothing found.")?;
            }
            let is_there = |first: &Finding| {
                let is_it = |one: &Finding| one.identity() == first.identity();
                last.findings.iter().any(is_it)
            };
            for finding in self.at_first.iter().filter(|first| !is_there(first)) {
                write!(out, "no longer: ")?;
                text::write_line(finding, facts, out)?;
            }
        }
        if self.options.all {
            text::write_absent(&last.not_found, &last.unchecked, settings, out)?;
        }
        Ok(())
    }

    fn write_end(&self, last: &Last, end: &End, err: &mut dyn Write) -> io::Result<()> {
        let books = self.tracker.books();
        write!(
            err,
            "{}; {} looked for and not found, {} not checked",
            Counted(self.found.len() as u64, "finding"),
            Count(last.not_found.len() as u64),
            Count(last.unchecked.len() as u64),
        )?;
        if self.is_watched {
            writeln!(err, "; {}", Changes(end, Some(&books)))?;
        } else {
            writeln!(err)?;
        }
        for message in &self.latest.as_ref().unwrap_or(&self.first).missing {
            writeln!(err, "{message}")?;
        }
        if self.left_out() {
            writeln!(
                err,
                "{} are left out: there are too many service ports",
                Counted(self.observed.left_out(), "change")
            )?;
        }
        if self.is_watched {
            write_books(end, Some(&books), err)?;
        }
        Ok(())
    }
}

impl View for Diagnose {
    fn start(&mut self, origin: &Origin, _out: &mut dyn Write) -> io::Result<()> {
        self.tracker.tick(origin.started_ns);
        if origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        }
        self.wall_at_monotonic_zero_ns = origin.wall_at_monotonic_zero_ns;
        self.is_watched = !origin.attach.is_empty();
        if self.is_watched {
            self.observed.begin(origin.started_ns);
        }
        self.window_began_ns = origin.started_ns;
        Ok(())
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        let applied = self.tracker.apply(event);
        let latest = self.latest.as_ref().unwrap_or(&self.first);
        let thresholds = &self.options.thresholds;
        self.observed
            .event(event, &applied, latest.sockets.as_ref(), thresholds);
        Ok(Flow::Continue)
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.census(census, |_| {});
        Ok(Flow::Continue)
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        self.tracker.recall(recalled);
        Ok(Flow::Continue)
    }

    fn wants_samples(&self) -> bool {
        // Live, the looks have all sockets.
        self.looks.is_none()
    }

    fn is_silent_until_finish(&self) -> bool {
        self.options.follow.is_none()
    }

    fn interval_ns(&self) -> Option<u64> {
        Some(INTERVAL_NS)
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.tick(now_ns);
        self.observed.tick(now_ns);
        match &mut self.looks {
            Some(looks) => self.latest = looks.newest().or(self.latest.take()),
            // The first look at a recording is behind its first second.
            None if self.first.sockets.is_none() => self.first.sockets = Some(self.tracked()),
            None => {}
        }
        self.follow(now_ns, out)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        self.tracker.tick(end.now_ns);
        self.observed.tick(end.now_ns);
        if let Some(looks) = &mut self.looks
            && let Some(look) = looks.last()
        {
            self.latest = Some(look);
        }
        // Its answer means nothing any more.
        let _ = self.follow(end.now_ns, out)?;
        let (findings, unchecked) = self.check(end.now_ns);
        let last = Last {
            not_found: not_found(&findings, &unchecked),
            unchecked,
            findings,
        };
        if self.options.follow.is_some() {
            let active = self.active.values();
            self.found.extend(active.map(|active| active.worst));
        } else {
            let all = last.findings.iter();
            self.found = all.map(|finding| finding.severity).collect();
        }
        if self.options.settings.format == Format::Json {
            return self.write_json(&last, end, out);
        }
        self.write_text(&last, out)?;
        // On a terminal its sentence comes last.
        out.flush()?;
        self.write_end(&last, end, err)
    }

    fn left_out(&self) -> bool {
        self.observed.left_out() > 0
    }

    fn connections(&self) -> Option<model::Books> {
        Some(self.tracker.books())
    }
}

#[cfg(test)]
mod tests;
