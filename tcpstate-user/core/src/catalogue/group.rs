//! The fields of a group, in `rates` and `hist`.

use std::sync::Arc;

use super::{
    column::{Column, Kind, Value},
    common::{ROLES, container, name, pod, unit},
};
use crate::{
    model::{By, GroupKey},
    names::{Cgroup, Names, Pod},
    service::{Role, ServicePort},
};

/// A group, with the names of its cgroup.
#[derive(Clone, Debug)]
pub struct Group {
    /// The key.
    pub key: GroupKey,
    /// The cgroup; of a unit, a container or a pod, one of its cgroups.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// The name of the list of groups in JSON.
pub const fn plural(by: By) -> &'static str {
    match by {
        By::Port => "ports",
        By::Role => "roles",
        By::Comm => "comms",
        By::Pid => "pids",
        By::Cgroup => "cgroups",
        By::Unit => "units",
        By::Container => "containers",
        By::Pod => "pods",
        By::Netns => "namespaces",
        By::Raddr => "raddrs",
        By::Prefix => "prefixes",
        // `causes` is a field of its own.
        By::Cause => "by_cause",
    }
}

impl Group {
    /// The group with this key, with the names that its cgroup has now.
    pub fn new(key: GroupKey, names: &Names) -> Self {
        let cgroup = match key {
            GroupKey::Cgroup(id)
            | GroupKey::Unit(id)
            | GroupKey::Container(id)
            | GroupKey::Pod(id) => names.cgroup(id),
            _ => None,
        };
        Self { key, cgroup }
    }

    /// Whether it is all groups beyond the bound together.
    const fn is_other(&self) -> bool {
        matches!(
            self.key,
            GroupKey::Other | GroupKey::Port(ServicePort::Other, _)
        )
    }

    /// Its service port, with its role.
    pub const fn service_port(&self) -> ServicePort {
        match self.key {
            GroupKey::Port(port, _) => port,
            _ => ServicePort::Unknown,
        }
    }

    fn role(&self) -> Value<'_> {
        match self.key {
            GroupKey::Port(_, role) | GroupKey::Role(role) => role.into(),
            _ => Role::Unknown.into(),
        }
    }

    fn comm(&self) -> Value<'_> {
        match &self.key {
            GroupKey::Comm(Some(comm)) | GroupKey::Pid(_, Some(comm)) => {
                Value::Name(comm.as_bytes())
            }
            _ => Value::Unknown,
        }
    }
}

const fn other<R: AsRef<Group>>() -> Column<R> {
    Column::<R>::new(
        "other",
        Kind::Bool,
        |row| row.as_ref().is_other().into(),
        "Whether this is all groups beyond `--max-ports` together",
    )
}

pub(super) const fn role<R: AsRef<Group>>() -> Column<R> {
    Column::<R>::new(
        "role",
        ROLES,
        |row| row.as_ref().role(),
        "Role of the connections",
    )
    .unknown("the connections were open before the capture began, and nothing shows their role")
}

pub(super) const fn by_port<R: AsRef<Group>>() -> [Column<R>; 3] {
    [
        Column::<R>::new(
            "service_port",
            Kind::Port,
            |row| match row.as_ref().service_port() {
                ServicePort::Port(port) => port.into(),
                ServicePort::Other | ServicePort::Unknown => Value::Unknown,
            },
            "Service port",
        )
        .unknown("the role is unknown, or `other` is true"),
        role(),
        other(),
    ]
}

pub(super) const fn by_role<R: AsRef<Group>>() -> [Column<R>; 1] {
    [role()]
}

const fn comm<R: AsRef<Group>>() -> Column<R> {
    Column::<R>::new(
        "comm",
        Kind::Name,
        |row| row.as_ref().comm(),
        "Name of the owner's process",
    )
    .unknown("the owner is unknown, or `other` is true")
}

pub(super) const fn by_comm<R: AsRef<Group>>() -> [Column<R>; 2] {
    [comm(), other()]
}

pub(super) const fn by_pid<R: AsRef<Group>>() -> [Column<R>; 3] {
    [
        Column::<R>::new(
            "pid",
            Kind::Number,
            |row| match row.as_ref().key {
                GroupKey::Pid(pid, _) => pid.into(),
                _ => Value::Unknown,
            },
            "Process id of the owner",
        )
        .unknown("the owner is unknown or one of several processes, or `other` is true"),
        comm(),
        other(),
    ]
}

pub(super) const fn by_cgroup<R: AsRef<Group>>() -> [Column<R>; 3] {
    [
        Column::<R>::new(
            "cgroup",
            Kind::Name,
            |row| of_cgroup(row, |cgroup| Some(cgroup.path())),
            "Path of the cgroup",
        )
        .unknown("the cgroup is unknown, or gone, or `other` is true"),
        Column::<R>::new(
            "cgroup_id",
            Kind::Number,
            |row| match row.as_ref().key {
                GroupKey::Cgroup(id) => id.into(),
                _ => Value::Unknown,
            },
            "Id of the cgroup",
        )
        .unknown("the cgroup is unknown, or `other` is true"),
        other(),
    ]
}

/// One of the names of a group's cgroup.
fn of_cgroup<R: AsRef<Group>>(row: &R, field: fn(&Cgroup) -> Option<&str>) -> Value<'_> {
    name(row.as_ref().cgroup.as_ref(), field)
}

pub(super) const fn by_unit<R: AsRef<Group>>() -> [Column<R>; 2] {
    [
        unit::<R>(|row| of_cgroup(row, Cgroup::unit))
            .unknown("there is none, or the cgroup is unknown, or gone, or `other` is true"),
        other(),
    ]
}

pub(super) const fn by_container<R: AsRef<Group>>() -> [Column<R>; 3] {
    let [id, name] = container::<R>(
        |row| of_cgroup(row, Cgroup::container),
        |row| of_cgroup(row, Cgroup::container_name),
    );
    [
        id.unknown("there is none, or the cgroup is unknown, or gone, or `other` is true"),
        name.unknown("the container is unknown, or Docker's state cannot be read"),
        other(),
    ]
}

pub(super) const fn by_pod<R: AsRef<Group>>() -> [Column<R>; 4] {
    let [name, namespace, uid] = pod::<R>(
        |row| of_cgroup(row, |cgroup| cgroup.pod().map(Pod::name)),
        |row| of_cgroup(row, |cgroup| cgroup.pod().map(Pod::namespace)),
        |row| of_cgroup(row, Cgroup::pod_uid),
    );
    [
        name.unknown("there is none, or `/var/log/pods` cannot be read, or `other` is true"),
        namespace.unknown("`pod` is unknown"),
        uid.unknown("there is none, or the cgroup is unknown, or gone, or `other` is true"),
        other(),
    ]
}

pub(super) const fn by_netns<R: AsRef<Group>>() -> [Column<R>; 2] {
    [
        Column::<R>::new(
            "netns",
            Kind::Number,
            |row| match row.as_ref().key {
                GroupKey::Netns(inode) => inode.into(),
                _ => Value::Unknown,
            },
            "Inode number of the network namespace",
        )
        .unknown("the program cannot read the socket, or `other` is true"),
        other(),
    ]
}

pub(super) const fn by_raddr<R: AsRef<Group>>() -> [Column<R>; 2] {
    [
        Column::<R>::new(
            "raddr",
            Kind::Address,
            |row| match row.as_ref().key {
                GroupKey::Raddr(address) => address.into(),
                _ => Value::Unknown,
            },
            "Remote address",
        )
        .unknown(
            "a listener has none, of half-open connections it is not counted, or `other` is true",
        ),
        other(),
    ]
}

pub(super) const fn by_prefix<R: AsRef<Group>>() -> [Column<R>; 2] {
    [
        Column::<R>::new(
            "prefix",
            Kind::Prefix,
            |row| match row.as_ref().key {
                GroupKey::Prefix(Some(prefix)) => Value::Prefix(prefix),
                _ => Value::Unknown,
            },
            "Prefix of the remote address: 24 bits of IPv4, 64 of IPv6",
        )
        .unknown(
            "a listener has none, of half-open connections it is not counted, or `other` is true",
        ),
        other(),
    ]
}

pub(super) const fn by_cause<R: AsRef<Group>>() -> [Column<R>; 2] {
    [
        Column::<R>::new(
            "cause",
            Kind::Cause,
            |row| match row.as_ref().key {
                GroupKey::Cause(cause) => cause.into(),
                _ => Value::Unknown,
            },
            "Why the connections ended",
        )
        .unknown("they did not end, or the cause is unknown, or `other` is true"),
        other(),
    ]
}

/// Chooses from a table for each way of grouping: columns, then those of the group (by port: this function's),
/// then columns.
macro_rules! tables_by {
    (
        $by:expr, $row:ty, $name:literal, $doc:literal, $before:tt, $by_port:ident, $after:tt
    ) => {{
        use $crate::catalogue::group;
        match $by {
            By::Port => tables_by!(@ $row, $name, $doc, $before, $by_port(), $after),
            By::Role => tables_by!(@ $row, $name, $doc, $before, group::by_role(), $after),
            By::Comm => tables_by!(@ $row, $name, $doc, $before, group::by_comm(), $after),
            By::Pid => tables_by!(@ $row, $name, $doc, $before, group::by_pid(), $after),
            By::Cgroup => tables_by!(@ $row, $name, $doc, $before, group::by_cgroup(), $after),
            By::Unit => tables_by!(@ $row, $name, $doc, $before, group::by_unit(), $after),
            By::Container => tables_by!(@ $row, $name, $doc, $before, group::by_container(), $after),
            By::Pod => tables_by!(@ $row, $name, $doc, $before, group::by_pod(), $after),
            By::Netns => tables_by!(@ $row, $name, $doc, $before, group::by_netns(), $after),
            By::Raddr => tables_by!(@ $row, $name, $doc, $before, group::by_raddr(), $after),
            By::Prefix => tables_by!(@ $row, $name, $doc, $before, group::by_prefix(), $after),
            By::Cause => tables_by!(@ $row, $name, $doc, $before, group::by_cause(), $after),
        }
    }};
    (@ $row:ty, $name:literal, $doc:literal, [$($before:expr),*], $key:expr, [$($after:expr),*]) => {{
        static TABLE: Table<$row> = Table {
            name: $name,
            doc: $doc,
            sections: &[$(&$before,)* &$key, $(&$after),*],
        };
        &TABLE
    }};
}
pub(super) use tables_by;
