//! Servers whose idle time-out ends connections that their proxy still uses.

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service, ServiceKey, Severity,
    Snapshot, Trouble, share::Share,
};
use crate::{
    service::Role,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "keepalive_race",
        title: "requests arrive just after the server has closed",
        is: "The server closed a connection that was idle, while the next request was on its way. The kernel answered that \
             request with a RST.",
        why: "The proxy or the client in front loses the request: a proxy answers 502, and does not repeat a POST.",
        signal: "A server's connection in FIN_WAIT1 or FIN_WAIT2 that data ends (`TCPAbortOnData`), after at least \
                 `idle_timeout_least`.",
        advice: &[
            "The idle time-out of the server must be longer than that of the proxy in front of it, so that always the proxy \
             closes first: node: server.keepAliveTimeout (5 s by default); gunicorn: keepalive (2 s); nginx: \
             keepalive_timeout (75 s). A load balancer often has 60 s.",
            "Where the server's cannot be changed, shorten the proxy's (nginx: keepalive_timeout in upstream; haproxy: \
             timeout http-keep-alive, http-reuse never).",
        ],
        settings: &[],
        commands: &[
            "tcpstate life --cause reset_locally --reset-reason {filter}",
            "nstat -az TcpExtTCPAbortOnData",
            "tcpdump -ni any 'tcp port {port} and tcp[tcpflags] & (tcp-fin|tcp-rst) != 0'",
        ],
        told_from: &[
            "a server that answers before it has read the whole request, and closes (an upload that it refuses): the \
             connection is young",
            "a reset by the peer: there the RST came, here it was sent",
            "close() with unread data, which resets at once (`TCPAbortOnClose`)",
        ],
        states: &[State::FIN_WAIT1, State::FIN_WAIT2],
        sources: &["tcp_rcv_state_process", "RFC 9112, section 9.5"],
    },
    needs: &[Input::Events],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let services = snapshot.observed.services();
    let services = services.filter(|(key, _)| key.role != Role::Client);
    services
        .filter_map(|(key, service)| find(snapshot, key, service))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &ServiceKey, service: &Service) -> Option<Finding> {
    let place = Place::service(key.netns, key.role, key.port);
    let (late, young) = (
        service.cases(Trouble::LateData),
        service.count(Trouble::EarlyClose),
    );
    let Some(late) = late else {
        let young = service.cases(Trouble::EarlyClose)?;
        if young.count < snapshot.thresholds.keepalive_race_count {
            return None;
        }
        let summary = format!(
            "{} closed before the whole request had come, and reset by the rest of it",
            Counted(young.count, "young connection")
        );
        let mut finding = Finding::new(&RULE.text, Severity::Note, place, summary)
            .with_peers(&young.peers)
            .with_owners(&young.owners);
        finding.figures = vec![Figure::count("young", young.count, Evidence::Seen)];
        finding.here = vec![
            "No idle time-out did this: the server closes before it has read everything. If clients miss its answer, it \
             should read the rest, or shut down only its sending side first."
                .to_owned(),
        ];
        return Some(finding);
    };
    let severity = if late.count >= snapshot.thresholds.keepalive_race_count {
        Severity::Warning
    } else {
        Severity::Note
    };
    let share = Share {
        part: late.count,
        whole: service.closed,
    };
    let summary = format!(
        "{} got data after the server had closed, {share} of those that ended",
        Counted(late.count, "connection")
    );
    let mut finding = Finding::new(&RULE.text, severity, place, summary)
        .with_peers(&late.peers)
        .with_owners(&late.owners);
    finding.figures = vec![
        Figure::count("late_data", late.count, Evidence::Seen),
        share.figure("late_data_share", Evidence::Seen),
    ];
    if young > 0 {
        finding
            .figures
            .push(Figure::count("young", young, Evidence::Seen));
    }
    let aborts = key
        .netns
        .and_then(|netns| snapshot.risen(netns, "TCPAbortOnData"));
    finding
        .figures
        .extend(aborts.map(|count| Figure::count("aborts_on_data", count, Evidence::Counted)));
    // The peers that send into closed connections are the proxies.
    if late.peers.keys() == 1
        && let [(proxy, count)] = late.peers.first(1)[..]
    {
        finding.here.push(format!(
            "All {} are from {proxy}: its idle time-out is the one that must be shorter.",
            Count(count)
        ));
    }
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::observed::tests::{Host, MS, S, only, peer},
        *,
    };

    /// A server that closes so many connections after this time, to which data comes then.
    fn host(count: u64, lifetime_ns: u64) -> Host {
        let mut host = Host::new();
        for _ in 0..count {
            let mut life = host.accepted(80, peer(1));
            host.goes(&mut life, lifetime_ns, State::FIN_WAIT1);
            life.gets_late_data();
            host.goes(&mut life, MS, State::CLOSE);
        }
        host
    }

    #[test]
    fn requests_after_an_idle_time_out_race() {
        let finding = only(host(3, 5 * S).check(&RULE), Severity::Warning);
        assert_eq!(
            finding.summary,
            "3 connections got data after the server had closed, 100 % of those that ended"
        );
        assert_eq!(
            (finding.place.role, finding.place.port),
            (Role::Server, Some(80))
        );
        assert_eq!(
            finding.here,
            ["All 3 are from 10.0.0.1: its idle time-out is the one that must be shorter."]
        );
        only(host(2, 5 * S).check(&RULE), Severity::Note);
    }

    #[test]
    fn young_connections_are_no_race() {
        let finding = only(host(3, 50 * MS).check(&RULE), Severity::Note);
        assert!(finding.summary.starts_with("3 young connections closed"));
        assert!(host(2, 50 * MS).check(&RULE).is_empty());
    }

    #[test]
    fn other_resets_are_no_race() {
        let mut host = Host::new();
        for _ in 0..5 {
            let mut life = host.accepted(80, peer(1));
            life.resets();
            host.goes(&mut life, 5 * S, State::CLOSE);
            let mut life = host.accepted(80, peer(1));
            life.is_reset();
            host.goes(&mut life, 5 * S, State::CLOSE);
            let life = host.accepted(80, peer(1));
            host.closes_first(life, 5 * S);
        }
        assert!(host.check(&RULE).is_empty());
    }
}
