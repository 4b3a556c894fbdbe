//! Playing a recording: at the pace of its events or another, with pauses, steps and jumps to any time.
//!
//! Pure: wall time is an argument, and nothing here reads a file. The driver plays (`run/driver/play.rs` of
//! package `tcpstate`); whoever shows it holds the [`Controls`]:
//!
//! ```text
//! Controls ── Command ──> Inbox ─> driver: Pace         which events are due
//!    ▲                               │     Checkpoints  where a jump begins
//!    └────────── Position ───────────┘
//! ```
//!
//! A *position* is a time of the recording, and shows all that comes before the first event at that time or
//! later: as [`Part::to_ns`](crate::view::Part::to_ns) does, and as a tick does. So a tick at 10 s and a jump to 10 s
//! show the same.
//!
//! # Jumps
//!
//! The state at a time follows from all events before it. So the driver keeps checkpoints of the state while it
//! reads: copies of the view and the filter, each with the place in the recording where reading goes on. A jump
//! restores the last one before its target, and shows the events from there on at full speed, without the
//! snapshots between. A first jump to the end reads the whole recording; later ones read the distance of two
//! checkpoints. These have a bound in bytes, and are thinned out to keep it ([`Checkpoints`]).
//!
//! Two other ways were weighed. The blocks of recalled events with which a file may begin know the open
//! connections, but no totals, histograms or rates of what came before: the state after a jump would not be that of
//! a run up to there. And checkpoints in a file beside the recording would be a second format of the model's
//! state, which changes with every version.

mod checkpoints;
mod controls;
mod pace;

pub use self::{
    checkpoints::Checkpoints,
    controls::{Command, Controls, Inbox, Position, controls},
    pace::{Pace, Speed},
};
