//! The grouping of the services, and the order of rows.

use tcpstate_core::model::By as Grouping;

/// The groupings of the services, in the order of their key.
const GROUPINGS: [Grouping; 12] = [
    Grouping::Port,
    Grouping::Comm,
    Grouping::Unit,
    Grouping::Container,
    Grouping::Pod,
    Grouping::Raddr,
    Grouping::Prefix,
    Grouping::Netns,
    Grouping::Pid,
    Grouping::Cgroup,
    Grouping::Role,
    Grouping::Cause,
];

/// The grouping so many places further.
pub(crate) fn grouping_beside(by: Grouping, further: usize) -> Grouping {
    let mut from_here = GROUPINGS.iter().cycle().skip_while(|&&one| one != by);
    from_here.nth(further).copied().unwrap_or_default()
}

/// The grouping before this one.
pub(crate) fn grouping_before(by: Grouping) -> Grouping {
    grouping_beside(by, GROUPINGS.len() - 1)
}

/// The grouping in a few words.
pub(crate) const fn grouping_name(by: Grouping) -> &'static str {
    match by {
        Grouping::Port => "port and role",
        Grouping::Role => "role",
        Grouping::Comm => "process name",
        Grouping::Pid => "process",
        Grouping::Cgroup => "cgroup",
        Grouping::Unit => "unit",
        Grouping::Container => "container",
        Grouping::Pod => "pod",
        Grouping::Netns => "netns",
        Grouping::Raddr => "remote address",
        Grouping::Prefix => "remote prefix",
        Grouping::Cause => "cause",
    }
}

/// The columns of the services behind the name.
pub(crate) const SERVICE_COLUMNS: usize = 20;

/// The order of the services, and the columns that are seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServiceOrder {
    /// The place of the column that they are sorted by.
    pub(crate) by: usize,
    pub(crate) is_turned: bool,
    /// Columns that are left out at the left.
    pub(crate) shift: usize,
}

impl ServiceOrder {
    /// Sorts by the next column, which is then seen.
    pub(crate) fn next(&mut self) {
        self.by = (self.by + 1) % SERVICE_COLUMNS;
        self.is_turned = false;
        // A few before it are seen too.
        self.shift = self.by.saturating_sub(3);
    }

    pub(crate) const fn turn(&mut self) {
        self.is_turned = !self.is_turned;
    }

    pub(crate) const fn shift(&mut self, by: isize) {
        self.shift = self.shift.saturating_add_signed(by);
    }

    /// Leaves out no more columns than there is no room for.
    pub(crate) fn settle(&mut self, room: usize) {
        self.shift = self.shift.min(SERVICE_COLUMNS.saturating_sub(room));
    }
}

/// The property that the rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum By {
    #[default]
    Age,
    State,
    Service,
    Process,
    Remote,
}

impl By {
    const ALL: [Self; 5] = [
        Self::Age,
        Self::State,
        Self::Service,
        Self::Process,
        Self::Remote,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::State => "state",
            Self::Service => "service port",
            Self::Process => "process",
            Self::Remote => "remote address",
        }
    }
}

/// The order of the connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionOrder {
    pub(crate) by: By,
    pub(crate) is_turned: bool,
}

impl ConnectionOrder {
    pub(crate) fn next(&mut self) {
        let mut all = By::ALL.iter().cycle();
        all.find(|&&by| by == self.by);
        self.by = all.next().copied().unwrap_or_default();
        self.is_turned = false;
    }

    pub(crate) const fn turn(&mut self) {
        self.is_turned = !self.is_turned;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grouping_is_reached_forwards_and_back() {
        let mut by = Grouping::default();
        let mut seen = Vec::new();
        for _ in Grouping::ALL {
            seen.push(by);
            let next = grouping_beside(by, 1);
            assert_eq!(grouping_before(next), by);
            by = next;
        }
        assert_eq!(by, Grouping::default());
        assert!(Grouping::ALL.iter().all(|by| seen.contains(by)));
    }
}
