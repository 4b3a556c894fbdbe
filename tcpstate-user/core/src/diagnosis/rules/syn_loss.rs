//! Handshakes that were slow because a SYN, or its answer, was lost.

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, ListenerNow, Place, Rule, Service, ServiceKey,
    Severity, Snapshot, Trouble, share::Share,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "syn_loss",
        side: Role::Client,
        title: "SYNs are lost, and handshakes take seconds",
        is: "Handshakes took near 1, 2, 3 ... seconds: the first SYN, or the answer to it, was lost, and the kernel sent it \
             again.",
        why: "These users wait a second or more before anything happens; with more loss their connects fail.",
        signal: "Clients' handshakes near whole seconds, where `TCPSynRetrans` rises; above `slow_handshakes_share`.",
        advice: &[
            "Find out where they are lost: tcpdump on both sides. Where the SYN arrives and no answer leaves, the server \
             drops it: its accept queue is full, or a filter is in front of it. Run `tcpstate diagnose` there.",
            "On the way: look for a full connection table of a firewall (`nf_conntrack: table full` in its log), for a \
             limit of new connections per second, and for a path or a network card that loses packets.",
        ],
        settings: &[Setting {
            path: "net/ipv4/tcp_syn_retries",
            effect: "how often a SYN is sent again before connect() fails with ETIMEDOUT",
        }],
        commands: &[
            "tcpstate hist --of handshake {filter}",
            "nstat -az TcpExtTCPSynRetrans",
            "tcpdump -ni any 'tcp port {port} and tcp[tcpflags] & tcp-syn != 0'",
        ],
        told_from: &[
            "a listener of this host whose accept queue is full: it drops SYNs too (accept_queue_full)",
            "an old connection in TIME_WAIT at the server: the client resets it, and repeats its SYN within milliseconds",
            "a server that is far away: its handshakes take the same time each",
        ],
        states: &[State::SYN_SENT],
        sources: &[
            "tcp_retransmit_timer",
            "tcp_rcv_synsent_state_process",
            "RFC 6298, section 2",
        ],
    },
    needs: &[Input::Events],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let services = snapshot.observed.services();
    let services = services.filter(|(key, _)| key.role == Role::Client);
    services
        .filter_map(|(key, service)| find(snapshot, key, service))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &ServiceKey, service: &Service) -> Option<Finding> {
    let thresholds = snapshot.thresholds;
    let slow = service.cases(Trouble::SlowHandshake)?;
    let share = Share {
        part: slow.count,
        whole: service.handshakes,
    };
    if slow.count < thresholds.slow_handshakes
        || !share.is_at_least(thresholds.slow_handshakes_share)
    {
        return None;
    }
    let repeated = key
        .netns
        .and_then(|netns| snapshot.risen(netns, "TCPSynRetrans"));
    if repeated == Some(0) {
        return None;
    }
    let is_to_here = slow.here.saturating_mul(2) > slow.count;
    let full = full_listener(snapshot, key).filter(|_| is_to_here);
    let severity = if full.is_some() {
        Severity::Note
    } else {
        Severity::Warning
    };
    let place = Place::service(key.netns, key.role, key.port);
    let summary = format!(
        "{} of {}, {share}, took near a second or several",
        Count(slow.count),
        Counted(service.handshakes, "handshake")
    );
    let mut finding = Finding::new(&RULE.text, severity, place, summary)
        .with_peers(&slow.peers)
        .with_owners(&slow.owners);
    finding.is_to_here = is_to_here;
    finding.figures = vec![
        Figure::count("slow", slow.count, Evidence::Seen),
        share.figure("slow_share", Evidence::Seen),
    ];
    finding
        .figures
        .extend(repeated.map(|count| Figure::count("repeated_syns", count, Evidence::Counted)));
    finding.here.extend(full.map(|listener| {
        format!(
            "A listener of this host at port {} has a full accept queue: it is the one that drops them.",
            listener.port
        )
    }));
    Some(finding)
}

/// The listener of the clients' own network namespace that has dropped connections.
fn full_listener<'a>(snapshot: &Snapshot<'a>, key: &ServiceKey) -> Option<&'a ListenerNow> {
    let mut listeners = snapshot.sockets?.listeners.iter();
    listeners.find(|listener| {
        let is_full = listener
            .waiting
            .zip(listener.backlog)
            .is_some_and(|(waiting, backlog)| waiting > backlog);
        let overflows = snapshot.risen(listener.netns, "ListenOverflows");
        (Some(listener.netns), Some(listener.port)) == (key.netns, key.port)
            && (is_full || overflows.is_some_and(|count| count > 0))
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{
        super::super::{
            Survey,
            observed::tests::{Host, MS, S, listener, only, peer},
        },
        *,
    };

    /// A host with so many handshakes, so many of which take a second.
    fn host(slow: u64, all: u64, counters: &[(&'static str, u64)]) -> Host {
        connecting(peer(1), slow, all, counters)
    }

    /// The same with this server.
    fn connecting(to: IpAddr, slow: u64, all: u64, counters: &[(&'static str, u64)]) -> Host {
        let mut host = Host::new().with_facts(counters, &[]);
        for number in 0..all {
            let mut life = host.client(to, 80);
            host.goes(&mut life, MS, State::SYN_SENT);
            let handshake_ns = if number < slow { S + 20 * MS } else { MS };
            host.goes(&mut life, handshake_ns, State::ESTABLISHED);
        }
        host
    }

    #[test]
    fn one_in_a_hundred_is_loss() {
        let risen = [("TCPSynRetrans", 3)];
        let finding = only(host(3, 300, &risen).check(&RULE), Severity::Warning);
        assert_eq!(
            finding.summary,
            "3 of 300 handshakes, 1.0 %, took near a second or several"
        );
        assert!(host(3, 301, &risen).check(&RULE).is_empty());
        assert!(host(2, 10, &risen).check(&RULE).is_empty());
    }

    #[test]
    fn the_counter_must_have_risen_where_it_is_known() {
        assert!(host(3, 3, &[("TCPSynRetrans", 0)]).check(&RULE).is_empty());
        only(host(3, 3, &[]).check(&RULE), Severity::Warning);
    }

    #[test]
    fn a_full_listener_of_the_same_namespace_is_named() {
        let mut full = listener(80);
        full.waiting = Some(129);
        let found = |to, full: &ListenerNow| {
            let mut host = connecting(to, 3, 3, &[("TCPSynRetrans", 3)]);
            host.sockets = Some(Survey {
                listeners: vec![full.clone()],
                ..Survey::default()
            });
            host.check(&RULE)
        };
        // Every namespace has a loopback address, and every port.
        let here = IpAddr::from([127, 0, 0, 1]);
        let mut other = full.clone();
        other.port = 81;
        only(found(here, &other), Severity::Warning);
        let mut elsewhere = full.clone();
        elsewhere.netns += 1;
        only(found(here, &elsewhere), Severity::Warning);
        only(found(peer(1), &full), Severity::Warning);
        for own in [here, peer(200)] {
            let finding = only(found(own, &full), Severity::Note);
            assert!(finding.here[0].contains("port 80") && finding.is_to_here);
        }
    }
}
