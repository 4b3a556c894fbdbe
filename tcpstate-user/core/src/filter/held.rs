//! Events that a filter cannot decide yet, held until their socket's next one.

use hashbrown::HashMap;

use crate::event::Event;

/// The most undecided events that are held: about 20 MiB.
const HELD_MAX: usize = 1 << 17;

/// Events that wait for their socket's next one.
#[derive(Clone, Debug)]
pub struct Held {
    /// By socket address (cookie where there is none). Two generations: when the young one has reached half
    /// of the bound, the rest of the old one is given up. So an event whose successor was lost goes without a search
    /// for the oldest.
    young: HashMap<u64, Waiting>,
    old: HashMap<u64, Waiting>,
    half: usize,
    given_up: u64,
}

/// An event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The event.
    pub event: Event,
    /// Whether it is from before the beginning, and so counts nowhere.
    pub is_recalled: bool,
}

impl Default for Held {
    fn default() -> Self {
        Self::with_bound(HELD_MAX)
    }
}

impl Held {
    fn with_bound(bound: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: (bound / 2).max(1),
            given_up: 0,
        }
    }

    /// The held event that this one follows.
    ///
    /// The same address does not mean the same socket: the kernel reuses it. The states must
    /// join, and the cookies must be the same where both are known; at `LISTEN -> SYN_RECV` the first
    /// one is not.
    pub fn take(&mut self, event: &Event) -> Option<Waiting> {
        if self.young.is_empty() && self.old.is_empty() {
            return None;
        }
        let key = key(event);
        let held = self.young.remove(&key).or_else(|| self.old.remove(&key))?;
        let cookies = (held.event.record().cookie, event.record().cookie);
        let same = cookies.0 == 0 || cookies.1 == 0 || cookies.0 == cookies.1;
        if same && held.event.newstate() == event.oldstate() {
            return Some(held);
        }
        self.given_up += u64::from(!held.is_recalled);
        None
    }

    /// Holds an event. Its socket has none here: [`Held::take`] has been called.
    pub fn hold(&mut self, waiting: Waiting) {
        if self.young.len() >= self.half {
            let rest = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.given_up += count(&rest);
        }
        self.young.insert(key(&waiting.event), waiting);
    }

    /// The number of events that were given up; of those that are recalled, none.
    pub const fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Gives up all, at the end of the stream.
    pub fn finish(&mut self) {
        self.given_up += count(&self.young) + count(&self.old);
        self.young.clear();
        self.old.clear();
    }
}

const fn key(event: &Event) -> u64 {
    let record = event.record();
    if record.skaddr == 0 {
        record.cookie
    } else {
        record.skaddr
    }
}

fn count(held: &HashMap<u64, Waiting>) -> u64 {
    // A table's length fits in 64 bits.
    held.values().filter(|held| !held.is_recalled).count() as u64
}

#[cfg(test)]
mod tests {
    use tcpstate_common::{Record, State, record::AF_INET};

    use super::*;

    fn event(socket: u64, (oldstate, newstate): (State, State)) -> Event {
        let record = Record {
            skaddr: socket,
            cookie: socket,
            family: AF_INET,
            oldstate,
            newstate,
            ..Record::default()
        };
        Event::try_from(record).unwrap()
    }

    const CONNECT: (State, State) = (State::CLOSE, State::SYN_SENT);
    const CONNECTED: (State, State) = (State::SYN_SENT, State::ESTABLISHED);

    fn waiting(event: Event, is_recalled: bool) -> Waiting {
        Waiting { event, is_recalled }
    }

    #[test]
    fn the_table_is_bounded_and_gives_up_the_oldest_first() {
        let mut held = Held::with_bound(8);
        for n in 1..=100 {
            assert_eq!(held.take(&event(n, CONNECT)), None);
            held.hold(waiting(event(n, CONNECT), false));
            assert!(held.young.len() + held.old.len() <= 8);
        }
        let young = held.take(&event(100, CONNECTED));
        assert_eq!(young, Some(waiting(event(100, CONNECT), false)));
        assert_eq!(held.take(&event(1, CONNECTED)), None);
        held.finish();
        assert_eq!(held.given_up(), 99);
    }

    #[test]
    fn what_is_recalled_counts_nowhere() {
        let mut held = Held::with_bound(8);
        for n in 1..=100 {
            held.hold(waiting(event(n, CONNECT), true));
        }
        // An event of another socket at the same address.
        assert_eq!(held.take(&event(100, CONNECT)), None);
        held.finish();
        assert_eq!(held.given_up(), 0);
    }
}
