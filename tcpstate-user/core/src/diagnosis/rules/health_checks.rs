//! Connections by which something checks that a service is there.

use std::collections::BTreeMap;

use tcpstate_common::State;

use super::super::{
    Amount, Ending, Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service,
    ServiceKey, Severity, Snapshot, share::Share,
};
use crate::{
    cause::Cause,
    service::Role,
    units::{Counted, Span},
};

/// The deviation from the usual distance of two checks that still counts as regular, in hundredths.
const DEVIATION: u64 = 25;
/// The part of the distances that must be regular, in hundredths: a check may be late.
const REGULAR: u64 = 75;
/// The shortest distance of checks, nanoseconds: what comes faster is load.
const SHORTEST_NS: u64 = 100_000_000;

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "health_checks",
        side: Role::Server,
        title: "checks of a load balancer or monitor",
        is: "An address connects at regular times, and resets the connection as soon as it has its answer.",
        why: "It is harmless: such a check saves itself the orderly close. It counts among resets by the peer, and should \
              not alarm anybody.",
        signal: "Connections to a server below `short_life` that one address resets, at regular distances.",
        advice: &[
            "Nothing. Leave this address out where you count failures: --cause and an expression such as 'not dst ADDRESS'.",
        ],
        settings: &[],
        commands: &["tcpstate life --cause reset_by_peer {filter}"],
        told_from: &[
            "clients that give up: they come from many addresses, and not regularly",
            "a check that resets before the handshake is complete: no connection begins",
        ],
        states: &[State::ESTABLISHED],
        sources: &["tcp_reset", "RFC 9293, section 3.10.7.4"],
    },
    needs: &[Input::Events],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let services = snapshot.observed.services();
    let services = services.filter(|(key, _)| key.role == Role::Server);
    services
        .flat_map(|(key, service)| find(snapshot, key, service))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &ServiceKey, service: &Service) -> Vec<Finding> {
    let is_short = |ending: &&Ending| {
        ending.cause == Cause::ResetByPeer
            && ending
                .lifetime_ns
                .is_some_and(|ns| ns < snapshot.thresholds.short_life)
    };
    let mut checks: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for ending in service.endings.iter().filter(is_short) {
        checks.entry(ending.peer).or_default().push(ending.at_ns);
    }
    let mut findings = Vec::new();
    for (peer, times) in checks {
        let count = times.len() as u64;
        let Some(period_ns) = period(&times).filter(|_| count >= snapshot.thresholds.health_checks)
        else {
            continue;
        };
        let mut place = Place::service(key.netns, key.role, key.port);
        place.peer = Some(peer);
        let summary = format!(
            "{} by {peer}, one every {}",
            Counted(count, "check"),
            Span(period_ns)
        );
        let mut finding = Finding::new(&RULE.text, Severity::Note, place, summary);
        finding.figures = vec![
            Figure::count("checks", count, Evidence::Seen),
            Figure {
                name: "period_ns",
                amount: Amount::Time(period_ns),
                evidence: Evidence::Inferred,
            },
        ];
        finding.owners = service.owners.first(1);
        findings.push(finding);
    }
    findings
}

/// The usual distance of these times, if they are regular.
pub(super) fn period(times: &[u64]) -> Option<u64> {
    let pairs = times.iter().zip(times.iter().skip(1));
    let mut distances: Vec<u64> = pairs.map(|(one, next)| next.saturating_sub(*one)).collect();
    distances.sort_unstable();
    let usual_ns = *distances.get(distances.len().checked_sub(1)? / 2)?;
    let is_near = |&&ns: &&u64| {
        let off = Share {
            part: ns.abs_diff(usual_ns),
            whole: usual_ns,
        };
        !off.is_at_least(DEVIATION)
    };
    let regular = Share {
        part: distances.iter().filter(is_near).count() as u64,
        whole: distances.len() as u64,
    };
    (usual_ns >= SHORTEST_NS && regular.is_at_least(REGULAR)).then_some(usual_ns)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::observed::tests::{Host, MS, S, only, peer},
        *,
    };

    /// Connections of this address, each so long after the one before, reset after this time.
    fn checked(host: &mut Host, from: u8, distances_ns: &[u64], lifetime_ns: u64) {
        for &distance_ns in distances_ns {
            host.wait(distance_ns);
            let mut life = host.accepted(80, peer(from));
            life.is_reset();
            host.goes(&mut life, lifetime_ns, State::CLOSE);
        }
    }

    #[test]
    fn regular_resets_are_checks() {
        let mut host = Host::new();
        checked(
            &mut host,
            1,
            &[2 * S, 2 * S + 100 * MS, 2 * S, 5 * S, 2 * S],
            MS,
        );
        let finding = only(host.check(&RULE), Severity::Note);
        assert_eq!(finding.summary, "5 checks by 10.0.0.1, one every 2.00 s");
        assert_eq!(finding.place.peer, Some(peer(1)));
    }

    #[test]
    fn what_is_not_regular_is_none() {
        let mut host = Host::new();
        checked(&mut host, 1, &[S, 2 * S, 3 * S, S / 2, 5 * S, S], MS);
        // Too few, too fast, and too long.
        checked(&mut host, 2, &[S, S], MS);
        checked(&mut host, 3, &[MS; 20], MS);
        checked(&mut host, 4, &[S; 5], 200 * MS);
        assert!(host.check(&RULE).is_empty());
        let mut host = Host::new();
        checked(&mut host, 2, &[S, S, S], MS);
        only(host.check(&RULE), Severity::Note);
    }

    #[test]
    fn many_addresses_are_clients() {
        let mut host = Host::new();
        for from in 1..100 {
            checked(&mut host, from, &[S], MS);
        }
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn times_may_stand_still() {
        assert_eq!(period(&[]), None);
        assert_eq!(period(&[5, 5, 5]), None);
        assert_eq!(period(&[0, u64::MAX]), Some(u64::MAX));
    }
}
