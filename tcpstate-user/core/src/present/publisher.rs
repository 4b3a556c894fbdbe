//! The publisher: a view of the stream that makes the snapshots.

use std::{
    any::Any,
    io::{self, Write},
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::{
    asked::{Asked, Asker},
    channel::{Sender, Subscriber},
    findings::Findings,
    snapshot::RunSnapshot,
};
use crate::{
    books::RunBooks,
    census::Census,
    diagnosis::{Finding, Look, Looks, Thresholds},
    event::Event,
    filter::PortSet,
    handshakes::{Collector, Handshakes},
    model::{Applied, Books, By, Connections, Include, Interval, Limits, Tracker},
    names::{Early, Names},
    origin::Origin,
    recalled::Recalled,
    tally::Tally,
    view::{End, Flow, Rewind, View},
};

/// The contents of a [`Publisher`]'s snapshots.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The time from one snapshot to the next, nanoseconds.
    pub interval_ns: u64,
    /// The grouping of figures, until somebody asks for another one.
    pub by: By,
    /// The parts that cost more than figures.
    pub include: Include,
    /// Whether the source counts in the kernel and hands on no event: single connections are then known
    /// only from the latest dump.
    pub in_kernel: bool,
    /// The bounds of what is kept.
    pub limits: Limits,
}

/// Publishes a [`RunSnapshot`] at each tick, and a last one at the end of the run. Writes nothing.
pub struct Publisher {
    interval_ns: u64,
    by: By,
    include: Include,
    /// The connections of each state that a snapshot has where a subscriber has asked for them.
    on_request: Option<usize>,
    tracker: Tracker,
    handshakes: Collector,
    /// `None` where the source hands on events.
    forgotten: Option<u64>,
    /// `None` before the run has started.
    origin: Option<Arc<Origin>>,
    names: Names,
    early: Early,
    books: RunBooks,
    /// The interval that ended last, if it was passed over.
    passed: Option<(Interval, Handshakes)>,
    findings: Option<Findings>,
    /// Snapshots published.
    published: u64,
    sender: Sender,
    asked: Asked,
}

/// The state of a [`Publisher`] that later events need.
struct Kept {
    tracker: Tracker,
    handshakes: Collector,
    forgotten: Option<u64>,
    findings: Option<Findings>,
}

impl Publisher {
    /// A publisher that has published nothing.
    pub fn new(options: &Options) -> Self {
        let mut tracker = if options.in_kernel {
            Tracker::without_events(options.limits)
        } else {
            Tracker::new(options.limits)
        }
        .by(options.by);
        if !options.include.histograms {
            tracker = tracker.without_histograms();
        }
        Self {
            interval_ns: options.interval_ns,
            by: options.by,
            include: options.include,
            on_request: None,
            tracker,
            handshakes: Collector::default(),
            forgotten: options.in_kernel.then_some(0),
            origin: None,
            names: Names::default(),
            early: Early::default(),
            books: RunBooks::default(),
            passed: None,
            findings: None,
            published: 0,
            sender: Sender::default(),
            asked: Asked::default(),
        }
    }

    /// Looks for findings too, with what a first look at the host has shown and what further ones will. Without looks,
    /// as of a recording, the tracker's connections stand for them.
    #[must_use]
    pub fn diagnosing(
        mut self,
        thresholds: Thresholds,
        first: Look,
        looks: Option<Box<dyn Looks>>,
    ) -> Self {
        self.findings = Some(Findings::new(thresholds, first, looks));
        self
    }

    /// The same with figures by port only for these service ports; those of all others are `other`.
    #[must_use]
    pub fn with_ports(mut self, ports: &PortSet) -> Self {
        self.tracker = self.tracker.with_ports(ports);
        self
    }

    /// The same with the open connections in a snapshot after a subscriber
    /// [asked for them](Subscriber::want_connections): of each state, those that have been in it longest, at most so many.
    /// So they cost only while somebody looks at them.
    #[must_use]
    pub const fn with_connections_on_request(mut self, most: usize) -> Self {
        self.on_request = Some(most);
        self
    }

    /// Takes an event, as a view does, and hands on its meaning.
    #[inline]
    pub fn event_then(&mut self, event: &Event, then: impl FnOnce(&Applied<'_>)) {
        let applied = self.tracker.apply(event);
        if let Some(findings) = &mut self.findings {
            findings.event(event, &applied);
        }
        then(&applied);
        if self.by == By::Cgroup {
            self.early.look_up(event.cgroup(), &self.names);
        }
    }

    /// The same with figures by port only for service ports that have lasted or are frequent
    /// ([`Tracker::with_probation`]).
    #[must_use]
    pub fn with_probation(mut self) -> Self {
        self.tracker = self.tracker.with_probation();
        self
    }

    /// A new consumer. Its first snapshot is the latest one, or the next where there is none yet.
    pub fn subscribe(&self) -> Subscriber {
        self.sender.subscribe()
    }

    /// Whoever has this can ask for another grouping.
    pub fn asker(&self) -> Asker {
        self.asked.asker()
    }

    /// Groups the figures in another way, and publishes them with the interval that was published last: its figures by
    /// the new groups are not known.
    fn group_by(&mut self, by: By) {
        self.by = by;
        self.tracker.group_by(by);
        let Some(latest) = self.sender.latest().filter(|latest| !latest.is_final) else {
            return;
        };
        let interval = Interval {
            groups: Vec::new(),
            ..latest.interval.clone()
        };
        let handshakes = latest.handshakes.clone().unwrap_or_default();
        self.publish(interval, handshakes, latest.findings.clone(), false);
    }

    /// The findings at the end of an interval.
    fn find(&mut self, now_ns: u64, is_last: bool) -> Option<Vec<Finding>> {
        let findings = self.findings.as_mut()?;
        Some(findings.tick(&mut self.tracker, now_ns, is_last))
    }

    fn publish(
        &mut self,
        interval: Interval,
        handshakes: Handshakes,
        findings: Option<Vec<Finding>>,
        is_final: bool,
    ) {
        // The driver starts a view before all else.
        let Some(origin) = self.origin.clone() else {
            return;
        };
        self.published += 1;
        let mut include = self.include;
        if let Some(most) = self.on_request.filter(|_| self.sender.take_wish()) {
            include.connections = Connections::Longest(most);
        }
        let mut tracker = self.tracker.snapshot_of(include);
        tracker.now_ns = tracker.now_ns.max(interval.end_ns);
        // Whoever reads the snapshot may not be allowed to look names up, and finds them known.
        let mut early = Early::default();
        for connection in &tracker.connections {
            early.look_up(connection.cgroup, &self.names);
        }
        let counters = self.findings.as_mut().map(|looking| {
            // Whoever asks for connections once has no use for counters of the next look.
            if self.on_request.is_none() {
                looking.ask_counters(&tracker.connections);
            }
            looking.counters()
        });
        self.sender.publish(RunSnapshot {
            number: self.published,
            is_final,
            names: self.names.clone(),
            interval,
            tracker,
            connections: include.connections,
            handshakes: origin.sample_interval_ns.map(|_| handshakes),
            forgotten: self.forgotten,
            books: self.books,
            memory: self.tracker.memory(),
            findings,
            counters: counters.unwrap_or_default(),
            facts: self
                .findings
                .as_ref()
                .map(Findings::facts)
                .unwrap_or_default(),
            survey: self.findings.as_ref().and_then(Findings::survey),
            origin,
        });
    }
}

impl View for Publisher {
    fn set_names(&mut self, names: Names) {
        self.tracker.set_names(names.clone());
        self.names = names;
    }

    fn start(&mut self, origin: &Origin, _out: &mut dyn Write) -> io::Result<()> {
        // The first interval begins here, not with the first event.
        self.tracker.tick(origin.started_ns);
        if origin.sample_interval_ns.is_some() {
            self.tracker.follow();
        }
        if let Some(findings) = &mut self.findings {
            findings.begin(origin);
        }
        self.origin = Some(Arc::new(origin.clone()));
        Ok(())
    }

    fn look_ahead(&self, events: &[Event]) {
        self.tracker.look_ahead(events);
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        self.event_then(event, |_| {});
        Ok(Flow::Continue)
    }

    fn census(&mut self, census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.census(census, |_| {});
        self.handshakes.census(census);
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
        if let Some(forgotten) = &mut self.forgotten {
            *forgotten += tally.forgotten;
        }
    }

    fn poll_asked(&mut self, cx: &Context<'_>) -> Poll<()> {
        let by = ready!(self.asked.poll(cx));
        self.group_by(by);
        Poll::Ready(())
    }

    fn wants_samples(&self) -> bool {
        true
    }

    fn interval_ns(&self) -> Option<u64> {
        Some(self.interval_ns)
    }

    fn wants_books(&self) -> bool {
        true
    }

    fn books(&mut self, books: &RunBooks) {
        self.books = *books;
    }

    fn tick(&mut self, now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        self.passed = None;
        let interval = self.tracker.tick(now_ns);
        let handshakes = self.handshakes.tick();
        let findings = self.find(now_ns, false);
        self.publish(interval, handshakes, findings, false);
        Ok(Flow::Continue)
    }

    fn finish(&mut self, end: &End, _out: &mut dyn Write, _err: &mut dyn Write) -> io::Result<()> {
        self.books = end.books();
        let interval = self.tracker.tick(end.now_ns);
        let handshakes = self.handshakes.tick();
        let findings = self.find(end.now_ns, true);
        self.publish(interval, handshakes, findings, true);
        Ok(())
    }

    fn connections(&self) -> Option<Books> {
        // Where the kernel counts, nothing is known of single ones.
        Some(self.tracker.books()).filter(|_| self.forgotten.is_none())
    }

    fn rewind(&mut self) -> Option<&mut dyn Rewind> {
        Some(self)
    }
}

impl Rewind for Publisher {
    fn keep(&self) -> Box<dyn Any> {
        Box::new(Kept {
            tracker: self.tracker.clone(),
            handshakes: self.handshakes.clone(),
            forgotten: self.forgotten,
            findings: self.findings.as_ref().map(Findings::keep),
        })
    }

    fn kept_bytes(&self) -> usize {
        self.tracker.memory().total()
    }

    fn restore(&mut self, kept: &dyn Any) {
        let Some(kept) = kept.downcast_ref::<Kept>() else {
            return;
        };
        self.tracker.clone_from(&kept.tracker);
        // It may be of a time before another grouping was asked for.
        self.tracker.group_by(self.by);
        self.handshakes.clone_from(&kept.handshakes);
        self.forgotten = kept.forgotten;
        if let (Some(findings), Some(kept)) = (&mut self.findings, &kept.findings) {
            findings.restore(kept);
        }
        self.passed = None;
    }

    fn pass_tick(&mut self, now_ns: u64) {
        self.passed = Some((self.tracker.tick(now_ns), self.handshakes.tick()));
        self.find(now_ns, false);
    }

    fn show(&mut self, now_ns: u64) {
        let passed = self.passed.clone();
        let ended = passed
            .or_else(|| {
                let latest = self.sender.latest()?;
                let handshakes = latest.handshakes.clone().unwrap_or_default();
                Some((latest.interval.clone(), handshakes))
            })
            .filter(|(interval, _)| interval.end_ns == now_ns);
        let (interval, handshakes) = ended.unwrap_or_else(|| {
            (
                self.tracker.interval_so_far(now_ns),
                self.handshakes.clone().tick(),
            )
        });
        let findings = self.findings.as_ref().map(Findings::latest);
        self.publish(interval, handshakes, findings, false);
    }
}
