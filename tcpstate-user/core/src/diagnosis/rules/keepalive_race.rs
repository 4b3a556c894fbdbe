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
        side: Role::Server,
        title: "requests arrive just after the server has closed",
        is: "The server closed a connection that was idle, while the next request was on its way. The kernel answered that \
             request with a RST.",
        why: "The proxy or the client in front loses the request: a proxy answers 502, and does not repeat a POST.",
        signal: "A server's connection in FIN_WAIT1 that data ends (`TCPAbortOnData`), after at least \
                 `idle_timeout_least`.",
        advice: &[
            "The idle time-out of the server must be longer than that of the proxy in front of it, so that always the proxy \
             closes first: node: server.keepAliveTimeout (5 s by default); gunicorn: keepalive (2 s); nginx: \
             keepalive_timeout (75 s). A load balancer often has 60 s.",
            "Where the server's cannot be changed, shorten the proxy's (nginx: keepalive_timeout in upstream), or let it \
             open a connection for each request (haproxy: option http-server-close).",
        ],
        settings: &[],
        commands: &[
            "tcpstate life --cause reset_locally --reset-reason {filter}",
            "nstat -az TcpExtTCPAbortOnData",
            "tcpdump -ni any 'tcp port {port} and tcp[13] & 5 != 0'",
        ],
        told_from: &[
            "a server that answers before it has read the whole request, and closes (an upload that it refuses): the \
             connection is young",
            "a client that had acknowledged the close and sends all the same: the connection is in FIN_WAIT2 (stale_pool)",
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
    let young = service.count(Trouble::EarlyClose);
    let Some(late) = service.cases(Trouble::LateData) else {
        return OTHERS
            .iter()
            .find_map(|other| other.find(snapshot, place, service));
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

/// Data after the close that is no race.
struct Other {
    trouble: Trouble,
    figure: &'static str,
    words: &'static str,
    here: &'static str,
}

const OTHERS: [Other; 2] = [
    Other {
        trouble: Trouble::DataAfterFin,
        figure: "after_fin",
        words: "used by a client that had acknowledged the close",
        here: "No race: these clients had the FIN, and sent all the same. Their pool does not look whether a connection has \
               ended; see stale_pool there.",
    },
    Other {
        trouble: Trouble::EarlyClose,
        figure: "young",
        words: "closed within a second, and reset by the rest of the request",
        here: "No idle time-out did this: the server closes before it has read everything. If clients miss its answer, it \
               should read the rest, or shut down only its sending side first.",
    },
];

impl Other {
    fn find(&self, snapshot: &Snapshot<'_>, place: Place, service: &Service) -> Option<Finding> {
        let cases = service.cases(self.trouble)?;
        if cases.count < snapshot.thresholds.keepalive_race_count {
            return None;
        }
        let summary = format!("{} {}", Counted(cases.count, "connection"), self.words);
        let mut finding = Finding::new(&RULE.text, Severity::Note, place, summary)
            .with_peers(&cases.peers)
            .with_owners(&cases.owners);
        finding.figures = vec![Figure::count(self.figure, cases.count, Evidence::Seen)];
        finding.here = vec![self.here.to_owned()];
        Some(finding)
    }
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
        assert!(
            finding
                .summary
                .starts_with("3 connections closed within a second")
        );
        assert!(host(2, 50 * MS).check(&RULE).is_empty());
    }

    #[test]
    fn a_client_that_had_the_fin_is_no_race() {
        let mut host = Host::new();
        for _ in 0..3 {
            let mut life = host.accepted(80, peer(1));
            host.goes(&mut life, 5 * S, State::FIN_WAIT1);
            host.goes(&mut life, MS, State::FIN_WAIT2);
            life.gets_late_data();
            host.goes(&mut life, MS, State::CLOSE);
        }
        let finding = only(host.check(&RULE), Severity::Note);
        assert!(finding.here[0].contains("stale_pool"));
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
