//! The difference between two samples of a namespace: which minisockets came, which went, and when.
//!
//! Pure: the kernel's answers come in as arguments. Times are monotonic nanoseconds.

mod minisocket;

use std::{collections::BTreeMap, mem::take, net::IpAddr, ops::RangeInclusive};

use tcpstate_common::State;
use tcpstate_core::{
    by_cookie::ByCookie,
    census::{
        Census, Found, Gone, HalfOpen, Kind, ListenFigures, PART, Request, Scope, TIME_WAIT_NS,
    },
    inventory::{Age, Socket, Timer, TimerKind, role_by_ports},
    owner::Owner,
    service::Role,
};

use self::minisocket::{Marks, Minisocket};
use super::{
    procfs::{Activity, ListenCounters},
    sockdiag::{
        MalformedError, Sink,
        wire::{self, Brief},
    },
};

const MS: u64 = 1_000_000;

/// Time by which a minisocket can expire earlier than calculated: the kernel gives its timer to the precision of
/// a tick. It can expire up to 2 s later: timers of a minute expire in steps.
const TICK_NS: u64 = 20_000_000;

/// Number of times that a minisocket is reported. The kernel can list it a moment before the transition to CLOSE that
/// makes it; by the second report that transition has certainly been seen.
const REPORTS: u8 = 2;
const _: () = assert!(REPORTS <= Marks::MAX_REPORTS);

/// The number of minisockets from which on a search may miss the cache: fewer take less than half a megabyte.
const LOOK_AHEAD_FROM: usize = 16_384;

/// Counters of a namespace that are read with each sample.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NetnsCounters {
    activity: Activity,
    listen: ListenCounters,
    /// SYN-ACKs retransmitted since the capture began.
    synack_retransmits: Option<u64>,
}

impl NetnsCounters {
    /// Reads the counters of the namespace that this thread is in.
    pub(super) fn read_here(synack_retransmits: Option<u64>) -> Self {
        Self {
            activity: Activity::read_here(),
            // If they cannot be read, no counter is known.
            listen: ListenCounters::read_here().unwrap_or_default(),
            synack_retransmits,
        }
    }
}

/// State of a namespace's samples up to now.
#[derive(Debug, Default)]
pub(super) struct SampleHistory {
    minisockets: ByCookie<Minisocket>,
    requests: ByCookie<RequestSocket>,
    /// Start of the last sample.
    previous_ns: Option<u64>,
    /// The counters at the last sample.
    previous: Option<NetnsCounters>,
    /// The local ports that the kernel chooses from, where they are known.
    ephemeral: Option<RangeInclusive<u16>>,
    /// Whether these were read.
    has_read_ports: bool,
    /// Nothing happened between the last two samples, so everything before them is known.
    was_unchanged: bool,
    /// Number of the last sample.
    last: u32,
    /// Number of the last attempt at a dump.
    attempt: u32,
    /// Number of the last sample up to which every lost transition had been made up for. A minisocket that it
    /// found first can still come from a transition that was lost afterwards.
    complete: u32,
}

/// A half-open connection: a request socket that was found.
#[derive(Clone, Copy, Debug)]
struct RequestSocket {
    /// Its local port and address.
    place: (u16, IpAddr),
    /// Its timer in the last sample that found it.
    timer: Option<Timer>,
    /// Time at which the kernel wrote that.
    written_ns: u64,
    /// Time by which its SYN had come. Each sample may show an earlier one.
    since_ns: u64,
    /// Whether its SYN came at that very time.
    is_exact: bool,
    /// Number of the attempt that found it last.
    last_attempt: u32,
    /// The last sample missed it: a dump comes in pieces and can miss a single one.
    missed: bool,
    /// By how much earlier its SYN may have come; `None`: by any time.
    interval_ns: Option<u64>,
    /// Time by which its SYN had come as it was reported last; the end of time: it was not.
    reported_ns: u64,
}

impl RequestSocket {
    /// Learns from the timer that it had in a dump; the dump before began at `previous_ns`.
    fn learn(&mut self, previous_ns: Option<u64>, never_deferred: bool) {
        if self.is_exact {
            return;
        }
        let is_new = self.since_ns == u64::MAX;
        let age = self
            .timer
            .and_then(|timer| timer.half_open_age(never_deferred));
        let age = age.unwrap_or(Age::at_least(0));
        let since_ns = self.written_ns.saturating_sub(age.at_least_ns);
        if age.is_exact {
            (self.since_ns, self.is_exact) = (since_ns, true);
            self.interval_ns = Some(TICK_NS);
        } else if since_ns < self.since_ns {
            let earlier_ns = self.since_ns - since_ns;
            self.since_ns = since_ns;
            self.interval_ns = if is_new {
                // The dump before did not have it.
                previous_ns.map(|ns| since_ns.saturating_sub(ns))
            } else {
                self.interval_ns.map(|ns| ns.saturating_sub(earlier_ns))
            };
        }
    }

    /// Its age at the begin of a sample that found it.
    fn age(&self, begin_ns: u64) -> Age {
        Age {
            at_least_ns: begin_ns.saturating_sub(self.since_ns),
            is_exact: self.is_exact,
        }
    }
}

impl SampleHistory {
    /// Takes the range of local ports that the kernel chooses from: minisockets have no listener by them that would
    /// show their role.
    pub(super) fn set_ephemeral_ports(&mut self, ports: Option<RangeInclusive<u16>>) {
        self.ephemeral = ports;
        self.has_read_ports = true;
    }

    /// Whether the next sample needs that range: where nothing has come in yet, there are no minisockets.
    pub(super) fn wants_ephemeral_ports(&self, now: &NetnsCounters) -> bool {
        !self.has_read_ports && now.activity.in_segments != Some(0)
    }

    /// Whether nothing can have changed since the last sample: of half-open connections or, unless only they are
    /// sampled, of minisockets. If so, this counts as a sample.
    pub(super) fn is_quiet(
        &mut self,
        now: &NetnsCounters,
        now_ns: u64,
        half_open_only: bool,
    ) -> bool {
        let has_no_minisockets = self.minisockets.is_empty() && now.activity.minisockets == Some(0);
        let quiet = self.was_unchanged
            && (has_no_minisockets || half_open_only)
            && self.requests.is_empty()
            && now.activity.in_segments.is_some()
            && self.is_unchanged(now);
        if quiet {
            self.previous_ns = Some(now_ns);
        }
        quiet
    }

    fn is_unchanged(&self, now: &NetnsCounters) -> bool {
        self.previous
            .is_some_and(|previous| previous.activity == now.activity)
    }

    /// Every transition lost up to now has been made up for.
    pub(super) fn mark_complete(&mut self) {
        self.complete = self.last;
    }

    /// Transitions were lost. Minisockets that may come from them are reported again. The kernel can list one
    /// a moment before its transition, so those that the last complete sample found first are among them.
    pub(super) fn report_again(&mut self) {
        let complete = self.complete;
        for minisocket in self.minisockets.values_mut() {
            if minisocket.is_first_found_since(complete) {
                minisocket.marks = minisocket.marks.not_reported();
            }
        }
    }

    /// Begins a sample. `publish` receives parts of its census while it goes on; [`Sample::finish`] returns
    /// the last part.
    pub(super) fn begin<P: FnMut(Census)>(
        &mut self,
        begin_ns: u64,
        netns: u32,
        publish: P,
    ) -> Sample<'_, P> {
        self.last = self.last.wrapping_add(1);
        if self.last.wrapping_sub(self.complete) > Minisocket::WINDOW {
            self.complete = self.last.wrapping_sub(Minisocket::WINDOW);
        }
        Sample {
            begin_ns,
            written_ns: begin_ns,
            netns,
            found: Vec::new(),
            history: self,
            publish,
        }
    }

    /// The half-open connections that a dump found, by their local end. `report` gets those that are new or
    /// better known, `gone` those that are gone.
    fn half_open(
        &mut self,
        begin_ns: u64,
        never_deferred: bool,
        mut report: impl FnMut(Request),
        mut gone: impl FnMut(u64),
    ) -> Vec<HalfOpen> {
        let mut places: BTreeMap<(u16, IpAddr), (u64, Age, u64)> = BTreeMap::new();
        let (attempt, previous_ns) = (self.attempt, self.previous_ns);
        self.requests.retain(|cookie, request| {
            if request.last_attempt != attempt {
                let is_gone = std::mem::replace(&mut request.missed, true);
                if is_gone {
                    gone(cookie);
                }
                return !is_gone;
            }
            request.missed = false;
            request.learn(previous_ns, never_deferred);
            if request.since_ns.saturating_add(TICK_NS) < request.reported_ns {
                request.reported_ns = request.since_ns;
                report(Request {
                    cookie,
                    since_ns: request.since_ns,
                    interval_ns: request.interval_ns,
                });
            }
            let age = request.age(begin_ns);
            let retransmits = request.timer.map_or(0, |timer| timer.retransmits.into());
            let place = places.entry(request.place);
            place
                .and_modify(|(count, oldest, sum)| {
                    *count += 1;
                    *oldest = oldest.or_older(age);
                    *sum += retransmits;
                })
                .or_insert((1, age, retransmits));
            true
        });
        let places = places.into_iter();
        places
            .map(
                |((lport, laddr), (count, oldest, synack_retransmits))| HalfOpen {
                    laddr,
                    lport,
                    count,
                    oldest_ns: oldest.exact_ns(),
                    oldest_at_least_ns: oldest.bound_ns(),
                    synack_retransmits,
                },
            )
            .collect()
    }

    /// The census of a namespace that is gone.
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

/// A sample that is being taken.
pub(super) struct Sample<'a, P> {
    history: &'a mut SampleHistory,
    begin_ns: u64,
    /// Time at which the kernel wrote the entries that are taken now: a dump of a million takes a while.
    written_ns: u64,
    netns: u32,
    /// Not published yet: a million at once would take more memory than the history of them all.
    found: Vec<Found>,
    publish: P,
}

impl<P: FnMut(Census)> Sink for Sample<'_, P> {
    fn restart(&mut self) {
        // Minisockets that the attempt before has reported stay: they were there.
        self.history.attempt = self.history.attempt.wrapping_add(1);
    }

    fn expect<'a>(&mut self, entries: impl Iterator<Item = &'a [u8]>, written_ns: u64) {
        self.written_ns = written_ns;
        let minisockets = &self.history.minisockets;
        if minisockets.len() < LOOK_AHEAD_FROM {
            return;
        }
        // The searches do not wait for each other, so that the misses of the cache overlap.
        for cookie in entries.filter_map(|bytes| Some(wire::brief(bytes).ok()?.cookie)) {
            std::hint::black_box(minisockets.get(cookie).copied());
        }
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
                self.request_socket(&wire::socket(bytes, self.netns)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl<P: FnMut(Census)> Sample<'_, P> {
    fn minisocket(&mut self, brief: &Brief<'_>, timer: Timer) -> Result<(), MalformedError> {
        let expires_ns = self.written_ns + u64::from(timer.expires_ms) * MS;
        let sample = self.history.last;
        let (minisocket, is_new) = self
            .history
            .minisockets
            .get_or_insert_with(brief.cookie, || Minisocket::new(sample, brief.state));
        let before = minisocket.marks;
        let has_new_state = is_new || before.state() != brief.state;
        let mut reports = if has_new_state { 0 } else { before.reports() };
        // An attempt of this sample that was broken off has reported it.
        let is_reported = minisocket.is_found_by(sample) && !has_new_state;
        let is_to_report = reports < REPORTS && !is_reported;
        reports += u8::from(is_to_report);
        minisocket.find(sample, expires_ns, Marks::found(brief.state, reports));
        if is_to_report {
            let socket = wire::socket(brief.bytes, self.netns)?;
            // The timer was set to a minute when the state was entered. A peer that sends its FIN again
            // restarts it; then the calculated time is too late.
            // It may have begun during the dump; the tracker knows that from its event.
            let since_ns = expires_ns.saturating_sub(TIME_WAIT_NS).min(self.begin_ns);
            let since_ns = (brief.state == State::TIME_WAIT).then_some(since_ns);
            self.found.push(Found {
                role: role_by_ports(self.history.ephemeral.as_ref(), &socket),
                ..found(&socket, Kind::Minisocket, since_ns)
            });
            if self.found.len() == PART {
                self.publish_found();
            }
        }
        Ok(())
    }

    fn publish_found(&mut self) {
        (self.publish)(Census {
            netns: self.netns,
            begin_ns: self.begin_ns,
            previous_ns: self.history.previous_ns,
            found: take(&mut self.found),
            more: true,
            ..Census::default()
        });
    }

    fn request_socket(&mut self, socket: &Socket) {
        let (attempt, written_ns) = (self.history.attempt, self.written_ns);
        let make = || RequestSocket {
            place: (socket.lport, socket.laddr),
            timer: None,
            written_ns: 0,
            since_ns: u64::MAX,
            is_exact: false,
            last_attempt: attempt,
            missed: false,
            interval_ns: None,
            reported_ns: u64::MAX,
        };
        let requests = &mut self.history.requests;
        let (request, _) = requests.get_or_insert_with(socket.cookie, make);
        request.timer = socket.timer;
        request.written_ns = written_ns;
        request.last_attempt = attempt;
    }

    /// The dump has failed: what it found was there; what it did not find may be there too.
    pub(super) fn abort(mut self) {
        self.publish_found();
    }

    /// The census of a dump that ended at `end_ns`, but for the parts that were published.
    pub(super) fn finish(self, now: NetnsCounters, end_ns: u64) -> Census {
        let Self {
            history,
            begin_ns,
            netns,
            found,
            mut publish,
            ..
        } = self;
        let previous_ns = history.previous_ns;
        let mut gone = Vec::new();
        let sample = history.last;
        history.minisockets.retain(|cookie, minisocket| {
            if minisocket.is_found_by(sample) {
                return true;
            }
            let expires_ns = minisocket.expires_ns(begin_ns);
            let at_ns = if minisocket.marks.is_missed() {
                // It went before its time: reused, reset or evicted by the kernel.
                previous_ns.unwrap_or(begin_ns)
            } else if expires_ns > end_ns + TICK_NS {
                minisocket.marks = minisocket.marks.missed();
                return true;
            } else if previous_ns.is_some_and(|ns| expires_ns < ns) {
                // Its timer was late.
                begin_ns
            } else {
                expires_ns.min(begin_ns)
            };
            gone.push(Gone { cookie, at_ns });
            if gone.len() == PART {
                publish(Census {
                    netns,
                    begin_ns,
                    previous_ns,
                    gone: take(&mut gone),
                    more: true,
                    ..Census::default()
                });
            }
            false
        });
        let (mut requests, mut requests_gone) = (Vec::new(), Vec::new());
        let half_open = history.half_open(
            begin_ns,
            now.listen.deferred == Some(0),
            |request| requests.push(request),
            |cookie| requests_gone.push(cookie),
        );
        let listen = listen_figures(history.previous.as_ref(), &now);
        history.was_unchanged = history.is_unchanged(&now);
        history.previous = Some(now);
        history.previous_ns = Some(begin_ns);
        Census {
            netns,
            begin_ns,
            previous_ns,
            found,
            gone,
            half_open,
            requests,
            requests_gone,
            listen,
            ..Census::default()
        }
    }
}

/// A census's description of a dumped socket. Its role and owner follow from other sockets.
pub(super) fn found(socket: &Socket, kind: Kind, since_ns: Option<u64>) -> Found {
    Found {
        cookie: socket.cookie,
        state: socket.state,
        kind,
        since_ns,
        there_ns: None,
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

/// Increase of the listeners' counters between two samples.
fn listen_figures(before: Option<&NetnsCounters>, now: &NetnsCounters) -> ListenFigures {
    let since = |before: Option<u64>, now: Option<u64>| Some(now?.wrapping_sub(before?));
    let synack_retransmits = since(
        // This counter begins with the capture.
        before.map_or(Some(0), |before| before.synack_retransmits),
        now.synack_retransmits,
    );
    let Some(before) = before else {
        return ListenFigures {
            synack_retransmits,
            ..ListenFigures::default()
        };
    };
    let (before, now) = (&before.listen, &now.listen);
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
mod tests;
