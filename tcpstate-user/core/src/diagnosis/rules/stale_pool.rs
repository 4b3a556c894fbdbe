//! Connections of a pool that were used after the server had closed them.

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Service, ServiceKey, Severity,
    Snapshot, Trouble, share::Share,
};
use crate::{
    service::Role,
    units::{Counted, Span},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "stale_pool",
        side: Role::Client,
        title: "a pool uses connections that the server has closed",
        is: "The server closed connections that were idle. The client kept them, sent its next request on them, and was \
             reset.",
        why: "These requests fail with ECONNRESET or EPIPE, or are sent again where the client dares to: mostly the first \
              ones after a quiet time.",
        signal: "A client's ESTABLISHED -> CLOSE_WAIT -> CLOSE by a RST, with bytes sent in CLOSE_WAIT.",
        advice: &[
            "Make the idle limit of the client's pool shorter than the server's time-out, by a second or more.",
            "Or let the pool test a connection before use: one that is readable while nothing is awaited has ended.",
            "A longer time-out of the server makes it rarer, and does not end it.",
        ],
        settings: &[],
        commands: &[
            "tcpstate life --state CLOSE_WAIT --cause reset_by_peer {filter}",
            "tcpstate ls state close-wait '{filter}'",
            "tcpdump -ni any 'tcp port {port} and tcp[13] & 5 != 0'",
        ],
        told_from: &[
            "connections in CLOSE_WAIT that nobody uses again (close_wait_leak)",
            "a reset without a FIN before it: the server, or something on the way, ended it at once (idle_reset)",
            "a reset before anything was sent in CLOSE_WAIT: the server ended in the meantime",
        ],
        states: &[State::CLOSE_WAIT],
        sources: &[
            "tcp_reset",
            "tcp_timewait_state_process",
            "RFC 9293, section 3.10.7.1",
        ],
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
    let reused = service.cases(Trouble::ResetWhenReused)?;
    let severity = if reused.count >= snapshot.thresholds.stale_pool_count {
        Severity::Warning
    } else {
        Severity::Note
    };
    let share = Share {
        part: reused.count,
        whole: service.closed,
    };
    let place = Place::service(key.netns, Role::Client, key.port);
    let summary = format!(
        "{} reset when used after the server had closed, {share} of those that ended",
        Counted(reused.count, "connection")
    );
    let mut finding = Finding::new(&RULE.text, severity, place, summary)
        .with_peers(&reused.peers)
        .with_owners(&reused.owners);
    finding.figures = vec![
        Figure::count("reset", reused.count, Evidence::Seen),
        share.figure("reset_share", Evidence::Seen),
    ];
    finding.is_to_here = reused.here.saturating_mul(2) > reused.count;
    let took_ns = reused.last_ns.saturating_sub(reused.first_ns);
    if severity > Severity::Note && took_ns < snapshot.thresholds.idle_timeout_least {
        finding.here.push(format!(
            "All within {}: the server ended or was reloaded then, and no idle time-out closed them. An idle limit does not \
             help against that; a test before use does.",
            Span(took_ns)
        ));
    }
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::observed::tests::{Host, S, only, peer},
        *,
    };

    /// A pool whose connections the server closes; so many are used again, with so many bytes.
    fn host(used: u64, bytes: u64) -> Host {
        let mut host = Host::new();
        for _ in 0..used {
            let mut life = host.connected(peer(1), 6379);
            life.0.bytes_sent = 100;
            host.goes(&mut life, S, State::CLOSE_WAIT);
            life.0.bytes_sent += bytes;
            life.is_reset();
            host.goes(&mut life, S, State::CLOSE);
        }
        host
    }

    #[test]
    fn three_are_a_warning() {
        let finding = only(host(3, 10).check(&RULE), Severity::Warning);
        assert_eq!(
            finding.summary,
            "3 connections reset when used after the server had closed, 100 % of those that ended"
        );
        assert_eq!(
            (finding.place.role, finding.place.port),
            (Role::Client, Some(6379))
        );
        only(host(2, 10).check(&RULE), Severity::Note);
    }

    #[test]
    fn a_reset_of_what_was_not_used_is_another_thing() {
        assert!(host(5, 0).check(&RULE).is_empty());
    }

    #[test]
    fn a_pool_that_closes_in_time_is_well() {
        let mut host = Host::new();
        for _ in 0..5 {
            let life = host.connected(peer(1), 6379);
            host.closes_second(life, S);
        }
        // Reset without a FIN.
        let mut life = host.connected(peer(1), 6379);
        life.is_reset();
        host.goes(&mut life, S, State::CLOSE);
        assert!(host.check(&RULE).is_empty());
    }
}
