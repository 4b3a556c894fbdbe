//! Lets through the events of the connections whose owner is wanted.
//!
//! Whose a connection is takes more than an event: a server's belongs to whoever listens there. So this
//! follows all connections, as a view does, and a view behind it sees each of its connections whole.

use hashbrown::HashSet;
use tcpstate_core::{
    cause::goes_on,
    census::Census,
    event::Event,
    filter::OwnerMatcher,
    model::{Limits, Tracker},
    service::Role,
};

/// The stage before a view where a filter on owners was given.
pub(super) struct Gate {
    tracker: Tracker,
    matcher: OwnerMatcher,
    /// Cookies of wanted connections that went on as minisockets.
    going_on: HashSet<u64>,
    max_going_on: usize,
    /// Events that it kept back.
    pub(super) dropped: u64,
}

impl Gate {
    /// `follows`: censuses will tell when minisockets are gone.
    pub(super) fn new(matcher: OwnerMatcher, limits: Limits, follows: bool) -> Self {
        let mut tracker = Tracker::new(limits).without_rates().without_histograms();
        if follows {
            tracker.follow();
        }
        Self {
            tracker,
            matcher,
            going_on: HashSet::new(),
            max_going_on: if follows { limits.max_connections } else { 0 },
            dropped: 0,
        }
    }

    /// Takes out of a census what the view is not to see. A minisocket is its connection's; whose a
    /// half-open connection is follows from who listens there.
    pub(super) fn census(&mut self, census: &mut Census) {
        let mut gone = Vec::new();
        self.tracker.census(census, |left| {
            if left.then.is_none() {
                gone.push(left.cookie);
            }
        });
        let (matcher, going_on) = (&mut self.matcher, &mut self.going_on);
        let tracker = &self.tracker;
        census.found.retain(|found| {
            let (role, owner, uid, cgroup) = tracker.attributes(found);
            going_on.contains(&found.cookie) || matcher.matches(role, &owner, uid, cgroup)
        });
        for cookie in gone {
            going_on.remove(&cookie);
        }
        let netns = census.netns;
        census.half_open.retain(|half_open| {
            let owner = tracker.listener_of(half_open, netns);
            matcher.matches(Role::Server, &owner, None, None)
        });
    }

    /// Whether the view is to see this event. To be asked of every event, in their order.
    pub(super) fn passes(&mut self, event: &Event) -> bool {
        let applied = self.tracker.apply(event);
        let passes = self.matcher.matches(
            applied.role(),
            &applied.owner(),
            applied.uid(),
            applied.cgroup(),
        );
        self.dropped += u64::from(!passes);
        if passes
            && self.going_on.len() < self.max_going_on
            && let (Some(cookie), Some(_)) = (event.cookie(), goes_on(event))
        {
            self.going_on.insert(cookie);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::{
        Record, State,
        record::{AF_INET, flags},
    };
    use tcpstate_core::{
        census::{Found, Kind, Scope},
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

    /// A client's, by a process of this name.
    fn event(cookie: u64, name: &[u8; 16], (oldstate, newstate): (State, State)) -> Event {
        let opens = oldstate == State::CLOSE;
        let process = if opens { flags::PROCESS } else { 0 };
        Event::try_from(Record {
            ts_ns: cookie,
            cookie,
            pid: 7,
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

    /// A list does not say who opened a connection; the events have. What it leaves out has ended, so
    /// to take a wanted one out of it would end that.
    #[test]
    fn a_list_keeps_what_events_have_told_to_be_wanted() {
        let mut gate = of_curl();
        assert!(gate.passes(&event(1, CURL, OPENS)));
        assert!(!gate.passes(&event(2, b"wget\0\0\0\0\0\0\0\0\0\0\0\0", OPENS)));
        let socket = |cookie| found(cookie, State::SYN_SENT, Kind::Socket);
        let all = vec![socket(1), socket(2), socket(3)];
        assert_eq!(left(&mut gate, Scope::All, all), [1]);
        assert_eq!(gate.dropped, 1);
    }

    #[test]
    fn what_a_connection_goes_on_as_is_as_wanted_as_it_was() {
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
        // Found again, as TIME_WAIT.
        assert_eq!(left(&mut gate, Scope::Small, both()), [1]);
    }
}
