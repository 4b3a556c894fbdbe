//! The kernel's own figures about a program.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::programs::ProgramFd;

use super::super::error::CaptureError;

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
        let text = fs::read_to_string(path).map_err(failed)?;
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
}

/// The figures cannot be read.
pub(super) const fn failed(source: io::Error) -> CaptureError {
    CaptureError::System {
        what: "read the figures of the BPF program",
        source,
    }
}
