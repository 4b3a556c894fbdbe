//! Takes an inventory: dumps namespaces, and looks up the owners and the cgroups of their sockets.

use std::{
    ops::{ControlFlow, RangeInclusive},
    sync::Arc,
};

use hashbrown::HashSet;
use rustix::{process::geteuid, thread::CapabilitySet};
use tcpstate_core::{
    error::chain,
    inventory::{DumpedNetns, Inventory, Listening, Socket, keep_latest},
    names::Names,
    netns::{NetnsSelector, sort},
};

use super::{
    cgroups::Cgroups,
    clock::{ClockAnchor, monotonic_ns},
    host, namespaces,
    netns::{self, Namespace},
    procfs::{self, ListenCounters, Owners},
    sockdiag::{DumpError, Request, SockDiag},
};

/// Dumps the selected namespaces. A caller that wants roles has to request listening sockets too: the
/// roles of others follow from them.
///
/// *Errors:* the one namespace that was selected cannot be dumped. Of `all`, one that cannot is in
/// [`Inventory::undumped`]; it is an error only if none can be dumped.
pub fn take(
    selector: &NetnsSelector,
    request: Request<'_>,
    resolve_owners: bool,
) -> Result<Inventory, DumpError> {
    let names = Cgroups::of_host().map(|cgroups| Names::new(Arc::new(cgroups)));
    let mut this = Inventory {
        // If cgroup2 is not mounted, no socket is in one of its cgroups.
        names: names.unwrap_or_default(),
        ..Inventory::default()
    };
    let mut ephemeral = Vec::new();
    let mut failure = None;
    let is_all = *selector == NetnsSelector::All;
    let unreached = netns::visit(selector, |namespace| {
        let netns = namespace.inode();
        let name = namespace.name().to_owned();
        match dump(namespace, request, &mut this.sockets) {
            Ok((dumped, range)) => {
                this.namespaces.push(dumped);
                ephemeral.extend(range.map(|range| (netns, range)));
            }
            Err(error) => {
                if is_all {
                    this.undumped
                        .push(format!("{netns} ({name}): {}", chain(&error)));
                }
                failure.get_or_insert(error);
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failure.filter(|_| this.namespaces.is_empty()) {
        return Err(error);
    }
    sort(&mut this.namespaces, |dumped| dumped.netns);
    this.missing
        .extend(unreached.broken.iter().map(|error| chain(error)));
    if let Some(who_sees) = who_sees() {
        this.hidden = unreached.hidden_processes;
        this.who_sees = who_sees;
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

/// Dumps a namespace, and reads its ephemeral ports where a role may follow from them.
fn dump(
    namespace: Namespace,
    request: Request<'_>,
    sockets: &mut Vec<Socket>,
) -> Result<(DumpedNetns, Option<RangeInclusive<u16>>), DumpError> {
    let netns = namespace.inode();
    let name = namespace.name().to_owned();
    let (mut link, counters) = SockDiag::open_and(namespace, ListenCounters::read_here)?;
    let clock = ClockAnchor::read();
    let before = sockets.len();
    let dump = link.dump(request, sockets)?;
    let took_ns = monotonic_ns().saturating_sub(clock.taken_at_ns);
    // To open a setting takes the kernel a time that grows with the number of namespaces in which it was opened.
    let mut dumped = sockets.get(before..).into_iter().flatten();
    let range = if dumped.any(Socket::has_role_by_ports) {
        let range = link.namespace().within(procfs::ephemeral_ports_here);
        range.ok().flatten()
    } else {
        None
    };
    let dumped = DumpedNetns {
        netns,
        name,
        ts_ns: clock.taken_at_ns,
        wall_ns: clock
            .wall_at_monotonic_zero_ns
            .saturating_add_unsigned(clock.taken_at_ns),
        took_ns,
        never_deferred: counters.is_ok_and(|counters| counters.deferred == Some(0)),
        dump,
    };
    Ok((dumped, range))
}

fn look_up_holders(inventory: &mut Inventory) {
    let inodes: HashSet<u32> = inventory
        .sockets
        .iter()
        .filter_map(|one| one.inode)
        .collect();
    match Owners::look_up(&inodes) {
        Ok(owners) => {
            if !inventory.who_sees.is_empty() {
                inventory.hidden_files = owners.hidden_processes;
            }
            inventory.holders = Some(owners.by_inode);
        }
        Err(error) => inventory
            .missing
            .push(format!("owners are unknown: cannot read /proc: {error}")),
    }
}

/// The one who sees the processes that are hidden from this one. `None`: nobody, as far as this host tells, because a security
/// module hides them even from root. Nobody could do anything about it, so it is not reported.
fn who_sees() -> Option<&'static str> {
    let is_initial = namespaces::Namespace::User.is_initial();
    sees(
        geteuid().is_root(),
        !matches!(is_initial, Ok(false)),
        host::capabilities().ok(),
    )
}

fn sees(is_root: bool, is_hosts: bool, has: Option<CapabilitySet>) -> Option<&'static str> {
    const SEES_ALL: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);
    match has {
        // A user who has what root sees them by.
        Some(has) if is_hosts && has.contains(SEES_ALL) => None,
        _ if !is_root => Some("root sees them"),
        _ if !is_hosts => Some("root outside of this user namespace sees them"),
        Some(has) if has.contains(CapabilitySet::SYS_PTRACE) => None,
        _ => Some("this is root without CAP_SYS_PTRACE, which would show them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_not_told_to_be_root() {
        let all = Some(CapabilitySet::all());
        for (is_root, is_hosts, has, words) in [
            (false, true, Some(CapabilitySet::empty()), "root sees them"),
            (true, false, all, "outside of this user namespace"),
            (
                true,
                true,
                Some(CapabilitySet::empty()),
                "without CAP_SYS_PTRACE",
            ),
            (true, true, None, "CAP_SYS_PTRACE"),
        ] {
            let said = sees(is_root, is_hosts, has).unwrap();
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(sees(true, true, all), None);
        assert_eq!(sees(false, true, all), None);
        let some = Some(CapabilitySet::SYS_PTRACE);
        assert_eq!(sees(false, true, some), Some("root sees them"));
    }
}
