//! Connects that failed because there was no local port for them.

use tcpstate_common::State;

use super::super::{
    Cases, Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service, ServiceKey,
    Severity, Snapshot, Trouble,
};
use super::ports_near_exhaustion::Ports;
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "ports_exhausted",
        side: Role::Client,
        title: "no local port is left for a connection",
        is: "connect() failed with EADDRNOTAVAIL, and nothing was sent. Each connection to the same address and port \
             takes a local port of its own, and so does what is in TIME_WAIT, for 60 s.",
        why: "Every further connection to that destination fails at once, until others have ended for a minute.",
        signal: "SYN_SENT that goes back to CLOSE without an error: local port 0, none is free; another one, this very \
                 connection exists already. One is enough.",
        advice: &[
            "Use connections again: keep-alive, or a pool. That alone takes the cause away; it takes a minute to help, as long as ports \
             stay in TIME_WAIT.",
            "More pairs of addresses have more ports: several addresses of the server, or of this host. An application \
             that binds its address first should set IP_BIND_ADDRESS_NO_PORT.",
            "Widen `ip_local_port_range`. It takes effect at once.",
            "Set `tcp_tw_reuse` to 1: then connect() takes a port over that has been in TIME_WAIT for a second. The \
             default, 2, does so on the loopback interface only.",
        ],
        settings: &[
            Setting {
                path: "net/ipv4/ip_local_port_range",
                effect: "the local ports that connect() chooses from",
            },
            Setting {
                path: "net/ipv4/tcp_tw_reuse",
                effect: "with 1, a port in TIME_WAIT can be used again after 1 s (from Linux 6.14 on, after tcp_tw_reuse_delay); with 2, on \
                         loopback only; with 0, never",
            },
        ],
        commands: &[
            "tcpstate life --cause no_port {filter}",
            "tcpstate ls state time-wait '{filter}'",
            "ss -tan state time-wait '{filter}' | wc -l",
            "sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse",
        ],
        told_from: &[
            "an application that gives up a connect: its SYN was sent",
            "bind() that fails, which makes no event: it takes a port for all destinations together, and so finds none \
             sooner",
        ],
        states: &[State::SYN_SENT, State::TIME_WAIT],
        sources: &["__inet_hash_connect", "tcp_v4_connect", "tcp_twsk_unique"],
    },
    needs: &[Input::Events],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let services = snapshot.observed.services();
    services
        .filter_map(|(key, service)| find(snapshot, key, service))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &ServiceKey, service: &Service) -> Option<Finding> {
    let without_port = service.count(Trouble::NoPort);
    let without_tuple = service.count(Trouble::TupleTaken);
    let summary = match (without_port, without_tuple) {
        (0, 0) => return None,
        (0, taken) => format!(
            "{} failed: the local port they were bound to is in use to the same destination",
            Counted(taken, "connect")
        ),
        (none, 0) => format!(
            "{} failed: no local port was free",
            Counted(none, "connect")
        ),
        (none, taken) => format!(
            "{} failed: {} found no free local port, {} had bound one that is in use to the same destination",
            Counted(none.saturating_add(taken), "connect"),
            Count(none),
            Count(taken)
        ),
    };
    let place = Place::service(key.netns, key.role, key.port);
    let mut finding = Finding::new(&RULE.text, Severity::Critical, place, summary);
    let cases = [Trouble::NoPort, Trouble::TupleTaken].map(|trouble| service.cases(trouble));
    let [no_port, taken] = cases;
    let larger = if without_port >= without_tuple {
        no_port
    } else {
        taken
    };
    if let Some(Cases { peers, owners, .. }) = larger {
        finding = finding.with_peers(peers).with_owners(owners);
    }
    finding.figures = vec![
        Figure::count(
            "connects",
            without_port.saturating_add(without_tuple),
            Evidence::Seen,
        ),
        Figure::count("without_port", without_port, Evidence::Seen),
        Figure::count("tuple_taken", without_tuple, Evidence::Seen),
    ];
    let in_time_wait = snapshot.sockets.map(|sockets| {
        let groups = sockets.in_state(State::TIME_WAIT).filter(|(group, _)| {
            Some(group.netns) == key.netns && group.port == key.port && group.role == Role::Client
        });
        groups.map(|(_, group)| group.count).sum::<u64>()
    });
    finding
        .figures
        .extend(in_time_wait.map(|count| Figure::count("time_wait", count, Evidence::Sampled)));
    if without_tuple > without_port {
        finding.here.push(
            "The application binds its local port itself: let connect() choose it, or set IP_BIND_ADDRESS_NO_PORT."
                .to_owned(),
        );
    }
    let facts = key.netns.and_then(|netns| snapshot.facts_of(netns));
    if let Some(range) = facts.and_then(|facts| facts.settings.local_ports()) {
        let ports = range.len() as u64;
        finding
            .figures
            .push(Figure::count("ports", ports, Evidence::Counted));
        let held = in_time_wait.filter(|&count| count > 0);
        finding.here.push(format!(
            "There are {} here ({} to {}){}.",
            Counted(ports, "local port"),
            range.start(),
            range.end(),
            held.map_or_else(String::new, |held| {
                format!("; sockets in TIME_WAIT hold {} of them", Count(held))
            })
        ));
    }
    if without_port > 0 {
        let remedy = remedy(snapshot, key);
        finding.here.extend(remedy.map(ToOwned::to_owned));
    }
    Some(finding)
}

/// The remedy for what takes the ports of the fullest route to this service.
fn remedy(snapshot: &Snapshot<'_>, key: &ServiceKey) -> Option<&'static str> {
    let netns = key.netns?;
    let ports = Ports::of(snapshot.facts_of(netns)?)?;
    let routes = snapshot.sockets?.routes.iter();
    let routes = routes.filter(|(route, _)| route.netns == netns && Some(route.rport) == key.port);
    let (fullest, route) = routes.max_by_key(|(key, route)| (ports.taken(key, *route), *key))?;
    Some(ports.remedy(&fullest, route))
}

#[cfg(test)]
mod tests {
    use tcpstate_common::record::end;

    use super::{
        super::super::{
            Route, RouteKey,
            observed::tests::{Host, MS, NETNS, only, peer},
        },
        *,
    };

    fn without_port(host: &mut Host, lport: u16) {
        let mut life = host.client(peer(1), 80);
        life.0.lport = lport;
        host.goes(&mut life, MS, State::SYN_SENT);
        life.0.pid = end::NO_PORT;
        host.goes(&mut life, 0, State::CLOSE);
    }

    #[test]
    fn one_connect_without_a_port_is_critical() {
        let range = [("net/ipv4/ip_local_port_range", "40000 40009")];
        let host = Host::new().with_facts(&[], &range);
        let mut host = host.with_group(Role::Client, 80, State::TIME_WAIT, 10);
        without_port(&mut host, 0);
        let finding = only(host.check(&RULE), Severity::Critical);
        assert_eq!(finding.summary, "1 connect failed: no local port was free");
        assert_eq!(
            finding.here,
            [
                "There are 10 local ports here (40000 to 40009); sockets in TIME_WAIT hold 10 of them."
            ]
        );
        assert_eq!(
            (finding.place.role, finding.place.port),
            (Role::Client, Some(80))
        );
        assert_eq!(finding.peers, [(peer(1), 1)]);
    }

    #[test]
    fn the_remedy_fits_what_takes_the_ports() {
        let range = [
            ("net/ipv4/ip_local_port_range", "40000 40009"),
            ("net/ipv4/tcp_tw_reuse", "0"),
        ];
        for (time_wait, words) in [
            (6, "Most are in TIME_WAIT"),
            (5, "Most belong to connections that are not over"),
        ] {
            let mut host = Host::new().with_facts(&[], &range);
            let sockets = host.sockets.get_or_insert_default();
            // The other one has room.
            for (last, sockets_of, time_wait) in [(1, 10, time_wait), (2, 9, 9 - time_wait)] {
                let key = RouteKey {
                    netns: NETNS,
                    laddr: peer(200),
                    raddr: peer(last),
                    rport: 80,
                };
                let route = Route {
                    sockets: sockets_of,
                    time_wait,
                };
                sockets.routes.insert(key, route);
            }
            without_port(&mut host, 0);
            let finding = only(host.check(&RULE), Severity::Critical);
            let remedy = finding.here.last().unwrap();
            assert!(remedy.starts_with(words), "{time_wait}: {remedy}");
        }
    }

    #[test]
    fn a_port_that_was_bound_is_told_apart() {
        let mut host = Host::new().with_facts(&[], &[]);
        without_port(&mut host, 40_000);
        without_port(&mut host, 40_000);
        let finding = only(host.check(&RULE), Severity::Critical);
        assert!(finding.summary.contains("in use to the same destination"));
        assert!(finding.here[0].contains("binds its local port itself"));
    }

    #[test]
    fn it_is_found_without_settings() {
        let mut host = Host::new();
        without_port(&mut host, 0);
        only(host.check(&RULE), Severity::Critical);
    }

    #[test]
    fn other_failures_are_no_want_of_ports() {
        let mut host = Host::new();
        for _ in 0..5 {
            host.gives_up(peer(1), 80, MS);
            host.fails(peer(1), 80, 110);
        }
        assert!(host.check(&RULE).is_empty());
    }
}
