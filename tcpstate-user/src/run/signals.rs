//! The signals and the hangup that end a run.

use std::{
    fs,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Interrupt, Interrupts};

/// The process's signals, and its output's reader.
pub struct Process {
    /// Those that end a run.
    stops: Vec<Signal>,
    usr1: Option<Signal>,
    reader_gone: Pin<Box<dyn Future<Output = ()>>>,
}

impl Process {
    /// Takes over `SIGINT`, `SIGTERM` and `SIGHUP`, and `SIGUSR1` where the view wants it.
    ///
    /// `reader_gone` ends when nobody reads our output any more.
    ///
    /// A second `SIGINT` kills the process as if nobody had taken the signal over, so that a run
    /// whose output is blocked can always be ended. `SIGHUP` stays ignored where it was (`nohup`).
    ///
    /// *Errors:* the operating system refuses a handler, or this is not called inside a runtime.
    pub fn install(
        takes_usr1: bool,
        reader_gone: impl Future<Output = ()> + 'static,
    ) -> io::Result<Self> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if !is_ignored(SignalKind::hangup()) {
            kinds.push(SignalKind::hangup());
        }
        // In this order: at the first signal the flag is not set yet when it is looked at.
        let stopping = Arc::new(AtomicBool::new(false));
        let interrupt = SignalKind::interrupt().as_raw_value();
        signal_hook::flag::register_conditional_default(interrupt, Arc::clone(&stopping))?;
        for kind in &kinds {
            signal_hook::flag::register(kind.as_raw_value(), Arc::clone(&stopping))?;
        }
        Ok(Self {
            stops: kinds.into_iter().map(signal).collect::<io::Result<_>>()?,
            usr1: takes_usr1
                .then(|| signal(SignalKind::user_defined1()))
                .transpose()?,
            reader_gone: Box::pin(reader_gone),
        })
    }
}

impl Interrupts for Process {
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if self.reader_gone.as_mut().poll(cx).is_ready() {
            // It is not polled again: this ends the run.
            return Poll::Ready(Interrupt::ReaderGone);
        }
        for stop in &mut self.stops {
            if stop.poll_recv(cx).is_ready() {
                return Poll::Ready(Interrupt::Stop);
            }
        }
        match self.usr1.as_mut().map(|usr1| usr1.poll_recv(cx)) {
            Some(Poll::Ready(_)) => Poll::Ready(Interrupt::Usr1),
            _ => Poll::Pending,
        }
    }
}

/// Whether the signal was ignored when the process started.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}
