//! Retransmitted SYN-ACKs, counted in the kernel by listener.
//!
//! Their meaning for a half-open connection is not this module's business.

use aya::maps::{MapData, PerCpuHashMap};
use tcpstate_common::config::{self, Listener};

use super::error::{CaptureError, MapUseError};

/// Retransmitted SYN-ACKs of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SynackRetransmit {
    /// Network namespace, by its inode number.
    pub netns: u32,
    /// The listener's port.
    pub lport: u16,
    /// Number since the program was attached.
    pub count: u64,
}

/// The counts, which grow as long as their program is attached.
pub struct SynackRetransmits {
    map: PerCpuHashMap<MapData, Listener, u64>,
}

impl SynackRetransmits {
    /// Takes over the map, and inserts the entry for listeners that find it full.
    pub(super) fn new(
        mut map: PerCpuHashMap<MapData, Listener, u64>,
    ) -> Result<Self, CaptureError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| CaptureError::System {
            what: "count the CPUs",
            source,
        })?;
        let zeros = aya::maps::PerCpuValues::try_from(vec![0; cpus]).map_err(failed)?;
        map.insert(Listener::OTHER, zeros, 0).map_err(failed)?;
        Ok(Self { map })
    }

    /// The counts up to now, by namespace and port. Listeners that found the map full are counted together under
    /// namespace 0 and port 0.
    pub fn read(&self) -> Result<Vec<SynackRetransmit>, CaptureError> {
        let mut all = Vec::new();
        for entry in &self.map {
            let (listener, per_cpu) = entry.map_err(failed)?;
            let count = per_cpu.iter().sum();
            if count > 0 {
                all.push(SynackRetransmit {
                    netns: listener.netns,
                    lport: listener.lport,
                    count,
                });
            }
        }
        all.sort_unstable();
        Ok(all)
    }
}

pub(super) fn failed(error: impl Into<MapUseError>) -> CaptureError {
    CaptureError::Map {
        name: config::SYNACK_RETRANSMITS,
        source: error.into(),
    }
}
