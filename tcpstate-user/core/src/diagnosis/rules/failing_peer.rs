//! One address that makes most of the failures of a service.

use std::{collections::BTreeSet, net::IpAddr};

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service, ServiceKey, Severity,
    Snapshot, share::Share,
};
use super::health_checks::period;
use crate::{
    service::Role,
    units::{Count, Counted, Span},
};

/// The shortest distance of a balancer's checks, nanoseconds.
const SHORTEST_NS: u64 = 1_000_000_000;

/// The fewest addresses of which one can be said to stand out.
const ADDRESSES: usize = 3;

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "failing_peer",
        side: Role::Unknown,
        title: "one address makes most of the failures",
        is: "Of the addresses that this service connects to, or that connect to it, one has nearly all of the failures: connects \
             without success, resets, time-outs.",
        why: "A bad backend among good ones fails a part of all requests; the average hides it.",
        signal: "At least `failing_peer_count` failures of one address, `failing_peer_share` of all, and twice as much as its \
                 part of the connections.",
        advice: &[
            "Look at that host: is its service up, its accept queue full, its network lossy? Run `tcpstate diagnose` there.",
            "Take it out of the pool meanwhile (load balancer, DNS), and let the balancer check its backends.",
        ],
        settings: &[],
        commands: &[
            "tcpstate rates 1 --by raddr {filter}",
            "tcpstate life {filter}",
        ],
        told_from: &[
            "an address that makes most of the connections, and therefore most of the failures",
            "failures at all addresses: then it is the network or the service itself",
            "checks of a load balancer, which reset what they open (health_checks)",
        ],
        states: &[State::SYN_SENT, State::ESTABLISHED],
        sources: &["tcp_reset", "tcp_write_timeout"],
    },
    needs: &[Input::Events],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let services = snapshot.observed.services();
    let services = services.filter(|(key, _)| key.port.is_some());
    services
        .filter_map(|(key, service)| find(snapshot, key, service))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &ServiceKey, service: &Service) -> Option<Finding> {
    let thresholds = snapshot.thresholds;
    let (peer, failures) = *service.troubled_peers.first(1).first()?;
    let of_failures = Share {
        part: failures,
        whole: service.troubled_peers.total(),
    };
    let of_all = Share {
        part: service.peers.count(&peer)?,
        whole: service.peers.total(),
    };
    let twice = Share {
        part: of_all.part.saturating_mul(2),
        whole: of_all.whole,
    };
    if failures < thresholds.failing_peer_count
        || !of_failures.is_at_least(thresholds.failing_peer_share)
        || service.peers.keys() < ADDRESSES
        || twice.is_above(of_failures)
    {
        return None;
    }
    let checks_ns = checks(service, peer, of_failures, of_all);
    // A server can do nothing about a client that fails, and a balancer goes on checking what it has taken out.
    let severity = if key.role == Role::Server || checks_ns.is_some() {
        Severity::Note
    } else {
        Severity::Warning
    };
    let mut place = Place::service(key.netns, key.role, key.port);
    place.peer = Some(peer);
    let summary = format!(
        "{peer} has {} of {}, but {of_all} of the connections",
        Count(failures),
        Counted(of_failures.whole, "failure"),
    );
    let mut finding =
        Finding::new(&RULE.text, severity, place, summary).with_peers(&service.troubled_peers);
    finding.figures = vec![
        Figure::count("failures", failures, Evidence::Seen),
        of_failures.figure("failures_share", Evidence::Seen),
        of_all.figure("connections_share", Evidence::Seen),
        Figure::count("addresses", service.peers.keys() as u64, Evidence::Seen),
    ];
    finding.here.extend(checks_ns.map(|period_ns| {
        format!(
            "They are few, and one every {}: checks of a balancer that has taken this address out. It goes on until the host is \
             back.",
            Span(period_ns)
        )
    }));
    Some(finding)
}

/// The distance of the failed connects to this address, nanoseconds, if they are the checks of a balancer that sends nothing
/// else there: regular, of one process, and at most half of what an equal part of the connections would be.
fn checks(service: &Service, peer: IpAddr, failures: Share, connections: Share) -> Option<u64> {
    let endings = service.endings.iter().filter(|one| one.peer == peer);
    let connects = endings.filter(|one| one.state == State::SYN_SENT);
    let (times, owners): (Vec<u64>, BTreeSet<_>) =
        connects.map(|one| (one.at_ns, one.owner)).unzip();
    let addresses = service.peers.keys() as u64;
    let twice_each = connections.part.saturating_mul(2).saturating_mul(addresses);
    let are_few = twice_each <= connections.whole;
    let are_all = times.len() as u64 == failures.part;
    period(&times).filter(|&ns| are_few && are_all && owners.len() == 1 && ns >= SHORTEST_NS)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::observed::tests::{Host, MS, S, only, peer},
        *,
    };

    /// A client of four addresses, with so many connections to each, and so many more that fail to the last one.
    fn host(good: u64, bad: u64) -> Host {
        let mut host = Host::new();
        for number in 1..=4 {
            for _ in 0..good {
                let life = host.connected(peer(number), 80);
                host.closes_first(life, MS);
            }
        }
        for _ in 0..bad {
            host.fails(peer(4), 80, 110);
        }
        host
    }

    #[test]
    fn the_bad_one_of_four_is_named() {
        let finding = only(host(5, 5).check(&RULE), Severity::Warning);
        assert_eq!(finding.place.peer, Some(peer(4)));
        assert_eq!(
            finding.summary,
            "10.0.0.4 has 5 of 5 failures, but 40 % of the connections"
        );
        assert!(host(5, 4).check(&RULE).is_empty());
    }

    #[test]
    fn checks_of_what_was_taken_out_are_a_note() {
        let with = |distance_ns: &dyn Fn(u64) -> u64, good| {
            let mut host = host(0, 0);
            for _ in 0..good {
                for number in 1..=3 {
                    let life = host.connected(peer(number), 80);
                    host.closes_first(life, MS);
                }
            }
            for number in 0..5 {
                host.wait(distance_ns(number));
                host.fails(peer(4), 80, 111);
            }
            host.check(&RULE)
        };
        let finding = only(with(&|_| 2 * S, 20), Severity::Note);
        assert!(finding.here[0].contains("one every 2.0"), "{finding:?}");
        // As many as the others have; not regular; too often.
        only(with(&|_| 2 * S, 5), Severity::Warning);
        only(with(&|number| (1 + number) * S, 20), Severity::Warning);
        only(with(&|_| 500 * MS, 20), Severity::Warning);
    }

    #[test]
    fn who_makes_most_connections_makes_most_failures() {
        assert!(host(1, 5).check(&RULE).is_empty());
    }

    #[test]
    fn failures_everywhere_have_no_single_peer() {
        let mut host = host(5, 5);
        host.fails(peer(1), 80, 110);
        only(host.check(&RULE), Severity::Warning);
        host.fails(peer(2), 80, 110);
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn a_client_that_fails_is_a_note_and_its_checks_are_no_failures() {
        let mut host = Host::new();
        for number in 1..=4 {
            for _ in 0..5 {
                let life = host.accepted(80, peer(number));
                host.closes_second(life, MS);
            }
        }
        let resets = |host: &mut Host, lifetime_ns| {
            for _ in 0..5 {
                let mut life = host.accepted(80, peer(4));
                life.is_reset();
                host.goes(&mut life, lifetime_ns, State::CLOSE);
            }
        };
        resets(&mut host, MS);
        assert!(host.check(&RULE).is_empty());
        resets(&mut host, S);
        only(host.check(&RULE), Severity::Note);
    }
}
