//! Arguments of the commands that count by group: the grouping, and the form of the times above the counts.

use clap::Args;
use tcpstate_core::{model::By, options::TimeForm};

use crate::{
    choice::{Choices, choice},
    headings::OUTPUT,
    time_args::time_form,
};

/// Arguments of the commands that count by group.
// No `next_help_heading`: it would also apply to the groups flattened after this one.
#[derive(Clone, Copy, Debug, Args)]
pub struct Grouping {
    /// Property that the counts are grouped by
    #[arg(long, value_name = "WHAT", default_value = "port", value_parser = choice(BY), help_heading = OUTPUT)]
    pub by: By,
    /// Form of the times
    #[arg(
        short = 'T',
        long,
        value_name = "FORM",
        require_equals = true,
        default_value = "s",
        value_parser = time_form(),
        conflicts_with_all = ["json", "csv"],
        help_heading = OUTPUT
    )]
    pub time: TimeForm,
}

impl Grouping {
    /// The word for the grouping.
    pub(crate) fn word(self) -> &'static str {
        let chosen = BY.iter().find(|choice| choice.0 == self.by);
        chosen.map_or("", |choice| choice.1)
    }
}

pub(crate) const BY: Choices<By> = &[
    (By::Port, "port", "Service port, and role: client or server"),
    (By::Role, "role", "Role: client or server"),
    (
        By::Comm,
        "comm",
        "Name of the process that owns the connection",
    ),
    (By::Pid, "pid", "That process itself"),
    (
        By::Cgroup,
        "cgroup",
        "Path of the socket's cgroup, as in /proc/PID/cgroup; its number if it has no path",
    ),
    (By::Unit, "unit", "Unit of systemd, such as nginx.service"),
    (
        By::Container,
        "container",
        "Container, by its name in Docker or by 12 digits of its id",
    ),
    (
        By::Pod,
        "pod",
        "Kubernetes pod, as namespace/name, or by its UID",
    ),
    (By::Netns, "netns", "Network namespace, by its inode number"),
    (By::Raddr, "raddr", "Remote address"),
    (
        By::Prefix,
        "prefix",
        "Prefix of the remote address: /24 of IPv4, /64 of IPv6",
    ),
    (
        By::Cause,
        "cause",
        "Why the connection ended; `-` is all that ended none",
    ),
];
