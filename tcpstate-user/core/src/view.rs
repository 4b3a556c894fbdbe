//! The contract of a view of the stream: the steps that the driver gives it, up to the end of the run.

use std::{
    any::Any,
    io::{self, Write},
    task::{Context, Poll},
};

use serde::Serialize;

use crate::{
    books::{Accounting, Cost, Load, Packets, RunBooks, Selection},
    census::Census,
    event::Event,
    model,
    names::Names,
    origin::{Evidence, Origin},
    packet::ConnectionPacket,
    recalled::Recalled,
    tally::Tally,
};

/// The answer of a view to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It takes more.
    Continue,
    /// It has shown all that was asked for (`--count`).
    Done,
}

/// A view of the stream: it gets every event and writes to standard output.
///
/// Times are monotonic nanoseconds of the host that the events come from. For a recording they
/// follow the events, so that a view shows of a file what it showed live.
///
/// An event can be older than the one before it: by microseconds when two CPUs raced, by more when
/// a filter could only decide on it with the socket's next event.
pub trait View {
    /// Takes the names of the numbers in the events. Called once, before [`View::start`].
    fn set_names(&mut self, _names: Names) {}

    /// Begins. Called once, before the first event.
    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()>;

    /// Prepares for these events, which come next unless a filter drops them: a hint, for speed.
    fn look_ahead(&self, _events: &[Event]) {}

    /// Takes one event.
    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow>;

    /// Takes one event that the filter leaves out, of a connection whose other events it may not: the view follows the
    /// connection, and shows nothing. Only for a filter on single transitions.
    fn follow(&mut self, _event: &Event) {}

    /// Takes a census or a part of one. Sockets that the filters do not want have been removed from it.
    fn census(&mut self, _census: &Census, _out: &mut dyn Write) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Takes packets; the events that they show came before. `are_selected` says that the filter is true of all of them.
    /// Otherwise it may be: it is true of the connections of which an event comes.
    fn packets(
        &mut self,
        _packets: &[ConnectionPacket],
        _are_selected: bool,
        _out: &mut dyn Write,
    ) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Takes a part of what was known before the first event. It changes what the view knows, and shows and
    /// counts nothing. The filters have been applied.
    fn recall(&mut self, _recalled: &Recalled) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Takes the counts of the source since the last call: instead of events, from a source that counts.
    fn tally(&mut self, _tally: &Tally) {}

    /// Does one thing that was asked of the view from outside the stream. Pending, with the waker kept, where nothing
    /// is asked. Never called in the middle of a jump.
    fn poll_asked(&mut self, _cx: &Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Whether the view uses the packets of a capture.
    fn wants_packets(&self) -> bool {
        false
    }

    /// Whether the view uses samples: the minisockets and half-open connections that no transition shows.
    fn wants_samples(&self) -> bool {
        false
    }

    /// Whether the view uses samples of half-open connections, if it uses no others: for the time that a
    /// connection was half-open before it had a socket.
    fn wants_half_open(&self) -> bool {
        self.wants_samples()
    }

    /// Whether the view shows each event as it comes, so that somebody sees how late it is.
    fn is_prompt(&self) -> bool {
        false
    }

    /// Ends an interval, in a view that has intervals ([`View::interval_ns`]). Called before the first
    /// event at or after `now_ns`; on a live source also without events.
    fn tick(&mut self, _now_ns: u64, _out: &mut dyn Write) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// The length of an interval; `None`: [`View::tick`] is never called.
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
    /// can be shown until then.
    fn is_silent_until_finish(&self) -> bool {
        false
    }

    /// Whether the view handles `SIGUSR1` ([`View::usr1`]); otherwise the signal has its default effect.
    fn takes_usr1(&self) -> bool {
        false
    }

    /// Handles a `SIGUSR1`. Messages for the user go to `err`.
    fn usr1(
        &mut self,
        _now_ns: u64,
        _out: &mut dyn Write,
        _err: &mut dyn Write,
    ) -> io::Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Ends. Called once, after the last event, with the final books. JSON writes its `summary` line
    /// here (to `out`), text writes its summary to `err`.
    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()>;

    /// Whether the run ends when the reader of standard output has gone: not where the output is a file.
    fn ends_with_reader(&self) -> bool {
        true
    }

    /// Whether the view had to leave something out of its result, which its books of connections do not say.
    fn left_out(&self) -> bool {
        false
    }

    /// The view's books of connections, for [`End::is_complete`]; `None`: it follows none.
    fn connections(&self) -> Option<model::Books> {
        None
    }

    /// The ability to go back to an earlier state, where the view has it: one that shows the present does.
    fn rewind(&mut self) -> Option<&mut dyn Rewind> {
        None
    }
}

/// The ability of a view to go back to a state in which it was, and to pass over time without showing it: for a
/// recording that is played ([`play`](crate::play)).
pub trait Rewind {
    /// A copy of the state, as far as later events need it.
    fn keep(&self) -> Box<dyn Any>;

    /// Bytes of such a copy.
    fn kept_bytes(&self) -> usize;

    /// Goes back to the state of this copy, which [`Rewind::keep`] of this view made.
    fn restore(&mut self, kept: &dyn Any);

    /// As [`View::tick`], and shows nothing.
    fn pass_tick(&mut self, now_ns: u64);

    /// Shows the state at this time: with the interval that ended now, or with the figures so far of the one
    /// that goes on.
    fn show(&mut self, now_ns: u64);
}

/// The part of a recording that is shown. Earlier events are recalled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Monotonic time of its first event.
    pub from_ns: Option<u64>,
    /// Monotonic time of the first event after it.
    pub to_ns: Option<u64>,
    /// The same in words, in local time.
    #[serde(skip)]
    pub words: String,
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct End {
    /// Monotonic time of the end.
    pub now_ns: u64,
    /// The books of the source.
    pub accounting: Accounting,
    /// The received events by what became of them.
    pub selection: Selection,
    /// The cost of the run.
    pub cost: Cost,
    /// Whether the source gave notice that it is damaged or cut (a recording), or the view has left something out.
    pub damaged: bool,
    /// Whether the user wants the books in full.
    pub verbose: bool,
    /// The part of a recording that was asked for; `None`: all of it.
    pub part: Option<Part>,
    /// The evidence that the events rest on.
    pub evidence: Evidence,
    /// The packets that they were rebuilt from, where the source has them.
    pub packets: Option<Packets>,
}

impl End {
    /// Whether nothing is known to be missing from the result. `connections` are the view's books, where it
    /// has any.
    pub const fn is_complete(&self, connections: Option<&model::Books>) -> bool {
        let is_followed = match connections {
            Some(books) => books.is_complete(),
            None => true,
        };
        !self.damaged && self.accounting.missed() == 0 && is_followed
    }

    /// The books of the whole run.
    pub const fn books(&self) -> RunBooks {
        RunBooks {
            accounting: self.accounting,
            selection: self.selection,
            cost: self.cost,
            load: Load {
                ring_fill_bytes: None,
                sampling_ns: None,
            },
        }
    }
}
