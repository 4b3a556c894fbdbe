//! The programs on the BTF tracepoint `inet_sock_set_state`, each with what it does at a transition.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{emit, socket::Call, tally};

/// The program that streams.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn tcpstate_btf(ctx: BtfTracePointContext) -> i32 {
    emit::handle(&ctx, &Call::new(&ctx).with_tcp());
    0
}

/// The program that counts in the kernel.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn tally_btf(ctx: BtfTracePointContext) -> i32 {
    tally::count(&Call::new(&ctx));
    0
}

/// When, and no more: how far the others could come down.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn clock_btf(ctx: BtfTracePointContext) -> i32 {
    emit::read_clock(&Call::new(&ctx));
    0
}

/// Nothing: the floor that the cost of the others is measured against.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn empty_btf(_ctx: BtfTracePointContext) -> i32 {
    0
}
