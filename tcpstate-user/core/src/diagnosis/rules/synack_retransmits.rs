//! Listeners whose SYN-ACKs are not acknowledged.

use tcpstate_common::State;

use super::{
    super::{
        Evidence, Figure, Finding, FindingText, GroupKey, Input, Place, Rule, Severity, Snapshot,
        share::Share,
    },
    half_open::HalfOpen,
};
use crate::{
    service::Role,
    setting::Setting,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "synack_retransmits",
        side: Role::Server,
        title: "SYN-ACKs that are not acknowledged",
        is: "SYNs arrive and are answered, and the last packet of the handshake does not come. The path back to these clients, or \
             theirs to us, loses packets, or a firewall there drops the answer.",
        why: "These clients cannot connect, or wait for seconds: they see a time-out.",
        signal: "Half-open connections of a listener whose SYN-ACK was sent again.",
        advice: &[
            "Run tcpdump here and see whether the SYN-ACK leaves by the interface that the SYN came in by. With several \
             interfaces, compare `ip route get CLIENT` with it.",
            "Look at the way back: firewalls that never saw the SYN (asymmetric routes), a wrong route or gateway, rp_filter.",
            "If the addresses are forged or unknown to you, somebody uses this listener to send SYN-ACKs to others. That is \
             common on public addresses, and harmless in small numbers.",
        ],
        settings: &[Setting {
            path: "net/ipv4/tcp_synack_retries",
            effect: "ends a half-open connection: 5 after 64 s, 2 after 7 s",
        }],
        commands: &[
            "tcpstate ls --wide state syn-recv 'sport = :{port}'",
            "ss -tano state syn-recv 'sport = :{port}'",
            "tcpdump -ni any 'tcp port {port} and tcp[tcpflags] & tcp-syn != 0'",
        ],
        told_from: &[
            "a flood of SYNs: half-open connections near the backlog, from many addresses",
            "TCP_DEFER_ACCEPT: connections stay half-open, and no SYN-ACK is sent again",
            "a slow accept(): its queue is full, and the kernel ignores the last packet of the handshake",
        ],
        states: &[State::SYN_RECV],
        sources: &["reqsk_timer_handler", "syn_ack_recalc", "tcp_check_req"],
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
    for listener in &sockets.listeners {
        if HalfOpen::of(listener, snapshot) != HalfOpen::Unanswered {
            continue;
        }
        let established = sockets.groups.get(&GroupKey {
            netns: listener.netns,
            port: Some(listener.port),
            role: Role::Server,
            state: State::ESTABLISHED,
        });
        let established = established.map_or(0, |group| group.count);
        let is_many = listener.resent >= thresholds.synack_count
            && (established == 0
                || Share::of(listener.resent, established).is_at_least(thresholds.synack_share));
        let severity = if is_many {
            Severity::Warning
        } else {
            Severity::Note
        };
        let place = Place::service(Some(listener.netns), Role::Server, Some(listener.port));
        let summary = format!(
            "{} whose SYN-ACK was sent again, {}; {} established",
            Counted(listener.resent, "half-open connection"),
            Counted(listener.synack_retransmits, "repetition"),
            Count(established)
        );
        let mut finding = Finding::new(&RULE.text, severity, place, summary)
            .with_peers(&listener.half_open_peers);
        finding.owners = listener
            .owner
            .map(|owner| (owner, listener.resent))
            .into_iter()
            .collect();
        finding.figures = vec![
            Figure::count("sent_again", listener.resent, Evidence::Sampled),
            Figure::count("half_open", listener.half_open, Evidence::Sampled),
            Figure::count(
                "retransmits",
                listener.synack_retransmits,
                Evidence::Sampled,
            ),
            Figure::count("established", established, Evidence::Sampled),
        ];
        findings.push(finding);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::sample::{Sample, addresses, group, key, listener};

    fn unanswered(resent: u64, established: u64) -> Sample {
        let mut one = listener(4_096);
        one.half_open = resent + 1;
        one.resent = resent;
        one.synack_retransmits = resent * 2;
        one.half_open_peers = addresses(3);
        Sample::default().with_listener(one).with(
            key(443, Role::Server, State::ESTABLISHED),
            group(established),
        )
    }

    #[test]
    fn many_are_a_warning_and_the_noise_of_a_public_address_is_a_note() {
        let severity = |resent, established| {
            let found = unanswered(resent, established).found(&RULE);
            found.first().map(|finding| finding.severity)
        };
        assert_eq!(severity(0, 0), None);
        assert_eq!(severity(1, 0), Some(Severity::Note));
        assert_eq!(severity(9, 0), Some(Severity::Note));
        assert_eq!(severity(10, 0), Some(Severity::Warning));
        assert_eq!(severity(10, 100), Some(Severity::Warning));
        assert_eq!(severity(10, 101), Some(Severity::Note));
        assert_eq!(
            unanswered(10, 100).found(&RULE)[0].summary,
            "10 half-open connections whose SYN-ACK was sent again, 20 repetitions; 100 established"
        );
    }
}
