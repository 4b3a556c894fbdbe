//! The meaning of the kernel's errors when the object and its programs are loaded.

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use tcpstate_common::config;
use tcpstate_core::mode::Mode;

use super::super::{error::CaptureError, host::Host};

/// The maps whose sizes follow from `--max-connections` and `--max-ports`.
const TALLY_MAPS: [&str; 5] = [
    config::PLACES,
    config::FREE_ROWS,
    config::SERVICES,
    config::ROWS,
    config::TIMES,
];

/// The object, whose maps are created while it is loaded, was refused.
pub(super) fn of_object(error: EbpfError, ring_bytes: u32, host: &Host) -> CaptureError {
    let EbpfError::MapError(MapError::CreateError { name, io_error }) = error else {
        return CaptureError::Object(error);
    };
    let is_without_ring = || {
        host.kernel_version()
            .is_some_and(|version| version < (5, 8))
    };
    match io_error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => CaptureError::Privileges(io_error),
        Some(libc::EINVAL) if name == config::RING && is_without_ring() => {
            CaptureError::NoRingBuffer {
                kernel: host.kernel.clone(),
            }
        }
        _ if name == config::RING => CaptureError::RingAllocation {
            bytes: ring_bytes,
            source: io_error,
        },
        _ if TALLY_MAPS.contains(&name.as_str()) => CaptureError::TallyAllocation {
            name,
            source: io_error,
        },
        _ => CaptureError::Object(EbpfError::MapError(MapError::CreateError {
            name,
            io_error,
        })),
    }
}

/// A program was refused.
pub(super) fn of_program(source: ProgramError, mode: Mode) -> CaptureError {
    match source {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } if io_error.raw_os_error() == Some(libc::EPERM)
            && verifier_log.to_string().is_empty() =>
        {
            CaptureError::Privileges(io_error)
        }
        source => CaptureError::Load { mode, source },
    }
}
