//! The signals that end a run, and the closed output.

use std::{
    fs,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use signal_hook::consts::SIGXFSZ;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    ending,
    interrupts::{Interrupt, Interrupts},
};

/// A signal this soon after the first one counts as the same: `timeout -s INT` sends it to the process and
/// again to its group.
const SAME: Duration = Duration::from_millis(200);

/// The last thing to do before a second `SIGINT` kills the process.
static BEFORE_KILL: OnceLock<fn()> = OnceLock::new();

/// Has a second `SIGINT` call this before it kills the process. Only the first call counts.
///
/// A signal handler calls it: it may take no lock and allocate nothing.
pub fn before_kill(last: fn()) {
    // Set already: the first one stays.
    let _ = BEFORE_KILL.set(last);
}

/// Signals that some runs take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// `SIGUSR1` does something.
    pub usr1: bool,
    /// `SIGHUP` does something else than to end the run.
    pub hangups: bool,
}

/// The process's signals, and the reader of its output.
pub struct Process {
    /// The signals that end a run.
    stops: Vec<Signal>,
    usr1: Option<Signal>,
    hangup: Option<Signal>,
    reader_gone: Pin<Box<dyn Future<Output = ()>>>,
}

impl Process {
    /// Handles `SIGINT`, `SIGTERM` and `SIGHUP`, and `SIGUSR1` if it is wanted.
    ///
    /// `reader_gone` completes when the reader of the output has closed it.
    ///
    /// A second `SIGINT`, at least 200 ms later, kills the process as without a handler, so that a run
    /// can always be ended at once. `SIGHUP` stays ignored if it was (`nohup`). `SIGXFSZ` has no effect: a write
    /// beyond the limit of a file's size fails instead.
    ///
    /// *Errors:* the operating system refuses a handler, or the caller is not inside a runtime.
    pub fn install(
        wanted: Wanted,
        reader_gone: impl Future<Output = ()> + 'static,
    ) -> io::Result<Self> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        let takes_hangup = !is_ignored(SignalKind::hangup());
        if takes_hangup && !wanted.hangups {
            kinds.push(SignalKind::hangup());
        }
        let stops = kinds
            .iter()
            .copied()
            .map(signal)
            .collect::<io::Result<_>>()?;
        // The time of the first signal, 0 before it. Set up after the handlers above: a signal in between
        // is handled, and only not counted as the first.
        let first_ns = Arc::new(AtomicU64::new(0));
        for kind in &kinds {
            let (number, first_ns) = (kind.as_raw_value(), Arc::clone(&first_ns));
            let handler = move || on_stop(number, &first_ns);
            // SAFETY: the handler reads a clock and atomics, and calls an async-signal-safe function; it
            // takes no lock and allocates nothing.
            unsafe { signal_hook::low_level::register(number, handler) }?;
        }
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        Ok(Self {
            stops,
            usr1: wanted
                .usr1
                .then(|| signal(SignalKind::user_defined1()))
                .transpose()?,
            hangup: (takes_hangup && wanted.hangups)
                .then(|| signal(SignalKind::hangup()))
                .transpose()?,
            reader_gone: Box::pin(reader_gone),
        })
    }

    /// Ready at a `SIGHUP` that does not end the run.
    pub fn poll_hangup(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.hangup.as_mut().map(|hangup| hangup.poll_recv(cx)) {
            Some(Poll::Ready(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

impl Interrupts for Process {
    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if self.reader_gone.as_mut().poll(cx).is_ready() {
            // This ends the run, so it is not polled again.
            return Poll::Ready(Interrupt::ReaderGone);
        }
        for stop in &mut self.stops {
            if stop.poll_recv(cx).is_ready() {
                // It may have come before `on_stop` was set up.
                ending::end_at(ending::now_ns());
                return Poll::Ready(Interrupt::Stop);
            }
        }
        match self.usr1.as_mut().map(|usr1| usr1.poll_recv(cx)) {
            Some(Poll::Ready(_)) => Poll::Ready(Interrupt::Usr1),
            _ => Poll::Pending,
        }
    }
}

/// Handles a signal that ends a run, inside the signal handler.
fn on_stop(signal: i32, first_ns: &AtomicU64) {
    let now_ns = ending::now_ns();
    ending::end_at(now_ns);
    let first = first_ns.compare_exchange(0, now_ns, Ordering::AcqRel, Ordering::Acquire);
    if signal == SignalKind::interrupt().as_raw_value()
        && let Err(first_ns) = first
        && u128::from(now_ns.saturating_sub(first_ns)) >= SAME.as_nanos()
    {
        if let Some(last) = BEFORE_KILL.get() {
            last();
        }
        // Fails only for a signal that cannot be handled.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
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
