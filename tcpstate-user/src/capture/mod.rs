//! Everything that touches the kernel.
//!
//! - [`host`]: what kind of host this is; [`layout`]: where its kernel keeps things;
//!   [`probe`]: what it allows, tried.
//! - [`loader`]: loads the BPF programs and attaches one; [`ring`]: the ring buffer's consumer end;
//!   `reader`: the thread that empties it.
//! - [`tally`]: what was counted in the kernel, where nothing is streamed.
//! - `sampler`: the thread that asks for what no transition shows; `sampling`: what follows from two
//!   answers.
//! - [`live`]: all of it together as an [`crate::source::EventSource`].
//! - [`inventory`]: the sockets there are now, from [`sockdiag`] (the kernel's lists), [`netns`]
//!   (network namespaces) and [`procfs`] (what only `/proc` tells).
//! - [`cgroups`]: what cgroups are called.
//!
//! Nothing here knows of a view, or of what the events are wanted for.

pub mod cgroups;
pub mod error;
pub mod host;
pub mod inventory;
pub mod layout;
pub mod live;
pub mod loader;
mod mapping;
pub mod netns;
pub mod probe;
pub mod procfs;
mod reader;
pub mod ring;
mod sampler;
mod sampling;
pub mod sockdiag;
mod spans;
pub mod synack;
pub mod tally;

pub use error::CaptureError;
pub use live::{Live, Options};
