//! Loads the BPF object, fixes its read-only globals, and attaches the program for one job, with those beside it.
//!
//! - here: the plan, and loading by it; `loaded`: programs and maps in the kernel; `program_run`: the
//!   kernel's figures about a program; `refusal`: the meaning of the kernel's errors.

mod loaded;
mod program_run;
mod refusal;

use aya::{Btf, Ebpf, EbpfLoader, programs::Program};
use tcpstate_common::{
    Config, Record,
    config::{self, PortBitmap, SocketCopy, TP_BASE_LAZY},
};

pub(super) use self::loaded::TallyMaps;
use self::loaded::{LOG_RING, RESET_TRACEPOINT, TRACEPOINT, kernel_types, missing};
pub use self::{loaded::Loaded, program_run::ProgramRun};
use tcpstate_core::{error::chain, filter::KernelFilter, mode::Mode, tally::TallySize};

use super::{
    error::{CaptureError, MapUseError},
    host::{self, Host},
    layout::{self, ResetCodes, Resolved},
    netns::Namespace,
    procfs, spans,
};

/// The compiled BPF programs: the committed object, or the one that `TCPSTATE_BPF_OBJECT` named
/// when this was built.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcpstate.bpf.o"));

/// For a filter that is off.
static NO_PORTS: PortBitmap = [0; config::PORT_WORDS];

/// The fields that are unknown where `tracepoint` mode cannot read the sockets, as a list for people.
pub const ONLY_IN_THE_SOCKET: &str =
    "user, namespace, cgroup, error, RTT, retransmits or byte counts";

/// The program to load, and its configuration.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The attach mode.
    pub mode: Mode,
    /// Size of the ring buffer in bytes: a power of two, a multiple of the page size.
    pub ring_bytes: u32,
    /// The filter of the kernel side.
    pub filter: KernelFilter<'a>,
    /// Whether the programs log through aya-log.
    pub bpf_log: bool,
    /// The program's job.
    pub job: Job,
}

/// The job of a program at each transition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Job {
    /// Write a record to the ring buffer.
    #[default]
    Stream,
    /// Count it, in maps of this size. In `btf` mode only.
    Tally(TallySize),
    /// Count it and read the clock: the floor for a program that timestamps. In `btf` mode only.
    Clock,
    /// Nothing: the floor of a program's cost.
    Nothing,
}

/// Loads the object and the program that `plan` asks for, with the one for what interrupts it and the one for RSTs.
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

/// Offsets in a socket for `tracepoint` mode, and the bytes to copy.
struct SocketLayout {
    resolved: Resolved,
    copy: SocketCopy,
}

/// Finds the offsets of this kernel's socket, and which bytes to copy.
///
/// *Errors:* why it cannot be read, in words.
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
    let page_bytes = host::page_bytes();
    if !plan.ring_bytes.is_power_of_two() || !plan.ring_bytes.is_multiple_of(page_bytes) {
        return Err(CaptureError::RingBytes {
            bytes: plan.ring_bytes,
            page_bytes,
        });
    }
    let mut target = Target::find(host, plan, socket)?;
    let mut ebpf = load_object(host, plan, &target)?;
    let program = program_name(plan, target.base);
    let refused = |source| refusal::of_program(source, plan.mode);
    let second = second_program(plan);
    for name in [Some(program), second].into_iter().flatten() {
        match (ebpf.program_mut(name), target.btf.as_ref()) {
            (Some(Program::BtfTracePoint(program)), Some(btf)) => {
                program.load(TRACEPOINT, btf).map_err(refused)?;
            }
            (Some(Program::TracePoint(program)), _) => program.load().map_err(refused)?,
            _ => return Err(missing(name)),
        }
    }
    let resets = load_resets(&mut ebpf, plan, &mut target);
    let (resets, without_resets) = match resets {
        Ok(program) => (program, None),
        Err(error) => (None, Some(chain(&error))),
    };
    Ok(Loaded {
        ebpf,
        links: Vec::new(),
        program,
        second,
        resets,
        without_resets,
        reset_codes: target.reset_codes,
        mode: plan.mode,
        ring_bytes: plan.ring_bytes,
        has_cookies: target.config.has_cookie != 0,
        without_socket: None,
        counts_skipped: target.counts_skipped,
    })
}

/// Loads the program for this kernel's RSTs, if there is one for the job. Returns its name.
///
/// It uses a BTF tracepoint in both modes: most kernels on which `tracepoint` mode runs have one too.
fn load_resets(
    ebpf: &mut Ebpf,
    plan: &Plan<'_>,
    target: &mut Target,
) -> Result<Option<&'static str>, CaptureError> {
    let name = match plan.job {
        Job::Stream => config::PROGRAM_RESET,
        Job::Tally(_) => config::PROGRAM_TALLY_RESET,
        Job::Clock | Job::Nothing => return Ok(None),
    };
    if target.config.offsets.sk_state == 0 {
        return Err(CaptureError::Map {
            name,
            source: MapUseError::WithoutSocket("the places of its members are unknown".to_owned()),
        });
    }
    let types = match target.btf.take() {
        Some(types) => types,
        None => kernel_types()?,
    };
    let Some(Program::BtfTracePoint(program)) = ebpf.program_mut(name) else {
        return Err(missing(name));
    };
    program
        .load(RESET_TRACEPOINT, &types)
        .map_err(|source| refusal::of_program(source, Mode::Btf))?;
    Ok(Some(name))
}

/// Everything about this kernel that loading depends on.
struct Target {
    config: Config,
    /// The kernel's types in the loader's own form: it looks up the BTF tracepoint's.
    btf: Option<Btf>,
    /// The offset at which the classic tracepoint's record begins.
    base: u32,
    counts_skipped: bool,
    reset_codes: Option<ResetCodes>,
}

impl Target {
    fn find(
        host: &Host,
        plan: &Plan<'_>,
        socket: Option<&SocketLayout>,
    ) -> Result<Self, CaptureError> {
        let mut config = plan.config()?;
        let mut base = config::TP_BASE;
        let mut btf = None;
        let mut reset_codes = None;
        match plan.mode {
            Mode::Btf => {
                let resolved = layout::resolve_offsets(&host.kernel_btf()?)?;
                config.offsets = resolved.offsets;
                config.has_cookie = resolved.has_cookie.into();
                config.has_task_btf = resolved.has_task_btf.into();
                config.has_cgroup = resolved.has_cgroup.into();
                reset_codes = resolved.reset_codes;
                btf = Some(kernel_types()?);
            }
            Mode::Tracepoint => {
                let format = host.tracepoint_format()?;
                base = layout::format::parse(&format)?;
                if let Some(SocketLayout { resolved, copy }) = socket {
                    config.offsets = resolved.offsets;
                    config.copy = *copy;
                    config.has_task_btf = resolved.has_task_btf.into();
                    config.has_cgroup = resolved.has_cgroup.into();
                    config.reads_socket = 1;
                    reset_codes = resolved.reset_codes;
                }
            }
        }
        config.has_reset_reason = reset_codes.is_some().into();
        Ok(Self {
            config,
            btf,
            base,
            reset_codes,
            // A BTF tracepoint skips none where it does not count them.
            counts_skipped: plan.mode == Mode::Btf
                || socket.is_some_and(|socket| socket.resolved.counts_skipped),
        })
    }
}

impl Plan<'_> {
    /// The part of the programs' configuration that does not depend on the kernel.
    fn config(&self) -> Result<Config, CaptureError> {
        let wake_bytes = self.ring_bytes / 4;
        let mut config = Config {
            filter: self.filter.config(),
            has_filter: u8::from(self.filter.config() != config::Filter::default()),
            wake_bytes,
            look_mask: look_every(wake_bytes, host::online_cpus()) - 1,
            ..Config::default()
        };
        if let Some(size) = self.job.tally() {
            configure_tally(size, &mut config)?;
        }
        Ok(config)
    }
}

impl Job {
    const fn tally(self) -> Option<TallySize> {
        match self {
            Self::Tally(size) => Some(size),
            Self::Stream | Self::Clock | Self::Nothing => None,
        }
    }
}

/// Fixes the read-only globals and the sizes of the maps, and loads the object, which creates the maps.
fn load_object(host: &Host, plan: &Plan<'_>, target: &Target) -> Result<Ebpf, CaptureError> {
    let bitmaps = plan.filter.bitmaps();
    let [lports, rports, ports] = bitmaps.map(|bitmap| bitmap.unwrap_or(&NO_PORTS).as_slice());
    let level = if plan.bpf_log { &LOG_ALL } else { &LOG_NOTHING };
    let mut loader = EbpfLoader::new();
    loader
        .btf(target.btf.as_ref())
        .map_max_entries(config::RING, plan.ring_bytes)
        .override_global(config::CONFIG, &target.config, true)
        .override_global(config::LOCAL_PORTS, lports, true)
        .override_global(config::REMOTE_PORTS, rports, true)
        .override_global(config::PORTS, ports, true)
        .override_global(LOG_LEVEL, level, true);
    if !plan.bpf_log {
        loader.map_max_entries(LOG_RING, host::page_bytes());
    }
    if let Some(size) = plan.job.tally() {
        size_tally_maps(size, target.config.cpus, &mut loader);
    }
    loader
        .load(OBJECT)
        .map_err(|error| refusal::of_object(error, plan.ring_bytes, host))
}

/// Configures the sizes of the maps in which the program counts, and the range of ephemeral ports.
fn configure_tally(size: TallySize, config: &mut Config) -> Result<(), CaptureError> {
    config.cpus = host::possible_cpus()?;
    config.rows = size.rows();
    config.place_mask = size.place_sets() - 1;
    let own = Namespace::own().ok();
    let ports = own.and_then(|own| own.within(procfs::ephemeral_ports_here).ok()?);
    if let Some(ports) = ports {
        (config.ephemeral_first, config.ephemeral_last) = (*ports.start(), *ports.end());
    }
    Ok(())
}

/// Sets the sizes of the maps in which [`Job::Tally`] counts.
fn size_tally_maps(size: TallySize, cpus: u32, loader: &mut EbpfLoader<'_>) {
    let parts = tcpstate_common::tally::parts(cpus);
    loader
        .map_max_entries(config::PLACES, size.place_sets())
        .map_max_entries(config::FREE_ROWS, size.services.max(1))
        .map_max_entries(config::SERVICES, size.rows())
        .map_max_entries(config::ROWS, size.rows().saturating_mul(parts))
        .map_max_entries(config::TIMES, STATES.saturating_mul(parts))
        // A few kinds of errors per service.
        .map_max_entries(config::ERRORS, size.rows().saturating_mul(4));
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

/// The program for the transitions that interrupt the other one, if there is one for this job.
fn second_program(plan: &Plan<'_>) -> Option<&'static str> {
    match (plan.job, plan.mode) {
        (Job::Stream, Mode::Btf) => Some(config::PROGRAM_BTF_NESTED),
        (Job::Tally(_), Mode::Btf) => Some(config::PROGRAM_TALLY_NESTED),
        _ => None,
    }
}

/// Number of records after which a CPU checks the ring's fill level again, a power of two: so small that
/// all CPUs together submit no more than another `wake_bytes` in between.
fn look_every(wake_bytes: u32, cpus: u32) -> u32 {
    /// Checking less often than this saves nothing that can be measured.
    const SELDOM_ENOUGH: u32 = 1024;
    let records = wake_bytes / RECORD_IN_RING_BYTES / cpus.max(1);
    1 << records.clamp(1, SELDOM_ENOUGH).ilog2()
}

/// The ring puts eight bytes before each record.
#[expect(clippy::cast_possible_truncation, reason = "128")]
const RECORD_IN_RING_BYTES: u32 = 8 + Record::SIZE as u32;

/// The level at which the programs log: a symbol of `aya-log-ebpf`.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
static LOG_NOTHING: u8 = 0;
static LOG_ALL: u8 = u8::MAX;

/// States whose times are counted separately.
#[expect(clippy::cast_possible_truncation, reason = "12")]
const STATES: u32 = tcpstate_common::tally::STATES as u32;
