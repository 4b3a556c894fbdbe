//! The sockets there are at one moment, of one network namespace or of several. Pure: capture takes it.

mod listening;
mod socket;

use hashbrown::HashMap;
use tcpstate_common::State;

pub use self::{
    listening::{HalfOpen, Listening},
    socket::{Socket, TcpInfo, Timer, TimerKind, keep_latest},
};
use crate::{names::Names, owner::Owner};

/// The sockets of one or several namespaces.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Each once.
    pub sockets: Vec<Socket>,
    /// Entries that were superseded by later ones of the same socket.
    pub superseded: u64,
    /// The namespaces that were dumped.
    pub namespaces: Vec<DumpedNetns>,
    /// Parts that are missing, a whole sentence each.
    pub missing: Vec<String>,
    /// The one of these about processes whose namespaces are hidden.
    pub hidden: Option<String>,
    /// The listening sockets.
    pub listening: Listening,
    /// The processes that hold the sockets, by the sockets' inodes, if they were looked up.
    pub holders: Option<HashMap<u32, Owner>>,
    /// The names of their cgroups.
    pub names: Names,
}

/// A namespace that was dumped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedNetns {
    /// Its inode number.
    pub netns: u32,
    /// Its name for people.
    pub name: String,
    /// Just before the dump, monotonic nanoseconds.
    pub ts_ns: u64,
    /// The same, wall-clock nanoseconds since 1970.
    pub wall_ns: i64,
    /// Its statistics.
    pub dump: DumpStats,
}

/// Statistics of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpStats {
    /// Entries that the kernel sent, malformed ones included.
    pub answers: u64,
    /// Entries that could not be decoded.
    pub malformed: u64,
    /// Attempts that were repeated because the kernel said that they were inconsistent, or broke them off.
    pub repeats: u32,
    /// The last attempt was inconsistent too: the kernel said that sockets may be missing.
    pub inconsistent: bool,
}

impl DumpStats {
    /// Adds those of another dump.
    pub fn add(&mut self, more: &Self) {
        self.answers += more.answers;
        self.malformed += more.malformed;
        self.repeats += more.repeats;
        self.inconsistent |= more.inconsistent;
    }
}

impl Inventory {
    /// The owner of a socket: the process that holds it or, before it is accepted, the one that listens for it.
    pub fn owner(&self, socket: &Socket) -> Owner {
        let Some(holders) = &self.holders else {
            return Owner::UNKNOWN;
        };
        let holder = |inode| holders.get(&inode).copied().unwrap_or(Owner::UNKNOWN);
        match socket.inode {
            Some(inode) => holder(inode),
            // In other states, a socket that no process holds was closed by the one that held it.
            None if matches!(
                socket.state,
                State::SYN_RECV | State::ESTABLISHED | State::CLOSE_WAIT
            ) =>
            {
                let listener = self.listening.listener_of(socket);
                listener.map_or(Owner::UNKNOWN, |inode| holder(inode).inherited())
            }
            None => Owner::UNKNOWN,
        }
    }
}
