//! Clients that bind to an address before they connect: each of their ports is used once, whatever the destination.

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
        name: "bind_before_connect",
        side: Role::Client,
        title: "bind() before connect() uses up the local ports",
        is: "Clients call bind() with a local address and port 0, and then connect(). At bind() the kernel does not know the \
             destination, so that it gives each socket a port that no other one has. Nearly all ports are taken so.",
        why: "When none is left, bind() fails with EADDRINUSE, to whatever destination. That makes no event.",
        signal: "The local ports of clients, each counted once, take `ports_share` of `ip_local_port_range` or more, and few \
                 are shared although there are several destinations.",
        advice: &[
            "Set IP_BIND_ADDRESS_NO_PORT before bind(): the port is then chosen at connect(), and shared between destinations. \
             nginx (proxy_bind) and HAProxy (source) do so.",
            "Leave out bind() where the local address does not matter.",
            "Until then, widen `ip_local_port_range`, and use connections again.",
        ],
        settings: &[Setting {
            path: "net/ipv4/ip_local_port_range",
            effect: "the ports that the kernel chooses from",
        }],
        commands: &[
            "tcpstate ls role client",
            "ss -tan state connected",
            "strace -f -e trace=bind,connect,setsockopt -p PID",
        ],
        told_from: &[
            "connect() alone: the kernel gives the same port to connections to several destinations",
            "many connections to one destination: ports_near_exhaustion has these",
        ],
        states: &[State::ESTABLISHED, State::TIME_WAIT],
        sources: &["inet_csk_get_port", "__inet_hash_connect", "ip(7)"],
    },
    needs: &[Input::Sockets, Input::Settings],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for facts in snapshot.facts {
        let netns = facts.netns;
        let Some(range) = facts.settings.local_ports() else {
            continue;
        };
        let Some(taken) = sockets.client_ports.get(&netns) else {
            continue;
        };
        let ports = range.len() as u64;
        let taken = u64::from(taken.count_in(&range));
        if ports == 0 || !Share::of(taken, ports).is_at_least(snapshot.thresholds.ports_share) {
            continue;
        }
        let routes = sockets.routes.iter();
        let routes = routes.filter(|(key, _)| key.netns == netns);
        let (mut destinations, mut all, mut largest) = (0_u64, 0_u64, 0_u64);
        for (_, route) in routes {
            destinations += 1;
            all += u64::from(route.sockets);
            largest = largest.max(route.sockets.into());
        }
        if destinations < 2
            || Share::of(largest, ports).is_at_least(snapshot.thresholds.destination_share)
            || !Share::of(taken, all).is_at_least(snapshot.thresholds.unshared_share)
        {
            continue;
        }
        let severity = if taken >= ports {
            Severity::Critical
        } else {
            Severity::Warning
        };
        let place = Place {
            role: Role::Client,
            ..Place::netns(netns)
        };
        let summary = format!(
            "{} of {} local ports taken by {} to {} destinations, hardly one shared",
            Count(taken),
            Count(ports),
            Counted(all, "connection"),
            Count(destinations)
        );
        let mut finding = Finding::new(&RULE.text, severity, place, summary);
        finding.figures = vec![
            Figure::count("taken", taken, Evidence::Sampled),
            Figure::count("ports", ports, Evidence::Counted),
            Share::of(taken, ports).figure("share", Evidence::Inferred),
            Figure::count("connections", all, Evidence::Sampled),
            Figure::count("destinations", destinations, Evidence::Sampled),
        ];
        findings.push(finding);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{
        Route, RouteKey,
        sample::{NETNS, Sample},
    };

    /// Connections to destinations, each from the ports of one range.
    fn clients(routes: &[std::ops::Range<u16>]) -> Sample {
        let mut sample = Sample::default().set(&[("net/ipv4/ip_local_port_range", "40000 40099")]);
        for (last, ports) in routes.iter().enumerate() {
            let key = RouteKey {
                netns: NETNS,
                laddr: [10, 0, 0, 1].into(),
                raddr: [10, 0, 1, u8::try_from(last).unwrap()].into(),
                rport: 80,
            };
            let route = Route {
                sockets: ports.len().try_into().unwrap(),
                time_wait: 0,
            };
            sample.sockets.routes.insert(key, route);
            for port in ports.clone() {
                let taken = sample.sockets.client_ports.entry(NETNS).or_default();
                taken.insert(40_000 + port);
            }
        }
        sample
    }

    #[test]
    fn ports_that_are_not_shared_are_found() {
        let found = clients(&[0..40, 40..80]).found(&RULE);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(
            found[0].summary,
            "80 of 100 local ports taken by 80 connections to 2 destinations, hardly one shared"
        );
        let found = clients(&[0..40, 40..80, 80..100]).found(&RULE);
        assert_eq!(found[0].severity, Severity::Critical);
    }

    #[test]
    fn shared_ports_few_ports_and_one_destination_are_not() {
        for routes in [
            &[0..49, 0..49, 49..80][..],
            &[0..40, 40..79],
            &[0..50, 50..80],
            &[],
        ] {
            assert!(clients(routes).found(&RULE).is_empty(), "{routes:?}");
        }
        let one_destination = std::slice::from_ref(&(0..80));
        assert!(clients(one_destination).found(&RULE).is_empty());
    }
}
