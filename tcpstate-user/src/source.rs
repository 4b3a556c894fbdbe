//! Where events come from: the live kernel, a recording, a packet capture.
//!
//! What every view may rely on, whatever the source. A view sees this module, never `capture` or
//! `recording`.

mod names;

use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use tcpstate_common::State;

pub use self::names::{NameBook, Names, Naming};
use crate::{
    census::Census,
    event::Event,
    model::{Cause, Histogram, Role, ServicePort, TransitionCount},
};

/// A stream of events in the order in which the kernel recorded them.
pub trait EventSource {
    /// Appends the next events to `batch`.
    ///
    /// Ready with `true` when it appended (perhaps nothing: a malformed record is counted, not
    /// shown), `false` when the stream has ended. A source that can block returns `Pending` and wakes
    /// the context's waker; one that only reads returns after a bounded number of events, so that
    /// signals are seen in between.
    ///
    /// *Errors:* the source failed and gives nothing more. What was appended before stays valid.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<anyhow::Result<bool>>;

    /// The next census that stands in the stream behind the events handed out so far. To be asked
    /// until there is none whenever a batch has been dealt with.
    fn take_census(&mut self) -> Option<Census> {
        None
    }

    /// Whether the source is still finding out what was there at its start: until then it hands out
    /// nothing else, and no interval is shown, which would say that nothing is there.
    fn is_settling(&self) -> bool {
        false
    }

    /// Whether no events come, and [`EventSource::tally`] has all instead.
    fn is_tally(&self) -> bool {
        false
    }

    /// What has been counted where it happened since the last time. After [`EventSource::stop`] it is all
    /// that there was.
    fn tally(&mut self) -> anyhow::Result<Tally> {
        Ok(Tally::default())
    }

    /// Stops the flow: after this, `poll_next` hands out what is on its way and then ends.
    fn stop(&mut self);

    /// The books up to now. Exact once the stream has ended.
    fn accounting(&mut self) -> anyhow::Result<Accounting>;

    /// Where and when the events were seen.
    fn origin(&self) -> &Origin;

    /// What the numbers in the events are called. The same handle for as long as the source lives; what
    /// it knows may grow with what has been read.
    fn names(&self) -> Names {
        Names::default()
    }

    /// What the capture cost by itself, where it is known.
    fn cost(&mut self) -> CaptureCost {
        CaptureCost::default()
    }

    /// What the user has to be told that is no failure, each a whole sentence, since the last call:
    /// a recording that was cut, a damaged block that was left out.
    fn notices(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// How far a source that has an end has been read.
    fn progress(&self) -> Option<Progress> {
        None
    }
}

/// What was counted in the kernel over some time, instead of being handed on event by event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What happened, by service; those to which nothing did are left out.
    pub services: Vec<ServiceTally>,
    /// How long connections were in the states that they left.
    pub dwell: Vec<(State, Histogram)>,
    /// Transitions up to now of which no filter could decide yet whether they are wanted.
    pub undecided: u64,
    /// Connections of which was forgotten since when they are in their state, because there were too many.
    pub forgotten: u64,
}

impl Tally {
    /// All transitions.
    pub fn total(&self) -> u64 {
        let services = self.services.iter();
        services
            .flat_map(|service| &service.transitions)
            .map(|transition| transition.count)
            .sum()
    }
}

/// What happened to the connections of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTally {
    /// The port; not known where the role is not.
    pub port: ServicePort,
    /// Which side they are.
    pub role: Role,
    /// How often which transition.
    pub transitions: Vec<TransitionCount>,
    /// How many ended why.
    pub causes: Vec<(Cause, u64)>,
}

/// How far a source has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read up to now.
    pub read_bytes: u64,
    /// Bytes there are, where that is known: a pipe does not tell.
    pub total_bytes: Option<u64>,
}

/// Where and when a stream of events was seen. A recording carries it in its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// How the programs were attached: `btf` or `tracepoint`.
    pub attach: String,
    /// The clock anchor: wall-clock nanoseconds since 1970 at monotonic 0 (boot, suspend left out).
    pub wall_at_monotonic_zero_ns: i64,
    /// Monotonic nanoseconds at which the capture began.
    pub started_ns: u64,
    /// The filters in force in the kernel, as the command line gave them; empty is none.
    pub filters: String,
    /// Whether the stream is being made now, so that the clock runs without events.
    pub live: bool,
    /// How often the kernel was asked for what no transition shows, nanoseconds; `None`: never, so that
    /// it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_interval_ns: Option<u64>,
}

impl Origin {
    /// Wall-clock nanoseconds since 1970 of a monotonic time.
    pub const fn wall_ns(&self, ts_ns: u64) -> i64 {
        self.wall_at_monotonic_zero_ns
            .saturating_add_unsigned(ts_ns)
    }
}

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
