//! The cost of this process so far.

use rustix::time::{ClockId, clock_gettime};
use tcpstate_core::books::{CaptureCost, Cost};

/// The cost of this process so far, without that of a capture.
pub fn own_cost() -> Cost {
    read(CaptureCost::default())
}

pub(super) fn read(capture: CaptureCost) -> Cost {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(cpu.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(cpu.tv_nsec).unwrap_or(0);
    Cost {
        capture,
        cpu_ns: seconds * 1_000_000_000 + nanoseconds,
        max_rss_bytes: max_rss_bytes(),
    }
}

/// Reads `VmHWM`, because `getrusage` includes the memory of the process before `exec`.
fn max_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_cost() {
        let cost = read(CaptureCost::default());
        assert!(cost.cpu_ns > 0);
        assert!(cost.max_rss_bytes.unwrap() > 100_000);
    }
}
