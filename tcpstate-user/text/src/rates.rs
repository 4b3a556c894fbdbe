//! `tcpstate rates`: per interval, how often each transition happened, and to which group.
//!
//! The transitions of all intervals add up to all events that this view was given: the run's last interval
//! is shown however short it was, if something happened in it. Where `COUNT` or `--duration` ends the run at
//! the end of an interval, that interval also takes the events that were still in the ring (`run`), and none
//! follows it.
//!
//! The number of sockets "now" in a state is the number that was seeded, changed by every transition since.
//! States that no transition shows (`TIME_WAIT`, orphans in `FIN_WAIT2`, half-open connections in
//! `SYN_RECV`) are sampled, or unknown.

mod groups;
mod lines;
mod text;

use std::io::{self, Write};

pub use self::lines::Intervals;

use serde::Serialize;
use tcpstate_common::State;
use tcpstate_core::{
    catalogue::Stamp,
    census::Census,
    event::Event,
    handshakes::Collector,
    model::{Books, By, Include, Interval, Tracker},
    names::{Early, Names},
    options::Format,
    origin::{Evidence, Origin},
    recalled::Recalled,
    tally::Tally,
    view::{End, Flow, View},
};

use self::{
    groups::{busiest_first, length_ns},
    lines::{Csv, Json},
    text::Text,
};
use crate::{
    books::Changes,
    format::units::{Count, Counted},
    printer::{Finish, Printer},
    settings::Settings,
};

/// The options of `rates`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The settings that all views share.
    pub settings: Settings,
    /// Length of an interval, nanoseconds.
    pub interval_ns: u64,
    /// The key that the second table groups by.
    pub by: By,
    /// Whether the source counts, without events: nothing is known of single connections.
    pub in_kernel: bool,
}

/// The view.
pub struct Rates {
    interval_ns: u64,
    by: By,
    /// Connections whose times the kernel evicted while it counted; `None`: it does not count.
    evicted: Option<u64>,
    tracker: Tracker,
    handshakes: Collector,
    printer: Printer<Text, Json, Csv>,
    names: Names,
    early: Early,
    /// Wall-clock time of monotonic 0.
    origin: Option<Origin>,
    shown: u64,
    /// The number of sockets in each state that was shown last.
    last_states: Vec<(State, u64)>,
}

impl Rates {
    /// A view with these options.
    pub fn new(options: &Options) -> Self {
        let &Options {
            ref settings,
            interval_ns,
            by,
            in_kernel,
        } = options;
        let printer = match settings.format {
            Format::Text => Printer::Text(Text::new(by, interval_ns, settings)),
            Format::Json => Printer::Json(Json::new(by)),
            Format::Csv => Printer::Csv(Csv::new(by)),
        };
        let tracker = if in_kernel {
            Tracker::without_events(settings.limits)
        } else {
            Tracker::new(settings.limits)
        };
        Self {
            interval_ns,
            by,
            evicted: in_kernel.then_some(0),
            tracker: tracker.by(by).without_histograms(),
            handshakes: Collector::default(),
            printer,
            names: Names::default(),
            early: Early::default(),
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
        let stamp = Stamp {
            wall_ns,
            ts_ns: interval.end_ns,
            interval_ns: length_ns(interval),
        };
        let handshakes = self.handshakes.tick();
        let sample_interval_ns = origin.and_then(|origin| origin.sample_interval_ns);
        match &mut self.printer {
            Printer::Text(text) => text.block(interval, groups, &handshakes, wall_ns, out),
            Printer::Json(json) => {
                json.write(interval, groups, handshakes, sample_interval_ns, stamp, out)
            }
            Printer::Csv(csv) => csv.write(groups, stamp, out),
        }
    }
}

impl View for Rates {
    fn set_names(&mut self, names: Names) {
        self.tracker.set_names(names.clone());
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        // The first interval begins here, not with the first event.
        self.tracker.tick(origin.started_ns);
        if origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        }
        self.origin = Some(origin.clone());
        match &mut self.printer {
            Printer::Csv(csv) => csv.titles(out),
            Printer::Text(_) | Printer::Json(_) => Ok(()),
        }
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.apply(event);
        if self.by == By::Cgroup {
            self.early.look_up(event.cgroup(), &self.names);
        }
        Ok(Flow::Continue)
    }

    fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
        self.tracker.recall(recalled);
        if let Recalled::Census(census) = recalled {
            self.handshakes.census(census);
        }
        Ok(Flow::Continue)
    }

    fn tally(&mut self, tally: &Tally) {
        self.tracker.add(tally);
        if let Some(evicted) = &mut self.evicted {
            *evicted += tally.forgotten;
        }
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.census(census, |_| {});
        self.handshakes.census(census);
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
        let mut rest = self.tracker.tick(end.now_ns);
        if end.evidence == Evidence::Packets {
            // A capture ends with its last packet, often after milliseconds: no more is known of a second than that.
            rest.end_ns = rest
                .end_ns
                .max(rest.start_ns.saturating_add(self.interval_ns));
        }
        // A census at the end can know better than the interval before it.
        let has_news = self.shown == 0 || rest.all.states != self.last_states;
        if rest.all.total() > 0 || (has_news && length_ns(&rest) > 0) {
            self.show(&rest, out)?;
        }
        let books = self.connections();
        let total = self.tracker.snapshot_of(Include::FIGURES).all;
        let finish = Finish {
            end,
            books: books.as_ref(),
            totals: Totals {
                intervals: self.shown,
                transitions: total.total(),
                opened: total.opened,
                established: total.established,
                closed: total.closed,
                failed: total.failed,
                connections: books,
                evicted: self.evicted,
                half_open_left_out: self.handshakes.left_out(),
            },
        };
        let (intervals, evicted) = (Counted(self.shown, "interval"), self.evicted);
        let left_out = self.handshakes.left_out();
        let sentence = |err: &mut dyn Write| {
            writeln!(err, "{intervals}; {}", Changes(end, books.as_ref()))?;
            writeln!(
                err,
                "opened {}, established {}, closed {}, failed {}",
                Count(total.opened),
                Count(total.established),
                Count(total.closed),
                Count(total.failed),
            )?;
            if let Some(evicted) = evicted.filter(|&count| count > 0) {
                writeln!(
                    err,
                    "{} times in a state are missing: more connections than --max-connections has room for",
                    Count(evicted)
                )?;
            }
            if left_out > 0 {
                writeln!(
                    err,
                    "half-open connections at {} places are missing: more than there is room for",
                    Count(left_out)
                )?;
            }
            Ok(())
        };
        self.printer.finish(finish, sentence, out, err)
    }

    fn left_out(&self) -> bool {
        self.evicted.is_some_and(|count| count > 0) || self.handshakes.left_out() > 0
    }

    fn connections(&self) -> Option<Books> {
        // Where the kernel counts, nothing is known of single ones.
        Some(self.tracker.books()).filter(|_| self.evicted.is_none())
    }
}

/// The fields of the last line of JSON that are not in all views.
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
    connections: Option<Books>,
    /// Connections whose times the kernel evicted while it counted.
    #[serde(rename = "forgotten", skip_serializing_if = "Option::is_none")]
    evicted: Option<u64>,
    /// Places with half-open connections that there was no room for, in all samples together.
    #[serde(skip_serializing_if = "is_zero")]
    half_open_left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
