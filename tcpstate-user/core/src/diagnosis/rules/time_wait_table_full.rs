//! Connections for which there was no room in `TIME_WAIT`.

use std::fmt::Write as _;

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Severity, Snapshot,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "time_wait_table_full",
        side: Role::Unknown,
        title: "no room in TIME_WAIT",
        is: "This side closes so many connections first that the kernel has reached its limit of sockets in TIME_WAIT, and \
             closes further ones without it. Its log need not say so.",
        why: "If the last ACK is lost, the peer's FIN is answered with a RST, and the peer sees an error. A late packet of the old \
              connection may meet a new one with the same ports.",
        signal: "`TCPTimeWaitOverflow` rising, or as many sockets in TIME_WAIT as `tcp_max_tw_buckets` allows.",
        advice: &[
            "Open fewer connections: keep them alive and use them again, or let the other side close first.",
            "Raise `tcp_max_tw_buckets`: a socket in TIME_WAIT takes less than 300 bytes.",
        ],
        settings: &[Setting {
            path: "net/ipv4/tcp_max_tw_buckets",
            effect: "the limit, of this namespace; closed sockets in FIN_WAIT2 count too",
        }],
        commands: &[
            "tcpstate ls state time-wait",
            "cat /proc/net/sockstat",
            "nstat -az TcpExtTCPTimeWaitOverflow",
        ],
        told_from: &[
            "many sockets in TIME_WAIT below the limit: they are harmless on a server, and end after 60 s",
        ],
        states: &[State::TIME_WAIT],
        sources: &[
            "tcp_time_wait",
            "inet_twsk_alloc",
            "RFC 9293, section 3.6.1",
        ],
    },
    needs: &[Input::Settings],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for facts in snapshot.facts {
        let overflows = snapshot.risen(facts.netns, "TCPTimeWaitOverflow");
        let present = facts.counters.get("sockstat.tw");
        let limit = facts.settings.number("net/ipv4/tcp_max_tw_buckets");
        let is_full = present
            .zip(limit)
            .is_some_and(|(present, limit)| present > 0 && present >= limit);
        let overflows_now = overflows.is_some_and(|overflows| overflows > 0);
        if !is_full && !overflows_now {
            continue;
        }
        let mut summary = match present {
            Some(present) => format!("{} in TIME_WAIT", Counted(present, "socket")),
            None => "TIME_WAIT has no room".to_owned(),
        };
        if let Some(limit) = limit {
            // Writing to a string does not fail.
            let _ = write!(summary, ", the limit is {}", Count(limit));
        }
        if let Some(overflows) = overflows.filter(|&overflows| overflows > 0) {
            let _ = write!(
                summary,
                "; {} closed without it",
                Counted(overflows, "connection")
            );
        }
        let place = Place::netns(facts.netns);
        let mut finding = Finding::new(&RULE.text, Severity::Warning, place, summary);
        finding
            .figures
            .extend(overflows.map(|count| Figure::count("overflows", count, Evidence::Counted)));
        for (name, count) in [("time_wait", present), ("limit", limit)] {
            finding
                .figures
                .extend(count.map(|count| Figure::count(name, count, Evidence::Counted)));
        }
        finding.here.extend(most(snapshot, facts.netns));
        findings.push(finding);
    }
    findings
}

/// The service that has the most of them.
fn most(snapshot: &Snapshot<'_>, netns: u32) -> Option<String> {
    let groups = snapshot.sockets?.in_state(State::TIME_WAIT);
    let (key, group) = groups
        .filter(|(key, _)| key.netns == netns && key.port.is_some())
        .max_by_key(|(key, group)| (group.count, **key))?;
    Some(format!(
        "The most, {}, are of port {} on the side of the {}, which closes first.",
        Count(group.count),
        key.port?,
        key.role.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::sample::{Sample, group, key},
        service::Role,
    };

    fn table(overflows: u64, present: u64) -> Sample {
        Sample::default()
            .counting(&[("TCPTimeWaitOverflow", overflows), ("sockstat.tw", present)])
            .set(&[("net/ipv4/tcp_max_tw_buckets", "20")])
            .with(key(80, Role::Server, State::TIME_WAIT), group(present))
    }

    #[test]
    fn an_overflow_is_found_and_a_large_table_is_not() {
        assert!(table(7, 19).after(table(7, 5)).found(&RULE).is_empty());
        let full = table(7, 20).found(&RULE);
        assert_eq!(full[0].summary, "20 sockets in TIME_WAIT, the limit is 20");
        let over = table(47, 20).after(table(7, 0)).found(&RULE);
        assert_eq!(over[0].severity, Severity::Warning);
        assert_eq!(
            over[0].summary,
            "20 sockets in TIME_WAIT, the limit is 20; 40 connections closed without it"
        );
        assert_eq!(
            over[0].here,
            ["The most, 20, are of port 80 on the side of the server, which closes first."]
        );
    }
}
