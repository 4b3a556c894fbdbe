//! Programs and maps in the kernel.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Btf, Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, PerCpuHashMap, Queue},
    programs::{
        Program, ProgramError, ProgramFd, ProgramInfo, tp_btf::BtfTracePointLinkId,
        trace_point::TracePointLinkId,
    },
};
use tcpstate_common::{PerCpu, config, tally::Failure};
use tcpstate_core::{error::chain, mode::Mode, tally::TallySize};

use super::super::{
    error::{BtfError, CaptureError, MapUseError},
    host,
    layout::ResetCodes,
    ring::Ring,
    synack::{self, SynackRetransmits},
};
use super::{
    program_run::{self, ProgramRun},
    refusal,
};

const CATEGORY: &str = "sock";
/// The tracepoint of both modes.
pub(super) const TRACEPOINT: &str = "inet_sock_set_state";
/// The tracepoint of the RSTs that this kernel sends.
pub(super) const RESET_TRACEPOINT: &str = "tcp_send_reset";
/// The tracepoint of retransmitted SYN-ACKs.
const SYNACK_TRACEPOINT: &str = "tcp_retransmit_synack";

/// The ring buffer of the programs' log: a symbol of `aya-log-ebpf`.
pub(super) const LOG_RING: &str = "AYA_LOGS";

/// Programs and maps in the kernel; the programs attached after [`Loaded::attach`]. Dropping it
/// detaches and frees everything.
pub struct Loaded {
    pub(super) ebpf: Ebpf,
    /// By program, in the order in which they were attached.
    pub(super) links: Vec<(&'static str, Link)>,
    pub(super) program: &'static str,
    /// The one for the transitions that interrupt it.
    pub(super) second: Option<&'static str>,
    /// The program for this kernel's RSTs, if it has been loaded.
    pub(super) resets: Option<&'static str>,
    pub(super) without_resets: Option<String>,
    pub(super) reset_codes: Option<ResetCodes>,
    pub(super) mode: Mode,
    pub(super) ring_bytes: u32,
    pub(super) has_cookies: bool,
    pub(super) without_socket: Option<String>,
    pub(super) counts_skipped: bool,
}

/// The maps in which `Job::Tally` counts. The arrays can be mapped into memory.
pub(in super::super) struct TallyMaps {
    pub(in super::super) rows_by_port: MapData,
    pub(in super::super) services: MapData,
    pub(in super::super) rows: MapData,
    pub(in super::super) times: MapData,
    pub(in super::super) errors: PerCpuHashMap<MapData, Failure, u64>,
    pub(in super::super) free_rows: Queue<MapData, u32>,
    pub(in super::super) size: TallySize,
}

/// Keeps the program attached.
pub(super) enum Link {
    Btf(BtfTracePointLinkId),
    Tracepoint(TracePointLinkId),
}

impl Loaded {
    /// Attaches the program that counts retransmitted SYN-ACKs. Can be called only once.
    ///
    /// It uses a BTF tracepoint in both modes: most kernels on which `tracepoint` mode runs have one too.
    ///
    /// *Errors:* this kernel cannot; the rest of the capture does not depend on it.
    pub fn take_synack_retransmits(&mut self) -> Result<SynackRetransmits, CaptureError> {
        if let Some(why) = self.without_socket() {
            return Err(synack::failed(MapUseError::WithoutSocket(why.to_owned())));
        }
        let types = kernel_types()?;
        let Some(Program::BtfTracePoint(program)) = self.ebpf.program_mut(config::PROGRAM_SYNACK)
        else {
            return Err(missing(config::PROGRAM_SYNACK));
        };
        program
            .load(SYNACK_TRACEPOINT, &types)
            .map_err(|source| refusal::of_program(source, Mode::Btf))?;
        program.attach().map_err(|source| CaptureError::Attach {
            mode: Mode::Btf,
            source,
        })?;
        let name = config::SYNACK_RETRANSMITS;
        let map = self.ebpf.take_map(name).ok_or_else(|| missing(name))?;
        SynackRetransmits::new(PerCpuHashMap::try_from(map).map_err(synack::failed)?)
    }

    /// Attaches the programs. From here on they run at every transition: the second behind the first, on which
    /// `tcpstate-ebpf/src/nested.rs` relies. The one for RSTs is attached before them, so that no end lacks its RST.
    pub fn attach(&mut self) -> Result<(), CaptureError> {
        if let Some(name) = self.resets
            && let Some(Program::BtfTracePoint(program)) = self.ebpf.program_mut(name)
            && let Err(error) = program.attach()
        {
            self.resets = None;
            self.without_resets = Some(chain(&error));
        }
        self.attach_one(self.program)?;
        self.set_stand_by(true)
    }

    /// Whether there is a second program.
    pub const fn has_second(&self) -> bool {
        self.second.is_some()
    }

    /// Attaches the second program, if there is one and it is not, or detaches it. After [`Loaded::attach`].
    pub fn set_stand_by(&mut self, stands_by: bool) -> Result<(), CaptureError> {
        match (self.second, self.links.last()) {
            (Some(second), Some((last, _))) if *last == second && !stands_by => self.detach_last(),
            (Some(second), Some((last, _))) if *last != second && stands_by => {
                self.attach_one(second)
            }
            _ => Ok(()),
        }
    }

    fn attach_one(&mut self, name: &'static str) -> Result<(), CaptureError> {
        let mode = self.mode;
        let refused = |source| CaptureError::Attach { mode, source };
        let link = match self.ebpf.program_mut(name) {
            Some(Program::BtfTracePoint(program)) => Link::Btf(program.attach().map_err(refused)?),
            Some(Program::TracePoint(program)) => {
                Link::Tracepoint(program.attach(CATEGORY, TRACEPOINT).map_err(refused)?)
            }
            _ => return Err(missing(name)),
        };
        self.links.push((name, link));
        Ok(())
    }

    /// Detaches the programs, the last one first: each transition that the second catches is one that the first was
    /// skipped for. Runs that are under way on other CPUs still end.
    pub fn detach(&mut self) -> Result<(), CaptureError> {
        while !self.links.is_empty() {
            self.detach_last()?;
        }
        Ok(())
    }

    fn detach_last(&mut self) -> Result<(), CaptureError> {
        let mode = self.mode;
        let refused = |source| CaptureError::Attach { mode, source };
        let Some((name, link)) = self.links.pop() else {
            return Ok(());
        };
        match (self.ebpf.program_mut(name), link) {
            (Some(Program::BtfTracePoint(program)), Link::Btf(link)) => {
                program.detach(link).map_err(refused)
            }
            (Some(Program::TracePoint(program)), Link::Tracepoint(link)) => {
                program.detach(link).map_err(refused)
            }
            _ => Ok(()),
        }
    }

    /// The kernel's description of the program.
    pub fn info(&self) -> Result<ProgramInfo, CaptureError> {
        let failed = |source: ProgramError| CaptureError::Map {
            name: self.program,
            source: source.into(),
        };
        match self.ebpf.program(self.program) {
            Some(Program::BtfTracePoint(program)) => program.info().map_err(failed),
            Some(Program::TracePoint(program)) => program.info().map_err(failed),
            _ => Err(missing(self.program)),
        }
    }

    /// The kernel's figures about the first program.
    pub fn program_run(&self) -> Result<ProgramRun, CaptureError> {
        ProgramRun::read(&self.program_fd()?)
    }

    /// The kernel's figures about the second program; all 0 if there is none.
    pub fn second_run(&self) -> Result<ProgramRun, CaptureError> {
        self.second.map_or(Ok(ProgramRun::default()), |name| {
            ProgramRun::read(&self.fd_of(name)?)
        })
    }

    /// The first program, to read its figures by.
    pub fn program_fd(&self) -> Result<ProgramFd, CaptureError> {
        self.fd_of(self.program)
    }

    fn fd_of(&self, name: &'static str) -> Result<ProgramFd, CaptureError> {
        // The descriptor from loading it: opening another by the program's id takes CAP_SYS_ADMIN.
        let fd = match self.ebpf.program(name) {
            Some(Program::BtfTracePoint(program)) => program.fd(),
            Some(Program::TracePoint(program)) => program.fd(),
            _ => return Err(missing(name)),
        };
        let fd = fd.map_err(|error| program_run::failed(io::Error::other(error)))?;
        fd.try_clone()
            .map_err(|error| program_run::failed(io::Error::other(error)))
    }

    /// The attach mode.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Why the program does not read the sockets, in `tracepoint` mode; `None`: it does.
    pub fn without_socket(&self) -> Option<&str> {
        self.without_socket.as_deref()
    }

    /// Why the RSTs that this kernel sends are not seen; `None`: they are.
    pub fn without_resets(&self) -> Option<&str> {
        self.without_resets.as_deref()
    }

    /// Whether the RSTs that this kernel sends are seen.
    pub const fn watches_resets(&self) -> bool {
        self.resets.is_some()
    }

    /// The codes of the reasons for a RST, where the kernel says why it sends one.
    pub const fn reset_codes(&self) -> Option<&ResetCodes> {
        self.reset_codes.as_ref()
    }

    /// Whether the kernel is known to count the runs that it skips ([`ProgramRun::recursion_misses`]).
    pub const fn counts_skipped(&self) -> bool {
        self.counts_skipped
    }

    /// Whether events carry the socket's cookie.
    pub const fn has_cookies(&self) -> bool {
        self.has_cookies
    }

    /// Maps the ring buffer. Can be called only once: there is one reader.
    pub fn ring(&self) -> Result<Ring, CaptureError> {
        let Some(Map::RingBuf(data)) = self.ebpf.map(config::RING) else {
            return Err(missing(config::RING));
        };
        Ring::new(data.fd().as_fd(), self.ring_bytes).map_err(|source| CaptureError::System {
            what: "map the ring buffer",
            source,
        })
    }

    /// Takes the map of per-CPU counters.
    pub fn take_counters(&mut self) -> Result<PerCpuArray<MapData, PerCpu>, CaptureError> {
        let map = self
            .ebpf
            .take_map(config::COUNTERS)
            .ok_or_else(|| missing(config::COUNTERS))?;
        PerCpuArray::try_from(map).map_err(|error| CaptureError::Map {
            name: config::COUNTERS,
            source: error.into(),
        })
    }

    /// Takes the map with the word by which the reader announces that it sleeps.
    pub fn take_reader_sleeps(&mut self) -> Result<Array<MapData, u32>, CaptureError> {
        let name = config::READER_SLEEPS;
        let map = self.ebpf.take_map(name).ok_or_else(|| missing(name))?;
        Array::try_from(map).map_err(|error| CaptureError::Map {
            name,
            source: error.into(),
        })
    }

    /// Takes the maps in which `Job::Tally` counts.
    pub(in super::super) fn take_tally(
        &mut self,
        size: TallySize,
    ) -> Result<TallyMaps, CaptureError> {
        let errors = self.take(config::ERRORS)?;
        let free_rows = self.take(config::FREE_ROWS)?;
        let mut array = |name| match self.take(name)? {
            Map::Array(data) => Ok(data),
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

    fn take(&mut self, name: &'static str) -> Result<Map, CaptureError> {
        self.ebpf.take_map(name).ok_or_else(|| missing(name))
    }

    /// Watches for the wakeups that the program sends.
    pub fn ring_fd(&self) -> Result<BorrowedFd<'_>, CaptureError> {
        let Some(Map::RingBuf(data)) = self.ebpf.map(config::RING) else {
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
/// The kernel's types in the loader's own form.
pub(super) fn kernel_types() -> Result<Btf, CaptureError> {
    Btf::from_sys_fs().map_err(|source| CaptureError::NoBtf {
        path: host::BTF_PATH.into(),
        source: BtfError::Loader(source),
    })
}

/// The object lacks this program or map.
pub(super) fn missing(name: &'static str) -> CaptureError {
    CaptureError::Map {
        name,
        source: MapUseError::Missing,
    }
}
