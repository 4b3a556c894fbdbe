//! The name of a group, for people.

use std::fmt::{self, Display};

use tcpstate_core::{
    catalogue::Group,
    escape::Entry,
    model::{By, GroupKey},
    service::{Role, ServicePort},
};

use crate::format::text::{Column, OrDash, right_end};

/// The columns that [`cells`] fills.
pub(crate) fn columns(by: By) -> Vec<Column> {
    match by {
        By::Port => vec![Column::right("PORT", 5), Column::left("ROLE", 7)],
        By::Role => vec![Column::left("ROLE", 13)],
        By::Comm => vec![Column::left("COMM", 15)],
        By::Pid => vec![Column::right("PID", 7), Column::left("COMM", 15)],
        By::Cgroup => vec![Column::left("CGROUP", 15)],
        By::Netns => vec![Column::left("NETNS", 15)],
        By::Raddr => vec![Column::left("RADDR", 15)],
        By::Cause => vec![Column::left("CAUSE", 15)],
    }
}

/// The columns that these cells take at most, but for a cgroup's path.
pub(crate) const fn width(by: By) -> usize {
    match by {
        By::Pid => 23,
        // An IPv6 address.
        By::Raddr => 39,
        By::Port | By::Role | By::Comm | By::Cgroup | By::Netns | By::Cause => 15,
    }
}

/// The group in a row of a table with these [`columns`]. Of a cgroup's path the last `path` characters are left.
pub(crate) fn cells(by: By, group: &Group, path: usize) -> Vec<String> {
    match group.key {
        GroupKey::Other if by == By::Pid => vec![Name(group).to_string(), String::new()],
        GroupKey::Port(port, role) => vec![Port(port).to_string(), Of(role).to_string()],
        GroupKey::Role(role) => vec![Of(role).to_string()],
        GroupKey::Pid(pid, comm) => {
            let name = comm.as_ref().map(|comm| Entry(comm.as_bytes()));
            vec![OrDash(pid).to_string(), OrDash(name).to_string()]
        }
        GroupKey::Cgroup(_) => vec![match &group.path {
            Some(name) => right_end(&Entry(name.as_bytes()).to_string(), path),
            None => Name(group).to_string(),
        }],
        GroupKey::Comm(_)
        | GroupKey::Netns(_)
        | GroupKey::Raddr(_)
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
            GroupKey::Netns(_) => "netns",
            GroupKey::Raddr(_) => "raddr",
            GroupKey::Cause(_) => "cause",
        };
        write!(f, "{what} {}", Name(group))
    }
}

/// The group without its kind.
struct Name<'a>(&'a Group);

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
            GroupKey::Cgroup(id) => match &self.0.path {
                Some(path) => Entry(path.as_bytes()).fmt(f),
                None => OrDash(*id).fmt(f),
            },
            GroupKey::Netns(inode) => OrDash(*inode).fmt(f),
            GroupKey::Raddr(address) => OrDash(*address).fmt(f),
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
