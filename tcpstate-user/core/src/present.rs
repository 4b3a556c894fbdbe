//! The contract of the present: a snapshot of the run at each tick, for any number of consumers.
//!
//! [`crate::view`] is the contract of the stream: a view is called for every event, and the stream
//! waits for it. Here the stream waits for no one. The [`Publisher`] is itself a view; it applies the
//! events to a [`Tracker`](crate::model::Tracker) and at each tick hands out what is known then as an
//! immutable [`RunSnapshot`]. A consumer holds a [`Subscriber`], in any thread or task:
//!
//! ```text
//! driver ─> Publisher ─> Arc<RunSnapshot> ─┬─> Subscriber::latest   the snapshot of now, without waiting
//!   (a View with a Tracker)   each tick    └─> Subscriber::next     each newer snapshot, then the end
//! ```
//!
//! - A consumer that is slow, or absent, holds nothing up: it gets the latest snapshot, and its
//!   number says how many it has skipped.
//! - The last snapshot of a run is marked ([`RunSnapshot::is_final`]); its books are exact. After it,
//!   or after a run that broke off without one, [`Subscriber::next`] gives `None`.
//! - An event costs what the tracker costs. All else is done once a tick, and what it costs there is
//!   the consumer's choice ([`Include`](crate::model::Include)).
//! - The one thing that a consumer can ask for is another grouping ([`Asker`]). It gets a snapshot of that without
//!   waiting for a tick, as soon as the driver asks the view ([`View::poll_asked`](crate::view::View::poll_asked)).
//! - Whoever wants findings too ([`Publisher::diagnosing`]) pays for the counts of [`crate::diagnosis`] at each event.

mod asked;
mod channel;
mod findings;
mod publisher;
mod snapshot;

pub use self::{
    asked::Asker,
    channel::Subscriber,
    publisher::{Options, Publisher},
    snapshot::RunSnapshot,
};
