//! The form in which a connection is kept: as few bytes as possible, and those that every event needs
//! together.
//!
//! [`Hot`] is one cache line, [`Cold`] has the rest, which is needed at the beginning and the end. Constant
//! assertions keep their sizes.

mod cold;
mod stay;

use tcpstate_common::{State, record};

pub(super) use self::{cold::Cold, stay::PackedStay};
use super::{address::is_set, connection::Dwell, pages::Item};
use crate::{
    event::{Event, SocketId},
    owner::{How, Owner},
    service::Role,
};

/// States before the present one that are kept in place. Only a simultaneous open and lost events
/// make more.
const PAST: usize = 4;

/// States before the present one that are kept at all. Only lost events make more than [`PAST`].
pub(super) const MAX_PAST: usize = 32;

/// The part of a connection that every event touches: one cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Hot {
    /// The cookie, or the address where [`Hot::ADDRESS`] is set.
    key: u64,
    first_ns: u64,
    /// The time of its entry into its state or, with [`Hot::EARLIER`], a time at which it was in it already.
    since_ns: u64,
    past: [PackedStay; PAST],
    pub(super) state: State,
    past_len: u8,
    bits: u16,
    /// Here because it is often the only value that the first event did not have.
    lport: u16,
    /// Number of its service port and role.
    pub(super) service: u16,
}

const _: () = assert!(size_of::<Hot>() == 64);

/// The facts about a connection at its first event.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    /// Its new state.
    pub(super) state: State,
    /// The knowledge of its past.
    pub(super) known: Known,
    pub(super) role: Role,
    pub(super) owner: Owner,
    pub(super) service: u16,
    pub(super) group: u16,
}

/// The knowledge of a connection's past at its first event.
#[derive(Clone, Copy)]
pub(super) enum Known {
    /// The event opened it.
    Opened {
        /// Its final cookie is not known yet.
        embryo: bool,
    },
    /// It was in this state, for a time that is not known.
    Midway { old: State },
    /// It was found in its state, by a census or by a transition of that state into itself.
    InState {
        /// A time at which it was in it already.
        there_ns: u64,
    },
}

impl Item for Hot {
    fn free(next: u16) -> Self {
        Self {
            key: 0,
            first_ns: 0,
            since_ns: 0,
            past: [PackedStay::default(); PAST],
            state: State::CLOSE,
            past_len: 0,
            bits: 0,
            lport: 0,
            service: next,
        }
    }

    fn next(&self) -> u16 {
        self.service
    }
}

impl Hot {
    /// In [`Hot::since_ns`]: it entered its state at an earlier time, which is not known. No event has a time
    /// with this bit: that would be after 292 years.
    const EARLIER: u64 = 1 << 63;
    const LIVE: u16 = 1 << 0;
    /// `key` is an address.
    const ADDRESS: u16 = 1 << 1;
    /// It was touched since the clock hand last passed.
    const TOUCHED: u16 = 1 << 2;
    /// Its first transition was seen.
    const OPENED: u16 = 1 << 3;
    /// Both addresses and the remote port are known.
    const ADDRESSED: u16 = 1 << 4;
    /// Part of its past is elsewhere, in the long past.
    pub(super) const SPILLED: u16 = 1 << 5;
    pub(super) const TRUNCATED: u16 = 1 << 6;
    const UID: u16 = 1 << 7;
    const IPV6: u16 = 1 << 8;
    const PID: u16 = 1 << 9;
    const COMM: u16 = 1 << 10;
    const ROLE_SHIFT: u16 = 11;
    const HOW_SHIFT: u16 = 13;
    /// A listener's child whose final cookie is not known yet.
    pub(super) const EMBRYO: u16 = 1 << 15;

    /// A connection at its first event.
    #[inline]
    pub(super) fn open(event: &Event, opening: &Opening) -> Self {
        let (key, address) = match event.id() {
            SocketId::Cookie(cookie) => (cookie, false),
            SocketId::Address(address) => (address, true),
        };
        let (opened, embryo, past, past_len) = match opening.known {
            Known::Opened { embryo } => (true, embryo, PackedStay::default(), 0),
            Known::Midway { old } => (false, false, PackedStay::new(old, Dwell::Unknown), 1),
            Known::InState { .. } => (false, false, PackedStay::default(), 0),
        };
        let since_ns = match opening.known {
            Known::Opened { .. } | Known::Midway { .. } => event.ts_ns(),
            Known::InState { there_ns } => there_ns | Self::EARLIER,
        };
        let record = event.record();
        let addressed = is_set(&record.laddr) && is_set(&record.raddr) && record.rport != 0;
        let owner = &opening.owner;
        let bit = |bit: u16, on: bool| if on { bit } else { 0 };
        Self {
            key,
            first_ns: event.ts_ns(),
            since_ns,
            past: [
                past,
                PackedStay::default(),
                PackedStay::default(),
                PackedStay::default(),
            ],
            state: opening.state,
            past_len,
            bits: Self::LIVE
                | Self::TOUCHED
                | bit(Self::ADDRESS, address)
                | bit(Self::OPENED, opened)
                | bit(Self::EMBRYO, embryo)
                | bit(Self::ADDRESSED, addressed)
                | bit(Self::UID, event.uid().is_some())
                | bit(Self::IPV6, record.family == record::AF_INET6)
                | bit(Self::PID, owner.pid.is_some())
                | bit(Self::COMM, owner.comm.is_some())
                | (opening.role as u16) << Self::ROLE_SHIFT
                | (owner.how as u16) << Self::HOW_SHIFT,
            lport: record.lport,
            service: opening.service,
        }
    }

    pub(super) fn set(&mut self, bit: u16, on: bool) {
        if on {
            self.bits |= bit;
        } else {
            self.bits &= !bit;
        }
    }

    pub(super) const fn has(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }

    pub(super) fn set_id(&mut self, id: SocketId) {
        let (key, address) = match id {
            SocketId::Cookie(cookie) => (cookie, false),
            SocketId::Address(address) => (address, true),
        };
        self.key = key;
        self.set(Self::ADDRESS, address);
    }

    pub(super) const fn id(&self) -> SocketId {
        if self.has(Self::ADDRESS) {
            SocketId::Address(self.key)
        } else {
            SocketId::Cookie(self.key)
        }
    }

    pub(super) const fn key(&self) -> u64 {
        self.key
    }

    pub(super) const fn is_live(&self) -> bool {
        self.has(Self::LIVE)
    }

    pub(super) const fn is_addressed(&self) -> bool {
        self.has(Self::ADDRESSED)
    }

    pub(super) const fn lport(&self) -> u16 {
        self.lport
    }

    /// Takes the local port, which is chosen after the first event. Until then a socket that has connected
    /// before has its earlier port.
    #[inline]
    pub(super) fn learn_lport(&mut self, lport: u16) {
        if self.lport == 0 || (self.state == State::SYN_SENT && lport != 0) {
            self.lport = lport;
        }
    }

    /// The time of its entry into its state.
    pub(super) const fn since_ns(&self) -> Option<u64> {
        if self.since_ns & Self::EARLIER == 0 {
            Some(self.since_ns)
        } else {
            None
        }
    }

    /// A time at which it was in its state: that of its entry, where it is known.
    pub(super) const fn in_state_ns(&self) -> u64 {
        self.since_ns & !Self::EARLIER
    }

    /// A time at which it was in its state already, where that of its entry is not known.
    const fn there_ns(&self) -> Option<u64> {
        if self.since_ns & Self::EARLIER == 0 {
            None
        } else {
            Some(self.since_ns & !Self::EARLIER)
        }
    }

    /// Sets the time of its entry into its state, unless it has a later one.
    #[inline]
    const fn enter_at(&mut self, ts_ns: u64) {
        if self.since_ns & Self::EARLIER != 0 {
            self.since_ns = self.first_ns;
        }
        if self.since_ns < ts_ns {
            self.since_ns = ts_ns;
        }
    }

    /// Whether its last known change was before `ts_ns`.
    pub(super) fn is_older_than(&self, ts_ns: u64) -> bool {
        self.since_ns().unwrap_or(self.first_ns) < ts_ns
    }

    /// Puts it into a state that it was in at `there_ns`; its way there is unknown.
    pub(super) fn put_into(&mut self, state: State, there_ns: u64) -> Option<PackedStay> {
        let spilled = self.push(self.state, Dwell::Unknown);
        self.state = state;
        self.since_ns = there_ns | Self::EARLIER;
        spilled
    }

    /// The time from the first transition to the last; `None` if the first was not seen.
    pub(super) fn lifetime_ns(&self) -> Option<u64> {
        self.has(Self::OPENED)
            .then(|| self.since_ns.saturating_sub(self.first_ns))
    }

    /// Whether it was touched since the last call.
    pub(super) fn take_touched(&mut self) -> bool {
        let touched = self.has(Self::TOUCHED);
        self.set(Self::TOUCHED, false);
        touched
    }

    pub(super) const fn role(&self) -> Role {
        match self.bits >> Self::ROLE_SHIFT & 3 {
            1 => Role::Client,
            2 => Role::Server,
            _ => Role::Unknown,
        }
    }

    pub(super) fn set_role(&mut self, role: Role) {
        self.bits = self.bits & !(3 << Self::ROLE_SHIFT) | (role as u16) << Self::ROLE_SHIFT;
    }

    const fn how(&self) -> How {
        match self.bits >> Self::HOW_SHIFT & 3 {
            1 => How::Exact,
            2 => How::Listener,
            3 => How::Seeded,
            _ => How::Unknown,
        }
    }

    /// Leaves the present state for `next` at `ts_ns` and returns the dwell, where it is known.
    ///
    /// `unseen`: only the socket goes, the connection stays in its state, so there is no dwell yet.
    ///
    /// Time that runs backwards between two CPUs gives a dwell of 0 and the later of the two times, so
    /// that the dwells still add up to the lifetime.
    #[inline]
    pub(super) fn step(
        &mut self,
        next: State,
        ts_ns: u64,
        unseen: bool,
    ) -> (Option<u64>, Option<PackedStay>) {
        let (dwell_ns, dwell) = match (self.since_ns(), self.there_ns()) {
            _ if unseen => (None, Dwell::Unknown),
            (Some(since_ns), _) => {
                let dwell_ns = ts_ns.saturating_sub(since_ns);
                (Some(dwell_ns), Dwell::Exactly(dwell_ns))
            }
            (None, Some(there_ns)) => (None, Dwell::AtLeast(ts_ns.saturating_sub(there_ns))),
            (None, None) => (None, Dwell::Unknown),
        };
        let spilled = self.push(self.state, dwell);
        self.state = next;
        self.enter_at(ts_ns);
        self.bits |= Self::TOUCHED;
        (dwell_ns, spilled)
    }

    /// Stays in the current state at a transition of that state into itself, and gives the time in it so far,
    /// where it is known.
    #[inline]
    pub(super) fn touch(&mut self, ts_ns: u64) -> Option<u64> {
        self.bits |= Self::TOUCHED;
        self.since_ns()
            .map(|since_ns| ts_ns.saturating_sub(since_ns))
    }

    /// As [`Hot::step`], but events in between are missing: neither the dwell in the state that was
    /// held nor that in `old`, which the kernel says it left, is known. Where `old` is `next` too, it is in that
    /// state for an unknown time.
    pub(super) fn step_over_gap(
        &mut self,
        old: State,
        next: State,
        ts_ns: u64,
    ) -> [Option<PackedStay>; 2] {
        self.bits |= Self::TOUCHED;
        if old == next {
            return [self.put_into(next, ts_ns), None];
        }
        let spilled = [
            self.push(self.state, Dwell::Unknown),
            self.push(old, Dwell::Unknown),
        ];
        self.state = next;
        self.enter_at(ts_ns);
        spilled
    }

    /// Puts a state into the past; returns it where there is no place for it here.
    #[inline]
    fn push(&mut self, state: State, dwell: Dwell) -> Option<PackedStay> {
        let stay = PackedStay::new(state, dwell);
        if let Some(place) = self.past.get_mut(usize::from(self.past_len)) {
            *place = stay;
            self.past_len += 1;
            return None;
        }
        Some(stay)
    }

    pub(super) fn mark_spilled(&mut self, truncated: bool) {
        self.set(Self::SPILLED, true);
        if truncated {
            self.set(Self::TRUNCATED, true);
        }
    }
}
