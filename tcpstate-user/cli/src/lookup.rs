//! The meaning of the names in a filter expression on this host.

use std::{fs, sync::OnceLock};

use tcpstate_core::{expression::Lookup, filter::CgroupTree};

use crate::{owner_args::parse_uid, sockets::parse_netns};

/// The names of this host: services, users and network namespaces by their files, cgroups by the given function.
///
/// `/etc/services` is read once, when the first name of a service comes.
pub struct HostNames<F> {
    cgroup: F,
    services: OnceLock<String>,
}

impl<F: Fn(&str) -> Result<CgroupTree, String>> HostNames<F> {
    /// The names of this host, with this function for cgroups.
    pub const fn new(cgroup: F) -> Self {
        Self {
            cgroup,
            services: OnceLock::new(),
        }
    }
}

impl<F: Fn(&str) -> Result<CgroupTree, String>> Lookup for HostNames<F> {
    fn service(&self, name: &str) -> Option<u16> {
        // Not getservbyname: it would load shared libraries into a program that is meant to be one file.
        let read = || fs::read_to_string("/etc/services").unwrap_or_default();
        find_service(self.services.get_or_init(read), name)
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        parse_uid(name)
    }

    fn netns(&self, name: &str) -> Result<u32, String> {
        let inode = parse_netns(name)?.inode;
        inode.ok_or_else(|| "`all` is no condition; leave it out".to_owned())
    }

    fn cgroup(&self, path: &str) -> Result<CgroupTree, String> {
        (self.cgroup)(path)
    }
}

/// Finds the TCP port of a service, or of its other names, in the text of `/etc/services`.
fn find_service(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let line = line.split('#').next()?;
        let mut fields = line.split_whitespace();
        let first = fields.next()?;
        let port = fields.next()?.strip_suffix("/tcp")?.parse().ok()?;
        (first == name || fields.any(|other| other == name)).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_each_of_their_names() {
        let services =
            "# tcp\nssh 22/tcp\ndomain 53/udp\ndomain\t53/tcp\nhttp 80/tcp www # web\nodd\n";
        for (name, port) in [
            ("ssh", Some(22)),
            ("domain", Some(53)),
            ("www", Some(80)),
            ("web", None),
            ("odd", None),
        ] {
            assert_eq!(find_service(services, name), port, "{name}");
        }
    }
}
