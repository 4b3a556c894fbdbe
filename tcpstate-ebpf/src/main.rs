//! The BPF programs on the tracepoint `sock:inet_sock_set_state`, and a small one beside it, [`synack`].
//!
//! Two ways in, [`btf_tracepoint`] with [`socket`], and [`tracepoint`]; and one body behind both,
//! [`emit::handle`], which counts, filters and writes one [`tcpstate_common::Record`] to the ring buffer.
//! Where nothing is to be streamed, [`tally`] adds up instead, in maps.
//!
//! The rules here, in order of weight:
//! 1. Nothing is lost in silence: every path out of the body counts itself.
//! 2. The reader is not woken for each record; the wakeup is what costs (`emit::wakeup`).
//! 3. A direct load where the verifier allows one, a helper only where it does not.
//! 4. What is fixed at load is read from [`maps::CONFIG`], so that the verifier takes it for a
//!    constant and drops the branches that are switched off.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod btf_tracepoint;
mod emit;
mod filter;
mod maps;
mod socket;
mod synack;
mod tally;
mod tracepoint;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers that are used are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Elsewhere the programs do nothing, but build: for whoever packages or checks the whole workspace.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
