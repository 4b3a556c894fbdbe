//! Sockets that a process holds in `FIN_WAIT2`: it called `shutdown()` and never `close()`, and the peer does not close.

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Input, Place, Rule, Severity, Snapshot,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "fin_wait2_held",
        side: Role::Unknown,
        title: "sockets held in FIN_WAIT2",
        is: "The application has called shutdown() and still has the socket open. The peer has acknowledged that, and does not \
             close its side. The kernel has no time-out for it.",
        why: "Each keeps a descriptor. When descriptors run out, the process can neither accept nor connect (EMFILE).",
        signal: "Sockets in FIN_WAIT2 that a process has open, with no packet from the peer for `fin_wait2_age`.",
        advice: &[
            "After shutdown(), read until the end of the input with a time-out, and then call close(): only then does \
             `tcp_fin_timeout` apply.",
            "Look at the other side: the same connections are in CLOSE_WAIT there, because its application does not close.",
            "Where peers vanish, set SO_KEEPALIVE: it ends a held socket whose peer is gone.",
            "To end it now, restart the process.",
        ],
        settings: &[Setting {
            path: "net/ipv4/tcp_fin_timeout",
            effect: "ends FIN_WAIT2 of sockets that the application has closed, and not of these",
        }],
        commands: &[
            "tcpstate ls state fin-wait-2 '{filter}'",
            "ss -tanpo state fin-wait-2 '{filter}'",
        ],
        told_from: &[
            "a socket that its application has closed: no process has it open, and `tcp_fin_timeout` ends it",
            "a half close in use, as of a client that has sent its request and reads a long answer: packets still come",
        ],
        states: &[State::FIN_WAIT2],
        sources: &[
            "tcp_rcv_state_process",
            "__tcp_close",
            "tcp_keepalive_timer",
            "RFC 9293, section 3.6",
        ],
    },
    needs: &[Input::Sockets, Input::Queues],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (key, group) in sockets.in_state(State::FIN_WAIT2) {
        if group.stale == 0 {
            continue;
        }
        let severity = if group.stale >= snapshot.thresholds.fin_wait2_count {
            Severity::Warning
        } else {
            Severity::Note
        };
        let earlier = snapshot
            .earlier
            .map(|_| snapshot.earlier_group(key).map_or(0, |group| group.stale));
        let risen = earlier.map(|earlier| group.stale.saturating_sub(earlier));
        let place = Place::service(Some(key.netns), key.role, key.port);
        let summary = format!(
            "{} held in FIN_WAIT2{}",
            Counted(group.stale, "socket"),
            match risen {
                Some(0) | None => String::new(),
                Some(risen) => format!(
                    "; {} more are in that state than at the first look",
                    Count(risen)
                ),
            }
        );
        let mut finding = Finding::new(&RULE.text, severity, place, summary)
            .with_peers(&group.peers)
            .with_owners(&group.owners);
        finding.since = group.oldest;
        finding.figures = vec![Figure::count("sockets", group.stale, Evidence::Sampled)];
        finding
            .figures
            .extend(risen.map(|risen| Figure::count("risen", risen, Evidence::Sampled)));
        finding
            .figures
            .extend(group.oldest.map(|age| Figure::age("oldest_ns", age)));
        if group.unread > 0 {
            finding
                .figures
                .push(Figure::count("unread", group.unread, Evidence::Sampled));
            finding.here.push(
                "Recv-Q is not 0 in some: the peer has answered, and the application does not read."
                    .to_owned(),
            );
        }
        findings.push(finding);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::sample::{Sample, group, key},
        inventory::Age,
        service::Role,
    };

    fn held(stale: u64) -> Sample {
        let mut group = group(7);
        group.stale = stale;
        group.oldest = Some(Age::at_least(90_000_000_000));
        Sample::default().with(key(8_080, Role::Server, State::FIN_WAIT2), group)
    }

    #[test]
    fn a_socket_that_a_process_holds_is_found_and_an_orphan_is_not() {
        // Only those that are held are stale: `Survey` leaves out orphans.
        assert!(held(0).found(&RULE).is_empty());
        let sample = held(2);
        let [few] = &sample.found(&RULE)[..] else {
            panic!("not one")
        };
        assert_eq!(few.severity, Severity::Note);
        let sample = held(3);
        let [many] = &sample.found(&RULE)[..] else {
            panic!("not one")
        };
        assert_eq!(many.severity, Severity::Warning);
        assert_eq!(many.summary, "3 sockets held in FIN_WAIT2");
        assert_eq!(many.place.port, Some(8_080));
    }

    #[test]
    fn growth_is_said_where_an_earlier_look_shows_it() {
        let sample = held(9).after(held(4));
        assert_eq!(
            sample.found(&RULE)[0].summary,
            "9 sockets held in FIN_WAIT2; 5 more are in that state than at the first look"
        );
    }
}
