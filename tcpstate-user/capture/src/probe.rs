//! The abilities of this host: each is tried, not guessed from versions, with the cost of its absence.
//!
//! [`probe`] tries them; pure functions judge the results. Nothing stays behind: each program is detached at once.
//! Other modules decide how the report is printed.

use std::{io, time::Duration};

use aya::{maps::MapType, sys::SyscallError};
use rustix::{
    net::{RecvFlags, SendFlags, recv, send},
    thread::CapabilitySet,
};
use tcpstate_core::{
    error::chain,
    filter::Filter,
    mode::Mode,
    report::{Check, Report, Status},
};

use super::{
    clock,
    error::{CaptureError, privileges_remedy},
    host::{self, Host, Lockdown},
    layout::{self, Resolved},
    loader::{self, Plan},
    namespaces::{self, Namespace},
    sockdiag,
};

/// Tries everything. Takes well under a second, and attaches for a moment.
///
/// `ring_bytes` is the size of the ring buffer to try.
pub fn probe(ring_bytes: u32) -> Report {
    let host = Host::read();
    let layout = host
        .kernel_btf()
        .and_then(|btf| Ok(layout::resolve_offsets(&btf)?));
    let format = host.tracepoint_format();
    let btf = try_attach(&host, Mode::Btf, ring_bytes);
    let tracepoint = try_attach(&host, Mode::Tracepoint, ring_bytes);
    let works = Works {
        btf: btf.is_ok(),
        tracepoint: tracepoint.is_ok(),
    };
    let checks = vec![
        kernel(&host),
        capabilities(host::capabilities(), host.kernel_version()),
        user_namespace(Namespace::User.is_initial()),
        pid_namespace(Namespace::Pid.is_initial(), namespaces::has_hosts_pids()),
        time_namespace(Namespace::Time.is_initial(), clock::offset_ns()),
        lockdown(Lockdown::read()),
        ring_buffer(
            aya::sys::is_map_supported(MapType::RingBuf),
            ring_bytes,
            &btf,
            &tracepoint,
        ),
        kernel_types(layout, works),
        attach_btf(&btf, works),
        tracefs(&host, format, works),
        attach_tracepoint(&tracepoint, works),
        resets(btf.as_ref().or(tracepoint.as_ref()).ok()),
        sock_diag(try_sock_diag()),
        bpf_stats(
            aya::sys::enable_stats(aya::sys::Stats::RunTime).map(drop),
            host::sysctl("kernel/bpf_stats_enabled"),
        ),
    ];
    Report {
        host: host.name,
        kernel: host.kernel,
        checks,
        attach: works.best(),
    }
}

/// Findings of an attach that worked.
#[derive(Clone, Debug, Default)]
struct Attached {
    /// Size of the program in the kernel, in instructions, where the kernel says it.
    instructions: Option<u32>,
    /// Why the sockets cannot be read, if not.
    without_socket: Option<String>,
    /// The kernel skips runs without counting them.
    skips_uncounted: bool,
    /// Why the RSTs that the kernel sends are not seen, if not.
    without_resets: Option<String>,
    /// The kernel says why it sends a RST.
    reset_reasons: bool,
}

/// Which attach modes work.
#[derive(Clone, Copy, Debug)]
struct Works {
    btf: bool,
    tracepoint: bool,
}

impl Works {
    fn best(self) -> Option<Mode> {
        match self {
            Self { btf: true, .. } => Some(Mode::Btf),
            Self {
                tracepoint: true, ..
            } => Some(Mode::Tracepoint),
            _ => None,
        }
    }

    /// The cost where `btf` does not work.
    fn without_btf(self) -> String {
        if self.tracepoint {
            "--attach tracepoint takes its place, which costs more and has no cookies"
        } else {
            "--attach btf is not possible"
        }
        .to_owned()
    }

    /// The cost where `tracepoint` does not work.
    fn without_tracepoint(self) -> String {
        if self.btf {
            "nothing, as long as --attach btf works"
        } else {
            "--attach tracepoint is not possible"
        }
        .to_owned()
    }
}

/// Loads and attaches for real, and detaches.
fn try_attach(host: &Host, mode: Mode, ring_bytes: u32) -> Result<Attached, CaptureError> {
    let filter = Filter::default();
    let plan = Plan {
        mode,
        ring_bytes,
        filter: filter.kernel(),
        bpf_log: false,
        job: loader::Job::Stream,
    };
    let mut loaded = loader::load(host, &plan)?;
    loaded.attach()?;
    let size_bytes = loaded.info().ok().and_then(|info| info.size_translated());
    Ok(Attached {
        // An instruction is eight bytes long.
        instructions: size_bytes.map(|bytes| bytes / 8),
        without_socket: loaded.without_socket().map(str::to_owned),
        skips_uncounted: !loaded.counts_skipped(),
        without_resets: loaded.without_resets().map(str::to_owned),
        reset_reasons: loaded.reset_codes().is_some(),
    })
}

/// Requests the listening TCP sockets and reads the beginning of the answer.
///
/// *Source:* `struct nlmsghdr` in `include/uapi/linux/netlink.h`, `struct inet_diag_req_v2` in
/// `include/uapi/linux/inet_diag.h`.
#[expect(
    clippy::indexing_slicing,
    reason = "by constants, inside of what is read into"
)]
fn try_sock_diag() -> io::Result<()> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST_DUMP: u16 = 0x301;
    const NLMSG_ERROR: u16 = 2;
    const LISTEN: u32 = 1 << 10;

    let socket = sockdiag::connected()?;
    let mut request = [0u8; 72];
    request[0..4].copy_from_slice(&72u32.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request[16] = 2; // AF_INET
    request[17] = 6; // IPPROTO_TCP
    request[20..24].copy_from_slice(&LISTEN.to_ne_bytes());
    send(&socket, &request, SendFlags::empty())?;

    // The kernel has written the answer by now, and cuts it to what fits here.
    let mut answer = [0u8; 4096];
    let (_, len) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    let error = |at: usize| {
        i32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]])
    };
    match u16::from_ne_bytes([answer[4], answer[5]]) {
        _ if len < 20 => Err(io::ErrorKind::UnexpectedEof.into()),
        NLMSG_ERROR if error(16) != 0 => Err(io::Error::from_raw_os_error(-error(16))),
        _ => Ok(()),
    }
}

/// A check that failed, with the advice of its error.
fn failed(name: &'static str, error: &CaptureError) -> Check {
    Check {
        remedy: error.remedy(),
        ..Check::new(name, Status::Missing, chain(error))
    }
}

fn kernel(host: &Host) -> Check {
    let name = "kernel";
    match host.kernel_version() {
        Some(version) if version < (5, 8) => Check::new(name, Status::Missing, &host.kernel)
            .costs("`trace` cannot run: the BPF ring buffer came with Linux 5.8")
            .remedy("Run a kernel of 5.8 or newer."),
        _ => Check::new(name, Status::Ok, &host.kernel),
    }
}

fn capabilities(effective: io::Result<CapabilitySet>, kernel: Option<(u32, u32)>) -> Check {
    let name = "capabilities";
    let effective = match effective {
        Ok(effective) => effective,
        Err(error) => {
            return Check::new(name, Status::Degraded, format!("cannot be read: {error}"));
        }
    };
    let list = |there: bool| {
        let names = host::CAPABILITIES
            .iter()
            .filter(|(_, bit)| effective.contains(*bit) == there);
        names.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    };
    let detail = match (list(true), list(false)) {
        (present, absent) if absent.is_empty() => present,
        (present, absent) if present.is_empty() => format!("none of {absent}"),
        (present, absent) => format!("{present}; not {absent}"),
    };
    // Neither existed before Linux 5.8.
    let own = kernel.is_none_or(|version| version >= (5, 8))
        && effective.contains(CapabilitySet::BPF | CapabilitySet::PERFMON);
    if own || effective.contains(CapabilitySet::SYS_ADMIN) {
        Check::new(name, Status::Ok, detail)
    } else {
        Check::new(name, Status::Missing, detail)
            .costs("nothing can be watched live, but recordings (-r FILE) can be read")
            .remedy(privileges_remedy())
    }
}

fn user_namespace(initial: io::Result<bool>) -> Check {
    let name = "user_namespace";
    match initial {
        Ok(true) => Check::new(name, Status::Ok, "the host's"),
        Ok(false) => Check::new(
            name,
            Status::Degraded,
            "not the host's: inside a rootless container?",
        )
        .costs("capabilities held here do not count for BPF")
        .remedy("Run it outside, or in a container that shares the host's user namespace."),
        Err(error) => Check::new(name, Status::Degraded, format!("cannot be read: {error}")),
    }
}

fn pid_namespace(initial: io::Result<bool>, has_hosts_pids: bool) -> Check {
    let name = "pid_namespace";
    match initial {
        Ok(true) => Check::new(name, Status::Ok, "the host's"),
        Ok(false) if has_hosts_pids => {
            Check::new(name, Status::Ok, "not the host's, but /proc has the host's PIDs")
        }
        Ok(false) => Check::new(
            name,
            Status::Degraded,
            "not the host's: inside a container?",
        )
        .costs(
            "the PIDs shown, and those of --pid, are the host's, not those seen in here; /proc has the \
             others, so the owners of sockets from before the start are not looked up. `ls` shows the PIDs \
             seen in here",
        )
        .remedy("Share the host's: docker run --pid=host, or hostPID: true in a pod."),
        Err(error) => Check::new(name, Status::Degraded, format!("cannot be read: {error}")),
    }
}

fn time_namespace(initial: io::Result<bool>, offset_ns: io::Result<i64>) -> Check {
    let name = "time_namespace";
    match (initial, offset_ns) {
        (Ok(true), _) => Check::new(name, Status::Ok, "the host's"),
        (Ok(false), Ok(offset_ns)) => {
            let seconds = Duration::from_nanos(offset_ns.unsigned_abs()).as_secs_f64();
            let direction = if offset_ns < 0 { "behind" } else { "ahead of" };
            let detail = format!(
                "not the host's; its clock is {seconds} s {direction} the host's, which is taken off: times \
                 are the host's"
            );
            Check::new(name, Status::Ok, detail)
        }
        (Ok(false), Err(error)) => Check::new(
            name,
            Status::Missing,
            format!("not the host's, and its offset is unknown: {error}"),
        )
        .costs("`trace` cannot run: events have the host's time")
        .remedy("Run it in the host's time namespace."),
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {
            Check::new(name, Status::Ok, "this kernel has none")
        }
        (Err(error), _) => Check::new(name, Status::Degraded, format!("cannot be read: {error}")),
    }
}

fn lockdown(level: Lockdown) -> Check {
    let name = "lockdown";
    match level {
        Lockdown::None | Lockdown::Integrity => Check::new(name, Status::Ok, level.name()),
        Lockdown::Confidentiality => Check::new(name, Status::Degraded, level.name())
            .costs("tracefs is closed, and with it --attach tracepoint")
            .remedy("Use --attach btf; boot with lockdown=integrity if that is refused too."),
        Lockdown::Unknown => Check::new(
            name,
            Status::Ok,
            "unknown: /sys/kernel/security/lockdown cannot be read; the checks below show its effects",
        ),
    }
}

fn ring_buffer(
    supported: Result<bool, SyscallError>,
    ring_bytes: u32,
    btf: &Result<Attached, CaptureError>,
    tracepoint: &Result<Attached, CaptureError>,
) -> Check {
    let name = "ring_buffer";
    let allocation = [btf, tracepoint].into_iter().find_map(|tried| match tried {
        Err(
            error @ (CaptureError::RingAllocation { .. }
            | CaptureError::RingBytes { .. }
            | CaptureError::NoRingBuffer { .. }),
        ) => Some(error),
        _ => None,
    });
    match (supported, allocation) {
        (_, Some(error)) => {
            failed(name, error).costs("`trace` cannot run with a ring buffer of this size")
        }
        (Ok(true), None) if btf.is_ok() || tracepoint.is_ok() => Check::new(
            name,
            Status::Ok,
            format!("supported; {ring_bytes} bytes were allocated"),
        ),
        (Ok(true), None) => Check::new(name, Status::Ok, "supported"),
        (Ok(false), None) => Check::new(
            name,
            Status::Missing,
            "not supported; ring buffers came with Linux 5.8",
        )
        .costs("`trace` cannot run")
        .remedy("Run a kernel of 5.8 or newer."),
        (Err(error), None) => {
            let detail = format!("could not be tried: {}", error.io_error);
            let check = Check::new(name, Status::Missing, detail).costs("`trace` cannot run");
            match error.io_error.raw_os_error() {
                Some(libc::EPERM) => check.remedy(privileges_remedy()),
                _ => check,
            }
        }
    }
}

fn kernel_types(resolved: Result<Resolved, CaptureError>, works: Works) -> Check {
    let name = "kernel_types";
    let resolved = match resolved {
        Ok(resolved) => resolved,
        Err(error) => return failed(name, &error).costs(works.without_btf()),
    };
    let lacking: Vec<_> = [
        (
            resolved.has_cookie,
            "socket cookies (Linux 5.12): the kernel address identifies connections",
        ),
        (
            resolved.has_task_btf,
            "bpf_get_current_task_btf (Linux 5.11): pid and name cost more, the name is that of the thread, and \
             kernel workers are not left out",
        ),
        (
            resolved.has_cgroup,
            "the socket's cgroup (Linux 5.15): no containers",
        ),
    ]
    .into_iter()
    .filter_map(|(there, what)| (!there).then_some(what))
    .collect();
    let detail = format!("{} has all required members", host::BTF_PATH);
    if lacking.is_empty() {
        Check::new(name, Status::Ok, detail)
    } else {
        Check::new(name, Status::Degraded, detail)
            .costs(format!("missing: {}", lacking.join("; ")))
            .remedy("A newer kernel has them.")
    }
}

fn attach_btf(tried: &Result<Attached, CaptureError>, works: Works) -> Check {
    let name = "attach_btf";
    match tried {
        Ok(tried) => Check::new(name, Status::Ok, attached(tried)),
        Err(error) => failed(name, error).costs(works.without_btf()),
    }
}

fn attach_tracepoint(tried: &Result<Attached, CaptureError>, works: Works) -> Check {
    let name = "attach_tracepoint";
    match tried {
        Ok(
            tried @ Attached {
                without_socket: Some(why),
                ..
            },
        ) => Check::new(
            name,
            Status::Degraded,
            format!("{}; sockets cannot be read: {why}", attached(tried)),
        )
        .costs(format!(
            "with --attach tracepoint there is no {}, and `nested` is unknown",
            loader::ONLY_IN_THE_SOCKET
        )),
        Ok(tried) if tried.skips_uncounted => Check::new(name, Status::Degraded, attached(tried))
            .costs(
                "with --attach tracepoint `nested` is unknown: this kernel does not count the \
                 transitions that it skips (Linux 6.7)",
            )
            .remedy("--attach btf skips none, or counts them."),
        Ok(tried) => Check::new(name, Status::Ok, attached(tried)),
        Err(error) => failed(name, error).costs(works.without_tracepoint()),
    }
}

/// The RSTs that this kernel sends, which decide about some causes.
fn resets(tried: Option<&Attached>) -> Check {
    let name = "resets";
    match tried {
        None => Check::new(name, Status::Missing, "nothing can be attached")
            .costs("the same as without a program for transitions"),
        Some(Attached {
            without_resets: Some(why),
            ..
        }) => Check::new(name, Status::Degraded, format!("not seen: {why}")).costs(
            "where data may have come after a close, the cause is unknown; there is no `reset_reason`",
        ),
        Some(Attached {
            reset_reasons: true,
            ..
        }) => Check::new(name, Status::Ok, "those of this kernel are seen, with their reasons"),
        Some(_) => Check::new(name, Status::Degraded, "those of this kernel are seen")
            .costs("there is no `reset_reason`: the kernel does not say why it resets (Linux 6.10)")
            .remedy("A newer kernel does."),
    }
}

fn attached(tried: &Attached) -> String {
    match tried.instructions {
        Some(instructions) => format!("attached and detached; {instructions} instructions"),
        None => "attached and detached".to_owned(),
    }
}

fn tracefs(host: &Host, format: Result<String, CaptureError>, works: Works) -> Check {
    let name = "tracefs";
    let fits = format.and_then(|text| Ok(layout::format::parse(&text)?));
    match (fits, &host.tracefs) {
        (Ok(base), Some(path)) => Check::new(
            name,
            Status::Ok,
            format!(
                "at {}; the tracepoint's record fits (skaddr at {base})",
                path.display()
            ),
        ),
        (Ok(base), None) => Check::new(
            name,
            Status::Ok,
            format!("the tracepoint's record fits (skaddr at {base})"),
        ),
        (Err(error), Some(_)) => failed(name, &error).costs(works.without_tracepoint()),
        (Err(error), None) => Check {
            detail: "not mounted, or hidden from this user".to_owned(),
            ..failed(name, &error).costs(works.without_tracepoint())
        },
    }
}

fn sock_diag(tried: io::Result<()>) -> Check {
    let name = "sock_diag";
    match tried {
        Ok(()) => Check::new(name, Status::Ok, "answers for TCP"),
        Err(error) => Check::new(
            name,
            Status::Missing,
            format!("does not answer for TCP: {error}"),
        )
        .costs("existing sockets cannot be listed; `trace` does not need it")
        .remedy("Load the module: modprobe tcp_diag."),
    }
}

fn bpf_stats(enabled: Result<(), SyscallError>, already: Option<u64>) -> Check {
    let name = "bpf_stats";
    match (enabled, already) {
        (Ok(()), Some(1..)) => Check::new(
            name,
            Status::Ok,
            "the kernel measures run times (kernel.bpf_stats_enabled is on)",
        ),
        (Ok(()), _) => Check::new(name, Status::Ok, "the kernel measures run times when asked"),
        (Err(_), Some(1..)) => Check::new(name, Status::Ok, "kernel.bpf_stats_enabled is on"),
        (Err(error), _) => Check::new(
            name,
            Status::Degraded,
            format!("cannot be switched on: {}", error.io_error),
        )
        .costs("the cost of the program in the kernel is not measured")
        .remedy("Run as root (CAP_SYS_ADMIN), or: sudo sysctl kernel.bpf_stats_enabled=1"),
    }
}

#[cfg(test)]
mod tests;
