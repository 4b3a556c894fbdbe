//! Loads the BPF object, fixes its read-only globals, and attaches one program.

use std::{
    fmt, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, PerCpuHashMap, Queue},
    programs::{
        Program, ProgramFd, ProgramInfo, tp_btf::BtfTracePointLinkId, trace_point::TracePointLinkId,
    },
};
use tcpstate_common::{
    Config, Counters, Record,
    config::{self, PortBitmap, SocketCopy, TP_BASE_LAZY},
    tally::{Failure, WAYS, row},
};

use super::{
    CaptureError,
    error::chain,
    host::{self, Host},
    layout::{self, Resolved},
    netns::Namespace,
    procfs,
    ring::Ring,
    spans,
    synack::{self, SynackRetransmits},
};
use crate::filter::KernelFilter;

/// The compiled BPF programs: the committed object, or the one that `TCPSTATE_BPF_OBJECT` named
/// when this was built.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcpstate.bpf.o"));

/// For a filter that is off.
static NO_PORTS: PortBitmap = [0; config::PORT_WORDS];

/// What there is not where `tracepoint` mode cannot read the sockets, as a list for people.
pub const ONLY_IN_THE_SOCKET: &str =
    "user, namespace, cgroup, error, RTT, retransmits or byte counts";

/// Where SYN-ACKs that are sent again pass by.
const SYNACK_TRACEPOINT: &str = "tcp_retransmit_synack";

const CATEGORY: &str = "sock";
const TRACEPOINT: &str = "inet_sock_set_state";

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// BTF tracepoint: the socket itself, by direct loads.
    Btf,
    /// Classic tracepoint: the tracepoint's record.
    Tracepoint,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btf => "btf",
            Self::Tracepoint => "tracepoint",
        })
    }
}

/// What to load.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// How to attach.
    pub mode: Mode,
    /// Size of the ring buffer in bytes: a power of two, a multiple of the page size.
    pub ring_bytes: u32,
    /// What the kernel side drops.
    pub filter: KernelFilter<'a>,
    /// Whether the programs log through aya-log.
    pub bpf_log: bool,
    /// What the program is to do.
    pub job: Job,
}

/// What a program does at each transition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Job {
    /// Write a record to the ring buffer.
    #[default]
    Stream,
    /// Count it, in maps of this size. In `btf` mode only.
    Tally(TallySize),
    /// Count it and read the clock: the least that a program takes that says when. In `btf` mode only.
    Clock,
    /// Nothing: the floor of what a program costs.
    Nothing,
}

/// How much is counted in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallySize {
    /// Services, each a port and a role, that are told apart.
    pub services: u32,
    /// Sockets of which is remembered since when they are in their state; taken as the next power of two.
    pub sockets: u32,
}

impl TallySize {
    /// Rows of one CPU.
    pub(super) const fn rows(self) -> u32 {
        row::FIRST + self.services
    }

    /// Sets of places.
    #[expect(clippy::cast_possible_truncation, reason = "8")]
    const fn place_sets(self) -> u32 {
        match self
            .sockets
            .div_ceil(WAYS as u32)
            .checked_next_power_of_two()
        {
            Some(sets) => sets,
            None => 1 << 31,
        }
    }

    /// Tells the program what it has.
    fn configure(self, config: &mut Config) {
        config.rows = self.rows();
        config.place_mask = self.place_sets() - 1;
        let ports = Namespace::own()
            .ok()
            .and_then(|own| procfs::ephemeral_ports(&own));
        if let Some(ports) = ports {
            (config.ephemeral_first, config.ephemeral_last) = (*ports.start(), *ports.end());
        }
    }

    /// Gives the maps their sizes.
    fn make_room(self, loader: &mut EbpfLoader<'_>) -> Result<(), CaptureError> {
        let cpus = possible_cpus()?;
        loader
            .map_max_entries(config::PLACES, self.place_sets())
            .map_max_entries(config::FREE_ROWS, self.services.max(1))
            .map_max_entries(config::SERVICES, self.rows())
            .map_max_entries(config::ROWS, self.rows().saturating_mul(cpus))
            .map_max_entries(config::TIMES, STATES.saturating_mul(cpus))
            // For each service a few kinds.
            .map_max_entries(config::ERRORS, self.rows().saturating_mul(4));
        Ok(())
    }
}

/// Programs and maps in the kernel; one program attached after [`Loaded::attach`]. Dropping it
/// detaches and frees everything.
pub struct Loaded {
    ebpf: Ebpf,
    link: Option<Link>,
    program: &'static str,
    mode: Mode,
    ring_bytes: u32,
    has_cookies: bool,
    without_socket: Option<String>,
    counts_skipped: bool,
}

/// The maps in which [`Job::Tally`] counts. The arrays are for mapping into memory.
pub(super) struct TallyMaps {
    pub(super) rows_by_port: MapData,
    pub(super) services: MapData,
    pub(super) rows: MapData,
    pub(super) times: MapData,
    pub(super) errors: PerCpuHashMap<MapData, Failure, u64>,
    pub(super) free_rows: Queue<MapData, u32>,
    pub(super) size: TallySize,
}

/// The kernel's own figures about a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramRun {
    /// Run time, nanoseconds; 0 unless the kernel is asked to measure it.
    pub run_ns: u64,
    /// Runs; 0 unless the kernel is asked to count them.
    pub run_count: u64,
    /// Runs that the kernel skipped because a program was under way on that CPU; kept without being
    /// asked. *Since:* Linux 6.1 for BTF tracepoints, 6.7 for classic ones; 0 before.
    pub recursion_misses: u64,
}

impl ProgramRun {
    /// Reads those of a program.
    pub fn read(fd: &ProgramFd) -> Result<Self, CaptureError> {
        // The loader's own view leaves the misses out.
        let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let text = std::fs::read_to_string(path).map_err(Self::failed)?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix(':')?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or(0)
        };
        Ok(Self {
            run_ns: field("run_time_ns"),
            run_count: field("run_cnt"),
            recursion_misses: field("recursion_misses"),
        })
    }

    fn failed(source: io::Error) -> CaptureError {
        CaptureError::System {
            what: "read the figures of the BPF program",
            source,
        }
    }
}

/// What keeps the program attached.
enum Link {
    Btf(BtfTracePointLinkId),
    Tracepoint(TracePointLinkId),
}

/// Loads the object and the one program that `plan` asks for.
///
/// In `tracepoint` mode the sockets are read too where that is possible; if not,
/// [`Loaded::without_socket`] says why.
pub fn load(host: &Host, plan: &Plan<'_>) -> Result<Loaded, CaptureError> {
    if plan.mode == Mode::Btf || plan.job == Job::Nothing {
        return load_as(host, plan, None);
    }
    let without = match socket_layout(host) {
        Ok(layout) => match load_as(host, plan, Some(&layout)) {
            // A kernel that is locked down to confidentiality has no helper to read it with.
            Err(error @ CaptureError::Load { .. }) => chain(&error),
            result => return result,
        },
        Err(why) => why,
    };
    let mut loaded = load_as(host, plan, None)?;
    loaded.without_socket = Some(without);
    Ok(loaded)
}

/// How `tracepoint` mode finds things in a socket.
struct SocketLayout {
    resolved: Resolved,
    copy: SocketCopy,
}

/// Where this kernel keeps what a socket tells; why that cannot be used, in words, if it cannot.
fn socket_layout(host: &Host) -> Result<SocketLayout, String> {
    let btf = host.kernel_btf().map_err(|error| chain(&error))?;
    let resolved = layout::resolve_offsets(&btf).map_err(|error| error.to_string())?;
    let copy = spans::plan(&resolved.offsets)
        .ok_or("the members of the kernel's `struct tcp_sock` are too far from each other")?;
    Ok(SocketLayout { resolved, copy })
}

fn load_as(
    host: &Host,
    plan: &Plan<'_>,
    socket: Option<&SocketLayout>,
) -> Result<Loaded, CaptureError> {
    let page_bytes = u32::try_from(rustix::param::page_size()).unwrap_or(u32::MAX);
    if !plan.ring_bytes.is_power_of_two() || !plan.ring_bytes.is_multiple_of(page_bytes) {
        return Err(CaptureError::RingBytes {
            bytes: plan.ring_bytes,
            page_bytes,
        });
    }

    let wake_bytes = plan.ring_bytes / 4;
    let mut config = Config {
        filter: plan.filter.config(),
        has_filter: u8::from(plan.filter.config() != config::Filter::default()),
        wake_bytes,
        look_mask: look_every(wake_bytes, online_cpus()) - 1,
        ..Config::default()
    };
    let tally = match plan.job {
        Job::Tally(size) => Some(size),
        Job::Stream | Job::Clock | Job::Nothing => None,
    };
    if let Some(size) = tally {
        size.configure(&mut config);
    }
    let mut base = config::TP_BASE;
    let mut btf = None;
    // A BTF tracepoint skips none where it does not count them.
    let counts_skipped =
        plan.mode == Mode::Btf || socket.is_some_and(|socket| socket.resolved.counts_skipped);
    match plan.mode {
        Mode::Btf => {
            let resolved = layout::resolve_offsets(&host.kernel_btf()?)?;
            config.offsets = resolved.offsets;
            config.has_cookie = resolved.has_cookie.into();
            config.has_task_btf = resolved.has_task_btf.into();
            config.has_cgroup = resolved.has_cgroup.into();
            // The loader wants the types in its own form: it looks up the tracepoint's.
            btf = Some(kernel_types()?);
        }
        Mode::Tracepoint => {
            let format = host.tracepoint_format()?;
            base = layout::parse_tracepoint_format(&format)?;
            if let Some(SocketLayout { resolved, copy }) = socket {
                config.offsets = resolved.offsets;
                config.copy = *copy;
                config.has_task_btf = resolved.has_task_btf.into();
                config.has_cgroup = resolved.has_cgroup.into();
                config.reads_socket = 1;
            }
        }
    }

    let (lports, rports, ports) = plan.filter.bitmaps();
    let mut loader = EbpfLoader::new();
    loader
        .btf(btf.as_ref())
        .map_max_entries(config::RING, plan.ring_bytes)
        .override_global(config::CONFIG, &config, true)
        .override_global(
            config::LOCAL_PORTS,
            lports.unwrap_or(&NO_PORTS).as_slice(),
            true,
        )
        .override_global(
            config::REMOTE_PORTS,
            rports.unwrap_or(&NO_PORTS).as_slice(),
            true,
        )
        .override_global(config::PORTS, ports.unwrap_or(&NO_PORTS).as_slice(), true);
    let level = if plan.bpf_log { &LOG_ALL } else { &LOG_NOTHING };
    loader.override_global(LOG_LEVEL, level, true);
    if !plan.bpf_log {
        loader.map_max_entries(LOG_RING, page_bytes);
    }
    if let Some(size) = tally {
        size.make_room(&mut loader)?;
    }
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|error| CaptureError::from_object(error, plan.ring_bytes, &host.kernel))?;

    let program = program_name(plan, base);
    let refused = |source| CaptureError::from_load(source, plan.mode);
    match (ebpf.program_mut(program), btf.as_ref()) {
        (Some(Program::BtfTracePoint(program)), Some(btf)) => {
            program.load(TRACEPOINT, btf).map_err(refused)?;
        }
        (Some(Program::TracePoint(program)), _) => program.load().map_err(refused)?,
        _ => return Err(missing(program)),
    }
    Ok(Loaded {
        ebpf,
        link: None,
        program,
        mode: plan.mode,
        ring_bytes: plan.ring_bytes,
        has_cookies: config.has_cookie != 0,
        without_socket: None,
        counts_skipped,
    })
}

/// The program that does this job.
fn program_name(plan: &Plan<'_>, base: u32) -> &'static str {
    match (plan.job, plan.mode) {
        (Job::Stream, Mode::Btf) => config::PROGRAM_BTF,
        (Job::Stream, Mode::Tracepoint) if base == TP_BASE_LAZY => config::PROGRAM_TRACEPOINT_LAZY,
        (Job::Stream, Mode::Tracepoint) => config::PROGRAM_TRACEPOINT,
        (Job::Tally(_), _) => config::PROGRAM_TALLY,
        (Job::Clock, _) => config::PROGRAM_CLOCK,
        (Job::Nothing, Mode::Btf) => config::PROGRAM_EMPTY_BTF,
        (Job::Nothing, Mode::Tracepoint) => config::PROGRAM_EMPTY_TRACEPOINT,
    }
}

/// The kernel's types in the loader's own form.
fn kernel_types() -> Result<Btf, CaptureError> {
    Btf::from_sys_fs().map_err(|source| CaptureError::NoBtf {
        path: host::BTF_PATH.into(),
        source: source.into(),
    })
}

/// States whose times are counted apart.
#[expect(clippy::cast_possible_truncation, reason = "12")]
const STATES: u32 = tcpstate_common::tally::STATES as u32;

/// One more than the highest number that a CPU can ever have: each has its own part of some maps.
pub(super) fn possible_cpus() -> Result<u32, CaptureError> {
    let read = || {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
        // Such as `0-3,8-11`.
        let highest = text.trim().rsplit([',', '-']).next();
        let highest: Option<u32> = highest.and_then(|number| number.parse().ok());
        highest
            .and_then(|number| number.checked_add(1))
            .ok_or_else(|| io::Error::other(format!("`{}` is no list of CPUs", text.trim())))
    };
    read().map_err(|source| CaptureError::System {
        what: "count the CPUs",
        source,
    })
}

/// After how many records a CPU looks at the ring again, a power of two: so often that all CPUs
/// together submit no more than another `wake_bytes` in between.
fn look_every(wake_bytes: u32, cpus: u32) -> u32 {
    /// Looking more seldom than this would save nothing that can be measured.
    const SELDOM_ENOUGH: u32 = 1024;
    let records = wake_bytes / RECORD_IN_RING_BYTES / cpus.max(1);
    1 << records.clamp(1, SELDOM_ENOUGH).ilog2()
}

/// The ring puts eight bytes before each record.
#[expect(clippy::cast_possible_truncation, reason = "128")]
const RECORD_IN_RING_BYTES: u32 = 8 + Record::SIZE as u32;

/// CPUs that can make transitions; 1 where the kernel does not tell.
fn online_cpus() -> u32 {
    aya::util::online_cpus().map_or(1, |cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX))
}

/// Symbols of `aya-log-ebpf`.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
const LOG_RING: &str = "AYA_LOGS";
static LOG_NOTHING: u8 = 0;
static LOG_ALL: u8 = u8::MAX;

fn missing(name: &'static str) -> CaptureError {
    CaptureError::Map {
        name,
        source: anyhow::anyhow!("it is not in the BPF object"),
    }
}

impl Loaded {
    /// Attaches the program that counts SYN-ACKs that are sent again. Once only.
    ///
    /// By a BTF tracepoint in both modes: in `tracepoint` mode too it is there on most kernels.
    ///
    /// *Errors:* this kernel cannot; the rest of the capture does not depend on it.
    pub fn take_synack_retransmits(&mut self) -> Result<SynackRetransmits, CaptureError> {
        if let Some(why) = self.without_socket() {
            return Err(synack::failed(anyhow::anyhow!("{why}")));
        }
        let types = kernel_types()?;
        let Some(Program::BtfTracePoint(program)) = self.ebpf.program_mut(config::PROGRAM_SYNACK)
        else {
            return Err(missing(config::PROGRAM_SYNACK));
        };
        program
            .load(SYNACK_TRACEPOINT, &types)
            .map_err(|source| CaptureError::from_load(source, Mode::Btf))?;
        program.attach().map_err(|source| CaptureError::Attach {
            mode: Mode::Btf,
            source,
        })?;
        let name = config::SYNACK_RETRANSMITS;
        let map = self.ebpf.take_map(name).ok_or_else(|| missing(name))?;
        SynackRetransmits::new(PerCpuHashMap::try_from(map).map_err(synack::failed)?)
    }

    /// Attaches the program. From here on it runs at every transition.
    pub fn attach(&mut self) -> Result<(), CaptureError> {
        let mode = self.mode;
        let refused = |source| CaptureError::Attach { mode, source };
        self.link = Some(match self.ebpf.program_mut(self.program) {
            Some(Program::BtfTracePoint(program)) => Link::Btf(program.attach().map_err(refused)?),
            Some(Program::TracePoint(program)) => {
                Link::Tracepoint(program.attach(CATEGORY, TRACEPOINT).map_err(refused)?)
            }
            _ => return Err(missing(self.program)),
        });
        Ok(())
    }

    /// Detaches the program. Runs that are under way on other CPUs still end.
    pub fn detach(&mut self) -> Result<(), CaptureError> {
        let mode = self.mode;
        let refused = |source| CaptureError::Attach { mode, source };
        match (self.ebpf.program_mut(self.program), self.link.take()) {
            (Some(Program::BtfTracePoint(program)), Some(Link::Btf(link))) => {
                program.detach(link).map_err(refused)
            }
            (Some(Program::TracePoint(program)), Some(Link::Tracepoint(link))) => {
                program.detach(link).map_err(refused)
            }
            _ => Ok(()),
        }
    }

    /// What the kernel knows of the attached program.
    pub fn info(&self) -> Result<ProgramInfo, CaptureError> {
        let failed = |source: aya::programs::ProgramError| CaptureError::Map {
            name: self.program,
            source: source.into(),
        };
        match self.ebpf.program(self.program) {
            Some(Program::BtfTracePoint(program)) => program.info().map_err(failed),
            Some(Program::TracePoint(program)) => program.info().map_err(failed),
            _ => Err(missing(self.program)),
        }
    }

    /// The kernel's figures about the program.
    pub fn program_run(&self) -> Result<ProgramRun, CaptureError> {
        ProgramRun::read(&self.program_fd()?)
    }

    /// The program, to read its figures by.
    pub fn program_fd(&self) -> Result<ProgramFd, CaptureError> {
        // The descriptor that it was loaded by: to get another by the program's number takes
        // CAP_SYS_ADMIN.
        let fd = match self.ebpf.program(self.program) {
            Some(Program::BtfTracePoint(program)) => program.fd(),
            Some(Program::TracePoint(program)) => program.fd(),
            _ => return Err(missing(self.program)),
        };
        let fd = fd.map_err(|error| ProgramRun::failed(io::Error::other(error)))?;
        fd.try_clone()
            .map_err(|error| ProgramRun::failed(io::Error::other(error)))
    }

    /// How it is attached.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Why the program does not read the sockets, in `tracepoint` mode; `None`: it does.
    pub fn without_socket(&self) -> Option<&str> {
        self.without_socket.as_deref()
    }

    /// Whether the kernel is known to count the runs that it skips ([`ProgramRun::recursion_misses`]).
    pub const fn counts_skipped(&self) -> bool {
        self.counts_skipped
    }

    /// Whether events carry the socket's cookie.
    pub const fn has_cookies(&self) -> bool {
        self.has_cookies
    }

    /// Maps the ring buffer. Once only: there is one reader.
    pub fn ring(&self) -> Result<Ring, CaptureError> {
        use std::os::fd::AsFd as _;
        let Some(aya::maps::Map::RingBuf(data)) = self.ebpf.map(config::RING) else {
            return Err(missing(config::RING));
        };
        Ring::new(data.fd().as_fd(), self.ring_bytes).map_err(|source| CaptureError::System {
            what: "map the ring buffer",
            source,
        })
    }

    /// Takes the per-CPU books.
    pub fn take_counters(&mut self) -> Result<PerCpuArray<MapData, Counters>, CaptureError> {
        let map = self
            .ebpf
            .take_map(config::COUNTERS)
            .ok_or_else(|| missing(config::COUNTERS))?;
        PerCpuArray::try_from(map).map_err(|error| CaptureError::Map {
            name: config::COUNTERS,
            source: error.into(),
        })
    }

    /// Takes the word in which the reader says that it sleeps.
    pub fn take_reader_sleeps(&mut self) -> Result<Array<MapData, u32>, CaptureError> {
        let name = config::READER_SLEEPS;
        let map = self.ebpf.take_map(name).ok_or_else(|| missing(name))?;
        Array::try_from(map).map_err(|error| CaptureError::Map {
            name,
            source: error.into(),
        })
    }

    /// Takes the maps in which [`Job::Tally`] counts.
    pub(super) fn take_tally(&mut self, size: TallySize) -> Result<TallyMaps, CaptureError> {
        let errors = self.take(config::ERRORS)?;
        let free_rows = self.take(config::FREE_ROWS)?;
        let mut array = |name| match self.take(name)? {
            aya::maps::Map::Array(data) => Ok(data),
            _ => Err(missing(name)),
        };
        Ok(TallyMaps {
            rows_by_port: array(config::ROWS_BY_PORT)?,
            services: array(config::SERVICES)?,
            rows: array(config::ROWS)?,
            times: array(config::TIMES)?,
            errors: PerCpuHashMap::try_from(errors).map_err(|error| CaptureError::Map {
                name: config::ERRORS,
                source: error.into(),
            })?,
            free_rows: Queue::try_from(free_rows).map_err(|error| CaptureError::Map {
                name: config::FREE_ROWS,
                source: error.into(),
            })?,
            size,
        })
    }

    fn take(&mut self, name: &'static str) -> Result<aya::maps::Map, CaptureError> {
        self.ebpf.take_map(name).ok_or_else(|| missing(name))
    }

    /// Watches for the wakeups that the program sends.
    pub fn ring_fd(&self) -> Result<BorrowedFd<'_>, CaptureError> {
        let Some(aya::maps::Map::RingBuf(data)) = self.ebpf.map(config::RING) else {
            return Err(missing(config::RING));
        };
        Ok(data.fd().as_fd())
    }

    /// The other end of `--bpf-log`.
    pub fn take_logger<T: log::Log>(
        &mut self,
        logger: T,
    ) -> Result<aya_log::EbpfLogger<T>, CaptureError> {
        aya_log::EbpfLogger::init_with_logger(&mut self.ebpf, logger).map_err(|error| {
            CaptureError::Map {
                name: LOG_RING,
                source: error.into(),
            }
        })
    }
}
