//! The bytes of a socket that `tracepoint` mode copies, in few calls.
//!
//! In that mode a helper reads the socket, and a second call costs more than a few hundred more bytes in the first.
//! So members near each other are copied together with the bytes between them.
//!
//! Pure: offsets come in as an argument.

use tcpstate_common::config::{MAX_SPANS, Offsets, SCRATCH_BYTES, SocketCopy, Span};

/// The members to read, with their size, their offset in the socket, and the field for their offset in the
/// copy.
type Member = (fn(&Offsets) -> u32, u32, fn(&mut SocketCopy) -> &mut u32);

const MEMBERS: [Member; 12] = [
    (|from| from.sk_net, 8, |to| &mut to.sk_net),
    (|from| from.sk_err, 4, |to| &mut to.sk_err),
    (|from| from.sk_shutdown, 1, |to| &mut to.sk_shutdown),
    (|from| from.sk_flags, 8, |to| &mut to.sk_flags),
    (|from| from.sk_uid, 4, |to| &mut to.sk_uid),
    (|from| from.sk_cgroup, 8, |to| &mut to.sk_cgroup),
    (|from| from.tcp_srtt_us, 4, |to| &mut to.tcp_srtt_us),
    (|from| from.tcp_bytes_sent, 8, |to| &mut to.tcp_bytes_sent),
    (
        |from| from.tcp_bytes_received,
        8,
        |to| &mut to.tcp_bytes_received,
    ),
    (
        |from| from.tcp_total_retrans,
        4,
        |to| &mut to.tcp_total_retrans,
    ),
    (|from| from.tcp_segs_out, 4, |to| &mut to.tcp_segs_out),
    (|from| from.tcp_write_seq, 4, |to| &mut to.tcp_write_seq),
];

/// Bytes between two members that cost less to copy than another call. *Source:* `docs/overhead-notebook.md`.
const NEAR: u32 = 256;

/// Spans begin and end at multiples of this: loads from the copy have to be aligned.
const ALIGN: u32 = 8;

/// The bytes to copy; `None` if the members are too far apart for the buffer.
#[expect(clippy::indexing_slicing, reason = "at where it was found")]
pub(super) fn plan(offsets: &Offsets) -> Option<SocketCopy> {
    // Begin and end of each, as (begin, end).
    let mut runs: Vec<(u32, u32)> = MEMBERS
        .iter()
        .map(|(offset, bytes, _)| {
            let begin = offset(offsets);
            let end = begin.checked_add(*bytes)?.checked_next_multiple_of(ALIGN)?;
            Some((begin / ALIGN * ALIGN, end))
        })
        .collect::<Option<_>>()?;
    runs.sort_unstable();
    while let Some((first, gap)) = nearest(&runs)
        && (runs.len() > MAX_SPANS || gap <= NEAR)
    {
        let (_, end) = runs.remove(first + 1);
        runs[first].1 = runs[first].1.max(end);
    }

    let mut copy = SocketCopy::default();
    let mut to = 0u32;
    for (span, (begin, end)) in copy.spans.iter_mut().zip(&runs) {
        *span = Span {
            from: *begin,
            to,
            bytes: end - begin,
        };
        to = to.checked_add(span.bytes)?;
    }
    if to as usize > SCRATCH_BYTES {
        return None;
    }
    for (offset, _, place) in MEMBERS {
        let offset = offset(offsets);
        let span = copy
            .spans
            .into_iter()
            .find(|span| (span.from..span.from + span.bytes).contains(&offset))?;
        *place(&mut copy) = span.to + (offset - span.from);
    }
    Some(copy)
}

/// The two adjacent runs with the fewest bytes between them: the index of the first, and that number of bytes.
#[expect(clippy::indexing_slicing, reason = "a window of two has two")]
fn nearest(runs: &[(u32, u32)]) -> Option<(usize, u32)> {
    runs.windows(2)
        .map(|pair| pair[1].0.saturating_sub(pair[0].1))
        .enumerate()
        .min_by_key(|&(_, gap)| gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.18, x86-64.
    const LINUX_6_18: Offsets = Offsets {
        sk_net: 48,
        sk_flags: 96,
        sk_err: 284,
        sk_uid: 528,
        sk_shutdown: 575,
        sk_cgroup: 672,
        tcp_bytes_sent: 1544,
        tcp_srtt_us: 1680,
        tcp_bytes_received: 1752,
        tcp_total_retrans: 2200,
        tcp_segs_out: 1536,
        tcp_write_seq: 1576,
        ..ZERO
    };

    const ZERO: Offsets = Offsets {
        sk_family: 0,
        sk_state: 0,
        sk_num: 0,
        sk_dport: 0,
        sk_daddr: 0,
        sk_rcv_saddr: 0,
        sk_v6_daddr: 0,
        sk_v6_rcv_saddr: 0,
        sk_net: 0,
        sk_protocol: 0,
        sk_err: 0,
        sk_err_soft: 0,
        sk_error_first: 0,
        sk_error_qlen: 0,
        sk_shutdown: 0,
        sk_flags: 0,
        sk_uid: 0,
        sk_cookie: 0,
        sk_cgroup: 0,
        inet_sport: 0,
        tcp_srtt_us: 0,
        tcp_bytes_sent: 0,
        tcp_bytes_received: 0,
        tcp_total_retrans: 0,
        tcp_segs_out: 0,
        tcp_write_seq: 0,
        skb_errno: 0,
        net_inum: 0,
        cgroup_kn: 0,
        cgroup_parent: 0,
        css_cgroup: 0,
        kn_id: 0,
        task_comm: 0,
        task_tgid: 0,
        task_flags: 0,
        task_group_leader: 0,
    };

    #[test]
    fn the_nearest_are_copied_together() {
        let copy = plan(&LINUX_6_18).unwrap();
        let spans = copy.spans.map(|span| (span.from, span.bytes));
        assert_eq!(spans, [(48, 632), (1536, 224), (2200, 8), (0, 0)]);
        assert_eq!((copy.sk_net, copy.sk_flags, copy.sk_err), (0, 48, 236));
        assert_eq!((copy.sk_uid, copy.sk_shutdown), (480, 527));
        assert_eq!((copy.tcp_srtt_us, copy.tcp_total_retrans), (776, 856));
    }

    #[test]
    fn members_that_are_too_far_apart_are_refused() {
        // So many that a gap of several thousand bytes would have to be copied.
        let far = Offsets {
            sk_err: 5000,
            sk_uid: 8000,
            sk_cgroup: 12_000,
            tcp_total_retrans: 16_000,
            ..LINUX_6_18
        };
        assert_eq!(plan(&far), None);
        let end = Offsets {
            sk_err: u32::MAX,
            ..LINUX_6_18
        };
        assert_eq!(plan(&end), None);
    }

    proptest::proptest! {
        /// Whatever the layout, each member's bytes are in the copy where its place says.
        #[test]
        fn every_member_is_in_the_copy(eighths in proptest::array::uniform12(0u32..600)) {
            let [net, err, shutdown, flags, uid, cgroup, srtt, sent, received, retrans, segs, seq] =
                eighths.map(|eighth| eighth * 8);
            let offsets = Offsets {
                sk_net: net,
                sk_err: err + 4,
                sk_shutdown: shutdown + 7,
                sk_flags: flags,
                sk_uid: uid,
                sk_cgroup: cgroup,
                tcp_srtt_us: srtt,
                tcp_bytes_sent: sent,
                tcp_bytes_received: received,
                tcp_total_retrans: retrans + 4,
                tcp_segs_out: segs,
                tcp_write_seq: seq + 4,
                ..ZERO
            };
            if let Some(mut copy) = plan(&offsets) {
                let mut scratch = [None; SCRATCH_BYTES];
                for span in copy.spans {
                    for byte in 0..span.bytes {
                        let to = &mut scratch[(span.to + byte) as usize];
                        assert_eq!(to.replace(span.from + byte), None, "two spans overlap");
                    }
                }
                for (offset, bytes, place) in MEMBERS {
                    let place = *place(&mut copy);
                    for byte in 0..bytes {
                        let there = scratch[(place + byte) as usize];
                        assert_eq!(there, Some(offset(&offsets) + byte));
                    }
                }
            }
        }
    }
}
