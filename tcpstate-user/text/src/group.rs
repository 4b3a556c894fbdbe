//! The name of a group, for people.

use std::fmt::{self, Display};

use tcpstate_core::{
    catalogue::Group,
    escape::Entry,
    model::{By, GroupKey},
    names::Cgroup,
    service::{Role, ServicePort},
};

use crate::format::text::{Column, OrDash, both_ends, right_end};

/// The columns that [`cells`] fills.
pub(crate) fn columns(by: By) -> Vec<Column> {
    match by {
        By::Port => vec![Column::right("PORT", 5), Column::left("ROLE", 7)],
        By::Role => vec![Column::left("ROLE", 13)],
        By::Comm => vec![Column::left("COMM", 15)],
        By::Pid => vec![Column::right("PID", 7), Column::left("COMM", 15)],
        By::Cgroup => vec![Column::left("CGROUP", 15)],
        By::Unit => vec![Column::left("UNIT", 15)],
        By::Container => vec![Column::left("CONTAINER", 15)],
        By::Pod => vec![Column::left("POD", 15)],
        By::Netns => vec![Column::left("NETNS", 15)],
        By::Raddr => vec![Column::left("RADDR", 15)],
        By::Prefix => vec![Column::left("PREFIX", 15)],
        By::Cause => vec![Column::left("CAUSE", 15)],
    }
}

/// The columns that these cells take at most, but for the names of cgroups.
pub(crate) const fn width(by: By) -> usize {
    match by {
        By::Pid => 23,
        // An IPv6 address.
        By::Raddr => 39,
        // 64 bits of IPv6.
        By::Prefix => 24,
        By::Port
        | By::Role
        | By::Comm
        | By::Cgroup
        | By::Unit
        | By::Container
        | By::Pod
        | By::Netns
        | By::Cause => 15,
    }
}

/// The group in a row of a table with the columns of its kind. Of a cgroup's name at most `room` characters are left.
pub fn cells(by: By, group: &Group, room: usize) -> Vec<String> {
    match group.key {
        GroupKey::Other if by == By::Pid => vec![Name(group).to_string(), String::new()],
        GroupKey::Port(port, role) => vec![Port(port).to_string(), Of(role).to_string()],
        GroupKey::Role(role) => vec![Of(role).to_string()],
        GroupKey::Pid(pid, comm) => {
            let name = comm.as_ref().map(|comm| Entry(comm.as_bytes()));
            vec![OrDash(pid).to_string(), OrDash(name).to_string()]
        }
        GroupKey::Cgroup(_) | GroupKey::Pod(_) => {
            vec![right_end(&Name(group).to_string(), room)]
        }
        GroupKey::Unit(_) | GroupKey::Container(_) => {
            vec![both_ends(&Name(group).to_string(), room)]
        }
        GroupKey::Comm(_)
        | GroupKey::Netns(_)
        | GroupKey::Raddr(_)
        | GroupKey::Prefix(_)
        | GroupKey::Cause(_)
        | GroupKey::Other => vec![Name(group).to_string()],
    }
}

/// The group in a sentence.
pub(crate) struct Title<'a>(pub(crate) &'a Group);

impl Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(group) = self;
        let what = match group.key {
            GroupKey::Port(port, role) => {
                match port {
                    ServicePort::Other => f.write_str("other ports")?,
                    port => write!(f, "port {}", Port(port))?,
                }
                return match role {
                    Role::Unknown => f.write_str(", role -"),
                    role => write!(f, " {}", role.name()),
                };
            }
            GroupKey::Other => return f.write_str("all others"),
            GroupKey::Role(_) => "role",
            GroupKey::Comm(_) => "comm",
            GroupKey::Pid(..) => "pid",
            GroupKey::Cgroup(_) => "cgroup",
            GroupKey::Unit(_) => "unit",
            GroupKey::Container(_) => "container",
            GroupKey::Pod(_) => "pod",
            GroupKey::Netns(_) => "netns",
            GroupKey::Raddr(_) => "raddr",
            GroupKey::Prefix(_) => "prefix",
            GroupKey::Cause(_) => "cause",
        };
        write!(f, "{what} {}", Name(group))
    }
}

/// The group without its kind.
struct Name<'a>(&'a Group);

impl<'a> Name<'a> {
    /// One of the names of the group's cgroup.
    fn of_cgroup(&self, name: fn(&Cgroup) -> Option<&str>) -> OrDash<Entry<'a>> {
        let cgroup = self.0.cgroup.as_deref();
        let name = cgroup.and_then(name);
        OrDash(name.map(|name| Entry(name.as_bytes())))
    }
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.key {
            GroupKey::Port(port, role) => write!(f, "{} {}", Port(*port), Of(*role)),
            GroupKey::Role(role) => Of(*role).fmt(f),
            GroupKey::Comm(comm) => OrDash(comm.as_ref().map(|comm| Entry(comm.as_bytes()))).fmt(f),
            GroupKey::Pid(pid, comm) => {
                OrDash(*pid).fmt(f)?;
                match comm {
                    Some(comm) => write!(f, " ({})", Entry(comm.as_bytes())),
                    None => Ok(()),
                }
            }
            GroupKey::Cgroup(id) => match &self.0.cgroup {
                Some(cgroup) => Entry(cgroup.path().as_bytes()).fmt(f),
                None => OrDash(*id).fmt(f),
            },
            GroupKey::Unit(_) => self.of_cgroup(Cgroup::unit).fmt(f),
            GroupKey::Container(_) => self.of_cgroup(Cgroup::container_for_people).fmt(f),
            GroupKey::Pod(_) => self.of_cgroup(Cgroup::pod_for_people).fmt(f),
            GroupKey::Netns(inode) => OrDash(*inode).fmt(f),
            GroupKey::Raddr(address) => OrDash(*address).fmt(f),
            GroupKey::Prefix(prefix) => OrDash(*prefix).fmt(f),
            GroupKey::Cause(cause) => OrDash(*cause).fmt(f),
            GroupKey::Other => f.write_str("other"),
        }
    }
}

/// A service port in a cell.
struct Port(ServicePort);

impl Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ServicePort::Port(port) => port.fmt(f),
            ServicePort::Other => f.write_str("other"),
            ServicePort::Unknown => f.write_str("-"),
        }
    }
}

/// A role in a cell.
struct Of(Role);

impl Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OrDash((self.0 != Role::Unknown).then(|| self.0.name())).fmt(f)
    }
}
