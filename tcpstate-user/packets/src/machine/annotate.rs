//! The packets of each connection with the states of both ends, and what each packet is: sent again, a keep-alive, and so on.
//!
//! States come from the machine. The notes are about the sequence of packets only, and need more memory: they are made only for
//! those who look at packets.

use std::cmp::Ordering;

use tcpstate_common::State;
use tcpstate_core::{
    cause::Cause,
    event::Event,
    packet::{ConnectionPacket, Note, Notes, PacketEnd},
};

use super::{
    Machine, cookie,
    sequence::{behind, is_behind, is_between},
    table::Slot,
};
use crate::segment::{Segment, flags};

/// Numbers that far apart are not of one stream.
const FAR: u32 = 1 << 30;

/// The packets that one end has sent, as far as notes need it.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// The number behind the last one that it sent.
    next: Option<u32>,
    /// The number of its last SYN, and whether that had an acknowledgement.
    syn: Option<(u32, bool)>,
    /// The last hole in what was seen of it: from, to.
    hole: Option<(u32, u32)>,
    ack: Option<u32>,
    window: Option<u16>,
    /// Whether its last packet was a keep-alive.
    is_probing: bool,
}

impl Flow {
    /// Notes about the sequence numbers of a segment, which then count as sent.
    fn sent(&mut self, segment: &Segment, peer: &Self, notes: &mut Notes) {
        let (seq, end) = (segment.seq, segment.end());
        let has = |bits| segment.flags & bits != 0;
        if has(flags::RST) {
            return;
        }
        if has(flags::SYN) {
            let syn = (seq, has(flags::ACK));
            match self.syn {
                // Where SYNs cross, each end sends its own again, with the acknowledgement.
                Some((before, false)) if before == seq && has(flags::ACK) => self.syn = Some(syn),
                Some((before, _)) if before == seq => notes.add(Note::Retransmission),
                Some(_) => {
                    notes.add(Note::OtherSyn);
                    return;
                }
                None => {
                    self.syn = Some(syn);
                    if segment.len > 0 && !has(flags::ACK) {
                        notes.add(Note::DataOnSyn);
                    }
                }
            }
        }
        let is_probing = std::mem::take(&mut self.is_probing);
        let Some(next) = self.next else {
            self.next = Some(end);
            return;
        };
        let ahead = behind(seq, next);
        if ahead.unsigned_abs() >= FAR || has(flags::SYN) {
            return;
        }
        let is_plain = !has(flags::FIN);
        let is_read = peer.ack.is_none_or(|ack| behind(ack, next) >= 0);
        if ahead == -1 && is_plain && (segment.len == 0 || segment.len == 1 && is_read) {
            // Most systems ask for room in the same way.
            if peer.window == Some(0) {
                notes.add(Note::WindowProbe);
                return;
            }
            notes.add(Note::KeepAlive);
            self.is_probing = true;
            return;
        }
        if ahead == 0 && is_plain && segment.len == 1 && peer.window == Some(0) {
            notes.add(Note::WindowProbe);
        }
        if ahead > 0 {
            notes.add(Note::Gap);
            self.hole = Some((next, seq));
        } else if end != seq && (ahead < 0 || !is_behind(end, next)) {
            let fills =
                |(from, to): (u32, u32)| is_between(seq, from, to) && is_between(end, from, to);
            if self.hole.is_some_and(fills) {
                notes.add(Note::OutOfOrder);
            } else {
                notes.add(Note::Retransmission);
            }
        }
        // An answer to a probe does not make the next probe a first packet.
        self.is_probing = is_probing && end == seq;
        if is_behind(end, next) {
            self.next = Some(end);
        }
    }

    /// Notes about the acknowledgement and the window of a segment.
    fn acknowledged(&mut self, segment: &Segment, peer: &mut Self, notes: &mut Notes) {
        let has = |bits| segment.flags & bits != 0;
        if has(flags::RST) || !has(flags::ACK) {
            return;
        }
        let is_probe = notes.has(Note::KeepAlive) || notes.has(Note::WindowProbe);
        let is_pure = segment.end() == segment.seq && !is_probe;
        if let Some(next) = peer.next {
            let beyond = behind(segment.ack, next);
            if beyond > 0 && beyond.unsigned_abs() < FAR {
                notes.add(Note::AcknowledgesUnseen);
                peer.next = Some(segment.ack);
            }
            let is_same = self.ack == Some(segment.ack) && self.window == Some(segment.window);
            if is_pure && peer.is_probing && beyond == 0 {
                notes.add(Note::KeepAliveAnswer);
                peer.is_probing = false;
            } else if is_pure && is_same && beyond < 0 {
                notes.add(Note::DuplicateAck);
            }
        }
        if has(flags::SYN) {
            // Windows count from the end of the handshake on.
        } else if segment.window == 0 {
            notes.add(Note::ZeroWindow);
        } else if self.window == Some(0) {
            notes.add(Note::WindowOpens);
        }
        self.ack = Some(segment.ack);
        self.window = (!has(flags::SYN)).then_some(segment.window);
    }
}

/// The flows of both ends of a connection.
#[derive(Clone, Copy, Debug)]
struct Flows {
    /// The number of the connection that they are of.
    serial: u64,
    of_ends: [Flow; 2],
}

/// Makes the packets of connections.
#[derive(Debug, Default)]
pub struct Annotator {
    /// By the place of the connection in the machine's table, so that it is bounded as that is.
    flows: Vec<Flows>,
}

impl Annotator {
    /// As [`Machine::take`]; and appends the packet, if it is of a connection. Returns whether it is.
    pub fn take(
        &mut self,
        machine: &mut Machine,
        segment: &Segment,
        events: &mut Vec<Event>,
        packets: &mut Vec<ConnectionPacket>,
    ) -> bool {
        let sought = machine.table.seek(segment);
        let x = sought.x;
        let states_of = |slot: &Slot| slot.connection.ends.map(|end| end.states.known());
        let before = machine.table.get(&sought);
        let before = before.map(|(_, slot)| (slot.serial(), states_of(slot)));
        let first_event = events.len();
        machine.take_sought(segment, &sought, events);
        let Some((place, slot)) = machine.table.get(&sought) else {
            return false;
        };
        let serial = slot.serial();
        let states = states_of(slot);
        let before = match before {
            Some((serial_before, states)) if serial_before == serial => states,
            _ => [None; 2],
        };
        let mut notes = self.notes(place as usize, serial, segment, x);
        let shown = events.get(first_event..).unwrap_or_default();
        if shown
            .iter()
            .any(|event| event.packet().is_some_and(|packet| packet.is_inferred))
        {
            notes.add(Note::Inferred);
        }
        let is_ended =
            |state: Option<State>| matches!(state, None | Some(State::CLOSE | State::TIME_WAIT));
        if segment.has(flags::RST)
            && states == before
            && !states.iter().all(|&state| is_ended(state))
        {
            notes.add(Note::ResetIgnored);
        }
        let end = |at: usize| {
            let side = if at == x { segment.from } else { segment.to };
            let cookie = cookie(serial, at);
            let of_end = |event: &&Event| event.cookie() == Some(cookie);
            let (state, was) = if at == 0 {
                (states[0], before[0])
            } else {
                (states[1], before[1])
            };
            PacketEnd {
                address: side.address,
                port: side.port,
                cookie,
                state,
                has_changed: state != was,
                cause: shown.iter().rev().find(of_end).and_then(Cause::of),
            }
        };
        let connection = &slot.connection;
        let client = connection.client();
        let first = client.unwrap_or_else(|| {
            // Whichever end has the higher port or, of the same, the first one.
            match segment.from.port.cmp(&segment.to.port) {
                Ordering::Greater => x,
                Ordering::Equal => 0,
                Ordering::Less => 1 - x,
            }
        });
        let (seq, ack) = connection.relative(segment, x);
        packets.push(ConnectionPacket {
            number: segment.number,
            ts_ns: segment.time_ns,
            connection: serial + 1,
            ends: [end(first), end(1 - first)],
            has_roles: client.is_some(),
            is_of_first: x == first,
            flags: segment.flags,
            seq,
            ack,
            len: segment.len,
            window: segment.window,
            notes,
        });
        true
    }

    fn notes(&mut self, place: usize, serial: u64, segment: &Segment, x: usize) -> Notes {
        let new = Flows {
            serial,
            of_ends: [Flow::default(); 2],
        };
        if self.flows.len() <= place {
            self.flows.resize(place + 1, new);
        }
        let mut notes = Notes::default();
        if let Some(flows) = self.flows.get_mut(place) {
            if flows.serial != serial {
                *flows = new;
            }
            let [first, second] = &mut flows.of_ends;
            let (sender, receiver) = if x == 0 {
                (first, second)
            } else {
                (second, first)
            };
            sender.sent(segment, receiver, &mut notes);
            sender.acknowledged(segment, receiver, &mut notes);
        }
        notes
    }
}

#[cfg(test)]
mod tests;
