//! The meaning of one event, for the view that shows it. Each value is looked up when it is asked for.

use tcpstate_common::State;

use super::{
    connection::{Connection, Ended},
    listeners::Listeners,
    table::Table,
};
use crate::{
    cause::Cause,
    event::Event,
    owner::{Holder, Holders, Owner},
    service::Role,
};

/// The meaning of one event.
pub struct Applied<'a> {
    /// The time in the event's old state; `None` where it is not known.
    pub dwell_ns: Option<u64>,
    /// Whether events of this connection are missing in front of this one.
    pub gap: bool,
    pub(super) subject: Subject,
    pub(super) table: &'a Table,
    pub(super) listeners: &'a Listeners,
    pub(super) listener: &'a Owner,
    pub(super) listener_holders: Option<&'a Holders>,
    pub(super) event: &'a Event,
}

/// The subject of an event.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    /// Nothing that is tracked: CLOSE -> CLOSE.
    Nothing,
    /// The connection in this slot.
    Connection(u32),
    /// The connection in this slot, which this event ended.
    Ended(u32),
    /// A listener, whose owner is in [`Applied::listener`].
    Listener,
}

impl Applied<'_> {
    /// The side of the connection that the socket is.
    pub fn role(&self) -> Role {
        match self.subject {
            Subject::Nothing => Role::Unknown,
            Subject::Connection(slot) | Subject::Ended(slot) => self.table.hot(slot).role(),
            Subject::Listener => Role::Server,
        }
    }

    /// The port of the service, where the role is known.
    pub fn service_port(&self) -> Option<u16> {
        match self.subject {
            Subject::Nothing => None,
            Subject::Connection(slot) | Subject::Ended(slot) => {
                let (hot, cold) = (self.table.hot(slot), self.table.cold(slot));
                hot.role().service_port(hot.lport(), cold.rport())
            }
            Subject::Listener => Role::Server.service_port(self.event.lport(), 0),
        }
    }

    /// The process that the socket belongs to.
    pub fn owner(&self) -> Owner {
        match self.subject {
            Subject::Nothing => Owner::UNKNOWN,
            Subject::Connection(slot) | Subject::Ended(slot) => {
                let table = self.table;
                table.cold(slot).owner(table.hot(slot))
            }
            Subject::Listener => *self.listener,
        }
    }

    /// The processes that have to do with the listener, or with that of a server's connection, where that was
    /// looked up.
    pub fn holders(&self) -> Option<&Holders> {
        match self.subject {
            Subject::Nothing => None,
            Subject::Connection(slot) | Subject::Ended(slot) => {
                let is_server = self.table.hot(slot).role() == Role::Server;
                is_server.then(|| self.listeners.holders(self.event))?
            }
            Subject::Listener => self.listener_holders,
        }
    }

    /// The user that the socket belonged to when it opened.
    pub fn uid(&self) -> Option<u32> {
        match self.subject {
            Subject::Nothing => None,
            Subject::Connection(slot) | Subject::Ended(slot) => {
                self.table.cold(slot).uid(self.table.hot(slot))
            }
            Subject::Listener => self.event.uid(),
        }
    }

    /// Id of the cgroup that the socket belongs to.
    pub fn cgroup(&self) -> Option<u64> {
        match self.subject {
            Subject::Nothing => None,
            Subject::Connection(slot) | Subject::Ended(slot) => self.table.cold(slot).cgroup(),
            Subject::Listener => self.event.cgroup(),
        }
    }

    /// The cause of the connection's end; `None` where none ended.
    pub fn cause(&self) -> Option<Cause> {
        Cause::of(self.event)
    }

    /// The uncertainty of [`Applied::dwell_ns`], where that was sampled: the time that a server's connection was
    /// half-open, before it had a socket.
    pub fn dwell_interval_ns(&self) -> Option<u64> {
        let slot = match self.subject {
            Subject::Connection(slot) | Subject::Ended(slot) => slot,
            Subject::Nothing | Subject::Listener => return None,
        };
        self.dwell_ns?;
        let old = self.event.oldstate().folded();
        self.table.dwell_interval_ns(slot, old)
    }

    /// How long the handshake took that this event ends: a client's time in `SYN_SENT`, with that in `SYN_RECV`
    /// where both ends connected at once; a server's first smoothed round trip time. `None` where no handshake ends, or it is not known.
    pub fn handshake_ns(&self) -> Option<u64> {
        let event = self.event;
        match self.subject {
            Subject::Connection(slot) if event.newstate() == State::ESTABLISHED && !self.gap => {
                let old = event.oldstate().folded();
                self.table.handshake_ns(slot, event, old, self.dwell_ns)
            }
            _ => None,
        }
    }

    /// The whole connection that this event belongs to; `None` for a listener.
    pub fn connection(&self) -> Option<Connection> {
        match self.subject {
            Subject::Connection(slot) | Subject::Ended(slot) => Some(self.table.show(slot)),
            Subject::Nothing | Subject::Listener => None,
        }
    }

    /// Whether this event ended a connection.
    pub const fn is_end(&self) -> bool {
        matches!(self.subject, Subject::Ended(_))
    }

    /// The lifetime of the connection that this event ended; `None` where none ended, or its beginning was not seen.
    pub fn lifetime_ns(&self) -> Option<u64> {
        match self.subject {
            Subject::Ended(slot) => self.table.hot(slot).lifetime_ns(),
            Subject::Nothing | Subject::Connection(_) | Subject::Listener => None,
        }
    }

    /// The whole connection that this event ended.
    pub fn ended(&self) -> Option<Ended> {
        match self.subject {
            Subject::Ended(slot) => {
                let mut ended = self.table.show_ended(slot, self.event);
                let connection = &mut ended.connection;
                let closer = self.table.cold(slot).closer();
                connection.processes = Holder::beside(&connection.owner, self.holders(), closer);
                Some(ended)
            }
            Subject::Nothing | Subject::Connection(_) | Subject::Listener => None,
        }
    }
}
