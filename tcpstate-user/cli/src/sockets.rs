//! The selection of sockets: by address family, port, network namespace and owner.

use std::path::PathBuf;

use clap::Args;
use tcpstate_core::{
    filter::{Family, Filter, PortSet},
    netns::{NetnsSelector, SELF_PATH},
};

use crate::{headings::FILTERS, owner_args::OwnerArgs};

/// The selection of sockets, for commands that watch.
#[derive(Debug, Args)]
#[command(next_help_heading = FILTERS)]
pub struct Sockets {
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Network namespace: `all`, `self`, an `ip netns` name, a path such as /proc/PID/ns/net, or an inode
    /// number
    #[arg(long, value_name = "NETNS", default_value = "all", value_parser = parse_netns)]
    pub netns: NetnsArg,
    #[command(flatten)]
    pub owner: OwnerArgs,
}

impl Sockets {
    /// The filter that these arguments make.
    pub fn filter(&self) -> Filter {
        Filter {
            netns: self.netns.inode,
            ..self.endpoints.filter()
        }
    }
}

/// The selection of sockets by address family and port.
#[derive(Debug, Args)]
#[command(next_help_heading = FILTERS)]
pub struct EndpointArgs {
    /// Only IPv4, including v4-mapped addresses
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Only IPv6, excluding v4-mapped addresses
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Only these local ports: numbers and ranges, such as 80,443,8000-8100
    #[arg(short = 'L', long, value_name = "LIST")]
    pub lport: Option<PortSet>,
    /// Only these remote ports
    #[arg(short = 'D', long, value_name = "LIST")]
    pub rport: Option<PortSet>,
    /// Only these ports, local or remote
    #[arg(short = 'P', long, value_name = "LIST")]
    pub port: Option<PortSet>,
}

impl EndpointArgs {
    /// The filter that these arguments make.
    pub fn filter(&self) -> Filter {
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::Ipv4),
            (false, true) => Some(Family::Ipv6),
            (false, false) => None,
        };
        Filter {
            family,
            lport: self.lport.clone(),
            rport: self.rport.clone(),
            port: self.port.clone(),
            netns: None,
        }
    }
}

/// One network namespace, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsArg {
    /// Its inode number, by which the kernel identifies it; `None`: all.
    pub inode: Option<u32>,
    /// The selector as given: a namespace without a process can be opened only by its path.
    pub wanted: NetnsSelector,
}

/// The file system of namespaces. *Source:* `NSFS_MAGIC` in `include/uapi/linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Reads a choice of network namespaces, and looks up the inode number of a single one.
pub(crate) fn parse_netns(text: &str) -> Result<NetnsArg, String> {
    let Ok(wanted) = text.parse();
    let path = match &wanted {
        NetnsSelector::All => {
            return Ok(NetnsArg {
                inode: None,
                wanted,
            });
        }
        &NetnsSelector::Inode(inode) => {
            return Ok(NetnsArg {
                inode: Some(inode),
                wanted,
            });
        }
        NetnsSelector::Own => PathBuf::from(SELF_PATH),
        NetnsSelector::File(path) => path.clone(),
    };
    let unreadable = |error| format!("cannot read {}: {error}", path.display());
    let inode = rustix::fs::stat(&path).map_err(unreadable)?.st_ino;
    let is_namespace = rustix::fs::statfs(&path).map_err(unreadable)?.f_type == NSFS_MAGIC;
    let inode = u32::try_from(inode).ok().filter(|_| is_namespace);
    let inode = inode.ok_or_else(|| format!("{} is not a network namespace", path.display()))?;
    Ok(NetnsArg {
        inode: Some(inode),
        wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::trace;

    #[test]
    fn a_filter_prints_the_arguments_that_made_it() {
        let trace = trace(&[
            "-4", "-L80", "--rport", "1-1023", "-P", "443", "--netns", "7",
        ])
        .unwrap();
        assert_eq!(
            trace.watch.sockets.filter().to_string(),
            "-4 --lport 80 --rport 1-1023 --port 443 --netns 7"
        );
    }

    #[test]
    fn a_namespace_is_found_by_each_of_its_names() {
        let expected =
            u32::try_from(rustix::fs::stat("/proc/self/ns/net").unwrap().st_ino).unwrap();
        for name in ["self", "/proc/self/ns/net", &expected.to_string()] {
            let found = parse_netns(name).map(|netns| netns.inode);
            assert_eq!(found, Ok(Some(expected)), "{name}");
        }
        assert_eq!(parse_netns("all").map(|netns| netns.inode), Ok(None));
        let error = parse_netns("no-such-namespace").unwrap_err();
        assert!(error.contains("/run/netns/no-such-namespace"), "{error}");
    }
}
