//! Looks at the host's sockets and counters, for the rules that find what is wrong.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tcpstate_capture::{facts, inventory, sockdiag::Request};
use tcpstate_common::State;
use tcpstate_core::{
    diagnosis::{Look, Looks, Survey, Thresholds},
    expression::{Expression, Truth},
    filter::StateSet,
    netns::NetnsSelector,
};
use tcpstate_text::ls::socket_row;

/// The time from one look to the next, at least.
const INTERVAL: Duration = Duration::from_secs(5);

/// A look may take this part of the time; where it takes long, the next one waits longer.
const SHARE: u32 = 20;

/// Takes looks at the selected sockets.
pub(crate) struct Looker {
    pub(crate) namespaces: NetnsSelector,
    pub(crate) expression: Expression,
    pub(crate) thresholds: Thresholds,
}

impl Looker {
    pub(crate) fn look(&self) -> Look {
        let request = Request::of(StateSet::ALL).with_info();
        let mut look = Look {
            facts: facts::read(&self.namespaces).unwrap_or_default(),
            ..Look::default()
        };
        match inventory::take(&self.namespaces, request, true) {
            Ok(mut inventory) => {
                look.missing = inventory.messages();
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
                look.sockets = Some(Survey::of(&inventory, &self.thresholds));
            }
            Err(error) => look.missing.push(tcpstate_core::error::chain(&error)),
        }
        look
    }
}

/// Takes looks in a thread of its own: with many sockets one takes seconds, and the stream must not wait.
pub(crate) struct Background {
    /// `None`: it has ended.
    ask: Option<SyncSender<()>>,
    looks: Receiver<Look>,
    last: Last,
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
    pub(crate) fn start(looker: Looker, last: Last) -> anyhow::Result<Self> {
        let (ask, asked) = mpsc::sync_channel(1);
        let (send, looks) = mpsc::sync_channel(1);
        let work = move || {
            let mut pause = INTERVAL;
            loop {
                let is_asked = match asked.recv_timeout(pause) {
                    Ok(()) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let begin = Instant::now();
                let look = looker.look();
                pause = INTERVAL.max(begin.elapsed().saturating_mul(SHARE));
                // The view takes it at its next tick, and a last one that it asked for at once.
                if send.send(look).is_err() || is_asked {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("looks".to_owned())
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Self {
            ask: Some(ask),
            looks,
            last,
        })
    }
}

impl Looks for Background {
    fn newest(&mut self) -> Option<Look> {
        self.looks.try_iter().last()
    }

    fn last(&mut self) -> Option<Look> {
        if self.last == Last::Latest {
            return self.newest();
        }
        let ask = self.ask.take()?;
        // One that is under way, or finished and not taken, comes first.
        ask.send(()).ok()?;
        self.looks.iter().last()
    }
}
