//! The events of some time, counted by service: all that a rule reads of them.

#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use hashbrown::HashMap;
use tcpstate_common::State;

use super::{ListenerNow, Survey, Thresholds, Top};
use crate::{
    cause::{Cause, ResetReason},
    event::{Event, Process, SocketId},
    model::{Applied, Traffic},
    owner::{Comm, Owner},
    service::Role,
};

/// The most services that are counted one by one.
const MAX_SERVICES: usize = 4_096;

/// The most connections of a client that the peer has closed whose bytes are kept.
const MAX_HALF_CLOSED: usize = 65_536;

/// The most ends that are kept one by one, of each service.
const MAX_ENDS: usize = 256;

/// The most ends of listeners that are kept.
const MAX_LISTENERS: usize = 256;

/// The events of some time.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Monotonic time at which it begins, nanoseconds; `None`: it has not begun.
    began_ns: Option<u64>,
    /// Monotonic time of its end up to now, nanoseconds.
    now_ns: u64,
    services: HashMap<ServiceKey, Service>,
    /// Events of services for which there was no room.
    left_out: u64,
    listeners_ended: VecDeque<ListenerEnd>,
    listeners_began: VecDeque<ListenerEnd>,
    /// The bytes that a client had sent when the peer's FIN came.
    half_closed: HashMap<SocketId, u64>,
}

/// A service, from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Inode number of the network namespace; `None` is unknown.
    pub netns: Option<u32>,
    /// The service port; `None` while the role is unknown.
    pub port: Option<u16>,
    /// The side.
    pub role: Role,
}

/// The events of a service.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// Connections that began.
    pub opened: u64,
    /// Connections whose handshake was completed.
    pub established: u64,
    /// Connections that ended.
    pub closed: u64,
    /// The same by cause.
    pub causes: BTreeMap<Cause, u64>,
    /// Connections that ended before they were established, by cause.
    pub failed: BTreeMap<Cause, u64>,
    /// Established connections that this side closed first.
    pub closed_first: u64,
    /// Established connections that the peer closed first.
    pub closed_second: u64,
    /// Clients' handshakes whose duration is known.
    pub handshakes: u64,
    /// Connections that lived shorter than [`Thresholds::short_life`].
    pub short_lived: u64,
    /// The trouble, by kind.
    troubles: BTreeMap<Trouble, Cases>,
    /// The latest ends by anything but an orderly close.
    pub endings: VecDeque<Ending>,
    /// The remote addresses of all that failed on the way or at the peer: none that this side reset, or had no port for,
    /// nor those that a client of this service reset after less than [`Thresholds::short_life`], as checks do.
    pub troubled_peers: Top<IpAddr>,
    /// The remote addresses of all that began: of a server, that were established.
    pub peers: Top<IpAddr>,
    /// The processes of all that ended.
    pub owners: Top<Process>,
}

/// A kind of trouble that a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// A connect found no free local port.
    NoPort,
    /// The local port that a socket was bound to is in use to the same destination.
    TupleTaken,
    /// A connect got no answer.
    ConnectTimedOut,
    /// A connect was refused by another host.
    Refused,
    /// A connect to an address of this host was refused.
    RefusedHere,
    /// A connect did not reach the host.
    Unreachable,
    /// The application gave up a connect after [`Thresholds::given_up_least`].
    GivenUp,
    /// A connect ended by another error.
    ConnectFailed,
    /// A client's handshake took so long that the SYN, or its answer, was sent again.
    SlowHandshake,
    /// A client's connection was used after the peer had closed, and was reset.
    ResetWhenReused,
    /// This side had closed a connection that may have been idle, and reset it when data came that was under way.
    LateData,
    /// The same, when the peer had acknowledged the close before.
    DataAfterFin,
    /// This side reset a connection like these that lived shorter than [`Thresholds::idle_timeout_least`].
    EarlyClose,
}

/// The connections that had a kind of trouble.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// Their number.
    pub count: u64,
    /// Those whose remote address is one of this host, in the same network namespace.
    pub here: u64,
    /// Monotonic time of the first, nanoseconds.
    pub first_ns: u64,
    /// Monotonic time of the latest, nanoseconds.
    pub last_ns: u64,
    /// Their remote addresses.
    pub peers: Top<IpAddr>,
    /// Their processes.
    pub owners: Top<Process>,
}

/// The end of a connection by anything but an orderly close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Monotonic time, nanoseconds.
    pub at_ns: u64,
    /// The state that it ended in.
    pub state: State,
    /// The cause.
    pub cause: Cause,
    /// The remote address.
    pub peer: IpAddr,
    /// Its lifetime, nanoseconds, where its beginning was seen.
    pub lifetime_ns: Option<u64>,
    /// The time without a packet before it, nanoseconds, where a look at the sockets showed one.
    pub idle_ns: Option<u64>,
    /// The bytes that it had carried, where they are known.
    pub traffic: Option<Traffic>,
    /// Its process.
    pub owner: Option<Process>,
}

/// The end, or the beginning, of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerEnd {
    /// Monotonic time, nanoseconds.
    pub at_ns: u64,
    /// Inode number of the network namespace; `None` is unknown.
    pub netns: Option<u32>,
    /// The address that it listened on.
    pub laddr: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its process.
    pub owner: Option<Process>,
}

impl Observed {
    /// Begins at this monotonic time, nanoseconds.
    pub fn begin(&mut self, now_ns: u64) {
        self.began_ns.get_or_insert(now_ns);
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// Begins anew at this time, with what it needs of the connections that go on.
    pub fn restart(&mut self, now_ns: u64) {
        *self = Self {
            began_ns: self.began_ns.map(|_| now_ns),
            now_ns,
            half_closed: std::mem::take(&mut self.half_closed),
            ..Self::default()
        };
    }

    /// Whether it has begun.
    pub const fn is_running(&self) -> bool {
        self.began_ns.is_some()
    }

    /// The time passes, monotonic nanoseconds.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// Its length, nanoseconds.
    pub fn length_ns(&self) -> u64 {
        self.now_ns
            .saturating_sub(self.began_ns.unwrap_or(self.now_ns))
    }

    /// The services, with their events.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Service)> {
        self.services.iter()
    }

    /// The events of one service.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// Events of services for which there was no room.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The ends of listeners, the oldest first.
    pub fn listeners_ended(&self) -> impl DoubleEndedIterator<Item = &ListenerEnd> {
        self.listeners_ended.iter()
    }

    /// The beginnings of listeners, the oldest first.
    pub fn listeners_began(&self) -> impl DoubleEndedIterator<Item = &ListenerEnd> {
        self.listeners_began.iter()
    }

    /// Whether something listens at this port: at the latest look, or by the events since.
    pub fn is_listening(&self, sockets: Option<&Survey>, netns: Option<u32>, port: u16) -> bool {
        let looked_ns = sockets.map_or(0, |sockets| sockets.ts_ns);
        let listeners = sockets.map_or(&[][..], |sockets| &sockets.listeners);
        let count = |ends: &VecDeque<ListenerEnd>| {
            let is_it = |end: &&ListenerEnd| {
                (end.netns, end.port) == (netns, port) && end.at_ns > looked_ns
            };
            ends.iter().filter(is_it).count()
        };
        let at_look = listeners.iter().filter(|listener| {
            netns.is_none_or(|netns| netns == listener.netns) && listener.port == port
        });
        at_look.count() + count(&self.listeners_began) > count(&self.listeners_ended)
    }

    /// Whether a listener at this port ended.
    pub fn has_ended(&self, netns: Option<u32>, port: u16) -> bool {
        let mut ends = self.listeners_ended.iter();
        ends.any(|end| (end.netns, end.port) == (netns, port))
    }

    /// The connections of a namespace that this kernel reset.
    pub fn resets_of(&self, netns: u32) -> u64 {
        let services = self.services.iter();
        let services = services.filter(|(key, _)| key.netns == Some(netns));
        services
            .map(|(_, service)| service.ended_by(Cause::ResetLocally))
            .sum()
    }

    /// Takes an event, with what the tracker made of it. `sockets` are those of the latest look: which were idle.
    pub fn event(
        &mut self,
        event: &Event,
        applied: &Applied<'_>,
        sockets: Option<&Survey>,
        thresholds: &Thresholds,
    ) {
        let (old, new) = (event.oldstate(), event.newstate());
        self.now_ns = self.now_ns.max(event.ts_ns());
        if old == State::LISTEN && new == State::CLOSE || new == State::LISTEN {
            self.listener(event, applied, sockets);
            return;
        }
        let half_closed = &mut self.half_closed;
        if old == State::CLOSE_WAIT && new != State::CLOSE && !half_closed.is_empty() {
            half_closed.remove(&event.id());
        }
        let cause = applied.cause();
        if cause.is_none() && !is_counted(old, new) {
            return;
        }
        let key = ServiceKey {
            netns: event.netns(),
            port: applied.service_port(),
            role: applied.role(),
        };
        if self.services.len() >= MAX_SERVICES && !self.services.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        let service = self.services.entry(key).or_default();
        match (old, new) {
            (State::CLOSE, State::SYN_SENT) => {
                service.opened += 1;
                service.peers.add(event.raddr());
            }
            (State::LISTEN, State::SYN_RECV) => service.opened += 1,
            (State::SYN_SENT | State::SYN_RECV, State::ESTABLISHED) => {
                service.established += 1;
                if key.role == Role::Server {
                    // Its remote address was not there before.
                    service.peers.add(event.raddr());
                } else if let Some(ns) = applied.handshake_ns() {
                    service.handshakes += 1;
                    if is_repeated(ns) {
                        service.note(Trouble::SlowHandshake, event, applied);
                    }
                }
            }
            (State::ESTABLISHED, State::FIN_WAIT1) => service.closed_first += 1,
            (State::ESTABLISHED, State::CLOSE_WAIT) => {
                service.closed_second += 1;
                if key.role == Role::Client
                    && half_closed.len() < MAX_HALF_CLOSED
                    && let Some(traffic) = Traffic::of(event)
                {
                    half_closed.insert(event.id(), traffic.bytes_sent);
                }
            }
            _ => {}
        }
        let Some(cause) = cause else {
            return;
        };
        let sent_at_fin = if half_closed.is_empty() {
            None
        } else {
            half_closed.remove(&event.id())
        };
        service.end(event, applied, cause, sent_at_fin, sockets, thresholds);
    }

    fn listener(&mut self, event: &Event, applied: &Applied<'_>, sockets: Option<&Survey>) {
        let list = if event.newstate() == State::LISTEN {
            &mut self.listeners_began
        } else {
            &mut self.listeners_ended
        };
        if list.len() == MAX_LISTENERS {
            list.pop_front();
        }
        list.push_back(ListenerEnd {
            at_ns: event.ts_ns(),
            netns: event.netns(),
            laddr: event.laddr(),
            port: event.lport(),
            owner: process(&applied.owner()).or_else(|| {
                // It was there before.
                let mut listeners = sockets?.listeners.iter();
                let netns = event.netns().unwrap_or(0);
                let is_it = |one: &&ListenerNow| (one.netns, one.port) == (netns, event.lport());
                listeners.find(is_it)?.owner
            }),
        });
    }
}

/// Whether a change counts in a service, where it is no end. The others, a fifth of all, need no look at it.
const fn is_counted(old: State, new: State) -> bool {
    matches!(
        (old, new),
        (State::CLOSE, State::SYN_SENT)
            | (State::LISTEN, State::SYN_RECV)
            | (State::SYN_SENT | State::SYN_RECV, State::ESTABLISHED)
            | (State::ESTABLISHED, State::FIN_WAIT1 | State::CLOSE_WAIT)
    )
}

impl Service {
    fn end(
        &mut self,
        event: &Event,
        applied: &Applied<'_>,
        cause: Cause,
        sent_at_fin: Option<u64>,
        sockets: Option<&Survey>,
        thresholds: &Thresholds,
    ) {
        let old = event.oldstate();
        let owner = process(&applied.owner());
        let lifetime_ns = applied.lifetime_ns();
        self.closed += 1;
        *self.causes.entry(cause).or_default() += 1;
        if let Some(owner) = owner {
            self.owners.add(owner);
        }
        let was_established = !matches!(old, State::SYN_SENT | State::SYN_RECV);
        if was_established && lifetime_ns.is_some_and(|ns| ns < thresholds.short_life) {
            self.short_lived += 1;
        }
        if cause == Cause::Fin {
            return;
        }
        if !was_established {
            *self.failed.entry(cause).or_default() += 1;
        }
        let traffic = Traffic::of(event);
        let lifetime_or_long_ns = lifetime_ns.unwrap_or(u64::MAX);
        // The slower of two connects that raced is no failure.
        let lost_race = old == State::SYN_SENT
            && cause == Cause::Abandoned
            && lifetime_or_long_ns < thresholds.given_up_least;
        let trouble = match old {
            State::SYN_SENT => (!lost_race).then(|| of_connect(event, cause)),
            State::CLOSE_WAIT if cause == Cause::ResetByPeer && applied.role() == Role::Client => {
                let sent = traffic.map(|traffic| traffic.bytes_sent);
                let was_used = sent.zip(sent_at_fin).is_some_and(|(end, fin)| end > fin);
                was_used.then_some(Trouble::ResetWhenReused)
            }
            State::FIN_WAIT1 | State::FIN_WAIT2 if cause == Cause::ResetLocally => {
                let reason = ResetReason::of(event).map(ResetReason::name);
                let is_late_data = reason.is_none_or(|reason| reason == "tcp_abort_on_data");
                is_late_data.then_some(match old {
                    _ if lifetime_or_long_ns < thresholds.idle_timeout_least => Trouble::EarlyClose,
                    State::FIN_WAIT1 => Trouble::LateData,
                    _ => Trouble::DataAfterFin,
                })
            }
            _ => None,
        };
        if let Some(trouble) = trouble {
            self.note(trouble, event, applied);
        }
        let idle_ns = sockets.zip(event.netns()).zip(event.cookie()).and_then(
            |((sockets, netns), cookie)| {
                let idle_ns = sockets.idle.get(&(netns, cookie))?;
                Some(idle_ns + event.ts_ns().saturating_sub(sockets.ts_ns))
            },
        );
        let is_check = applied.role() == Role::Server
            && cause == Cause::ResetByPeer
            && lifetime_or_long_ns < thresholds.short_life;
        let is_own = matches!(cause, Cause::ResetLocally | Cause::NoPort | Cause::Unknown);
        if !is_check && !is_own && !lost_race {
            self.troubled_peers.add(event.raddr());
        }
        if self.endings.len() == MAX_ENDS {
            self.endings.pop_front();
        }
        self.endings.push_back(Ending {
            at_ns: event.ts_ns(),
            state: old,
            cause,
            peer: event.raddr(),
            lifetime_ns,
            idle_ns,
            traffic,
            owner,
        });
    }

    fn note(&mut self, trouble: Trouble, event: &Event, applied: &Applied<'_>) {
        let cases = self.troubles.entry(trouble).or_default();
        if cases.count == 0 {
            cases.first_ns = event.ts_ns();
        }
        cases.count += 1;
        cases.here += u64::from(is_to_here(event));
        cases.last_ns = event.ts_ns();
        cases.peers.add(event.raddr());
        if let Some(owner) = process(&applied.owner()) {
            cases.owners.add(owner);
        }
    }

    /// The connections that had this trouble; `None`: there was none.
    pub fn cases(&self, trouble: Trouble) -> Option<&Cases> {
        self.troubles.get(&trouble)
    }

    /// Their number.
    pub fn count(&self, trouble: Trouble) -> u64 {
        self.cases(trouble).map_or(0, |cases| cases.count)
    }

    /// The number of ends for this cause.
    pub fn ended_by(&self, cause: Cause) -> u64 {
        self.causes.get(&cause).copied().unwrap_or(0)
    }

    /// The number of connections that ended before they were established, for this cause.
    pub fn failed_by(&self, cause: Cause) -> u64 {
        self.failed.get(&cause).copied().unwrap_or(0)
    }
}

/// The trouble of a connect that ended for this cause.
fn of_connect(event: &Event, cause: Cause) -> Trouble {
    match cause {
        Cause::NoPort if event.lport() == 0 => Trouble::NoPort,
        Cause::NoPort => Trouble::TupleTaken,
        Cause::TimedOut => Trouble::ConnectTimedOut,
        Cause::Refused if is_to_here(event) => Trouble::RefusedHere,
        Cause::Refused => Trouble::Refused,
        Cause::Unreachable => Trouble::Unreachable,
        Cause::Abandoned => Trouble::GivenUp,
        _ => Trouble::ConnectFailed,
    }
}

/// Whether both ends are on this host, in the same network namespace: then the kernel chooses the same address for both.
fn is_to_here(event: &Event) -> bool {
    event.raddr().is_loopback() || event.raddr() == event.laddr()
}

/// Whether a handshake took so long that a SYN was sent again: near 1, 2, 3, ... seconds, where the kernel repeats it.
const fn is_repeated(ns: u64) -> bool {
    const S: u64 = 1_000_000_000;
    // The timer runs a little early or late, and the repeated handshake takes a round trip.
    const EARLY: u64 = S * 95 / 100;
    const LATE: u64 = S * 30 / 100;
    ns >= EARLY && (ns % S < LATE || ns % S > EARLY)
}

/// The process that an owner is, where it is one.
fn process(owner: &Owner) -> Option<Process> {
    let Comm(comm) = owner.comm?;
    Some(Process {
        pid: owner.pid?,
        comm,
    })
}
