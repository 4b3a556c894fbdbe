//! The sockets of a moment by what they belong to.

use hashbrown::HashMap;
use tcpstate_common::State;

use super::Survey;
use crate::{inventory::Inventory, owner::Comm};

/// The facts from which labels follow, and the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Id of the cgroup; `None`: it is not known, as in `TIME_WAIT`.
    pub cgroup: Option<u64>,
    /// The owner's name; `None`: it is not known, or was not asked for.
    pub comm: Option<Comm>,
    /// The state; half-open connections are in `SYN_RECV`.
    pub state: State,
}

impl Survey {
    /// Counts the sockets of this inventory by what they belong to as well ([`Self::workloads`]): by cgroup, and by owner where that
    /// is asked for, which takes longer.
    #[must_use]
    pub fn with_workloads(mut self, inventory: &Inventory, by_owner: bool) -> Self {
        let mut counts: HashMap<WorkloadKey, u64> = HashMap::new();
        for socket in &inventory.sockets {
            // Merely bound.
            if matches!(socket.state, State::CLOSE | State::BOUND_INACTIVE) {
                continue;
            }
            let holder = || inventory.holders(socket).first().copied();
            let key = WorkloadKey {
                cgroup: socket.cgroup,
                comm: by_owner
                    .then(holder)
                    .flatten()
                    .map(|process| Comm(process.comm)),
                state: socket.state,
            };
            *counts.entry(key).or_default() += 1;
        }
        self.workloads = counts;
        self
    }
}
