//! Arguments of `tcpstate ls`.

use clap::Args;

use super::{FILTERS, Output};
use crate::{EndpointArgs, OwnerArgs};
use tcpstate_core::filter::StateSet;
use tcpstate_core::netns::NetnsSelector;

/// Arguments of `tcpstate ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Look up which process holds each socket, and show its cgroup; other users' processes take root
    #[arg(long)]
    pub resolve_owners: bool,
    /// Ask for byte counts, retransmits and round trip times as well
    #[arg(short, long)]
    pub info: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// The network namespaces to ask: `self`, `all`, a name of `ip netns`, a path such as
    /// /proc/PID/ns/net, or an inode number
    #[arg(long, value_name = "NETNS", default_value = "self", help_heading = FILTERS)]
    pub netns: NetnsSelector,
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Only sockets in these states, such as established,time-wait, or in a group of them: all,
    /// connected, synchronized, bucket, big
    #[arg(long, value_name = "LIST", help_heading = FILTERS)]
    pub state: Option<StateSet>,
}

pub(super) const ABOUT: &str = "\
Lists the TCP sockets there are now, as `ss -tan` does: also half-open connections (SYN_RECV) and those \
in TIME_WAIT. Needs no privileges in its own network namespace. --pid and --comm imply --resolve-owners.

The role follows from what listens now, and is `-` where that does not tell. SERVICE is the port that \
a person means: the local one of a server, the remote one of a client. RECV-Q and SEND-Q of a listener \
are the connections that wait to be accepted, and how many may. AGE is the \
time in the state, where a timer tells it (TIME_WAIT, half-open); else it is `-`: the kernel does not tell, \
and nothing was watching.

What could not be listed is said on standard error; with --json, in the last line.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tcpstate ls --state connected         all but listeners
  tcpstate ls --state close-wait --resolve-owners
                                        who does not close its connections
  tcpstate ls --comm nginx --role server
                                        what nginx holds
  tcpstate ls --state syn-recv -L 443   handshakes under way to our web server
  tcpstate ls --netns all --json | jq -r 'select(.type == \"socket\") | .state' | sort | uniq -c";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{
        super::{Cli, Command},
        *,
    };

    #[test]
    fn ls_asks_for_all_of_its_own_namespace() {
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
