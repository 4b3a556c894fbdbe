//! The sockets there are now, of one network namespace or of all, with what can be told of each.

use std::sync::Arc;

use hashbrown::HashSet;
use tcpstate_common::State;

use super::{
    cgroups::Cgroups,
    host::ClockAnchor,
    netns::{self, Namespace, Wanted},
    procfs::{self, Owners},
    sockdiag::{Dump, DumpError, Request, SockDiag, Socket, keep_latest, listening::Listening},
};
use crate::{model::Owner, source::Names};

/// The sockets of one or several namespaces.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Each once.
    pub sockets: Vec<Socket>,
    /// Descriptions of sockets that were superseded by later ones.
    pub superseded: u64,
    /// The namespaces that were asked.
    pub asked: Vec<Asked>,
    /// What could not be asked, each a whole sentence.
    pub missing: Vec<String>,
    /// The one of them that says that processes hide in which namespaces they are.
    pub hidden: Option<String>,
    /// What listens.
    pub listening: Listening,
    /// Who holds the sockets, if that was wanted.
    pub owners: Option<Owners>,
    /// What their cgroups are called.
    pub names: Names,
}

/// A namespace that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its inode number.
    pub netns: u32,
    /// What people call it.
    pub name: String,
    /// When, monotonic nanoseconds.
    pub ts_ns: u64,
    /// When, wall-clock nanoseconds since 1970.
    pub wall_ns: i64,
    /// How the kernel answered.
    pub dump: Dump,
}

impl Inventory {
    /// Asks. The listening sockets are asked for in any case: the roles of others follow from them.
    ///
    /// *Errors:* of the one namespace that was named. Of `all`, one that cannot be asked is in
    /// [`Inventory::missing`]; only if none can be, it is an error.
    pub fn take(
        wanted: &Wanted,
        request: Request,
        resolve_owners: bool,
    ) -> Result<Self, DumpError> {
        let found = netns::find(wanted)?;
        let names = Cgroups::of_host().map(|cgroups| Names::new(Arc::new(cgroups)));
        let mut this = Self {
            // Where cgroup2 is not mounted no socket is in a cgroup of it.
            names: names.unwrap_or_default(),
            ..Self::default()
        };
        let mut ephemeral = Vec::new();
        let mut failure = None;
        for namespace in found.namespaces {
            let netns = namespace.inode();
            let name = namespace.name().to_owned();
            let range = procfs::ephemeral_ports(&namespace);
            match this.ask(namespace, request) {
                Ok(asked) => this.asked.push(asked),
                Err(error) if *wanted == Wanted::All => {
                    let why = super::error::chain(&error);
                    this.missing
                        .push(format!("network namespace {netns} ({name}): {why}"));
                    failure.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            }
            ephemeral.extend(range.map(|range| (netns, range)));
        }
        if let Some(error) = failure.filter(|_| this.asked.is_empty()) {
            return Err(error);
        }
        this.missing
            .extend(found.broken.iter().map(|error| super::error::chain(error)));
        if found.hidden_processes > 0 {
            let hidden = format!(
                "{} processes of other users may be in network namespaces that are hidden from this \
                 one; root sees them",
                found.hidden_processes
            );
            this.missing.push(hidden.clone());
            this.hidden = Some(hidden);
        }
        let described = this.sockets.len();
        keep_latest(&mut this.sockets);
        this.superseded = (described - this.sockets.len()) as u64;
        if resolve_owners {
            this.look_up_owners();
        }
        this.listening = Listening::new(&this.sockets, ephemeral);
        Ok(this)
    }

    fn ask(&mut self, namespace: Namespace, request: Request) -> Result<Asked, DumpError> {
        let netns = namespace.inode();
        let name = namespace.name().to_owned();
        let mut link = SockDiag::open(namespace)?;
        let clock = ClockAnchor::read();
        let dump = link.dump(request, &mut self.sockets)?;
        Ok(Asked {
            netns,
            name,
            ts_ns: clock.taken_at_ns,
            wall_ns: clock
                .wall_at_monotonic_zero_ns
                .saturating_add_unsigned(clock.taken_at_ns),
            dump,
        })
    }

    fn look_up_owners(&mut self) {
        let inodes: HashSet<u32> = self.sockets.iter().filter_map(|one| one.inode).collect();
        match Owners::look_up(&inodes) {
            Ok(owners) => {
                if owners.hidden_processes > 0 {
                    self.missing.push(format!(
                        "the files of {} processes of other users are hidden, so what they own is \
                         unknown; root sees them",
                        owners.hidden_processes
                    ));
                }
                self.owners = Some(owners);
            }
            Err(error) => self
                .missing
                .push(format!("owners are unknown: cannot read /proc: {error}")),
        }
    }

    /// Whom a socket belongs to: whoever holds it, and before it is accepted, whoever listens for it.
    pub fn owner(&self, socket: &Socket) -> Owner {
        let Some(owners) = &self.owners else {
            return Owner::UNKNOWN;
        };
        match socket.inode {
            Some(inode) => owners.of(inode),
            // In other states, what no process holds was closed by the one that held it.
            None if matches!(
                socket.state,
                State::SYN_RECV | State::ESTABLISHED | State::CLOSE_WAIT
            ) =>
            {
                let listener = self.listening.listener_of(socket);
                listener.map_or(Owner::UNKNOWN, |inode| owners.of(inode).inherited())
            }
            None => Owner::UNKNOWN,
        }
    }
}
