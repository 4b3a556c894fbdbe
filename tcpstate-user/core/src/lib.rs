//! The pure part of tcpstate: events, the model that they add up to, and the contracts between the parts.
//!
//! Nothing here knows files, clocks, threads, the kernel or serialised output: time comes in with
//! the events and as an argument. The manifest leaves out the crates for these; what `std` has of them,
//! `clippy.toml` refuses.
//!
//! ```text
//! event, census ─> source::EventSource ─> (the driver) ─> view::View ─── present::Publisher
//!                                                             │                 │ each tick
//!                                                       model::Tracker    present::RunSnapshot ─> consumers
//! ```
//!
//! From the bottom up; a module uses only those above it:
//!
//! - [`event`], [`owner`], [`service`], [`cause`], [`transition`], [`histogram`]: the vocabulary.
//! - [`by_cookie`], `hash`, [`duration`], [`error`], [`escape`], [`outlet`]: helpers, which know none of the rest.
//! - [`options`], [`mode`], [`netns`]: the choices that a command line offers.
//! - [`census`], [`recalled`], [`handshakes`], [`tally`]: the parts of the stream that are no transitions.
//! - [`books`], [`origin`], [`packet`], [`workload`], [`names`]: the facts that come with a stream.
//! - [`filter`]: the choice of sockets, made on events.
//! - [`inventory`], [`report`]: the sockets of one moment, and the abilities of a host.
//! - [`model`]: connections, rates and histograms, from a stream.
//! - [`diagnosis`]: rules that find what is wrong.
//! - [`source`], [`view`], [`present`]: the contracts of a source of events, of a view that gets
//!   every event and census of the stream, and of a consumer that looks at the present.
//! - [`play`]: the pace, the checkpoints and the controls of a recording that is played.
//! - [`catalogue`]: the fields of every record that the outputs print.

// Bad input is counted or reported; it never ends the process.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

pub mod books;
pub mod by_cookie;
pub mod catalogue;
pub mod cause;
pub mod census;
pub mod diagnosis;
pub mod duration;
pub mod error;
pub mod escape;
pub mod event;
pub mod explain;
pub mod expression;
pub mod filter;
pub mod handshakes;
mod hash;
pub mod histogram;
pub mod inventory;
pub mod mode;
pub mod model;
pub mod names;
pub mod nearest;
pub mod netns;
pub mod options;
pub mod origin;
pub mod outlet;
pub mod owner;
pub mod packet;
pub mod play;
pub mod present;
pub mod quantity;
pub mod recalled;
pub mod report;
pub mod service;
pub mod setting;
pub mod source;
pub mod tally;
pub mod transition;
pub mod units;
pub mod view;
pub mod workload;
