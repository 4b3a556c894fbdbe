//! The books: where every transition went, from the kernel to the view, and what it cost to watch.

use serde::{Deserialize, Serialize};

/// The books: where every transition that the kernel made went.
///
/// `seen = filtered + submitted + lost` and `submitted = received + rejected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// Transitions at the tracepoint, all protocols, since the programs were attached.
    pub seen: u64,
    /// Dropped by a filter in the kernel.
    pub filtered: u64,
    /// Written to the ring buffer.
    pub submitted: u64,
    /// Not written to the ring buffer though they should have been.
    pub lost: u64,
    /// Read from the ring buffer and handed on.
    pub received: u64,
    /// Read from the ring buffer and not handed on.
    pub rejected: u64,
    /// `filtered` by reason.
    pub filtered_by_reason: FilteredByReason,
    /// `lost` by reason.
    pub lost_by_reason: LostByReason,
    /// `rejected` by reason.
    pub rejected_by_reason: RejectedByReason,
    /// The capture's own books are missing: a recording that was cut, or a part of one that is not
    /// its last. The numbers then speak of the file only; `filtered` and `lost` are unknown, not 0.
    #[serde(default)]
    pub partial: bool,
}

/// Why the kernel side dropped a transition on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilteredByReason {
    /// Not TCP: SCTP, MPTCP, DCCP pass the same tracepoint.
    pub protocol: u64,
    /// Not the address family asked for.
    pub family: u64,
    /// Not one of the ports asked for.
    pub port: u64,
    /// Not the network namespace asked for.
    pub netns: u64,
    /// Not in the cgroup asked for, nor below it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cgroup: u64,
    /// A recording: captured, since the kernel side could not tell yet, and then left out by the
    /// filter in user space.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub settled: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why the kernel side lost a transition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostByReason {
    /// The ring buffer was full.
    pub ring_full: u64,
    /// The kernel skipped the program because one was already running on that CPU
    /// (`recursion_misses` of the program); `None` where the kernel skips without counting. A BTF
    /// tracepoint counts them since Linux 6.1, and skips none before; a classic one counts them since
    /// 6.7 only.
    pub nested: Option<u64>,
}

/// Why the reader did not hand on a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedByReason {
    /// It could not be decoded.
    pub malformed: u64,
    /// The queue between the reader and the view was full: the output is too slow.
    pub queue_full: u64,
    /// A recording: it was captured, but this file does not have it: the block was damaged, it is in
    /// another file of a rotation, or it had left the flight recorder's memory.
    #[serde(default)]
    pub not_in_file: u64,
}

/// What the capture itself cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCost {
    /// Run time of the BPF program, nanoseconds, where the kernel keeps it.
    pub bpf_run_ns: Option<u64>,
    /// Runs of the BPF program, where the kernel keeps it.
    pub bpf_run_count: Option<u64>,
    /// The most bytes seen waiting in the ring buffer.
    pub ring_high_water_bytes: Option<u64>,
}

/// Where the events that were received went: `received = passed + dropped + undecided + unread`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// What the filters made of them, and how many went to the view.
    #[serde(flatten)]
    pub settled: Settled,
    /// Received after the view had shown all that it was asked for.
    pub unread: u64,
}

/// What a [`Settler`](crate::filter::Settler) has done so far. Every event that it was given is in one of these, or held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// Events that match.
    pub passed: u64,
    /// Events that do not.
    pub dropped: u64,
    /// Events of which the socket's next one, which would have told, never came: no later event of
    /// the socket matched in the kernel, which then dropped it; or it was lost; or the run ended
    /// first. With `-L` or `-P` nearly all are the first kind, one for each outgoing connection from
    /// another port. They are not `dropped`: of a single one nobody can say which it was.
    pub undecided: u64,
}

/// The books of a run: those of its source, those of the filters, and the cost.
///
/// While the run goes on they are read at a tick: an event that a filter still holds, or that was
/// received behind the tick, is `received` and nothing else yet. At the end they are exact.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunBooks {
    /// The books of the source.
    pub accounting: Accounting,
    /// Where the received events went.
    pub selection: Selection,
    /// The cost of the run.
    pub cost: Cost,
}

/// Our own cost over the run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// CPU time of this process, user and system, nanoseconds.
    pub cpu_ns: u64,
    /// The largest resident set, bytes, where `/proc` tells.
    pub max_rss_bytes: Option<u64>,
    /// The capture's part.
    #[serde(flatten)]
    pub capture: CaptureCost,
}
