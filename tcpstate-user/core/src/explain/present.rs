//! The sockets of a state as they are now.

use std::{cmp::Reverse, hash::Hash};

use hashbrown::HashMap;
use tcpstate_common::State;

use crate::{
    filter::StateSet,
    inventory::{Age, Inventory},
    owner::Comm,
};

/// Groups that are named.
const NAMED: usize = 3;

/// The sockets of a state as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Their number.
    pub count: u64,
    /// The longest time that one of them is known to have been in the state.
    pub oldest: Option<Age>,
    /// The service ports with the most of them.
    pub services: Vec<(u16, u64)>,
    /// The names of the processes with the most of them.
    pub owners: Vec<(Comm, u64)>,
    /// Whether there may be more, in network namespaces that could not be listed.
    pub is_partial: bool,
}

/// Counts the sockets of a state.
pub fn present(inventory: &Inventory, state: State) -> Present {
    let states = StateSet::of(state);
    let (mut count, mut oldest) = (0, None::<Age>);
    let (mut services, mut owners) = (HashMap::new(), HashMap::new());
    for socket in &inventory.sockets {
        if !states.contains(socket.state) {
            continue;
        }
        count += 1;
        if let Some(age) = inventory.age(socket)
            && oldest.is_none_or(|oldest| age.at_least_ns > oldest.at_least_ns)
        {
            oldest = Some(age);
        }
        let role = inventory.listening.role(socket);
        if let Some(port) = role.service_port(socket.lport, socket.rport) {
            *services.entry(port).or_default() += 1;
        }
        if let Some(comm) = inventory.owner(socket).comm {
            *owners.entry(comm).or_default() += 1;
        }
    }
    Present {
        count,
        oldest,
        services: most(services),
        owners: most(owners),
        is_partial: inventory.may_have_more(),
    }
}

fn most<K: Copy + Eq + Hash + Ord>(groups: HashMap<K, u64>) -> Vec<(K, u64)> {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_unstable_by_key(|&(key, count)| (Reverse(count), key));
    groups.truncate(NAMED);
    groups
}
