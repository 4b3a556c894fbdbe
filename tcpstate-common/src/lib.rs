//! The ABI between the BPF programs (`tcpstate-ebpf`) and their readers (`tcpstate-capture`, `tcpstate-core`).
//!
//! Both sides compile this crate, so each type that crosses the kernel boundary is defined once: the record
//! in the ring buffer ([`Record`]), the per-CPU counters ([`Counters`]), the configuration that is fixed at
//! load time ([`Config`]), the counts kept in the kernel where nothing is streamed ([`tally`]), and the TCP
//! states ([`State`]). So is each rule that both sides apply: the meaning of a transition ([`transition`]),
//! the filters on ports and addresses ([`filter`]), and the buckets for durations
//! ([`buckets`]).
//!
//! Only types that cross that boundary and rules that hold on both sides of it belong here. Nothing here
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
pub use counters::{Counters, PerCpu};
pub use record::Record;
pub use state::State;

// SAFETY: `#[repr(C)]`, integers only, no padding (asserted at its definition).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Config {}
// SAFETY: `#[repr(C)]`, integers only, no padding (asserted at its definition).
#[cfg(feature = "user")]
unsafe impl aya::Pod for config::Listener {}
// SAFETY: `#[repr(C)]`, integers only, no padding (asserted at its definition).
#[cfg(feature = "user")]
unsafe impl aya::Pod for tally::Failure {}
// SAFETY: `#[repr(C)]`, `u64` fields only.
#[cfg(feature = "user")]
unsafe impl aya::Pod for PerCpu {}
