//! The ABI between the BPF programs (`tcpstate-ebpf`) and their reader (`tcpstate-user`).
//!
//! Both sides compile this crate, so a type that crosses the kernel boundary is written down once:
//! what travels through the ring buffer ([`Record`]), what is counted per CPU ([`Counters`]), what
//! is fixed before the programs are loaded ([`Config`]), what is counted where nothing travels ([`tally`])
//! and the TCP states ([`State`]). So is a rule that both sides apply: what a transition means
//! ([`transition`]), what a filter cannot decide yet ([`filter`]), how durations are put in buckets
//! ([`buckets`]).
//!
//! What may go in here: types that cross that boundary, rules that hold on both sides of it, and nothing that
//! needs `std`, allocates, or does I/O.
#![no_std]

pub mod buckets;
pub mod config;
pub mod counters;
pub mod filter;
pub mod record;
pub mod state;
pub mod tally;
pub mod transition;

pub use config::Config;
pub use counters::Counters;
pub use record::Record;
pub use state::State;

// SAFETY: `#[repr(C)]`, integers only, no padding (asserted where it is defined).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Config {}
// SAFETY: `#[repr(C)]`, integers only, no padding (asserted where it is defined).
#[cfg(feature = "user")]
unsafe impl aya::Pod for config::Listener {}
// SAFETY: `#[repr(C)]`, integers only, no padding (asserted where it is defined).
#[cfg(feature = "user")]
unsafe impl aya::Pod for tally::Failure {}
// SAFETY: `#[repr(C)]`, `u64` fields only.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Counters {}
