//! The terms of a run: its options, its outputs, and how it ends.

use std::{
    io::{self, Write},
    time::Duration,
};

use tcpstate_core::{
    expression::Expression, model::Limits, play::Inbox, source::SourceError, view::Part,
};

/// Time after its end at which the clock closes an interval that no event has closed.
pub const GRACE: Duration = Duration::from_millis(100);

/// The number of events that a view can look up ahead: enough for their cache misses to overlap, few
/// enough for the fetched lines to stay in the nearest cache.
pub const LOOK_AHEAD: usize = 32;

/// The options of a run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// End this long after the start of the capture.
    pub duration: Option<Duration>,
    /// The sockets that the view is to see.
    pub expression: Expression,
    /// The bounds of the tracker behind a filter that an event alone does not decide.
    pub limits: Limits,
    /// Write out each batch at once, as a live source always does.
    pub interactive: bool,
    /// Show the books in full at the end.
    pub verbose: bool,
    /// Show no summary unless something is missing.
    pub quiet: bool,
    /// Show only this part of a recording.
    pub part: Option<Part>,
}

/// The terms of playing a recording.
#[derive(Debug)]
pub struct Playing {
    /// The player's end of the controls.
    pub inbox: Inbox,
    /// When the recording ends, monotonic nanoseconds, where that is known before it has been read.
    pub end_ns: Option<u64>,
    /// The bound on the memory of all checkpoints; see [`Checkpoints`](tcpstate_core::play::Checkpoints).
    pub checkpoint_bytes: usize,
    /// The number of events from one of them to the next, before any is thinned out.
    pub checkpoint_events: u64,
}

impl Playing {
    /// With checkpoints of 64 MiB, at first a few hundredths of a second of reading apart.
    pub const fn new(inbox: Inbox, end_ns: Option<u64>) -> Self {
        Self {
            inbox,
            end_ns,
            checkpoint_bytes: 64 << 20,
            checkpoint_events: 1 << 18,
        }
    }
}

/// The outputs of a view.
pub struct Outputs<'a> {
    /// Data: standard output.
    pub out: &'a mut dyn Write,
    /// Everything else: standard error.
    pub err: &'a mut dyn Write,
}

/// The end of a run that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its summary.
    Finished,
    /// With its summary, which says what is missing.
    Incomplete,
    /// The reader of our output has closed it. There is no summary.
    ReaderGone,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The source of the events failed.
    #[error("the events broke off")]
    Source(#[source] SourceError),
}
