//! Arguments of `tcpstate ls`.

use clap::Args;
use tcpstate_core::{filter::StateSet, netns::NetnsSelector};

use crate::{
    column_args::ColumnArgs, headings::FILTERS, owner_args::OwnerArgs, sockets::EndpointArgs,
    watch::Output,
};

/// Arguments of `tcpstate ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Look up which process holds each socket, and show the socket's cgroup; other users' processes
    /// require root; implied by --pid and --comm
    #[arg(long)]
    pub resolve_owners: bool,
    /// Also show byte counts, retransmissions, round-trip times and the time since the last packet
    #[arg(short, long)]
    pub info: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Network namespace to list: `self`, `all` of them, an `ip netns` name, a path such as
    /// /proc/PID/ns/net, or an inode number
    #[arg(long, value_name = "NETNS", default_value = "self", help_heading = FILTERS)]
    pub netns: NetnsSelector,
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Only sockets in one of these states, such as established,time-wait, or in a group: all,
    /// connected, synchronized, bucket, big
    #[arg(long, value_name = "LIST", help_heading = FILTERS)]
    pub state: Option<StateSet>,
}

pub(crate) const ABOUT: &str = "\
Lists the TCP sockets that exist now, as `ss -tan` does, including half-open connections (SYN_RECV) and \
those in TIME_WAIT. Requires no privileges in its own network namespace.

ROLE is derived from what listens now, and is `-` where that leaves it open. SERVICE is the service \
port: the local port of a server, the remote port of a client. For a listener, RECV-Q is the number of \
connections waiting to be accepted, and SEND-Q is its limit (the backlog). AGE is the time in the state \
where a timer gives it (TIME_WAIT, half-open). Otherwise the kernel does not say, and nothing was watching: `>` \
marks a lower bound, from the last packet (ESTABLISHED, FIN_WAIT2, CLOSE_WAIT, CLOSING) or, of a half-open \
connection whose SYN or SYN-ACK was repeated, from its timer; `-` is unknown. --info shows when the last packet \
came (LAST-PKT).

Anything that could not be listed is reported on standard error; with --json, in the last line.";

pub(crate) const EXAMPLES: &str = "\
Examples:
  tcpstate ls --state connected         all but listeners
  tcpstate ls --state close-wait --resolve-owners
                                        who does not close its connections
  tcpstate ls --comm nginx --role server
                                        nginx's listeners and connections
  tcpstate ls --state syn-recv -L 443   a web server's handshakes under way
  tcpstate ls --netns all --json | jq -r '.state // empty' | sort | uniq -c
                                        sockets by state, in all namespaces";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    #[test]
    fn ls_lists_its_own_namespace_by_default() {
        let words = |words: &[&str]| {
            let words = ["tcpstate", "ls"].iter().chain(words);
            match Cli::try_parse_from(words).unwrap().command {
                Command::Ls(ls) => ls,
                _ => unreachable!("the words say ls"),
            }
        };
        let ls = words(&[]);
        assert!(ls.endpoints.filter().wants_all() && ls.state.is_none());
        assert_eq!(ls.netns, NetnsSelector::Own);
        let ls = words(&["-6", "--state", "bucket", "--netns", "all", "-i"]);
        assert_eq!(ls.endpoints.filter().to_string(), "-6");
        assert_eq!(ls.state, Some("syn_recv,time_wait".parse().unwrap()));
        assert_eq!((ls.netns, ls.info), (NetnsSelector::All, true));
    }
}
