//! `tcpstate hist`: how long it takes, and how often it happens, by service port and role.
//!
//! A histogram has a time when it is over: what lasts at the end of an interval counts in the one in
//! which it ends. Every interval begins with empty histograms.

mod chart;
mod table;

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Write},
    time::Duration,
};

use jiff::tz::TimeZone;
use serde::Serialize;

use self::{chart::Chart, table::Columns};
use crate::format::{
    csv::Rows,
    json::{Connections, Lines, Summary},
    time::{Local, Utc},
    units::{Count, Span},
};
use crate::{books::tell_books, order::rank};
use tcpstate_core::{
    census::Census,
    duration::nanoseconds,
    event::Event,
    filter::{CauseSet, StateSet},
    histogram::Histogram,
    model::{GroupKey, Include, Limits, Of, Series, Tracker},
    options::{Format, HistogramOf},
    origin::Origin,
    service::{Role, ServicePort},
    transition::TransitionCount,
    view::{End, Flow, View},
};

/// What to print, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which format.
    pub format: Format,
    /// Histograms of what.
    pub of: HistogramOf,
    /// Only of these states; transitions that leave or enter one of them.
    pub states: Option<StateSet>,
    /// Of lifetimes, only those of connections that ended for one of these causes.
    pub causes: Option<CauseSet>,
    /// Print at the end of each interval of this length, and begin anew.
    pub interval: Option<Duration>,
    /// So many intervals, then no more.
    pub count: Option<u64>,
    /// The bounds of what is kept.
    pub limits: Limits,
    /// In colour.
    pub colour: bool,
    /// Bars of more than ASCII.
    pub unicode: bool,
    /// Where local time is.
    pub zone: TimeZone,
}

/// The view.
pub struct Hist {
    of: HistogramOf,
    states: Option<StateSet>,
    interval_ns: Option<u64>,
    count: Option<u64>,
    printer: Printer,
    tracker: Tracker,
    origin: Option<Origin>,
    /// Begin of the interval.
    since_ns: u64,
    /// Events in the interval.
    events: u64,
    intervals: u64,
    shown: u64,
}

enum Printer {
    Text {
        chart: Chart,
        local: Local,
    },
    Json {
        utc: Utc,
        lines: Lines,
    },
    Csv {
        utc: Utc,
        rows: Rows,
        columns: Columns,
    },
}

/// One histogram.
struct Item {
    service_port: ServicePort,
    role: Role,
    what: What,
}

/// What is in a histogram.
enum What {
    /// How long it took.
    Durations { of: Of, histogram: Histogram },
    /// How often each transition happened.
    Transitions(Vec<TransitionCount>),
}

impl Item {
    fn count(&self) -> u64 {
        match &self.what {
            What::Durations { histogram, .. } => histogram.count(),
            What::Transitions(transitions) => transitions.iter().map(|one| one.count).sum(),
        }
    }

    /// Where it stands among those of its service port.
    fn rank(&self) -> usize {
        match self.what {
            What::Durations {
                of: Of::Dwell(state),
                ..
            } => rank(state),
            What::Durations { .. } | What::Transitions(_) => 0,
        }
    }
}

/// What is shown of an interval, and what is not.
struct Shown {
    items: Vec<Item>,
    /// Histograms that are not of the states that were asked for.
    others: usize,
}

impl Hist {
    /// A view that prints as these options say.
    pub fn new(options: &Options) -> Self {
        let printer = match options.format {
            Format::Text => Printer::Text {
                chart: Chart::new(options.unicode, options.colour),
                local: Local::new(options.zone.clone()),
            },
            Format::Json => Printer::Json {
                utc: Utc::default(),
                lines: Lines::default(),
            },
            Format::Csv => Printer::Csv {
                utc: Utc::default(),
                rows: Rows::default(),
                columns: match options.of {
                    HistogramOf::Transitions => Columns::Transitions,
                    _ => Columns::Durations,
                },
            },
        };
        let mut tracker = Tracker::new(options.limits);
        if let Some(causes) = &options.causes {
            tracker = tracker.with_lifetimes_of(causes.clone().into());
        }
        Self {
            of: options.of,
            states: options.states,
            interval_ns: options.interval.map(nanoseconds),
            count: options.count,
            printer,
            tracker: match options.of {
                HistogramOf::Transitions => tracker.without_histograms(),
                _ => tracker.without_rates(),
            },
            origin: None,
            since_ns: 0,
            events: 0,
            intervals: 0,
            shown: 0,
        }
    }

    /// What was counted in the interval that ends now: the busiest service port first, its states
    /// in the order of a connection's life.
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
            *totals.entry((item.service_port, item.role)).or_default() += item.count();
        }
        items.sort_by_cached_key(|item| {
            let service = (item.service_port, item.role);
            (Reverse(totals.get(&service).copied()), service, item.rank())
        });
        Shown {
            others: kinds - items.len(),
            items,
        }
    }

    fn take_durations(&mut self) -> Vec<Item> {
        let snapshot = self.tracker.snapshot_of(Include {
            connections: false,
            histograms: true,
        });
        self.tracker.clear_histograms();
        let is_wanted = |of| {
            matches!(
                (self.of, of),
                (HistogramOf::Dwell, Of::Dwell(_))
                    | (HistogramOf::Lifetime, Of::Lifetime)
                    | (HistogramOf::Handshake, Of::Handshake)
            )
        };
        snapshot
            .histograms
            .into_iter()
            .filter(|series| is_wanted(series.of))
            .map(
                |Series {
                     of,
                     service_port,
                     role,
                     histogram,
                 }| Item {
                    service_port,
                    role,
                    what: What::Durations { of, histogram },
                },
            )
            .collect()
    }

    fn take_transitions(&mut self, now_ns: u64) -> Vec<Item> {
        let interval = self.tracker.tick(now_ns);
        interval
            .groups
            .into_iter()
            .filter_map(|group| {
                let GroupKey::Port(service_port, role) = group.key else {
                    return None;
                };
                let mut transitions = group.figures.transitions;
                transitions.sort_by_key(|one| (rank(one.from), rank(one.to), one.from, one.to));
                (!transitions.is_empty()).then_some(Item {
                    service_port,
                    role,
                    what: What::Transitions(transitions),
                })
            })
            .collect()
    }

    /// What of this histogram was asked for, if anything.
    fn selected(&self, mut item: Item) -> Option<Item> {
        let Some(states) = self.states else {
            return Some(item);
        };
        let is_left = match &mut item.what {
            What::Durations {
                of: Of::Dwell(state),
                ..
            } => states.contains(*state),
            What::Durations { .. } => true,
            What::Transitions(transitions) => {
                transitions.retain(|one| states.contains(one.from) || states.contains(one.to));
                !transitions.is_empty()
            }
        };
        is_left.then_some(item)
    }

    /// Ends the interval and prints it.
    fn print(&mut self, now_ns: u64, shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
        let length_ns = now_ns.saturating_sub(self.since_ns);
        let wall_ns = self
            .origin
            .as_ref()
            .map_or(0, |origin| origin.wall_ns(now_ns));
        match &mut self.printer {
            Printer::Text { chart, local } => {
                if self.interval_ns.is_some() {
                    let time = format!("{}, {}", local.at(wall_ns), Span(length_ns));
                    chart.heading(&time, out)?;
                }
                if shown.items.is_empty() {
                    chart.remark(&nothing(self.of, self.events, shown.others), out)?;
                }
                for item in &shown.items {
                    chart.item(item, out)?;
                }
            }
            Printer::Json { utc, lines } => {
                for item in &shown.items {
                    let stamp = table::Stamp {
                        ts: utc.at(wall_ns),
                        ts_ns: now_ns,
                        interval_ns: length_ns,
                    };
                    table::json(item, stamp, lines, out)?;
                }
            }
            Printer::Csv { utc, rows, .. } => {
                for item in &shown.items {
                    let stamp = table::Stamp {
                        ts: utc.at(wall_ns),
                        ts_ns: now_ns,
                        interval_ns: length_ns,
                    };
                    table::csv(item, stamp, rows, out)?;
                }
            }
        }
        self.shown += shown.items.len() as u64;
        self.intervals += 1;
        self.since_ns = now_ns;
        self.events = 0;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.interval_ns.is_some() && self.count.is_some_and(|count| self.intervals >= count)
    }
}

impl View for Hist {
    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.since_ns = origin.started_ns;
        self.origin = Some(origin.clone());
        if origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        }
        match &mut self.printer {
            Printer::Csv { rows, columns, .. } => columns.titles(rows, out),
            Printer::Text { .. } | Printer::Json { .. } => Ok(()),
        }
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        self.events += 1;
        self.tracker.apply(event);
        Ok(Flow::Continue)
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.census(census, |_| {});
        Ok(Flow::Continue)
    }

    fn wants_samples(&self) -> bool {
        true
    }

    fn is_silent_until_finish(&self) -> bool {
        self.interval_ns.is_none() && !matches!(self.printer, Printer::Csv { .. })
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
        let shown = self.take(now_ns);
        self.print(now_ns, &shown, out)?;
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
        #[derive(Serialize)]
        struct Lines {
            /// Lines before this one.
            shown: u64,
            connections: Connections,
        }
        let books = self.tracker.books();
        if !self.is_full() {
            let shown = self.take(end.now_ns);
            // The last interval may have ended with the run.
            let is_over =
                self.interval_ns.is_some() && end.now_ns <= self.since_ns && self.events == 0;
            if !is_over || !shown.items.is_empty() {
                self.print(end.now_ns, &shown, out)?;
            }
        }
        let shown = self.shown;
        if let Printer::Json { lines, .. } = &mut self.printer {
            let connections = Connections::new(&books);
            return lines.write(&Summary::new(end, Lines { shown, connections }), out);
        }
        let plural = if shown == 1 { "" } else { "s" };
        write!(err, "{} histogram{plural} shown; ", Count(shown))?;
        tell_books(end, Some(&books), err)
    }
}

/// Why there is nothing to show.
fn nothing(of: HistogramOf, events: u64, others: usize) -> String {
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
