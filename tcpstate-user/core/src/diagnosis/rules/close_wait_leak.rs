//! Sockets left behind in `CLOSE_WAIT`: the peer has closed, and the application does not.

use tcpstate_common::State;

use super::super::{
    Evidence, Figure, Finding, FindingText, Group, Input, Place, Rule, Severity, Snapshot,
};
use crate::{
    service::Role,
    units::{Count, Counted},
};

pub(super) static RULE: Rule = Rule {
    text: FindingText {
        name: "close_wait_leak",
        side: Role::Unknown,
        title: "sockets left behind in CLOSE_WAIT",
        is: "The peer has closed its side, and the application has not closed its own. Nothing ends such a socket but the \
             application: it keeps a descriptor, and memory for what nobody reads.",
        why: "Descriptors run out, and then the service can neither accept nor connect (EMFILE).",
        signal: "Sockets older than `close_wait_age` in CLOSE_WAIT; their number rises where it is a leak.",
        advice: &[
            "Find where the application drops a connection without close(): an error path, a pool, a thread that waits for \
             something else. It has to close when a read returns 0.",
            "To end it now, restart the process. No setting of the kernel ends CLOSE_WAIT.",
        ],
        settings: &[],
        commands: &[
            "tcpstate ls state close-wait '{filter}'",
            "ss -tanp state close-wait '{filter}'",
            "tcpstate life --state CLOSE_WAIT --live {filter}",
        ],
        told_from: &[
            "an idle pool of a client: few sockets, and their number does not rise",
            "a half-closed connection in use: it still has bytes to send (Send-Q)",
        ],
        states: &[State::CLOSE_WAIT],
        sources: &["tcp_fin", "__tcp_close", "RFC 9293, section 3.6"],
    },
    needs: &[Input::Sockets],
    check,
};

fn check(snapshot: &Snapshot<'_>) -> Vec<Finding> {
    let Some(sockets) = snapshot.sockets else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (key, group) in sockets.in_state(State::CLOSE_WAIT) {
        // A socket that still sends is a half close in use.
        let left_behind = group.stale.saturating_sub(group.unsent);
        if left_behind < snapshot.thresholds.close_wait_count {
            continue;
        }
        let earlier = snapshot
            .earlier
            .map(|_| snapshot.earlier_group(key).map_or(0, |group| group.count));
        let risen = earlier.map(|earlier| group.count.saturating_sub(earlier));
        // Sockets of the first look that merely became older are no growth, nor are new ones that end in time.
        let stale_before = snapshot.earlier_group(key).map_or(0, |group| group.stale);
        let grows = risen.is_some_and(|risen| risen > 0) && group.stale > stale_before;
        // A client's pool keeps a few that the peer has closed until it uses them again.
        let is_pool = key.role == Role::Client && !grows && group.unread == 0;
        let severity = match (grows, is_pool) {
            (true, _) => Severity::Critical,
            (false, false) => Severity::Warning,
            (false, true) => Severity::Note,
        };
        let place = Place::service(Some(key.netns), key.role, key.port);
        let summary = format!(
            "{} left behind in CLOSE_WAIT{}",
            Counted(left_behind, "socket"),
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
        finding
            .figures
            .push(Figure::count("sockets", left_behind, Evidence::Sampled));
        finding
            .figures
            .extend(risen.map(|risen| Figure::count("risen", risen, Evidence::Sampled)));
        finding
            .figures
            .extend(group.oldest.map(|age| Figure::age("oldest_ns", age)));
        if sockets.has_queues {
            finding
                .figures
                .push(Figure::count("unread", group.unread, Evidence::Sampled));
            finding.figures.push(Figure::count(
                "unaccepted",
                group.unaccepted,
                Evidence::Sampled,
            ));
            finding.here.extend(which(group));
        }
        findings.push(finding);
    }
    findings
}

/// The place in the application, as the queues tell it.
fn which(group: &Group) -> Option<String> {
    let read = group.stale - group.eof_unread.min(group.stale);
    let most = group.stale / 2;
    let text = if group.unaccepted > most {
        "Most were never accepted: the loop that calls accept() is stuck"
    } else if read > most {
        "Recv-Q is 0: the application has read the end of the input, and lost the descriptor"
    } else if group.eof_unread > most {
        "Recv-Q is not 0: nobody reads these sockets any more"
    } else {
        return None;
    };
    Some(format!("{text}."))
}
