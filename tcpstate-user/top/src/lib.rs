//! The screens of `tcpstate top`: the TCP of a host, live, in a terminal.
//!
//! It shows the snapshots that a [`Publisher`](tcpstate_core::present::Publisher) hands out, and asks nothing else: no
//! kernel, no recording, no command line. Of a recording that is played it has the [`Controls`](tcpstate_core::play::Controls) too. [`App`] is the state of what a person looks at. It is pure:
//! [`App::update`] takes a key or a snapshot, [`App::draw`] fills a frame, [`App::written`] is its content as JSON. [`terminal`] has the terminal, the
//! thread that draws, and the signals that concern them; [`plain`] writes a frame as text.
//!
//! ```text
//! Publisher ─ Arc<RunSnapshot> ─┐
//! keys, mouse, size ────────────┴─> App::update ─> App::draw ─> the terminal
//! ```

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

mod app;
mod connection;
mod connections;
mod dwell;
pub mod file;
mod filter;
mod finding;
mod frame;
mod group_times;
mod help;
mod history;
mod kept;
mod look;
mod machine;
mod order;
mod overview;
pub mod plain;
mod played;
mod row;
mod services;
pub mod terminal;
mod theme;
mod typing;
mod written;

pub use self::{
    app::{App, Input, Then},
    connections::LAYOUT,
    look::{LookUp, Options},
    theme::Theme,
    written::Written,
};
