//! Established connections whose peer does not read: it has closed its window.

use tcpstate_common::State;

use super::{
    super::{Finding, FindingText, Input, Rule, Severity, Snapshot, share::Share},
    waiting::Waiting,
};
use crate::service::Role;

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "peer_does_not_read",
        side: Role::Unknown,
        title: "peers that do not read",
        is: "The peer's receive buffer is full (a zero window), because its application does not read. This side waits with \
             its data, and asks again and again whether there is room. The network is fine.",
        why: "The data does not arrive; writes on this side block, or the application piles it up in memory.",
        signal: "Established connections with data to send that have probed a closed window for `zero_window_age`.",
        advice: &[
            "Look at the peer's application, not at the network: it is busy, stopped, or waits for something else, perhaps for \
             this side to read.",
            "In the application here, limit what it keeps for one slow reader, and set TCP_USER_TIMEOUT or a time-out for \
             writes: as long as the peer answers, nothing else ends it.",
        ],
        settings: &[],
        commands: &[
            "tcpstate ls --wide state established '{filter}'",
            "ss -tanopi state established '{filter}'",
            "nstat -az TcpExtTCPWinProbe",
        ],
        told_from: &[
            "a silent peer: it does not answer, and the retransmit timer runs (`on` in ss, here `persist`)",
            "a peer that reads slowly: its window opens again within seconds",
        ],
        states: &[State::ESTABLISHED],
        sources: &[
            "tcp_probe_timer",
            "tcp_send_probe0",
            "RFC 9293, section 3.8.6.1",
        ],
    },
    needs: &[Input::Sockets, Input::Queues],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let thresholds = snapshot.thresholds;
    let mut findings = Vec::new();
    for (key, group) in sockets.in_state(State::ESTABLISHED) {
        let probing = group.probing;
        if probing == 0 {
            continue;
        }
        let is_most = probing >= thresholds.zero_window_count
            && Share::of(probing, group.count).is_at_least(thresholds.zero_window_share);
        let severity = if is_most {
            Severity::Warning
        } else {
            Severity::Note
        };
        let waiting = Waiting {
            count: (probing, "not_reading"),
            longest: (group.longest_probing, "longest_ns"),
            peer: "a peer that does not read",
            peers: &group.probing_peers,
            owners: &group.probing_owners,
        };
        findings.push(waiting.finding(&RULE.text, severity, key, group));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::{
            Group,
            sample::{Sample, addresses, group, key},
        },
        service::Role,
    };

    #[test]
    fn most_peers_are_a_warning_and_a_few_a_note() {
        let cases = [
            (0, 6, None),
            (2, 2, Some(Severity::Note)),
            (3, 7, Some(Severity::Note)),
            (3, 6, Some(Severity::Warning)),
        ];
        for (probing, count, severity) in cases {
            let group = Group {
                probing,
                probing_peers: addresses(1),
                ..group(count)
            };
            let key = key(6_379, Role::Server, State::ESTABLISHED);
            let found = Sample::default().with(key, group).found(&RULE);
            let first = found.first();
            assert_eq!(
                first.map(|finding| finding.severity),
                severity,
                "{probing} of {count}"
            );
            assert!(first.is_none_or(|finding| finding.place.peer.is_some()));
        }
    }
}
