//! The origin of a stream of events.

use serde::{Deserialize, Serialize};

/// [`Origin::attach`] of a stream that was rebuilt from packets.
pub const PACKETS: &str = "packets";

/// The evidence that a stream of events rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Evidence {
    /// The kernel's own transitions.
    #[default]
    Kernel,
    /// Packets: the transitions that they show, as the kernel would have made them.
    Packets,
}

impl Evidence {
    /// The name in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Packets => PACKETS,
        }
    }
}

/// The host and the capture that a stream of events comes from. A recording carries it in its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// The attach mode of the programs: `btf` or `tracepoint`; [`PACKETS`] where there was none, and the events were
    /// rebuilt from packets.
    pub attach: String,
    /// The clock anchor: wall-clock nanoseconds since 1970 at monotonic 0 (boot, suspend left out).
    pub wall_at_monotonic_zero_ns: i64,
    /// Monotonic nanoseconds at which the capture began.
    pub started_ns: u64,
    /// The filters in force in the kernel, as the command line gave them; empty is none.
    pub filters: String,
    /// Whether the events happen now, so that time passes without events too.
    pub live: bool,
    /// The time from one sample to the next, nanoseconds; `None`: no samples are taken, so that what
    /// no transition shows is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_interval_ns: Option<u64>,
}

impl Origin {
    /// The evidence that the events rest on.
    pub fn evidence(&self) -> Evidence {
        if self.attach == PACKETS {
            Evidence::Packets
        } else {
            Evidence::Kernel
        }
    }

    /// Wall-clock nanoseconds since 1970 of a monotonic time.
    pub const fn wall_ns(&self, ts_ns: u64) -> i64 {
        self.wall_at_monotonic_zero_ns
            .saturating_add_unsigned(ts_ns)
    }
}
