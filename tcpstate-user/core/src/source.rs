//! The contract of a source of events: the live kernel, a recording, a packet capture.
//!
//! The driver and the views rely on this module, never on `capture` or `recording`.

use std::{
    any::Any,
    error::Error,
    fmt, io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    books::{Accounting, CaptureCost, Load, Packets},
    census::Census,
    event::Event,
    names::Names,
    origin::Origin,
    packet::ConnectionPacket,
    recalled::Recalled,
    tally::Tally,
};

/// One stream of events, in the order in which the kernel recorded them, with the censuses between them.
pub trait EventSource {
    /// The next step of the stream. [`Step::Events`] appends to `batch`, which is the caller's and is never
    /// cleared here.
    ///
    /// A source that can block returns `Pending` and wakes the context's waker; one that only reads
    /// returns after a bounded number of events, so that signals are handled in between.
    ///
    /// *Errors:* the source failed and has no further step. Events appended before the error are valid.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>>;

    /// Whether every event made before `ns` has been handed out, or is handed out before
    /// [`EventSource::poll_step`] returns `Pending`. If not, the source hurries: asked again a little later, it has.
    ///
    /// *Units:* `ns` is monotonic nanoseconds.
    fn has_delivered(&mut self, _ns: u64) -> bool {
        true
    }

    /// Stops the stream: the steps that are on their way still come, then [`Step::End`].
    fn stop(&mut self);

    /// The books up to now. Exact after [`Step::End`]; those of a recording are [`Accounting::partial`] until then.
    fn accounting(&mut self) -> Result<Accounting, SourceError>;

    /// The host and the capture that the events come from.
    fn origin(&self) -> &Origin;

    /// A time at which an interval begins, monotonic nanoseconds; the others follow from it. In a file that does
    /// not begin with its capture they are those of the capture.
    fn intervals_from_ns(&self) -> u64 {
        self.origin().started_ns
    }

    /// After [`Step::End`], when the capture ended, where the source knows it: a recording does. Monotonic nanoseconds.
    fn ended_ns(&self) -> Option<u64> {
        None
    }

    /// The names of the numbers in the events. It is the same handle as long as the source lives; it may
    /// know more names later.
    fn names(&self) -> Names {
        Names::default()
    }

    /// The cost of the capture itself, where it is known.
    fn cost(&mut self) -> CaptureCost {
        CaptureCost::default()
    }

    /// The load of the capture now, where it is known.
    fn load(&mut self) -> Load {
        Load::default()
    }

    /// The packets that the events were rebuilt from, exact after [`Step::End`]; `None` of a source without packets, and of
    /// one that was stopped before its end.
    fn packets(&self) -> Option<Packets> {
        None
    }

    /// The progress of a source that has an end.
    fn progress(&self) -> Option<Progress> {
        None
    }

    /// The counters of a source that counts transitions in the kernel: its stream has no events.
    fn counting(&mut self) -> Option<&mut dyn Counting> {
        None
    }

    /// The ability to go back to an earlier place of the stream, where the source has it: a recording in a file does.
    fn seeking(&mut self) -> Option<&mut dyn Seeking> {
        None
    }
}

/// The ability of a source to go to a place of its stream where it has been before.
pub trait Seeking {
    /// The place of the step that was handed out last, if reading can begin with it.
    fn mark(&self) -> Option<Mark>;

    /// Goes there: the next step is the one that was handed out when the mark was made. Books and
    /// [`EventSource::ended_ns`] are those of then. Notices that have been handed out do not come again.
    fn go_to(&mut self, mark: &Mark) -> Result<(), SourceError>;
}

/// A place in the stream of one source, before one of its steps.
#[derive(Clone)]
pub struct Mark {
    /// Events that were handed out before it.
    pub events: u64,
    /// The source's own idea of it.
    pub place: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} events", self.events)
    }
}

/// A step of a source's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Events were appended to the batch; perhaps none, where a malformed record was counted.
    Events,
    /// The result of a dump. It stands behind every event that was made before the dump began.
    Census(Box<Census>),
    /// A part of what was known when the stream begins. All parts come before its events.
    Recalled(Box<Recalled>),
    /// TCP packets of connections, if they were asked for. The events that they show come before them.
    Packets(Vec<ConnectionPacket>),
    /// Everything that was there at the start has been handed out. It comes once from every source; an
    /// interval that the clock closed before it would show that nothing is there.
    Settled,
    /// A message for the user that is no failure.
    Notice(Notice),
    /// The stream has ended.
    End,
}

/// A message for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The message.
    pub text: String,
    /// Whether something of the source is missing that was there: a recording that was cut, a damaged block.
    pub is_damage: bool,
}

impl Notice {
    /// A message that says what to know of the source.
    pub const fn new(text: String) -> Self {
        Self {
            text,
            is_damage: false,
        }
    }

    /// A message about something that is missing.
    pub const fn damage(text: String) -> Self {
        Self {
            text,
            is_damage: true,
        }
    }
}

/// The counters of a source that counts in the kernel.
pub trait Counting {
    /// The transitions counted since the last call; after [`EventSource::stop`], all that are left.
    fn take_tally(&mut self) -> Result<Tally, SourceError>;
}

/// A failure to read a file as a source: a recording, or a packet capture. `R` is the reason why it cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<R> {
    /// It cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read {name}: {source}")]
    Read {
        /// The file, or `standard input`.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// It is no file of this kind, or not one that can be read here.
    #[error("{name} {reason}")]
    NotReadable {
        /// The file, or `standard input`.
        name: String,
        /// The reason.
        reason: R,
    },
}

/// The failure of a source: an error of the source's own type.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SourceError(Box<dyn Error + Send + Sync>);

impl SourceError {
    /// A source's own error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The source's own error.
    pub fn get_ref(&self) -> &(dyn Error + 'static) {
        &*self.0
    }
}

/// The progress of reading a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read up to now.
    pub read_bytes: u64,
    /// All bytes; `None` where that is not known, as for a pipe.
    pub total_bytes: Option<u64>,
}
