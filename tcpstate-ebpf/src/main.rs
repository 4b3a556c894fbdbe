//! The BPF programs for the tracepoint `sock:inet_sock_set_state`, and small ones for others: [`reset`] and
//! [`synack`].
//!
//! There are two attach modes: [`btf_tracepoint`], where [`socket`] reads the fields, and [`tracepoint`]. Both
//! share one body, [`emit::handle`], which counts, filters, and writes one [`tcpstate_common::Record`] to the
//! ring buffer. Where nothing is streamed, [`tally`] counts in maps instead.
//!
//! The rules here, most important first:
//! 1. Nothing is lost silently: every path out of the body counts itself.
//! 2. No wakeup per record: wakeups dominate the cost (`emit::wakeup`).
//! 3. A direct load where the verifier allows one, a helper only where it does not.
//! 4. Everything that is fixed at load time is read from [`maps::CONFIG`], so that the verifier treats it as a
//!    constant and removes the branches that are switched off.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod btf_tracepoint;
mod emit;
mod filter;
mod maps;
mod nested;
mod reset;
mod socket;
mod synack;
mod tally;
mod tracepoint;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// GPL-compatible, as the kernel requires for some of the helpers used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// On other targets the crate builds but does nothing, so that the whole workspace can be checked and packaged.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
