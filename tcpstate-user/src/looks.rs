//! Looks at the host's sockets and counters, for the rules that find what is wrong.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tcpstate_capture::{facts, inventory, netns::cpu_time, sockdiag::Request};
use tcpstate_cli::Watch;
use tcpstate_common::State;
use tcpstate_core::{
    diagnosis::{Look, Looks, Survey, Thresholds},
    expression::{Expression, Truth},
    filter::{StateMask, StateSet},
    inventory::Inventory,
    model::{Counters, Traffic},
    netns::NetnsSelector,
    options::ResolveOwners,
};
use tcpstate_text::ls::socket_row;

use crate::{selection::Selection, watch::resolves_owners};

/// The pace of looks.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// The time from one look to the next, at least.
    interval: Duration,
    /// Looks may take this part of a core; where one takes long, the next one waits longer.
    share: u32,
}

impl Pace {
    /// While somebody waits for what is found.
    pub(crate) const WATCHED: Self = Self {
        interval: Duration::from_secs(5),
        share: 20,
    };

    /// Beside a screen, which is to cost little too.
    #[cfg(feature = "top")]
    pub(crate) const SHOWN: Self = Self {
        interval: Duration::from_secs(5),
        share: 100,
    };

    /// Of what is left on.
    #[cfg(feature = "serve")]
    pub(crate) const LEFT_ON: Self = Self {
        interval: Duration::from_secs(10),
        share: 100,
    };
}

/// Takes looks at the selected sockets.
pub(crate) struct Looker {
    namespaces: NetnsSelector,
    resolve_owners: bool,
    expression: Expression,
    thresholds: Thresholds,
    /// Whether sockets are counted by what they belong to, and then by their owners too.
    workloads: Option<ByOwner>,
}

/// Whether the owners are asked for.
type ByOwner = bool;

impl Looker {
    pub(crate) fn new(watch: &Watch, selection: &Selection, thresholds: &Thresholds) -> Self {
        Self {
            namespaces: watch.sockets.netns.wanted.clone(),
            resolve_owners: resolves_owners(watch, selection) != ResolveOwners::No,
            expression: selection.whole.clone(),
            thresholds: thresholds.clone(),
            workloads: None,
        }
    }

    /// Counts sockets by what they belong to as well.
    #[cfg(feature = "serve")]
    pub(crate) fn with_workloads(self, by_owner: ByOwner) -> Self {
        Self {
            workloads: Some(by_owner),
            ..self
        }
    }

    /// A look, with the counters of the sockets of these cookies.
    pub(crate) fn look(&self, counted: &[u64]) -> Look {
        let request = Request {
            // No rule reads them, and they cost the kernel another walk.
            states: StateMask::outside(StateSet::MERELY_BOUND),
            ..Request::of(StateSet::ALL).with_info().with_drops()
        };
        let mut look = Look {
            facts: facts::read(&self.namespaces).unwrap_or_default(),
            ..Look::default()
        };
        match inventory::take(&self.namespaces, request, self.resolve_owners) {
            Ok(mut inventory) => {
                look.missing = inventory.messages();
                look.counters = Arc::new(counters(&inventory, counted));
                if !self.expression.wants_all() {
                    let rows = inventory.sockets.iter();
                    let is_wanted: Vec<bool> = rows
                        .map(|socket| {
                            // Roles and owners of others follow from a listener.
                            socket.state == State::LISTEN
                                || self.expression.judge(&socket_row(&inventory, socket))
                                    != Truth::No
                        })
                        .collect();
                    let mut wanted = is_wanted.into_iter();
                    inventory.sockets.retain(|_| wanted.next() == Some(true));
                }
                let survey = Survey::of(&inventory, &self.thresholds);
                look.sockets = Some(match self.workloads {
                    Some(by_owner) => survey.with_workloads(&inventory, by_owner),
                    None => survey,
                });
            }
            Err(error) => look.missing.push(tcpstate_core::error::chain(&error)),
        }
        look
    }

    /// The counters of the sockets of these cookies, without a look at those in `TIME_WAIT`, of which there can be very many.
    fn counters(&self, counted: &[u64]) -> Option<Counters> {
        let others = StateSet::of(State::LISTEN)
            .with(StateSet::of(State::TIME_WAIT))
            .with(StateSet::of(State::SYN_RECV))
            .with(StateSet::MERELY_BOUND);
        let request = Request::of(StateSet::ALL.without(others)).with_info();
        let inventory = inventory::take(&self.namespaces, request, false).ok()?;
        Some(counters(&inventory, counted))
    }
}

/// The counters of the sockets of these cookies.
fn counters(inventory: &Inventory, cookies: &[u64]) -> Counters {
    let cookies: HashSet<u64> = cookies.iter().copied().collect();
    let sockets = inventory.sockets.iter();
    let wanted = sockets.filter(|socket| !cookies.is_empty() && cookies.contains(&socket.cookie));
    Counters {
        ts_ns: inventory
            .namespaces
            .iter()
            .map(|dumped| dumped.ts_ns)
            .min()
            .unwrap_or(0),
        by_cookie: wanted
            .filter_map(|socket| Some((socket.cookie, Traffic::of_info(socket.info.as_ref()?)?)))
            .collect(),
    }
}

/// Takes looks in a thread of its own: with many sockets one takes seconds, and the stream must not wait.
pub(crate) struct Background {
    /// `None`: it has ended.
    ask: Option<SyncSender<Ask>>,
    looks: Receiver<Taken>,
    /// The counters that were read last between two looks, until they are taken.
    counters: Option<Arc<Counters>>,
    last: Last,
    /// The cookies of the sockets whose counters are wanted; `None`: nobody has asked yet.
    counted: Arc<Mutex<Option<Vec<u64>>>>,
}

/// Something that does not wait for the time of the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// The first counters.
    Counters,
    /// The last look.
    Last,
}

/// The work of the thread.
enum Taken {
    Look(Box<Look>),
    Counters(Arc<Counters>),
}

/// The last look of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// Taken at the end.
    Now,
    /// The latest one that was taken: nobody waits for more.
    Latest,
}

impl Background {
    pub(crate) fn start(looker: Looker, last: Last, pace: Pace) -> anyhow::Result<Self> {
        let (this, start) = Self::waiting(looker, last, pace);
        start()?;
        Ok(this)
    }

    /// One whose thread waits for the call that starts it: in a sandbox, a thread has what its parent has at that time.
    pub(crate) fn waiting(
        looker: Looker,
        last: Last,
        pace: Pace,
    ) -> (Self, impl FnOnce() -> anyhow::Result<()>) {
        // Each is asked for once, and nobody waits for room.
        let (ask, asked) = mpsc::sync_channel(2);
        let (send, looks) = mpsc::sync_channel(1);
        let counted = Arc::new(Mutex::new(None));
        let wanted = Arc::clone(&counted);
        let work = move || {
            let mut pause = pace.interval;
            let mut begin = Instant::now();
            loop {
                let ask = match asked.recv_timeout(pause.saturating_sub(begin.elapsed())) {
                    Ok(ask) => Some(ask),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let counted = lock(&wanted).clone().unwrap_or_default();
                if ask == Some(Ask::Counters) {
                    let counters = looker.counters(&counted).map(Arc::new);
                    if counters.is_some_and(|new| send.send(Taken::Counters(new)).is_err()) {
                        return;
                    }
                    continue;
                }
                let before = cpu_time();
                let look = looker.look(&counted);
                // On a busy machine it takes longer, and costs no more.
                let spent = cpu_time().saturating_sub(before);
                pause = pace.interval.max(spent.saturating_mul(pace.share));
                // The view takes it at its next tick, and a last one that it asked for at once.
                if send.send(Taken::Look(Box::new(look))).is_err() || ask == Some(Ask::Last) {
                    return;
                }
                begin = Instant::now();
            }
        };
        let start = || {
            thread::Builder::new()
                .name("looks".to_owned())
                .spawn(work)
                .context("cannot start a thread")?;
            Ok(())
        };
        let this = Self {
            ask: Some(ask),
            looks,
            counters: None,
            last,
            counted,
        };
        (this, start)
    }
}

fn lock(counted: &Mutex<Option<Vec<u64>>>) -> std::sync::MutexGuard<'_, Option<Vec<u64>>> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Background {
    /// The latest of these looks, and the counters that came last.
    fn latest(&mut self, taken: impl Iterator<Item = Taken>) -> Option<Look> {
        let mut latest = None;
        for taken in taken {
            match taken {
                Taken::Look(look) => latest = Some(*look),
                Taken::Counters(counters) => self.counters = Some(counters),
            }
        }
        latest
    }
}

impl Looks for Background {
    fn newest(&mut self) -> Option<Look> {
        let taken: Vec<Taken> = self.looks.try_iter().collect();
        self.latest(taken.into_iter())
    }

    fn last(&mut self) -> Option<Look> {
        if self.last == Last::Latest {
            return self.newest();
        }
        let ask = self.ask.take()?;
        // One that is under way, or finished and not taken, comes first.
        ask.send(Ask::Last).ok()?;
        let taken: Vec<Taken> = self.looks.iter().collect();
        self.latest(taken.into_iter())
    }

    fn ask_counters(&mut self, cookies: Vec<u64>) {
        // Whoever wants a look at the end lists no connections.
        if self.last == Last::Now {
            return;
        }
        let is_first = lock(&self.counted).replace(cookies).is_none();
        if let Some(ask) = self.ask.as_ref().filter(|_| is_first) {
            // A thread that has ended takes no more looks.
            let _ = ask.try_send(Ask::Counters);
        }
    }

    fn newest_counters(&mut self) -> Option<Arc<Counters>> {
        self.counters.take()
    }
}
