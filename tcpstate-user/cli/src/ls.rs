//! Arguments of `tcpstate ls`.

use std::time::Duration;

use clap::Args;
use tcpstate_core::{
    duration::nanoseconds,
    expression::{Expression, Lookup, Moment},
    filter::StateSet,
    netns::NetnsSelector,
    options::ResolveOwners,
};

use crate::{
    capture::RESOLVE_OWNERS,
    choice::choice,
    column_args::ColumnArgs,
    expression::{language, parse_expression},
    headings::{CAPTURE, FILTERS},
    listed::listed,
    owner_args::OwnerArgs,
    quantity::parse_duration,
    sockets::EndpointArgs,
    watch::Output,
};

/// Arguments of `tcpstate ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Also show byte counts, retransmissions, round-trip times and the time since the last packet
    #[arg(short, long)]
    pub info: bool,
    /// Name each network namespace that cannot be listed, and say how much of the filter the kernel decided
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Network namespace: `all`, `self`, an `ip netns` name, a path such as /proc/PID/ns/net, or an inode
    /// number
    #[arg(long, value_name = "NETNS", default_value = "all", help_heading = FILTERS)]
    pub netns: NetnsSelector,
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Print which part of the filter the kernel decides and which is left to user space, then end
    #[arg(long, help_heading = FILTERS)]
    pub explain_filter: bool,
    /// Only sockets in one of these states, such as established,time-wait, or in a group: all,
    /// connected, synchronized, bucket, big
    #[arg(long, value_name = "LIST",
        value_parser = listed::<StateSet>(StateSet::words),
        hide_possible_values = true, help_heading = FILTERS)]
    pub state: Option<StateSet>,
    /// Only sockets that have been in their state longer than this, as far as AGE is known
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = FILTERS)]
    pub longer_than: Option<Duration>,
    /// Only sockets for which this is true, in the language of ss(8): see below
    #[arg(value_name = "FILTER", help_heading = FILTERS)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Whether to look up which process holds each socket; other users' processes require root; `yes` also
    /// shows the socket's cgroup
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "yes",
        value_parser = choice(RESOLVE_OWNERS),
        help_heading = CAPTURE
    )]
    pub resolve_owners: ResolveOwners,
}

impl Ls {
    /// The filter expression, with the age.
    ///
    /// *Errors:* a message that shows the wrong word.
    pub fn expression(&self, lookup: &dyn Lookup) -> Result<Expression, clap::Error> {
        let parse = |words: &[String]| parse_expression("ls", Moment::List, words, lookup);
        let words = parse(&self.words)?;
        Ok(match self.longer_than {
            Some(age) => words.and(parse(&[format!("dwell > {}ns", nanoseconds(age))])?),
            None => words,
        })
    }
}

pub(crate) const ABOUT: &str = "\
Lists the TCP sockets that exist now, as `ss -tan` does, including half-open connections (SYN_RECV) and \
those in TIME_WAIT, of all network namespaces, as the other commands show. Requires no privileges in its own \
network namespace; other ones, and the owners of other users' sockets, take root.

ROLE is derived from what listens now, and is `-` where that leaves it open. SERVICE is the service \
port: the local port of a server, the remote port of a client. For a listener, RECV-Q is the number of \
connections waiting to be accepted, and SEND-Q is its limit (the backlog). AGE is the time in the state \
where a timer gives it (TIME_WAIT, half-open). Otherwise the kernel does not say, and nothing was watching: `>` \
marks a lower bound, from the last packet (ESTABLISHED, FIN_WAIT2, CLOSE_WAIT, CLOSING) or, of a half-open \
connection whose SYN or SYN-ACK was repeated, from its timer; `-` is unknown. --info shows when the last packet \
came (LAST-PKT).

Anything that could not be listed is reported on standard error; with --json, in the last line. Then the exit \
status is 3.";

/// The language of filters, and examples.
pub(crate) fn epilogue() -> String {
    language() + "\n" + EXAMPLES
}

const EXAMPLES: &str = "\
Examples:
  tcpstate ls --state connected         all but listeners
  tcpstate ls --state close-wait --longer-than 1m
                                        who does not close its connections
  tcpstate ls --comm nginx --role server
                                        nginx's listeners and connections
  tcpstate ls --state syn-recv -L 443   a web server's handshakes under way
  tcpstate ls dst 10.0.0.0/8 and dport = :443
                                        connections to https servers of one net
  tcpstate ls state close-wait dwell '>' 1m not comm 'nginx*'
                                        who has not closed for a minute
  tcpstate ls --netns self --json | jq -r '.state // empty' | sort | uniq -c
                                        sockets by state, without containers";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use tcpstate_core::expression::NoNames;

    use super::*;
    use crate::{Cli, Command};

    #[test]
    fn an_age_is_one_more_condition() {
        let expression = |words: &[&str]| {
            let words = ["tcpstate", "ls"].iter().chain(words);
            match Cli::try_parse_from(words).unwrap().command {
                Command::Ls(ls) => ls.expression(&NoNames).map(|parsed| parsed.to_string()),
                _ => unreachable!("the words say ls"),
            }
        };
        let age = expression(&["dwell", ">", "90s"]).unwrap();
        assert_eq!(expression(&["--longer-than", "90s"]).unwrap(), age);
        let words = ["--longer-than=90s", "sport", "1", "or", "sport", "2"];
        let both = [
            "(", "sport", "1", "or", "sport", "2", ")", "dwell", ">", "90s",
        ];
        assert_eq!(expression(&words).unwrap(), expression(&both).unwrap());
        let error = expression(&["--longer-than=90s", "sprot", "1"]).unwrap_err();
        assert!(!error.to_string().contains("dwell >"), "{error}");
    }

    #[test]
    fn ls_lists_all_namespaces_and_their_owners_by_default() {
        let words = |words: &[&str]| {
            let words = ["tcpstate", "ls"].iter().chain(words);
            match Cli::try_parse_from(words).unwrap().command {
                Command::Ls(ls) => ls,
                _ => unreachable!("the words say ls"),
            }
        };
        let ls = words(&[]);
        assert!(ls.endpoints.filter().wants_all() && ls.state.is_none());
        assert_eq!(ls.netns, NetnsSelector::All);
        assert_eq!(ls.resolve_owners, ResolveOwners::Auto);
        let bare = words(&["--resolve-owners"]).resolve_owners;
        assert_eq!(bare, ResolveOwners::Yes);
        let ls = words(&["-6", "--state", "bucket", "--netns", "self", "-i"]);
        assert_eq!(ls.endpoints.filter().to_string(), "-6");
        assert_eq!(ls.state, Some("syn_recv,time_wait".parse().unwrap()));
        assert_eq!((ls.netns, ls.info), (NetnsSelector::Own, true));
    }
}
