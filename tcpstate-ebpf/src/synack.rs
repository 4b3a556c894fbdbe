//! SYN-ACKs that were sent again: counted by network namespace and port of the listener.
//!
//! They tell of handshakes that do not complete, which are no transitions. Rare, in a timer or for a
//! SYN that came again: nothing here needs to be fast.
//!
//! *Source:* `include/trace/events/tcp.h`, `tcp_retransmit_synack`: `TP_PROTO(const struct sock *sk, const
//! struct request_sock *req)`; `tcp_rtx_synack` in `net/ipv4/tcp_output.c`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpstate_common::config::Listener;

use crate::{
    emit::load,
    maps::{SYNACK_RETRANSMITS, add, add_or_insert, config},
};

/// The program.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn synack_btf(ctx: BtfTracePointContext) -> i32 {
    let sk = ctx.arg::<*const u8>(0);
    // SAFETY: `sk` is the tracepoint's argument, and what it points at is known to the verifier.
    let listener = unsafe {
        let net: *const u8 = load(sk, config!(offsets.sk_net));
        Listener {
            netns: load(net, config!(offsets.net_inum)),
            lport: load(sk, config!(offsets.sk_num)),
            padding: 0,
        }
    };
    if !add_or_insert(&SYNACK_RETRANSMITS, &listener) {
        // There is no room, and user space has made an entry for that.
        add(&SYNACK_RETRANSMITS, &Listener::OTHER);
    }
    0
}
