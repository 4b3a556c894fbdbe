//! Everything that touches the kernel.
//!
//! - [`host`]: facts about the host; `namespaces`: what this process sees of it; [`clock`]: its clocks;
//!   [`layout`]: the layouts of its kernel; [`probe`]: tries what it allows.
//! - [`loader`]: loads and attaches the BPF programs; [`ring`]: the ring buffer's consumer end;
//!   `reader`: the thread that empties it; `ends`: joins ends with the RSTs that explain them.
//! - `stand_by`: when the second program is attached.
//! - [`tally`]: reads the counts made in the kernel, where nothing is streamed.
//! - `sampler`: the thread that dumps sockets; `sampling`: the difference between two samples; `exchange`:
//!   from its thread to the reader's.
//! - [`live`]: all of it together as an [`EventSource`](tcpstate_core::source::EventSource).
//! - [`inventory`]: the sockets there are now, from [`sockdiag`] (dumps), [`netns`] (network namespaces) and
//!   [`procfs`] (facts that only `/proc` has).
//! - [`cgroups`]: the names of cgroups; `workloads`: those of pods and containers.
//!
//! Nothing here knows about views, or the purpose of the events.

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

pub mod cgroups;
pub mod clock;
mod ends;
pub mod error;
mod exchange;
pub mod facts;
mod holders;
pub mod host;
pub mod inventory;
pub mod layout;
pub mod live;
pub mod loader;
mod mapping;
mod namespaces;
pub mod netns;
pub mod probe;
pub mod procfs;
mod reader;
pub mod ring;
mod sampler;
mod sampling;
pub mod sockdiag;
mod spans;
mod stand_by;
pub mod synack;
pub mod tally;
mod workloads;

pub use error::CaptureError;
pub use live::{Live, Options};
pub use workloads::WORKLOADS;
