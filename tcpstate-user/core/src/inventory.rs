//! The sockets of a host at one moment, of one or more network namespaces. Pure: capture dumps them.

mod listening;
mod socket;

use hashbrown::HashMap;

pub use self::{
    listening::{HalfOpen, Listening, Namespace, role_by_ports},
    socket::{Age, Socket, TICK_NS, TcpInfo, Timer, TimerKind, keep_latest},
};
use crate::{event::Process, names::Names, netns, owner::Owner};

/// The sockets of one or more namespaces.
#[derive(Debug, Default)]
pub struct Inventory {
    /// The sockets, each once.
    pub sockets: Vec<Socket>,
    /// Entries that were superseded by later ones of the same socket.
    pub superseded: u64,
    /// The namespaces that were dumped, in the order of [`netns::sort`].
    pub namespaces: Vec<DumpedNetns>,
    /// The namespaces that could not be dumped, each with the reason: `4026532177 (blue): cannot enter it`.
    pub undumped: Vec<String>,
    /// Messages about other missing parts.
    pub missing: Vec<String>,
    /// Processes that hide from this one in which namespace they are. It may be another one.
    pub hidden: u64,
    /// The same of the files that they have open, where that was looked up.
    pub hidden_files: u64,
    /// The one who sees these, for a message. Empty where nobody does; then none are counted.
    pub who_sees: &'static str,
    /// The listening sockets.
    pub listening: Listening,
    /// The processes that have the sockets open, by the sockets' inodes, if they were looked up: of each, the
    /// one that it belongs to first.
    pub holders: Option<HashMap<u32, Vec<Process>>>,
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
    /// The time just before the dump, monotonic nanoseconds.
    pub ts_ns: u64,
    /// The same time, wall-clock nanoseconds since 1970.
    pub wall_ns: i64,
    /// The time that the dump took, nanoseconds.
    pub took_ns: u64,
    /// Whether none of its listeners has ever deferred a connection (`TCP_DEFER_ACCEPT`), as far as is known.
    pub never_deferred: bool,
    /// Its statistics.
    pub dump: DumpStats,
}

/// Statistics of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpStats {
    /// Entries that the kernel sent, including malformed ones.
    pub answers: u64,
    /// Entries that could not be decoded.
    pub malformed: u64,
    /// Attempts that were repeated because the kernel marked them as inconsistent or broke them off.
    pub repeats: u32,
    /// Whether the last attempt was inconsistent too, so that sockets may be missing.
    pub inconsistent: bool,
}

impl DumpStats {
    /// Adds the statistics of another dump.
    pub fn add(&mut self, more: &Self) {
        self.answers += more.answers;
        self.malformed += more.malformed;
        self.repeats += more.repeats;
        self.inconsistent |= more.inconsistent;
    }
}

impl Inventory {
    /// All messages about what is missing, or may be.
    pub fn messages(&self) -> Vec<String> {
        let undumped = self.undumped.iter();
        let undumped = undumped.map(|why| format!("network namespace {why}"));
        let missing = undumped.chain(self.missing.iter().cloned());
        missing
            .chain(self.hidden_message())
            .chain(self.hidden_files_message())
            .collect()
    }

    /// The namespaces that could not be dumped, in a line, and the processes that may be in others; `None`: there
    /// are none.
    pub fn undumped_in_short(&self) -> Option<String> {
        let undumped = match self.undumped.as_slice() {
            [] => None,
            [only] => Some(format!("network namespace {only}")),
            [first, ..] => Some(format!(
                "{} network namespaces, the first {first}",
                self.undumped.len()
            )),
        };
        let parts: Vec<String> = undumped.into_iter().chain(self.hidden_message()).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The message about processes whose namespaces are hidden.
    pub fn hidden_message(&self) -> Option<String> {
        (self.hidden > 0).then(|| {
            format!(
                "{} may be in network namespaces that are hidden from this one; {}",
                of_others(self.hidden),
                self.who_sees
            )
        })
    }

    /// The message about processes whose files are hidden.
    pub fn hidden_files_message(&self) -> Option<String> {
        (self.hidden_files > 0).then(|| {
            format!(
                "the files of {} are hidden, so their sockets have no known owner; {}",
                of_others(self.hidden_files),
                self.who_sees
            )
        })
    }

    /// Whether there may be sockets in network namespaces that could not be listed.
    pub fn may_have_more(&self) -> bool {
        !self.undumped.is_empty() || self.hidden > 0
    }

    /// Whether every socket was listed, as far as is known.
    pub fn is_complete(&self) -> bool {
        let mut dumps = self.namespaces.iter().map(|one| one.dump);
        self.undumped.is_empty()
            && self.missing.is_empty()
            && dumps.all(|dump| dump.malformed == 0 && !dump.inconsistent)
    }

    /// The dump of this namespace.
    pub fn dumped(&self, netns: u32) -> Option<&DumpedNetns> {
        netns::find(&self.namespaces, netns, |dumped| dumped.netns)
    }

    /// The time that a socket had been in its state when its namespace was dumped, where something shows it.
    pub fn age(&self, socket: &Socket) -> Option<Age> {
        let dumped = self.dumped(socket.netns);
        let never_deferred = dumped.is_some_and(|dumped| dumped.never_deferred);
        let took_ns = dumped.map_or(0, |dumped| dumped.took_ns);
        let age = socket.age(never_deferred)?;
        Some(if age.is_exact {
            age
        } else {
            // The socket was described some time during the dump.
            Age::at_least(age.at_least_ns.saturating_sub(took_ns))
        })
    }

    /// The owner of a socket: the process that has it open or, before it is accepted, its listener's.
    pub fn owner(&self, socket: &Socket) -> Owner {
        let owner = self.holders(socket).first();
        let owner = owner.map_or(Owner::UNKNOWN, |&process| Owner::holding(process));
        if socket.inode.is_none() {
            owner.inherited()
        } else {
            owner
        }
    }

    /// The processes that have a socket open or, before it is accepted, its listener; the owner first. None
    /// where they were not looked up.
    pub fn holders(&self, socket: &Socket) -> &[Process] {
        let inode = self.held_inode(socket);
        inode.map_or(&[], |inode| self.holders_of(inode))
    }

    /// The inode of the file that the processes of [`Self::holders`] have open.
    pub(crate) fn held_inode(&self, socket: &Socket) -> Option<u32> {
        match socket.inode {
            None if socket.is_unaccepted() => self.listening.listener_of(socket),
            inode => inode,
        }
    }

    /// The processes that have this inode open, the owner first.
    pub(crate) fn holders_of(&self, inode: u32) -> &[Process] {
        let holders = self.holders.as_ref();
        let found = holders.and_then(|all| all.get(&inode));
        found.map_or(&[], Vec::as_slice)
    }
}

fn of_others(processes: u64) -> String {
    match processes {
        1 => "1 process of another user".to_owned(),
        more => format!("{more} processes of other users"),
    }
}
