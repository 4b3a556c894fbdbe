//! Idle connections that something on the way has forgotten.

use std::collections::BTreeSet;

use tcpstate_common::State;

use super::super::{
    Amount, Ending, Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service,
    ServiceKey, Severity, Snapshot, Top,
};
use crate::{
    cause::Cause,
    service::Role,
    setting::Setting,
    units::{Counted, Span},
};

/// Resets within a second are of one moment.
const MOMENT_NS: u64 = 1_000_000_000;

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "idle_reset",
        side: Role::Unknown,
        title: "idle connections are cut on the way",
        is: "Connections that had been idle were reset, or got no answer any more, when they were used again. A firewall, a \
             NAT or a load balancer between the two ends forgets a connection after some time without a packet.",
        why: "The first request after a quiet time fails, or hangs until it times out.",
        signal: "ESTABLISHED that ends by a RST or ETIMEDOUT after more than `idle_time` without a packet, at \
                 `idle_resets` different moments.",
        advice: &[
            "Send something sooner: SO_KEEPALIVE with both TCP_KEEPIDLE and TCP_KEEPINTVL below the time-out (the second probe comes \
             after the interval, 75 s by default), or a ping of the protocol.",
            "Or close before: an idle limit of the pool below the time-out.",
            "TCP_USER_TIMEOUT limits how long a request hangs where the answer to a forgotten connection is silence.",
            "Ask who runs the network for the idle time-out of what is between: the shortest idle time here is an upper bound \
             of it.",
        ],
        settings: &[Setting {
            path: "net/ipv4/tcp_keepalive_time",
            effect: "seconds without a packet after which keepalive probes begin, for sockets with SO_KEEPALIVE and no \
                     TCP_KEEPIDLE of their own",
        }],
        commands: &[
            "tcpstate life --cause reset_by_peer,timed_out {filter}",
            "ss -tino state established '{filter}'",
        ],
        told_from: &[
            "a peer that ended: it resets all its connections at one moment",
            "a server whose idle time-out closed the connection: its FIN comes first (stale_pool)",
            "a busy connection that is reset",
        ],
        states: &[State::ESTABLISHED],
        sources: &["tcp_reset", "tcp_keepalive_timer", "RFC 5382, section 5"],
    },
    needs: &[Input::Events, Input::Sockets],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let services = snapshot.observed.services();
    services
        .filter_map(|(key, service)| find(snapshot, key, service))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &ServiceKey, service: &Service) -> Option<Finding> {
    let is_cut = |ending: &&Ending| {
        ending.state == State::ESTABLISHED
            && matches!(ending.cause, Cause::ResetByPeer | Cause::TimedOut)
    };
    let endings = service.endings.iter().filter(is_cut);
    let idle: Vec<_> = endings
        .filter_map(|ending| Some((ending.idle_ns?, ending)))
        .collect();
    let moments: BTreeSet<_> = idle
        .iter()
        .map(|(_, ending)| ending.at_ns / MOMENT_NS)
        .collect();
    if (moments.len() as u64) < snapshot.thresholds.idle_resets {
        return None;
    }
    let shortest_ns = idle.iter().map(|&(idle_ns, _)| idle_ns).min()?;
    let longest_ns = idle.iter().map(|&(idle_ns, _)| idle_ns).max()?;
    let count = idle.len() as u64;
    let place = Place::service(key.netns, key.role, key.port);
    let summary = format!(
        "{} cut after {} or more without a packet",
        Counted(count, "connection"),
        Span(shortest_ns)
    );
    let (mut peers, mut owners) = (Top::default(), Top::default());
    for (_, ending) in &idle {
        peers.add(ending.peer);
        if let Some(owner) = ending.owner {
            owners.add(owner);
        }
    }
    let mut finding = Finding::new(&RULE.text, Severity::Warning, place, summary)
        .with_peers(&peers)
        .with_owners(&owners);
    let time = |name, ns| Figure {
        name,
        amount: Amount::Time(ns),
        evidence: Evidence::Inferred,
    };
    finding.figures = vec![
        Figure::count("cut", count, Evidence::Seen),
        time("shortest_idle_ns", shortest_ns),
        time("longest_idle_ns", longest_ns),
    ];
    finding.here.push(format!(
        "The time-out on the way is at most {}: keep idle connections below that.",
        Span(shortest_ns)
    ));
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            Survey,
            observed::tests::{Host, NETNS, S, only, peer},
        },
        *,
    };
    use crate::service::Role;

    /// So many connections that were idle for more than 40 s, cut with this distance by this error.
    fn host(count: u64, apart_ns: u64, errno: u16) -> Host {
        let mut host = Host::new();
        let mut lives: Vec<_> = (0..count).map(|_| host.connected(peer(1), 5432)).collect();
        let mut sockets = Survey {
            ts_ns: host.now_ns,
            ..Survey::default()
        };
        for (life, more) in lives.iter().zip(0..) {
            sockets.idle.insert((NETNS, life.0.cookie), (40 + more) * S);
        }
        host.sockets = Some(sockets);
        for life in &mut lives {
            life.0.error = errno;
            host.goes(life, apart_ns, State::CLOSE);
        }
        host
    }

    #[test]
    fn cut_at_different_moments() {
        for errno in [104, 110] {
            let finding = only(host(3, 2 * S, errno).check(&RULE), Severity::Warning);
            assert_eq!(
                finding.summary,
                "3 connections cut after 42.0 s or more without a packet"
            );
            assert_eq!(
                (finding.place.role, finding.place.port),
                (Role::Client, Some(5432))
            );
            assert_eq!(finding.peers, [(peer(1), 3)]);
        }
        assert!(host(2, 2 * S, 104).check(&RULE).is_empty());
    }

    #[test]
    fn a_peer_that_ends_resets_all_at_once() {
        assert!(host(100, 1_000, 104).check(&RULE).is_empty());
    }

    #[test]
    fn busy_connections_are_not_meant() {
        let mut host = host(0, 0, 0);
        for _ in 0..5 {
            let mut life = host.connected(peer(1), 5432);
            life.is_reset();
            host.goes(&mut life, 2 * S, State::CLOSE);
        }
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn a_close_is_no_cut() {
        assert!(host(5, 2 * S, 0).check(&RULE).is_empty());
    }
}
