//! Clients whose SYNs nobody answers.

use std::{fmt::Write as _, net::IpAddr};

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, GroupKey, Input, ListenerNow, Place, Rule, ServiceKey,
    Severity, Snapshot, Survey,
};
use crate::{
    cause::Cause,
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "connect_hangs",
        side: Role::Client,
        title: "connects that nobody answers",
        is: "A client's SYN was sent again and again, and nothing came back: no SYN-ACK, no RST, no ICMP error. Something on \
             the way drops it, or its answer, or the server does because its queue is full. A client cannot tell which.",
        why: "The application waits in connect() until it gives up, or `tcp_syn_retries` ends it with ETIMEDOUT.",
        signal: "Sockets in SYN_SENT for `syn_sent_age`, and connects that ended with a time-out while we watched.",
        advice: &[
            "Run the tcpdump below on the server. If the SYN comes (`Flags [S]`) and nothing is answered (`[S.]`), the server's \
             accept queue is full (`tcpstate diagnose` says so there), or its own firewall drops it (`nft list ruleset`).",
            "If the SYN does not come, a firewall, a security group or a route on the way drops it. If the SYN-ACK leaves and \
             does not arrive here, it is the way back.",
            "Give connect() a time-out of a few seconds in the application, and try another server then.",
        ],
        settings: &[Setting {
            path: "net/ipv4/tcp_syn_retries",
            effect: "ends a connect: 6 after 2 minutes, 3 after 19 s (with tcp_syn_linear_timeouts = 4, its default from \
                     Linux 6.5 on)",
        }],
        commands: &[
            "tcpstate ls --wide state syn-sent '{filter}'",
            "ss -tanop state syn-sent '{filter}'",
            "tcpdump -ni any 'tcp port {port} and tcp[13] & 6 != 0'",
        ],
        told_from: &[
            "a refused or unreachable destination: it answers, and the connect fails at once",
            "a handshake that takes long and succeeds: then the SYN, or its answer, was lost once or twice",
            "a firewall on the way, and a full accept queue of the server: a client sees the same for both",
        ],
        states: &[State::SYN_SENT],
        sources: &[
            "tcp_write_timeout",
            "tcp_retransmit_timer",
            "RFC 9293, section 3.8.3",
        ],
    },
    needs: &[Input::Sockets],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (key, group) in sockets.in_state(State::SYN_SENT) {
        if group.stale == 0 {
            continue;
        }
        let service = snapshot.observed.service(&ServiceKey {
            netns: (key.netns != 0).then_some(key.netns),
            port: key.port,
            role: key.role,
        });
        let failed = |cause| service.map_or(0, |service| service.failed_by(cause));
        let (timed_out, given_up) = (failed(Cause::TimedOut), failed(Cause::Abandoned));
        let established = GroupKey {
            state: State::ESTABLISHED,
            ..*key
        };
        let reaches_some = sockets.groups.contains_key(&established)
            || service.is_some_and(|service| service.established > 0);
        let is_critical = !reaches_some && group.stale >= snapshot.thresholds.connect_count;
        let severity = if is_critical {
            Severity::Critical
        } else {
            Severity::Warning
        };
        let mut place = Place::service(Some(key.netns), key.role, key.port);
        if let [(peer, _)] = group.peers.first(2)[..] {
            place.peer = Some(peer);
        }
        let mut summary = format!("{} without an answer", Counted(group.stale, "connect"));
        for (count, case) in [(timed_out, "timed out"), (given_up, "given up")] {
            if count > 0 {
                // Writing to a string does not fail.
                let _ = write!(summary, ", {} {case}", Count(count));
            }
        }
        if !reaches_some {
            summary += ", and no connection";
        }
        let mut finding = Finding::new(&RULE.text, severity, place, summary)
            .with_peers(&group.peers)
            .with_owners(&group.owners);
        finding.since = group.oldest;
        finding.figures = vec![Figure::count("hanging", group.stale, Evidence::Sampled)];
        if service.is_some() {
            finding.figures.extend([
                Figure::count("timed_out", timed_out, Evidence::Seen),
                Figure::count("given_up", given_up, Evidence::Seen),
            ]);
        }
        finding
            .figures
            .extend(group.oldest.map(|age| Figure::age("oldest_ns", age)));
        let ends = group.example.map(|one| (one.local.0, one.remote.0));
        finding.is_to_here =
            ends.is_some_and(|(local, remote)| is_here(sockets, key, local, remote));
        finding.here.extend(
            full_listener(sockets, key, ends)
                .or_else(|| (finding.is_to_here && has_room(sockets, key)).then(firewall_here)),
        );
        findings.push(finding);
    }
    findings
}

/// Whether the remote address is one of the clients' own network namespace: the kernel connects from the same address
/// then, unless the client has chosen another one.
pub(super) fn is_here(sockets: &Survey, key: &GroupKey, local: IpAddr, remote: IpAddr) -> bool {
    let mut listeners = sockets.listeners.iter();
    remote.is_loopback()
        || local == remote
        || listeners.any(|listener| (listener.netns, listener.laddr) == (key.netns, remote))
}

/// Whether every listener at this port has room for what comes, so that it would answer.
fn has_room(sockets: &Survey, key: &GroupKey) -> bool {
    let at_port =
        |listener: &&ListenerNow| (listener.netns, Some(listener.port)) == (key.netns, key.port);
    let mut listeners = sockets.listeners.iter().filter(at_port);
    sockets.has_queues
        && listeners.all(|listener| {
            let half = u64::from(listener.backlog.unwrap_or(0) / 2);
            listener.half_open < half && u64::from(listener.waiting.unwrap_or(u32::MAX)) <= half
        })
}

fn firewall_here() -> String {
    "The server is this host, and has room for more: most likely a firewall of this host drops the packets (nft list ruleset, \
     iptables -S)."
        .to_owned()
}

/// A listener of this host with a full queue to which these may go.
fn full_listener(
    sockets: &Survey,
    key: &GroupKey,
    ends: Option<(IpAddr, IpAddr)>,
) -> Option<String> {
    let port = key.port?;
    let full = |listener: &&ListenerNow| {
        listener.port == port
            && listener
                .waiting
                .zip(listener.backlog)
                .is_some_and(|(waiting, backlog)| waiting > backlog)
    };
    let full: Vec<_> = sockets.listeners.iter().filter(full).collect();
    let (local, remote) = ends?;
    let is_local = is_here(sockets, key, local, remote);
    let here = full.iter().find(|listener| {
        listener.netns == key.netns
            && (listener.laddr == remote || (is_local && listener.laddr.is_unspecified()))
    });
    if here.is_some() {
        return Some(format!(
            "The server is this host, and the accept queue of its listener at port {port} is full: that is the reason."
        ));
    }
    let elsewhere = full.iter().find(|listener| {
        listener.netns != key.netns && (listener.laddr == remote || listener.laddr.is_unspecified())
    })?;
    Some(format!(
        "Network namespace {} of this host has a listener at port {port} whose accept queue is full: if these go there, that is \
         the reason.",
        elsewhere.netns
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::{
            Example, Group,
            sample::{NETNS, Sample, addresses, group, key, listener},
        },
        service::Role,
    };

    fn hanging(stale: u64, remote: [u8; 4]) -> Sample {
        let group = Group {
            stale,
            peers: addresses(1),
            example: Some(Example {
                local: ([127, 0, 0, 1].into(), 40_000),
                remote: (remote.into(), 443),
            }),
            ..group(stale + 5)
        };
        Sample::default().with(key(443, Role::Client, State::SYN_SENT), group)
    }

    #[test]
    fn a_destination_that_nothing_reaches_is_critical() {
        let found = hanging(3, [192, 0, 2, 0]).found(&RULE);
        assert_eq!(found[0].severity, Severity::Critical);
        assert_eq!(
            found[0].summary,
            "3 connects without an answer, and no connection"
        );
        assert_eq!(found[0].place.peer, Some([192, 0, 2, 0].into()));
        assert!(found[0].here.is_empty());
        let few = hanging(2, [192, 0, 2, 0]).found(&RULE);
        assert_eq!(few[0].severity, Severity::Warning);
        let reached = hanging(3, [192, 0, 2, 0])
            .with(key(443, Role::Client, State::ESTABLISHED), group(1))
            .found(&RULE);
        assert_eq!(reached[0].severity, Severity::Warning);
    }

    #[test]
    fn a_connect_that_has_just_begun_is_nothing() {
        assert!(hanging(0, [192, 0, 2, 0]).found(&RULE).is_empty());
    }

    #[test]
    fn a_full_listener_of_this_host_is_named() {
        let mut full = listener(4);
        full.waiting = Some(5);
        let at_home = hanging(1, [127, 0, 0, 1]).with_listener(full.clone());
        let here = &at_home.found(&RULE)[0].here;
        assert!(here[0].starts_with("The server is this host"), "{here:?}");
        full.netns = NETNS + 1;
        let elsewhere = hanging(1, [192, 0, 2, 0]).with_listener(full.clone());
        let here = &elsewhere.found(&RULE)[0].here;
        assert!(
            here[0].starts_with("Network namespace 4026531841"),
            "{here:?}"
        );
        full.waiting = Some(4);
        let with_room = hanging(1, [192, 0, 2, 0]).with_listener(full);
        assert!(with_room.found(&RULE)[0].here.is_empty());
    }

    #[test]
    fn a_server_of_this_host_with_room_is_behind_a_firewall() {
        let here = |to, half_open, waiting| {
            let mut one = listener(8);
            (one.half_open, one.waiting) = (half_open, Some(waiting));
            let found = hanging(1, to).with_listener(one).found(&RULE);
            found[0].here.iter().any(|line| line.contains("firewall"))
        };
        assert!(here([127, 0, 0, 1], 3, 4));
        // Too much is under way, or waits, for the listener to answer.
        assert!(!here([127, 0, 0, 1], 4, 0));
        assert!(!here([127, 0, 0, 1], 0, 5));
        assert!(!here([192, 0, 2, 0], 0, 0));
    }
}
