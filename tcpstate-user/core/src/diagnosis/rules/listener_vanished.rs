//! A listener that ended while its clients still come.

use std::collections::BTreeMap;

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, ListenerEnd, Place, Rule, ServiceKey, Severity,
    Snapshot, Trouble,
};
use crate::{
    inventory::Age,
    service::Role,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "listener_vanished",
        side: Role::Server,
        title: "a listener ended, and clients still come",
        is: "The last socket that listened at this port was closed, or its process ended. The kernel answers each further SYN \
             with a RST.",
        why: "Every client is refused (ECONNREFUSED) until something listens there again.",
        signal: "LISTEN that goes to CLOSE and does not come back; connects of this host refused at its port since, or RSTs \
                 that belong to no connection (`OutRsts`).",
        advice: &[
            "Look at why the process that held it ended: its log, `journalctl -b`, `dmesg` for the OOM killer.",
            "Start the service again; let its manager restart it (systemd: Restart=on-failure).",
        ],
        settings: &[],
        commands: &[
            "tcpstate ls state listening 'sport = :{port}'",
            "ss -tlnp 'sport = :{port}'",
            "nstat -az TcpOutRsts",
        ],
        told_from: &[
            "a port at which nothing has listened during the run (connects_fail)",
            "a process that was replaced: something listens there again (deploy)",
            "a listener that ended and that nobody wants any more",
        ],
        states: &[State::LISTEN],
        sources: &[
            "tcp_v4_rcv",
            "inet_csk_listen_stop",
            "RFC 9293, section 3.10.7.1",
        ],
    },
    needs: &[Input::Events],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    // The latest end at each port.
    let ended = snapshot.observed.listeners_ended();
    let ended: BTreeMap<_, _> = ended.map(|end| ((end.netns, end.port), end)).collect();
    ended
        .into_values()
        .filter_map(|end| find(snapshot, end))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, end: &ListenerEnd) -> Option<Finding> {
    let observed = snapshot.observed;
    if observed.is_listening(snapshot.sockets, end.netns, end.port) {
        return None;
    }
    let clients = observed.service(&ServiceKey {
        netns: end.netns,
        port: Some(end.port),
        role: Role::Client,
    });
    let refused = clients.and_then(|service| service.cases(Trouble::RefusedHere));
    let refused = refused.filter(|cases| cases.last_ns >= end.at_ns);
    let resets = end.netns.and_then(|netns| unexplained(snapshot, netns));
    let resets = resets.filter(|&resets| resets >= snapshot.thresholds.connects_failed);
    let (severity, count, words, evidence) = match (refused, resets) {
        (Some(cases), _) => (
            Severity::Critical,
            cases.count,
            format!(
                "{} of this host {} refused",
                Counted(cases.count, "connect"),
                if cases.count == 1 { "was" } else { "were" }
            ),
            Evidence::Seen,
        ),
        // They may be for any port.
        (None, Some(resets)) => (
            Severity::Note,
            resets,
            format!(
                "the kernel sent {} RSTs that belong to no connection",
                Count(resets)
            ),
            Evidence::Counted,
        ),
        (None, None) => return None,
    };
    let place = Place::service(end.netns, Role::Server, Some(end.port));
    let mut finding = Finding::new(
        &RULE.text,
        severity,
        place,
        format!("nothing listens any more, and {words}"),
    );
    finding.since = Some(Age::exactly(snapshot.now_ns.saturating_sub(end.at_ns)));
    finding.figures = vec![Figure::count("refused", count, evidence)];
    finding.owners = end.owner.map(|owner| (owner, 1)).into_iter().collect();
    finding.here = match refused {
        Some(cases) => cases
            .owners
            .first(1)
            .into_iter()
            .map(|(owner, count)| {
                let comm = crate::owner::Comm(owner.comm);
                format!(
                    "Most of those refused are of {} {} ({}).",
                    crate::escape::Printable(comm.as_bytes()),
                    owner.pid,
                    Count(count)
                )
            })
            .collect(),
        None => vec![
            "The kernel does not say for which port it sent them: `tcpdump -ni any 'tcp[tcpflags] & tcp-rst != 0'` does."
                .to_owned(),
        ],
    };
    Some(finding)
}

/// The RSTs of a namespace that belong to no connection that was seen, nor to a connect from here.
fn unexplained(snapshot: &Snapshot<'_>, netns: u32) -> Option<u64> {
    let risen = snapshot.risen(netns, "OutRsts")?;
    let services = snapshot.observed.services();
    let here = services.filter(|(key, _)| key.netns == Some(netns));
    let refused: u64 = here
        .map(|(_, service)| service.count(Trouble::RefusedHere))
        .sum();
    let seen = snapshot.observed.resets_of(netns).saturating_add(refused);
    Some(risen.saturating_sub(seen))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{
        super::super::observed::tests::{Host, NETNS, S, only, peer},
        *,
    };

    const LOCALHOST: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A host on which process 7 no longer listens at port 80.
    fn host(counters: &[(&'static str, u64)]) -> Host {
        let mut host = Host::new().with_facts(counters, &[]);
        let mut listener = host.listens(80, 7);
        host.goes(&mut listener, S, State::CLOSE);
        host
    }

    #[test]
    fn a_client_of_this_host_is_refused() {
        let mut host = host(&[("OutRsts", 1)]);
        host.fails(LOCALHOST, 80, 111);
        host.wait(5 * S);
        let finding = only(host.check(&RULE), Severity::Critical);
        assert_eq!(
            finding.summary,
            "nothing listens any more, and 1 connect of this host was refused"
        );
        assert_eq!(finding.owners[0].0.pid, 7);
        assert_eq!(
            (finding.place.role, finding.place.port),
            (Role::Server, Some(80))
        );
        assert!(finding.since.unwrap().at_least_ns >= 5 * S);
    }

    #[test]
    fn clients_elsewhere_show_in_the_counter() {
        only(host(&[("OutRsts", 3)]).check(&RULE), Severity::Note);
        assert!(host(&[("OutRsts", 2)]).check(&RULE).is_empty());
    }

    #[test]
    fn nobody_misses_it() {
        assert!(host(&[("OutRsts", 0)]).check(&RULE).is_empty());
        // Before it ended.
        let mut host = Host::new();
        host.fails(LOCALHOST, 80, 111);
        let mut listener = host.listens(80, 7);
        host.goes(&mut listener, S, State::CLOSE);
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn another_port_or_host_is_not_meant() {
        let mut host = host(&[]);
        host.fails(LOCALHOST, 81, 111);
        host.fails(peer(1), 80, 111);
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn it_is_back() {
        let mut host = host(&[("OutRsts", 3)]);
        host.fails(LOCALHOST, 80, 111);
        host.listens(80, 8);
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn resets_of_connections_are_no_clients_that_come() {
        let mut host = host(&[("OutRsts", 3)]);
        for _ in 0..3 {
            let mut life = host.accepted(81, peer(1));
            life.resets();
            host.goes(&mut life, S, State::CLOSE);
        }
        assert!(host.check(&RULE).is_empty());
        assert_eq!(unexplained(&host.snapshot(), NETNS), Some(0));
    }
}
