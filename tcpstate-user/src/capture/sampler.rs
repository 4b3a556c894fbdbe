//! The thread that asks the kernel for its sockets: once for all of them, then every interval for the
//! small ones that no tracepoint shows. What comes of it is a [`Census`] after the other.
//!
//! Asking costs what the kernel's table is long. So a namespace in which nothing has happened since the
//! last time is not asked, and the thread takes at most a fiftieth of a core: where one round takes
//! longer than a fiftieth of the interval, the next one waits, and says so by its times.
//!
//! Root is not told of processes that hide their namespace even from it: nobody can do anything about
//! them.
//!
//! Nothing is kept open between two rounds: a namespace lives as long as somebody holds a socket in
//! it, and that must not be us.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use hashbrown::HashSet;
use rustix::{
    process::geteuid,
    time::{ClockId, clock_gettime},
};
use tcpstate_common::State;

use super::{
    CaptureError,
    error::chain,
    host::monotonic_ns,
    inventory::{Asked, Inventory},
    netns::{self, Namespace, Wanted},
    sampling::{Sampled, Small, found},
    sockdiag::{Request, SockDiag},
    synack::SynackRetransmits,
};
use crate::{
    census::{Census, Found, Kind, Scope},
    filter::StateSet,
};

/// Part of one core that sampling takes at most, as a divisor.
const SHARE: u32 = 50;
/// How often namespaces are looked for.
const SEARCH: Duration = Duration::from_secs(10);
/// How long after a list of all sockets the next one is made at the earliest, where events were lost.
const HEAL: Duration = Duration::from_secs(2);
/// How long a namespace that is not found is remembered after the reader last told of one: as long as it may
/// still have minisockets that nobody will find.
pub(super) const FORGET: Duration = Duration::from_mins(5);

/// What to ask for, and how often.
pub(super) struct Plan {
    /// In which namespaces.
    pub(super) wanted: Wanted,
    /// How often small sockets are asked for; `None`: never.
    pub(super) interval: Option<Duration>,
    /// Whether all the others are listed just as often: where no event tells what state they are in.
    pub(super) lists_always: bool,
    /// Whether to look up which process holds each socket that is there.
    pub(super) resolve_owners: bool,
    /// How often SYN-ACKs have been sent again, where that is counted.
    pub(super) synack: Option<SynackRetransmits>,
    /// How many events have been lost.
    pub(super) lost: Box<dyn Fn() -> u64 + Send>,
}

/// What the sampler, the reader and their owner share.
#[derive(Default)]
pub(super) struct Exchange {
    state: Mutex<Given>,
    changed: Condvar,
}

#[derive(Default)]
struct Given {
    /// Made and not taken yet, in order.
    censuses: Vec<Census>,
    /// How many were made that the run has not had yet, those in the queue too.
    under_way: usize,
    /// What the user has to be told.
    notices: Vec<String>,
    /// Namespaces in which minisockets were made, as the reader tells of them.
    new: Vec<u32>,
    /// Whether a list of all sockets is being made.
    list: List,
    /// The first list has been made, or will never be.
    listed: bool,
    /// Look once more, and end.
    ending: bool,
    /// Nobody is there any more to take what is made.
    abandoned: bool,
}

/// How a list of all sockets is coming along.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum List {
    /// There is none, or it has been given.
    #[default]
    None,
    /// It is about to be made: the reader is to note the sockets that it sees events of.
    Wanted,
    /// The reader does, and it is being made.
    Noted,
}

/// What the reader takes.
pub(super) struct Taken {
    /// Made since the last time, in order.
    pub(super) censuses: Vec<Census>,
    /// From now on the reader notes what sockets have events.
    pub(super) noting: bool,
    /// The first list is among what has been taken up to now, or will never be made.
    pub(super) listed: bool,
}

impl Exchange {
    fn lock(&self) -> MutexGuard<'_, Given> {
        // Whoever panicked with it left nothing half done: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what has been made. For the reader, which calls this before it empties the ring: then
    /// what was in the ring before comes first.
    pub(super) fn take(&self) -> Taken {
        let mut state = self.lock();
        let censuses = std::mem::take(&mut state.censuses);
        if state.list == List::Wanted {
            state.list = List::Noted;
            self.changed.notify_all();
        }
        Taken {
            censuses,
            noting: state.list == List::Noted,
            listed: state.listed,
        }
    }

    /// The run has had one.
    pub(super) fn has_had_census(&self) {
        let mut state = self.lock();
        state.under_way -= 1;
        if state.under_way == 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until the run has had all that was made: for one that does not get on nothing more is made, and what
    /// waits for it does not grow. `false`: it is to end.
    fn wait_until_had(&self) -> bool {
        let mut state = self.lock();
        while state.under_way > 0 && !state.ending {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.ending
    }

    /// The reader has seen a minisocket of a namespace come, the first for some time.
    pub(super) fn has_minisockets(&self, netns: u32) {
        self.lock().new.push(netns);
    }

    /// Takes what the user has to be told.
    pub(super) fn notices(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().notices)
    }

    /// Lets the sampler look once more, and end.
    pub(super) fn end(&self) {
        self.lock().ending = true;
        self.changed.notify_all();
    }

    /// Lets the sampler end without waiting for anybody.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.ending = true;
        state.abandoned = true;
        self.changed.notify_all();
    }

    /// Begins a list: waits until the reader notes. `false`: there is none.
    fn begin_list(&self, wake: impl Fn()) -> bool {
        let mut state = self.lock();
        state.list = List::Wanted;
        wake();
        while state.list == List::Wanted && !state.abandoned {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.abandoned
    }

    fn give(&self, censuses: Vec<Census>, notices: Vec<String>, ends_list: bool) {
        let mut state = self.lock();
        state.under_way += censuses.len();
        state.censuses.extend(censuses);
        state.notices.extend(notices);
        if ends_list {
            state.list = List::None;
            state.listed = true;
        }
    }

    /// Sleeps until then; `false`: it is to end.
    fn sleep_until(&self, then: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if state.ending || left.is_zero() {
                return !state.ending;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Starts the thread. `wake` wakes the reader.
pub(super) fn spawn(
    plan: Plan,
    exchange: Arc<Exchange>,
    wake: impl Fn() + Send + 'static,
) -> Result<thread::JoinHandle<()>, CaptureError> {
    let sampler = Sampler {
        plan,
        exchange,
        wake: Box::new(wake),
        places: BTreeMap::new(),
        found: None,
        out_of_reach: BTreeMap::new(),
        told: Vec::new(),
    };
    thread::Builder::new()
        .name("tcpstate-sample".into())
        .spawn(move || {
            let exchange = Arc::clone(&sampler.exchange);
            sampler.run();
            // Nobody waits for a list that was never made.
            exchange.give(Vec::new(), Vec::new(), true);
        })
        .map_err(|source| CaptureError::System {
            what: "start the thread that asks for sockets",
            source,
        })
}

struct Sampler {
    plan: Plan,
    exchange: Arc<Exchange>,
    wake: Box<dyn Fn() + Send>,
    /// The namespaces by inode number.
    places: BTreeMap<u32, Place>,
    /// When they were last looked for.
    found: Option<Instant>,
    /// Namespaces that have minisockets and were not found, and when they were last told of.
    out_of_reach: BTreeMap<u32, Instant>,
    /// Notices that the user has had: each is told once.
    told: Vec<String>,
}

/// A namespace.
struct Place {
    /// By which it is found again; `None`: it is our own.
    path: Option<std::path::PathBuf>,
    sampled: Sampled,
}

impl Sampler {
    fn run(mut self) {
        let mut lost = (self.plan.lost)();
        self.list_all(true);
        // Whether the last loss has been made up for.
        let mut is_healed = true;
        let mut listed = Instant::now();
        let Some(interval) = self.plan.interval else {
            return;
        };
        while self.exchange.wait_until_had() {
            let (start, cpu_before) = (Instant::now(), thread_cpu());
            if self.plan.lists_always {
                // Before the small ones are asked for: a socket that has become one is in no list then.
                self.list_all(false);
            }
            self.sample_all();
            let now_lost = (self.plan.lost)();
            if now_lost == lost && is_healed {
                for place in self.places.values_mut() {
                    place.sampled.is_complete();
                }
            } else if now_lost != lost && listed.elapsed() >= HEAL && !self.plan.lists_always {
                lost = now_lost;
                is_healed = self.list_all(false);
                listed = Instant::now();
            }
            let spent = thread_cpu().saturating_sub(cpu_before);
            let next = (start + interval).max(Instant::now() + spent * (SHARE - 1));
            if !self.exchange.sleep_until(next) {
                break;
            }
        }
        // So that the run's last words are of its end, and not of up to an interval before, nor of what the last
        // events that were lost have left wrong.
        self.list_all(false);
        self.sample_all();
    }

    /// Lists all sockets of all namespaces: for the first time, or to see what has become of them. Whether it has
    /// every one, but for namespaces that nobody can know of.
    fn list_all(&mut self, first: bool) -> bool {
        if !self.exchange.begin_list(&self.wake) {
            return false;
        }
        let request = Request {
            // The others are small, or bound and no more.
            states: StateSet::ALL.without(
                StateSet::of(State::TIME_WAIT)
                    .with(StateSet::of(State::SYN_RECV))
                    .with(StateSet::of(State::CLOSE))
                    .with(StateSet::of(State::BOUND_INACTIVE)),
            ),
            ipv6_only: false,
            with_info: false,
        };
        let resolve_owners = first && self.plan.resolve_owners;
        let mut seen_before: Vec<(u32, u64)> = Vec::new();
        // Where lists come all the time, the next one has what this one misses.
        let only_one = first || self.plan.lists_always;
        if !only_one && let Ok(inventory) = Inventory::take(&self.plan.wanted, request, false) {
            // A list in pieces can miss a single socket; what neither of two has is not there.
            let sockets = inventory.sockets.iter().filter(|one| !one.is_small());
            seen_before.extend(sockets.map(|socket| (socket.netns, socket.cookie)));
        }
        let taken = Inventory::take(&self.plan.wanted, request, resolve_owners);
        let (mut censuses, mut notices) = (Vec::new(), Vec::new());
        let mut is_whole = false;
        match taken {
            Ok(inventory) => {
                let hides = usize::from(inventory.hidden.is_some());
                is_whole = inventory.missing.len() == hides
                    && inventory
                        .asked
                        .iter()
                        .all(|asked| scope(asked) == Scope::All);
                censuses = parts(&inventory, &seen_before);
                let hidden = inventory.hidden.as_ref().filter(|_| geteuid().is_root());
                let missing = inventory.missing.iter();
                notices.extend(
                    missing
                        .filter(|&missing| Some(missing) != hidden)
                        .map(|missing| {
                            format!("connections that were there before may be missing: {missing}")
                        }),
                );
            }
            Err(error) => notices.push(format!(
                "connections that were there before come in with their first change: {}",
                chain(&error)
            )),
        }
        if !self.plan.lists_always {
            for place in self.places.values_mut() {
                // Connections whose end was missed become known by what is left of them.
                place.sampled.tell_again();
            }
        }
        self.give(censuses, notices, true);
        is_whole
    }

    /// Looks for namespaces that are new, or gone.
    fn search(&mut self) {
        self.found = Some(Instant::now());
        let found = match netns::find(&self.plan.wanted) {
            Ok(found) => found,
            Err(error) => {
                // What they have is not known any more, and nobody else would end it.
                let now = Instant::now();
                let lost = std::mem::take(&mut self.places).into_keys();
                self.out_of_reach.extend(lost.map(|netns| (netns, now)));
                let notice = format!("what no transition shows is unknown: {}", chain(&error));
                self.give(Vec::new(), vec![notice], false);
                return;
            }
        };
        let mut places = BTreeMap::new();
        for namespace in found.namespaces {
            let inode = namespace.inode();
            let sampled = self.places.remove(&inode).map(|place| place.sampled);
            let place = Place {
                path: namespace.path().map(Into::into),
                sampled: sampled.unwrap_or_default(),
            };
            places.insert(inode, place);
        }
        let gone = std::mem::replace(&mut self.places, places);
        let vanished = gone
            .into_iter()
            .map(|(netns, place)| place.sampled.vanished(netns, monotonic_ns()));
        self.give(vanished.collect(), Vec::new(), false);
    }

    /// Looks for namespaces if it is time to, or if there are some that we do not know.
    fn search_if_needed(&mut self) {
        let new = std::mem::take(&mut self.exchange.lock().new);
        let unknown: Vec<u32> = new
            .into_iter()
            .filter(|netns| !self.places.contains_key(netns))
            .collect();
        if unknown.is_empty() && self.found.is_some_and(|found| found.elapsed() < SEARCH) {
            return;
        }
        self.search();
        let now = Instant::now();
        self.out_of_reach
            .extend(unknown.into_iter().map(|netns| (netns, now)));
        let places = &self.places;
        self.out_of_reach
            .retain(|netns, since| !places.contains_key(netns) && since.elapsed() < FORGET);
    }

    fn sample_all(&mut self) {
        self.search_if_needed();
        let (mut censuses, mut notices) = (Vec::new(), Vec::new());
        censuses.extend(self.out_of_reach.keys().map(|&netns| Census {
            netns,
            begin_ns: monotonic_ns(),
            scope: Scope::OutOfReach,
            ..Census::default()
        }));
        let synack = self.plan.synack.as_ref();
        // A map that cannot be read has no counts.
        let synack = synack.and_then(|counts| counts.read().ok());
        let mut places = std::mem::take(&mut self.places);
        for (&netns, place) in &mut places {
            let namespace = match &place.path {
                None => Namespace::own(),
                Some(path) => Namespace::open(path),
            };
            let Some(namespace) = namespace.ok().filter(|found| found.inode() == netns) else {
                // It goes by another path now, or is gone: the next search tells.
                self.found = None;
                continue;
            };
            let synack = synack.as_ref().map(|counts| {
                let counts = counts.iter().filter(|count| count.netns == netns);
                counts.map(|count| count.count).sum()
            });
            let give = |part| self.give(vec![part], Vec::new(), false);
            match sample(namespace, synack, &mut place.sampled, give) {
                Ok(sampled) => censuses.extend(sampled.into_iter().flat_map(Census::into_parts)),
                Err(error) => notices.push(format!(
                    "what no transition shows is unknown in network namespace {netns}: {}",
                    chain(&error)
                )),
            }
        }
        self.places = places;
        self.give(censuses, notices, false);
    }

    fn give(&mut self, censuses: Vec<Census>, mut notices: Vec<String>, ends_list: bool) {
        notices.retain(|notice| !self.told.contains(notice));
        self.told.extend(notices.iter().cloned());
        let is_awaited = !censuses.is_empty() || !notices.is_empty() || ends_list;
        self.exchange.give(censuses, notices, ends_list);
        if is_awaited {
            (self.wake)();
        }
    }
}

/// One look into a namespace; `None` where nothing has happened since the last one. `give` is given all but the
/// last part of what it tells, and all that a look found which failed.
fn sample(
    namespace: Namespace,
    synack_retransmits: Option<u64>,
    sampled: &mut Sampled,
    give: impl FnMut(Census),
) -> Result<Option<Census>, super::sockdiag::DumpError> {
    let (mut link, here) = SockDiag::open_and(namespace, || Small::read_here(synack_retransmits))?;
    let begin_ns = monotonic_ns();
    if sampled.is_quiet(&here, begin_ns) {
        return Ok(None);
    }
    let states = StateSet::of(State::TIME_WAIT)
        .with(StateSet::of(State::FIN_WAIT2))
        .with(StateSet::of(State::SYN_RECV));
    let mut round = sampled.begin(begin_ns, link.namespace().inode(), give);
    match link.survey(states, &mut round) {
        Ok(_) => Ok(Some(round.end(here))),
        Err(error) => {
            round.break_off();
            Err(error)
        }
    }
}

/// What the list of a namespace is of.
const fn scope(asked: &Asked) -> Scope {
    if asked.dump.inconsistent || asked.dump.malformed > 0 {
        Scope::Some
    } else {
        Scope::All
    }
}

/// A census of each namespace that was listed, in parts.
fn parts(inventory: &Inventory, seen_before: &[(u32, u64)]) -> Vec<Census> {
    let mut censuses: Vec<Census> = inventory
        .asked
        .iter()
        .map(|asked| Census {
            netns: asked.netns,
            begin_ns: asked.ts_ns,
            scope: scope(asked),
            ..Census::default()
        })
        .collect();
    for socket in &inventory.sockets {
        // Minisockets are sampled.
        if socket.is_small() {
            continue;
        }
        let census = censuses
            .iter_mut()
            .find(|census| census.netns == socket.netns);
        if let Some(census) = census {
            census.found.push(Found {
                role: inventory.listening.role(socket),
                owner: inventory.owner(socket),
                ..found(socket, Kind::Socket, None)
            });
        }
    }
    for census in &mut censuses {
        let found: HashSet<u64> = census.found.iter().map(|found| found.cookie).collect();
        let here = seen_before
            .iter()
            .filter(|(netns, _)| *netns == census.netns);
        let only_before = here.map(|&(_, cookie)| cookie);
        census.known = only_before
            .filter(|cookie| !found.contains(cookie))
            .collect();
        // Listeners first: they tell whose the others are.
        census
            .found
            .sort_by_key(|found| (found.state != State::LISTEN, found.cookie));
    }
    censuses.into_iter().flat_map(Census::into_parts).collect()
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::from_secs(time.tv_sec.unsigned_abs())
        + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a wait says that `then` ends; `None`: it was over before.
    fn wait_that_ends(exchange: &Exchange, then: impl FnOnce()) -> Option<bool> {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| exchange.wait_until_had());
            thread::sleep(Duration::from_millis(50));
            let goes_on = !waiter.is_finished();
            then();
            let said = waiter.join().ok()?;
            goes_on.then_some(said)
        })
    }

    #[test]
    fn the_next_look_waits_until_the_run_has_had_what_was_made() {
        let exchange = Exchange::default();
        assert!(exchange.wait_until_had());
        exchange.give(vec![Census::default(); 2], Vec::new(), false);
        assert_eq!(exchange.take().censuses.len(), 2);
        exchange.has_had_census();
        // What the reader has taken waits in the queue still.
        let said = wait_that_ends(&exchange, || exchange.has_had_census());
        assert_eq!(said, Some(true));
        exchange.give(vec![Census::default()], Vec::new(), false);
        let said = wait_that_ends(&exchange, || exchange.end());
        assert_eq!(said, Some(false));
    }
}
