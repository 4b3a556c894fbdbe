//! Joins the RSTs that this kernel sends with the ends of their connections, to which they stand next in the ring:
//! the kernel sends one just after the transition to CLOSE, or just before.
//!
//! An end whose cause a RST decides (`awaits_reset`) is held until its RST comes, or for [`hold_ns`]; and so are
//! the events behind it, so that their order remains. Pure: records and times come in as arguments.

use std::collections::VecDeque;

use tcpstate_common::{
    Record, State,
    record::{Reset, end, flags},
    transition::{awaits_reset, closes},
};
use tcpstate_core::event::Event;

use super::layout::ResetCodes;

/// The longest time from the end of a connection to its RST. Between the two, the kernel may handle packets of other
/// connections on that CPU, and a hypervisor may take the CPU away.
const HOLD_NS: u64 = 20_000_000;
/// The same where a process ends the connection, which another task may interrupt before it sends the RST. Nearly
/// every such end has one.
const PROCESS_HOLD_NS: u64 = 60_000_000;
/// The longest time that any end waits.
pub(super) const LONGEST_HOLD_NS: u64 = PROCESS_HOLD_NS;
/// RSTs kept that came before the end of their connection. It follows at once, so this many are not waiting.
const MAX_EARLY: usize = 64;
/// Ends in which one that fits is searched. Other CPUs make no more in between.
const MAX_SEARCHED: usize = 1_024;

/// Events for which room is made at once, at least.
const ROOM: usize = 256;

/// The events that have been read and not handed on.
#[derive(Default)]
pub(super) struct Ends {
    /// Whether RSTs are seen.
    watches: bool,
    codes: Option<ResetCodes>,
    events: Vec<Event>,
    /// The ends in `events` that wait for a RST, oldest first.
    waiting: VecDeque<usize>,
    /// RSTs of connections that have not ended.
    early: VecDeque<Reset>,
}

impl Ends {
    /// `watches`: the RSTs of this kernel are seen. Otherwise no end waits.
    pub(super) fn new(watches: bool, codes: Option<ResetCodes>) -> Self {
        Self {
            watches,
            codes,
            ..Self::default()
        }
    }

    /// Takes the next event of the ring.
    #[inline]
    pub(super) fn push(&mut self, event: Event) {
        if event.newstate() == State::CLOSE && self.watches {
            self.push_end(event);
        } else {
            self.events.push(event);
        }
    }

    fn push_end(&mut self, mut event: Event) {
        let record = event.record();
        let skaddr = record.skaddr;
        let awaits = closes(record.oldstate, record.newstate) && may_be_reset(record);
        let early = self
            .early
            .iter()
            .position(|reset| reset.skaddr == skaddr)
            .and_then(|at| self.early.remove(at));
        if let Some(reset) = early.filter(|reset| is_near(reset.ts_ns, event.ts_ns())) {
            event.add_end_facts(self.facts(&reset));
        } else if awaits {
            self.waiting.push_back(self.events.len());
        }
        self.events.push(event);
    }

    /// Takes a RST, the next record of the ring.
    pub(super) fn reset(&mut self, reset: Reset) {
        if !self.watches {
            return;
        }
        if reset.state != State::CLOSE {
            self.early.retain(|early| is_near(early.ts_ns, reset.ts_ns));
            if self.early.len() == MAX_EARLY {
                self.early.pop_front();
            }
            self.early.push_back(reset);
            return;
        }
        let facts = self.facts(&reset);
        let newest = self.waiting.iter().rev().take(MAX_SEARCHED);
        let fits = |&&at: &&usize| {
            let event: Option<&Event> = self.events.get(at);
            event.is_some_and(|event| event.record().skaddr == reset.skaddr)
        };
        if let Some(&at) = newest.clone().find(fits) {
            if let Some(event) = self.events.get_mut(at) {
                event.add_end_facts(facts);
            }
            // Nearly always the last one.
            if let Some(place) = self.waiting.iter().rposition(|&waiting| waiting == at) {
                self.waiting.remove(place);
            }
        }
    }

    fn facts(&self, reset: &Reset) -> u32 {
        let number = usize::from(reset.reason).checked_sub(1);
        let code = number.and_then(|number| self.codes.as_ref()?.get(number).copied());
        end::with_reason(end::RESET_SENT, code.unwrap_or(0))
    }

    /// The number of events that have not been handed on.
    pub(super) const fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether one of the first so many events waits for a RST.
    pub(super) fn waits_before(&self, count: usize) -> bool {
        self.waiting.front().is_some_and(|&at| at < count)
    }

    /// The events that have been taken since there were this many.
    pub(super) fn since(&self, len: usize) -> &[Event] {
        self.events.get(len..).unwrap_or_default()
    }

    /// Time of the earliest event that has not been handed on.
    pub(super) fn earliest_ns(&self) -> Option<u64> {
        self.events.iter().map(Event::ts_ns).min()
    }

    /// Time of the latest event that has been read.
    pub(super) fn latest_ns(&self) -> Option<u64> {
        self.events.last().map(Event::ts_ns)
    }

    /// The events up to the first end that still waits. `read_until_ns`: all records from before this time have
    /// been read.
    pub(super) fn take(&mut self, read_until_ns: u64) -> Vec<Event> {
        while let Some(event) = self.waiting.front().and_then(|&at| self.events.get_mut(at)) {
            if event.ts_ns().saturating_add(hold_ns(event.record())) > read_until_ns {
                break;
            }
            event.add_end_facts(end::NO_RESET);
            self.waiting.pop_front();
        }
        self.take_first(self.waiting.front().copied().unwrap_or(self.events.len()))
    }

    /// The first so many events, whether they wait or not.
    pub(super) fn take_first(&mut self, count: usize) -> Vec<Event> {
        let count = count.min(self.events.len());
        if count == 0 {
            return Vec::new();
        }
        let behind = self.events.get(count..).unwrap_or_default();
        // About as many come again.
        let mut rest = Vec::with_capacity(behind.len() + count.max(ROOM));
        rest.extend_from_slice(behind);
        self.events.truncate(count);
        while self.waiting.front().is_some_and(|&at| at < count) {
            self.waiting.pop_front();
        }
        for at in &mut self.waiting {
            *at -= count;
        }
        std::mem::replace(&mut self.events, rest)
    }
}

/// Whether a RST decides about the cause of this end.
fn may_be_reset(record: &Record) -> bool {
    record.flags & flags::SOCKET != 0 && awaits_reset(record.oldstate, record.error, record.flags)
}

/// The time that this end waits for its RST.
const fn hold_ns(record: &Record) -> u64 {
    if record.error == 0 && record.oldstate.0 != State::FIN_WAIT2.0 {
        PROCESS_HOLD_NS
    } else {
        HOLD_NS
    }
}

const fn is_near(earlier_ns: u64, ns: u64) -> bool {
    ns.saturating_sub(earlier_ns) <= HOLD_NS
}

#[cfg(test)]
mod tests {
    use tcpstate_common::record::AF_INET;
    use tcpstate_core::cause::{Cause, ResetReason};

    use super::*;

    const SHUT: u8 = flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;

    /// The end of a connection by data that came after the close, or by a RST of the peer.
    fn end(skaddr: u64, ts_ns: u64) -> Event {
        Event::try_from(Record {
            ts_ns,
            skaddr,
            oldstate: State::FIN_WAIT1,
            newstate: State::CLOSE,
            error: 104,
            flags: flags::SOCKET | SHUT | flags::DEAD,
            family: AF_INET,
            ..Record::default()
        })
        .unwrap()
    }

    fn other(skaddr: u64, ts_ns: u64) -> Event {
        let record = Record {
            newstate: State::FIN_WAIT2,
            ..*end(skaddr, ts_ns).record()
        };
        Event::try_from(record).unwrap()
    }

    fn reset(skaddr: u64, ts_ns: u64, state: State) -> Reset {
        Reset {
            ts_ns,
            skaddr,
            state,
            reason: 8 + 1,
            padding: [0; 6],
        }
    }

    /// Watching, with the kernel's reason 8 being `tcp_abort_on_data`.
    fn watching() -> Ends {
        let mut codes = [0; 64];
        codes[8] = tcpstate_core::cause::reset_code("SK_RST_REASON_TCP_ABORT_ON_DATA").unwrap();
        Ends::new(true, Some(codes))
    }

    fn causes(events: &[Event]) -> Vec<Option<Cause>> {
        events.iter().map(Cause::of).collect()
    }

    #[test]
    fn an_end_waits_for_its_reset_and_what_is_behind_it_waits_too() {
        let mut ends = watching();
        for event in [other(1, 1_000), end(2, 1_001), other(3, 1_002)] {
            ends.push(event);
        }
        assert_eq!(ends.take(1_003), [other(1, 1_000)]);
        assert_eq!((ends.len(), ends.earliest_ns()), (2, Some(1_001)));
        ends.reset(reset(2, 1_003, State::CLOSE));
        let events = ends.take(1_004);
        assert_eq!(causes(&events), [Some(Cause::ResetLocally), None]);
        let reason = ResetReason::of(&events[0]).map(ResetReason::name);
        assert_eq!(reason, Some("tcp_abort_on_data"));
        assert_eq!(ends.len(), 0);
    }

    #[test]
    fn an_end_without_a_reset_is_the_peers() {
        let mut ends = watching();
        ends.push(end(1, 1_000));
        assert_eq!(ends.take(1_000 + HOLD_NS - 1), []);
        assert_eq!(
            causes(&ends.take(1_000 + HOLD_NS)),
            [Some(Cause::ResetByPeer)]
        );
        // Its own comes too late, and another socket's is not its own.
        ends.push(end(1, 2_000));
        ends.reset(reset(2, 2_001, State::CLOSE));
        assert_eq!(
            causes(&ends.take(2_000 + HOLD_NS)),
            [Some(Cause::ResetByPeer)]
        );
    }

    #[test]
    fn an_end_that_is_not_waited_for_is_not_known() {
        let mut ends = watching();
        ends.push(end(1, 1_000));
        ends.push(end(2, 1_001));
        assert_eq!(causes(&ends.take_first(1)), [Some(Cause::Unknown)]);
        ends.reset(reset(2, 1_002, State::CLOSE));
        assert_eq!(causes(&ends.take(1_002)), [Some(Cause::ResetLocally)]);

        let mut blind = Ends::new(false, None);
        blind.push(end(1, 1_000));
        assert_eq!(causes(&blind.take(1_000)), [Some(Cause::Unknown)]);
    }

    #[test]
    fn the_latest_end_of_an_address_is_the_resets() {
        let mut ends = watching();
        for event in [end(1, 1_000), end(1, 1_100)] {
            ends.push(event);
        }
        ends.reset(reset(1, 1_101, State::CLOSE));
        assert_eq!(
            causes(&ends.take(1_100 + HOLD_NS)),
            [Some(Cause::ResetByPeer), Some(Cause::ResetLocally)]
        );
    }

    #[test]
    fn a_reset_can_come_before_its_end() {
        let mut ends = watching();
        ends.reset(reset(1, 1_000, State::FIN_WAIT2));
        ends.reset(reset(2, 1_000, State::FIN_WAIT2));
        ends.push(end(1, 1_010));
        // Of a socket at the same address, which has since been used again.
        ends.push(end(2, 1_001 + HOLD_NS));
        assert_eq!(
            causes(&ends.take(1_011 + 2 * HOLD_NS)),
            [Some(Cause::ResetLocally), Some(Cause::ResetByPeer)]
        );
        for at in 0..1_000 {
            ends.reset(reset(at, 2_000, State::ESTABLISHED));
        }
        assert_eq!(ends.early.len(), MAX_EARLY);
    }

    #[test]
    fn an_end_that_no_reset_explains_waits_for_none() {
        let mut ends = watching();
        let in_order = Event::try_from(Record {
            oldstate: State::LAST_ACK,
            error: 0,
            ..*end(1, 1_000).record()
        });
        ends.push(in_order.unwrap());
        assert_eq!(causes(&ends.take(1_000)), [Some(Cause::Fin)]);
    }
}
