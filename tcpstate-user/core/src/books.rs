//! The books: the way of every transition from the kernel to the view, and the cost of watching.

mod packets;

use serde::{Deserialize, Serialize};

pub use self::packets::{NotTcp, NotTcpByKind, Packets, Unreadable, UnreadableByReason};

/// The books of a source: every transition that the kernel made is in one of them.
///
/// `seen = filtered + submitted + lost` and `submitted = received + rejected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// Transitions at the tracepoint, all protocols, since the programs were attached.
    pub seen: u64,
    /// Left out by a filter in the kernel.
    pub filtered: u64,
    /// Written to the ring buffer.
    pub submitted: u64,
    /// Not written to the ring buffer, although no filter left them out.
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
    /// Whether the capture's own books are missing: of a recording that was cut, that is not the last one of
    /// a rotation, or that has not been read to its end. The numbers are then those of the file; `filtered`
    /// and `lost` are unknown, not 0.
    #[serde(default)]
    pub partial: bool,
}

impl Accounting {
    /// The transitions that are known not to have reached the views, although they were wanted: lost, or rejected
    /// by the reader. What a recording never had is not among them.
    pub const fn missed(&self) -> u64 {
        let rejected = self
            .rejected
            .saturating_sub(self.rejected_by_reason.not_in_file);
        self.lost.saturating_add(rejected)
    }
}

/// The transitions that the filters in the kernel left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilteredByReason {
    /// Not TCP: SCTP, MPTCP and DCCP use the same tracepoint.
    pub protocol: u64,
    /// Not the address family asked for.
    pub family: u64,
    /// Not one of the ports asked for.
    pub port: u64,
    /// Not the network namespace asked for.
    pub netns: u64,
    /// Not one of the addresses asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub address: u64,
    /// Not in the cgroup asked for, nor below it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cgroup: u64,
    /// Of a recording: captured, because the kernel side could not decide, and then left out by the
    /// filter in user space.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub settled: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The transitions that the kernel side lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostByReason {
    /// The ring buffer was full.
    pub ring_full: u64,
    /// The kernel skipped the program because one was already running on that CPU (its `recursion_misses`), and no
    /// second one made up for it; `None` where the kernel skips without counting. A BTF
    /// tracepoint counts them since Linux 6.1, and skips none before; a classic one counts them since
    /// 6.7.
    pub nested: Option<u64>,
}

/// The records that the reader did not hand on, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedByReason {
    /// It could not be decoded.
    pub malformed: u64,
    /// The queue between the reader and the view was full, because the output was too slow.
    pub queue_full: u64,
    /// Of a recording: captured, but not in this file. The block was damaged, the event is in another
    /// file of a rotation, or it had left the flight recorder's memory.
    #[serde(default)]
    pub not_in_file: u64,
}

/// The cost of the capture itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCost {
    /// Run time of the BPF program, nanoseconds, where the kernel keeps it.
    pub bpf_run_ns: Option<u64>,
    /// Runs of the BPF program, where the kernel keeps it.
    pub bpf_run_count: Option<u64>,
    /// The most bytes that have waited in the ring buffer at a time.
    pub ring_high_water_bytes: Option<u64>,
}

/// The load of a capture at one moment. No recording has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The most bytes that have waited in the ring buffer at a time since this was asked for the last time.
    pub ring_fill_bytes: Option<u64>,
    /// CPU time of the thread that dumps sockets, inside of other network namespaces too, from its start on, nanoseconds.
    pub sampling_ns: Option<u64>,
}

/// The received events by what became of them: `received = passed + filtered + undecided + unread + earlier`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// The decisions of the filters; `passed` went to the view.
    #[serde(flatten)]
    pub settled: Settled,
    /// Received after the view had shown all that was asked for.
    pub unread: u64,
    /// Of a recording: before the part that was asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub earlier: u64,
}

/// The decisions of a filter. Every event that it was given is in one of these, or held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// Events that match.
    pub passed: u64,
    /// Events that do not.
    pub filtered: u64,
    /// Events that only the socket's next one could have decided, which never came: the kernel left
    /// it out as not matching, or it was lost, or the run ended first. With `-L` or `-P` nearly all are of the
    /// first kind, one for each outgoing connection from another port. They are not `filtered`, because
    /// the kind of a single one is not known.
    pub undecided: u64,
}

/// The books of a run: those of its source, those of the filters, and the cost.
///
/// During a run they are read at a tick: an event that a filter still holds, or that was received after
/// the tick, is `received` and nothing else yet. At the end they are exact. Those of a recording
/// are [`Accounting::partial`] before its end, where the capture's books are: `filtered` and `lost` are unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunBooks {
    /// The books of the source.
    pub accounting: Accounting,
    /// The received events by what became of them.
    pub selection: Selection,
    /// The cost of the run.
    pub cost: Cost,
    /// The load of the capture; unknown at the end.
    pub load: Load,
}

/// The cost of a run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// CPU time of this process, user and system, nanoseconds.
    pub cpu_ns: u64,
    /// The largest resident set, bytes, where `/proc` has it.
    pub max_rss_bytes: Option<u64>,
    /// The capture's part.
    #[serde(flatten)]
    pub capture: CaptureCost,
}
