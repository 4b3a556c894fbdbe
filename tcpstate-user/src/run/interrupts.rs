//! Interrupts: signals, and the hangup of our output.

use std::task::{Context, Poll};

/// An interrupt of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// End the run with its summary.
    Stop,
    /// `SIGUSR1`.
    Usr1,
    /// The reader of our output has closed it.
    ReaderGone,
}

/// The source of interrupts.
pub trait Interrupts {
    /// Ready with the next interrupt; otherwise it keeps the waker and wakes it.
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt>;
}
