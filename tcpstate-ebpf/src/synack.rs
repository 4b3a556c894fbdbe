//! SYN-ACKs that were sent again: counted by network namespace and port of the listener.
//!
//! They tell of handshakes that do not complete, which are no transitions. Rare, in a timer or for a
//! SYN that came again: nothing here needs to be fast.
//!
//! *Source:* `include/trace/events/tcp.h`, `tcp_retransmit_synack`: `TP_PROTO(const struct sock *sk, const
//! struct request_sock *req)`; `tcp_rtx_synack` in `net/ipv4/tcp_output.c`.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpstate_common::config::Listener;

use crate::{
    emit::load,
    maps::{SYNACK_RETRANSMITS, config},
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
    if !add(&listener) {
        // The first here may have come second: another CPU has made the entry meanwhile. If not, there is
        // no room, and user space has made an entry for that.
        let _ = SYNACK_RETRANSMITS.insert(listener, 0, u64::from(BPF_NOEXIST));
        if !add(&listener) {
            add(&Listener::OTHER);
        }
    }
    0
}

/// Adds one if there is an entry.
#[inline(always)]
fn add(listener: &Listener) -> bool {
    let Some(count) = SYNACK_RETRANSMITS.get_ptr_mut(listener) else {
        return false;
    };
    // SAFETY: the map lookup gave a valid pointer to this CPU's value.
    unsafe { *count += 1 };
    true
}
