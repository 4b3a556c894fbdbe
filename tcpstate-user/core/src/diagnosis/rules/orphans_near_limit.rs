//! Too many sockets that no process has open any more.

use std::fmt::Write as _;

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Severity, Snapshot, share::Share,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "orphans_near_limit",
        side: Role::Unknown,
        title: "too many sockets that their process has closed",
        is: "Sockets that a process has closed, and that the kernel still has to finish: orphans. Their number is near the limit \
             of the host, or the kernel aborts some already, for that or for want of memory for TCP.",
        why: "Above the limit the kernel resets such connections at once, and the end of what they had to send is lost. A \
              silent or blocked peer's counts twice or four times.",
        signal: "`orphan` in /proc/net/sockstat above `orphans_share` of `tcp_max_orphans`; `TCPAbortOnMemory` rising. Both \
                 numbers are those of the whole host, whatever the namespace.",
        advice: &[
            "Find the service that leaves them (stuck_closing has the same ones), and why its peers do not answer or read.",
            "In the application, set TCP_USER_TIMEOUT; for the host, lower `tcp_orphan_retries` to 3: orphans of a silent peer then \
             end after some 6 s.",
            "If the host has memory to spare, raise `tcp_max_orphans`: an orphan takes up to 64 kB that cannot be swapped out. If \
             there are few orphans and the counter rises, TCP's memory is full: see `tcp_mem`.",
        ],
        settings: &[
            Setting {
                path: "net/ipv4/tcp_max_orphans",
                effect: "the limit, of the whole host",
            },
            Setting {
                path: "net/ipv4/tcp_orphan_retries",
                effect: "ends orphans whose peer is silent; 0 acts as 8",
            },
            Setting {
                path: "net/ipv4/tcp_fin_timeout",
                effect: "ends orphans in FIN_WAIT2",
            },
        ],
        commands: &[
            "cat /proc/net/sockstat",
            "nstat -az TcpExtTCPAbortOnMemory",
            "ss -tano state fin-wait-1 state last-ack state closing",
        ],
        told_from: &[
            "TIME_WAIT and FIN_WAIT2 of closed sockets: these are kept as something smaller, and are no orphans",
        ],
        states: &[State::FIN_WAIT1, State::LAST_ACK, State::CLOSING],
        sources: &["tcp_check_oom", "tcp_out_of_resources", "__tcp_close"],
    },
    needs: &[Input::Settings],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let facts = snapshot.facts;
    let most_of = |name: &str| facts.iter().filter_map(|one| one.counters.get(name)).max();
    // The number is that of the host in every namespace; the limit is only shown in the first one.
    let Some(orphans) = most_of("sockstat.orphan") else {
        return Vec::new();
    };
    let limit = facts
        .iter()
        .find_map(|one| one.settings.number("net/ipv4/tcp_max_orphans"));
    let aborted = facts.iter();
    let aborted: Vec<_> = aborted
        .filter_map(|one| Some((one.netns, snapshot.risen(one.netns, "TCPAbortOnMemory")?)))
        .collect();
    let all_aborted = aborted
        .iter()
        .fold(0_u64, |sum, &(_, aborted)| sum.saturating_add(aborted));
    let is_near = limit.is_some_and(|limit| {
        orphans > 0 && Share::of(orphans, limit).is_at_least(snapshot.thresholds.orphans_share)
    });
    let severity = match (all_aborted > 0, is_near) {
        (true, _) => Severity::Critical,
        (false, true) => Severity::Warning,
        (false, false) => return Vec::new(),
    };
    let place = Place {
        netns: None,
        role: Role::Unknown,
        port: None,
        peer: None,
    };
    let mut summary = format!("{} on this host", Counted(orphans, "orphan"));
    if let Some(limit) = limit {
        // Writing to a string does not fail.
        let _ = write!(summary, ", the limit is {}", Count(limit));
    }
    if all_aborted > 0 {
        let _ = write!(summary, "; {} aborted", Counted(all_aborted, "connection"));
    }
    let mut finding = Finding::new(&RULE.text, severity, place, summary);
    finding.figures = vec![Figure::count("orphans", orphans, Evidence::Counted)];
    finding
        .figures
        .extend(limit.map(|limit| Figure::count("limit", limit, Evidence::Counted)));
    if !aborted.is_empty() {
        finding
            .figures
            .push(Figure::count("aborted", all_aborted, Evidence::Counted));
    }
    for (netns, aborted) in aborted.iter().filter(|(_, aborted)| *aborted > 0) {
        finding.here.push(format!(
            "{} aborted in network namespace {netns}.",
            Counted(*aborted, "connection")
        ));
    }
    if !is_near && limit.is_some() {
        finding.here.push(
            "The orphans are far from the limit: connections were aborted for want of memory (`tcp_mem`)."
                .to_owned(),
        );
    }
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::sample::Sample;

    fn orphans(orphans: u64, aborted: u64) -> Sample {
        Sample::default()
            .counting(&[("sockstat.orphan", orphans), ("TCPAbortOnMemory", aborted)])
            .set(&[("net/ipv4/tcp_max_orphans", "1000")])
    }

    #[test]
    fn half_of_the_limit_is_a_warning_and_an_abort_is_critical() {
        assert!(orphans(499, 3).found(&RULE).is_empty());
        let near = orphans(500, 3).found(&RULE);
        assert_eq!(near[0].severity, Severity::Warning);
        assert_eq!(
            near[0].summary,
            "500 orphans on this host, the limit is 1,000"
        );
        let aborts = orphans(990, 5).after(orphans(100, 3)).found(&RULE);
        assert_eq!(aborts[0].severity, Severity::Critical);
        assert_eq!(
            aborts[0].summary,
            "990 orphans on this host, the limit is 1,000; 2 connections aborted"
        );
        let memory = orphans(10, 5).after(orphans(10, 3)).found(&RULE);
        assert!(
            memory[0].here.iter().any(|line| line.contains("tcp_mem")),
            "{memory:?}"
        );
    }

    #[test]
    fn without_a_known_limit_only_aborts_are_found() {
        let unknown = Sample::default().counting(&[("sockstat.orphan", 1 << 20)]);
        assert!(unknown.found(&RULE).is_empty());
        assert!(Sample::default().found(&RULE).is_empty());
    }
}
