//! The selection of connections by process, user, cgroup and role.

use std::{fs, path::PathBuf};

use clap::Args;
use tcpstate_core::{
    filter::{CgroupTree, OwnerFilter},
    owner::Comm,
    service::Role,
};

use crate::{
    choice::{Choices, choice},
    headings::FILTERS,
};

/// The selection of connections by process, user, cgroup and role.
#[derive(Debug, Args)]
#[command(next_help_heading = FILTERS)]
pub struct OwnerArgs {
    /// Only connections of these processes; a server's are selected by each process that holds its
    /// listener, or opened it
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_pid)]
    pub pid: Vec<u32>,
    /// Only connections of processes with one of these names, as in /proc/PID/comm; the kernel keeps 15
    /// bytes of a name
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_comm)]
    pub comm: Vec<CommArg>,
    /// Only sockets that belonged to one of these users when opened: numbers or names
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_uid)]
    pub uid: Vec<u32>,
    /// Only sockets in this cgroup or below it: a path as in /proc/PID/cgroup, or its directory
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Only connections in this role; of a packet capture, this end of each connection
    #[arg(
        long,
        visible_alias = "end",
        value_name = "ROLE",
        default_value = "both",
        hide_default_value = true,
        value_parser = choice(ROLES)
    )]
    pub role: RoleArg,
}

/// The role that is asked for; `None`: either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleArg(pub Option<Role>);

impl OwnerArgs {
    /// The filter that these arguments make, with the cgroup found at [`OwnerArgs::cgroup`].
    pub fn filter(&self, cgroup: Option<CgroupTree>) -> OwnerFilter {
        OwnerFilter {
            pids: self.pid.clone(),
            comms: self.comm.iter().map(|one| one.comm).collect(),
            uids: self.uid.clone(),
            cgroup,
            role: self.role.0,
        }
    }

    /// The names that were longer than the kernel keeps, as it keeps them.
    pub fn truncated_names(&self) -> impl Iterator<Item = Comm> {
        let truncated = self.comm.iter().filter(|one| one.is_truncated);
        truncated.map(|one| one.comm)
    }

    /// Whether any of these arguments is given.
    pub fn is_given(&self) -> bool {
        self.needs_process()
            || !self.uid.is_empty()
            || self.cgroup.is_some()
            || self.role.0.is_some()
    }

    /// Whether the selection depends on the process that a socket belongs to.
    pub fn needs_process(&self) -> bool {
        !(self.pid.is_empty() && self.comm.is_empty())
    }
}

/// A process name.
#[derive(Clone, Copy, Debug)]
pub struct CommArg {
    /// As the kernel keeps it.
    pub comm: Comm,
    /// Whether more was given.
    pub is_truncated: bool,
}

const ROLES: Choices<RoleArg> = &[
    (RoleArg(Some(Role::Client)), "client", "This side connected"),
    (
        RoleArg(Some(Role::Server)),
        "server",
        "This side was connected to, or listens",
    ),
    (RoleArg(None), "both", "Either, as without it"),
];

/// Reads the number of a process.
fn parse_pid(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Err(
            "an empty item; write processes with a comma between them, such as 17,4242".to_owned(),
        );
    }
    let pid = text.parse().ok().filter(|&pid| pid > 0);
    pid.ok_or_else(|| {
        format!(
            "`{text}` is not the number of a process; these are 1 to {}",
            u32::MAX
        )
    })
}

/// Reads a process name, truncated as in the kernel.
fn parse_comm(text: &str) -> Result<CommArg, String> {
    /// *Source:* `TASK_COMM_LEN` in `include/linux/sched.h`, with the NUL.
    const MAX_BYTES: usize = 15;
    if text.is_empty() {
        return Err(
            "an empty item; write names with a comma between them, such as nginx,php-fpm"
                .to_owned(),
        );
    }
    let mut comm = Comm::default();
    for (to, byte) in comm.0.iter_mut().zip(text.bytes().take(MAX_BYTES)) {
        *to = byte;
    }
    Ok(CommArg {
        comm,
        is_truncated: text.len() > MAX_BYTES,
    })
}

/// Reads a user's number or name, and returns the number.
pub(crate) fn parse_uid(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Err(
            "an empty item; write users with a comma between them, such as root,33".to_owned(),
        );
    }
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "`{text}` is too large; a user's number is at most {}",
            u32::MAX
        ));
    }
    // Not getpwnam: it would load shared libraries into a program that is meant to be one file.
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    find_user(&users, text).ok_or_else(|| {
        format!("`{text}` is not a user in /etc/passwd; give the number that `id -u` prints")
    })
}

/// Finds a user's number in the text of `/etc/passwd`.
fn find_user(users: &str, name: &str) -> Option<u32> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    fn owner_args(arguments: &[&str]) -> Result<OwnerArgs, clap::Error> {
        let words = ["tcpstate", "trace"].iter().chain(arguments);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Trace(trace) => trace.watch.sockets.owner,
            _ => unreachable!("the words say trace"),
        })
    }

    #[test]
    fn owners_are_given_as_lists() {
        let none = owner_args(&[]).unwrap();
        assert!(none.filter(None).wants_all() && !none.needs_process());
        let arguments =
            "--pid 1,22 --pid 3 --comm nginx,containerd-shim-runc-v2 --uid root,33 --role client";
        let owner = owner_args(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
        assert!(owner.needs_process());
        assert_eq!(
            owner.filter(None).to_string(),
            "--pid 1,22,3 --comm nginx,containerd-shim --uid 0,33 --role client"
        );
        let truncated: Vec<Comm> = owner.truncated_names().collect();
        assert_eq!(format!("{truncated:?}"), r#"["containerd-shim"]"#);
        // It is just as long as the kernel keeps.
        let whole = owner_args(&["--comm", "containerd-shim"]).unwrap();
        assert_eq!(whole.truncated_names().count(), 0);
    }

    #[test]
    fn malformed_owners_are_refused() {
        for (arguments, reason) in [
            (["--pid", "0"], "`0` is not the number of a process"),
            (["--pid", "nginx"], "`nginx` is not the number of a process"),
            (["--pid", "4294967296"], "these are 1 to 4294967295"),
            (["--pid", ",5"], "an empty item"),
            (["--comm", "a,,b"], "an empty item"),
            (["--uid", "0,"], "an empty item"),
            (["--uid", "4294967296"], "at most 4294967295"),
            (["--state", ","], "an empty item"),
            (["--lport", ",80"], "an empty item"),
            (
                ["--uid", "no such"],
                "`no such` is not a user in /etc/passwd",
            ),
            (["--uid", "-1"], "unexpected argument"),
            (["--role", "peer"], "possible values: client, server"),
        ] {
            let error = owner_args(&arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn users_are_found_by_their_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:\nodd\nweb2:x:no:1::/:\n";
        assert_eq!(find_user(users, "root"), Some(0));
        assert_eq!(find_user(users, "web"), Some(33));
        for name in ["we", "x", "odd", "web2", ""] {
            assert_eq!(find_user(users, name), None, "{name}");
        }
    }
}
