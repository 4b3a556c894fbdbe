//! The view of a person: the snapshot, the screen with the texts over it, and the choices that were made.

use std::{fmt, sync::Arc};

use jiff::tz::TimeZone;
use tcpstate_common::State;
use tcpstate_core::{
    catalogue::ConnectionRow,
    event::SocketId,
    expression::Lookup,
    model::{By, GroupKey},
    present::RunSnapshot,
};
use tcpstate_text::format::text::Columns;

use crate::{
    filter::Filter,
    history::{History, STATES},
    kept::Kept,
    order::{ConnectionOrder, ServiceOrder},
    played::Played,
    row::{Cursor, Item},
    theme::Theme,
    typing::Typing,
};

/// The choices that do not change while it runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The abilities of the terminal.
    pub theme: Theme,
    /// The time zone of local times.
    pub zone: TimeZone,
    /// Whether sockets of several network namespaces may be shown.
    pub several_netns: bool,
    /// The columns that the list of connections begins with.
    pub columns: Columns<ConnectionRow>,
    /// The grouping of the services at the start.
    pub by: By,
    /// The time from one snapshot to the next, nanoseconds.
    pub interval_ns: u64,
    /// The filter, as the command line gave it; empty is none.
    pub filter: String,
    /// The connections that a snapshot has of each state.
    pub longest: usize,
    /// The meaning of names in a filter.
    pub names: LookUp,
    /// Whether a recording is played, so that there are the keys for that.
    pub is_played: bool,
}

/// A lookup of the names in a filter.
#[derive(Clone)]
pub struct LookUp(pub Arc<dyn Lookup + Send + Sync>);

impl fmt::Debug for LookUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names")
    }
}

/// The place of ESTABLISHED in [`STATES`].
const ESTABLISHED: usize = 3;

/// A screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Screen {
    Overview,
    Services,
    Connections,
    Machine,
    Dwell,
}

impl Screen {
    pub(crate) const ALL: [Self; 5] = [
        Self::Overview,
        Self::Services,
        Self::Connections,
        Self::Machine,
        Self::Dwell,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Services => "services",
            Self::Connections => "connections",
            Self::Machine => "machine",
            Self::Dwell => "dwell",
        }
    }
}

/// A text over the screen.
#[derive(Clone, Debug)]
pub(crate) enum Page {
    Help,
    /// The explanation of a state.
    State(State),
    /// The explanation of the findings of this name.
    Explained(&'static str),
    /// A finding, or all of a kind.
    Finding(Item),
    /// A connection, as it was known last.
    Connection(Box<ConnectionRow>, SocketId),
}

/// The snapshot that is shown, with the intervals before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Present {
    pub(crate) snapshot: Option<Arc<RunSnapshot>>,
    pub(crate) history: History,
}

/// The connections that are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Only {
    pub(crate) state: Option<State>,
    /// The state before that.
    pub(crate) from: Option<State>,
    pub(crate) group: Option<GroupKey>,
}

/// The view of a person.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) options: Options,
    pub(crate) screen: Screen,
    /// The texts over the screen, the one on top last, each with the part that is seen.
    pub(crate) pages: Vec<(Page, Cursor)>,
    /// The latest that came in.
    latest: Present,
    /// The present that is shown, where it is frozen.
    frozen: Option<Present>,
    pub(crate) only: Only,
    /// `None`: all of the diagram.
    pub(crate) kept: Option<Kept>,
    /// The screen that opened the list of these; `None`: another one was shown since.
    pub(crate) opened_from: Option<Screen>,
    pub(crate) filter: Filter,
    /// The filter when the list of connections was opened from another screen.
    pub(crate) opened_with: String,
    /// The columns of the list of connections.
    pub(crate) columns: Columns<ConnectionRow>,
    /// `None`: keys are commands.
    pub(crate) typing: Option<Typing>,
    /// The column of the diagram near which a line has its selection.
    pub(crate) machine_column: usize,
    /// The place among the states of that whose times are shown.
    dwell_of: usize,
    /// The group of the services of that; `None`: all of them.
    pub(crate) dwell_group: Option<GroupKey>,
    /// The grouping of the services that was asked for.
    pub(crate) by: By,
    pub(crate) services: ServiceOrder,
    pub(crate) connections: ConnectionOrder,
    /// The file that was written last, with what it holds, or why it was not, until a key is pressed.
    pub(crate) told: Option<Result<String, String>>,
    /// `None`: the source is no recording that is played.
    pub(crate) played: Option<Played>,
}

impl Look {
    /// It has seen no snapshot.
    pub(crate) fn new(options: Options) -> Self {
        Self {
            played: options.is_played.then(Played::default),
            by: options.by,
            told: None,
            columns: options.columns.clone(),
            options,
            screen: Screen::Overview,
            pages: Vec::new(),
            latest: Present::default(),
            frozen: None,
            only: Only::default(),
            kept: None,
            opened_from: None,
            filter: Filter::default(),
            opened_with: String::new(),
            typing: None,
            machine_column: 0,
            dwell_of: ESTABLISHED,
            dwell_group: None,
            services: ServiceOrder::default(),
            connections: ConnectionOrder::default(),
        }
    }

    /// The latest present that came in.
    pub(crate) const fn latest(&self) -> &Present {
        &self.latest
    }

    /// The present that is shown.
    pub(crate) const fn shown(&self) -> &Present {
        match &self.frozen {
            Some(frozen) => frozen,
            None => &self.latest,
        }
    }

    /// The time since which the frame is frozen, and that of the latest snapshot, monotonic nanoseconds.
    pub(crate) fn frozen_ns(&self) -> Option<(u64, u64)> {
        let end_ns = |present: &Present| Some(present.snapshot.as_ref()?.interval.end_ns);
        Some((end_ns(self.frozen.as_ref()?)?, end_ns(&self.latest)?))
    }

    /// Takes a snapshot.
    pub(crate) fn take(&mut self, snapshot: Arc<RunSnapshot>) {
        let length_ns = |snapshot: &RunSnapshot| {
            let interval = &snapshot.interval;
            interval.end_ns.saturating_sub(interval.start_ns)
        };
        // The rest at the end of a run is no interval to compare with others.
        let is_rest = snapshot.is_final && length_ns(&snapshot) < self.options.interval_ns / 2;
        match &self.latest.snapshot {
            Some(before) if is_rest => {
                let snapshot = RunSnapshot {
                    interval: before.interval.clone(),
                    handshakes: before.handshakes.clone(),
                    ..RunSnapshot::clone(&snapshot)
                };
                self.latest.snapshot = Some(Arc::new(snapshot));
            }
            _ => {
                self.latest.history.push(&snapshot);
                self.latest.snapshot = Some(snapshot);
            }
        }
    }

    /// The connections of the part of the diagram that is kept.
    pub(crate) const fn of_kept(&self) -> Only {
        let (state, from) = match self.kept {
            None => (None, None),
            Some(Kept::State(state)) => (Some(state), None),
            Some(Kept::Edge(from, to)) => (Some(to), Some(from)),
        };
        Only {
            state,
            from,
            group: None,
        }
    }

    /// The connections that are listed.
    pub(crate) const fn listed(&self) -> Only {
        if self.only.state.is_some() || self.kept.is_none() {
            return self.only;
        }
        Only {
            group: self.only.group,
            ..self.of_kept()
        }
    }

    /// Makes all screens be about this part of the diagram, or about all of it where that is what they are about.
    pub(crate) fn keep(&mut self, part: Kept) {
        self.kept = if self.kept == Some(part) {
            None
        } else {
            Some(part)
        };
        self.only = Only::default();
        if let Some(Kept::State(state) | Kept::Edge(state, _)) = self.kept
            && let Some(place) = STATES.iter().position(|&one| one == state)
        {
            self.dwell_of = place;
        }
    }

    /// Whether no connection is left out of the list by choice.
    pub(crate) fn shows_all(&self) -> bool {
        self.only == Only::default() && !self.is_filtered()
    }

    /// Whether a filter leaves some out.
    pub(crate) const fn is_filtered(&self) -> bool {
        !self.filter.text.is_empty()
    }

    /// The state whose times are shown.
    pub(crate) fn dwell_state(&self) -> State {
        let state = STATES.get(self.dwell_of).copied();
        state.unwrap_or(State::ESTABLISHED)
    }

    /// Shows the times of another state.
    pub(crate) fn go_to_state(&mut self, by: isize) {
        let last = STATES.len() - 1;
        self.dwell_of = self.dwell_of.saturating_add_signed(by).min(last);
    }

    /// Freezes what is shown, or goes on.
    pub(crate) fn freeze(&mut self) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some(self.latest.clone()),
        };
    }
}
