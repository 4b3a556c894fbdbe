//! The RSTs that this kernel sends on sockets, without which some causes of ends are not known.
//!
//! Two programs, beside the one that streams and the one that counts. They run for RSTs only, and cost a transition
//! nothing.
//!
//! *Source:* `include/trace/events/tcp.h`, `tcp_send_reset`: `TP_PROTO(const struct sock *sk, const struct
//! sk_buff *skb, const enum sk_rst_reason reason)`, before Linux 6.10 without the reason;
//! `tcp_v4_send_reset`, `tcp_send_active_reset`.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tcpstate_common::{State, record::Reset};

use crate::{
    emit::{Transition as _, load},
    filter,
    maps::{RING, config},
    socket::Call,
    tally,
};

/// Streams a RST.
#[btf_tracepoint(function = "tcp_send_reset")]
pub(crate) fn reset_btf(ctx: BtfTracePointContext) -> i32 {
    stream(&ctx);
    0
}

/// Counts a RST.
#[btf_tracepoint(function = "tcp_send_reset")]
pub(crate) fn tally_reset_btf(ctx: BtfTracePointContext) -> i32 {
    if let Some(call) = of_connection(&ctx) {
        tally::count_reset(&call);
    }
    0
}

/// The socket that the RST is sent on, if it belongs to a connection that ends with it or has just ended, and the filters
/// keep it. The end of another is not there: neither is its RST worth the ring's memory, nor may it be taken for that of
/// a connection whose socket has the same address later, or had it before.
#[inline(always)]
fn of_connection(ctx: &BtfTracePointContext) -> Option<Call> {
    let sk = ctx.arg::<*const u8>(0);
    // No socket wants the packet that the RST answers.
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null; the tracepoint's argument, and every kind of socket has its state there.
    let state = State(unsafe { load(sk, config!(offsets.sk_state)) });
    match state {
        // Not full sockets; or they send a RST and stay in their state.
        State::SYN_SENT
        | State::SYN_RECV
        | State::NEW_SYN_RECV
        | State::TIME_WAIT
        | State::LISTEN => None,
        _ => {
            let call = Call::of_socket(sk, state);
            let is_kept = config!(has_filter) == 0 || call.keeps_netns() && is_kept(&call);
            is_kept.then_some(call)
        }
    }
}

/// Whether the filters keep the connection of this socket, by what is known without a search.
#[inline(always)]
fn is_kept(call: &Call) -> bool {
    let key = call.with_tcp().key();
    filter::ports(&key).may
        && (!filter::reads_addresses() || filter::addresses(&key, &call.ends(key.family)).may)
}

#[inline(always)]
fn stream(ctx: &BtfTracePointContext) {
    let Some(call) = of_connection(ctx) else {
        return;
    };
    // SAFETY: the helper has no preconditions.
    let ts_ns = unsafe { bpf_ktime_get_ns() };
    let Some(mut entry) = RING.reserve::<Reset>(0) else {
        return;
    };
    let reason = if config!(has_reset_reason) != 0 {
        // Small numbers: user space knows no others.
        (ctx.arg::<u32>(2) as u8).wrapping_add(1)
    } else {
        0
    };
    entry.write(Reset {
        ts_ns,
        skaddr: call.skaddr(),
        state: call.states().0,
        reason,
        padding: [0; 6],
    });
    // The end of its connection wakes the reader.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}
