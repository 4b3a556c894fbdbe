//! The columns that several kinds of record share.

use std::{net::IpAddr, sync::Arc};

use super::column::{Column, Formats, Kind, Value};
use crate::{
    names::{Cgroup, Pod},
    owner::{Holders, How, Owner},
    service::Role,
};

/// The words of `role`.
pub(super) const ROLES: Kind = Kind::Word(&["client", "server"]);

/// What every record about one socket has.
#[derive(Clone, Debug)]
pub struct Common {
    /// Wall-clock time, nanoseconds since 1970.
    pub wall_ns: i64,
    /// Monotonic time.
    pub ts_ns: u64,
    /// The socket's cookie.
    pub cookie: Option<u64>,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Whether IPv4 travels on the wire.
    pub is_ipv4: bool,
    /// Local address.
    pub laddr: IpAddr,
    /// Local port; 0 is none yet.
    pub lport: u16,
    /// Remote address.
    pub raddr: IpAddr,
    /// Remote port; 0 is none yet.
    pub rport: u16,
    /// The port of the service: the server's.
    pub service_port: Option<u16>,
    /// Which side it is.
    pub role: Role,
    /// The process that it belongs to.
    pub owner: Owner,
    /// The user that it belongs to.
    pub uid: Option<u32>,
    /// The names of its cgroup.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Id of its cgroup.
    pub cgroup_id: Option<u64>,
}

impl From<Role> for Value<'_> {
    fn from(role: Role) -> Self {
        match role {
            Role::Unknown => Self::Unknown,
            role => Self::Word(role.name()),
        }
    }
}

/// A field of the owner, which is absent as a whole where it is unknown.
fn of_owner<'a>(owner: &'a Owner, field: impl FnOnce(&'a Owner) -> Value<'a>) -> Value<'a> {
    match owner.how {
        How::Unknown => Value::Absent,
        How::Exact | How::Listener | How::Seeded => field(owner),
    }
}

/// The processes that have to do with a socket.
pub(super) const fn processes<R>(get: for<'a> fn(&'a R) -> Value<'a>) -> Column<R> {
    Column::<R>::new(
        "processes",
        Kind::Nested("list of `{pid, comm, how}`"),
        get,
        "The processes that have to do with the socket, where more is known than its owner. `how` is a list: \
         `opened` it, or the listener where the connection came in; `holds` that socket, as `/proc/PID/fd` \
         showed; `closed` the connection. At most 33",
    )
    .only(Formats::Json)
    .unknown("nothing is known beside the owner")
}

/// The value of that column.
pub(super) fn list(processes: Option<&Holders>) -> Value<'_> {
    processes.map_or(Value::Unknown, |processes| Value::Processes(processes))
}

/// Reads a field of a row.
type Get<R> = for<'a> fn(&'a R) -> Value<'a>;

/// The column of a systemd unit.
pub(super) const fn unit<R>(get: Get<R>) -> Column<R> {
    Column::<R>::new(
        "unit",
        Kind::Name,
        get,
        "The systemd unit that the cgroup is of; in the session or under the manager of a user, the user's unit",
    )
}

/// The columns of a container.
pub(super) const fn container<R>(id: Get<R>, name: Get<R>) -> [Column<R>; 2] {
    [
        Column::<R>::new(
            "container",
            Kind::Name,
            id,
            "Id of the container that the cgroup is of, 64 hexadecimal digits (Docker, containerd, CRI-O, Podman)",
        ),
        Column::<R>::new(
            "container_name",
            Kind::Name,
            name,
            "Name of the container, where Docker runs it",
        ),
    ]
}

/// The columns of a pod.
pub(super) const fn pod<R>(name: Get<R>, namespace: Get<R>, uid: Get<R>) -> [Column<R>; 3] {
    [
        Column::<R>::new(
            "pod",
            Kind::Name,
            name,
            "Name of the Kubernetes pod that the cgroup is of",
        ),
        Column::<R>::new(
            "pod_namespace",
            Kind::Name,
            namespace,
            "Namespace of the pod, in Kubernetes",
        ),
        Column::<R>::new("pod_uid", Kind::Name, uid, "UID of the pod"),
    ]
}

/// One of the names of a cgroup.
pub(super) fn name(cgroup: Option<&Arc<Cgroup>>, name: fn(&Cgroup) -> Option<&str>) -> Value<'_> {
    let name = cgroup.and_then(|cgroup| name(cgroup));
    name.map_or(Value::Unknown, |name| Value::Name(name.as_bytes()))
}

/// The columns of [`Common`].
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) const fn common<R: AsRef<Common>>() -> [Column<R>; 23] {
    let [id, container_name] = container::<R>(
        |row| name(row.as_ref().cgroup.as_ref(), Cgroup::container),
        |row| name(row.as_ref().cgroup.as_ref(), Cgroup::container_name),
    );
    let [pod, pod_namespace, pod_uid] = pod::<R>(
        |row| {
            name(row.as_ref().cgroup.as_ref(), |cgroup| {
                cgroup.pod().map(Pod::name)
            })
        },
        |row| {
            name(row.as_ref().cgroup.as_ref(), |cgroup| {
                cgroup.pod().map(Pod::namespace)
            })
        },
        |row| name(row.as_ref().cgroup.as_ref(), Cgroup::pod_uid),
    );
    [
        Column::<R>::new(
            "ts",
            Kind::Time,
            |row| Value::Time(row.as_ref().wall_ns),
            "Wall-clock time",
        ),
        Column::<R>::new(
            "ts_ns",
            Kind::Nanoseconds,
            |row| row.as_ref().ts_ns.into(),
            "The same time on the monotonic clock, which counts from boot",
        ),
        Column::<R>::new(
            "cookie",
            Kind::Number,
            |row| row.as_ref().cookie.into(),
            "The kernel's socket cookie, unique until the next boot",
        )
        .unknown("the kernel has given the socket none, or the program cannot ask for it (before Linux 5.12, or `--attach tracepoint`)"),
        Column::<R>::new(
            "netns",
            Kind::Number,
            |row| row.as_ref().netns.into(),
            "Inode number of the network namespace",
        )
        .unknown("the program cannot read the socket"),
        Column::<R>::new(
            "family",
            Kind::Word(&["ipv4", "ipv6"]),
            |row| {
                let is_ipv4 = row.as_ref().is_ipv4;
                Value::Word(if is_ipv4 { "ipv4" } else { "ipv6" })
            },
            "The protocol on the wire; a v4-mapped IPv6 socket is `ipv4`",
        ),
        Column::<R>::new(
            "laddr",
            Kind::Address,
            |row| row.as_ref().laddr.into(),
            "Local address; `0.0.0.0` or `::` before it is chosen",
        ),
        Column::<R>::new(
            "lport",
            Kind::Port,
            |row| row.as_ref().lport.into(),
            "Local port; 0 before it is chosen",
        ),
        Column::<R>::new(
            "raddr",
            Kind::Address,
            |row| row.as_ref().raddr.into(),
            "Remote address; `0.0.0.0` or `::` where there is none",
        ),
        Column::<R>::new(
            "rport",
            Kind::Port,
            |row| row.as_ref().rport.into(),
            "Remote port; 0 where there is none",
        ),
        Column::<R>::new(
            "service_port",
            Kind::Port,
            |row| row.as_ref().service_port.into(),
            "The server's port: local for a server, remote for a client",
        )
        .unknown("the role is unknown"),
        Column::<R>::new(
            "role",
            ROLES,
            |row| row.as_ref().role.into(),
            "The side of the connection that this socket is",
        )
        .unknown("the connection is older than the run, and nothing shows its role"),
        Column::<R>::new(
            "owner.pid",
            Kind::Number,
            |row| of_owner(&row.as_ref().owner, |owner| owner.pid.into()),
            "Process id, in the initial pid namespace; of `ls`, in that of `/proc`",
        )
        .unknown("the owner is unknown, or several processes listen at the same place (`SO_REUSEPORT`)"),
        Column::<R>::new(
            "owner.comm",
            Kind::Name,
            |row| {
                of_owner(&row.as_ref().owner, |owner| {
                    let comm = owner.comm.as_ref();
                    comm.map_or(Value::Unknown, |comm| Value::Name(comm.as_bytes()))
                })
            },
            "Name of the process (`comm`)",
        )
        .unknown("the owner is unknown, or processes of several names listen at the same place"),
        Column::<R>::new(
            "owner.how",
            Kind::Word(&["exact", "listener", "seeded"]),
            |row| {
                of_owner(&row.as_ref().owner, |owner| {
                    Value::Word(owner.how.name())
                })
            },
            "The source of the owner: it made the call itself, it owns the listener, or it was looked up in \
             `/proc`, for a socket that was there before or that its opener has left to others",
        )
        .unknown("the owner is unknown"),
        Column::<R>::new(
            "uid",
            Kind::Number,
            |row| row.as_ref().uid.into(),
            "User id of the socket's owner",
        )
        .unknown("the socket is a minisocket, or the program cannot read it"),
        Column::<R>::new(
            "cgroup",
            Kind::Name,
            |row| name(row.as_ref().cgroup.as_ref(), |cgroup| Some(cgroup.path())),
            "Path of the socket's cgroup",
        )
        .unknown("the cgroup is unknown, or gone"),
        Column::<R>::new(
            "cgroup_id",
            Kind::Number,
            |row| row.as_ref().cgroup_id.into(),
            "Id of the socket's cgroup",
        )
        .unknown("there is no cgroup of version 2, or the program cannot read the socket"),
        unit::<R>(|row| name(row.as_ref().cgroup.as_ref(), Cgroup::unit))
            .unknown("there is none, or the cgroup is unknown, or gone"),
        id.unknown("there is none, or the cgroup is unknown, or gone"),
        container_name.unknown("the container is unknown, or Docker's state cannot be read"),
        pod.unknown("there is none, or `/var/log/pods` cannot be read"),
        pod_namespace.unknown("`pod` is unknown"),
        pod_uid.unknown("there is none, or the cgroup is unknown, or gone"),
    ]
}

/// When an interval ended, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Wall-clock time of the end, nanoseconds since 1970.
    pub wall_ns: i64,
    /// Monotonic time of the end.
    pub ts_ns: u64,
    /// Length.
    pub interval_ns: u64,
}

/// The columns of [`Stamp`].
pub(super) const fn stamp<R: AsRef<Stamp>>() -> [Column<R>; 3] {
    [
        Column::<R>::new(
            "ts",
            Kind::Time,
            |row| Value::Time(row.as_ref().wall_ns),
            "Wall-clock time of the end of the interval",
        ),
        Column::<R>::new(
            "ts_ns",
            Kind::Nanoseconds,
            |row| row.as_ref().ts_ns.into(),
            "The same time on the monotonic clock, which counts from boot",
        ),
        Column::<R>::new(
            "interval_ns",
            Kind::Nanoseconds,
            |row| row.as_ref().interval_ns.into(),
            "Length of the interval",
        ),
    ]
}
