//! The thread that dumps the kernel's sockets: all of them once, the seed, and then every interval a
//! sample, those that no tracepoint shows. Each dump becomes a [`Census`].
//!
//! The cost of a dump grows with the kernel's table of sockets. So a namespace in which nothing has
//! happened since the last sample is not dumped, and the thread takes at most a fiftieth of a core: where
//! a sample takes longer than a fiftieth of the interval, the next one is late, and the times in its
//! census show it.
//!
//! Namespaces that cannot be dumped are reported once, in a line; with `--verbose` each of them.
//!
//! No namespace is held open between two samples: a namespace lives as long as something refers to it,
//! and that must not be this program.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use hashbrown::{HashMap, HashSet};
use tcpstate_common::State;
use tcpstate_core::{
    census::{Census, Found, Held, Kind, Scope},
    error::chain,
    filter::StateSet,
    inventory::{DumpedNetns, Inventory},
    netns::NetnsSelector,
    options::ResolveOwners,
};

use super::{
    clock::monotonic_ns,
    error::CaptureError,
    exchange::{Exchange, FORGET},
    holders::Holders,
    inventory,
    netns::{self, Namespace, cpu_time},
    procfs,
    sampling::{NetnsCounters, SampleHistory, found},
    sockdiag::{DumpError, Request, SockDiag},
    synack::SynackRetransmits,
};

/// Part of one core that sampling takes at most, as a divisor.
const SHARE: u32 = 50;
/// Time between two searches for namespaces.
const SEARCH: Duration = Duration::from_secs(10);
/// Time for which a dump waits for the run to receive its parts, so that few are in memory. Then it goes on: while
/// the dump lasts, the namespace is open.
const PACED: Duration = Duration::from_secs(2);
/// Shortest time between two resyncs after losses.
const RESYNC: Duration = Duration::from_secs(2);

/// The namespaces and sockets to dump, and the interval.
pub(super) struct Plan {
    /// The namespaces.
    pub(super) namespaces: NetnsSelector,
    /// Time between two samples; `None`: there are none, only the seed.
    pub(super) interval: Option<Duration>,
    /// Sample half-open connections only. No resync follows a loss or ends the run.
    pub(super) half_open_only: bool,
    /// Make a full dump with each sample: where no event shows the state of the other sockets.
    pub(super) always_full: bool,
    /// Whether to look up which process holds each socket of a full dump, and each listener later on.
    pub(super) resolve_owners: ResolveOwners,
    /// Counts retransmitted SYN-ACKs, if this kernel can.
    pub(super) synack: Option<SynackRetransmits>,
    /// Report each namespace that cannot be dumped.
    pub(super) verbose: bool,
    /// Returns how many events have been lost.
    pub(super) lost: Box<dyn Fn() -> u64 + Send>,
}

impl Plan {
    /// The sockets that only samples show, in notices.
    const fn sampled(&self) -> &'static str {
        if self.half_open_only {
            "half-open connections"
        } else {
            "TIME_WAIT, orphans in FIN_WAIT2 and half-open connections"
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
        namespaces: BTreeMap::new(),
        searched: None,
        out_of_reach: BTreeMap::new(),
        notified: HashSet::new(),
        undumped_notified: false,
        holders: Holders::new(),
    };
    thread::Builder::new()
        .name("tcpstate-sample".into())
        .spawn(move || {
            let exchange = Arc::clone(&sampler.exchange);
            sampler.run();
            // A reader that still waits for the seed would wait for ever.
            exchange.publish(Vec::new(), Vec::new(), true);
        })
        .map_err(|source| CaptureError::System {
            what: "start the thread that dumps sockets",
            source,
        })
}

struct Sampler {
    plan: Plan,
    exchange: Arc<Exchange>,
    wake: Box<dyn Fn() + Send>,
    /// By inode number.
    namespaces: BTreeMap<u32, SampledNetns>,
    /// Time of the last search for namespaces.
    searched: Option<Instant>,
    /// Namespaces that have minisockets and were not found, and when the reader last reported them.
    out_of_reach: BTreeMap<u32, Instant>,
    /// Notices already shown to the user: each is shown once.
    notified: HashSet<String>,
    /// Whether the user knows that there are namespaces that cannot be dumped.
    undumped_notified: bool,
    /// The processes that hold listeners.
    holders: Holders,
}

/// A namespace that is sampled.
struct SampledNetns {
    /// The path to open it by; `None`: it is our own.
    path: Option<PathBuf>,
    history: SampleHistory,
}

impl Sampler {
    fn run(mut self) {
        let mut lost = (self.plan.lost)();
        self.full_dump(true);
        // The last loss has been made up for.
        let mut is_healed = true;
        let mut resynced = Instant::now();
        let mut sample_at = self.plan.interval.map(|_| Instant::now());
        while self.exchange.wait_until_received() {
            let spent = u64::try_from(cpu_time().as_nanos()).unwrap_or(u64::MAX);
            self.exchange.sampling_ns.store(spent, Ordering::Release);
            if self.plan.resolve_owners != ResolveOwners::No {
                self.follow_holders();
            }
            let (start, cpu_before) = (Instant::now(), cpu_time());
            let Some(interval) = self.plan.interval.filter(|_| sample_at <= Some(start)) else {
                let look_at =
                    (self.plan.resolve_owners != ResolveOwners::No).then(|| self.holders.look_at());
                match [sample_at, look_at].into_iter().flatten().min() {
                    Some(next) if self.exchange.sleep_until(next) => continue,
                    _ => break,
                }
            };
            if self.plan.always_full {
                // Before the sample: a socket that has become a minisocket is then in no full dump.
                self.full_dump(false);
            }
            self.sample_all();
            if self.plan.half_open_only {
                sample_at = Some(next(start, cpu_before, interval));
                continue;
            }
            let now_lost = (self.plan.lost)();
            if now_lost == lost && is_healed {
                for namespace in self.namespaces.values_mut() {
                    namespace.history.mark_complete();
                }
            } else if now_lost != lost && resynced.elapsed() >= RESYNC && !self.plan.always_full {
                lost = now_lost;
                is_healed = self.full_dump(false);
                resynced = Instant::now();
            }
            sample_at = Some(next(start, cpu_before, interval));
        }
        if self.plan.interval.is_none() || self.plan.half_open_only {
            return;
        }
        // So that the run's last output is from its end, not up to an interval older, and that errors left by
        // lost events are corrected.
        self.full_dump(false);
        self.sample_all();
    }

    /// Dumps all sockets of all namespaces: the seed, or a resync. Returns whether it is complete, but for
    /// namespaces that cannot be known.
    fn full_dump(&mut self, is_seed: bool) -> bool {
        if !self.exchange.begin_full_dump(&self.wake) {
            return false;
        }
        // The others are sampled, or merely bound.
        let states = StateSet::ALL.without(
            StateSet::of(State::TIME_WAIT)
                .with(StateSet::of(State::SYN_RECV))
                .with(StateSet::MERELY_BOUND),
        );
        let request = Request {
            // It bounds their time in their states from below; later, events show that time.
            with_info: is_seed && !self.plan.always_full,
            ..Request::of(states)
        };
        let resolve_owners = self.plan.resolve_owners != ResolveOwners::No;
        let mut seen_before: Vec<(u32, u64)> = Vec::new();
        // If full dumps follow each other, the next one has the sockets that this one misses.
        let once = is_seed || self.plan.always_full;
        if !once && let Ok(inventory) = inventory::take(&self.plan.namespaces, request, false) {
            // A dump comes in pieces and can miss a single socket; a socket that two dumps miss is gone.
            let sockets = inventory.sockets.iter().filter(|socket| socket.is_full());
            seen_before.extend(sockets.map(|socket| (socket.netns, socket.cookie)));
        }
        let taken = inventory::take(&self.plan.namespaces, request, resolve_owners);
        let (mut censuses, mut notices) = (Vec::new(), Vec::new());
        let mut is_complete = false;
        match taken {
            Ok(inventory) => {
                is_complete = inventory.is_complete();
                self.holders.forget();
                let held = self.holders.update(&inventory);
                censuses = full_censuses(&inventory, &seen_before, held);
                if is_seed {
                    // The event of a socket that has begun to listen meanwhile comes behind the seed, and
                    // nothing would be known of its holders: the next look has them all again.
                    self.holders.forget();
                }
                notices = self.notices(&inventory, is_seed);
            }
            Err(error) => notices.push(format!(
                "connections from before the start appear only with their first change: {}",
                chain(&error)
            )),
        }
        if !self.plan.always_full {
            for namespace in self.namespaces.values_mut() {
                // A connection whose end was lost becomes known by its minisocket.
                namespace.history.report_again();
            }
        }
        self.publish(censuses, notices, true);
        is_complete
    }

    /// The notices about what a full dump does not have.
    fn notices(&mut self, inventory: &Inventory, is_seed: bool) -> Vec<String> {
        let missing = |missing: &String| {
            format!("connections from before the start may be missing: {missing}")
        };
        let mut notices = Vec::new();
        if self.plan.verbose {
            let undumped = inventory.undumped.iter();
            notices.extend(undumped.map(|why| missing(&format!("network namespace {why}"))));
            notices.extend(inventory.hidden_message().as_ref().map(missing));
        } else if !self.undumped_notified
            && let Some(undumped) = inventory.undumped_in_short()
        {
            let sampled = match (self.plan.interval, self.plan.half_open_only) {
                (None, _) => String::new(),
                (Some(_), true) => format!(" and {}", self.plan.sampled()),
                (Some(_), false) => format!(", {}", self.plan.sampled()),
            };
            let more = if inventory.undumped.len() > 1 {
                " (-v names each)"
            } else {
                ""
            };
            notices.push(format!(
                "connections from before the start{sampled} may be missing: {undumped}{more}"
            ));
            self.undumped_notified = !inventory.undumped.is_empty();
        }
        notices.extend(inventory.missing.iter().map(missing));
        let asked_for = self.plan.resolve_owners == ResolveOwners::Yes;
        let hidden_files = inventory.hidden_files_message();
        notices.extend(hidden_files.filter(|_| is_seed && asked_for).map(|hidden| {
            format!("owners of connections from before the start may be unknown: {hidden}")
        }));
        notices
    }

    /// Looks up which processes hold the listeners, if there is a reason to, and publishes what is new.
    fn follow_holders(&mut self) {
        let exchange = &self.exchange;
        if !self.holders.is_due(|| exchange.take_listened()) {
            return;
        }
        let request = Request::of(StateSet::of(State::LISTEN));
        let cpu_before = cpu_time();
        // Where listeners cannot be dumped now, they may be the next time.
        let Ok(inventory) = inventory::take(&self.plan.namespaces, request, true) else {
            return;
        };
        let mut censuses: Vec<Census> = Vec::new();
        for (netns, held) in self.holders.update(&inventory) {
            match censuses.last_mut() {
                Some(last) if last.netns == netns => last.held.push(held),
                _ => censuses.push(Census {
                    netns,
                    begin_ns: monotonic_ns(),
                    // It is no whole sample.
                    more: true,
                    held: vec![held],
                    ..Census::default()
                }),
            }
        }
        let censuses = censuses
            .into_iter()
            .flat_map(Census::into_parts)
            .map(|part| Census { more: true, ..part });
        self.publish(censuses.collect(), Vec::new(), false);
        let spent = cpu_time().saturating_sub(cpu_before);
        self.holders.rest(spent * (SHARE - 1));
    }

    /// Finds new namespaces, and drops those that are gone.
    fn search(&mut self) {
        self.searched = Some(Instant::now());
        let (known, mut namespaces) = (&mut self.namespaces, BTreeMap::new());
        let searched = netns::visit(&self.plan.namespaces, |namespace| {
            let inode = namespace.inode();
            let history = known.remove(&inode).map(|known| known.history);
            let sampled = SampledNetns {
                path: namespace.path().map(Into::into),
                history: history.unwrap_or_default(),
            };
            namespaces.insert(inode, sampled);
            ControlFlow::Continue(())
        });
        if let Err(error) = searched {
            // Their minisockets are unknown from here on, and nothing else would end these.
            let now = Instant::now();
            let lost = std::mem::take(&mut self.namespaces).into_keys();
            let lost = lost.chain(namespaces.into_keys());
            self.out_of_reach.extend(lost.map(|netns| (netns, now)));
            let notice = format!("{} are unknown: {}", self.plan.sampled(), chain(&error));
            self.publish(Vec::new(), vec![notice], false);
            return;
        }
        let gone = std::mem::replace(&mut self.namespaces, namespaces);
        let vanished = gone
            .into_iter()
            .map(|(netns, sampled)| sampled.history.vanished(netns, monotonic_ns()));
        self.publish(vanished.collect(), Vec::new(), false);
    }

    /// Searches for namespaces if it is time to, or if the reader reported one that is not known.
    fn search_if_needed(&mut self) {
        let reported = self.exchange.take_netns_with_minisockets();
        let unknown: Vec<u32> = reported
            .into_iter()
            .filter(|netns| !self.plan.half_open_only && !self.namespaces.contains_key(netns))
            .collect();
        if unknown.is_empty() && self.searched.is_some_and(|at| at.elapsed() < SEARCH) {
            return;
        }
        self.search();
        let now = Instant::now();
        self.out_of_reach
            .extend(unknown.into_iter().map(|netns| (netns, now)));
        let namespaces = &self.namespaces;
        self.out_of_reach
            .retain(|netns, since| !namespaces.contains_key(netns) && since.elapsed() < FORGET);
    }

    fn sample_all(&mut self) {
        self.search_if_needed();
        let (mut censuses, mut notices) = (Vec::new(), Vec::new());
        let mut is_unknown = false;
        censuses.extend(self.out_of_reach.keys().map(|&netns| Census {
            netns,
            begin_ns: monotonic_ns(),
            scope: Scope::OutOfReach,
            ..Census::default()
        }));
        let synack = self.plan.synack.as_ref();
        // A map that cannot be read gives no counts.
        let synack = synack.and_then(|counts| counts.read().ok()).map(|counts| {
            let mut sums: HashMap<u32, u64> = HashMap::new();
            for count in counts {
                *sums.entry(count.netns).or_default() += count.count;
            }
            sums
        });
        let mut namespaces = std::mem::take(&mut self.namespaces);
        for (&netns, sampled) in &mut namespaces {
            let namespace = match &sampled.path {
                None => Namespace::own(),
                Some(path) => Namespace::open(path),
            };
            let Some(namespace) = namespace.ok().filter(|found| found.inode() == netns) else {
                // It has another path now, or is gone; the next search will tell.
                self.searched = None;
                continue;
            };
            let synack = synack.as_ref();
            let synack = synack.map(|sums| sums.get(&netns).copied().unwrap_or(0));
            let half_open_only = self.plan.half_open_only;
            let deadline = Cell::new(Some(Instant::now() + PACED));
            let publish = |part| {
                self.exchange.wait_for_room(deadline.get());
                self.publish(vec![part], Vec::new(), false);
            };
            match sample(
                namespace,
                synack,
                &mut sampled.history,
                half_open_only,
                publish,
                || deadline.set(None),
            ) {
                Ok(last) => censuses.extend(last.into_iter().flat_map(Census::into_parts)),
                Err(error) if self.plan.verbose || !self.undumped_notified => {
                    notices.push(format!(
                        "{} are unknown in network namespace {netns}: {}",
                        self.plan.sampled(),
                        chain(&error)
                    ));
                    is_unknown = true;
                }
                Err(_) => {}
            }
        }
        self.undumped_notified |= is_unknown;
        self.namespaces = namespaces;
        self.publish(censuses, notices, false);
    }

    fn publish(&mut self, censuses: Vec<Census>, mut notices: Vec<String>, ends_full_dump: bool) {
        notices.retain(|notice| !self.notified.contains(notice));
        self.notified.extend(notices.iter().cloned());
        let is_awaited = !censuses.is_empty() || !notices.is_empty() || ends_full_dump;
        self.exchange.publish(censuses, notices, ends_full_dump);
        if is_awaited {
            (self.wake)();
        }
    }
}

/// When the next sample is due after one that began at `start`, when the thread had taken `cpu_before`.
fn next(start: Instant, cpu_before: Duration, interval: Duration) -> Instant {
    let spent = cpu_time().saturating_sub(cpu_before);
    (start + interval).max(Instant::now() + spent * (SHARE - 1))
}

/// Samples a namespace; `None` where nothing has happened since the last sample. `publish` receives all
/// parts of the census but the last, and of a sample that fails all that it found. `closed` is called when the namespace
/// is not open any more.
fn sample(
    namespace: Namespace,
    synack_retransmits: Option<u64>,
    history: &mut SampleHistory,
    half_open_only: bool,
    publish: impl FnMut(Census),
    closed: impl FnOnce(),
) -> Result<Option<Census>, DumpError> {
    let (mut link, (now, ephemeral)) = SockDiag::open_and(namespace, || {
        let now = NetnsCounters::read_here(synack_retransmits);
        // To open a setting takes the kernel a time that grows with the number of namespaces in which it was opened.
        let wants = history.wants_ephemeral_ports(&now);
        (now, wants.then(procfs::ephemeral_ports_here))
    })?;
    if let Some(ephemeral) = ephemeral {
        history.set_ephemeral_ports(ephemeral);
    }
    let begin_ns = monotonic_ns();
    if history.is_quiet(&now, begin_ns, half_open_only) {
        return Ok(None);
    }
    let mut states = StateSet::of(State::SYN_RECV);
    if !half_open_only {
        states = states
            .with(StateSet::of(State::TIME_WAIT))
            .with(StateSet::of(State::FIN_WAIT2));
    }
    let mut sample = history.begin(begin_ns, link.namespace().inode(), publish);
    let dumped = link.dump_into(states, &mut sample);
    drop(link);
    closed();
    match dumped {
        Ok(_) => Ok(Some(sample.finish(now, monotonic_ns()))),
        Err(error) => {
            sample.abort();
            Err(error)
        }
    }
}

/// Whether the dump of a namespace has all of its sockets.
const fn scope(dumped: &DumpedNetns) -> Scope {
    if dumped.dump.inconsistent || dumped.dump.malformed > 0 {
        Scope::Some
    } else {
        Scope::All
    }
}

/// A census of each namespace of a full dump, in parts.
fn full_censuses(
    inventory: &Inventory,
    seen_before: &[(u32, u64)],
    held: Vec<(u32, Held)>,
) -> Vec<Census> {
    let mut censuses: BTreeMap<u32, Census> = inventory
        .namespaces
        .iter()
        .map(|dumped| {
            let census = Census {
                netns: dumped.netns,
                begin_ns: dumped.ts_ns,
                scope: scope(dumped),
                ..Census::default()
            };
            (dumped.netns, census)
        })
        .collect();
    // The others are sampled.
    for socket in inventory.sockets.iter().filter(|socket| socket.is_full()) {
        if let Some(census) = censuses.get_mut(&socket.netns) {
            census.found.push(Found {
                role: inventory.listening.role(socket),
                owner: inventory.owner(socket),
                there_ns: inventory
                    .age(socket)
                    .map(|age| census.begin_ns.saturating_sub(age.at_least_ns)),
                ..found(socket, Kind::Socket, None)
            });
        }
    }
    for (netns, held) in held {
        if let Some(census) = censuses.get_mut(&netns) {
            census.held.push(held);
        }
    }
    let sockets = inventory.sockets.iter().filter(|socket| socket.is_full());
    let found: HashSet<(u32, u64)> = sockets
        .filter(|_| !seen_before.is_empty())
        .map(|socket| (socket.netns, socket.cookie))
        .collect();
    for before in seen_before.iter().filter(|before| !found.contains(*before)) {
        let &(netns, cookie) = before;
        if let Some(census) = censuses.get_mut(&netns) {
            census.known.push(cookie);
        }
    }
    for census in censuses.values_mut() {
        // Listeners first: the owners of the others follow from them.
        census
            .found
            .sort_by_key(|found| (found.state != State::LISTEN, found.cookie));
    }
    let all = censuses.into_values();
    all.flat_map(Census::into_parts).collect()
}

#[cfg(test)]
mod tests;
