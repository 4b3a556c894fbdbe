//! Half-open connections of listeners: floods of SYNs, and SYN-ACKs that nobody answers.

use std::cmp::max;

use super::super::{ListenerNow, Snapshot, share::Share};

/// The kind of a listener's half-open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HalfOpen {
    /// Too few to matter, or clients that are just connecting.
    Usual,
    /// From many sources, so many that the listener has room for few more.
    Flood,
    /// SYN-ACKs were sent again to some clients, and not acknowledged.
    Unanswered,
}

impl HalfOpen {
    /// Those of this listener.
    pub(super) fn of(listener: &ListenerNow, snapshot: &Snapshot<'_>) -> Self {
        let thresholds = snapshot.thresholds;
        let room = room(listener, snapshot);
        let is_full = room.is_some_and(|room| {
            Share::of(listener.half_open, room).is_at_least(thresholds.half_open_share)
        });
        let waits = listener.waiting.zip(listener.backlog);
        // A slow accept() keeps connections half-open too, once its queue is full.
        let is_accepted = waits.is_some_and(|(waiting, backlog)| {
            waiting == 0
                || (waiting <= backlog
                    && !Share::of(waiting.into(), backlog.into())
                        .is_at_least(thresholds.waiting_share))
        });
        // Deferred ones look new for a part of their time: to be more than that, SYN-ACKs must have been sent again.
        let is_deferred = listener.deferred >= listener.resent;
        let sources = listener.half_open_peers.keys() as u64;
        if !is_accepted || is_deferred || listener.half_open == 0 {
            Self::Usual
        } else if is_full && sources >= thresholds.flood_sources {
            Self::Flood
        } else {
            Self::Unanswered
        }
    }
}

/// The number of half-open connections from which on the kernel treats SYNs differently: without SYN cookies,
/// three quarters of `tcp_max_syn_backlog` are a limit too.
///
/// *Source:* `inet_csk_reqsk_queue_is_full` in `include/net/inet_connection_sock.h`, `tcp_conn_request`.
fn room(listener: &ListenerNow, snapshot: &Snapshot<'_>) -> Option<u64> {
    let backlog = u64::from(listener.backlog?);
    let setting = |name| snapshot.setting(listener.netns, name);
    let most = setting("net/ipv4/tcp_max_syn_backlog");
    let limit = most.filter(|_| setting("net/ipv4/tcp_syncookies") == Some(0));
    // A backlog of 0 takes one.
    Some(max(limit.map_or(backlog, |limit| backlog.min(limit)), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::sample::{Sample, addresses, listener};

    fn half_open(change: impl FnOnce(&mut ListenerNow), cookies: &str) -> HalfOpen {
        let mut one = listener(128);
        one.half_open = 96;
        one.resent = 60;
        one.half_open_peers = addresses(60);
        change(&mut one);
        let sample = Sample::default().set(&[
            ("net/ipv4/tcp_max_syn_backlog", "64"),
            ("net/ipv4/tcp_syncookies", cookies),
        ]);
        let mut is = HalfOpen::Usual;
        sample.with_snapshot(|snapshot| is = HalfOpen::of(&one, snapshot));
        is
    }

    #[test]
    fn a_flood_is_told_from_what_looks_alike() {
        assert_eq!(half_open(|_| {}, "1"), HalfOpen::Flood);
        assert_eq!(
            half_open(|one| one.half_open = 95, "1"),
            HalfOpen::Unanswered
        );
        // Without cookies the limit of the host is the lower one.
        assert_eq!(half_open(|one| one.half_open = 48, "0"), HalfOpen::Flood);
        assert_eq!(
            half_open(|one| one.half_open_peers = addresses(9), "1"),
            HalfOpen::Unanswered
        );
        assert_eq!(half_open(|one| one.deferred = 60, "1"), HalfOpen::Usual);
        assert_eq!(half_open(|one| one.resent = 0, "1"), HalfOpen::Usual);
        assert_eq!(
            half_open(|one| one.waiting = Some(32), "1"),
            HalfOpen::Usual
        );
        assert_eq!(
            half_open(|one| one.waiting = Some(31), "1"),
            HalfOpen::Flood
        );
        assert_eq!(half_open(|one| one.waiting = None, "1"), HalfOpen::Usual);
        assert_eq!(
            half_open(
                |one| {
                    one.half_open = 20;
                    one.resent = 0;
                },
                "1"
            ),
            HalfOpen::Usual
        );
    }
}
