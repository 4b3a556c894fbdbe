//! The live kernel as an event source: attach, hand on what the reader thread queues, keep the books.

mod attach;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aya::{
    maps::{MapData, PerCpuArray},
    programs::ProgramFd,
};
use tcpstate_common::{Counters, PerCpu};
use tcpstate_core::{
    books::{Accounting, CaptureCost, FilteredByReason, Load, LostByReason, RejectedByReason},
    event::Event,
    filter::KernelFilter,
    mode::{Attach, Mode},
    names::Names,
    netns::NetnsSelector,
    options::ResolveOwners,
    origin::Origin,
    source::{Counting, EventSource, Notice, SourceError, Step},
    tally::{Tally, TallySize},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::attach::{attach, take_synack_retransmits};
use super::{
    cgroups::Cgroups,
    clock::{self, monotonic_ns},
    error::CaptureError,
    host::Host,
    loader::{self, Loaded, ProgramRun},
    namespaces,
    reader::{self, Item, Shared},
    sampler::{self, Plan},
    stand_by::{self, StandBy},
    synack::SynackRetransmits,
    tally,
};

/// Time that the end of a run waits for programs that are still running on other CPUs.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Options of a capture.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options of the command line"
)]
pub struct Options<'a> {
    /// The attach mode.
    pub attach: Attach,
    /// Size of the ring buffer in bytes: a power of two, a multiple of the page size.
    pub ring_bytes: u32,
    /// The namespaces whose sockets are dumped.
    pub namespaces: NetnsSelector,
    /// The filter of the kernel side.
    pub filter: KernelFilter<'a>,
    /// The filters as the command line gave them, for [`Origin::filters`].
    pub filters: String,
    /// Time between two samples; `None`: there are none.
    pub sample_interval: Option<Duration>,
    /// Sample half-open connections only, for their time in `SYN_RECV`.
    pub half_open_only: bool,
    /// Whether to look up which process holds each socket of a full dump.
    pub resolve_owners: ResolveOwners,
    /// Hand on each event soon after it came. Otherwise it may wait for some more, which takes less of the CPU.
    pub prompt: bool,
    /// Report each network namespace that cannot be dumped, and not only that there are some.
    pub verbose: bool,
    /// Print what the BPF programs log on standard error.
    pub bpf_log: bool,
    /// Have the kernel measure the program's run time during the capture.
    pub bpf_stats: bool,
    /// Count in the kernel, and stream nothing; in `btf` mode only.
    pub tally: Option<TallySize>,
}

impl Options<'_> {
    /// All events from now on, without the sockets that are there.
    pub fn events() -> Self {
        Self {
            attach: Attach::Auto,
            ring_bytes: 8 << 20,
            namespaces: NetnsSelector::All,
            filter: KernelFilter::default(),
            filters: String::new(),
            sample_interval: None,
            half_open_only: true,
            resolve_owners: ResolveOwners::No,
            prompt: true,
            verbose: false,
            bpf_log: false,
            bpf_stats: false,
            tally: None,
        }
    }
}

/// A running capture.
pub struct Live {
    loaded: Loaded,
    /// While open, it keeps the kernel measuring.
    _stats: Option<OwnedFd>,
    counters: Arc<PerCpuArray<MapData, PerCpu>>,
    origin: Origin,
    names: Names,
    notes: Vec<String>,
    instructions: Option<u32>,
    queue: mpsc::UnboundedReceiver<Item>,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
    sampler: Option<JoinHandle<()>>,
    /// Whether sockets are dumped.
    has_census: bool,
    /// The kernel's figures about the program when it was detached.
    last_run: Option<ProgramRun>,
    /// Reads the counts made in the kernel, where nothing is streamed.
    tally: Option<tally::Reader>,
    /// Whether the second program, if there is one, stands by.
    stand_by: StandBy,
    /// Wakes for a review of that where no event does.
    reviews: Option<tokio::time::Interval>,
}

impl Live {
    /// Loads, attaches and starts to read.
    pub fn start(options: &Options<'_>) -> Result<Self, CaptureError> {
        Self::start_inside(options, || Ok(()))
    }

    /// The same. When everything is loaded and attached, and before the first thread of the capture, it calls `enter`, which may
    /// give up privileges. Its error ends the start.
    pub fn start_inside(
        options: &Options<'_>,
        enter: impl FnOnce() -> io::Result<()>,
    ) -> Result<Self, CaptureError> {
        clock::offset_ns().map_err(|source| CaptureError::System {
            what: "tell the time of this time namespace from the host's",
            source,
        })?;
        let host = Host::read();
        // Before the program is loaded: the kernel counts from then on.
        let stats = if options.bpf_stats {
            Some(enable_stats()?)
        } else {
            None
        };
        let mut notes = Vec::new();
        let (mut loaded, tally) = attach(&host, options, &mut notes)?;
        if let Some(why) = loaded.without_socket() {
            if options.filter.config().netns != 0 {
                return Err(CaptureError::NoNetns { why: why.into() });
            }
            notes.push(format!(
                "cannot read the sockets, only the tracepoint's record: {why}. There is no {}.",
                loader::ONLY_IN_THE_SOCKET
            ));
        }
        if let Some(why) = loaded.without_resets()
            && loaded.without_socket().is_none()
        {
            notes.push(format!("{NO_RESETS}: {why}"));
        }
        // A tally needs no cookie: it says nothing of single sockets.
        let has_census = loaded.has_cookies() || tally.is_some();
        if !has_census {
            notes.push(NO_CENSUS.to_owned());
        }
        let origin = Origin {
            attach: loaded.mode().to_string(),
            filters: options.filters.clone(),
            // Parsing the kernel's types takes long enough to show in the first interval.
            started_ns: monotonic_ns(),
            sample_interval_ns: options
                .sample_interval
                .filter(|_| has_census && !options.half_open_only)
                .map(|interval| u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)),
            ..host.origin()
        };

        let counters = Arc::new(loaded.take_counters()?);
        let synack = has_census
            .then(|| take_synack_retransmits(&mut loaded, options, &mut notes))
            .flatten();
        let instructions = instructions(&loaded);
        // If cgroup2 is not mounted, there are no names, and no socket is in one of its cgroups.
        let names = Cgroups::of_host()
            .map(|cgroups| Names::new(Arc::new(cgroups)))
            .unwrap_or_default();
        enter().map_err(|source| CaptureError::System {
            what: "give up privileges",
            source,
        })?;
        let (reader, shared, queue) =
            reader::spawn(&mut loaded, options.bpf_log, options.prompt, has_census)?;
        let sampler = if has_census {
            let program = loaded.program_fd()?;
            let mut options = options.clone();
            if options.resolve_owners != ResolveOwners::No && !namespaces::has_hosts_pids() {
                notes.push(NO_HOSTS_PIDS.to_owned());
                options.resolve_owners = ResolveOwners::No;
            }
            Some(start_sampler(
                &options, &counters, &shared, synack, program,
            )?)
        } else {
            None
        };
        Ok(Self {
            sampler,
            has_census,
            counters,
            loaded,
            _stats: stats,
            origin,
            names,
            notes,
            instructions,
            queue,
            shared,
            reader: Some(reader),
            last_run: None,
            tally,
            stand_by: StandBy::new(Instant::now()),
            reviews: None,
        })
    }

    /// The attach mode.
    pub const fn mode(&self) -> Mode {
        self.loaded.mode()
    }

    /// Notes for the user, such as why the better attach mode was not taken.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Number of instructions of the loaded program, after the verifier has removed the dead branches.
    pub const fn program_instructions(&self) -> Option<u32> {
        self.instructions
    }

    fn program_run(&self) -> Option<ProgramRun> {
        self.last_run.or_else(|| self.loaded.program_run().ok())
    }

    fn counters(&self) -> Result<Sums, CaptureError> {
        sum(&self.counters)
    }

    /// Has the second program stand by, or not.
    fn poll_stand_by(&mut self, cx: &mut Context<'_>) {
        if !self.loaded.has_second() || self.shared.stopped() {
            return;
        }
        // Events call often enough while there are many. To find that there are few again takes a clock, and so does
        // everything where no events come.
        if self.stand_by.stands_by() && self.tally.is_none() {
            self.reviews = None;
        } else {
            let reviews = self.reviews.get_or_insert_with(|| {
                let mut reviews = interval(stand_by::PERIOD);
                reviews.set_missed_tick_behavior(MissedTickBehavior::Delay);
                reviews
            });
            while reviews.poll_tick(cx).is_ready() {}
        }
        let now = Instant::now();
        if !self.stand_by.is_due(now) {
            return;
        }
        let (Ok(run), Ok(sums)) = (self.loaded.program_run(), self.counters()) else {
            return;
        };
        if self
            .stand_by
            .review(now, sums.all.seen, run.recursion_misses)
        {
            // Where it fails, what would be caught is counted as lost.
            let _ = self.loaded.set_stand_by(self.stand_by.stands_by());
        }
    }

    /// Detaches, waits for the runs still in progress, and lets the reader empty the ring and end.
    fn end(&mut self) -> Result<(), CaptureError> {
        if self.shared.stopped() {
            return Ok(());
        }
        if self.tally.is_some() {
            // Transitions during the sampler's last dump are not counted.
            self.loaded.detach()?;
        }
        // The sampler dumps once more. Events show the transitions in the meantime.
        self.shared.exchange.stop();
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
        self.loaded.detach()?;
        // A program that was running when it was detached still counts and submits: wait until the
        // books balance.
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        loop {
            let counters = self.counters()?.all;
            let balanced =
                counters.seen == counters.filtered() + counters.submitted + counters.lost_ring_full;
            if balanced || Instant::now() >= deadline {
                break;
            }
            std::thread::yield_now();
        }
        self.last_run = self.loaded.program_run().ok();
        self.shared.stop();
        Ok(())
    }
}

/// The kernel says it only to those who may load programs.
fn instructions(loaded: &Loaded) -> Option<u32> {
    // An instruction is eight bytes long.
    loaded.info().ok()?.size_translated().map(|bytes| bytes / 8)
}

/// Why no owners are looked up.
const NO_HOSTS_PIDS: &str = "this pid namespace is not the host's: PIDs are the host's, those of --pid too, and \
    owners of sockets from before the start are unknown, since /proc has the PIDs of this namespace";
/// The cost where the RSTs of this kernel are not seen.
const NO_RESETS: &str = "the resets that this kernel sends are not seen, so where data may have come after a close \
    the cause is unknown";

/// Why there is no census.
const NO_CENSUS: &str = "events carry no socket cookie here, so a dump's sockets cannot be matched with \
    connections: those from before the start appear only with their first change, and TIME_WAIT, \
    the ends of orphans in FIN_WAIT2, and half-open connections are unknown";

/// The counters of all CPUs.
struct Sums {
    /// Of both programs.
    all: Counters,
    /// Runs that the kernel skipped of the first program, and the second has made up for.
    caught: u64,
}

fn sum(counters: &PerCpuArray<MapData, PerCpu>) -> Result<Sums, CaptureError> {
    let per_cpu = counters.get(&0, 0).map_err(|error| CaptureError::Map {
        name: tcpstate_common::config::COUNTERS,
        source: error.into(),
    })?;
    let (mut all, mut caught) = (Counters::default(), 0);
    for cpu in per_cpu.iter() {
        all.add(&cpu.first);
        all.add(&cpu.nested);
        caught += cpu.nested.seen;
    }
    Ok(Sums { all, caught })
}

fn start_sampler(
    options: &Options<'_>,
    counters: &Arc<PerCpuArray<MapData, PerCpu>>,
    shared: &Arc<Shared>,
    synack: Option<SynackRetransmits>,
    program: ProgramFd,
) -> Result<JoinHandle<()>, CaptureError> {
    let (counters, books) = (Arc::clone(counters), Arc::clone(shared));
    let plan = Plan {
        namespaces: options.namespaces.clone(),
        interval: options.sample_interval,
        half_open_only: options.half_open_only,
        always_full: options.tally.is_some(),
        resolve_owners: options.resolve_owners,
        verbose: options.verbose,
        synack,
        lost: Box::new(move || {
            // In this order, since the kernel counts what it skips before it is caught.
            let skipped = ProgramRun::read(&program).map_or(0, |run| run.recursion_misses);
            let (lost, caught) =
                sum(&counters).map_or((0, 0), |sums| (sums.all.lost_ring_full, sums.caught));
            lost + skipped.saturating_sub(caught) + books.queue_full.load(Ordering::Acquire)
        }),
    };
    let woken = Arc::clone(shared);
    sampler::spawn(plan, Arc::clone(&shared.exchange), move || woken.wake())
}

fn enable_stats() -> Result<OwnedFd, CaptureError> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| CaptureError::System {
        what: "make the kernel measure BPF run time (it takes CAP_SYS_ADMIN)",
        source: error.io_error,
    })
}

impl Counting for Live {
    fn take_tally(&mut self) -> Result<Tally, SourceError> {
        let is_last = self.shared.stopped();
        match &mut self.tally {
            Some(tally) => tally.read(is_last).map_err(SourceError::new),
            None => Ok(Tally::default()),
        }
    }
}

impl EventSource for Live {
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        self.poll_stand_by(cx);
        if let Some(notice) = self.shared.exchange.notice() {
            return Poll::Ready(Ok(Step::Notice(Notice::new(notice))));
        }
        let step = match ready!(self.queue.poll_recv(cx)) {
            Some(Item::Census(census)) => {
                self.shared.exchange.census_received();
                Step::Census(census)
            }
            Some(Item::Settled) => Step::Settled,
            Some(Item::Events(mut events)) => {
                self.shared.queued.fetch_sub(events.len(), Ordering::AcqRel);
                if batch.is_empty() {
                    *batch = events;
                } else {
                    batch.append(&mut events);
                }
                Step::Events
            }
            None => Step::End,
        };
        Poll::Ready(Ok(step))
    }

    fn has_delivered(&mut self, ns: u64) -> bool {
        let has_delivered = self.shared.read_until_ns.load(Ordering::Acquire) >= ns;
        if !has_delivered {
            // It sleeps, or this process was stopped and has just been continued.
            self.shared.wake();
        }
        has_delivered
    }

    fn counting(&mut self) -> Option<&mut dyn Counting> {
        self.tally.is_some().then_some(self)
    }

    fn stop(&mut self) {
        // If the detach fails, the program stays attached until we exit; the reader must end
        // nevertheless, or the run never would.
        if self.end().is_err() {
            self.shared.exchange.abandon();
            self.shared.stop();
        }
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        // In this order, since the kernel counts what it skips before it is caught.
        let run = self.program_run().filter(|_| self.loaded.counts_skipped());
        let Sums {
            all: counters,
            caught,
        } = self.counters().map_err(SourceError::new)?;
        let nested = run.map(|run| run.recursion_misses.saturating_sub(caught));
        let skipped = nested.unwrap_or(0);
        let malformed = self.shared.malformed.load(Ordering::Acquire);
        let queue_full = self.shared.queue_full.load(Ordering::Acquire);
        Ok(Accounting {
            seen: counters.seen + skipped,
            filtered: counters.filtered(),
            submitted: counters.submitted,
            lost: counters.lost_ring_full + skipped,
            received: match &self.tally {
                Some(tally) => tally.received(),
                None => self.shared.received.load(Ordering::Acquire),
            },
            rejected: malformed + queue_full,
            filtered_by_reason: FilteredByReason {
                protocol: counters.filtered_protocol,
                family: counters.filtered_family,
                port: counters.filtered_port,
                netns: counters.filtered_netns,
                address: counters.filtered_address,
                cgroup: counters.filtered_cgroup,
                settled: 0,
            },
            lost_by_reason: LostByReason {
                ring_full: counters.lost_ring_full,
                nested,
            },
            rejected_by_reason: RejectedByReason {
                malformed,
                queue_full,
                ..RejectedByReason::default()
            },
            partial: false,
        })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn names(&self) -> Names {
        self.names.clone()
    }

    fn cost(&mut self) -> CaptureCost {
        // The kernel reports zeros unless it was asked to measure.
        let run = self.program_run().filter(|run| run.run_count > 0);
        let second_ns = self.loaded.second_run().map_or(0, |run| run.run_ns);
        CaptureCost {
            bpf_run_ns: run.map(|run| run.run_ns + second_ns),
            bpf_run_count: run.map(|run| run.run_count),
            ring_high_water_bytes: match self.tally {
                Some(_) => None,
                None => Some(self.shared.ring_high_water_bytes.load(Ordering::Acquire)),
            },
        }
    }

    fn load(&mut self) -> Load {
        Load {
            ring_fill_bytes: match self.tally {
                Some(_) => None,
                None => Some(self.shared.ring_fill_bytes.swap(0, Ordering::AcqRel)),
            },
            sampling_ns: self
                .has_census
                .then(|| self.shared.exchange.sampling_ns.load(Ordering::Acquire)),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop();
        if let Some(reader) = self.reader.take() {
            // If it panicked, there is no one left to report that to.
            let _ = reader.join();
        }
    }
}
