//! Counts retransmitted SYN-ACKs by network namespace and port of the listener.
//!
//! They reveal handshakes that do not complete, which no transition shows. They are rare, caused by a timer or by
//! a retransmitted SYN, so nothing here needs to be fast.
//!
//! *Source:* `include/trace/events/tcp.h`, `tcp_retransmit_synack`: `TP_PROTO(const struct sock *sk, const
//! struct request_sock *req)`; `tcp_rtx_synack` in `net/ipv4/tcp_output.c`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpstate_common::config::Listener;

use crate::{
    emit::load,
    maps::{SYNACK_RETRANSMITS, add, add_or_insert, config},
};

/// Counts one retransmitted SYN-ACK.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn synack_btf(ctx: BtfTracePointContext) -> i32 {
    let sk = ctx.arg::<*const u8>(0);
    // SAFETY: `sk` is the tracepoint's argument, and the verifier knows the types of both pointers.
    let listener = unsafe {
        let net: *const u8 = load(sk, config!(offsets.sk_net));
        Listener {
            netns: load(net, config!(offsets.net_inum)),
            lport: load(sk, config!(offsets.sk_num)),
            padding: 0,
        }
    };
    if !add_or_insert(&SYNACK_RETRANSMITS, &listener) {
        // The map is full. User space has inserted the entry for this case.
        add(&SYNACK_RETRANSMITS, &Listener::OTHER);
    }
    0
}
