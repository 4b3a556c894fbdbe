//! Findings that explain others: which one to read first.

use super::{Amount, Finding};
use crate::service::Role;

/// One kind of finding that explains another one.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The name of the one that is explained.
    pub finding: &'static str,
    /// The name of the one that explains it.
    pub because_of: &'static str,
    /// The condition, in words that continue "where".
    pub condition: &'static str,
    at: At,
    /// Whether their figures agree: of the one that is explained, and of the other one.
    holds: fn(&Finding, &Finding) -> bool,
}

/// The place of the one that explains, as seen from the other one.
#[derive(Clone, Copy, Debug)]
enum At {
    /// The same service port, on the same side.
    Service,
    /// The server of these clients, in their own network namespace.
    Server,
    /// Any place of the same network namespace.
    Netns,
    /// Any place of the host.
    Host,
}

/// The kinds of findings that explain others. None explains itself, through whatever others.
pub static LINKS: &[Link] = &[
    Link {
        finding: "connect_hangs",
        because_of: "accept_queue_full",
        condition: "the server is in the same network namespace",
        at: At::Server,
        holds: always,
    },
    Link {
        finding: "connects_fail",
        because_of: "accept_queue_full",
        condition: "most got no answer from a server in the same network namespace",
        at: At::Server,
        holds: always,
    },
    Link {
        finding: "syn_loss",
        because_of: "accept_queue_full",
        condition: "the server is in the same network namespace",
        at: At::Server,
        holds: always,
    },
    Link {
        finding: "synack_retransmits",
        because_of: "accept_queue_full",
        condition: "it is the same listener: it drops the last ACK of handshakes too",
        at: At::Service,
        holds: always,
    },
    Link {
        finding: "close_wait_leak",
        because_of: "accept_queue_full",
        condition: "most of the sockets were never accepted",
        at: At::Service,
        holds: |leak, _| is_half_of(leak, "unaccepted", leak, "sockets"),
    },
    Link {
        finding: "connects_fail",
        because_of: "failing_peer",
        condition: "one address of the service has most of the failures",
        at: At::Service,
        holds: always,
    },
    Link {
        finding: "silent_peer",
        because_of: "accept_queue_full",
        condition: "the server is in the same network namespace: it drops the last ACK of handshakes, and only the client \
                    takes the connection for established",
        at: At::Server,
        holds: always,
    },
    Link {
        finding: "stale_pool",
        because_of: "deploy",
        condition: "the server is in the same network namespace, and its process was replaced meanwhile",
        at: At::Server,
        holds: always,
    },
    Link {
        finding: "ports_exhausted",
        because_of: "close_wait_leak",
        condition: "sockets left behind hold half of the ports or more",
        at: At::Service,
        holds: |ports, leak| is_half_of(leak, "sockets", ports, "ports"),
    },
    Link {
        finding: "ports_near_exhaustion",
        because_of: "close_wait_leak",
        condition: "sockets left behind hold half of the ports that are taken, or more",
        at: At::Service,
        holds: |ports, leak| is_half_of(leak, "sockets", ports, "taken"),
    },
    Link {
        finding: "ports_exhausted",
        because_of: "short_connections",
        condition: "half of the ports or more are in TIME_WAIT",
        at: At::Service,
        holds: |ports, _| is_half_of(ports, "time_wait", ports, "ports"),
    },
    Link {
        finding: "ports_near_exhaustion",
        because_of: "short_connections",
        condition: "half of the ports that are taken, or more, are in TIME_WAIT",
        at: At::Service,
        holds: |ports, _| is_half_of(ports, "time_wait", ports, "taken"),
    },
    Link {
        finding: "ports_exhausted",
        because_of: "bind_before_connect",
        condition: "it is the same network namespace",
        at: At::Netns,
        holds: always,
    },
    Link {
        finding: "stuck_closing",
        because_of: "silent_peer",
        condition: "peers of the same service are silent",
        at: At::Service,
        holds: |stuck, _| count(stuck, "silent") > 0,
    },
    Link {
        finding: "stuck_closing",
        because_of: "peer_does_not_read",
        condition: "peers of the same service do not read",
        at: At::Service,
        holds: |stuck, _| count(stuck, "not_reading") > 0,
    },
    Link {
        finding: "orphans_near_limit",
        because_of: "stuck_closing",
        condition: "half of the orphans or more are of one service",
        at: At::Host,
        holds: |orphans, stuck| is_half_of(stuck, "orphans", orphans, "orphans"),
    },
    Link {
        finding: "time_wait_table_full",
        because_of: "closes_first",
        condition: "it is the same network namespace",
        at: At::Netns,
        holds: always,
    },
    Link {
        finding: "closes_first",
        because_of: "short_connections",
        condition: "it is the same service, on the same side",
        at: At::Service,
        holds: always,
    },
];

const fn always(_: &Finding, _: &Finding) -> bool {
    true
}

/// A count among the figures of a finding; 0: it has none.
fn count(finding: &Finding, name: &str) -> u64 {
    let mut figures = finding.figures.iter();
    match figures.find(|figure| figure.name == name) {
        Some(figure) => match figure.amount {
            Amount::Count(count) => count,
            _ => 0,
        },
        None => 0,
    }
}

/// Whether a figure is half of another one or more. Of one that is not known none is.
fn is_half_of(part: &Finding, name: &str, whole: &Finding, of: &str) -> bool {
    let (part, whole) = (count(part, name), count(whole, of));
    whole > 0 && part.saturating_mul(2) >= whole
}

impl Link {
    fn is_between(&self, finding: &Finding, other: &Finding) -> bool {
        if (finding.text.name, other.text.name) != (self.finding, self.because_of) {
            return false;
        }
        let (place, by) = (finding.place, other.place);
        let is_same_netns = place.netns.is_some() && place.netns == by.netns;
        let is_same_port = is_same_netns && place.port.is_some() && place.port == by.port;
        let is_there = match self.at {
            At::Service => is_same_port && place.role == by.role,
            At::Server => is_same_port && finding.is_to_here && by.role == Role::Server,
            At::Netns => is_same_netns,
            At::Host => true,
        };
        is_there && (self.holds)(finding, other)
    }
}

/// Says of each finding which others explain it.
pub(super) fn link(findings: &mut [Finding]) {
    for link in LINKS {
        let others = findings.iter();
        let others = others.filter(|other| other.text.name == link.because_of);
        let others: Vec<Finding> = others.cloned().collect();
        for finding in findings.iter_mut() {
            let those = others
                .iter()
                .filter(|other| link.is_between(finding, other));
            let see: Vec<_> = those.map(Finding::identity).collect();
            finding.see.extend(see);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{Evidence, Figure, Place, RULES, Severity};

    fn finding(name: &str, role: Role, port: u16, figures: &[(&'static str, u64)]) -> Finding {
        let mut rules = RULES.iter();
        let kind = rules.find(|rule| rule.text.name == name).unwrap();
        let place = Place::service(Some(7), role, Some(port));
        let mut finding = Finding::new(&kind.text, Severity::Warning, place, String::new());
        let figures = figures.iter();
        finding.figures = figures
            .map(|&(name, value)| Figure::count(name, value, Evidence::Sampled))
            .collect();
        finding
    }

    /// The names that the first of two findings points to.
    fn seen(first: Finding, second: Finding) -> Vec<&'static str> {
        let mut both = [second, first];
        link(&mut both);
        assert!(both[0].see.is_empty(), "{:?}", both[0]);
        both[1].see.iter().map(|&(name, _)| name).collect()
    }

    #[test]
    fn the_kinds_exist_and_no_way_leads_back() {
        for link in LINKS {
            for name in [link.finding, link.because_of] {
                assert!(RULES.iter().any(|rule| rule.text.name == name), "{name}");
            }
            let mut reached = vec![link.because_of];
            for step in 0.. {
                let Some(&name) = reached.get(step) else {
                    break;
                };
                let next = LINKS.iter().filter(|link| link.finding == name);
                reached.extend(next.map(|link| link.because_of));
                assert!(!reached.contains(&link.finding), "{}", link.finding);
            }
        }
    }

    #[test]
    fn a_deploy_explains_the_pool_of_its_clients() {
        for (is_to_here, expected) in [(true, &["deploy"][..]), (false, &[])] {
            let pool = Finding {
                is_to_here,
                ..finding("stale_pool", Role::Client, 80, &[])
            };
            assert_eq!(
                seen(pool, finding("deploy", Role::Server, 80, &[])),
                expected
            );
        }
    }

    #[test]
    fn a_full_queue_explains_the_clients_of_this_very_server() {
        for name in ["connect_hangs", "connects_fail", "syn_loss", "silent_peer"] {
            let client = |is_to_here| Finding {
                is_to_here,
                ..finding(name, Role::Client, 80, &[])
            };
            let full = |port| finding("accept_queue_full", Role::Server, port, &[]);
            assert_eq!(seen(client(true), full(80)), ["accept_queue_full"]);
            assert!(seen(client(false), full(80)).is_empty());
            assert!(seen(client(true), full(81)).is_empty());
            let mut elsewhere = full(80);
            elsewhere.place.netns = Some(8);
            assert!(seen(client(true), elsewhere).is_empty());
        }
    }

    type Figures = &'static [(&'static str, u64)];

    /// That the second explains the first with these figures of both, or does not; and that it never does elsewhere.
    fn decide(name: &str, other: &str, role: Role, cases: &[(Figures, Figures, bool)]) {
        for &(figures, of_other, holds) in cases {
            let first = || finding(name, role, 80, figures);
            let second = |port| finding(other, role, port, of_other);
            let expected: &[&str] = if holds { &[other] } else { &[] };
            assert_eq!(seen(first(), second(80)), expected, "{name} {figures:?}");
            assert!(seen(first(), second(81)).is_empty(), "{name}");
        }
    }

    #[test]
    fn figures_decide_where_the_place_alone_does_not() {
        let (client, server) = (Role::Client, Role::Server);
        let unaccepted: &[(Figures, Figures, bool)] = &[
            (&[("sockets", 4), ("unaccepted", 2)], &[], true),
            (&[("sockets", 5), ("unaccepted", 2)], &[], false),
        ];
        decide("close_wait_leak", "accept_queue_full", server, unaccepted);
        for (name, of) in [
            ("silent_peer", [("silent", 1)]),
            ("peer_does_not_read", [("not_reading", 1)]),
        ] {
            let with = finding("stuck_closing", client, 80, &of);
            assert_eq!(seen(with, finding(name, client, 80, &[])), [name]);
            decide("stuck_closing", name, client, &[(&[], &[], false)]);
        }
        for (name, other, role) in [
            ("synack_retransmits", "accept_queue_full", server),
            ("connects_fail", "failing_peer", client),
            ("closes_first", "short_connections", server),
        ] {
            decide(name, other, role, &[(&[], &[], true)]);
        }
    }

    #[test]
    fn what_takes_half_of_the_ports_explains_that_there_are_few() {
        let leaked: &[(Figures, Figures, bool)] = &[
            (&[("ports", 100), ("taken", 100)], &[("sockets", 50)], true),
            (&[("ports", 100), ("taken", 100)], &[("sockets", 49)], false),
            // The number of ports is not known.
            (&[], &[("sockets", 50)], false),
        ];
        let over: &[(Figures, Figures, bool)] = &[
            (&[("ports", 9), ("taken", 9), ("time_wait", 5)], &[], true),
            (&[("ports", 9), ("taken", 9), ("time_wait", 4)], &[], false),
        ];
        for name in ["ports_exhausted", "ports_near_exhaustion"] {
            decide(name, "close_wait_leak", Role::Client, leaked);
            decide(name, "short_connections", Role::Client, over);
        }
    }

    #[test]
    fn a_namespace_or_the_whole_host_can_be_explained_by_a_service() {
        let of_netns = |name| {
            let mut finding = finding(name, Role::Unknown, 1, &[]);
            finding.place.port = None;
            finding
        };
        let closes_first = || finding("closes_first", Role::Client, 80, &[]);
        let table = of_netns("time_wait_table_full");
        assert_eq!(seen(table.clone(), closes_first()), ["closes_first"]);
        let mut elsewhere = closes_first();
        elsewhere.place.netns = Some(8);
        assert!(seen(table, elsewhere).is_empty());

        let exhausted = finding("ports_exhausted", Role::Client, 80, &[]);
        let bound = of_netns("bind_before_connect");
        assert_eq!(seen(exhausted, bound), ["bind_before_connect"]);

        let orphans = |count| {
            let mut finding = finding(
                "orphans_near_limit",
                Role::Unknown,
                1,
                &[("orphans", count)],
            );
            finding.place = Place::default();
            finding
        };
        let stuck = || finding("stuck_closing", Role::Server, 80, &[("orphans", 20)]);
        assert_eq!(seen(orphans(40), stuck()), ["stuck_closing"]);
        assert!(seen(orphans(41), stuck()).is_empty());
    }

    #[test]
    fn places_that_are_not_known_are_not_the_same() {
        let folded = |name| {
            let mut finding = finding(name, Role::Unknown, 1, &[]);
            finding.place = Place::default();
            finding
        };
        assert!(seen(folded("closes_first"), folded("short_connections")).is_empty());
        assert!(seen(folded("time_wait_table_full"), folded("closes_first")).is_empty());
    }
}
