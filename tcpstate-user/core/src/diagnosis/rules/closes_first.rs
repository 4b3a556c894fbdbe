//! The side on which `TIME_WAIT` piles up.

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Group, GroupKey, Input, Place, Rule, ServiceKey,
    Severity, Snapshot, share::Share,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "closes_first",
        side: Role::Unknown,
        title: "this side closes first, and has the TIME_WAIT",
        is: "The side that closes a connection first keeps it in TIME_WAIT for 60 s. Here that is this side.",
        why: "On a server it is harmless: such a socket takes some 256 bytes and no port. On a client each holds a local port, and \
             ports run out.",
        signal: "`time_wait_count` sockets in TIME_WAIT at a service port, or more; where we saw who closes first, this side does in \
                 `closes_first_share`.",
        advice: &[
            "Connections that are used again end seldom: keep-alive, or a pool.",
            "On a client with scarce ports, let the server close first, or set `tcp_tw_reuse` to 1. On a server it has no effect: \
             it is for connect().",
        ],
        settings: &[
            Setting {
                path: "net/ipv4/tcp_max_tw_buckets",
                effect: "the most sockets in TIME_WAIT; beyond it the kernel drops them at once (`TCPTimeWaitOverflow`)",
            },
            Setting {
                path: "net/ipv4/tcp_fin_timeout",
                effect: "has nothing to do with it: TIME_WAIT takes 60 s",
            },
        ],
        commands: &[
            "tcpstate ls state time-wait '{filter}'",
            "ss -tan state time-wait '{filter}' | wc -l",
        ],
        told_from: &["connects that fail for want of a port (ports_exhausted)"],
        states: &[State::TIME_WAIT, State::FIN_WAIT1, State::FIN_WAIT2],
        sources: &["tcp_time_wait", "TCP_TIMEWAIT_LEN", "RFC 9293, section 3.6"],
    },
    needs: &[Input::Sockets],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let groups = sockets.in_state(State::TIME_WAIT);
    let groups = groups.filter(|(key, group)| {
        key.role != Role::Unknown && group.count >= snapshot.thresholds.time_wait_count
    });
    groups
        .filter_map(|(key, group)| find(snapshot, key, group))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &GroupKey, group: &Group) -> Option<Finding> {
    let service = snapshot.observed.service(&ServiceKey {
        netns: Some(key.netns),
        port: key.port,
        role: key.role,
    });
    let closed_first = service
        .map(|service| Share {
            part: service.closed_first,
            whole: service.closed_first.saturating_add(service.closed_second),
        })
        .filter(|share| share.whole > 0);
    let least = snapshot.thresholds.closes_first_share;
    if closed_first.is_some_and(|share| !share.is_at_least(least)) {
        return None;
    }
    let place = Place::service(Some(key.netns), key.role, key.port);
    let summary = format!(
        "{} in TIME_WAIT{}",
        Counted(group.count, "socket"),
        closed_first.map_or_else(String::new, |share| format!(
            "; this side closes {share} of the connections first"
        ))
    );
    let mut finding = Finding::new(&RULE.text, Severity::Note, place, summary);
    finding.figures = vec![Figure::count("time_wait", group.count, Evidence::Sampled)];
    finding
        .figures
        .extend(closed_first.map(|share| share.figure("closed_first_share", Evidence::Seen)));
    if let Some(service) = service {
        finding = finding
            .with_peers(&service.peers)
            .with_owners(&service.owners);
    }
    let most = snapshot.setting(key.netns, "net/ipv4/tcp_max_tw_buckets");
    finding.here.push(match key.role {
        Role::Client => "On this side each holds a local port, for up to a minute.".to_owned(),
        _ => "On this side they hold no port: nothing has to be done.".to_owned(),
    });
    finding.here.extend(most.filter(|&most| group.count >= most).map(|most| {
        format!(
            "There are no more than tcp_max_tw_buckets allows ({}): the kernel drops the others, which frees memory and \
             lets old packets in.",
            Count(most)
        )
    }));
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::observed::tests::{Host, MS, only, peer},
        *,
    };

    fn host(role: Role, count: u64) -> Host {
        Host::new().with_group(role, 80, State::TIME_WAIT, count)
    }

    #[test]
    fn the_side_is_named() {
        for (role, words) in [
            (Role::Server, "hold no port"),
            (Role::Client, "holds a local port"),
        ] {
            let mut host = host(role, 1_000);
            let finding = only(host.check(&RULE), Severity::Note);
            assert_eq!(finding.summary, "1,000 sockets in TIME_WAIT");
            assert!(finding.here[0].contains(words));
            for _ in 0..3 {
                let life = if role == Role::Server {
                    host.accepted(80, peer(1))
                } else {
                    host.connected(peer(1), 80)
                };
                host.closes_first(life, MS);
            }
            let finding = only(host.check(&RULE), Severity::Note);
            assert_eq!(
                finding.summary,
                "1,000 sockets in TIME_WAIT; this side closes 100 % of the connections first"
            );
            assert_eq!((finding.place.role, finding.place.port), (role, Some(80)));
        }
    }

    #[test]
    fn where_the_peer_closes_first_as_a_rule_nothing_is_said() {
        for (of_peer, count) in [(1, 1), (2, 0)] {
            let mut host = host(Role::Server, 1_280);
            let life = host.accepted(80, peer(1));
            host.closes_first(life, MS);
            for _ in 0..of_peer {
                let life = host.accepted(80, peer(1));
                host.closes_second(life, MS);
            }
            assert_eq!(host.check(&RULE).len(), count, "{of_peer}");
        }
    }

    #[test]
    fn a_few_are_not_worth_it() {
        assert!(host(Role::Server, 999).check(&RULE).is_empty());
        assert!(host(Role::Unknown, 5_000).check(&RULE).is_empty());
    }

    #[test]
    fn the_limit_of_the_host_is_told() {
        let limit = [("net/ipv4/tcp_max_tw_buckets", "1000")];
        let host = Host::new().with_facts(&[], &limit);
        let host = host.with_group(Role::Server, 80, State::TIME_WAIT, 1_000);
        let finding = only(host.check(&RULE), Severity::Note);
        assert!(finding.here[1].contains("tcp_max_tw_buckets allows (1,000)"));
    }
}
