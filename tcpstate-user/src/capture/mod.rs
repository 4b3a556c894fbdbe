//! Everything that touches the kernel.
//!
//! - [`host`]: what kind of host this is; [`layout`]: where its kernel keeps things;
//!   [`probe`]: what it allows, tried.
//! - [`loader`]: loads the BPF programs and attaches one; [`ring`]: the ring buffer's consumer end;
//!   `reader`: the thread that empties it.
//! - [`live`]: all of it together as an [`crate::source::EventSource`].
//!
//! Nothing here knows of a view, or of what the events are wanted for.

pub mod error;
pub mod host;
pub mod layout;
pub mod live;
pub mod loader;
pub mod probe;
mod reader;
pub mod ring;

pub use error::CaptureError;
pub use live::{Live, Options};
