//! Clients that have nearly used up the local ports towards one destination.

use std::{collections::BTreeMap, net::IpAddr};

use tcpstate_common::State;

use super::super::{
    Amount, Evidence, Figure, Finding, FindingText, Input, NetnsFacts, Place, Route, RouteKey,
    Rule, ServiceKey, Severity, Snapshot, Trouble, share::Share,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Span},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "ports_near_exhaustion",
        side: Role::Client,
        title: "local ports nearly used up towards a destination",
        is: "Each connection from one local address to the same remote address and port takes a local port of its own, and keeps \
             it through TIME_WAIT. Nearly all that the kernel may choose from are taken.",
        why: "When none is left, connect() fails with EADDRNOTAVAIL. Before that, the search for a free one makes it slow.",
        signal: "Connections from one address to one remote address and port take `ports_share` of `ip_local_port_range` or \
                 more. Those in TIME_WAIT count where `tcp_tw_reuse` does not allow to use their ports again.",
        advice: &[
            "Use connections again: keep-alive, or a pool. That ends the trouble where most are in TIME_WAIT.",
            "Widen `ip_local_port_range`, to 1024 65535 at most; reserve the ports of your servers with \
             `ip_local_reserved_ports`.",
            "Set `tcp_tw_reuse` to 1: a client may then take a port out of TIME_WAIT after 1 s. It needs TCP timestamps at \
             both ends.",
            "Add addresses, here or at the destination: each pair has all ports for itself.",
        ],
        settings: &[
            Setting {
                path: "net/ipv4/ip_local_port_range",
                effect: "the ports that the kernel chooses from",
            },
            Setting {
                path: "net/ipv4/tcp_tw_reuse",
                effect: "with 1, ports in TIME_WAIT are used again after 1 s (from Linux 6.14 on, after tcp_tw_reuse_delay); with 2, only on \
                         loopback; with 0, never",
            },
        ],
        commands: &[
            "tcpstate ls 'dport = :{port}'",
            "ss -tan 'dport = :{port}'",
            "sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse",
        ],
        told_from: &[
            "many connections to several destinations: they share ports",
            "many in TIME_WAIT on a server: they take no port of it",
            "TIME_WAIT where `tcp_tw_reuse` applies: those ports are used again",
        ],
        states: &[State::SYN_SENT, State::TIME_WAIT],
        sources: &[
            "__inet_hash_connect",
            "__inet_check_established",
            "tcp_twsk_unique",
        ],
    },
    needs: &[Input::Sockets, Input::Settings],
    check,
};

/// The shortest time between two looks that gives a rate, nanoseconds.
const SHORTEST_NS: u64 = 500_000_000;

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    // Of several local addresses to one destination, the one with the most.
    let mut worst: BTreeMap<(u32, IpAddr, u16), (RouteKey, Route, Ports)> = BTreeMap::new();
    let ports = snapshot.facts.iter();
    let ports: BTreeMap<u32, Ports> = ports
        .filter_map(|facts| Some((facts.netns, Ports::of(facts)?)))
        .collect();
    for (key, route) in sockets.routes.iter() {
        let Some(&ports) = ports.get(&key.netns) else {
            continue;
        };
        if !ports.is_near(&key, route, snapshot.thresholds.ports_share) {
            continue;
        }
        let place = (key.netns, key.raddr, key.rport);
        let other = worst.get(&place);
        if other.is_none_or(|(other_key, other, _)| {
            (ports.taken(other_key, *other), other_key.laddr)
                < (ports.taken(&key, route), key.laddr)
        }) {
            worst.insert(place, (key, route, ports));
        }
    }
    let found = worst.into_values();
    // Where connects fail already, `ports_exhausted` says so.
    let is_over = |key: &RouteKey| {
        let service = snapshot.observed.service(&ServiceKey {
            netns: Some(key.netns),
            port: Some(key.rport),
            role: Role::Client,
        });
        service.is_some_and(|service| service.count(Trouble::NoPort) > 0)
    };
    let found = found.filter(|(key, ..)| !is_over(key));
    found
        .map(|(key, route, ports)| finding(snapshot, &key, route, ports))
        .collect()
}

fn finding(snapshot: &Snapshot<'_>, key: &RouteKey, route: Route, ports: Ports) -> Finding {
    let taken = ports.taken(key, route);
    let severity = if taken >= ports.count {
        Severity::Critical
    } else {
        Severity::Warning
    };
    let mut place = Place::service(Some(key.netns), Role::Client, Some(key.rport));
    place.peer = Some(key.raddr);
    let left_ns = left_ns(snapshot, key, taken, ports);
    let summary = format!(
        "{} of {} local ports of {} taken{}{}",
        Count(taken),
        Count(ports.count),
        key.laddr,
        match route.time_wait {
            0 => String::new(),
            _ if ports.reuses_time_wait(key) => String::new(),
            some => format!(", {} of them in TIME_WAIT", Count(some.into())),
        },
        left_ns.map_or_else(String::new, |ns| format!("; none left in {}", Span(ns)))
    );
    let mut finding = Finding::new(&RULE.text, severity, place, summary);
    finding.peers = vec![(key.raddr, route.sockets.into())];
    finding.figures = vec![
        Figure::count("taken", taken, Evidence::Sampled),
        Figure::count("ports", ports.count, Evidence::Counted),
        Share::of(taken, ports.count).figure("share", Evidence::Inferred),
        Figure::count("time_wait", route.time_wait.into(), Evidence::Sampled),
    ];
    finding.figures.extend(left_ns.map(|ns| Figure {
        name: "left_ns",
        amount: Amount::Time(ns),
        evidence: Evidence::Inferred,
    }));
    finding.here.push(ports.remedy(key, route).to_owned());
    finding
}

/// The time until no port is left, where it went on as between the two looks.
fn left_ns(snapshot: &Snapshot<'_>, key: &RouteKey, taken: u64, ports: Ports) -> Option<u64> {
    let earlier = snapshot.earlier?;
    let took_ns = snapshot.sockets?.ts_ns.checked_sub(earlier.ts_ns)?;
    let before = earlier.routes.get(key);
    let before = before.map_or(0, |route| ports.taken(key, route));
    let risen = taken.checked_sub(before).filter(|&risen| risen > 0)?;
    let left = ports.count.checked_sub(taken)?;
    (took_ns >= SHORTEST_NS && left > 0).then(|| took_ns.saturating_mul(left) / risen)
}

/// The local ports of a namespace that the kernel chooses from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) count: u64,
    /// `tcp_tw_reuse`.
    reuse: u64,
}

impl Ports {
    pub(super) fn of(facts: &NetnsFacts) -> Option<Self> {
        let range = facts.settings.local_ports()?;
        let reuse = facts.settings.number("net/ipv4/tcp_tw_reuse");
        Some(Self {
            count: range.len() as u64,
            reuse: reuse.unwrap_or(0),
        })
    }

    /// Whether the kernel takes ports out of `TIME_WAIT` for this route.
    fn reuses_time_wait(self, key: &RouteKey) -> bool {
        self.reuse == 1 || (self.reuse == 2 && (key.laddr.is_loopback() || key.raddr.is_loopback()))
    }

    /// The ports that a route takes from others.
    pub(super) fn taken(self, key: &RouteKey, route: Route) -> u64 {
        let free = if self.reuses_time_wait(key) {
            route.time_wait
        } else {
            0
        };
        route.sockets.saturating_sub(free).into()
    }

    /// The remedy for what takes the ports: connections that are over, or those that are not.
    pub(super) fn remedy(self, key: &RouteKey, route: Route) -> &'static str {
        let is_over = u64::from(route.time_wait) * 2 > u64::from(route.sockets);
        if is_over && !self.reuses_time_wait(key) {
            "Most are in TIME_WAIT: many short connections. Using connections again ends the trouble."
        } else {
            "Most belong to connections that are not over: keep-alive frees none of them. Add addresses, here or at the \
             destination, or widen ip_local_port_range."
        }
    }

    fn is_near(self, key: &RouteKey, route: Route, percent: u64) -> bool {
        Share::of(self.taken(key, route), self.count).is_at_least(percent) && self.count > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::sample::{NETNS, Sample};

    fn to(raddr: [u8; 4], sockets: u32, time_wait: u32, reuse: &'static str) -> Sample {
        let mut sample = Sample::default().set(&[
            ("net/ipv4/ip_local_port_range", "40000 40099"),
            ("net/ipv4/tcp_tw_reuse", reuse),
        ]);
        let key = RouteKey {
            netns: NETNS,
            laddr: [10, 0, 0, 1].into(),
            raddr: raddr.into(),
            rport: 80,
        };
        let route = Route { sockets, time_wait };
        sample.sockets.routes.insert(key, route);
        sample.sockets.ts_ns = 10_000_000_000;
        sample
    }

    const FAR: [u8; 4] = [10, 0, 0, 9];

    #[test]
    fn most_ports_are_a_warning_and_all_are_critical() {
        assert!(to(FAR, 79, 0, "2").found(&RULE).is_empty());
        let found = to(FAR, 80, 60, "2").found(&RULE);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(
            found[0].summary,
            "80 of 100 local ports of 10.0.0.1 taken, 60 of them in TIME_WAIT"
        );
        assert_eq!(found[0].place.peer, Some(FAR.into()));
        let found = to(FAR, 100, 0, "0").found(&RULE);
        assert_eq!(found[0].severity, Severity::Critical);
    }

    #[test]
    fn time_wait_takes_no_port_where_it_is_used_again() {
        assert!(to(FAR, 100, 60, "1").found(&RULE).is_empty());
        assert!(to([127, 0, 0, 1], 100, 60, "2").found(&RULE).is_empty());
        assert!(!to([127, 0, 0, 1], 100, 60, "0").found(&RULE).is_empty());
        assert!(!to(FAR, 100, 60, "2").found(&RULE).is_empty());
    }

    #[test]
    fn the_remedy_fits_what_takes_the_ports() {
        let first_words = |raddr, sockets, time_wait, reuse| {
            let found = to(raddr, sockets, time_wait, reuse).found(&RULE);
            let here = found[0].here.join(" ");
            here.split(':').next().unwrap_or_default().to_owned()
        };
        let (over, open) = (
            "Most are in TIME_WAIT",
            "Most belong to connections that are not over",
        );
        assert_eq!(first_words(FAR, 90, 46, "0"), over);
        assert_eq!(first_words(FAR, 90, 45, "0"), open);
        assert_eq!(first_words(FAR, 90, 0, "0"), open);
        // Those in TIME_WAIT take none.
        assert_eq!(first_words(FAR, 190, 100, "1"), open);
    }

    #[test]
    fn two_looks_show_the_time_that_is_left() {
        let mut earlier = to(FAR, 40, 0, "2");
        earlier.sockets.ts_ns = 5_000_000_000;
        let found = to(FAR, 80, 0, "2").after(earlier).found(&RULE);
        // 40 in 5 s; 20 are left.
        assert_eq!(
            found[0].summary,
            "80 of 100 local ports of 10.0.0.1 taken; none left in 2.50 s"
        );
        let same = to(FAR, 80, 0, "2").after(to(FAR, 40, 0, "2")).found(&RULE);
        assert!(!same[0].summary.contains("left"));
        assert!(
            to(FAR, 80, 0, "2")
                .after(to(FAR, 90, 0, "2"))
                .found(&RULE)
                .len()
                == 1
        );
    }

    #[test]
    fn without_settings_nothing_is_known() {
        let mut sample = to(FAR, 100, 0, "2");
        sample.facts.clear();
        assert!(sample.found(&RULE).is_empty());
    }
}
