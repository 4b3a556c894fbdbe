//! What two looks into a namespace tell together: which small sockets came, which went, and when.
//!
//! Pure: it is given what the kernel said. Times are monotonic nanoseconds.

use std::{collections::BTreeMap, mem::take, net::IpAddr};

use tcpstate_common::State;

use super::{
    procfs::{Activity, ListenCounters},
    sockdiag::{
        MalformedError, Sink, Socket, Timer, TimerKind,
        listening::half_open_age_ms,
        wire::{self, Brief},
    },
};
use crate::{
    census::{Census, Found, Gone, HalfOpen, Kind, ListenFigures, PART, Scope, TIME_WAIT_NS},
    model::{ByCookie, Owner, Role},
};

const MS: u64 = 1_000_000;

/// How much earlier than we reckon a minisocket can go with its time up: what we know of its timer is as
/// exact as the kernel's clock ticks. It can go up to 2 s later: timers of a minute expire in steps.
const TICK_NS: u64 = 20_000_000;

/// What is read in a namespace beside the list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Small {
    activity: Activity,
    counters: ListenCounters,
    /// SYN-ACKs that were sent again since the capture began.
    synack_retransmits: Option<u64>,
}

impl Small {
    /// Reads it, in the namespace that this thread is in.
    pub(super) fn read_here(synack_retransmits: Option<u64>) -> Self {
        Self {
            activity: Activity::read_here(),
            // Where it cannot be read, no counter is known.
            counters: ListenCounters::read_here().unwrap_or_default(),
            synack_retransmits,
        }
    }
}

/// What is known of a namespace from the looks before.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    minis: ByCookie<Known>,
    /// When the last look began.
    previous_ns: Option<u64>,
    before: Option<Small>,
    half_open: bool,
    /// The last look found that nothing had happened since the one before: what came before that is known.
    settled: bool,
    round: u32,
    /// No transition was lost before this round that has not been made up for; what the round found may have come
    /// from one that was lost since.
    complete: u32,
}

/// A minisocket.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// When its timer expires.
    expires_ns: u64,
    /// The round that found it first, and the one that found it last.
    first: u32,
    round: u32,
    /// The look before missed it, and its time was not up: a list in pieces can miss a single one.
    missing: bool,
    state: State,
    /// How often it has been told.
    told: u8,
}

/// A minisocket is told twice. The kernel can list it a moment before the transition to CLOSE that
/// it comes from is made: the second time, that has certainly been seen.
const TELL: u8 = 2;

impl Sampled {
    /// Whether nothing can have changed since the last look. If so, this was a look.
    pub(super) fn is_quiet(&mut self, here: &Small, now_ns: u64) -> bool {
        let quiet = self.settled
            && self.minis.is_empty()
            && !self.half_open
            && here.activity.minisockets == Some(0)
            && here.activity.in_segments.is_some()
            && self
                .before
                .is_some_and(|before| before.activity == here.activity);
        if quiet {
            self.previous_ns = Some(now_ns);
        }
        quiet
    }

    /// Up to now no transition was lost that has not been made up for.
    pub(super) fn is_complete(&mut self) {
        self.complete = self.round;
    }

    /// Transitions were lost: those that minisockets came from, perhaps, which are to be told again then. The
    /// kernel can list one a moment before the transition, so the last round before the loss counts too.
    pub(super) fn tell_again(&mut self) {
        let complete = self.complete;
        for known in self.minis.values_mut() {
            if known.first >= complete {
                known.told = 0;
            }
        }
    }

    /// Begins a look. `give` is given what it tells in parts, while it goes on; the last one is what
    /// [`Round::end`] returns.
    pub(super) fn begin<G: FnMut(Census)>(
        &mut self,
        begin_ns: u64,
        netns: u32,
        give: G,
    ) -> Round<'_, G> {
        self.round = self.round.wrapping_add(1);
        Round {
            begin_ns,
            netns,
            found: Vec::new(),
            half_open: BTreeMap::new(),
            sampled: self,
            give,
        }
    }

    /// What is to be said when the namespace is gone.
    pub(super) fn vanished(&self, netns: u32, now_ns: u64) -> Census {
        Census {
            netns,
            begin_ns: now_ns,
            previous_ns: self.previous_ns,
            scope: Scope::Vanished,
            ..Census::default()
        }
    }
}

/// A look into a namespace.
pub(super) struct Round<'a, G> {
    sampled: &'a mut Sampled,
    begin_ns: u64,
    netns: u32,
    /// Not given yet: a million at once would take more memory than all that is known of them.
    found: Vec<Found>,
    half_open: BTreeMap<(u16, IpAddr), HalfOpen>,
    give: G,
}

impl<G: FnMut(Census)> Sink for Round<'_, G> {
    fn restart(&mut self) {
        // The minisockets that the try before has told of were there.
        self.half_open.clear();
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), MalformedError> {
        let brief = wire::brief(bytes)?;
        match brief {
            Brief {
                timer:
                    Some(
                        timer @ Timer {
                            kind: TimerKind::TimeWait,
                            ..
                        },
                    ),
                ..
            } => self.minisocket(&brief, timer),
            Brief {
                state: State::SYN_RECV,
                has_inode: false,
                ..
            } => {
                self.request(&wire::socket(bytes, self.netns)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl<G: FnMut(Census)> Round<'_, G> {
    fn minisocket(&mut self, brief: &Brief<'_>, timer: Timer) -> Result<(), MalformedError> {
        let expires_ns = self.begin_ns + u64::from(timer.expires_ms) * MS;
        let round = self.sampled.round;
        let (known, is_new) = self
            .sampled
            .minis
            .get_or_insert_with(brief.cookie, || Known {
                expires_ns,
                first: round,
                round,
                missing: false,
                state: brief.state,
                told: 0,
            });
        let is_other = is_new || known.state != brief.state;
        if is_other {
            known.told = 0;
        }
        // The try before this one has told of it.
        let is_told = known.round == round && !is_other;
        known.expires_ns = expires_ns;
        known.round = round;
        known.missing = false;
        known.state = brief.state;
        if known.told < TELL && !is_told {
            known.told += 1;
            let socket = wire::socket(brief.bytes, self.netns)?;
            // It was set to a minute when the state was entered. Who sends its FIN again sets it
            // again; then the time is later than it was.
            let since_ns =
                (brief.state == State::TIME_WAIT).then(|| expires_ns.saturating_sub(TIME_WAIT_NS));
            self.found.push(found(&socket, Kind::Minisocket, since_ns));
            if self.found.len() == PART {
                self.give_found();
            }
        }
        Ok(())
    }

    fn give_found(&mut self) {
        (self.give)(Census {
            netns: self.netns,
            begin_ns: self.begin_ns,
            previous_ns: self.sampled.previous_ns,
            found: take(&mut self.found),
            more: true,
            ..Census::default()
        });
    }

    fn request(&mut self, socket: &Socket) {
        let half_open = self
            .half_open
            .entry((socket.lport, socket.laddr))
            .or_insert(HalfOpen {
                laddr: socket.laddr,
                lport: socket.lport,
                count: 0,
                oldest_ns: None,
                synack_retransmits: 0,
            });
        half_open.count += 1;
        let age_ns = half_open_age_ms(socket).map(|ms| ms * MS);
        half_open.oldest_ns = half_open.oldest_ns.max(age_ns);
        half_open.synack_retransmits +=
            socket.timer.map_or(0, |timer| u64::from(timer.retransmits));
    }

    /// The look has failed: what it found was there, and what it did not find may be.
    pub(super) fn break_off(mut self) {
        self.give_found();
    }

    /// What the look tells, but for the parts that were given.
    pub(super) fn end(self, here: Small) -> Census {
        let Self {
            sampled,
            begin_ns,
            netns,
            found,
            half_open,
            ..
        } = self;
        let previous_ns = sampled.previous_ns;
        let mut gone = Vec::new();
        let round = sampled.round;
        sampled.minis.retain(|cookie, known| {
            if known.round == round {
                return true;
            }
            let at_ns = if known.missing {
                // It went early: reused, reset or thrown out.
                previous_ns.unwrap_or(begin_ns)
            } else if known.expires_ns > begin_ns + TICK_NS {
                known.missing = true;
                return true;
            } else if previous_ns.is_some_and(|ns| known.expires_ns < ns) {
                // It is late.
                begin_ns
            } else {
                known.expires_ns.min(begin_ns)
            };
            gone.push(Gone { cookie, at_ns });
            false
        });
        let listen = listen(sampled.before.as_ref(), &here);
        sampled.half_open = !half_open.is_empty();
        sampled.settled = sampled
            .before
            .is_some_and(|before| before.activity == here.activity);
        sampled.before = Some(here);
        sampled.previous_ns = Some(begin_ns);
        Census {
            netns,
            begin_ns,
            previous_ns,
            found,
            gone,
            half_open: half_open.into_values().collect(),
            listen,
            ..Census::default()
        }
    }
}

/// A socket of a list as a census has it. Its role and owner follow from others.
pub(super) fn found(socket: &Socket, kind: Kind, since_ns: Option<u64>) -> Found {
    Found {
        cookie: socket.cookie,
        state: socket.state,
        kind,
        since_ns,
        family: socket.family,
        laddr: socket.laddr,
        lport: socket.lport,
        raddr: socket.raddr,
        rport: socket.rport,
        role: Role::Unknown,
        uid: socket.uid,
        cgroup: socket.cgroup,
        owner: Owner::UNKNOWN,
    }
}

/// What happened to listeners between two looks.
fn listen(before: Option<&Small>, now: &Small) -> ListenFigures {
    let since = |before: Option<u64>, now: Option<u64>| Some(now?.wrapping_sub(before?));
    let synack_retransmits = since(
        // It is counted from the beginning of the capture on.
        before.map_or(Some(0), |before| before.synack_retransmits),
        now.synack_retransmits,
    );
    let Some(before) = before else {
        return ListenFigures {
            synack_retransmits,
            ..ListenFigures::default()
        };
    };
    let (before, now) = (&before.counters, &now.counters);
    ListenFigures {
        overflows: since(before.overflows, now.overflows),
        drops: since(before.drops, now.drops),
        request_queue_full_drops: since(
            before.request_queue_full_drops,
            now.request_queue_full_drops,
        ),
        cookies_sent: since(before.cookies_sent, now.cookies_sent),
        synack_retransmits,
    }
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
