//! The filter on owners: passes the events of connections with a selected owner.
//!
//! An event alone does not give the owner of a connection: a server's connection belongs to the process
//! that listens there. So the gate tracks all connections, as a view does, and a view behind it sees each of
//! its connections completely.

use hashbrown::HashSet;
use tcpstate_common::{State, transition::opens};
use tcpstate_core::{
    cause::goes_on,
    census::{Census, Found},
    event::Event,
    filter::OwnerMatcher,
    model::{Applied, Limits, StateExit, Tracker},
    service::Role,
};

/// The stage before a view, if there is a filter on owners.
pub(super) struct Gate {
    tracker: Tracker,
    selection: Selection,
    /// The cookies of selected connections that continued as minisockets.
    going_on: HashSet<u64>,
    max_going_on: usize,
    /// Number of events left out.
    pub(super) left_out: u64,
}

impl Gate {
    /// Creates a gate; `follows` says that censuses will report the end of minisockets.
    pub(super) fn new(matcher: OwnerMatcher, limits: Limits, follows: bool) -> Self {
        let mut tracker = Tracker::new(limits).without_rates().without_histograms();
        if follows {
            tracker.follow();
        }
        Self {
            tracker,
            selection: Selection {
                matcher,
                by_holder: HashSet::new(),
                max_by_holder: limits.max_connections,
            },
            going_on: HashSet::new(),
            max_going_on: if follows { limits.max_connections } else { 0 },
            left_out: 0,
        }
    }

    /// Removes the entries with other owners from a census. A minisocket has the owner of its connection, and
    /// a half-open connection that of its listener.
    ///
    /// A listener that a selected process turns out to hold is added: the view has not seen it begin.
    pub(super) fn census(&mut self, census: &mut Census) {
        let mut gone = Vec::new();
        self.tracker
            .census(census, |left| gone.extend(gone_for_good(left)));
        self.select(census, gone);
    }

    /// As [`Gate::census`], from before the beginning.
    pub(super) fn recall_census(&mut self, census: &mut Census) {
        let mut gone = Vec::new();
        self.tracker
            .recall_census(census, |left| gone.extend(gone_for_good(left)));
        self.select(census, gone);
    }

    fn select(&mut self, census: &mut Census, gone: Vec<u64>) {
        let (tracker, going_on) = (&self.tracker, &mut self.going_on);
        let Selection {
            matcher, by_holder, ..
        } = &mut self.selection;
        let netns = census.netns;
        let mut wants = |found: &Found| {
            let (role, owner, uid, cgroup) = tracker.attributes(found);
            let holders = tracker.holders(found, netns).map_or(&[][..], |all| all);
            matcher.matches(role, &owner, holders, uid, cgroup)
        };
        census.found.retain(|found| {
            let cookie = &found.cookie;
            going_on.contains(cookie) || by_holder.contains(cookie) || wants(found)
        });
        let found = &mut census.found;
        census.held.retain(|held| {
            let listener = tracker.listener(held).filter(&mut wants);
            let is_wanted = listener.is_some();
            found.extend(listener.filter(|_| found.iter().all(|one| one.cookie != held.cookie)));
            is_wanted
        });
        for cookie in gone {
            going_on.remove(&cookie);
        }
        census.half_open.retain(|half_open| {
            let owner = tracker.listener_of(half_open, netns);
            let holders = tracker
                .holders_of(half_open, netns)
                .map_or(&[][..], |all| all);
            matcher.matches(Role::Server, &owner, holders, None, None)
        });
    }

    /// Whether the view gets this event. Must be called for every event, in order.
    pub(super) fn passes(&mut self, event: &Event) -> bool {
        let applied = self.tracker.apply(event);
        let passes = self.selection.selects(event, &applied);
        self.left_out += u64::from(!passes);
        self.note(event, passes)
    }

    /// As [`Gate::passes`], for an event from before the beginning, which counts nowhere.
    pub(super) fn recall(&mut self, event: &Event) -> bool {
        let applied = self.tracker.recall_event(event);
        let passes = self.selection.selects(event, &applied);
        self.note(event, passes)
    }

    /// Notes a selected connection that goes on as a minisocket. Returns whether it is selected.
    fn note(&mut self, event: &Event, passes: bool) -> bool {
        if passes
            && self.going_on.len() < self.max_going_on
            && let (Some(cookie), Some(_)) = (event.cookie(), goes_on(event))
        {
            self.going_on.insert(cookie);
        }
        passes
    }
}

/// The selected sockets.
struct Selection {
    matcher: OwnerMatcher,
    /// The cookies of open sockets that another process than their owner selected: they stay so when their
    /// listener is gone.
    by_holder: HashSet<u64>,
    max_by_holder: usize,
}

impl Selection {
    fn selects(&mut self, event: &Event, applied: &Applied<'_>) -> bool {
        let (role, owner) = (applied.role(), applied.owner());
        let (uid, cgroup) = (applied.uid(), applied.cgroup());
        let by_owner = self.matcher.matches(role, &owner, &[], uid, cgroup);
        let Some(cookie) = event.cookie() else {
            return by_owner;
        };
        let was_selected =
            if event.newstate() == State::CLOSE || opens(event.oldstate(), event.newstate()) {
                self.by_holder.remove(&cookie) && event.newstate() == State::CLOSE
            } else {
                self.by_holder.contains(&cookie)
            };
        if by_owner || was_selected {
            return true;
        }
        let Some(holders) = applied.holders() else {
            return false;
        };
        let selects = self.matcher.matches(role, &owner, holders, uid, cgroup);
        if selects && event.newstate() != State::CLOSE && self.by_holder.len() < self.max_by_holder
        {
            self.by_holder.insert(cookie);
        }
        selects
    }
}

/// The cookie of a minisocket of which nothing is left.
fn gone_for_good(left: &StateExit) -> Option<u64> {
    left.then.is_none().then_some(left.cookie)
}

#[cfg(test)]
mod tests {
    use tcpstate_common::{
        Record,
        record::{AF_INET, flags},
    };
    use tcpstate_core::{
        census::{Held, Kind, Scope},
        event::Process,
        filter::OwnerFilter,
        names::Names,
        owner::{Comm, Owner},
    };

    use super::*;

    const CURL: &[u8; 16] = b"curl\0\0\0\0\0\0\0\0\0\0\0\0";

    fn gate(filter: OwnerFilter) -> Gate {
        Gate::new(filter.with(Names::default()), Limits::default(), true)
    }

    fn of_curl() -> Gate {
        gate(OwnerFilter {
            comms: vec![Comm(*CURL)],
            ..OwnerFilter::default()
        })
    }

    /// An event of a client, by a process of this name.
    fn event(cookie: u64, name: &[u8; 16], (oldstate, newstate): (State, State)) -> Event {
        let opens = oldstate == State::CLOSE;
        let process = if opens { flags::PROCESS } else { 0 };
        Event::try_from(Record {
            ts_ns: cookie,
            cookie,
            pid: if opens { 7 } else { 0 },
            comm: *name,
            netns: 1,
            lport: 40_000,
            rport: 443,
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE | flags::DEAD | process,
            oldstate,
            newstate,
            ..Record::default()
        })
        .unwrap()
    }

    fn found(cookie: u64, state: State, kind: Kind) -> Found {
        Found {
            cookie,
            state,
            kind,
            since_ns: None,
            there_ns: None,
            family: 2,
            laddr: [127, 0, 0, 1].into(),
            lport: 40_000,
            raddr: [127, 0, 0, 1].into(),
            rport: 443,
            role: Role::Unknown,
            uid: None,
            cgroup: None,
            owner: Owner::UNKNOWN,
        }
    }

    fn left(gate: &mut Gate, scope: Scope, found: Vec<Found>) -> Vec<u64> {
        let mut census = Census {
            netns: 1,
            begin_ns: 1_000,
            scope,
            found,
            ..Census::default()
        };
        gate.census(&mut census);
        census.found.iter().map(|found| found.cookie).collect()
    }

    const OPENS: (State, State) = (State::CLOSE, State::SYN_SENT);

    /// A dump does not say who opened a connection, but its events did. A connection that is missing from a
    /// dump has ended, so removing a selected one would end it.
    #[test]
    fn a_dump_keeps_connections_selected_by_their_events() {
        let mut gate = of_curl();
        assert!(gate.passes(&event(1, CURL, OPENS)));
        assert!(!gate.passes(&event(2, b"wget\0\0\0\0\0\0\0\0\0\0\0\0", OPENS)));
        let socket = |cookie| found(cookie, State::SYN_SENT, Kind::Socket);
        let all = vec![socket(1), socket(2), socket(3)];
        assert_eq!(left(&mut gate, Scope::All, all), [1]);
        assert_eq!(gate.left_out, 1);
    }

    /// nginx listens as process 7, which forks 9, which forks 8; 7 ends. A dump finds out; from then on 8 selects
    /// its connections, and each stays selected when the listener is gone.
    #[test]
    fn a_process_that_holds_the_listener_selects_its_connections() {
        const NGINX: &[u8; 16] = b"nginx\0\0\0\0\0\0\0\0\0\0\0";
        let mut gate = gate(OwnerFilter {
            pids: vec![8],
            ..OwnerFilter::default()
        });
        let server = |cookie, rport, step| {
            let record = Record {
                lport: 80,
                rport,
                ..*event(cookie, NGINX, step).record()
            };
            Event::try_from(record).unwrap()
        };
        let listens = server(1, 0, (State::CLOSE, State::LISTEN));
        assert!(!gate.passes(&listens));
        assert!(!gate.passes(&server(2, 1_000, (State::LISTEN, State::SYN_RECV))));
        let mut census = Census {
            netns: 1,
            begin_ns: 1_000,
            more: true,
            held: vec![Held {
                cookie: 1,
                laddr: [0, 0, 0, 0].into(),
                lport: 80,
                by: [9, 8].map(|pid| Process { pid, comm: *NGINX }).into(),
            }],
            ..Census::default()
        };
        gate.census(&mut census);
        assert_eq!(census.held.len(), 1);
        let listener = census.found.first().unwrap();
        assert_eq!((listener.cookie, listener.state), (1, State::LISTEN));
        assert_eq!(listener.owner.pid, Some(9));
        for step in [
            (State::LISTEN, State::SYN_RECV),
            (State::SYN_RECV, State::ESTABLISHED),
        ] {
            assert!(gate.passes(&server(3, 1_001, step)));
        }
        assert!(gate.passes(&server(1, 0, (State::LISTEN, State::CLOSE))));
        assert!(gate.passes(&server(3, 1_001, (State::ESTABLISHED, State::CLOSE))));
        assert!(!gate.passes(&server(4, 1_002, (State::LISTEN, State::SYN_RECV))));
        assert!(gate.selection.by_holder.is_empty());
    }

    #[test]
    fn a_minisocket_is_selected_with_its_connection() {
        let mut gate = of_curl();
        let steps = [
            OPENS,
            (State::SYN_SENT, State::ESTABLISHED),
            (State::ESTABLISHED, State::FIN_WAIT1),
            (State::FIN_WAIT1, State::FIN_WAIT2),
            (State::FIN_WAIT2, State::CLOSE),
        ];
        for step in steps {
            assert!(gate.passes(&event(1, CURL, step)));
            assert!(!gate.passes(&event(2, &[b'x'; 16], step)));
        }
        let mini = |cookie| found(cookie, State::FIN_WAIT2, Kind::Minisocket);
        let both = || vec![mini(1), mini(2)];
        assert_eq!(left(&mut gate, Scope::Small, both()), [1]);
        // Found again in TIME_WAIT.
        assert_eq!(left(&mut gate, Scope::Small, both()), [1]);
    }
}
