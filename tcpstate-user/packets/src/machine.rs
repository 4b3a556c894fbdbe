//! The machine: from segments to the transitions of both ends of each connection.
//!
//! Pure: no input or output, and no clock but that of the segments.

mod annotate;
mod connection;
mod sequence;
mod states;
mod table;

use tcpstate_common::{
    Record, State,
    record::{self, end, flags as known},
};
use tcpstate_core::event::{Event, Packet};

pub use self::annotate::Annotator;
use self::{
    connection::{Change, Connection, How, Verdict, relative},
    table::{Digest, Key, Table},
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
        let digest = self.table.digest(&key);
        let Some(slot) = self.table.find(digest) else {
            self.begin(segment, (digest, key, x), events);
            return;
        };
        slot.last_ns = segment.time_ns;
        let serial = slot.serial;
        let mut emit = emitter((&key, serial), segment, x, events);
        let verdict = slot.connection.take(segment, x, &mut emit);
        drop(emit);
        match verdict {
            Verdict::Taken => {}
            Verdict::Another => self.replace(segment, (digest, key, x), None, events),
            Verdict::Answers(syn) => {
                let syn = syn.answered_by(segment);
                self.replace(segment, (digest, key, x), Some(&syn), events);
            }
        }
    }

    /// Prepares for taking these segments, and changes nothing: where there are many connections, most of the time that one
    /// takes is waiting for memory.
    #[inline]
    pub fn look_ahead(&self, segments: &[Segment]) {
        self.table.look_ahead(segments);
    }

    #[cold]
    fn begin(
        &mut self,
        segment: &Segment,
        (digest, key, x): (Digest, Key, usize),
        events: &mut Vec<Event>,
    ) {
        let serial = self.table.begun();
        let mut emit = emitter((&key, serial), segment, x, events);
        if let Some(connection) = Connection::begin(segment, x, &mut emit) {
            self.table.insert(digest, connection, segment.time_ns);
        }
    }

    /// Begins another connection between the same sides: with this segment, or with the SYN that it answers.
    #[cold]
    fn replace(
        &mut self,
        segment: &Segment,
        (digest, key, x): (Digest, Key, usize),
        answers: Option<&Segment>,
        events: &mut Vec<Event>,
    ) {
        let serial = self.table.renew();
        let id = (&key, serial);
        let new = match answers {
            None => Connection::begin(segment, x, &mut emitter(id, segment, x, events)),
            Some(syn) => {
                let y = 1 - x;
                let mut new = Connection::begin(syn, y, &mut emitter(id, syn, y, events));
                if let Some(new) = &mut new {
                    new.take(segment, x, &mut emitter(id, segment, x, events));
                }
                new
            }
        };
        if let (Some(new), Some(slot)) = (new, self.table.find(digest)) {
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

/// Appends the transitions that a segment of the end `x` shows as events.
#[inline]
fn emitter<'a>(
    id: (&'a Key, u64),
    segment: &'a Segment,
    x: usize,
    events: &'a mut Vec<Event>,
) -> impl FnMut(Change) + 'a {
    move |change| events.extend(event(id, segment, x, change))
}

/// The cookie of the end's socket. Unlike a kernel's, it begins at 1: 0 is no cookie.
const fn cookie(serial: u64, end: usize) -> u64 {
    serial * 2 + end as u64 + 1
}

/// The segment of the end `x`, as the one that shows this transition.
fn packet(segment: &Segment, x: usize, change: &Change) -> Packet {
    let (seq, ack) = relative(segment, x, change.bases);
    Packet {
        number: segment.number,
        is_sent: change.end == x,
        flags: segment.flags,
        seq,
        ack,
        len: segment.len,
        is_inferred: change.is_concluded || change.how == How::Unseen,
    }
}

/// A transition as the kernel would have shown it.
///
/// The kernel's socket ends when `TIME_WAIT` begins: its transition is to CLOSE (`tcp_time_wait`), and what stays is no socket.
fn event((key, serial): (&Key, u64), segment: &Segment, x: usize, change: Change) -> Option<Event> {
    let [first, second] = key.sides();
    let (local, remote): (&Side, &Side) = if change.end == 0 {
        (first, second)
    } else {
        (second, first)
    };
    let mut facts = known::COOKIE | known::SOCKET;
    let (fin_sent, fin_received) = change.fins;
    if fin_received {
        facts |= known::DONE | known::RCV_SHUTDOWN;
    }
    if fin_sent {
        facts |= known::SEND_SHUTDOWN;
    }
    let (error, end_facts) = match change.how {
        How::InOrder | How::Unseen => (0, 0),
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
        ts_ns: segment.time_ns,
        cookie: cookie(serial, change.end),
        laddr: local.address,
        raddr: remote.address,
        uid: NO_UID,
        lport: local.port,
        rport: remote.port,
        error,
        oldstate: change.from,
        newstate,
        family,
        flags: facts,
        ..Record::default()
    };
    let mut event = Event::try_from(record).ok()?;
    event.add_end_facts(end_facts);
    event.set_packet(&packet(segment, x, &change));
    Some(event)
}

#[cfg(test)]
mod tests;
