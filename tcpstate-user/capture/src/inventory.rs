//! Takes an inventory: dumps namespaces, and looks up the owners and the cgroups of their sockets.

use std::sync::Arc;

use hashbrown::HashSet;
use tcpstate_core::{
    error::chain,
    inventory::{DumpedNetns, Inventory, Listening, Socket, keep_latest},
    names::Names,
    netns::NetnsSelector,
};

use super::{
    cgroups::Cgroups,
    clock::{ClockAnchor, monotonic_ns},
    netns::{self, Namespace},
    procfs::{self, ListenCounters, Owners},
    sockdiag::{DumpError, Request, SockDiag},
};

/// Dumps the selected namespaces. A caller that wants roles has to request listening sockets too: the
/// roles of others follow from them.
///
/// *Errors:* the one namespace that was selected cannot be dumped. Of `all`, one that cannot is in
/// [`Inventory::missing`]; it is an error only if none can be dumped.
pub fn take(
    selector: &NetnsSelector,
    request: Request,
    resolve_owners: bool,
) -> Result<Inventory, DumpError> {
    let found = netns::find(selector)?;
    let names = Cgroups::of_host().map(|cgroups| Names::new(Arc::new(cgroups)));
    let mut this = Inventory {
        // If cgroup2 is not mounted, no socket is in one of its cgroups.
        names: names.unwrap_or_default(),
        ..Inventory::default()
    };
    let mut ephemeral = Vec::new();
    let mut failure = None;
    for namespace in found.namespaces {
        let netns = namespace.inode();
        let name = namespace.name().to_owned();
        let range = namespace.within(procfs::ephemeral_ports_here);
        match dump(namespace, request, &mut this.sockets) {
            Ok(dumped) => this.namespaces.push(dumped),
            Err(error) if *selector == NetnsSelector::All => {
                let why = chain(&error);
                this.missing
                    .push(format!("network namespace {netns} ({name}): {why}"));
                failure.get_or_insert(error);
                continue;
            }
            Err(error) => return Err(error),
        }
        ephemeral.extend(range.ok().flatten().map(|range| (netns, range)));
    }
    if let Some(error) = failure.filter(|_| this.namespaces.is_empty()) {
        return Err(error);
    }
    this.missing
        .extend(found.broken.iter().map(|error| chain(error)));
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
        look_up_holders(&mut this);
    }
    this.listening = Listening::new(&this.sockets, ephemeral, |socket| this.age(socket));
    Ok(this)
}

fn dump(
    namespace: Namespace,
    request: Request,
    sockets: &mut Vec<Socket>,
) -> Result<DumpedNetns, DumpError> {
    let netns = namespace.inode();
    let name = namespace.name().to_owned();
    let (mut link, counters) = SockDiag::open_and(namespace, ListenCounters::read_here)?;
    let clock = ClockAnchor::read();
    let dump = link.dump(request, sockets)?;
    let took_ns = monotonic_ns().saturating_sub(clock.taken_at_ns);
    Ok(DumpedNetns {
        netns,
        name,
        ts_ns: clock.taken_at_ns,
        wall_ns: clock
            .wall_at_monotonic_zero_ns
            .saturating_add_unsigned(clock.taken_at_ns),
        took_ns,
        never_deferred: counters.is_ok_and(|counters| counters.deferred == Some(0)),
        dump,
    })
}

fn look_up_holders(inventory: &mut Inventory) {
    let inodes: HashSet<u32> = inventory
        .sockets
        .iter()
        .filter_map(|one| one.inode)
        .collect();
    match Owners::look_up(&inodes) {
        Ok(owners) => {
            if owners.hidden_processes > 0 {
                let hidden = format!(
                    "the files of {} processes of other users are hidden, so their sockets have no \
                     known owner; root sees them",
                    owners.hidden_processes
                );
                inventory.missing.push(hidden.clone());
                inventory.hidden_files = Some(hidden);
            }
            inventory.holders = Some(owners.by_inode);
        }
        Err(error) => inventory
            .missing
            .push(format!("owners are unknown: cannot read /proc: {error}")),
    }
}
