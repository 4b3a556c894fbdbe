//! Connects that fail: without an answer, refused, unreachable, given up.

use std::{collections::BTreeSet, net::IpAddr};

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service, ServiceKey, Severity,
    Snapshot, Top, Trouble, share::Share,
};
use crate::{
    event::Process,
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "connects_fail",
        side: Role::Client,
        title: "connects fail",
        is: "Clients of this host try to connect, and the connection is not established.",
        why: "The application gets an error, often after a long time without one.",
        signal: "SYN_SENT that goes to CLOSE, by the error of the socket: ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH or \
                 ENETUNREACH, or none where the application closed the socket first.",
        advice: &[
            "Follow one of them: does the SYN leave this host, does it arrive there, and does an answer leave? tcpdump on \
             both sides tells.",
        ],
        settings: &[Setting {
            path: "net/ipv4/tcp_syn_retries",
            effect: "how often a SYN is sent again before connect() fails with ETIMEDOUT",
        }],
        commands: &[
            "tcpstate life --role client --state SYN_SENT {filter}",
            "tcpstate ls state syn-sent '{filter}'",
            "tcpdump -ni any 'tcp port {port} and tcp[13] & 6 != 0'",
        ],
        told_from: &[
            "a connect that found no local port: it sent nothing (ports_exhausted)",
            "a port of this host whose listener ended meanwhile (listener_vanished)",
            "a client that tries two addresses at once and gives up the slower one within a second",
        ],
        states: &[State::SYN_SENT],
        sources: &[
            "tcp_write_timeout",
            "tcp_reset",
            "tcp_v4_err",
            "RFC 9293, section 3.10.7.3",
        ],
    },
    needs: &[Input::Events],
    check,
};

/// The kinds of failure with their words, the name of their figure and what to look at.
const KINDS: [(Trouble, &str, &str, &str); 6] = [
    (
        Trouble::ConnectTimedOut,
        "got no answer",
        "timed_out",
        "Without an answer: the host is down, a firewall drops the SYNs, or the accept queue there is full, which a client \
         cannot tell from the others. Run `tcpstate diagnose` there.",
    ),
    (
        Trouble::Refused,
        "refused",
        "refused",
        "Refused: the host is there, and nothing listens at this port, or a firewall answers in its place. Check address \
         and port, and whether the service runs.",
    ),
    (
        Trouble::RefusedHere,
        "refused by this host itself",
        "refused_here",
        "Refused by this host itself: nothing listens at this address and port. Start the service, or correct the client.",
    ),
    (
        Trouble::Unreachable,
        "unreachable",
        "unreachable",
        "Unreachable: no route (`ip route get ADDRESS`), no answer to ARP from a neighbour that is down, or a router or \
         firewall that says so by ICMP.",
    ),
    (
        Trouble::GivenUp,
        "given up by the application",
        "given_up",
        "Given up: the application's own time-out for connects is shorter than it takes to get an answer. Behind it is one \
         of the others, mostly SYNs that are dropped.",
    ),
    (
        Trouble::ConnectFailed,
        "ended by another error",
        "other_errors",
        "Other errors: `tcpstate life --state SYN_SENT` names them; EACCES is a firewall's ICMP answer.",
    ),
];

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let services = snapshot.observed.services();
    let services = services.filter(|(key, _)| key.role == Role::Client);
    services
        .filter_map(|(key, service)| find(snapshot, key, service))
        .collect()
}

fn find(snapshot: &Snapshot<'_>, key: &ServiceKey, service: &Service) -> Option<Finding> {
    // Of a listener that ended, other rules speak.
    let is_known = |trouble| {
        trouble == Trouble::RefusedHere
            && key
                .port
                .is_some_and(|port| snapshot.observed.has_ended(key.netns, port))
    };
    let mut kinds: Vec<_> = KINDS
        .iter()
        .map(|kind| (service.count(kind.0), kind))
        .filter(|&(count, kind)| count > 0 && !is_known(kind.0))
        .collect();
    kinds.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
    let failed: u64 = kinds.iter().map(|&(count, _)| count).sum();
    let (_, first) = kinds.first()?;
    if failed < snapshot.thresholds.connects_failed {
        return None;
    }
    let share = Share {
        part: failed,
        whole: service.established.saturating_add(failed),
    };
    let severity = if !share.is_at_least(snapshot.thresholds.connects_failed_share) {
        Severity::Note
    } else if share.is_at_least(50)
        // An application may be impatient; where nothing succeeds, it is not that.
        && (first.0 != Trouble::GivenUp || service.established == 0)
    {
        Severity::Critical
    } else {
        Severity::Warning
    };
    let words: Vec<_> = kinds
        .iter()
        .map(|(count, (_, words, ..))| format!("{} {words}", Count(*count)))
        .collect();
    let summary = format!(
        "{} failed, {share} of all: {}",
        Counted(failed, "connect"),
        words.join(", ")
    );
    let place = Place::service(key.netns, key.role, key.port);
    let mut finding = Finding::new(&RULE.text, severity, place, summary);
    finding.figures = vec![
        Figure::count("failed", failed, Evidence::Seen),
        share.figure("failed_share", Evidence::Seen),
    ];
    let unanswered = [Trouble::ConnectTimedOut, Trouble::GivenUp];
    let unanswered = unanswered
        .iter()
        .filter_map(|&trouble| service.cases(trouble));
    let here: u64 = unanswered.map(|cases| cases.here).sum();
    finding.is_to_here = here.saturating_mul(2) > failed;
    let mut peers: Top<IpAddr> = Top::default();
    let mut owners: Top<Process> = Top::default();
    for &(count, &(trouble, _, name, advice)) in &kinds {
        finding
            .figures
            .push(Figure::count(name, count, Evidence::Seen));
        finding.here.push(advice.to_owned());
        if let Some(cases) = service.cases(trouble) {
            peers.extend(&cases.peers);
            owners.extend(&cases.owners);
        }
        if trouble == Trouble::RefusedHere {
            finding.here.extend(elsewhere(snapshot, key));
        }
    }
    Some(finding.with_peers(&peers).with_owners(&owners))
}

/// The listener at this port at another address.
fn elsewhere(snapshot: &Snapshot<'_>, key: &ServiceKey) -> Option<String> {
    let listeners = snapshot.sockets?.listeners.iter();
    let here = listeners
        .filter(|listener| Some(listener.netns) == key.netns && Some(listener.port) == key.port);
    let addresses: BTreeSet<IpAddr> = here.map(|listener| listener.laddr).collect();
    let port = key.port?;
    if addresses.iter().any(IpAddr::is_unspecified) {
        return Some(format!("Something listens at port {port} now."));
    }
    let all: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    (!all.is_empty()).then(|| {
        format!(
            "There is a listener at port {port}, but only at {}.",
            all.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{
        super::super::{
            Survey,
            observed::tests::{Host, MS, NETNS, S, listener, only, peer},
        },
        *,
    };

    /// A host of whose connects so many are established and so many end with this error.
    fn host(established: u64, failed: u64, errno: u16) -> Host {
        let mut host = Host::new();
        for _ in 0..established {
            host.connected(peer(1), 80);
        }
        for _ in 0..failed {
            host.fails(peer(2), 80, errno);
        }
        host
    }

    #[test]
    fn the_kinds_are_told_apart() {
        let mut host = host(0, 4, 110);
        host.fails(peer(3), 80, 111);
        host.fails(peer(3), 80, 113);
        host.gives_up(peer(3), 80, 2 * S);
        host.fails(peer(3), 80, 13);
        let finding = only(host.check(&RULE), Severity::Critical);
        assert_eq!(
            finding.summary,
            "8 connects failed, 100 % of all: 4 got no answer, 1 refused, 1 unreachable, 1 given up by the application, 1 \
             ended by another error"
        );
        assert_eq!(finding.peers, [(peer(2), 4), (peer(3), 4)]);
        assert!(finding.here[0].starts_with("Without an answer"));
        assert_eq!(
            (finding.place.role, finding.place.port),
            (Role::Client, Some(80))
        );
    }

    #[test]
    fn a_part_decides() {
        for (established, failed, severity) in [
            (28, 3, Some(Severity::Note)),
            (27, 3, Some(Severity::Warning)),
            (4, 3, Some(Severity::Warning)),
            (3, 3, Some(Severity::Critical)),
            (0, 2, None),
        ] {
            let findings = host(established, failed, 111).check(&RULE);
            let found = findings.first().map(|finding| finding.severity);
            assert_eq!(found, severity, "{established} {failed}");
        }
    }

    #[test]
    fn a_race_of_two_addresses_is_no_failure() {
        let mut host = host(10, 0, 0);
        for _ in 0..10 {
            host.gives_up(peer(2), 80, 300 * MS);
        }
        assert!(host.check(&RULE).is_empty());
    }

    #[test]
    fn giving_up_is_critical_only_where_nothing_succeeds() {
        for (established, severity) in [(1, Severity::Warning), (0, Severity::Critical)] {
            let mut host = host(established, 0, 0);
            for _ in 0..5 {
                host.gives_up(peer(2), 80, 3 * S);
            }
            only(host.check(&RULE), severity);
        }
    }

    #[test]
    fn a_listener_at_another_address_is_named() {
        let mut host = Host::new();
        for _ in 0..3 {
            host.fails(Ipv4Addr::LOCALHOST.into(), 80, 111);
        }
        let finding = only(host.check(&RULE), Severity::Critical);
        assert_eq!(finding.here.len(), 1);
        let mut there = listener(80);
        there.laddr = peer(200);
        host.sockets = Some(Survey {
            listeners: vec![there],
            ..Survey::default()
        });
        let finding = only(host.check(&RULE), Severity::Critical);
        assert_eq!(
            finding.here[1],
            "There is a listener at port 80, but only at 10.0.0.200."
        );
        assert_eq!(finding.place.netns, Some(NETNS));
    }

    #[test]
    fn a_listener_that_ended_is_left_to_its_rule() {
        let mut host = Host::new();
        let mut listener = host.listens(80, 7);
        host.goes(&mut listener, S, State::CLOSE);
        for _ in 0..3 {
            host.fails(Ipv4Addr::LOCALHOST.into(), 80, 111);
        }
        assert!(host.check(&RULE).is_empty());
    }
}
