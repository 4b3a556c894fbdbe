//! Transitions that were counted in the kernel instead of being handed on one by one.

use tcpstate_common::{
    State,
    tally::{WAYS, row},
};

use crate::{
    cause::Cause,
    histogram::Histogram,
    service::{Role, ServicePort},
    transition::TransitionCount,
};

/// The counts of the kernel over some time, instead of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The counts by service, those that are not all 0.
    pub services: Vec<ServiceTally>,
    /// The time in each state that connections left.
    pub dwell: Vec<(State, Histogram)>,
    /// Transitions up to now that no filter has been able to decide on.
    pub undecided: u64,
    /// Connections whose time of entry into their state was forgotten, because there were too many.
    pub forgotten: u64,
}

impl Tally {
    /// All transitions.
    pub fn total(&self) -> u64 {
        let services = self.services.iter();
        services
            .flat_map(|service| &service.transitions)
            .map(|transition| transition.count)
            .sum()
    }
}

/// The counts of the connections of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTally {
    /// The port; unknown where the role is.
    pub port: ServicePort,
    /// Their side of the connection.
    pub role: Role,
    /// The count of each transition.
    pub transitions: Vec<TransitionCount>,
    /// The count of each cause that ended one.
    pub causes: Vec<(Cause, u64)>,
}

/// The room for counting in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallySize {
    /// Services, each a port and a role, that are counted separately.
    pub services: u32,
    /// Sockets whose entry into their state the program remembers; rounded up to a power of two.
    pub sockets: u32,
}

impl TallySize {
    /// Rows of one CPU.
    pub const fn rows(self) -> u32 {
        row::FIRST + self.services
    }

    /// Sets of the table of sockets; a power of two.
    #[expect(clippy::cast_possible_truncation, reason = "8")]
    pub const fn place_sets(self) -> u32 {
        match self
            .sockets
            .div_ceil(WAYS as u32)
            .checked_next_power_of_two()
        {
            Some(sets) => sets,
            None => 1 << 31,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_sockets_has_a_power_of_two_of_sets() {
        let sets = |sockets| {
            let services = 4;
            TallySize { services, sockets }.place_sets()
        };
        for (sockets, expected) in [
            (1, 1),
            (8, 1),
            (9, 2),
            (1_000_000, 1 << 17),
            (u32::MAX, 1 << 29),
        ] {
            assert_eq!(sets(sockets), expected, "{sockets}");
        }
    }
}
