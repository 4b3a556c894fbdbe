//! The pure part of tcpstate: what events are, what they mean, and who may ask for what.
//!
//! Nothing here knows a file, a clock, a thread, the kernel or an output format: time comes in with
//! the events and as an argument. The manifest holds it to that.
//!
//! ```text
//! event, census ─> source::EventSource ─> (the driver) ─> view::View ─── present::Publisher
//!                                                             │                 │ each tick
//!                                                       model::Tracker    present::RunSnapshot ─> consumers
//! ```
//!
//! From the bottom up, each using only what stands above it:
//!
//! - [`event`], [`owner`], [`service`], [`cause`], [`transition`], [`histogram`]: the words.
//! - [`census`], [`tally`]: the parts of the stream that are no transitions.
//! - [`books`], [`origin`], [`names`]: what comes with a stream.
//! - [`filter`]: which sockets are wanted, decided on events.
//! - [`model`]: what a stream adds up to.
//! - [`source`], [`view`], [`present`]: the contracts: where a stream comes from, what sees every step
//!   of it, and what looks at the present now and then.
//! - [`options`]: the choices that a command line offers.

// Bad input is counted or reported; it never ends the process.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

pub mod books;
pub mod by_cookie;
pub mod cause;
pub mod census;
pub mod duration;
pub mod error;
pub mod escape;
pub mod event;
pub mod filter;
mod hash;
pub mod histogram;
pub mod inventory;
pub mod mode;
pub mod model;
pub mod names;
pub mod netns;
pub mod options;
pub mod origin;
pub mod owner;
pub mod present;
pub mod report;
pub mod service;
pub mod source;
pub mod tally;
pub mod transition;
pub mod view;
