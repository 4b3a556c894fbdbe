//! The part of a connection that is needed when it opens and when it is shown.

use tcpstate_common::{State, record};

use super::{Hot, Opening, PackedStay};
use crate::{
    cause::{Cause, ResetReason, goes_on},
    event::Event,
    inventory::TICK_NS,
    model::{
        address::{from_wire, is_set},
        connection::{Connection, Dwell, Ended, Stay, Traffic},
        minisockets::Embryonic,
    },
    owner::{Comm, Owner},
    service::Role,
};

/// The identity and owner of a connection: needed when it opens and when it is shown.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Cold {
    cgroup: u64,
    laddr: [u8; 16],
    raddr: [u8; 16],
    comm: Comm,
    netns: u32,
    uid: u32,
    pid: u32,
    /// A server's handshake, microseconds; 0 is not known.
    handshake_us: u32,
    /// The process that closed it; 0 is not known.
    closer: u32,
    /// The uncertainty of its time in `SYN_RECV`, microseconds, where that was sampled; 0: it was not.
    half_open_us: u32,
    rport: u16,
    /// Number of the group of its rates.
    pub(in super::super) group: u16,
}

const _: () = assert!(size_of::<Cold>() == 88);

impl Cold {
    /// The identity and owner at the first event.
    #[inline]
    pub(in super::super) fn open(event: &Event, opening: &Opening) -> Self {
        let record = event.record();
        Self {
            cgroup: record.cgroup,
            laddr: record.laddr,
            raddr: record.raddr,
            comm: opening.owner.comm.unwrap_or_default(),
            netns: record.netns,
            uid: record.uid,
            pid: opening.owner.pid.unwrap_or_default(),
            handshake_us: 0,
            closer: 0,
            half_open_us: 0,
            rport: record.rport,
            group: opening.group,
        }
    }

    /// Takes the facts about the socket that the event has.
    pub(in super::super) fn learn(&mut self, event: &Event, hot: &mut Hot) {
        let record = event.record();
        if is_set(&record.laddr) {
            self.laddr = record.laddr;
        }
        if is_set(&record.raddr) {
            self.raddr = record.raddr;
        }
        if record.lport != 0 {
            hot.lport = record.lport;
        }
        if record.rport != 0 {
            self.rport = record.rport;
        }
        if record.netns != 0 {
            self.netns = record.netns;
        }
        if record.cgroup != 0 {
            self.cgroup = record.cgroup;
        }
        if let Some(uid) = event.uid() {
            self.uid = uid;
            hot.set(Hot::UID, true);
        }
        let addressed = is_set(&self.laddr) && is_set(&self.raddr) && self.rport != 0;
        hot.set(Hot::ADDRESSED, addressed);
    }

    /// Takes the kernel's measurement of a server's handshake.
    pub(in super::super) fn learn_handshake(&mut self, event: &Event) {
        self.handshake_us = Traffic::of(event)
            .and_then(|traffic| traffic.srtt_us)
            .unwrap_or(0);
    }

    /// Takes the process that made this transition, if one did: such a one closes the connection.
    pub(in super::super) fn learn_closer(&mut self, event: &Event) {
        if let Some(process) = event.process() {
            self.closer = process.pid;
        }
    }

    /// The process that closed it.
    pub(in super::super) fn closer(&self) -> Option<u32> {
        (self.closer != 0).then_some(self.closer)
    }

    /// Takes another owner: its listener was handed over.
    pub(in super::super) fn hand_over(&mut self, owner: &Owner, hot: &mut Hot) {
        self.pid = owner.pid.unwrap_or_default();
        self.comm = owner.comm.unwrap_or_default();
        hot.set(Hot::PID, owner.pid.is_some());
        hot.set(Hot::COMM, owner.comm.is_some());
    }

    pub(in super::super) const fn laddr(&self) -> [u8; 16] {
        self.laddr
    }

    pub(in super::super) const fn raddr(&self) -> [u8; 16] {
        self.raddr
    }

    /// It was half-open before it had a socket: the time in `SYN_RECV`, its first state, began with its SYN.
    pub(in super::super) fn begin_half_open(&mut self, hot: &mut Hot, request: &Embryonic) {
        // A tick of the kernel proves nothing: with TCP Fast Open the socket is there from the SYN on.
        let is_earlier = request.since_ns.saturating_add(TICK_NS) < hot.first_ns;
        let is_first = hot.state == State::SYN_RECV && hot.since_ns == hot.first_ns;
        if !is_earlier || !is_first || hot.role() != Role::Server || !hot.has(Hot::OPENED) {
            return;
        }
        match request.interval_ns {
            Some(interval_ns) => {
                let us = interval_ns.div_ceil(1_000).clamp(1, u32::MAX.into());
                self.half_open_us = u32::try_from(us).unwrap_or(u32::MAX);
                (hot.first_ns, hot.since_ns) = (request.since_ns, request.since_ns);
            }
            None => hot.since_ns = request.since_ns | Hot::EARLIER,
        }
    }

    /// The uncertainty of its time in `SYN_RECV`, where that was sampled.
    pub(in super::super) fn half_open_interval_ns(&self) -> Option<u64> {
        (self.half_open_us != 0).then_some(u64::from(self.half_open_us) * 1_000)
    }

    pub(in super::super) const fn rport(&self) -> u16 {
        self.rport
    }

    pub(in super::super) const fn netns(&self) -> u32 {
        self.netns
    }

    pub(in super::super) fn owner(&self, hot: &Hot) -> Owner {
        Owner {
            pid: hot.has(Hot::PID).then_some(self.pid),
            comm: hot.has(Hot::COMM).then_some(self.comm),
            how: hot.how(),
        }
    }

    pub(in super::super) fn uid(&self, hot: &Hot) -> Option<u32> {
        hot.has(Hot::UID).then_some(self.uid)
    }

    pub(in super::super) fn cgroup(&self) -> Option<u64> {
        (self.cgroup != 0).then_some(self.cgroup)
    }

    /// The whole connection. `long` is the part of its past that is kept elsewhere.
    #[expect(
        clippy::indexing_slicing,
        reason = "past_len is never more than there is room for"
    )]
    pub(in super::super) fn show(&self, hot: &Hot, long: &[PackedStay]) -> Connection {
        let past = &hot.past[..usize::from(hot.past_len)];
        let mut states: Vec<Stay> = past.iter().chain(long).map(|stay| stay.unpack()).collect();
        // An ended connection is in CLOSE, which is not part of its life.
        if hot.state != State::CLOSE {
            states.push(Stay::seen(hot.state, Dwell::Unknown));
        }
        if let (Some(interval_ns), Some(first)) = (self.half_open_interval_ns(), states.first_mut())
        {
            first.sampled = true;
            first.interval_ns = Some(interval_ns);
        }
        Connection {
            id: hot.id(),
            netns: (self.netns != 0).then_some(self.netns),
            family: if hot.has(Hot::IPV6) {
                record::AF_INET6
            } else {
                record::AF_INET
            },
            laddr: from_wire(self.laddr),
            lport: (hot.lport != 0).then_some(hot.lport),
            raddr: from_wire(self.raddr),
            rport: (self.rport != 0).then_some(self.rport),
            role: hot.role(),
            service_port: hot.role().service_port(hot.lport, self.rport),
            handshake_ns: match self.handshake_us {
                // A restored connection had none.
                0 if hot.role() == Role::Client => Stay::client_handshake_ns(&states),
                0 => None,
                us => Some(u64::from(us) * 1_000),
            },
            owner: self.owner(hot),
            processes: None,
            uid: self.uid(hot),
            cgroup: self.cgroup(),
            states,
            truncated: hot.has(Hot::TRUNCATED),
            first_ns: hot.first_ns,
            opened: hot.has(Hot::OPENED),
            last_ns: hot.since_ns(),
            there_ns: hot.there_ns(),
        }
    }

    /// The whole connection at its end, with the facts of the closing record.
    pub(in super::super) fn show_ended(
        &self,
        hot: &Hot,
        long: &[PackedStay],
        event: &Event,
    ) -> Ended {
        let connection = self.show(hot, long);
        Ended {
            // By now it belongs to the process that accepted it, which the first event did not have.
            connection: Connection {
                uid: event.uid().or(connection.uid),
                cgroup: event.cgroup().or(connection.cgroup),
                ..connection
            },
            lifetime_ns: hot.lifetime_ns(),
            cause: Cause::of(event).unwrap_or(Cause::Unknown),
            reset_reason: ResetReason::of(event),
            goes_on: goes_on(event),
            traffic: Traffic::of(event),
        }
    }
}
