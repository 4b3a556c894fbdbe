//! Services that open a connection for each request.

use tcpstate_common::State;

use super::super::{
    Amount, Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service, ServiceKey,
    Severity, Snapshot, share::Share,
};
use super::ports_near_exhaustion::Ports;
use crate::{
    service::Role,
    units::{Count, PerSecond},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "short_connections",
        side: Role::Unknown,
        title: "many connections, each used once",
        is: "Connections are opened all the time, and nearly all end after a fraction of a second: each carries one request.",
        why: "Each request waits for a handshake (one round trip, with TLS two or three), and each connection takes a local port \
              of the client for a minute if the client closes first. Harmless until ports run out.",
        signal: "`short_rate` connections a second or more, for `short_time` or longer, most of which live shorter than `short_life`.",
        advice: &[
            "Let the client keep connections: HTTP keep-alive, a pool, one session object for all requests instead of one a \
             request.",
            "A proxy needs it told: nginx: keepalive in upstream, with proxy_http_version 1.1 and an empty Connection header.",
        ],
        settings: &[],
        commands: &[
            "tcpstate rates 1 {filter}",
            "tcpstate hist --of lifetime {filter}",
            "tcpstate life {filter}",
        ],
        told_from: &[
            "many connections that live: their number matters, not their rate",
            "connects that fail, which are short too (connects_fail)",
        ],
        states: &[State::TIME_WAIT],
        sources: &["RFC 9112, section 9.3", "__inet_hash_connect"],
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
    let rate = PerSecond {
        count: service.established,
        interval_ns: snapshot.observed.length_ns(),
    };
    // A pool that was opened just now has closed hardly any: those that live on are not short.
    let short = Share {
        part: service.short_lived,
        whole: service.closed.max(service.established),
    };
    let least = u128::from(thresholds.short_rate) * u128::from(rate.interval_ns);
    if rate.interval_ns == 0
        || rate.interval_ns < thresholds.short_time
        || u128::from(rate.count) * 1_000_000_000 < least
        || !short.is_at_least(thresholds.short_share)
    {
        return None;
    }
    let ports = ports_used(snapshot, key);
    let is_scarce = ports.is_some_and(|ports| ports.is_at_least(thresholds.ports_used_share));
    let severity = if is_scarce {
        Severity::Warning
    } else {
        Severity::Note
    };
    let place = Place::service(key.netns, key.role, key.port);
    let summary = format!("{rate} connections a second, {short} of them short");
    let mut finding = Finding::new(&RULE.text, severity, place, summary)
        .with_peers(&service.peers)
        .with_owners(&service.owners);
    finding.figures = vec![
        Figure::count("connections", rate.count, Evidence::Seen),
        Figure {
            name: "opened_per_second",
            amount: Amount::PerSecond(rate.value().unwrap_or(0.0)),
            evidence: Evidence::Seen,
        },
        short.figure("short_share", Evidence::Seen),
    ];
    if let Some(ports) = ports {
        finding
            .figures
            .push(ports.figure("ports_used_share", Evidence::Sampled));
        if is_scarce {
            finding.here.push(format!(
                "One destination uses {} of {} local ports already: connects will fail soon.",
                Count(ports.part),
                Count(ports.whole)
            ));
        }
    }
    if service.peers.keys() == 1
        && let [(peer, _)] = service.peers.first(1)[..]
    {
        finding.here.push(match key.role {
            Role::Server => {
                format!("All are from {peer}: that client should keep its connections.")
            }
            _ => format!("All are to {peer}."),
        });
    }
    Some(finding)
}

/// The part of the local ports that the busiest destination of this service uses.
fn ports_used(snapshot: &Snapshot<'_>, key: &ServiceKey) -> Option<Share> {
    if key.role != Role::Client {
        return None;
    }
    let netns = key.netns?;
    let ports = Ports::of(snapshot.facts_of(netns)?)?;
    let routes = snapshot.sockets?.routes.iter();
    let routes = routes.filter(|(route, _)| route.netns == netns && Some(route.rport) == key.port);
    Some(Share {
        part: routes.map(|(key, route)| ports.taken(&key, route)).max()?,
        whole: ports.count,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            Route, RouteKey, Survey,
            observed::tests::{Host, MS, NETNS, S, only, peer},
        },
        *,
    };

    /// A client with so many connections within ten seconds, that live so long each.
    fn host(count: u64, lifetime_ns: u64) -> Host {
        let range = [("net/ipv4/ip_local_port_range", "40000 40099")];
        let mut host = Host::new().with_facts(&[], &range);
        for _ in 0..count {
            let life = host.connected(peer(1), 80);
            host.closes_first(life, lifetime_ns);
            // Many run beside each other.
            host.now_ns = 100 * S;
        }
        host.wait(10 * S);
        host
    }

    #[test]
    fn fifty_a_second_are_worth_a_note() {
        let finding = only(host(500, 10 * MS).check(&RULE), Severity::Note);
        assert_eq!(
            finding.summary,
            "50 connections a second, 100 % of them short"
        );
        assert_eq!(finding.here, ["All are to 10.0.0.1."]);
        assert!(host(499, 10 * MS).check(&RULE).is_empty());
        assert!(host(600, 2 * S).check(&RULE).is_empty());
    }

    #[test]
    fn scarce_ports_are_a_warning() {
        let mut host = host(500, 10 * MS);
        for (used, severity) in [(79, Severity::Note), (80, Severity::Warning)] {
            let mut sockets = Survey::default();
            let route = RouteKey {
                netns: NETNS,
                laddr: peer(200),
                raddr: peer(1),
                rport: 80,
            };
            let used = Route {
                sockets: used,
                ..Route::default()
            };
            sockets.routes.insert(route, used);
            host.sockets = Some(sockets);
            only(host.check(&RULE), severity);
        }
    }

    #[test]
    fn a_pool_that_is_opened_is_not_short() {
        let mut host = Host::new();
        // The first connection only tries.
        let life = host.connected(peer(1), 80);
        host.closes_first(life, MS);
        for _ in 0..1_000 {
            host.connected(peer(1), 80);
        }
        host.wait(6 * S);
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn a_burst_at_the_start_is_no_rate() {
        let mut host = host(500, 10 * MS);
        host.observed.restart(host.now_ns);
        for _ in 0..100 {
            let life = host.connected(peer(1), 80);
            host.closes_first(life, MS);
        }
        assert!(host.check(&RULE).is_empty());
        host.wait(4 * S);
        assert!(host.check(&RULE).is_empty());
        // As many a second, for longer.
        for _ in 0..400 {
            let life = host.connected(peer(1), 80);
            host.closes_first(life, MS);
        }
        host.wait(2 * S);
        only(host.check(&RULE), Severity::Note);
    }

    #[test]
    fn a_run_without_length_has_no_rate() {
        let mut host = Host::new();
        let life = host.connected(peer(1), 80);
        host.closes_first(life, MS);
        host.thresholds.short_rate = 0;
        host.thresholds.short_time = 0;
        host.observed.restart(host.now_ns);
        assert!(host.check(&RULE).is_empty());
    }
}
