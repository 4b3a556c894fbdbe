//! The machine: from segments to the transitions of both ends of each connection.
//!
//! Pure: no input or output, and no clock but that of the segments.

mod connection;
mod sequence;
mod states;
mod table;

use tcpstate_common::{
    Record, State,
    record::{self, end, flags as known},
};
use tcpstate_core::event::Event;

use self::{
    connection::{Change, Connection, How, Verdict},
    table::{Key, Table},
};
use crate::segment::{Segment, Side};

/// No user: a packet does not say whose its socket is.
const NO_UID: u32 = u32::MAX;

/// The machine.
pub struct Machine {
    table: Table,
}

impl Machine {
    /// Room for so many connections. One more, and one of those that had no segment for long is forgotten.
    ///
    /// *Units:* a connection takes less than 200 bytes.
    pub fn new(max_connections: usize) -> Self {
        Self {
            table: Table::new(max_connections),
        }
    }

    /// Takes a segment, and appends the transitions that it shows: those of its sender, then those of its receiver.
    ///
    /// An event has the time of the segment that shows it, but for the SYN of a connection that was not known to begin
    /// one until it was answered.
    #[inline]
    pub fn take(&mut self, segment: &Segment, events: &mut Vec<Event>) {
        let (key, is_second) = Key::of(segment);
        let x = usize::from(is_second);
        let hash = self.table.hash(&key);
        let Some(slot) = self.table.find(hash, &key) else {
            self.begin(segment, (hash, key, x), events);
            return;
        };
        slot.last_ns = segment.time_ns;
        let serial = slot.serial;
        let mut emit = emitter(&key, serial, segment.time_ns, events);
        let verdict = slot.connection.take(segment, x, &mut emit);
        drop(emit);
        match verdict {
            Verdict::Taken => {}
            Verdict::Another => self.replace(segment, (hash, key, x), None, events),
            Verdict::Answers(seq, time_ns) => {
                self.replace(segment, (hash, key, x), Some((seq, time_ns)), events);
            }
        }
    }

    #[cold]
    fn begin(
        &mut self,
        segment: &Segment,
        (hash, key, x): (u64, Key, usize),
        events: &mut Vec<Event>,
    ) {
        let serial = self.table.begun();
        let mut emit = emitter(&key, serial, segment.time_ns, events);
        if let Some(connection) = Connection::begin(segment, x, &mut emit) {
            self.table.insert(hash, key, connection, segment.time_ns);
        }
    }

    /// Begins another connection between the same sides: with this segment, or with the SYN that it answers.
    #[cold]
    fn replace(
        &mut self,
        segment: &Segment,
        (hash, key, x): (u64, Key, usize),
        answers: Option<(u32, u64)>,
        events: &mut Vec<Event>,
    ) {
        let serial = self.table.renew();
        let now_ns = segment.time_ns;
        let new = match answers {
            None => Connection::begin(segment, x, &mut emitter(&key, serial, now_ns, events)),
            Some((seq, time_ns)) => {
                let mut emit = emitter(&key, serial, time_ns, events);
                let mut new = Connection::open(seq, seq.wrapping_add(1), 1 - x, &mut emit);
                drop(emit);
                new.take(segment, x, &mut emitter(&key, serial, now_ns, events));
                Some(new)
            }
        };
        if let (Some(new), Some(slot)) = (new, self.table.find(hash, &key)) {
            slot.connection = new;
            slot.serial = serial;
        }
    }

    /// Connections that have been seen so far.
    pub const fn connections(&self) -> u64 {
        self.table.begun()
    }

    /// Connections that are held now.
    pub fn held(&self) -> usize {
        self.table.len()
    }

    /// Connections that were forgotten before they were over, for want of room.
    pub const fn evicted(&self) -> u64 {
        self.table.evicted()
    }
}

/// Appends the transitions of a connection as events.
#[inline]
fn emitter<'a>(
    key: &'a Key,
    serial: u64,
    time_ns: u64,
    events: &'a mut Vec<Event>,
) -> impl FnMut(Change) + 'a {
    move |change| events.extend(event(key, serial, time_ns, change))
}

/// A transition as the kernel would have shown it.
///
/// The kernel's socket ends when `TIME_WAIT` begins: its transition is to CLOSE (`tcp_time_wait`), and what stays is no socket.
fn event(key: &Key, serial: u64, time_ns: u64, change: Change) -> Option<Event> {
    let [first, second] = key.sides();
    let (local, remote): (&Side, &Side) = if change.end == 0 {
        (first, second)
    } else {
        (second, first)
    };
    let mut flags = known::COOKIE | known::SOCKET;
    let (fin_sent, fin_received) = change.fins;
    if fin_received {
        flags |= known::DONE | known::RCV_SHUTDOWN;
    }
    if fin_sent {
        flags |= known::SEND_SHUTDOWN;
    }
    let (error, facts) = match change.how {
        How::InOrder => (0, 0),
        // An application that gives up connecting sends nothing: the RST answers what still comes.
        How::ResetSent if change.from == State::SYN_SENT => (0, end::SYN_SENT),
        How::ResetSent => (0, end::RESET_SENT),
        How::ResetReceived(error) => (error, end::NO_RESET),
    };
    let newstate = match change.to {
        State::TIME_WAIT => State::CLOSE,
        state => state,
    };
    let family = if local.ip().is_ipv4() && remote.ip().is_ipv4() {
        record::AF_INET
    } else {
        record::AF_INET6
    };
    let record = Record {
        ts_ns: time_ns,
        // Unlike a kernel's, it begins at 1: 0 is no cookie.
        cookie: serial * 2 + change.end as u64 + 1,
        laddr: local.address,
        raddr: remote.address,
        uid: NO_UID,
        lport: local.port,
        rport: remote.port,
        error,
        oldstate: change.from,
        newstate,
        family,
        flags,
        ..Record::default()
    };
    let mut event = Event::try_from(record).ok()?;
    event.add_end_facts(facts);
    Some(event)
}

#[cfg(test)]
mod tests;
