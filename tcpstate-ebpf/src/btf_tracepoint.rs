//! The programs for the BTF tracepoint `inet_sock_set_state`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    emit,
    nested::{self, Part},
    socket::Call,
    tally,
};

/// Streams one record per transition.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn tcpstate_btf(ctx: BtfTracePointContext) -> i32 {
    nested::first(|counters| emit::handle(&ctx, &Call::new(&ctx).with_tcp(), counters));
    0
}

/// The same for what interrupts it.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn tcpstate_nested(ctx: BtfTracePointContext) -> i32 {
    nested::second(|counters| emit::handle(&ctx, &Call::new(&ctx).with_tcp(), counters));
    0
}

/// Counts the transition in the kernel.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn tally_btf(ctx: BtfTracePointContext) -> i32 {
    nested::first(|counters| tally::count(&Call::new(&ctx), Part::First, counters));
    0
}

/// The same for what interrupts it.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn tally_nested(ctx: BtfTracePointContext) -> i32 {
    nested::second(|counters| tally::count(&Call::new(&ctx), Part::Second, counters));
    0
}

/// Counts the run and reads the clock: the floor for a program that timestamps.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn clock_btf(ctx: BtfTracePointContext) -> i32 {
    nested::first(|counters| emit::read_clock(&Call::new(&ctx), counters));
    0
}

/// Does nothing: the floor against which the cost of the other programs is measured.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn empty_btf(_ctx: BtfTracePointContext) -> i32 {
    0
}
