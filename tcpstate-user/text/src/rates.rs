//! `tcpstate rates`: per interval, how often each transition happened, and to whom.
//!
//! The transitions of all intervals together are all events that this view was given: the run's last
//! interval is shown however short it was, if something happened in it. Where `COUNT` or `--duration`
//! ends the run at the end of an interval, that one takes what the kernel had still on its way
//! (`run`), and none follows it.
//!
//! What is "now" in a state is what was found at the start, and was seen to change since. What no
//! transition shows (`TIME_WAIT`, orphans in `FIN_WAIT2`, half-open connections in `SYN_RECV`) is
//! sampled, or unknown.

mod lines;
mod text;
mod unseen;

use std::{
    cmp::Reverse,
    io::{self, Write},
    sync::Arc,
};

use jiff::tz::TimeZone;
use serde::Serialize;
use tcpstate_common::State;

use self::{lines::Csv, text::Text, unseen::Unseen};
use crate::books::tell_books;
use crate::format::{
    json::{Connections, Lines, Summary},
    time::Utc,
    units::Count,
};
use tcpstate_core::{
    census::Census,
    event::Event,
    model::{By, Figures, GroupFigures, GroupKey, Include, Interval, Limits, Tracker},
    names::Names,
    options::Format,
    origin::Origin,
    tally::Tally,
    view::{End, Flow, View},
};

/// What to count, and how to show it.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which format.
    pub format: Format,
    /// Length of an interval, nanoseconds.
    pub interval_ns: u64,
    /// What the second table groups by.
    pub by: By,
    /// The source counts, and no event comes: nothing is known of single connections.
    pub in_kernel: bool,
    /// The bounds of what is kept.
    pub limits: Limits,
    /// In colour.
    pub colour: bool,
    /// Where local time is.
    pub zone: TimeZone,
}

/// The view.
pub struct Rates {
    interval_ns: u64,
    by: By,
    /// Connections whose times were lost, as there were too many to count in the kernel; `None`: it does not.
    forgotten: Option<u64>,
    tracker: Tracker,
    unseen: Unseen,
    printer: Printer,
    names: Names,
    /// The cgroup that the last event was in.
    last_cgroup: Option<u64>,
    /// Wall-clock time of monotonic 0.
    origin: Option<Origin>,
    shown: u64,
    /// How many were in each state when that was shown last.
    last_states: Vec<(State, u64)>,
}

enum Printer {
    Text(Text),
    Json { utc: Utc, lines: Lines },
    Csv { utc: Utc, csv: Csv },
}

impl Rates {
    /// Rates that are shown as these options say.
    pub fn new(options: &Options) -> Self {
        let printer = match options.format {
            Format::Text => Printer::Text(Text::new(
                options.by,
                options.interval_ns,
                options.zone.clone(),
                options.colour,
            )),
            Format::Json => Printer::Json {
                utc: Utc::default(),
                lines: Lines::default(),
            },
            Format::Csv => Printer::Csv {
                utc: Utc::default(),
                csv: Csv::new(options.by),
            },
        };
        let mut tracker = Tracker::new(options.limits)
            .by(options.by)
            .without_histograms();
        if options.in_kernel {
            tracker = tracker.without_events();
        }
        Self {
            interval_ns: options.interval_ns,
            by: options.by,
            forgotten: options.in_kernel.then_some(0),
            tracker,
            unseen: Unseen::default(),
            printer,
            names: Names::default(),
            last_cgroup: None,
            origin: None,
            shown: 0,
            last_states: Vec::new(),
        }
    }

    fn show(&mut self, interval: &Interval, out: &mut dyn Write) -> io::Result<()> {
        self.shown += 1;
        self.last_states.clone_from(&interval.all.states);
        let origin = self.origin.as_ref();
        let wall_ns = origin.map_or(0, |origin| origin.wall_ns(interval.end_ns));
        let groups = busiest_first(&interval.groups, &self.names);
        match &mut self.printer {
            Printer::Text(text) => text.block(interval, groups, &self.unseen, wall_ns, out)?,
            Printer::Json { utc, lines } => {
                let ts = utc.at(wall_ns);
                let line = lines::Line::new(interval, &groups, self.by, &self.unseen, ts);
                lines.write(&line, out)?;
            }
            Printer::Csv { utc, csv } => csv.rows(interval, &groups, utc.at(wall_ns), out)?,
        }
        self.unseen.next_interval();
        Ok(())
    }
}

impl View for Rates {
    fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        // The first interval begins here, not with the first event.
        self.tracker.tick(origin.started_ns);
        self.unseen.sample_interval_ns = origin.sample_interval_ns;
        if origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        }
        self.origin = Some(origin.clone());
        match &mut self.printer {
            Printer::Csv { csv, .. } => csv.titles(out),
            Printer::Text(_) | Printer::Json { .. } => Ok(()),
        }
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.apply(event);
        if self.by == By::Cgroup && event.cgroup() != self.last_cgroup {
            // Asked for now and not at the end of the interval: the cgroup may be gone by then.
            self.last_cgroup = event.cgroup();
            self.names.cgroup(self.last_cgroup);
        }
        Ok(Flow::Continue)
    }

    fn tally(&mut self, tally: &Tally) {
        self.tracker.add(tally);
        if let Some(forgotten) = &mut self.forgotten {
            *forgotten += tally.forgotten;
        }
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.census(census, |_| {});
        self.unseen.take(census);
        Ok(Flow::Continue)
    }

    fn wants_samples(&self) -> bool {
        true
    }

    fn interval_ns(&self) -> Option<u64> {
        Some(self.interval_ns)
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
        let interval = self.tracker.tick(now_ns);
        self.show(&interval, out)?;
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        let rest = self.tracker.tick(end.now_ns);
        // A census at the end can know better than the interval before it.
        let has_news = self.shown == 0 || rest.all.states != self.last_states;
        if rest.all.total() > 0 || (has_news && length_ns(&rest) > 0) {
            self.show(&rest, out)?;
        }
        let books = Some(self.tracker.books()).filter(|_| self.forgotten.is_none());
        let total = self.tracker.snapshot_of(Include::FIGURES).all;
        if let Printer::Json { lines, .. } = &mut self.printer {
            let more = Totals {
                intervals: self.shown,
                transitions: total.total(),
                opened: total.opened,
                established: total.established,
                closed: total.closed,
                failed: total.failed,
                connections: books.as_ref().map(Connections::new),
                forgotten: self.forgotten,
            };
            return lines.write(&Summary::new(end, more), out);
        }
        let plural = if self.shown == 1 { "" } else { "s" };
        writeln!(
            err,
            "{} interval{plural}, {} transitions: opened {}, established {}, closed {}, failed {}",
            Count(self.shown),
            Count(total.total()),
            Count(total.opened),
            Count(total.established),
            Count(total.closed),
            Count(total.failed),
        )?;
        if let Some(forgotten) = self.forgotten.filter(|&count| count > 0) {
            writeln!(
                err,
                "{} times in a state are missing: more connections than --max-connections has room for",
                Count(forgotten)
            )?;
        }
        tell_books(end, books.as_ref(), err)
    }
}

/// What the summary says beyond the books.
#[derive(Serialize)]
struct Totals {
    /// Lines before this one.
    intervals: u64,
    /// Of all intervals together.
    transitions: u64,
    opened: u64,
    established: u64,
    closed: u64,
    failed: u64,
    /// `None`: the kernel counted, and nothing is known of single connections.
    connections: Option<Connections>,
    /// Connections whose times were lost, where the kernel counted, as there were too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten: Option<u64>,
}

fn length_ns(interval: &Interval) -> u64 {
    interval.end_ns.saturating_sub(interval.start_ns)
}

/// A group, and what it is called where its key is only a number.
struct Group<'a> {
    key: &'a GroupKey,
    figures: &'a Figures,
    /// The path of a cgroup.
    path: Option<Arc<str>>,
}

/// By transitions, those with as many in the order of their keys.
fn busiest_first<'a>(groups: &'a [GroupFigures], names: &Names) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = groups
        .iter()
        .map(|group| Group {
            key: &group.key,
            figures: &group.figures,
            path: match group.key {
                GroupKey::Cgroup(id) => names.cgroup(id),
                _ => None,
            },
        })
        .collect();
    groups.sort_by_cached_key(|group| Reverse(group.figures.total()));
    groups
}

/// What part of a total this is, to four decimals; `None` of nothing.
fn share(part: u64, total: u64) -> Option<f64> {
    let parts = (u128::from(part) * 10_000 + u128::from(total / 2)).checked_div(total.into())?;
    #[expect(clippy::cast_precision_loss, reason = "at most 10,000")]
    Some(parts as f64 / 10_000.0)
}
