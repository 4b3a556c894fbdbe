//! Pushes of the metrics to a collector, over OTLP/HTTP.
//!
//! A thread of its own takes the latest snapshot, as a scrape does, and sends its metrics: the same values under the names of
//! [`named`]. Counters and histograms are cumulative, so that a push that failed is not made up for: the next one has everything. So
//! there is no queue. One request is under way at most, and each has newer values and a later time than the one before, whatever
//! became of that: nothing is sent twice.
//!
//! - `endpoint`: the URL of the collector; `collector`: the authorities whose certificates it may have.
//! - `message`: the protocol's message of a snapshot; `names`: the names in it.
//! - `post`: the request, and what the answer means.
//! - `schedule`: the time of the next push.

mod collector;
mod endpoint;
mod message;
mod names;
mod post;
mod schedule;

#[cfg(test)]
mod tests;

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher as _, Hasher as _},
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tcpstate_core::present::Subscriber;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

pub use self::{
    collector::{Collector, TrustError},
    endpoint::{Endpoint, EndpointError},
    names::{Instrument, Named, named},
    post::{Failure, Refused},
};
use self::{
    message::Times,
    schedule::{Last, Next, Schedule},
};
use crate::{
    present::Present,
    pushes::{PushCounts, Verdict},
};

/// The time for the last push, at the end of the run.
const LAST_TIME: Duration = Duration::from_millis(500);

/// The choices of pushes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The collector.
    pub collector: Collector,
    /// From one push to the next.
    pub interval: Duration,
    /// The port of the server. With the host it is `service.instance.id`, which tells this process from others: no two listen at one.
    pub port: u16,
}

/// A change that somebody should know of.
#[derive(Debug)]
pub enum News {
    /// A push failed, and the one before did not.
    Fails(Failure),
    /// The collector refused a part of a push, and nothing of the one before.
    RefusesPart(Refused),
    /// It has accepted one, and the one before not.
    Works,
}

/// A thread that pushes, from when a server has started with it until that ends.
#[derive(Debug)]
pub struct Pusher {
    counts: PushCounts,
    /// `None` once it is told to stop.
    begin: Option<mpsc::Sender<Source>>,
    stop: Option<oneshot::Sender<()>>,
    /// Behind a lock, so that a server can be shared.
    ended: Mutex<mpsc::Receiver<()>>,
}

/// The origin of what is pushed.
#[derive(Debug)]
struct Source {
    present: Arc<Present>,
    subscriber: Subscriber,
}

impl Pusher {
    /// Starts the thread. It calls `enter` first, which may give up privileges, and tells `tell` what changes.
    ///
    /// *Errors:* there is no thread or no runtime for it, or `enter` failed.
    pub fn start(
        options: Options,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
        tell: impl FnMut(News) + Send + 'static,
    ) -> io::Result<Self> {
        let counts = PushCounts::default();
        let (begin, source) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (started, is_started) = mpsc::channel();
        let (at_end, ended) = mpsc::channel();
        let push = Push {
            schedule: Schedule::new(options.interval),
            options,
            counts: counts.clone(),
            tell,
            state: State::Works,
            times: None,
            pushed: 0,
        };
        thread::Builder::new()
            .name("otlp".to_owned())
            .spawn(move || {
                let runtime = enter().and_then(|()| runtime());
                let runtime = match runtime {
                    Ok(runtime) => {
                        // Whoever started it waits for this.
                        let _ = started.send(Ok(()));
                        runtime
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                // Nothing comes if the server does not start.
                if let Ok(source) = source.recv() {
                    runtime.block_on(push.run(source, stopped));
                }
                // It does not wait for a lookup of the collector's address.
                runtime.shutdown_background();
                drop(at_end);
            })?;
        is_started
            .recv()
            .unwrap_or_else(|error| Err(io::Error::other(error)))?;
        Ok(Self {
            counts,
            begin: Some(begin),
            stop: Some(stop),
            ended: Mutex::new(ended),
        })
    }

    /// The counts of its pushes.
    pub(crate) fn counts(&self) -> PushCounts {
        self.counts.clone()
    }

    /// Lets it push what is present here.
    pub(crate) fn begin(&self, present: Arc<Present>, subscriber: Subscriber) {
        if let Some(begin) = &self.begin {
            // Otherwise it has ended.
            let _ = begin.send(Source {
                present,
                subscriber,
            });
        }
    }

    /// Tells it to push once more, soon, and to end.
    pub(crate) fn stop(&mut self) {
        drop(self.begin.take());
        drop(self.stop.take());
    }
}

impl Drop for Pusher {
    /// Waits for the last push, for half a second.
    fn drop(&mut self) {
        self.stop();
        let ended = self.ended.get_mut();
        let ended = ended.unwrap_or_else(PoisonError::into_inner);
        // Nothing is sent: the other end is dropped.
        let _ = ended.recv_timeout(LAST_TIME);
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        // It looks up the address of the collector.
        .max_blocking_threads(1)
        .thread_name("otlp")
        .build()
}

/// The state of the collector, as it was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Works,
    RefusesPart,
    Fails,
}

/// The pushes so far.
struct Push<T> {
    options: Options,
    schedule: Schedule,
    counts: PushCounts,
    tell: T,
    state: State,
    /// Those of the last push; `None`: there was none.
    times: Option<Times>,
    /// The number of the last snapshot that was pushed, or was to be.
    pushed: u64,
}

impl<T: FnMut(News)> Push<T> {
    /// Pushes until it is told to stop, and then once more.
    async fn run(mut self, mut source: Source, stopped: oneshot::Receiver<()>) {
        tokio::select! {
            // The other end is dropped, and nothing is sent.
            _ = stopped => {}
            () = self.go_on(&mut source) => {}
        }
        // Where the last one failed, the run would end late for nothing.
        if !self.schedule.is_failing()
            && let Some(latest) = source.subscriber.latest()
        {
            source.present.take(latest);
            // Nobody is told: the run has ended.
            let _ = timeout(LAST_TIME, self.push(&source.present)).await;
        }
    }

    async fn go_on(&mut self, source: &mut Source) {
        // The first one at once: whoever tries it out sees whether it works.
        loop {
            // While nothing is read, there is none.
            let Some(snapshot) = source.subscriber.next().await else {
                // The last one comes with the end.
                return std::future::pending().await;
            };
            source.present.take(snapshot);
            let begin = Instant::now();
            let Some(last) = self.push(&source.present).await else {
                continue;
            };
            let next = match self.schedule.next(last, chance()) {
                Next::AfterBegin(time) => begin + time,
                Next::AfterEnd(time) => Instant::now() + time,
            };
            sleep_until(next).await;
        }
    }

    /// Pushes what is present; `None`: it was pushed already.
    async fn push(&mut self, present: &Present) -> Option<Last> {
        let exposed = present.exposed()?;
        let number = exposed.snapshot.number;
        if number <= self.pushed {
            return None;
        }
        self.pushed = number;
        let age_ns = exposed.snapshot.tracker.now_ns;
        let age_ns = age_ns.saturating_sub(exposed.snapshot.origin.started_ns);
        let times = self.advance(age_ns);
        let made = message::request(&exposed, self.options.port, times);
        // It may be the last reference to a large snapshot.
        drop(exposed);
        let body = made.and_then(|message| post::body(&message).map_err(|_| fmt::Error));
        let result = match body {
            Ok(body) => post::post(&self.options.collector, body).await,
            Err(fmt::Error) => Err(Failure::Unwritten),
        };
        let last = result
            .as_ref()
            .map_or_else(Failure::last, |_| Last::Answered);
        self.take(result);
        Some(last)
    }

    /// The times of another push, of a run of this age.
    fn advance(&mut self, age_ns: u64) -> Times {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ns = since.map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        });
        let times = match self.times {
            // The clock may have been set back.
            Some(before) => Times {
                now_ns: now_ns.max(before.now_ns + 1),
                ..before
            },
            None => Times {
                start_ns: now_ns.saturating_sub(age_ns),
                now_ns,
            },
        };
        self.times = Some(times);
        times
    }

    /// Counts a result, and tells it if it is another one.
    fn take(&mut self, result: Result<Option<Refused>, Failure>) {
        let (verdict, state, news) = match result {
            Ok(None) => (Verdict::Accepted, State::Works, News::Works),
            Ok(Some(refused)) => (
                Verdict::PartlyAccepted,
                State::RefusesPart,
                News::RefusesPart(refused),
            ),
            Err(failure) => (failure.verdict(), State::Fails, News::Fails(failure)),
        };
        self.counts.add(verdict);
        if state != self.state {
            self.state = state;
            (self.tell)(news);
        }
    }
}

/// Some number or other.
fn chance() -> u32 {
    let hash = RandomState::new().build_hasher().finish();
    // One half of the bits is as good as the other.
    u32::try_from(hash >> 32).unwrap_or(0)
}
