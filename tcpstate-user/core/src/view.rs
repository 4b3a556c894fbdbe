//! The contract of a view of the stream: the steps that the driver gives it, up to the end of the run.

use std::io::{self, Write};

use crate::{
    books::{Accounting, Cost, RunBooks, Selection},
    census::Census,
    event::Event,
    names::Names,
    origin::Origin,
    tally::Tally,
};

/// What a view wants of the loop next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More events.
    Continue,
    /// It has shown all that it was asked for (`--count`).
    Done,
}

/// A subcommand that watches: it is fed events and writes to standard output.
///
/// Times are monotonic nanoseconds of the host that the events come from. For a recording they
/// follow the events, so that every view gives on a file what it gave live.
///
/// An event can be older than the one before it: by microseconds when two CPUs raced, by more when
/// a filter could only be settled by the socket's next event.
pub trait View {
    /// Gives the view the names of the numbers in the events: called once, before [`View::start`].
    fn set_names(&mut self, _names: Names) {}

    /// Called once, before the first event.
    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()>;

    /// Prepares for these events, which come next unless a filter leaves them out: a hint, for speed.
    fn look_ahead(&self, _events: &[Event]) {}

    /// Takes one event.
    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow>;

    /// Takes what asking the kernel for its sockets found, or a part of it: whatever a census says of
    /// sockets that the filter does not want has been taken out.
    fn census(&mut self, _census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Takes what the source has counted since the last time: instead of events, from a source that hands
    /// none on.
    fn tally(&mut self, _tally: &Tally) {}

    /// Whether the view has a use for what no transition shows (minisockets, half-open connections), so
    /// that the kernel is asked for it every interval.
    fn wants_samples(&self) -> bool {
        false
    }

    /// The end of an interval, for a view that has one ([`View::interval_ns`]): called before the
    /// first event at or after `now_ns`, and on a live source also without events.
    fn tick(&mut self, _now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// The length of an interval; `None`: never call [`View::tick`].
    fn interval_ns(&self) -> Option<u64> {
        None
    }

    /// Whether [`View::books`] is called before each [`View::tick`]. They cost a few system calls.
    fn wants_books(&self) -> bool {
        false
    }

    /// Takes the books of the run up to the tick that follows.
    fn books(&mut self, _books: &RunBooks) {}

    /// Whether nothing is written to standard output before [`View::finish`], so that a progress bar
    /// may stand on the terminal until then.
    fn is_silent_until_finish(&self) -> bool {
        false
    }

    /// Whether [`View::usr1`] is to be called; where not, `SIGUSR1` does what it does by default.
    fn takes_usr1(&self) -> bool {
        false
    }

    /// The process got a `SIGUSR1`. What the user has to be told of it goes to `err`.
    fn usr1(
        &mut self,
        _now_ns: u64,
        _out: &mut dyn Write,
        _err: &mut dyn Write,
    ) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Called once, after the last event, with the final books. JSON writes its `summary` line here
    /// (to `out`), text writes it to `err`.
    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()>;
}

/// The end of a run.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Monotonic time of the end.
    pub now_ns: u64,
    /// The books of the source.
    pub accounting: Accounting,
    /// Where the received events went.
    pub selection: Selection,
    /// The cost of the run.
    pub cost: Cost,
}

impl End {
    /// The books of the whole run.
    pub const fn books(&self) -> RunBooks {
        RunBooks {
            accounting: self.accounting,
            selection: self.selection,
            cost: self.cost,
        }
    }
}
