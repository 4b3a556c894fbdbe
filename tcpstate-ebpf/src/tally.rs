//! Counting in the kernel, for `rates --in-kernel`: transitions are counted in maps, and nothing is streamed.
//!
//! For each socket, a place remembers the time of its last transition and the row that counts its transitions
//! ([`places`]). [`services`] assigns rows to services, and [`counts`] updates the counts.
//!
//! There are no locks and no atomic instructions: each CPU has counts of its own for each of the two programs
//! (`nested`), the transitions of a socket are
//! serialized, and a digest (`Place::check`) reveals a place that two sockets took at the same time. Before
//! Linux 6.1, one run can interrupt another on the same CPU; an update made between a load and its store is then
//! lost, as with all counts (`emit`), and the books show it by not balancing.

mod counts;
mod places;
mod services;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tcpstate_common::{
    Counters, State,
    filter::Key,
    tally::{Failure, Note, Place, Row, end_kind, row},
    transition::{awaits_reset, closes, opens, stays_in_fin_wait2},
};

use self::{
    counts::{Counts, add_end, index, move_end},
    places::Slot,
    services::{guessed_role, opening_role, row_of},
};
use crate::{
    emit::{self, Transition as _, count},
    filter,
    maps::config,
    nested::Part,
    socket::Call,
};

/// Counts one transition.
#[inline(always)]
pub(crate) fn count(call: &Call, part: Part, counters: *mut Counters) {
    if !emit::begin(call, counters) {
        return;
    }
    let verdict = judge(call, part, counters);
    if let Verdict::Filtered = verdict {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let counted = Change::new(call, part, now_ns).and_then(|change| match verdict {
        Verdict::Undecided => {
            change.postpone();
            Some(())
        }
        _ => change.apply(call),
    });
    // The lookups never fail, but the verifier requires the checks.
    if counted.is_some() {
        count!(counters.submitted);
    } else {
        count!(counters.lost_ring_full);
    }
}

/// Counts a RST: it changes the cause of the end that has just been counted, or of the one that follows.
#[inline(always)]
pub(crate) fn count_reset(call: &Call) {
    let Some(note) = Slot::note_of(call) else {
        return;
    };
    if call.states().0.0 != State::CLOSE.0 {
        // SAFETY: the map lookup returned a valid pointer.
        unsafe {
            (*note).end = Note::RESET;
            (*note).skaddr = call.skaddr();
        }
        return;
    }
    // SAFETY: as above.
    let end = unsafe {
        if (*note).skaddr != call.skaddr() {
            return;
        }
        (*note).skaddr = 0;
        (*note).end
    };
    // The first program may be interrupted here, the second is not.
    if let Some(counts) = Counts::of(Part::Second).row(u32::from(end.row)) {
        move_end(counts, end);
    }
}

/// The filters' verdict on a transition.
enum Verdict {
    /// It passes.
    Kept,
    /// The socket's next transition decides.
    Undecided,
    /// It does not pass, and has been counted as filtered.
    Filtered,
}

/// Applies the filters, if there are any.
#[inline(always)]
fn judge(call: &Call, part: Part, counters: *mut Counters) -> Verdict {
    if config!(has_filter) == 0 {
        return Verdict::Kept;
    }
    let call = call.with_tcp();
    let key = call.key();
    let truth = emit::judge(&call, &key, counters);
    if !truth.may {
        // No further transition of this socket is kept, so nothing else would free its place.
        if filter::may_be_undecided() {
            forget(&call, part);
        }
        return Verdict::Filtered;
    }
    if truth.is {
        Verdict::Kept
    } else {
        Verdict::Undecided
    }
}

/// Forgets the socket.
#[inline(always)]
fn forget(call: &Call, part: Part) {
    if let Some(slot) = Slot::of(call, part) {
        slot.clear();
    }
}

/// A transition to count, and where to count it.
struct Change {
    oldstate: State,
    newstate: State,
    now_ns: u64,
    part: Part,
    counts: Counts,
    /// The row for transitions that belong to no service.
    unknown_row: *mut Row,
    slot: Slot,
}

/// The facts known about a socket before its transition.
struct Past {
    /// The row in which its transitions are counted.
    row: u32,
    /// Its time in the state that it leaves.
    dwell_ns: Option<u64>,
    /// The state before that one, if the transition between the two has not been counted yet.
    earlier: Option<State>,
}

impl Change {
    #[inline(always)]
    fn new(call: &Call, part: Part, now_ns: u64) -> Option<Self> {
        let counts = Counts::of(part);
        let (oldstate, newstate) = call.states();
        Some(Self {
            oldstate: oldstate.folded(),
            newstate: newstate.folded(),
            now_ns,
            part,
            counts,
            unknown_row: counts.row(row::UNKNOWN)?,
            slot: Slot::of(call, part)?,
        })
    }

    /// Leaves the counting to the socket's next transition. If none is kept, this one stays undecided.
    #[inline(always)]
    fn postpone(&self) {
        self.remember(0, true);
        // SAFETY: the map lookup returned a valid pointer.
        unsafe { (*self.unknown_row).pending += 1 };
    }

    /// Counts the transition, and the postponed one before it.
    #[inline(always)]
    fn apply(&self, call: &Call) -> Option<()> {
        let past = self.past(call);
        // `shutdown`, then `close`: the kernel sets the state that the socket is in.
        let stays = self.oldstate.0 == self.newstate.0;
        if self.newstate.0 == State::CLOSE.0 || (stays && past.dwell_ns.is_none()) {
            // There is nothing to remember, or the beginning of its state is not known.
            self.slot.clear();
        } else if !stays {
            self.remember(past.row, false);
        }
        let counts = self.counts.row(past.row)?;
        let from = self.count_transition(counts, past.earlier);
        if self.newstate.0 == State::CLOSE.0 && self.count_end(call, counts, past.row) {
            return Some(());
        }
        if let Some(dwell_ns) = past.dwell_ns.filter(|_| !stays) {
            self.counts.add_dwell(from, dwell_ns);
        }
        Some(())
    }

    /// Looks up the facts. Most transitions need no ports, because the row is remembered.
    #[inline(always)]
    fn past(&self, call: &Call) -> Past {
        let key = || call.with_tcp().key();
        let only = |row| Past {
            row,
            dwell_ns: None,
            earlier: None,
        };
        if begins(self.oldstate, self.newstate) {
            only(row_of(opening_role(self.newstate), &key()))
        } else if self.oldstate.0 == State::CLOSE.0 {
            // CLOSE -> CLOSE, which concerns no connection.
            only(row::UNKNOWN)
        } else if let Some(place) = self.slot.place() {
            self.past_at(&place, key)
        } else {
            let key = key();
            only(row_of(guessed_role(self.oldstate, &key), &key))
        }
    }

    /// The facts about a remembered socket.
    #[inline(always)]
    fn past_at(&self, place: &Place, key: impl FnOnce() -> Key) -> Past {
        // The clocks of two CPUs may differ slightly.
        let dwell_ns =
            (place.state.0 == self.oldstate.0).then(|| self.now_ns.saturating_sub(place.since_ns));
        if place.pending == 0 {
            return Past {
                row: u32::from(place.row),
                dwell_ns,
                earlier: None,
            };
        }
        Past {
            row: row_of(opening_role(place.state), &key()),
            dwell_ns,
            earlier: dwell_ns.map(|_| before(self.oldstate)),
        }
    }

    /// Remembers the socket in its new state.
    #[inline(always)]
    fn remember(&self, row: u32, is_pending: bool) {
        let forgot_another = self
            .slot
            .put(self.now_ns, row as u16, self.newstate, is_pending);
        if forgot_another {
            // SAFETY: the map lookup returned a valid pointer.
            unsafe { (*self.unknown_row).forgotten += 1 };
        }
    }

    /// Updates the counts of transitions. Returns the index of the state before.
    #[inline(always)]
    fn count_transition(&self, counts: *mut Row, earlier: Option<State>) -> usize {
        let (from, to) = (index(self.oldstate), index(self.newstate));
        // SAFETY: the map lookups returned valid pointers; the indices are below `STATES`.
        unsafe {
            (*counts).transitions[from][to] += 1;
            if let Some(earlier) = earlier {
                (*counts).transitions[index(earlier)][from] += 1;
                (*self.unknown_row).pending -= 1;
            }
        }
        from
    }

    /// Counts the end of a connection, at a transition to CLOSE. Returns whether the connection stays in its state
    /// nevertheless.
    #[inline(always)]
    fn count_end(&self, call: &Call, counts: *mut Row, row: u32) -> bool {
        let (mut error, known) = (call.error(), call.flags());
        if closes(self.oldstate, self.newstate) {
            let mut facts = 0;
            if self.oldstate.0 == State::SYN_SENT.0 {
                let call = call.with_tcp();
                facts = call.connecting(&call.key());
                if error == 0 {
                    error = call.reported();
                }
            }
            let mut end = Failure {
                row: row as u16,
                error,
                oldstate: self.oldstate,
                end_kind: end_kind(known, facts),
                nested: (self.part == Part::Second).into(),
            };
            if awaits_reset(self.oldstate, error, known) {
                self.slot.note(&mut end);
            } else {
                self.slot.forget_note();
            }
            add_end(counts, &end);
        }
        stays_in_fin_wait2(self.oldstate, self.newstate, error, known)
    }
}

/// Whether a connection or a listener begins.
#[inline(always)]
fn begins(oldstate: State, newstate: State) -> bool {
    opens(oldstate, newstate) || matches!((oldstate, newstate), (State::CLOSE, State::LISTEN))
}

/// The state before the first state of a connection or a listener.
#[inline(always)]
fn before(state: State) -> State {
    if state.0 == State::SYN_RECV.0 {
        State::LISTEN
    } else {
        State::CLOSE
    }
}
