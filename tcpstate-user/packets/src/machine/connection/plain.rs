//! Segments with an acknowledgement and without SYN and RST: data, FINs, and what they acknowledge.

use tcpstate_common::State;

use super::{
    Change, Connection, End, FAR, FIN_NOT_RECEIVED, FIN_NOT_SENT, FIN_WAIT1, How, MIDDLE, SYN_RECV,
    SYN_SENT, known, pair,
};
use crate::{
    machine::{
        sequence::{behind, is_behind},
        states::States,
    },
    segment::{Segment, flags},
};

/// The next state of an end that receives a FIN.
const fn received(state: State) -> Option<State> {
    match state {
        State::ESTABLISHED => Some(State::CLOSE_WAIT),
        State::FIN_WAIT1 => Some(State::CLOSING),
        State::FIN_WAIT2 => Some(State::TIME_WAIT),
        _ => None,
    }
}

/// The next state of an end that sends a FIN.
const fn sent(state: State) -> Option<State> {
    match state {
        State::SYN_RECV | State::ESTABLISHED => Some(State::FIN_WAIT1),
        State::CLOSE_WAIT => Some(State::LAST_ACK),
        _ => None,
    }
}

impl Connection {
    /// Takes such a segment.
    pub(super) fn plain(&mut self, segment: &Segment, x: usize, emit: &mut impl FnMut(Change)) {
        let y = 1 - x;
        let (sender, receiver) = pair(&mut self.ends, x);
        if sender.states.is_none() {
            // Its SYN was not seen, or it answers something older.
            if !receiver.is_answered_by(segment.ack) {
                return;
            }
            *sender = End::middle(segment.seq);
        } else if receiver.states.is_none() {
            *receiver = End::middle(segment.ack);
        }
        if sender.knows(known::NEXT) && behind(segment.end(), sender.next).unsigned_abs() >= FAR {
            return;
        }
        let fin_before = sender.knows(known::FIN_SENT).then_some(sender.fin);
        self.leave_syn_recv(segment, x, emit);
        let acknowledges = self.is_acknowledgement(segment, x);
        let (sender, receiver) = pair(&mut self.ends, x);
        if acknowledges && sender.states == SYN_SENT && is_behind(segment.seq, sender.first) {
            let how = if receiver.knows(known::FIRST) {
                How::InOrder
            } else {
                How::Unseen
            };
            self.step(x, how, emit, |_| Some(State::ESTABLISHED));
        }
        self.data(segment, x, emit);
        if acknowledges {
            self.receive_fin(segment.ack, x, How::InOrder, emit);
        }
        if segment.has(flags::FIN) {
            self.send_fin(segment, x, emit);
        }
        if !acknowledges {
            return;
        }
        let (sender, receiver) = pair(&mut self.ends, x);
        sender.acknowledged(segment.ack);
        if receiver.states.may_be(SYN_RECV) {
            self.step(y, How::InOrder, emit, |state| match state {
                State::SYN_RECV => Some(State::ESTABLISHED),
                _ => Some(state),
            });
        }
        let (_, receiver) = pair(&mut self.ends, x);
        if let Some(fin) = fin_before
            && receiver.knows(known::FIN_SENT)
            && behind(segment.ack, receiver.fin) >= 0
            && receiver.states.may_be(FIN_WAIT1)
        {
            // The FIN came before this, and did not acknowledge as much.
            self.receive_fin(fin, y, How::Unseen, emit);
        }
        self.acknowledge_fin(segment.ack, y, emit);
    }

    /// The end `x` sends a segment: it is no longer in `SYN_RECV` if its SYN has been acknowledged. It has been, seen or not, if
    /// the end sends or acknowledges data, unless the data was on the SYN (TFO).
    fn leave_syn_recv(&mut self, segment: &Segment, x: usize, emit: &mut impl FnMut(Change)) {
        let (sender, receiver) = pair(&mut self.ends, x);
        if sender.states != SYN_RECV {
            return;
        }
        let is_acked = receiver.knows(known::ACKED) && is_behind(receiver.acked, sender.first);
        let syn_end = receiver.first.wrapping_add(1);
        let had_only_syn =
            receiver.knows(known::FIRST) && sender.knows(known::ACKED) && sender.acked == syn_end;
        let has_more = segment.end() != segment.seq || is_behind(segment.ack, syn_end);
        if is_acked || had_only_syn && has_more && segment.seq != sender.first {
            let how = if is_acked { How::InOrder } else { How::Unseen };
            self.step(x, how, emit, |_| Some(State::ESTABLISHED));
        }
    }

    /// Whether what a segment acknowledges can have been sent. What was sent and not seen counts as sent; it may have been a
    /// FIN, until something new shows that it was none.
    fn is_acknowledgement(&mut self, segment: &Segment, x: usize) -> bool {
        let (end, peer) = pair(&mut self.ends, x);
        if peer.knows(known::FIRST) && behind(segment.ack, peer.first) <= 0 {
            return false;
        }
        if !peer.knows(known::NEXT) {
            peer.sent(segment.ack);
            return true;
        }
        let unseen = behind(segment.ack, peer.next);
        if unseen <= 0 {
            return unseen.unsigned_abs() < FAR;
        }
        if peer.states.may_be(SYN_RECV) || unseen.unsigned_abs() >= FAR {
            return false;
        }
        if peer.states == SYN_SENT {
            if end.states == SYN_SENT {
                return false;
            }
            // Its direction is not captured.
            peer.states = MIDDLE;
        }
        peer.sent(segment.ack);
        peer.known |= known::UNSEEN;
        if !peer.knows(known::FIN_SENT) {
            peer.states = peer.states.with_each(sent);
            end.states = end.states.with_each(received);
        }
        true
    }

    /// New data or a new FIN of the end `x`: it had sent no FIN before, and its peer has received none.
    fn data(&mut self, segment: &Segment, x: usize, emit: &mut impl FnMut(Change)) {
        let end = segment.end();
        let (sender, _) = pair(&mut self.ends, x);
        let is_unseen_fin =
            segment.has(flags::FIN) && sender.knows(known::UNSEEN) && end == sender.next;
        let is_new = end != segment.seq
            && sender.knows(known::NEXT)
            && (is_behind(end, sender.next) || is_unseen_fin)
            && !sender.knows(known::FIN_SENT);
        sender.sent(end);
        if is_new {
            let keep =
                |states: States| move |state| states.may_be(States::only(state)).then_some(state);
            self.step(x, How::InOrder, emit, keep(FIN_NOT_SENT));
            self.step(1 - x, How::InOrder, emit, keep(FIN_NOT_RECEIVED));
        }
    }

    /// The end `x` has received all up to `ack`, perhaps the peer's FIN.
    fn receive_fin(&mut self, ack: u32, x: usize, how: How, emit: &mut impl FnMut(Change)) {
        let (end, peer) = pair(&mut self.ends, x);
        if !peer.knows(known::FIN_SENT)
            || end.knows(known::FIN_RECEIVED)
            || behind(ack, peer.fin) < 0
        {
            return;
        }
        end.known |= known::FIN_RECEIVED;
        self.step(x, how, emit, |state| Some(received(state).unwrap_or(state)));
    }

    /// The end `x` sends a FIN, perhaps again.
    fn send_fin(&mut self, segment: &Segment, x: usize, emit: &mut impl FnMut(Change)) {
        let (end, peer) = pair(&mut self.ends, x);
        // Behind a FIN there is nothing.
        if end.knows(known::FIN_SENT)
            || end.states == SYN_SENT
            || is_behind(end.next, segment.end())
        {
            return;
        }
        end.fin = segment.end();
        end.known |= known::FIN_SENT;
        // It may have been captured behind its acknowledgement.
        let acked = peer.knows(known::ACKED).then_some(peer.acked);
        self.step(x, How::InOrder, emit, |state| {
            Some(sent(state).unwrap_or(state))
        });
        if let Some(ack) = acked {
            self.receive_fin(ack, 1 - x, How::InOrder, emit);
            self.acknowledge_fin(ack, x, emit);
        }
    }

    /// The end `x` gets an acknowledgement, perhaps of its FIN.
    fn acknowledge_fin(&mut self, ack: u32, x: usize, emit: &mut impl FnMut(Change)) {
        let (end, _) = pair(&mut self.ends, x);
        if !end.knows(known::FIN_SENT) || end.knows(known::FIN_ACKED) || behind(ack, end.fin) < 0 {
            return;
        }
        end.known |= known::FIN_ACKED;
        self.step(x, How::InOrder, emit, |state| match state {
            State::FIN_WAIT1 => Some(State::FIN_WAIT2),
            State::CLOSING => Some(State::TIME_WAIT),
            State::LAST_ACK => Some(State::CLOSE),
            State::ESTABLISHED | State::CLOSE_WAIT => None,
            _ => Some(state),
        });
    }
}
