//! A connection: the states of its two ends, by what each must have sent and received.
//!
//! An end is in a set of possible states. A packet says something that is true of its sender and perhaps of its
//! receiver; each possible state then goes on to the next, or is ruled out. So a connection that was there before
//! the capture becomes known as soon as the packets leave only one possibility, and is unknown until then.
//!
//! When has an end received what was seen? A SYN, data or a FIN: when it acknowledges it. An acknowledgement:
//! when it is seen, since nothing acknowledges those.
//!
//! *Source:* RFC 9293, sections 3.3.2 and 3.10; RFC 5961 (RST, challenge ACKs); RFC 7413 (TFO).

mod plain;

use tcpstate_common::State;

use super::{
    sequence::{behind, is_behind, is_between},
    states::States,
};
use crate::segment::{Segment, flags};

/// Numbers that far from what was expected are of another connection, or wrong.
const FAR: u32 = 1 << 30;

/// `ECONNRESET`, `EPIPE`, `ECONNREFUSED`.
const ECONNRESET: u16 = 104;
const EPIPE: u16 = 32;
const ECONNREFUSED: u16 = 111;

/// An end that a packet shows in the middle of its connection, before anything else is known.
const MIDDLE: States = States::of(&[
    State::ESTABLISHED,
    State::FIN_WAIT1,
    State::FIN_WAIT2,
    State::CLOSE_WAIT,
    State::CLOSING,
    State::LAST_ACK,
    State::TIME_WAIT,
]);
/// The states of an end that has not sent its FIN.
const FIN_NOT_SENT: States = States::of(&[
    State::SYN_SENT,
    State::SYN_RECV,
    State::ESTABLISHED,
    State::CLOSE_WAIT,
]);
/// The states of an end that has not received the peer's FIN.
const FIN_NOT_RECEIVED: States = States::of(&[
    State::SYN_SENT,
    State::SYN_RECV,
    State::ESTABLISHED,
    State::FIN_WAIT1,
    State::FIN_WAIT2,
]);
/// The states of an end whose socket may be replaced.
const OVER: States = States::of(&[State::CLOSE, State::TIME_WAIT]);
const ESTABLISHED: States = States::only(State::ESTABLISHED);
const FIN_WAIT1: States = States::only(State::FIN_WAIT1);
const SYN_SENT: States = States::only(State::SYN_SENT);
const SYN_RECV: States = States::only(State::SYN_RECV);

/// How a transition came about, beyond its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    InOrder,
    /// In order, by a packet that was not seen, or that nothing acknowledged.
    Unseen,
    /// The end sent a RST.
    ResetSent,
    /// It received one; with the error that the kernel gives the socket.
    ResetReceived(u16),
}

/// A transition of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// 0 or 1, as in [`Connection::ends`].
    pub(crate) end: usize,
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) how: How,
    /// Whether the end has sent and received a FIN.
    pub(crate) fins: (bool, bool),
    /// Whether the state before was concluded: no packet showed its beginning.
    pub(crate) is_concluded: bool,
    /// The numbers from which those of both ends count, as far as they are known.
    pub(crate) bases: [Option<u32>; 2],
}

/// The facts that are known of an [`End`].
mod known {
    pub(super) const NEXT: u16 = 1 << 0;
    pub(super) const ACKED: u16 = 1 << 1;
    pub(super) const FIRST: u16 = 1 << 2;
    pub(super) const FIN_SENT: u16 = 1 << 3;
    pub(super) const FIN_RECEIVED: u16 = 1 << 4;
    pub(super) const FIN_ACKED: u16 = 1 << 5;
    /// `next` is what the peer acknowledged; not all up to there was seen.
    pub(super) const UNSEEN: u16 = 1 << 6;
    /// `first` is only the number before the first one that was seen: for people, who count from there.
    pub(super) const BASE: u16 = 1 << 7;
    /// The beginning of its state was not seen.
    pub(super) const CONCLUDED: u16 = 1 << 8;
    /// It connected, and no other end before it.
    pub(super) const CLIENT: u16 = 1 << 9;
}

/// One end. The numbers are valid only with their bit in `known`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The number behind the last one that it sent.
    next: u32,
    /// The highest acknowledgement that it sent.
    acked: u32,
    /// The number of its SYN; or, with `BASE`, no more than the one from which to count.
    first: u32,
    /// The number behind its FIN.
    fin: u32,
    pub(crate) states: States,
    known: u16,
}

impl End {
    const fn new(states: States) -> Self {
        Self {
            next: 0,
            acked: 0,
            first: 0,
            fin: 0,
            states,
            known: 0,
        }
    }

    /// In the middle of its connection. The first of its numbers that was seen is this one.
    const fn middle(seen: u32) -> Self {
        Self {
            first: seen.wrapping_sub(1),
            known: known::BASE | known::CONCLUDED,
            ..Self::new(MIDDLE)
        }
    }

    /// The number from which its numbers count.
    const fn base(&self) -> Option<u32> {
        if self.known & (known::FIRST | known::BASE) != 0 {
            Some(self.first)
        } else {
            None
        }
    }

    #[inline]
    const fn knows(&self, bits: u16) -> bool {
        self.known & bits == bits
    }

    /// Whether `number` acknowledges its SYN and nothing that it has not sent.
    const fn is_answered_by(&self, number: u32) -> bool {
        self.knows(known::FIRST) && is_between(number, self.first.wrapping_add(1), self.next)
    }

    fn begin(&mut self, seq: u32, end: u32) {
        self.first = seq;
        self.next = end;
        self.known |= known::FIRST | known::NEXT;
    }

    /// Connects: its SYN has this number.
    fn connect(&mut self, seq: u32, end: u32) {
        *self = Self::new(SYN_SENT);
        self.begin(seq, end);
    }

    #[inline]
    fn sent(&mut self, end: u32) {
        if !self.knows(known::NEXT) || is_behind(end, self.next) {
            self.next = end;
            self.known = self.known & !known::UNSEEN | known::NEXT;
        }
    }

    #[inline]
    fn acknowledged(&mut self, ack: u32) {
        if !self.knows(known::ACKED) || is_behind(ack, self.acked) {
            self.acked = ack;
            self.known |= known::ACKED;
        }
    }
}

/// The effect of a segment on the connection that has its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It belongs to it, or to none.
    Taken,
    /// It begins another connection.
    Another,
    /// It is a [`Stray`], to be kept.
    Stray,
    /// It answers no SYN of this connection, but perhaps a [`Stray`].
    Answer,
}

/// A SYN that does not fit its connection: an old duplicate or, once it is answered, the beginning of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stray {
    number: u64,
    time_ns: u64,
    seq: u32,
    len: u32,
    flags: u8,
    is_second: bool,
}

impl Stray {
    /// This SYN of the end `x`.
    pub(crate) const fn of(segment: &Segment, x: usize) -> Self {
        Self {
            number: segment.number,
            time_ns: segment.time_ns,
            seq: segment.seq,
            len: segment.len,
            flags: segment.flags,
            is_second: x == 1,
        }
    }

    /// The SYN itself, if this segment of the end `x` answers it.
    pub(crate) fn answered_by(&self, answer: &Segment, x: usize) -> Option<Segment> {
        let is_answered =
            usize::from(self.is_second) != x && answer.ack == self.seq.wrapping_add(1);
        is_answered.then_some(Segment {
            number: self.number,
            time_ns: self.time_ns,
            from: answer.to,
            to: answer.from,
            seq: self.seq,
            ack: 0,
            len: self.len,
            flags: self.flags,
            ..*answer
        })
    }
}

/// The sequence number of a segment of the end `x`, and the one that it acknowledges, relative to the bases of both ends.
pub(crate) fn relative(segment: &Segment, x: usize, bases: [Option<u32>; 2]) -> (u32, Option<u32>) {
    let [first, second] = bases;
    let (from, to) = if x == 0 {
        (first, second)
    } else {
        (second, first)
    };
    let count = |number: u32, base: Option<u32>| number.wrapping_sub(base.unwrap_or(number));
    let ack = segment.has(flags::ACK).then(|| count(segment.ack, to));
    (count(segment.seq, from), ack)
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) ends: [End; 2],
}

/// The end and its peer.
#[expect(clippy::inline_always, reason = "it only swaps two references")]
#[inline(always)]
const fn pair(ends: &mut [End; 2], x: usize) -> (&mut End, &mut End) {
    let [a, b] = ends;
    if x == 0 { (a, b) } else { (b, a) }
}

impl Connection {
    /// The connection that this segment of the end `x` begins or belongs to; `None`: it tells of none.
    pub(crate) fn begin(
        segment: &Segment,
        x: usize,
        emit: &mut impl FnMut(Change),
    ) -> Option<Self> {
        let has = |bits| segment.flags & bits != 0;
        if has(flags::RST) || has(flags::SYN) && has(flags::FIN) {
            return None;
        }
        if has(flags::SYN) && !has(flags::ACK) {
            let mut new = Self {
                ends: [End::new(States::NONE); 2],
            };
            new.connect(segment, x, emit);
            return Some(new);
        }
        let mut new = Self {
            ends: [End::new(States::NONE); 2],
        };
        let (sender, receiver) = pair(&mut new.ends, x);
        match (has(flags::SYN), has(flags::ACK)) {
            (true, true) => {
                *sender = End::new(SYN_RECV);
                sender.begin(segment.seq, segment.end());
                sender.acknowledged(segment.ack);
                *receiver = End::new(SYN_SENT);
                receiver.first = segment.ack.wrapping_sub(1);
                receiver.next = segment.ack;
                receiver.known = known::FIRST | known::NEXT | known::CONCLUDED | known::CLIENT;
                sender.known |= known::CONCLUDED;
            }
            (false, true) => {
                *sender = End::middle(segment.seq);
                *receiver = End::middle(segment.ack);
                receiver.sent(segment.ack);
                new.plain(segment, x, emit);
            }
            (_, false) => return None,
        }
        Some(new)
    }

    /// The end `x` connects, with this SYN.
    fn connect(&mut self, syn: &Segment, x: usize, emit: &mut impl FnMut(Change)) {
        let (sender, receiver) = pair(&mut self.ends, x);
        sender.connect(syn.seq, syn.end());
        if !receiver.knows(known::CLIENT) {
            sender.known |= known::CLIENT;
        }
        emit(self.change(x, State::CLOSE, State::SYN_SENT, How::InOrder));
    }

    /// The end that has connected first, if that is known: the client.
    pub(crate) fn client(&self) -> Option<usize> {
        self.ends.iter().position(|end| end.knows(known::CLIENT))
    }

    fn bases(&self) -> [Option<u32>; 2] {
        let [first, second] = &self.ends;
        [first.base(), second.base()]
    }

    /// The numbers of a segment of the end `x`, relative to those from which people count.
    pub(crate) fn relative(&self, segment: &Segment, x: usize) -> (u32, Option<u32>) {
        relative(segment, x, self.bases())
    }

    /// This transition of the end `x`.
    fn change(&self, x: usize, from: State, to: State, how: How) -> Change {
        let [first, second] = &self.ends;
        let end = if x == 0 { first } else { second };
        Change {
            end: x,
            from,
            to,
            how,
            fins: (end.knows(known::FIN_SENT), end.knows(known::FIN_RECEIVED)),
            is_concluded: end.knows(known::CONCLUDED),
            bases: self.bases(),
        }
    }

    /// Whether both ends have ended, as far as they are known to have begun.
    pub(crate) fn is_over(&self) -> bool {
        let is_over = |end: &End| end.states.is_none() || end.states.are_among(OVER);
        self.ends.iter().all(is_over)
    }

    /// Takes a segment of the end `x`.
    #[inline]
    pub(crate) fn take(
        &mut self,
        segment: &Segment,
        x: usize,
        emit: &mut impl FnMut(Change),
    ) -> Verdict {
        const SPECIAL: u8 = flags::SYN | flags::FIN | flags::RST;
        if segment.flags & SPECIAL == 0 && segment.has(flags::ACK) {
            let (sender, receiver) = pair(&mut self.ends, x);
            // Nearly all segments.
            if sender.states == ESTABLISHED
                && receiver.states == ESTABLISHED
                && sender.knows(known::NEXT | known::ACKED)
                && receiver.knows(known::NEXT)
                && behind(segment.end(), sender.next).unsigned_abs() < FAR
                && behind(segment.ack, receiver.next) <= 0
            {
                sender.sent(segment.end());
                sender.acknowledged(segment.ack);
                return Verdict::Taken;
            }
            self.plain(segment, x, emit);
            return Verdict::Taken;
        }
        if segment.has(flags::RST) {
            self.reset(segment, x, emit);
        } else if segment.has(flags::SYN) {
            return self.syn(segment, x, emit);
        } else if segment.has(flags::ACK) {
            self.plain(segment, x, emit);
        }
        Verdict::Taken
    }

    /// Takes the end `x` from each state that it may be in to the next one.
    fn step(
        &mut self,
        x: usize,
        how: How,
        emit: &mut impl FnMut(Change),
        step: impl Fn(State) -> Option<State>,
    ) {
        let (end, _) = pair(&mut self.ends, x);
        let before = end.states;
        let after = before.map(step);
        // A packet that contradicts all that was seen is not believed.
        if after.is_none() {
            return;
        }
        end.states = after;
        match (before.known(), after.known()) {
            (Some(from), Some(to)) if from != to => {
                let change = self.change(x, from, to, how);
                pair(&mut self.ends, x).0.known &= !known::CONCLUDED;
                emit(change);
            }
            (None, Some(_)) => end.known |= known::CONCLUDED,
            _ => {}
        }
    }

    /// Takes a SYN, with or without an acknowledgement.
    #[cold]
    fn syn(&mut self, segment: &Segment, x: usize, emit: &mut impl FnMut(Change)) -> Verdict {
        let y = 1 - x;
        if segment.has(flags::FIN) {
            return Verdict::Taken;
        }
        let (sender, receiver) = pair(&mut self.ends, x);
        if !segment.has(flags::ACK) {
            if sender.knows(known::FIRST) && sender.first == segment.seq {
                return Verdict::Taken;
            }
            if sender.states.is_none() && receiver.states == SYN_SENT {
                // Both connect at once, or a peer that answers like that.
                self.connect(segment, x, emit);
                return Verdict::Taken;
            }
            let gave_up = sender.states == SYN_SENT
                && receiver.states.is_none()
                && is_behind(segment.seq, sender.first);
            if gave_up || sender.states.are_among(OVER) || sender.states.is_none() {
                return Verdict::Another;
            }
            return Verdict::Stray;
        }
        if !receiver.is_answered_by(segment.ack) {
            return if receiver.states == SYN_SENT {
                Verdict::Taken
            } else {
                Verdict::Answer
            };
        }
        let began = if sender.states.is_none() {
            *sender = End::new(SYN_RECV);
            sender.begin(segment.seq, segment.end());
            Some(State::LISTEN)
        } else if sender.states == SYN_SENT && sender.first == segment.seq {
            sender.states = SYN_RECV;
            sender.sent(segment.end());
            Some(State::SYN_SENT)
        } else {
            None
        };
        if sender.first == segment.seq {
            sender.acknowledged(segment.ack);
        }
        if let Some(from) = began {
            emit(self.change(x, from, State::SYN_RECV, How::InOrder));
        }
        if pair(&mut self.ends, x).1.states == SYN_RECV {
            self.step(y, How::InOrder, emit, |_| Some(State::ESTABLISHED));
        }
        Verdict::Taken
    }

    /// Whether the receiver of a RST from the end `x` takes it. It takes the one that has the number that it expects,
    /// which is from what it has acknowledged to what was sent.
    fn is_taken(&self, segment: &Segment, x: usize) -> bool {
        let mut ends = self.ends;
        let (sender, receiver) = pair(&mut ends, x);
        if receiver.states == SYN_SENT {
            let answers = segment.has(flags::ACK) && receiver.is_answered_by(segment.ack);
            return answers || sender.knows(known::NEXT) && segment.seq == sender.next;
        }
        let (next, acked) = (sender.knows(known::NEXT), receiver.knows(known::ACKED));
        // Some systems count as if their FIN were not (`tcp_reset_check` in Linux).
        if receiver.knows(known::FIN_RECEIVED | known::ACKED)
            && segment.seq == receiver.acked.wrapping_sub(1)
        {
            return true;
        }
        match (acked, next) {
            (true, true) if behind(sender.next, receiver.acked) >= 0 => {
                is_between(segment.seq, receiver.acked, sender.next)
            }
            (true, _) => segment.seq == receiver.acked,
            (false, true) => {
                let sent = behind(sender.next, segment.seq);
                (0..0x1_0000).contains(&sent)
            }
            (false, false) => true,
        }
    }

    /// Takes a RST.
    #[cold]
    fn reset(&mut self, segment: &Segment, x: usize, emit: &mut impl FnMut(Change)) {
        let y = 1 - x;
        if !self.is_taken(segment, x) {
            return;
        }
        let was_answered = !pair(&mut self.ends, x).0.states.is_none();
        // A socket that has ended does not end again, and neither does one that never was.
        self.step(x, How::ResetSent, emit, |state| {
            Some(match state {
                State::TIME_WAIT => state,
                _ => State::CLOSE,
            })
        });
        let (_, receiver) = pair(&mut self.ends, x);
        let error = match receiver.states.known() {
            Some(State::SYN_SENT) => ECONNREFUSED,
            Some(State::CLOSE_WAIT) => EPIPE,
            _ => ECONNRESET,
        };
        // Answered, it is no longer in SYN_SENT: whether the answer came before the RST, no packet says.
        let is_unclear = receiver.states == SYN_SENT && was_answered;
        if is_unclear || receiver.states.known() == Some(State::TIME_WAIT) {
            receiver.states = States::only(State::CLOSE);
            return;
        }
        let how = How::ResetReceived(error);
        self.step(y, how, emit, |_| Some(State::CLOSE));
    }
}
