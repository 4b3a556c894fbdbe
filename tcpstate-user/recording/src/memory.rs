//! The memory of a recording: what it has shown so far of the sockets that are still there. Each file but the first
//! begins with it.
//!
//! It keeps events and entries of censuses as they were, and no states of its own: whatever the model makes of them
//! it makes again when the file is read. So it need not be right about what has ended. Something that ended and is
//! kept nevertheless ends again, unseen.

mod beginning;
mod entry;

use std::{collections::VecDeque, mem};

use hashbrown::{HashMap, HashSet};
use tcpstate_common::{
    State,
    transition::{closes, opens},
};
use tcpstate_core::{
    cause::goes_on,
    census::{Census, Found, Kind, Request, Scope, TIME_WAIT_NS},
    event::Event,
    handshakes::Parts,
    model::SETTLED_NS,
    origin::Origin,
    recalled::Recalled,
};

pub(crate) use self::beginning::Beginning;
use self::entry::{Entry, Item, Life, Piece};

/// The dumps that must be without a minisocket before it counts as gone if none ever had it, and the time after
/// which it is forgotten where there are none. The model has the same rule; to keep one longer does no harm.
const MISSES: u8 = 2;
const FORGET_NS: u64 = 180_000_000_000;
/// The time for which a minisocket that found no room counts as left out: `TIME_WAIT` lasts as long.
const LEFT_OUT_NS: u64 = TIME_WAIT_NS;
/// Listeners that have ended and are kept until it is looked up whether a connection of theirs is left.
const ENDED_LISTENERS: usize = 1_024;
/// Bytes of a half-open connection, roughly.
const REQUEST_BYTES: u64 = (2 * mem::size_of::<(u64, Request)>()) as u64;

/// The history of the sockets that are there.
pub(crate) struct Memory {
    /// Sockets that had an event, by address. A socket that has ended is not here.
    open: HashMap<u64, Entry>,
    /// Sockets that only a census had, and minisockets, by cookie.
    others: HashMap<u64, Entry>,
    /// Listeners that have ended. Their connections have the owner from them.
    ended_listeners: Vec<Entry>,
    /// The last sample of each namespace, with its place in the stream.
    samples: HashMap<u32, (u64, Census)>,
    /// The half-open connections of the census that comes in, part by part.
    half_open: Parts,
    /// The half-open connections of each namespace that samples have found, by cookie.
    requests: HashMap<u32, HashMap<u64, Request>>,
    /// The cookies of the dump that comes in, part by part, as far as these sockets are here.
    listed: HashSet<u64>,
    /// The addresses of open sockets by cookie, while a dump comes in.
    addresses: Option<HashMap<u64, u64>>,
    /// Whether minisockets are followed: samples show their end.
    follows: bool,
    /// Events and censuses so far.
    position: u64,
    bytes: u64,
    max_bytes: u64,
    /// Open sockets that there was no room for.
    left_out: u64,
    /// The same of minisockets, by the time at which they began.
    minis_left_out: VecDeque<(u64, u64)>,
    /// The work space of [`Memory::events`].
    ending: HashMap<u64, Option<u64>>,
    passing: Vec<bool>,
}

impl Memory {
    /// A memory that takes so many bytes.
    pub(crate) fn new(origin: &Origin, max_bytes: u64) -> Self {
        Self {
            open: HashMap::new(),
            others: HashMap::new(),
            ended_listeners: Vec::new(),
            samples: HashMap::new(),
            half_open: Parts::default(),
            requests: HashMap::new(),
            listed: HashSet::new(),
            addresses: None,
            follows: origin.sample_interval_ns.is_some(),
            position: 0,
            bytes: 0,
            max_bytes,
            left_out: 0,
            minis_left_out: VecDeque::new(),
            ending: HashMap::new(),
            passing: Vec::new(),
        }
    }

    /// Bytes of memory.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes what the memory of an earlier recording had.
    pub(crate) fn recall(&mut self, recalled: &Recalled) {
        match recalled {
            Recalled::Events(events) => self.events(events),
            Recalled::Census(census) => self.census(census),
        }
    }

    /// Takes a block of events.
    ///
    /// First backwards: a connection that begins and ends here, as nearly all do under a churn, costs a look at a
    /// small table for each event, and no place.
    #[expect(clippy::indexing_slicing, reason = "as many places as events")]
    pub(crate) fn events(&mut self, events: &[Event]) {
        let mut passing = mem::take(&mut self.passing);
        passing.clear();
        passing.resize(events.len(), false);
        let mut ending = mem::take(&mut self.ending);
        for (index, event) in events.iter().enumerate().rev() {
            let (old, new) = states(event);
            let address = event.record().skaddr;
            if closes(old, new) && !self.keeps_minisocket(event) {
                ending.insert(address, event.cookie());
                passing[index] = true;
            } else if new == State::CLOSE || new == State::LISTEN {
                ending.remove(&address);
            } else if !ending.is_empty() && ending.contains_key(&address) {
                passing[index] = true;
                if opens(old, new) {
                    ending.remove(&address);
                }
            }
        }
        for (address, cookie) in ending.drain() {
            self.end(address, cookie);
        }
        self.ending = ending;
        for (event, is_passing) in events.iter().zip(&passing) {
            if !is_passing {
                self.event(event);
            }
            self.position += 1;
        }
        self.passing = passing;
    }

    /// Whether the connection that this event ends goes on as a minisocket that there is room for.
    fn keeps_minisocket(&mut self, event: &Event) -> bool {
        if !self.follows || event.cookie().is_none() || goes_on(event).is_none() {
            return false;
        }
        let life = Life::Minisocket {
            there_ns: event.ts_ns(),
            misses: Some(0),
        };
        let has_room = self.has_room_for(life);
        if !has_room {
            self.leave_out_minisocket(event.ts_ns());
        }
        has_room
    }

    fn event(&mut self, event: &Event) {
        let (old, new) = states(event);
        let address = event.record().skaddr;
        let item = Item {
            position: self.position,
            piece: Piece::Event(*event),
        };
        if opens(old, new) || new == State::LISTEN {
            self.end_known(address, event.cookie());
            let life = if new == State::LISTEN {
                Life::Listener
            } else {
                Life::Connection
            };
            if self.has_room_for(life) {
                self.put(address, life, item);
            } else {
                self.left_out += 1;
            }
        } else if new != State::CLOSE {
            let is_known = self.is_known(address, event.cookie());
            if !is_known {
                // It was left out before, or is from before the capture.
                self.left_out = self.left_out.saturating_sub(1);
            }
            if !self.has_room_for(Life::Connection) {
                self.end_known(address, event.cookie());
                self.left_out += 1;
            } else if !is_known {
                self.put(address, Life::Connection, item);
            } else if let Some(entry) = self.open.get_mut(&address) {
                self.bytes += entry.push(item);
            }
        } else if old == State::LISTEN {
            if self.is_known(address, event.cookie())
                && let Some(mut entry) = self.open.remove(&address)
            {
                self.bytes += entry.push(item);
                self.ended_listeners.push(entry);
                if self.ended_listeners.len() > ENDED_LISTENERS {
                    self.forget_listeners();
                }
            }
        } else if closes(old, new)
            && let Some(cookie) = event.cookie()
            && self.keeps_minisocket(event)
        {
            self.is_known(address, Some(cookie));
            let life = Life::Minisocket {
                there_ns: event.ts_ns(),
                misses: Some(0),
            };
            let entry = match self.open.remove(&address) {
                Some(mut entry) => {
                    entry.life = life;
                    self.bytes += entry.push(item);
                    entry
                }
                None => self.with(life, item),
            };
            let before = self.others.insert(cookie, entry);
            self.free(before);
        } else {
            self.end_known(address, event.cookie());
        }
    }

    /// Whether there is an open socket at this address. It may have been known only by its cookie so far.
    fn is_known(&mut self, address: u64, cookie: Option<u64>) -> bool {
        if !self.open.contains_key(&address)
            && let Some(cookie) = cookie
            && self
                .others
                .get(&cookie)
                .is_some_and(|entry| !entry.is_minisocket())
            && let Some(entry) = self.others.remove(&cookie)
        {
            self.open.insert(address, entry);
        }
        self.open.contains_key(&address)
    }

    /// A socket with its first item.
    fn with(&mut self, life: Life, item: Item) -> Entry {
        let mut items = Vec::with_capacity(if life == Life::Listener { 1 } else { 2 });
        items.push(item);
        let entry = Entry { items, life };
        self.bytes += entry.bytes();
        entry
    }

    fn put(&mut self, address: u64, life: Life, item: Item) {
        let entry = self.with(life, item);
        let before = self.open.insert(address, entry);
        self.free(before);
    }

    /// Some room is kept for listeners, which are few and say the most; minisockets, of which there can be a minute
    /// of all connections, leave half to those that are open.
    const fn has_room_for(&self, life: Life) -> bool {
        let room = match life {
            Life::Listener => self.max_bytes,
            Life::Connection => self.max_bytes - self.max_bytes / 16,
            Life::Minisocket { .. } => self.max_bytes / 2,
        };
        self.bytes < room
    }

    fn leave_out_minisocket(&mut self, ts_ns: u64) {
        match self.minis_left_out.back_mut() {
            Some((since_ns, count)) if ts_ns.saturating_sub(*since_ns) < 1_000_000_000 => {
                *count += 1;
            }
            _ => self.minis_left_out.push_back((ts_ns, 1)),
        }
        while let Some(&(since_ns, _)) = self.minis_left_out.front()
            && ts_ns.saturating_sub(since_ns) > LEFT_OUT_NS
        {
            self.minis_left_out.pop_front();
        }
    }

    /// A socket ends. One that is not known was left out.
    fn end(&mut self, address: u64, cookie: Option<u64>) {
        if !self.end_known(address, cookie) {
            self.left_out = self.left_out.saturating_sub(1);
        }
    }

    fn end_known(&mut self, address: u64, cookie: Option<u64>) -> bool {
        let is_known = self.is_known(address, cookie);
        if is_known {
            let ended = self.open.remove(&address);
            self.free(ended);
        }
        is_known
    }

    fn free(&mut self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            self.bytes = self.bytes.saturating_sub(entry.bytes());
        }
    }

    /// Forgets the listeners that have ended and have no connection left.
    fn forget_listeners(&mut self) {
        let is_needed = self.needed_listeners();
        let mut needed = is_needed.iter();
        let mut freed = 0;
        self.ended_listeners.retain(|entry| {
            let stays = needed.next().is_some_and(|&needed| needed);
            if !stays {
                freed += entry.bytes();
            }
            stays
        });
        if self.ended_listeners.len() > ENDED_LISTENERS / 2 {
            // Their connections live long: the oldest give way.
            let surplus = self.ended_listeners.len() - ENDED_LISTENERS / 2;
            freed += self
                .ended_listeners
                .drain(..surplus)
                .map(|entry| entry.bytes())
                .sum::<u64>();
        }
        self.bytes = self.bytes.saturating_sub(freed);
    }

    /// For each listener that has ended: whether a connection is left that began before, or was half-open in the
    /// last sample.
    fn needed_listeners(&self) -> Vec<bool> {
        let mut oldest: HashMap<(u32, u16), u64> = HashMap::new();
        for entry in self.open.values().chain(self.others.values()) {
            if let (Some(place), Some(item)) = (entry.place(), entry.items.first()) {
                let oldest = oldest.entry(place).or_insert(item.position);
                *oldest = item.position.min(*oldest);
            }
        }
        for (netns, (_, sample)) in &self.samples {
            let half_open = sample
                .half_open
                .iter()
                .filter(|half_open| half_open.count > 0);
            oldest.extend(half_open.map(|half_open| ((*netns, half_open.lport), 0)));
        }
        let is_needed = |entry: &Entry| {
            let ended = entry.items.last().map_or(0, |item| item.position);
            entry
                .place()
                .and_then(|place| oldest.get(&place))
                .is_some_and(|&position| position < ended)
        };
        self.ended_listeners.iter().map(is_needed).collect()
    }

    /// Takes a census, or a part of one.
    pub(crate) fn census(&mut self, census: &Census) {
        let position = self.position;
        self.position += 1;
        for found in &census.found {
            match found.kind {
                Kind::Socket => self.found_socket(found, census, position),
                Kind::Minisocket => self.found_minisocket(found, census, position),
            }
        }
        self.held(census, position);
        self.requests(census);
        if census.scope == Scope::All {
            self.list(&census.known);
        }
        for gone in &census.gone {
            if self
                .others
                .get(&gone.cookie)
                .is_some_and(Entry::is_minisocket)
            {
                let ended = self.others.remove(&gone.cookie);
                self.free(ended);
            }
        }
        let half_open = if census.scope.is_of_sockets() {
            None
        } else {
            self.half_open.take(census)
        };
        if census.more {
            return;
        }
        match census.scope {
            Scope::Small => {
                self.judge_minisockets(census);
                let sample = Census {
                    netns: census.netns,
                    begin_ns: census.begin_ns,
                    previous_ns: census.previous_ns,
                    scope: census.scope,
                    half_open: half_open.map_or_else(Vec::new, |(places, _)| places.into_owned()),
                    ..Census::default()
                };
                self.samples.insert(census.netns, (position, sample));
            }
            Scope::All => self.end_what_is_not_listed(census),
            Scope::Some => {}
            Scope::Vanished | Scope::OutOfReach => {
                self.samples.remove(&census.netns);
                let gone = self.requests.remove(&census.netns);
                let bytes = gone.map_or(0, |gone| gone.len() as u64 * REQUEST_BYTES);
                self.bytes = self.bytes.saturating_sub(bytes);
                self.retain_others(|entry| {
                    !entry.is_minisocket() || entry.netns() != Some(census.netns)
                });
            }
        }
        self.listed.clear();
        self.addresses = None;
    }

    /// The holders of a listener are part of what is known of it.
    fn held(&mut self, census: &Census, position: u64) {
        if census.held.is_empty() {
            return;
        }
        let listeners = self.open.values_mut().chain(self.others.values_mut());
        let listeners = listeners.filter(|entry| entry.life == Life::Listener);
        let mut by_cookie: HashMap<u64, &mut Entry> = listeners
            .filter_map(|entry| Some((entry.cookie()?, entry)))
            .collect();
        for held in &census.held {
            if let Some(entry) = by_cookie.get_mut(&held.cookie) {
                let (before, now) = entry.hold(Item::of_holders(held, census, position));
                self.bytes = (self.bytes + now).saturating_sub(before);
            }
        }
    }

    /// Half-open connections are there until a sample is without them.
    fn requests(&mut self, census: &Census) {
        if census.requests.is_empty() && census.requests_gone.is_empty() {
            return;
        }
        let known = self.requests.entry(census.netns).or_default();
        for cookie in &census.requests_gone {
            if known.remove(cookie).is_some() {
                self.bytes = self.bytes.saturating_sub(REQUEST_BYTES);
            }
        }
        for request in &census.requests {
            // As many as a flood makes must not crowd out what is open.
            if self.bytes < self.max_bytes / 2 && known.insert(request.cookie, *request).is_none() {
                self.bytes += REQUEST_BYTES;
            }
        }
    }

    /// Notes that a dump has these sockets. Of those that are not here there may be a million.
    fn list(&mut self, cookies: &[u64]) {
        let (addresses, others) = (addresses(&mut self.addresses, &self.open), &self.others);
        let is_here =
            |cookie: &&u64| addresses.contains_key(*cookie) || others.contains_key(*cookie);
        self.listed.extend(cookies.iter().filter(is_here));
    }

    fn found_socket(&mut self, found: &Found, census: &Census, position: u64) {
        self.list(&[found.cookie]);
        let life = match found.state {
            // The model takes none of these.
            State::CLOSE | State::BOUND_INACTIVE | State::SYN_RECV | State::NEW_SYN_RECV => return,
            State::LISTEN => Life::Listener,
            _ => Life::Connection,
        };
        let addresses = addresses(&mut self.addresses, &self.open);
        let known = match addresses.get(&found.cookie) {
            Some(address) => self.open.get_mut(address),
            None => self.others.get_mut(&found.cookie),
        };
        if let Some(entry) = known {
            if !entry.is_minisocket() && entry.is_news(found) {
                self.bytes += entry.push(Item::of_census(found, census, position));
            }
        } else if self.has_room_for(life) {
            self.put_other(Item::of_census(found, census, position), found.cookie, life);
            self.listed.insert(found.cookie);
        } else {
            self.left_out += 1;
        }
    }

    fn put_other(&mut self, item: Item, cookie: u64, life: Life) {
        let entry = self.with(life, item);
        let before = self.others.insert(cookie, entry);
        self.free(before);
    }

    fn found_minisocket(&mut self, found: &Found, census: &Census, position: u64) {
        let item = Item::of_census(found, census, position);
        let life = Life::Minisocket {
            there_ns: census.begin_ns,
            misses: None,
        };
        if let Some(entry) = self.others.get_mut(&found.cookie) {
            if let Life::Minisocket { misses, .. } = &mut entry.life {
                *misses = None;
                if entry.is_news(found) {
                    self.bytes += entry.push(item);
                }
            }
        } else if self.has_room_for(life) {
            self.put_other(item, found.cookie, life);
        } else {
            self.leave_out_minisocket(census.begin_ns);
        }
    }

    fn judge_minisockets(&mut self, census: &Census) {
        let (netns, begin_ns) = (census.netns, census.begin_ns);
        self.retain_others(|entry| {
            let is_here = entry.netns() == Some(netns);
            let Life::Minisocket {
                there_ns,
                misses: Some(misses),
            } = &mut entry.life
            else {
                return true;
            };
            if is_here && *there_ns < begin_ns {
                *misses += 1;
            }
            *misses < MISSES && there_ns.saturating_add(FORGET_NS) >= begin_ns
        });
    }

    fn retain_others(&mut self, mut stays: impl FnMut(&mut Entry) -> bool) {
        let mut freed = 0;
        self.others.retain(|_, entry| {
            let stays = stays(entry);
            if !stays {
                freed += entry.bytes();
            }
            stays
        });
        self.bytes = self.bytes.saturating_sub(freed);
    }

    /// Forgets the sockets that a dump of all sockets proves to have ended: events of theirs are missing.
    fn end_what_is_not_listed(&mut self, census: &Census) {
        let listed = mem::take(&mut self.listed);
        let settled_ns = census.begin_ns.saturating_sub(SETTLED_NS);
        let stays = |entry: &Entry| {
            entry.is_minisocket()
                || entry.netns() != Some(census.netns)
                || entry.cookie().is_none_or(|cookie| listed.contains(&cookie))
                || entry.state() == Some(State::SYN_RECV)
                || entry.last_ns() >= settled_ns
        };
        let mut freed = 0;
        self.open.retain(|_, entry| {
            let stays = stays(entry);
            if !stays {
                freed += entry.bytes();
            }
            stays
        });
        self.bytes = self.bytes.saturating_sub(freed);
        self.retain_others(|entry| stays(entry));
    }
}

/// The addresses of open sockets by cookie, which are looked up once for a dump.
fn addresses<'a>(
    known: &'a mut Option<HashMap<u64, u64>>,
    open: &HashMap<u64, Entry>,
) -> &'a HashMap<u64, u64> {
    known.get_or_insert_with(|| {
        let by_cookie = |(&address, entry): (&u64, &Entry)| Some((entry.cookie()?, address));
        open.iter().filter_map(by_cookie).collect()
    })
}

/// The states of an event, where a request socket counts as `SYN_RECV`.
const fn states(event: &Event) -> (State, State) {
    (event.oldstate().folded(), event.newstate().folded())
}

#[cfg(test)]
mod tests;
