//! `tcpstate hist`: durations, and how often each transition happens, by service port and role or another
//! property.
//!
//! A histogram counts a duration in the interval in which it ends. Every interval begins with empty
//! histograms.

mod chart;
mod item;
mod table;

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Write},
    time::Duration,
};

use tcpstate_core::{
    catalogue::{Group, HistogramHead, Stamp},
    census::Census,
    duration::nanoseconds,
    event::Event,
    filter::{CauseSet, StateSet},
    model::{Books, By, Connections, Include, Of, Series, Tracker},
    names::{Early, Names},
    options::{Format, HistogramOf},
    origin::Origin,
    recalled::Recalled,
    view::{End, Flow, View},
};

use self::{
    chart::Chart,
    item::{Content, Item},
    table::{Csv, Json},
};
use crate::{
    format::{
        time::Local,
        units::{Count, Counted, Span},
    },
    order::life_order,
    printer::Printer,
    settings::Settings,
};

/// The options of `hist`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The settings that all views share.
    pub settings: Settings,
    /// The subject of the histograms.
    pub of: HistogramOf,
    /// The grouping.
    pub by: By,
    /// Only these states; transitions that leave or enter one of them.
    pub states: Option<StateSet>,
    /// Only the lifetimes of connections that ended for one of these causes.
    pub causes: Option<CauseSet>,
    /// Print at the end of each interval of this length, and begin anew.
    pub interval: Option<Duration>,
    /// The number of intervals after which the run ends.
    pub count: Option<u64>,
    /// Bars of block characters instead of ASCII.
    pub unicode: bool,
}

/// The view.
pub struct Hist {
    of: HistogramOf,
    by: By,
    states: Option<StateSet>,
    interval_ns: Option<u64>,
    count: Option<u64>,
    printer: Printer<Text, Json, Csv>,
    tracker: Tracker,
    names: Names,
    early: Early,
    origin: Option<Origin>,
    /// Begin of the interval.
    since_ns: u64,
    /// Events in the interval.
    events: u64,
    intervals: u64,
    shown: u64,
}

/// Charts for people.
struct Text {
    chart: Chart,
    local: Local,
}

/// The histograms of an interval.
struct Shown {
    items: Vec<Item>,
    /// The number of histograms that the choice of states leaves out.
    others: usize,
}

impl Hist {
    /// A view with these options.
    pub fn new(options: &Options) -> Self {
        let settings = &options.settings;
        let printer = match settings.format {
            Format::Text => Printer::Text(Text {
                chart: Chart::new(options.unicode, settings.colour, settings.width),
                local: Local::new(settings.zone.clone(), settings.time_form),
            }),
            Format::Json => Printer::Json(Json::new(options.by)),
            Format::Csv => Printer::Csv(Csv::new(options.by)),
        };
        let mut tracker = Tracker::new(settings.limits).by(options.by);
        if let Some(causes) = &options.causes {
            tracker = tracker.with_lifetimes_of(causes.clone().into());
        }
        Self {
            of: options.of,
            by: options.by,
            states: options.states,
            interval_ns: options.interval.map(nanoseconds),
            count: options.count,
            printer,
            tracker: match options.of {
                HistogramOf::Transitions => tracker.without_histograms(),
                of => tracker.without_rates().with_histograms_of(of),
            },
            names: Names::default(),
            early: Early::default(),
            origin: None,
            since_ns: 0,
            events: 0,
            intervals: 0,
            shown: 0,
        }
    }

    /// The histograms of the interval that ends now: the busiest group first, its states in the order
    /// of a connection's life.
    fn take(&mut self, now_ns: u64) -> Shown {
        let all = if self.of == HistogramOf::Transitions {
            self.take_transitions(now_ns)
        } else {
            self.take_durations()
        };
        let kinds = all.len();
        let mut items: Vec<Item> = all
            .into_iter()
            .filter_map(|item| self.selected(item))
            .collect();
        let mut totals: HashMap<_, u64> = HashMap::new();
        for item in &items {
            *totals.entry(item.key).or_default() += item.count();
        }
        items.sort_by_cached_key(|item| {
            let total = totals.get(&item.key).copied();
            (Reverse(total), item.key, item.order())
        });
        Shown {
            others: kinds - items.len(),
            items,
        }
    }

    fn take_durations(&mut self) -> Vec<Item> {
        let snapshot = self.tracker.snapshot_of(Include {
            connections: Connections::None,
            histograms: true,
        });
        self.tracker.clear_histograms();
        snapshot
            .histograms
            .into_iter()
            .map(|Series { of, key, histogram }| Item {
                key,
                content: Content::Durations { of, histogram },
            })
            .collect()
    }

    fn take_transitions(&mut self, now_ns: u64) -> Vec<Item> {
        let interval = self.tracker.tick(now_ns);
        interval
            .groups
            .into_iter()
            .filter_map(|group| {
                let mut transitions = group.figures.transitions;
                transitions.sort_by_key(|one| {
                    (life_order(one.from), life_order(one.to), one.from, one.to)
                });
                (!transitions.is_empty()).then_some(Item {
                    key: group.key,
                    content: Content::Transitions(transitions),
                })
            })
            .collect()
    }

    /// The part of this histogram that the choice of states includes, if any.
    fn selected(&self, mut item: Item) -> Option<Item> {
        let Some(states) = self.states else {
            return Some(item);
        };
        let is_selected = match &mut item.content {
            Content::Durations {
                of: Of::Dwell(state),
                ..
            } => states.contains(*state),
            Content::Durations { .. } => true,
            Content::Transitions(transitions) => {
                transitions.retain(|one| states.contains(one.from) || states.contains(one.to));
                !transitions.is_empty()
            }
        };
        is_selected.then_some(item)
    }

    /// Ends the interval and prints it.
    fn print(&mut self, now_ns: u64, shown: Shown, out: &mut dyn Write) -> io::Result<()> {
        let origin = self.origin.as_ref();
        let stamp = Stamp {
            wall_ns: origin.map_or(0, |origin| origin.wall_ns(now_ns)),
            ts_ns: now_ns,
            interval_ns: now_ns.saturating_sub(self.since_ns),
        };
        self.shown += shown.items.len() as u64;
        if let Printer::Text(Text { chart, local }) = &mut self.printer {
            if self.interval_ns.is_some() {
                let length = Span(stamp.interval_ns);
                chart.heading(&format!("{}, {length}", local.at(stamp.wall_ns)), out)?;
            }
            if shown.items.is_empty() {
                chart.remark(&why_empty(self.of, self.events, shown.others), out)?;
            }
        }
        for item in shown.items {
            let group = Group::new(item.key, &self.names);
            let head = HistogramHead { stamp, group };
            match &mut self.printer {
                Printer::Text(Text { chart, .. }) => chart.item(&item, &head.group, out)?,
                Printer::Json(json) => json.write(item, head, out)?,
                Printer::Csv(csv) => csv.write(item, head, out)?,
            }
        }
        self.intervals += 1;
        self.since_ns = now_ns;
        self.events = 0;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.interval_ns.is_some() && self.count.is_some_and(|count| self.intervals >= count)
    }
}

/// Writes histograms as `tcpstate hist --json` does, a line each. They are by `by`, and count what ended in the time of
/// the stamp.
pub fn write_json<'a>(
    series: impl Iterator<Item = &'a Series>,
    by: By,
    names: &Names,
    stamp: Stamp,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut json = Json::new(by);
    for Series { of, key, histogram } in series {
        let item = Item {
            key: *key,
            content: Content::Durations {
                of: *of,
                histogram: histogram.clone(),
            },
        };
        let group = Group::new(*key, names);
        json.write(item, HistogramHead { stamp, group }, out)?;
    }
    Ok(())
}

impl View for Hist {
    fn set_names(&mut self, names: Names) {
        self.tracker.set_names(names.clone());
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.since_ns = origin.started_ns;
        self.origin = Some(origin.clone());
        if origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        }
        match &mut self.printer {
            Printer::Csv(csv) => csv.titles(self.of == HistogramOf::Transitions, out),
            Printer::Text(_) | Printer::Json(_) => Ok(()),
        }
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        self.events += 1;
        self.tracker.apply(event);
        if self.by == By::Cgroup {
            self.early.look_up(event.cgroup(), &self.names);
        }
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
        true
    }

    fn is_silent_until_finish(&self) -> bool {
        self.interval_ns.is_none() && !matches!(self.printer, Printer::Csv(_))
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
        let shown = self.take(now_ns);
        self.print(now_ns, shown, out)?;
        Ok(if self.is_full() {
            Flow::Done
        } else {
            Flow::Continue
        })
    }

    fn interval_ns(&self) -> Option<u64> {
        self.interval_ns
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        let books = self.tracker.books();
        if !self.is_full() {
            let shown = self.take(end.now_ns);
            // The last interval may have ended with the run.
            let is_over =
                self.interval_ns.is_some() && end.now_ns <= self.since_ns && self.events == 0;
            if !is_over || !shown.items.is_empty() {
                self.print(end.now_ns, shown, out)?;
            }
        }
        let histograms = Counted(self.shown, "histogram");
        let connections = Counted(books.connections(), "connection");
        let totals = (self.shown, format_args!("{histograms} of {connections}"));
        self.printer.finish_counted(end, totals, books, out, err)
    }

    fn connections(&self) -> Option<Books> {
        Some(self.tracker.books())
    }
}

/// The reason why there is nothing to show.
fn why_empty(of: HistogramOf, events: u64, others: usize) -> String {
    if others > 0 {
        return format!(
            "None of the {} histograms is of the states asked for.",
            Count(others as u64)
        );
    }
    let what = match of {
        HistogramOf::Dwell => "No time in a state became known",
        HistogramOf::Lifetime => "No lifetime became known",
        HistogramOf::Handshake => "No handshake time became known",
        HistogramOf::Transitions => "Nothing happened",
    };
    match events {
        0 => format!("{what}: there was no state change."),
        1 => format!("{what}: there was one state change, and its beginning was not seen."),
        events => format!(
            "{what}: there were {} state changes, and none ended what was seen to begin.",
            Count(events)
        ),
    }
}
