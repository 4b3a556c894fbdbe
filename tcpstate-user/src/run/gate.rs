//! The filter: passes the events of the sockets for which an expression is true.
//!
//! An event alone does not always decide it. The kernel may not have set yet what is asked: then the event is held
//! until its socket's next one. A server's connection belongs to the process that listens there: then the gate tracks
//! all connections, as a view does. A view behind it sees each of its connections completely.

use hashbrown::HashSet;
use tcpstate_common::{State, transition::opens};
use tcpstate_core::{
    books::Settled,
    cause::goes_on,
    census::{Census, Found},
    event::Event,
    expression::{Cgroups, EntryFacts, EventFacts, Expression, Truth},
    filter::{Held, Waiting},
    model::{Applied, Limits, StateExit, Tracker},
    names::Names,
    packet::ConnectionPacket,
};

/// The stage before a view, if there is a filter.
#[derive(Clone)]
pub(super) struct Gate {
    /// Its own tracker, if an event alone does not decide.
    tracker: Option<Tracker>,
    selection: Selection,
    held: Held,
    /// The cookies of selected connections that continued as minisockets.
    going_on: HashSet<u64>,
    max_going_on: usize,
    settled: Settled,
}

/// The events that a view gets after the gate was given one, in this order.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// An earlier event of the same socket, held until now.
    pub(super) earlier: Option<Pass>,
    /// Whether `earlier` is from before the beginning.
    pub(super) is_recalled: bool,
    /// Whether the event itself is shown; if not, the view only follows the connection. `None`: the view does not get it. It is
    /// where it was: a copy of each event would cost more than most filters.
    pub(super) event: Option<IsShown>,
}

/// Whether a view shows an event.
type IsShown = bool;

/// An earlier event that a view gets.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) event: Event,
    /// Whether it shows it. If not, it only follows the connection.
    pub(super) is_shown: IsShown,
}

impl Gate {
    /// Creates a gate; `follows` says that censuses will report the end of minisockets.
    pub(super) fn new(
        expression: &Expression,
        names: Names,
        limits: Limits,
        follows: bool,
    ) -> Self {
        let tracker = expression.needs_history().then(|| {
            let mut tracker = Tracker::new(limits).without_rates().without_histograms();
            if follows {
                tracker.follow();
            }
            tracker
        });
        let lasting = expression.lasting();
        Self {
            selection: Selection {
                shown: (*expression != lasting).then(|| expression.clone()),
                by_process: lasting.needs_process(),
                lasting,
                cgroups: Cgroups::new(names),
                by_holder: HashSet::new(),
                max_by_holder: limits.max_connections,
            },
            held: Held::default(),
            going_on: HashSet::new(),
            max_going_on: if follows && tracker.is_some() {
                limits.max_connections
            } else {
                0
            },
            tracker,
            settled: Settled::default(),
        }
    }

    /// Removes the entries of other sockets from a census. A minisocket has the owner of its connection, and
    /// a half-open connection that of its listener.
    ///
    /// A listener that a selected process turns out to hold is added: the view has not seen it begin.
    pub(super) fn census(&mut self, census: &mut Census) {
        let mut gone = Vec::new();
        if let Some(tracker) = &mut self.tracker {
            tracker.census(census, |left| gone.extend(gone_for_good(left)));
        }
        self.select(census, gone);
    }

    /// As [`Gate::census`], from before the beginning.
    pub(super) fn recall_census(&mut self, census: &mut Census) {
        let mut gone = Vec::new();
        if let Some(tracker) = &mut self.tracker {
            tracker.recall_census(census, |left| gone.extend(gone_for_good(left)));
        }
        self.select(census, gone);
    }

    fn select(&mut self, census: &mut Census, gone: Vec<u64>) {
        let (tracker, going_on) = (self.tracker.as_ref(), &mut self.going_on);
        let Selection {
            lasting,
            cgroups,
            by_holder,
            ..
        } = &self.selection;
        let netns = census.netns;
        let is_wanted = |facts: &EntryFacts<'_>| lasting.judge(facts) == Truth::Yes;
        let wants = |found: &Found| {
            let mut facts = EntryFacts::of(found, netns, cgroups);
            if let Some(tracker) = tracker {
                (facts.role, facts.owner, facts.uid, facts.cgroup) = tracker.attributes(found);
                facts.holders = tracker.holders(found, netns).map_or(&[], |all| all);
            }
            is_wanted(&facts)
        };
        census.found.retain(|found| {
            let cookie = &found.cookie;
            going_on.contains(cookie) || by_holder.contains(cookie) || wants(found)
        });
        let found = &mut census.found;
        census.held.retain(|held| {
            let Some(tracker) = tracker else {
                return is_wanted(&EntryFacts::of_listener(held, netns, cgroups));
            };
            let listener = tracker.listener(held).filter(wants);
            let is_wanted = listener.is_some();
            found.extend(listener.filter(|_| found.iter().all(|one| one.cookie != held.cookie)));
            is_wanted
        });
        for cookie in gone {
            going_on.remove(&cookie);
        }
        census.half_open.retain(|half_open| {
            let mut facts = EntryFacts::of_half_open(half_open, netns, cgroups);
            if let Some(tracker) = tracker {
                facts.owner = tracker.listener_of(half_open, netns);
                facts.holders = tracker.holders_of(half_open, netns).map_or(&[], |all| all);
            }
            is_wanted(&facts)
        });
    }

    /// The events that the view gets. Must be called for every event, in order.
    pub(super) fn push(&mut self, event: &Event) -> Passed {
        self.pass(event, false)
    }

    /// As [`Gate::push`], for an event from before the beginning, which counts nowhere.
    pub(super) fn recall(&mut self, event: &Event) -> Passed {
        let settled = self.settled;
        let passed = self.pass(event, true);
        self.settled = settled;
        passed
    }

    fn pass(&mut self, event: &Event, is_recalled: bool) -> Passed {
        let applied = self.tracker.as_mut().map(|tracker| {
            if is_recalled {
                tracker.recall_event(event)
            } else {
                tracker.apply(event)
            }
        });
        let selection = &mut self.selection;
        let truth = selection.judge(event, applied.as_ref());
        let held = self.held.take(event);
        let mut passed = Passed {
            is_recalled: held.is_some_and(|held| held.is_recalled),
            ..Passed::default()
        };
        if let Some(Waiting { event: held, .. }) = held {
            // Undecided again: this one has no more than the one before it.
            let shown = selection.shown(truth, &held, event, applied.as_ref());
            if !passed.is_recalled {
                count(&mut self.settled, shown);
            }
            passed.earlier = (truth == Truth::Yes).then_some(Pass {
                event: held,
                is_shown: shown == Truth::Yes,
            });
        }
        let facts = selection.facts(event, event, applied.as_ref());
        let shown = selection.shown(truth, event, event, applied.as_ref());
        if shown == Truth::Unknown && facts.is_pending() {
            self.held.hold(Waiting {
                event: *event,
                is_recalled,
            });
            return passed;
        }
        count(&mut self.settled, shown);
        passed.event = (truth == Truth::Yes).then_some(shown == Truth::Yes);
        if truth == Truth::Yes
            && self.going_on.len() < self.max_going_on
            && let (Some(cookie), Some(_)) = (event.cookie(), goes_on(event))
        {
            self.going_on.insert(cookie);
        }
        passed
    }

    /// Removes the packets of connections of which neither socket can be wanted. Returns whether the others are wanted; otherwise
    /// only events decide.
    pub(super) fn packets(&self, packets: &mut Vec<ConnectionPacket>) -> bool {
        let selection = &self.selection;
        let are_sure = selection.shown.is_none() && !selection.lasting.needs_history();
        let may_be_wanted = |event: &Event| {
            let truth = selection
                .lasting
                .judge(&selection.facts(event, event, None));
            truth == Truth::Yes || truth == Truth::Unknown && !are_sure
        };
        packets.retain(|packet| packet.as_events().any(|event| may_be_wanted(&event)));
        are_sure
    }

    /// The decisions so far, without the events that are held.
    pub(super) const fn settled(&self) -> Settled {
        let mut settled = self.settled;
        settled.undecided += self.held.given_up();
        settled
    }

    /// Bytes of its tracker, which is nearly all of it.
    pub(super) fn memory(&self) -> usize {
        let tracker = self.tracker.as_ref();
        tracker.map_or(0, |tracker| tracker.memory().total())
    }

    /// Gives up the events that are still held, at the end of the stream.
    pub(super) fn finish(&mut self) {
        self.held.finish();
    }
}

fn count(settled: &mut Settled, shown: Truth) {
    match shown {
        Truth::Yes => settled.passed += 1,
        Truth::No => settled.filtered += 1,
        Truth::Unknown => settled.undecided += 1,
    }
}

/// The selected sockets.
#[derive(Clone)]
struct Selection {
    /// The condition on a socket.
    lasting: Expression,
    /// The condition on an event that is shown, if there is a further one.
    shown: Option<Expression>,
    by_process: bool,
    cgroups: Cgroups,
    /// The cookies of open sockets that another process than their owner selected: they stay so when their
    /// listener is gone.
    by_holder: HashSet<u64>,
    max_by_holder: usize,
}

impl Selection {
    fn facts<'a>(
        &'a self,
        event: &'a Event,
        latest: &'a Event,
        applied: Option<&'a Applied<'a>>,
    ) -> EventFacts<'a> {
        EventFacts {
            event,
            latest,
            applied,
            cgroups: &self.cgroups,
            with_holders: true,
        }
    }

    /// Whether the socket of this event is selected.
    fn judge(&mut self, event: &Event, applied: Option<&Applied<'_>>) -> Truth {
        let facts = self.facts(event, event, applied);
        let truth = self.lasting.judge(&facts);
        let Some(cookie) = event.cookie().filter(|_| self.by_process) else {
            return truth;
        };
        let closes = event.newstate() == State::CLOSE;
        let was_selected = if closes || opens(event.oldstate(), event.newstate()) {
            self.by_holder.remove(&cookie) && closes
        } else {
            self.by_holder.contains(&cookie)
        };
        if was_selected {
            return Truth::Yes;
        }
        let facts = EventFacts {
            with_holders: false,
            ..self.facts(event, event, applied)
        };
        if truth == Truth::Yes
            && !closes
            && self.by_holder.len() < self.max_by_holder
            && self.lasting.judge(&facts) != Truth::Yes
        {
            self.by_holder.insert(cookie);
        }
        truth
    }

    /// Whether an event of a socket is shown that is selected so far as this truth says.
    fn shown(
        &self,
        truth: Truth,
        event: &Event,
        latest: &Event,
        applied: Option<&Applied<'_>>,
    ) -> Truth {
        match &self.shown {
            Some(shown) if truth == Truth::Yes => shown.judge(&self.facts(event, latest, applied)),
            _ => truth,
        }
    }
}

/// The cookie of a minisocket of which nothing is left.
fn gone_for_good(left: &StateExit) -> Option<u64> {
    left.then.is_none().then_some(left.cookie)
}

#[cfg(test)]
mod tests;
