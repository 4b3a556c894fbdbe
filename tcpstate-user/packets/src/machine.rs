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
    connection::{Change, Connection, How, Stray, Verdict, relative},
    table::{AT_ONCE, Sought, Table},
};
use crate::segment::Segment;

/// No user: a packet does not say whose its socket is.
const NO_UID: u32 = u32::MAX;

/// The machine.
pub struct Machine {
    table: Table,
}

impl Machine {
    /// Room for so many connections. One more, and one of those that had no segment for long is forgotten.
    ///
    /// *Units:* a connection takes less than 80 bytes.
    pub fn new(max_connections: usize) -> Self {
        Self {
            table: Table::new(max_connections),
        }
    }

    /// Takes a segment, and appends the transitions that it shows: those of its sender, then those of its receiver.
    ///
    /// An event has the time of the segment that shows it, but for the SYN of a connection that was not known to begin
    /// one until it was answered.
    pub fn take(&mut self, segment: &Segment, events: &mut Vec<Event>) {
        let sought = self.table.seek(segment);
        self.take_sought(segment, &sought, events);
    }

    /// Takes these segments, one after the other, in less time.
    pub fn take_all(&mut self, segments: &[Segment], events: &mut Vec<Event>) {
        let mut sought = [Sought::NOTHING; AT_ONCE];
        for segments in segments.chunks(AT_ONCE) {
            self.table.look_up(segments, &mut sought);
            for (segment, sought) in segments.iter().zip(&sought) {
                self.take_sought(segment, sought, events);
            }
        }
    }

    #[inline]
    fn take_sought(&mut self, segment: &Segment, sought: &Sought, events: &mut Vec<Event>) {
        let Some((at, slot)) = self.table.get_mut(sought) else {
            self.begin(segment, sought, events);
            return;
        };
        slot.touch(segment.time_ns);
        let (x, serial) = (sought.x, slot.serial());
        let mut emit = emitter(serial, segment, x, events);
        let verdict = slot.connection.take(segment, x, &mut emit);
        drop(emit);
        if verdict != Verdict::Taken {
            self.go_on(segment, x, (verdict, at), events);
        }
    }

    /// Does what the verdict of the connection at this place asks for.
    #[cold]
    fn go_on(
        &mut self,
        segment: &Segment,
        x: usize,
        (verdict, at): (Verdict, u32),
        events: &mut Vec<Event>,
    ) {
        match verdict {
            Verdict::Taken => {}
            Verdict::Another => self.replace(segment, x, (at, None), events),
            Verdict::Stray => self.table.keep_stray(at, Stray::of(segment, x)),
            Verdict::Answer => {
                let stray = self.table.stray(at);
                if let Some(syn) = stray.and_then(|stray| stray.answered_by(segment, x)) {
                    self.replace(segment, x, (at, Some(&syn)), events);
                }
            }
        }
    }

    #[cold]
    fn begin(&mut self, segment: &Segment, sought: &Sought, events: &mut Vec<Event>) {
        let mut emit = emitter(self.table.begun(), segment, sought.x, events);
        if let Some(connection) = Connection::begin(segment, sought.x, &mut emit) {
            self.table.insert(sought, connection, segment.time_ns);
        }
    }

    /// Begins another connection between the same sides, at this place: with this segment, or with the SYN that it answers.
    fn replace(
        &mut self,
        segment: &Segment,
        x: usize,
        (at, answers): (u32, Option<&Segment>),
        events: &mut Vec<Event>,
    ) {
        let serial = self.table.renew();
        let new = match answers {
            None => Connection::begin(segment, x, &mut emitter(serial, segment, x, events)),
            Some(syn) => {
                let y = 1 - x;
                let mut new = Connection::begin(syn, y, &mut emitter(serial, syn, y, events));
                if let Some(new) = &mut new {
                    new.take(segment, x, &mut emitter(serial, segment, x, events));
                }
                new
            }
        };
        if let Some(new) = new {
            self.table.replace(at, new, serial);
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
    serial: u64,
    segment: &'a Segment,
    x: usize,
    events: &'a mut Vec<Event>,
) -> impl FnMut(Change) + 'a {
    move |change| events.extend(event(serial, segment, x, change))
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
fn event(serial: u64, segment: &Segment, x: usize, change: Change) -> Option<Event> {
    let (local, remote) = if change.end == x {
        (&segment.from, &segment.to)
    } else {
        (&segment.to, &segment.from)
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
